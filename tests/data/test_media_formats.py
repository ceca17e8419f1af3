"""Each codec with each oddity: the frames asked for are, before JPEG, those of decoding the whole file in order.

At their own size, and scaled down in the same pass.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import av
import numpy as np
import pytest
from hostile_files import FAST, FRAGMENTS, broken_start, clip, edited, edits, made
from PIL import Image

from vtrap_data.errors import Reason, SampleError
from vtrap_data.media import decode as decode_module
from vtrap_data.media.container import open_video
from vtrap_data.media.decode import decode
from vtrap_data.media.probe import probe
from vtrap_data.media.select import pool_frames
from vtrap_data.media.whole import missing_bytes

SHORT = 33
"""Short side in pixels of the scaled frames: odd, and not a whole fraction of any clip's."""
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


def copied(path: Path) -> None:
    """10-bit VP9 of 97x63, which the libvpx inside PyAV cannot encode. Another build of FFmpeg made the file:

    ffmpeg -f lavfi -i "testsrc=size=97x63:rate=25:duration=1.6,scale=97:63,format=yuv420p10le" -c:v libvpx-vp9
        -profile:v 2 -deadline good -cpu-used 4 -crf 50 -b:v 0 -g 8 -fflags +bitexact -map_metadata -1 vp9_10_bit.webm
    """
    shutil.copy(Path(__file__).parents[1] / "fixtures/media/vp9_10_bit.webm", path)


def made_with_edits(*parts: tuple[int, int]) -> Callable[[Path], object]:
    """40 frames of which an edit list shows these: first frame and number of frames of each part."""
    return lambda path: path.write_bytes(edits(clip(path, n=40), parts))


ODDITIES: dict[str, tuple[str, dict[str, object]]] = {
    "variable frame rate": (".mkv", {"times": VFR}),
    "variable frame rate, MP4": (".mp4", {"times": VFR}),
    "start offset": (".mkv", {"times": LATE}),
    "start offset, MP4: an empty edit": (".mp4", {"times": LATE}),
    "B-frames": (".mp4", {"b": 2}),
    "odd size": (".mkv", {"size": (97, 63)}),
    "one frame": (".mp4", {"n": 1}),
    "index in front": (".mp4", {"container": FAST}),
    "no index": (".mp4", {"container": FRAGMENTS}),
    "no cues": (".mkv", {"container": {"live": "1"}}),
    "rotated": (".mp4", {"rotation": 90}),
    "one keyframe": (".mp4", {"gop": 1000}),
}
# In 4:2:0 these two count the size in pairs of pixels: an odd one cannot be written down.
FULL_COLOUR_WHERE_ODD = ("h264", "hevc")
MORE: dict[str, tuple[str, Callable[[Path], object]]] = {
    "open GOP, H.264": (".mp4", made(n=40, b=3, options={"x264-params": "open-gop=1:keyint=8:bframes=3"})),
    "open GOP, HEVC": (
        ".mkv",
        made(n=40, b=3, codec="libx265", options={"x265-params": f"{X265}:open-gop=1:bframes=3"}),
    ),
    "edit list": (".mp4", edited),
    "edit list of two entries": (".mp4", made_with_edits((6, 8), (20, 20))),
    "edit list that shows a part twice": (".mp4", made_with_edits((4, 16), (8, 24))),
    "10 bits, H.264": (".mp4", made(n=40, pixels="yuv420p10le")),
    "10 bits, HEVC": (".mp4", made(n=40, codec="libx265", pixels="yuv420p10le", options={"x265-params": X265})),
    "10 bits, VP9": (".webm", copied),
    "10 bits, AV1": (".mp4", made(n=40, codec="libsvtav1", pixels="yuv420p10le", options={"preset": "12"})),
    "bare H.264": (".h264", made(n=40, b=2)),
    "bare HEVC": (".hevc", made(n=40, codec="libx265", options={"x265-params": X265})),
    "bare VP9": (".ivf", made(n=40, codec="libvpx-vp9", options={"cpu-used": "8", "deadline": "realtime"})),
    "MPEG-TS": (".ts", made(n=40, b=2)),
    "AVI, MPEG-4": (".avi", made(n=40, codec="mpeg4", b=2)),
    "H.264 patched up at its start": (".mp4", broken_start(packets=4, share=0.5, n=40, b=2)),
}
FRAMES = {"edit list": 18, "edit list of two entries": 28, "edit list that shows a part twice": 40}
"""How many frames are shown, where it is not 40."""


class Shown(NamedTuple):
    """A frame of a plain decode: uint8 [h, w, 3], upright, at its own size and with a short side of `SHORT`."""

    full: np.ndarray
    small: np.ndarray


def plain(path: Path) -> list[Shown]:
    """Every frame, in order, each scaled by itself with a scaler of its own."""
    with av.open(str(path)) as container:
        container.streams.video[0].thread_count = 1  # how a damaged picture is patched up depends on it
        found = [(f.pts, Shown(upright(f), upright(scaled(f)))) for f in container.decode(video=0)]
    if all(pts is not None for pts, _ in found):
        found.sort(key=lambda one: one[0])  # out of a damaged stream, frames come unsorted
    return [shown for _, shown in found]


def scaled(frame: Any) -> Any:
    short = min(frame.width, frame.height)
    size = {"width": round(frame.width * SHORT / short), "height": round(frame.height * SHORT / short)}
    if frame.format.name in ("yuv420p", "yuvj420p"):  # these are scaled as they are: see `select.FRAMES_VERSION`
        frame = frame.reformat(**size, interpolation="BICUBIC")
    return frame.reformat(**size, format="rgb24", interpolation="BICUBIC")


def upright(frame: Any) -> np.ndarray:
    return np.rot90(frame.to_ndarray(format="rgb24", interpolation="BICUBIC"), frame.rotation // 90)


def assert_same(path: Path, chosen: Sequence[int], pictures: Sequence[Shown]) -> None:
    wanted = sorted(set(chosen))
    info = probe(path)
    for image, index in zip(decode(info, chosen, short_side=None).images, wanted, strict=True):
        np.testing.assert_array_equal(np.asarray(image), pictures[index].full)
    for image, index in zip(decode(info, chosen, short_side=SHORT).images, wanted, strict=True):
        np.testing.assert_array_equal(np.asarray(image), pictures[index].small)


def assert_scaled_as_others_do(shown: Shown) -> None:
    """By another library's bicubic scaler: nearly the same picture, neither shifted nor in other colours."""
    size = shown.small.shape[1::-1]
    other = np.asarray(Image.fromarray(shown.full).resize(size, Image.Resampling.BICUBIC), dtype=int)
    near = np.abs(other - shown.small).mean()
    for wrong in (np.roll(other, 1, axis=0), np.roll(other, 1, axis=1), other[..., ::-1]):
        assert near < 0.75 * np.abs(wrong - shown.small).mean()


def check(path: Path, seed: int = 0) -> int:
    """Compare some choices with a decode of the whole; returns the number of frames."""
    info, pictures = probe(path), plain(path)
    n = len(pictures)
    assert len(info.pts) == n
    assert (np.diff(info.pts) > 0).all()
    assert min(pictures[0].small.shape[:2]) == SHORT < min(info.width, info.height)
    assert_scaled_as_others_do(pictures[n // 2])
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
    if oddity == "odd size" and codec in FULL_COLOUR_WHERE_ODD:
        options = {**options, "pixels": "yuv444p"}
    clip(path, **{"n": 40, **CODECS[codec], **options})  # type: ignore[arg-type]
    assert check(path) == options.get("n", 40)
    assert (probe(path).width, probe(path).height) == (
        options.get("size", (96, 64)) if oddity != "rotated" else (64, 96)
    )


@pytest.mark.parametrize("name", MORE)
def test_more_formats(tmp_path: Path, name: str) -> None:
    suffix, make = MORE[name]
    path = tmp_path / f"a{suffix}"
    make(path)
    assert check(path) == FRAMES.get(name, 40)
    if name.startswith("10 bits"):
        with av.open(str(path)) as container:
            assert container.streams.video[0].pix_fmt == "yuv420p10le"


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
    with av.open(str(path)) as container:
        pictures = [upright(frame) for frame in container.decode(video=0)]
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
    info, pictures = probe(path), plain(path)
    for index in (0, 9, 13, 39):
        (image,) = decode(info, [index], short_side=None).images
        np.testing.assert_array_equal(np.asarray(image), pictures[index].full)


@pytest.mark.parametrize("suffix", [".mp4", ".mkv"])
def test_a_start_of_noise_costs_its_own_frames_only(tmp_path: Path, suffix: str) -> None:
    """What a plain decode still gives is the same here; what it does not give is said, and no other frame is given."""
    path = tmp_path / f"a{suffix}"
    broken_start(packets=3, share=0, n=40, b=2)(path)
    pictures: dict[int, np.ndarray] = {}
    with av.open(str(path)) as container:
        stream = container.streams.video[0]
        stream.thread_count = 1
        for packet in container.demux(stream):
            try:
                frames = stream.codec_context.decode(packet if packet.size else None)
            except av.FFmpegError:
                continue
            pictures |= {round(frame.pts * stream.time_base * 25): upright(frame) for frame in frames}
    assert 0 < min(pictures) < 10
    assert max(pictures) == 39
    info = probe(path)
    assert len(info.pts) == 40
    for index in range(40):
        if index in pictures:
            (image,) = decode(info, [index], short_side=None).images
            np.testing.assert_array_equal(np.asarray(image), pictures[index])
        else:
            with pytest.raises(SampleError, match="1 of 1 frames cannot be decoded") as caught:
                decode(info, [index], short_side=None)
            assert caught.value.reason is Reason.CORRUPT


@pytest.mark.parametrize("suffix", [".avi", ".mkv", ".webm"])
def test_what_a_container_states_is_its_length(tmp_path: Path, suffix: str) -> None:
    """Whole files last as long as they say, wherever they start; the rest of a cut one is missed."""
    path = tmp_path / f"a{suffix}"
    form = {".avi": CODECS["mpeg4"], ".mkv": {"times": LATE}, ".webm": CODECS["vp9"]}[suffix]
    data = clip(path, **{"n": 40, **form})  # type: ignore[arg-type]
    whole = probe(path)
    assert whole.stated == pytest.approx(whole.duration, abs=2e-3) == pytest.approx(1.6, abs=2e-3)
    path.write_bytes(data[: len(data) // 2])
    assert probe(path).duration < probe(path).stated - 0.1 == pytest.approx(1.5, abs=2e-3)


def missing_of(path: Path, data: bytes) -> int:
    """Of a file with these bytes, in the container that FFmpeg takes it for."""
    path.write_bytes(data)
    with open_video(path) as (opened, _):
        return missing_bytes(path, opened.format.name)


@pytest.mark.parametrize("container", [FAST, FRAGMENTS])
def test_what_is_cut_off_an_mp4_is_missing(tmp_path: Path, container: dict[str, str]) -> None:
    """To the byte; and nothing is where it ends between two boxes, where no box follows, or one that has no end."""
    path = tmp_path / "a.mp4"
    missing = partial(missing_of, path)
    data = clip(path, n=40, container=container)
    assert probe(path).missing == 0
    start = data.rindex(b"mdat") - 4  # of the last frames; what follows in a fragmented file holds none
    end = start + int.from_bytes(data[start : start + 4], "big")
    for gone in (1, 100, end - start - 8):
        assert missing(data[: end - gone]) == gone
    assert missing(data[:end]) == 0 == missing(data[: start + 7])
    for junk in (b"\0", b"\xff" * 40, b"\x7f\xff\xff\xffjunk"):
        assert missing(data + junk) == 0
    if container is FAST:
        assert missing(data[:start] + bytes(4) + data[start + 4 :]) == 0
        wide = (1).to_bytes(4, "big") + b"mdat" + (end - start + 8).to_bytes(8, "big")
        assert missing(data[:start] + wide + data[start + 8 : end - 5]) == 5
    path.write_bytes(data[: end - 1])
    assert probe(path).missing == 1


def test_what_is_cut_off_matroska_and_avi_is_missing(tmp_path: Path) -> None:
    """To the byte, but for the 8 by which AVI writers differ; nothing of a recording that does not know its end."""

    def missing(name: str, data: bytes) -> int:
        return missing_of(tmp_path / name, data)

    avi, mkv = (clip(tmp_path / f"a{suffix}", n=40, **form) for suffix, form in WHOLE.items())
    for data, name in ((avi, "b.avi"), (mkv, "b.mkv")):
        for gone in (9, 100, len(data) // 2):
            assert missing(name, data[:-gone]) == gone
        for rest in (b"", b"junk", b"RIFF", bytes(40)):
            assert missing(name, data + rest) == 0
    assert missing("b.mkv", mkv[:-1]) == 1
    assert missing("b.avi", avi[:-8]) == 0
    # A second chunk, as programs append one for every gigabyte.
    assert missing("b.avi", avi + b"RIFF" + (1000).to_bytes(4, "little") + b"AVIX" + bytes(900)) == 96
    place = mkv.index(b"\x18\x53\x80\x67") + 4
    assert mkv[place] == 1  # a size of 8 bytes
    assert missing("b.mkv", mkv[:place] + b"\x01" + b"\xff" * 7 + mkv[place + 8 : -500]) == 0


def test_what_is_cut_off_gif_and_mpeg_ts_is_missing(tmp_path: Path) -> None:
    """Somewhere in a block, a table of colours or a packet; not where the file ends in what is no block."""
    path = tmp_path / "a"

    def missing(container: str, data: bytes) -> int:
        path.write_bytes(data)
        return missing_bytes(path, container)

    ts = clip(tmp_path / "a.ts", codec="mpeg2video")
    assert len(ts) % 188 == 0 == missing("mpegts", ts) == missing("mpegts", ts[:-188])
    assert [missing("mpegts", ts[:-gone]) for gone in (1, 100, 187)] == [1, 100, 187]
    wide = b"".join(bytes(4) + ts[place : place + 188] for place in range(0, len(ts), 188))
    assert missing("mpegts", wide) == 0 and missing("mpegts", wide[:-30]) == 30
    assert missing("mpegts", b"no packets" * 100) == 0

    gif = clip(tmp_path / "a.gif", codec="gif", pixels="rgb8", n=8)
    assert missing("gif", gif) == missing("gif", gif + b"behind its end") == missing("gif", gif[:-1] + b"\x99") == 0
    for end in {*range(1000), *np.random.default_rng(0).integers(0, len(gif), 500).tolist()}:
        assert missing("gif", gif[:end]) > 0
    own = b"GIF89a" + bytes(7) + b"\x2c" + bytes(8) + b"\x81" + bytes(12) + b"\x02\x01\x00\x00" + b"\x3b"
    assert missing("gif", own) == 0  # four colours of its own
    assert [missing("gif", own[:end]) for end in (5, 20, 30, len(own) - 1)] == [8, 1, 6, 1]


WHOLE: dict[str, dict[str, object]] = {".avi": CODECS["mpeg4"], ".mkv": {}}


def test_a_length_that_is_no_length_is_none(tmp_path: Path) -> None:
    path = tmp_path / "a.mkv"
    data = clip(path, n=8)
    assert data.count(b"00:00:00.320000000") == 1
    for text in (b"00:00:nan.32000000", b"999999999:00:00.00", b"\xff" * 18, b"-1:00:00.320000000"):
        assert len(text) == 18
        path.write_bytes(data.replace(b"00:00:00.320000000", text))
        assert probe(path).stated == 0


def coded_frames(path: Path) -> dict[int, bool]:
    """The frames of an H.264 MP4 in the order of decoding: number in the order of showing, and whether another frame
    may refer to it (nal_ref_idc is not 0)."""
    referred = {}
    with av.open(str(path)) as container:
        for packet in container.demux(video=0):
            data, place, any_refers = bytes(packet), 0, False
            while place < len(data):
                head = data[place + 4]
                any_refers |= head & 0x1F in (1, 5) and head >> 5 & 3 > 0
                place += 4 + int.from_bytes(data[place : place + 4], "big")
            if data:
                referred[packet.pts] = any_refers
    order = {pts: number for number, pts in enumerate(sorted(referred))}
    return {order[pts]: any_refers for pts, any_refers in referred.items()}


def test_frames_that_no_other_refers_to_are_not_decoded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Counted at the decoder's end: within one group of pictures, only what wanted frames need comes out of it."""
    path = tmp_path / "a.mp4"
    clip(path, n=41, gop=1000, b=3, options={"x264-params": "b-adapt=0:scenecut=0"})
    coded = coded_frames(path)
    free = [number for number, referred in coded.items() if not referred]
    assert probe(path).packets.keys.sum() == 1
    assert len(coded) == 41
    assert len(free) >= 19
    wanted = [free[7], free[-1]]  # two that nothing refers to, the last of them in decoding
    before = list(coded)[: list(coded).index(wanted[1]) + 1]
    assert len(before) >= 40
    needed = [number for number in before if coded[number] or number in wanted]
    order = np.sort(probe(path).packets.pts).tolist()
    given: list[int] = []
    original = decode_module._keep

    def counted(frames: list[Any], *rest: Any) -> None:
        given.extend(order.index(frame.pts) for frame in frames)
        original(frames, *rest)

    monkeypatch.setattr(decode_module, "_keep", counted)
    assert_same(path, wanted, plain(path))
    assert sorted(given) == sorted(2 * needed)  # at both sizes
    given.clear()
    monkeypatch.setattr(decode_module, "_SKIPS_NONREF", frozenset())
    assert_same(path, wanted, plain(path))
    assert sorted(given) == sorted(2 * before), "the count would not show that nothing is left out"
