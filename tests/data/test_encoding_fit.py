"""pack --fit: stored frames have a size that the model takes as it is, whatever the video and the number of frames."""

from __future__ import annotations

import copy
import math
from pathlib import Path
from typing import Any

import pytest
from encoding_families import Kit, build
from hypothesis import given, settings
from hypothesis import strategies as st
from shards_media import SMALL, write_corpus

from vtrap_data.__main__ import main
from vtrap_data.encoding import encode, family_of, fit_of, qwen2_vl, qwen3_vl
from vtrap_data.errors import UsageError
from vtrap_data.loading.dataset import PackedDataset
from vtrap_data.media.size import Fit, Size, stored_size
from vtrap_data.shards.manifest import read_manifest


@pytest.fixture(scope="module", params=["qwen2_vl", "qwen2_5_vl", "qwen3_vl"])
def kit(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Kit:
    return build(request.param, tmp_path_factory.mktemp(request.param))


def shown_at(processor: Any, frames: int, size: Size) -> Size:
    """The size to which the model scales: of its grid, which other tests hold against its own processor."""
    side = processor.video_processor.patch_size
    grid = (qwen3_vl if family_of(processor).name == "qwen3_vl" else qwen2_vl).video_grid(frames, size, processor)
    return Size(grid.w * side, grid.h * side)


@settings(max_examples=300, deadline=None)
@given(
    size=st.builds(Size, st.integers(16, 2000), st.integers(16, 2000)),
    short_side=st.sampled_from([None, 64, 448, 720]),
    most=st.integers(1, 64),
    least=st.sampled_from([1, 16, 128]),
    cap=st.booleans(),
    data=st.data(),
)
def test_the_model_scales_no_frame_that_was_fitted(
    kit: Kit, size: Size, short_side: int | None, most: int, least: int, cap: bool, data: st.DataObject
) -> None:
    processor = copy.copy(kit.processor)
    processor.video_processor = p = copy.copy(kit.processor.video_processor)
    unit = (p.patch_size * p.merge_size) ** 2
    p.size = {"shortest_edge": least * unit, "longest_edge": 768 * unit}
    p.cap_pixels_per_frame, p.max_video_tokens = cap, data.draw(st.sampled_from([768, 20_000]))
    try:
        fit = fit_of(processor, model="m", frames=most)
    except UsageError as error:
        assert f"--fit m, {most} frames: no frame is a multiple of" in str(error)
        bounds = family_of(processor).frame_bounds(most, processor)
        assert bounds.least > bounds.most
        return
    plain, found = stored_size(size, short_side=short_side), stored_size(size, short_side=short_side, fit=fit)
    frames = data.draw(st.integers(1, most))
    whole = p.size["shortest_edge"] / max(2, frames // 2 * 2) if kit.name == "qwen3_vl" else 0
    frames = frames if found.width * found.height >= whole else most
    if found.width % fit.multiple or found.height % fit.multiple or not fit.least <= math.prod(found) <= fit.most:
        assert found == plain  # smaller than anything the model looks at, or too long, or its bounds are too close
        assert plain.width * plain.height < 2 * fit.least or max(plain) > 10 * min(plain) or fit.most < 2 * fit.least
    else:
        assert shown_at(processor, frames, found) == found
        without = shown_at(processor, most, plain)  # what the model would have made of it
        steps = max(abs(found.width - without.width), abs(found.height - without.height)) / fit.multiple
        if kit.name != "qwen3_vl":
            assert steps == 0
        elif most % 2 == 0:
            assert steps <= 1  # its bounds are the whole video's, and are rounded here


def test_a_fitted_pack_is_never_scaled_again(kit: Kit, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    source, out = write_corpus(tmp_path / "source"), tmp_path / "out"
    pack = ["pack", str(source), "--out", str(out), *SMALL]
    assert main([*pack, "--fit", str(kit.folder)]) == 0
    fit = read_manifest(out).settings.fit
    assert fit == fit_of(kit.processor, model=str(kit.folder), frames=16)
    said = capsys.readouterr().err
    assert f"a size that {kit.folder} takes as it is: multiples of {fit.multiple}, up to {fit.most} pixels" in said
    videos = [example for example in PackedDataset(out) if example.frames is not None]
    for example in videos:
        assert example.frames is not None
        size = Size(*example.frames.images[0].size)
        assert size != (96, 64) and shown_at(kit.processor, len(example.frames), size) == size
        assert encode(example, kit.processor, train=False).visual_tokens > 0
    assert len(videos) == 7
    assert main(["doctor", str(out), "--deep", str(kit.folder)]) == 0
    assert main([*pack, "--fit", str(kit.folder)]) == 0 and "nothing to do" in capsys.readouterr().out
    assert main(pack) == 2 and "other settings (fit" in capsys.readouterr().err


@pytest.mark.parametrize("name", ["llava", "llava_next_video", "llava_onevision"])
def test_families_that_scale_every_frame_are_told(name: str, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=f"--fit m: {name} scales or cuts every frame to one size"):
        fit_of(build(name, tmp_path).processor, model="m", frames=8)


def test_a_fit_that_no_frame_has_is_refused() -> None:
    with pytest.raises(ValueError, match="no frame is a multiple of 28"):
        Fit(model="m", multiple=28, least=0, most=28 * 28 - 1)
