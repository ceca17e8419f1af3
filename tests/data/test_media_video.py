"""Probing and decoding, on clips encoded here; the reference is always a plain decode of the whole file."""

import os
from fractions import Fraction

import av
import numpy as np
import pytest

from vtrap_data.errors import Reason, SampleError
from vtrap_data.files import sha256_file
from vtrap_data.media import decode as decode_module
from vtrap_data.media import files
from vtrap_data.media.decode import decode, luma
from vtrap_data.media.probe import probe

X264_OPEN_GOP = {"x264-params": "open-gop=1:keyint=12:bframes=3"}
X265 = {"x265-params": "log-level=none:keyint=12:open-gop=1"}

CLIPS = {
    "b_frames.mp4": {},
    "b_frames.mkv": {},
    "b_frames.ts": {},
    "b_frames.avi": {},
    "open_gop.mp4": {"options": X264_OPEN_GOP},
    "open_gop.mkv": {"options": X264_OPEN_GOP},
    "all_key.mp4": {"gop": 1, "b": 0},
    "one_key.mp4": {"gop": 1000},
    "mpeg4.mp4": {"codec": "mpeg4"},
    "mpeg4.avi": {"codec": "mpeg4"},
    "hevc.mp4": {"codec": "libx265", "options": X265},
    "hevc.mkv": {"codec": "libx265", "options": X265},
    "one_frame.mp4": {"n": 1},
    "late_start.mkv": {"offset": 5000},
    "late_start.ts": {"offset": 5000},
    "rotated.mp4": {"rotation": 90},
    "upside_down.mp4": {"rotation": 180},
    "vfr.mp4": {"vfr": True},
    "vfr.mkv": {"vfr": True},
    "odd_size.mp4": {"size": (97, 63), "pixels": "yuv444p"},  # in 4:2:0, H.264 has no odd sizes
}


def encode(
    path,
    *,
    codec="libx264",
    n=61,
    size=(96, 64),
    pixels="yuv420p",
    options=None,
    gop=12,
    b=2,
    offset=0,
    rotation=None,
    vfr=False,
):
    width, height = size
    milliseconds = Fraction(1, 1000)
    rng = np.random.default_rng(0)
    background = rng.integers(0, 255, (height, width, 3), dtype=np.uint8)
    background[: height // 2, : width // 2] = 255  # so that turning the wrong way shows
    gaps = rng.integers(10, 200, n) if vfr else np.full(n, 40)
    times = offset + np.concatenate([[0], np.cumsum(gaps[:-1])])
    with av.open(str(path), "w") as container:
        stream = container.add_stream(codec, rate=25, options=options or {})
        stream.width, stream.height, stream.pix_fmt = width, height, pixels
        stream.codec_context.gop_size, stream.codec_context.max_b_frames = gop, b
        if path.suffix != ".avi":
            stream.codec_context.time_base = milliseconds
        if rotation:
            stream.set_display_rotation(rotation)
        for i in range(n):
            picture = background.copy()
            y, x = (i * 2) % height, (i * 3) % width
            picture[y : y + 16, x : x + 16] = (i * 4 % 255, 255 - i * 4 % 255, 128)
            frame = av.VideoFrame.from_ndarray(picture, format="rgb24")
            frame.pts, frame.time_base = int(times[i]), milliseconds
            if path.suffix == ".avi":
                frame.pts, frame.time_base = i, Fraction(1, 25)
            container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
    return (times - offset) / 1000


@pytest.fixture(scope="module")
def clips(tmp_path_factory):
    folder = tmp_path_factory.mktemp("clips")
    times = {name: encode(folder / name, **options) for name, options in CLIPS.items()}
    return folder, times


def reference(path, *, width=None, height=None):
    """Every frame, upright, by the simplest possible means."""
    with av.open(str(path)) as container:
        return [
            np.rot90(
                f.to_ndarray(format="rgb24", width=width, height=height, interpolation="BICUBIC"), f.rotation // 90
            )
            for f in container.decode(video=0)
        ]


@pytest.mark.parametrize("name", CLIPS)
def test_probe_finds_every_frame_and_its_time(clips, name):
    folder, times = clips
    info = probe(folder / name)
    pictures = reference(folder / name)
    assert len(info.pts) == len(pictures) == CLIPS[name].get("n", 61)
    assert (info.height, info.width) == pictures[0].shape[:2]
    assert info.pts.dtype == np.float64 and info.pts[0] == 0 and (np.diff(info.pts) > 0).all()
    np.testing.assert_allclose(info.pts, times[name], atol=2e-3)  # MPEG-TS and Matroska round to their own clocks
    last = 0.04 if not CLIPS[name].get("vfr") else info.duration - info.pts[-1]
    assert info.duration == pytest.approx(times[name][-1] + last, abs=0.01)
    assert 0 < last < 0.2
    assert info.fps == pytest.approx(len(info.pts) / info.duration)
    assert info.sha256 == sha256_file(folder / name) and len(info.sha256) == 64


@pytest.mark.parametrize("name", CLIPS)
def test_decode_equals_a_full_decode_bit_for_bit(clips, name):
    folder, _ = clips
    info = probe(folder / name)
    pictures = reference(folder / name)
    last = len(pictures) - 1
    rng = np.random.default_rng(1)
    choices = [[0], [last], [last // 2], range(last + 1), *(rng.integers(0, last + 1, 6) for _ in range(4))]
    for chosen in choices:
        frames = decode(info, chosen, short_side=None)
        wanted = sorted({int(i) for i in chosen})
        assert frames.times == tuple(info.pts[wanted])
        for image, index in zip(frames.images, wanted, strict=True):
            assert image.mode == "RGB"
            np.testing.assert_array_equal(np.asarray(image), pictures[index])


@pytest.mark.parametrize("name", [n for n in CLIPS if not n.endswith(".avi")])
def test_clean_files_take_the_short_way(clips, name, monkeypatch):
    def refuse(*args):
        raise AssertionError("decoded in order")

    monkeypatch.setattr(decode_module, "_decode_by_time", refuse)
    monkeypatch.setattr(decode_module, "_decode_by_order", refuse)
    info = probe(clips[0] / name)
    last = len(info.pts) - 1
    for chosen in ([0], [last], [last // 3, last // 2], [last // 5, last - 1 if last else 0]):
        assert len(decode(info, chosen, short_side=None)) == len(set(chosen))


@pytest.mark.parametrize("name", ["open_gop.mkv", "hevc.mkv", "hevc.mp4"])
def test_frames_shown_before_their_keyframe_take_the_short_way_too(clips, name, monkeypatch):
    info = probe(clips[0] / name)
    packets = info.packets
    newest_key = np.maximum.accumulate(np.where(packets.keys, packets.pts, packets.pts.min()))
    leading = np.argsort(np.argsort(packets.pts))[packets.pts < newest_key]
    assert len(leading) >= 2
    monkeypatch.setattr(decode_module, "_decode_by_time", lambda *args: None)
    pictures = reference(info.path)
    for index in leading:
        (image,) = decode(info, [index], short_side=None).images
        np.testing.assert_array_equal(np.asarray(image), pictures[index])


def test_the_short_way_reads_only_the_intervals_it_needs(clips):
    info = probe(clips[0] / "b_frames.mp4")
    packets = info.packets
    keys = np.flatnonzero(packets.keys)
    assert len(keys) > 4
    order = np.argsort(packets.pts)
    segments = decode_module._plan(packets, order[[2, 60]])
    assert len(segments) == 2 and segments[0].start == 0 and segments[1].start >= keys[-2]


@pytest.mark.parametrize("name", [n for n in CLIPS if not n.endswith(".avi")])
def test_no_packet_is_decoded_that_is_not_in_the_plan(clips, name, monkeypatch):
    """Seeks land where they land; what lies before the interval is not decoded, and in MP4 and Matroska not read."""
    read, planned = [], []
    demux, plan = decode_module.demux, decode_module._plan

    def counted(container, stream):
        for packet in demux(container, stream):
            read.append(packet)
            yield packet

    def noted(*args):
        planned.extend(plan(*args))
        return planned

    info = probe(clips[0] / name)
    monkeypatch.setattr(decode_module, "demux", counted)
    monkeypatch.setattr(decode_module, "_plan", noted)
    monkeypatch.setattr(decode_module, "_decode_by_time", lambda *args: None)
    last = len(info.pts) - 1
    wanted = sorted({last // 4, last // 2, last})
    frames = decode(info, wanted, short_side=None)
    for image, index in zip(frames.images, wanted, strict=True):
        np.testing.assert_array_equal(np.asarray(image), reference(info.path)[index])
    needed = sum(segment.stop - segment.start + 1 for segment in planned)
    if name.endswith((".mp4", ".mkv")):
        assert len(read) == needed
    assert len(read) >= needed


def test_frames_are_scaled_down_in_the_same_pass_and_never_up(clips):
    info = probe(clips[0] / "b_frames.mp4")
    small = decode(info, [3, 40], short_side=32)
    assert {i.size for i in small.images} == {(48, 32)}
    with av.open(str(info.path)) as container:  # 4:2:0 is scaled before it becomes RGB
        frame = list(container.decode(video=0))[40].reformat(width=48, height=32, interpolation="BICUBIC")
    np.testing.assert_array_equal(np.asarray(small.images[1]), frame.to_ndarray(format="rgb24"))
    assert (
        decode(info, [3], short_side=64).images[0].size == decode(info, [3], short_side=500).images[0].size == (96, 64)
    )
    turned = decode(probe(clips[0] / "rotated.mp4"), [0], short_side=32)
    assert turned.images[0].size == (32, 48)


def test_indices_are_checked(clips):
    info = probe(clips[0] / "one_frame.mp4")
    nothing = decode(info, [], short_side=None)
    assert len(nothing) == 0 and nothing.times == ()
    assert len(decode(info, [0, 0], short_side=None)) == 1
    for wrong in ([1], [-1]):
        with pytest.raises(IndexError, match="there are 0\\.\\.0"):
            decode(info, wrong, short_side=None)


def test_luma_is_a_coarse_grid_of_brightness(clips):
    info = probe(clips[0] / "b_frames.mp4")
    frames = decode(info, [0, 30, 60], short_side=None)
    grid = luma(frames.images[1])
    assert grid.dtype == np.uint8 and all(20 <= side <= 80 for side in grid.shape)
    for width, height in ((96, 64), (1, 1), (41, 79), (333, 200), (5000, 3)):
        image = frames.images[1].resize((width, height))
        grey = np.asarray(image.convert("L"), dtype=int)
        down, across = max(1, height // 40), max(1, width // 40)
        assert np.abs(grey[down // 2 :: down, across // 2 :: across] - luma(image)).max() <= 1


def reason(path):
    with pytest.raises(SampleError) as caught:
        probe(path)
    assert str(path) == caught.value.sample
    return caught.value.reason


def test_what_is_no_video_says_why(tmp_path, monkeypatch):
    assert reason(tmp_path / "none.mp4") is Reason.MISSING
    assert reason(tmp_path) is Reason.UNREADABLE
    os.mkfifo(tmp_path / "pipe.mp4")
    assert reason(tmp_path / "pipe.mp4") is Reason.UNREADABLE  # and does not wait for a writer
    (tmp_path / "empty.mp4").touch()
    assert reason(tmp_path / "empty.mp4") is Reason.EMPTY
    (tmp_path / "text.mp4").write_text("not a video\n" * 100)
    assert reason(tmp_path / "text.mp4") is Reason.NOT_MEDIA
    with av.open(str(tmp_path / "sound.mp4"), "w") as container:
        stream = container.add_stream("aac", rate=44100)
        frame = av.AudioFrame.from_ndarray(np.zeros((1, 4410), dtype=np.float32), format="fltp", layout="mono")
        frame.sample_rate = 44100
        container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
    assert reason(tmp_path / "sound.mp4") is Reason.NO_VIDEO
    encode(tmp_path / "big.mp4", n=1)
    monkeypatch.setattr(files, "MAX_PIXELS", 96 * 64 - 1)
    assert reason(tmp_path / "big.mp4") is Reason.TOO_LARGE


def test_a_playlist_cannot_make_us_open_other_files(clips, tmp_path):
    target = clips[0] / "b_frames.ts"
    playlist = tmp_path / "video.m3u8"
    playlist.write_text(f"#EXTM3U\n#EXT-X-TARGETDURATION:10\n#EXTINF:2.4,\nfile://{target}\n#EXT-X-ENDLIST\n")
    assert reason(playlist) is Reason.NOT_MEDIA
    playlist.write_text(f"ffconcat version 1.0\nfile '{target}'\n")
    assert reason(playlist) is Reason.NOT_MEDIA


def damaged(clips, tmp_path, start, stop):
    """A copy of a Matroska clip with noise written over a part of it."""
    data = bytearray((clips[0] / "b_frames.mkv").read_bytes())
    a, b = int(len(data) * start), int(len(data) * stop)
    data[a:b] = np.random.default_rng(0).bytes(b - a)
    path = tmp_path / "damaged.mkv"
    path.write_bytes(data)
    return path


def test_a_file_that_breaks_off_keeps_what_is_there(clips, tmp_path):
    data = (clips[0] / "b_frames.mkv").read_bytes()
    (tmp_path / "half.mkv").write_bytes(data[: len(data) // 2])
    info = probe(tmp_path / "half.mkv")
    assert 10 < len(info.pts) < 61
    whole = reference(clips[0] / "b_frames.mkv")
    frames = decode(info, [0, 5, 10], short_side=None)
    for image, index in zip(frames.images, (0, 5, 10), strict=True):
        np.testing.assert_array_equal(np.asarray(image), whole[index])


def test_damage_gives_the_frames_of_a_plain_decode_or_a_reason(clips, tmp_path):
    path = damaged(clips, tmp_path, 0.3, 0.6)
    info = probe(path)
    try:
        decode(info, range(len(info.pts)), short_side=None)
    except SampleError as error:
        assert error.reason is Reason.CORRUPT and "frames cannot be decoded" in error.detail
    sound = decode(info, [0, 1], short_side=None)
    whole = reference(clips[0] / "b_frames.mkv")
    np.testing.assert_array_equal(np.asarray(sound.images[1]), whole[1])


def test_frames_that_cannot_be_had_are_counted(clips, tmp_path, monkeypatch):
    info = probe(clips[0] / "b_frames.mkv")
    original = decode_module.decode_all
    monkeypatch.setattr(decode_module, "decode_all", lambda c, s: list(original(c, s))[:10])
    monkeypatch.setattr(decode_module, "_decode_segments", lambda *args: None)
    with pytest.raises(SampleError, match=r"2 of 3 frames cannot be decoded, the first at 0\.800 s") as caught:
        decode(info, [3, 20, 40], short_side=None)
    assert caught.value.reason is Reason.CORRUPT


def test_a_file_that_changed_after_probing_is_refused(tmp_path):
    encode(tmp_path / "clip.mp4", n=20)
    info = probe(tmp_path / "clip.mp4")
    for frames in (21, 20):
        encode(tmp_path / "clip.mp4", n=frames)
        with pytest.raises(SampleError, match="changed since it was probed: size and time are"):
            decode(info, [0], short_side=None)
