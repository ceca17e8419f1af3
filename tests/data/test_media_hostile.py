"""Broken and hostile files end as frames or as a SampleError with a reason, never as anything else."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from shards_media import write_clip
from test_media_codecs import encode

from vtrap_data.errors import Reason, SampleError
from vtrap_data.media import decode as decode_module
from vtrap_data.media import images, jpeg
from vtrap_data.media import probe as probe_module
from vtrap_data.media.container import Packets
from vtrap_data.media.decode import decode, luma
from vtrap_data.media.probe import probe
from vtrap_data.media.select import pool_frames

HOSTILE = {Reason.CORRUPT, Reason.NOT_MEDIA, Reason.NO_VIDEO, Reason.EMPTY, Reason.TOO_LARGE}


@pytest.fixture(scope="module")
def sound(tmp_path_factory: pytest.TempPathFactory) -> dict[str, bytes]:
    """Small real clips: the index of the MP4 lies at its end, that of the other at its start."""
    folder = tmp_path_factory.mktemp("sound")
    made = {
        "mp4": write_clip(folder / "a.mp4", frames=24),
        "webm": encode(folder / "a.webm", codec="libvpx-vp9", n=24, options={"deadline": "realtime", "cpu-used": "8"}),
        "ts": encode(folder / "a.ts", codec="mpeg2video", n=24),
        "avi": encode(folder / "a.avi", codec="mpeg4", n=24),
    }
    return {kind: path.read_bytes() for kind, path in made.items()}


def read(path: Path) -> tuple[Reason | None, int]:
    """What packing does with a file: None and the number of frames, or the reason to set it aside."""
    try:
        info = probe(path)
        assert info.pts[0] == 0
        assert (np.diff(info.pts) > 0).all()
        assert info.duration > info.pts[-1]
        pool = pool_frames(info.pts, info.duration, slots=16)
        frames = decode(info, pool.tolist(), short_side=32)
        assert len(frames) == len(set(pool.tolist()))
        assert len({image.size for image in frames.images}) == 1
        for image in frames.images:
            luma(image)
            jpeg.encode(image)
    except SampleError as error:
        assert str(path) == error.sample
        return error.reason, 0
    return None, len(frames)


@pytest.mark.parametrize("kind", ["mp4", "webm", "ts", "avi"])
@given(data=st.data())
@settings(max_examples=30, deadline=None, derandomize=True)
def test_a_file_that_ends_anywhere(
    sound: dict[str, bytes], tmp_path_factory: pytest.TempPathFactory, kind: str, data: st.DataObject
) -> None:
    whole = sound[kind]
    path = tmp_path_factory.getbasetemp() / f"cut.{kind}"
    path.write_bytes(whole[: data.draw(st.integers(0, len(whole)))])
    reason, _ = read(path)
    assert reason is None or reason in HOSTILE


@pytest.mark.parametrize("kind", ["mp4", "webm", "ts", "avi"])
@given(data=st.data())
@settings(max_examples=30, deadline=None, derandomize=True)
def test_a_file_with_wrong_bytes(
    sound: dict[str, bytes], tmp_path_factory: pytest.TempPathFactory, kind: str, data: st.DataObject
) -> None:
    whole = bytearray(sound[kind])
    # Half of the damage goes where the structure is: headers at the front, the index of an MP4 at the back.
    places = st.one_of(
        st.integers(0, len(whole) - 1), st.integers(0, 200), st.integers(len(whole) - 1200, len(whole) - 1)
    )
    for place, value in data.draw(st.lists(st.tuples(places, st.integers(0, 255)), min_size=1, max_size=12)):
        whole[place] = value
    path = tmp_path_factory.getbasetemp() / f"flipped.{kind}"
    path.write_bytes(whole)
    reason, _ = read(path)
    assert reason is None or reason in HOSTILE


def test_the_damage_is_real(sound: dict[str, bytes], tmp_path: Path) -> None:
    """The properties above would hold of harmless damage, too: some of it must cost the file, some must not."""
    outcomes: list[Any] = []
    for share in (0.0, 0.05, 0.5, 0.95, 1.0):
        (tmp_path / "a.webm").write_bytes(sound["webm"][: int(share * len(sound["webm"]))])
        outcomes.append(read(tmp_path / "a.webm"))
    assert outcomes[0][0] is Reason.EMPTY
    assert outcomes[-1] == (None, 16)
    assert None in [reason for reason, _ in outcomes[2:4]]
    (tmp_path / "a.mp4").write_bytes(sound["mp4"][:-400])
    assert read(tmp_path / "a.mp4")[0] is not None


@given(data=st.data())
@settings(max_examples=60, deadline=None, derandomize=True)
def test_an_image_with_wrong_bytes_or_cut_off(data: st.DataObject) -> None:
    whole = bytearray(PICTURES[data.draw(st.sampled_from(sorted(PICTURES)))])
    for place, value in data.draw(
        st.lists(st.tuples(st.integers(0, len(whole) - 1), st.integers(0, 255)), max_size=8)
    ):
        whole[place] = value
    cut = bytes(whole[: data.draw(st.integers(0, len(whole)))])
    try:
        assert images.load_image(cut, name="x").mode == "RGB"
    except SampleError as error:
        assert error.reason in HOSTILE


def _pictures() -> dict[str, bytes]:
    import io

    from PIL import Image

    picture = Image.fromarray(np.random.default_rng(0).integers(0, 255, (30, 40, 3), dtype=np.uint8))
    made = {}
    for kind in ("JPEG", "PNG", "WEBP", "GIF", "BMP", "TIFF"):
        buffer = io.BytesIO()
        picture.save(buffer, kind)
        made[kind] = buffer.getvalue()
    return made


PICTURES = _pictures()


@pytest.mark.parametrize("times", [(-(1 << 62), 1 << 62), (0, 1 << 60, (1 << 60) + 1)])
def test_impossible_times_are_a_reason(
    sound: dict[str, bytes], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, times: tuple[int, ...]
) -> None:
    pts = np.array(times, dtype=np.int64)
    keys, sums = np.ones(len(pts), dtype=np.bool_), np.zeros(len(pts), dtype=np.uint32)
    few = Packets(pts=pts, dts=pts, durations=np.ones_like(pts), keys=keys, sums=sums)
    original = probe_module.read_packets
    monkeypatch.setattr(probe_module, "read_packets", lambda *given: (original(*given), few)[1])
    (tmp_path / "a.mp4").write_bytes(sound["mp4"])
    assert read(tmp_path / "a.mp4")[0] is Reason.CORRUPT


@pytest.mark.parametrize("error", [ValueError, OverflowError, IndexError, av.error.InvalidDataError])
def test_what_the_decoder_raises_is_a_reason(
    sound: dict[str, bytes], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, error: type[Exception]
) -> None:
    def fail(*_: object) -> None:
        raise error(1, "odd")

    monkeypatch.setattr(decode_module._Painter, "__call__", fail)
    (tmp_path / "a.mp4").write_bytes(sound["mp4"])
    assert read(tmp_path / "a.mp4")[0] is Reason.CORRUPT
