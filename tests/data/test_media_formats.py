"""Each codec with each oddity: the frames asked for are, before JPEG, those of decoding the whole file in order."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hostile_files import FAST, FRAGMENTS, clip, edited, made
from test_media_codecs import assert_same

from vtrap_data.media import decode as decode_module
from vtrap_data.media.decode import decode
from vtrap_data.media.probe import probe
from vtrap_data.media.select import pool_frames

X265 = "log-level=none:keyint=8"
CODECS: dict[str, dict[str, object]] = {
    "h264": {"codec": "libx264"},
    "hevc": {"codec": "libx265", "options": {"x265-params": X265}},
    "vp9": {"codec": "libvpx-vp9", "options": {"deadline": "realtime", "cpu-used": "8"}},
    "av1": {"codec": "libsvtav1", "options": {"preset": "12", "svtav1-params": "lp=1"}},
    "mpeg4": {"codec": "mpeg4"},
}
VFR = np.cumsum([0, *np.random.default_rng(3).integers(10, 300, 39)]).tolist()
LATE = [5_000 + 40 * i for i in range(40)]

ODDITIES: dict[str, tuple[str, dict[str, object]]] = {
    "variable frame rate": (".mkv", {"times": VFR}),
    "variable frame rate, MP4": (".mp4", {"times": VFR}),
    "start offset": (".mkv", {"times": LATE}),
    "B-frames": (".mp4", {"b": 2}),
    "odd size": (".mkv", {"size": (98, 62)}),
    "one frame": (".mp4", {"n": 1}),
    "index in front": (".mp4", {"container": FAST}),
    "no index": (".mp4", {"container": FRAGMENTS}),
    "no cues": (".mkv", {"container": {"live": "1"}}),
    "rotated": (".mp4", {"rotation": 90}),
    "one keyframe": (".mp4", {"gop": 1000}),
}
MORE: dict[str, tuple[str, Callable[[Path], object]]] = {
    "open GOP, H.264": (".mp4", made(n=40, b=3, options={"x264-params": "open-gop=1:keyint=8:bframes=3"})),
    "open GOP, HEVC": (
        ".mkv",
        made(n=40, b=3, codec="libx265", options={"x265-params": f"{X265}:open-gop=1:bframes=3"}),
    ),
    "edit list": (".mp4", edited),
    "10 bits, H.264": (".mp4", made(n=40, pixels="yuv420p10le")),
    "10 bits, HEVC": (".mp4", made(n=40, codec="libx265", pixels="yuv420p10le", options={"x265-params": X265})),
    "10 bits, AV1": (".mp4", made(n=40, codec="libsvtav1", pixels="yuv420p10le", options={"preset": "12"})),
    "bare H.264": (".h264", made(n=40, b=2)),
    "bare HEVC": (".hevc", made(n=40, codec="libx265", options={"x265-params": X265})),
    "bare VP9": (".ivf", made(n=40, codec="libvpx-vp9", options={"cpu-used": "8", "deadline": "realtime"})),
    "MPEG-TS": (".ts", made(n=40, b=2)),
    "AVI, MPEG-4": (".avi", made(n=40, codec="mpeg4", b=2)),
}


def reference(path: Path) -> list[np.ndarray]:
    import av

    with av.open(str(path)) as container:
        return [
            np.rot90(frame.to_ndarray(format="rgb24", interpolation="BICUBIC"), frame.rotation // 90)
            for frame in container.decode(video=0)
        ]


def check(path: Path, seed: int = 0) -> int:
    """Compare some choices with a decode of the whole; returns the number of frames."""
    info, pictures = probe(path), reference(path)
    n = len(pictures)
    assert len(info.pts) == n
    assert (np.diff(info.pts) > 0).all()
    chance = np.random.default_rng(seed)
    for chosen in ([0], [n - 1], chance.integers(0, n, 5).tolist()):
        assert_same(path, chosen, pictures)
    assert_same(path, pool_frames(info.pts, info.duration, slots=64).tolist(), pictures)
    return n


@pytest.mark.parametrize("oddity", ODDITIES)
@pytest.mark.parametrize("codec", CODECS)
def test_every_codec_with_every_oddity(tmp_path: Path, codec: str, oddity: str) -> None:
    suffix, options = ODDITIES[oddity]
    path = tmp_path / f"a{suffix}"
    clip(path, **{"n": 40, **CODECS[codec], **options})  # type: ignore[arg-type]
    assert check(path) == options.get("n", 40)


@pytest.mark.parametrize("name", MORE)
def test_more_formats(tmp_path: Path, name: str) -> None:
    suffix, make = MORE[name]
    path = tmp_path / f"a{suffix}"
    make(path)
    assert check(path) == (18 if name == "edit list" else 40)


def test_times_are_those_of_the_encoder(tmp_path: Path) -> None:
    for suffix, tick in ((".mkv", 1.1e-3), (".mp4", 1e-3)):
        clip(tmp_path / f"a{suffix}", n=40, times=VFR)
        np.testing.assert_allclose(probe(tmp_path / f"a{suffix}").pts, np.array(VFR) / 1000, atol=tick)
    clip(tmp_path / "late.mkv", n=40, times=LATE)
    np.testing.assert_allclose(probe(tmp_path / "late.mkv").pts, np.arange(40) * 0.04, atol=1.1e-3)


def test_two_hours_at_one_frame_per_second(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """7200 frames: the right ones, and only what is needed to get at them is decoded."""
    path = tmp_path / "long.mp4"
    options = {"preset": "ultrafast", "x264-params": "bframes=3:b-adapt=0"}
    clip(path, n=7200, size=(64, 48), gop=60, b=3, options=options, times=[1000 * i for i in range(7200)])
    info = probe(path)
    assert len(info.pts) == 7200
    assert info.duration == pytest.approx(7200, abs=1)
    chosen = pool_frames(info.pts, info.duration, slots=64).tolist()
    assert len(set(chosen)) == 64
    decoded = 0
    original = decode_module._keep

    def counted(frames: list[object], *rest: object) -> None:
        nonlocal decoded
        decoded += len(frames)
        original(frames, *rest)  # type: ignore[arg-type]

    with monkeypatch.context() as patch:
        patch.setattr(decode_module, "_keep", counted)
        found = decode(info, chosen, short_side=None)
    assert decoded < 7200 / 2, "most of it was decoded"
    pictures = reference(path)
    for image, index in zip(found.images, chosen, strict=True):
        np.testing.assert_array_equal(np.asarray(image), pictures[index])


def test_times_that_change_after_a_seek_are_noticed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """In an MPEG program stream with times on some packets only, FFmpeg guesses the rest, and after a seek otherwise.

    Found on a real clip, of which a B-frame had been taken for its neighbour.
    """
    path = tmp_path / "a.mkv"
    clip(path, n=40, b=2)
    original = decode_module.demux

    def shifted(container: object, stream: object) -> Iterator[Any]:
        for packet in original(container, stream):
            packet.pts -= 40  # a frame, in Matroska's milliseconds
            yield packet

    monkeypatch.setattr(decode_module, "demux", shifted)
    info, pictures = probe(path), reference(path)
    for index in (0, 9, 13, 39):
        (image,) = decode(info, [index], short_side=None).images
        np.testing.assert_array_equal(np.asarray(image), pictures[index])
