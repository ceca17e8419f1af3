"""Codecs, containers and cuts beyond everyday H.264: the frames of a plain decode, at the right times."""

from __future__ import annotations

import struct
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest

from vtrap_data.errors import Reason, SampleError
from vtrap_data.media import files
from vtrap_data.media.decode import decode
from vtrap_data.media.probe import probe
from vtrap_data.media.select import pool_frames

VPX = {"deadline": "good", "cpu-used": "8", "auto-alt-ref": "1", "lag-in-frames": "25"}
AV1 = {"preset": "12", "svtav1-params": "lp=1"}
X265_10 = {"x265-params": "log-level=none:keyint=12:open-gop=1"}

CLIPS: dict[str, dict[str, Any]] = {
    "vp8.webm": {"codec": "libvpx", "options": VPX},
    "vp9.webm": {"codec": "libvpx-vp9", "options": VPX},
    "vp9.mp4": {"codec": "libvpx-vp9", "options": VPX},
    "vp9_odd.webm": {"codec": "libvpx-vp9", "options": VPX, "size": (97, 63)},
    "av1.mp4": {"codec": "libsvtav1", "options": AV1},
    "av1.webm": {"codec": "libsvtav1", "options": AV1},
    "hevc_10_bit.mp4": {"codec": "libx265", "options": X265_10, "pixels": "yuv420p10le"},
    "h264_10_bit.mp4": {"codec": "libx264", "pixels": "yuv420p10le"},
    "h264_odd.mp4": {"codec": "libx264", "pixels": "yuv444p", "size": (97, 63)},
    "mpeg2.ts": {"codec": "mpeg2video"},
    "mpeg2.mpg": {"codec": "mpeg2video"},
    "mpeg4.mkv": {"codec": "mpeg4"},
    "mjpeg.avi": {"codec": "mjpeg", "pixels": "yuvj420p"},
    "slow.mp4": {"codec": "libx264", "rate": 1, "n": 400, "gop": 50},
    "one.webm": {"codec": "libvpx-vp9", "options": VPX, "n": 1},
}


def encode(
    path: Path,
    *,
    codec: str,
    n: int = 61,
    size: tuple[int, int] = (96, 64),
    rate: int = 25,
    pixels: str = "yuv420p",
    options: dict[str, str] | None = None,
    gop: int = 12,
) -> Path:
    try:
        av.Codec(codec, "w")
    except av.codec.codec.UnknownCodecError:
        pytest.skip(f"this PyAV cannot encode {codec}")
    width, height = size
    ground = np.random.default_rng(0).integers(0, 255, (height, width, 3), dtype=np.uint8)
    with av.open(str(path), "w") as container:
        stream = container.add_stream(codec, rate=rate, options=options or {})
        stream.width, stream.height, stream.pix_fmt = width, height, pixels
        stream.codec_context.gop_size = gop
        for i in range(n):
            picture = ground.copy()
            y, x = (i * 2) % height, (i * 3) % width
            picture[y : y + 16, x : x + 16] = (i * 4 % 255, 255 - i * 4 % 255, 128)
            frame = av.VideoFrame.from_ndarray(picture, format="rgb24")
            frame.pts, frame.time_base = i, Fraction(1, rate)
            container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
    return path


@pytest.fixture(scope="module")
def clips(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("clips")


def clip(folder: Path, name: str) -> Path:
    path = folder / name
    return path if path.exists() else encode(path, **CLIPS[name])


def reference(path: Path) -> list[np.ndarray[Any, Any]]:
    with av.open(str(path)) as container:
        return [f.to_ndarray(format="rgb24", interpolation="BICUBIC") for f in container.decode(video=0)]


def assert_same(path: Path, chosen: list[int], pictures: list[np.ndarray[Any, Any]]) -> None:
    frames = decode(probe(path), chosen, short_side=None)
    for image, index in zip(frames.images, sorted(set(chosen)), strict=True):
        np.testing.assert_array_equal(np.asarray(image), pictures[index])


@pytest.mark.parametrize("name", CLIPS)
def test_frames_and_times_are_those_of_a_plain_decode(clips: Path, name: str) -> None:
    path = clip(clips, name)
    rate, n = CLIPS[name].get("rate", 25), CLIPS[name].get("n", 61)
    info, pictures = probe(path), reference(path)
    assert len(info.pts) == len(pictures) == n
    assert (info.width, info.height) == CLIPS[name].get("size", (96, 64))
    np.testing.assert_allclose(info.pts, np.arange(n) / rate, atol=2e-3)
    assert info.duration == pytest.approx(n / rate, abs=0.01)
    rng = np.random.default_rng(2)
    for chosen in ([0], [n - 1], [n // 2], rng.integers(0, n, 6).tolist()):
        assert_same(path, chosen, pictures)
    assert_same(path, pool_frames(info.pts, info.duration, slots=64).tolist(), pictures)


def test_frames_that_vp8_never_shows_are_no_frames(clips: Path) -> None:
    """An alternate reference frame is a packet with a time of its own and no picture."""
    path, hidden = clip(clips, "vp8.webm"), clips / "hidden.webm"
    with av.open(str(path)) as source, av.open(str(hidden), "w") as target:
        stream = source.streams.video[0]
        copy = target.add_stream_from_template(stream)
        for n, packet in enumerate(source.demux(stream)):
            if packet.size == 0:
                continue
            data = bytearray(bytes(packet))
            if n in (5, 30):
                data[0] &= ~0x10
            again = av.Packet(bytes(data))
            again.pts, again.dts, again.time_base = packet.pts, packet.dts, packet.time_base
            again.is_keyframe, again.stream = packet.is_keyframe, copy
            target.mux(again)
    info, pictures = probe(hidden), reference(hidden)
    assert len(info.pts) == len(pictures) == 59
    assert 0.2 not in info.pts.round(3)
    for chosen in ([5], [29, 30], list(range(59))):
        assert_same(hidden, chosen, pictures)


@pytest.mark.parametrize("cut", [1, 7, 13, 30])
def test_an_edit_list_that_starts_between_keyframes(clips: Path, cut: int) -> None:
    """What comes before the cut is decoded for reference only; it is not shown, has no number and no time."""
    path = clips / "uncut.mp4"
    if not path.exists():
        encode(path, codec="libx264")
    data = bytearray(path.read_bytes())
    place = data.index(b"elst")
    version, entries = data[place + 4], struct.unpack(">I", data[place + 8 : place + 12])[0]
    assert (version, entries) == (0, 1)
    start = struct.unpack(">i", data[place + 16 : place + 20])[0]
    with av.open(str(path)) as container:
        tick = container.streams.video[0].time_base
    data[place + 16 : place + 20] = struct.pack(">i", start + int(Fraction(cut, 25) / tick))
    edited = clips / f"cut{cut}.mp4"
    edited.write_bytes(data)
    info, pictures = probe(edited), reference(edited)
    whole = reference(path)
    assert len(pictures) == len(info.pts) == 61 - cut
    np.testing.assert_array_equal(pictures[0], whole[cut])
    np.testing.assert_allclose(info.pts, np.arange(61 - cut) / 25, atol=2e-3)
    for chosen in ([0], [1, 4], [61 - cut - 1], list(range(61 - cut))):
        assert_same(edited, chosen, pictures)


def test_frames_that_no_jpeg_can_hold_are_refused(clips: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = clip(clips, "mpeg4.mkv")
    monkeypatch.setattr(files, "MAX_SIDE", 95)
    with pytest.raises(SampleError, match="96x64 has a side above 95 pixels") as caught:
        probe(path)
    assert caught.value.reason is Reason.TOO_LARGE
