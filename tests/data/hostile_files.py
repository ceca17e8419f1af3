"""Hostile and odd files, each with what packing must make of it. docs/hostile_files.md is this table:

python tests/data/hostile_files.py > docs/hostile_files.md
"""

from __future__ import annotations

import io
import os
import socket
import struct
import sys
import zipfile
import zlib
from collections.abc import Callable, Sequence
from fractions import Fraction
from pathlib import Path
from typing import Any, NamedTuple

import av
import numpy as np
from PIL import Image

from vtrap_data.errors import Reason


class Case(NamedTuple):
    """A file (or a path) and its fate.

    Attributes:
        name: What the row of the source says: the path, relative to the media root.
        kind: Whether the row says that it is a video or an image.
        what: What is odd about it.
        outcome: "packed", or the reason for which it is set aside.
        detail: Of a packed one, what is stored: frames of a video; size of an image, and a note if there is one.
        make: Puts it there; the path is absolute. None: there is nothing to put.
    """

    name: str
    kind: str
    what: str
    outcome: str
    detail: str
    make: Callable[[Path], object] | None


# --- making videos ---------------------------------------------------------------------------------------------------


def clip(
    path: Path,
    *,
    n: int = 24,
    size: tuple[int, int] = (96, 64),
    codec: str = "libx264",
    pixels: str = "yuv420p",
    options: dict[str, str] | None = None,
    gop: int = 8,
    b: int = 0,
    times: list[int] | None = None,
    rotation: int = 0,
    container: dict[str, str] | None = None,
    form: str | None = None,
) -> bytes:
    """A moving square over a still ground; times in milliseconds. Returns the bytes of the file."""
    width, height = size
    ground = np.random.default_rng(n).integers(0, 255, (height, width, 3), dtype=np.uint8)
    with av.open(str(path), "w", format=form, options=container or {}) as target:
        stream = target.add_stream(codec, rate=25, options=options or {})
        stream.width, stream.height, stream.pix_fmt = width, height, pixels
        stream.codec_context.gop_size, stream.codec_context.max_b_frames = gop, b
        if times is not None:
            stream.codec_context.time_base = Fraction(1, 1000)
        if rotation:
            stream.set_display_rotation(rotation)
        for i in range(n):
            picture = ground.copy()
            picture[i % (height - 8) : i % (height - 8) + 8, (3 * i) % (width - 8) : (3 * i) % (width - 8) + 8] = 255
            frame = av.VideoFrame.from_ndarray(picture, format="rgb24")
            frame.pts, frame.time_base = (i, Fraction(1, 25)) if times is None else (times[i], Fraction(1, 1000))
            target.mux(stream.encode(frame))
        target.mux(stream.encode(None))
    return path.read_bytes()


def made(**options: Any) -> Callable[[Path], object]:
    return lambda path: clip(path, **options)


def cut(share: float, **options: Any) -> Callable[[Path], object]:
    def make(path: Path) -> None:
        data = clip(path, **options)
        path.write_bytes(data[: int(share * len(data))])

    return make


def damaged(start: float, stop: float, value: int | None = None, **options: Any) -> Callable[[Path], object]:
    """A part of the file overwritten with noise, or with one value."""

    def make(path: Path) -> None:
        data = bytearray(clip(path, **options))
        a, b = int(start * len(data)), int(stop * len(data))
        data[a:b] = np.random.default_rng(0).bytes(b - a) if value is None else bytes([value]) * (b - a)
        path.write_bytes(data)

    return make


def broken_start(*, packets: int, share: float, **options: Any) -> Callable[[Path], object]:
    """The first packets are noise from a share of their length on; all else in the file is whole."""

    def make(path: Path) -> None:
        data, chance = bytearray(clip(path, **options)), np.random.default_rng(0)
        with av.open(str(path)) as container:
            places = [(packet.pos, packet.size) for packet in container.demux(video=0) if packet.size]
        for place, size in places[:packets]:
            start = max(5, int(share * size))  # behind the length and the head of the first NAL unit
            data[place + start : place + size] = chance.bytes(size - start)
        path.write_bytes(data)

    return make


def holding(data: bytes) -> Callable[[Path], object]:
    return lambda path: path.write_bytes(data)


def named(suffix: str, **options: Any) -> Callable[[Path], object]:
    """A clip in the container of `suffix` under another name."""

    def make(path: Path) -> None:
        other = path.with_name("other" + suffix)
        clip(other, **options)
        other.rename(path)

    return make


def sound(form: str, codec: str, *, cover: bool = False) -> Callable[[Path], object]:
    def make(path: Path) -> None:
        with av.open(str(path), "w", format=form) as target:
            stream = target.add_stream(codec, rate=44100)
            art = target.add_stream("mjpeg", rate=1) if cover else None
            if art is not None:
                art.width, art.height, art.pix_fmt = 32, 32, "yuvj420p"
                art.disposition = av.stream.Disposition.attached_pic
                target.mux(art.encode(av.VideoFrame.from_ndarray(np.zeros((32, 32, 3), np.uint8), format="rgb24")))
                target.mux(art.encode(None))
            layout = "fltp" if codec == "aac" else "s16"
            samples = np.zeros((1, 4410), np.float32 if codec == "aac" else np.int16)
            frame = av.AudioFrame.from_ndarray(samples, format=layout, layout="mono")
            frame.sample_rate = 44100
            target.mux(stream.encode(frame))
            target.mux(stream.encode(None))

    return make


def edited(path: Path) -> None:
    """An edit list that starts at the sixth frame, between two keyframes."""
    data = bytearray(clip(path))
    place = data.index(b"elst")
    start = struct.unpack(">i", data[place + 16 : place + 20])[0]
    with av.open(str(path)) as container:
        tick = container.streams.video[0].time_base
    data[place + 16 : place + 20] = struct.pack(">i", start + int(Fraction(6, 25) / tick))
    path.write_bytes(data)


def edits(data: bytes, parts: Sequence[tuple[int, int]]) -> bytes:
    """An MP4 of 25 frames per second with this edit list in place of its own.

    Args:
        data: Of the MP4; its index lies behind its pictures, so that no place of a picture changes.
        parts: First frame and number of frames of each entry.
    """

    def units(name: bytes) -> int:  # per second; behind version, flags and two times
        return int.from_bytes(data[data.index(name) + 16 : data.index(name) + 20], "big")

    place = data.index(b"elst") - 4
    size, version, entries = struct.unpack(">I4xB3xI", data[place : place + 16])
    assert (version, entries, data.index(b"mdat") < place) == (0, 1, True)
    start = struct.unpack(">i", data[place + 20 : place + 24])[0]
    movie, media = units(b"mvhd"), units(b"mdhd")
    rows = [(n * movie // 25, start + first * media // 25) for first, n in parts]
    new = b"".join(struct.pack(">IiI", *row, 1 << 16) for row in rows)
    grown = len(new) - 12
    whole = bytearray(data[: place + 16] + new + data[place + size :])
    for name in (b"moov", b"trak", b"edts", b"elst"):  # the boxes around it, and itself
        at = data.index(name) - 4
        whole[at : at + 4] = struct.pack(">I", int.from_bytes(data[at : at + 4], "big") + grown)
    whole[place + 12 : place + 16] = struct.pack(">I", len(rows))
    return bytes(whole)


def two_sizes(path: Path) -> None:
    """A stream that changes its size in the middle: two MPEG-TS one after the other."""
    first = clip(path, size=(96, 64), n=12)
    path.write_bytes(first + clip(path, size=(64, 48), n=12))


def claims_size(*, pictures: bool) -> Callable[[Path], object]:
    """An AVI of a few kilobytes whose header, or whose pictures, say 60000 x 60000."""

    def make(path: Path) -> None:
        data = bytearray(clip(path, codec="mjpeg", pixels="yuvj420p", n=3))
        if pictures:
            place = -1
            while (place := data.find(b"\xff\xc0\x00\x11", place + 1)) >= 0:  # where a JPEG says its size
                struct.pack_into(">HH", data, place + 5, 60_000, 60_000)
        else:
            struct.pack_into("<ii", data, data.index(b"strf") + 12, 60_000, 60_000)
        path.write_bytes(data)

    return make


def without_keyframes(path: Path) -> None:
    """H.264 whose only intra picture is gone: everything refers to what is not there."""
    source = path.with_name("whole.mkv")
    clip(source, gop=1000)
    with av.open(str(source)) as container, av.open(str(path), "w") as target:
        copy = target.add_stream_from_template(container.streams.video[0])
        for packet in container.demux(container.streams.video[0]):
            if packet.size and not packet.is_keyframe:
                packet.stream = copy
                target.mux(packet)
    source.unlink()


# --- making images ---------------------------------------------------------------------------------------------------


def picture(width: int = 40, height: int = 30) -> Image.Image:
    return Image.fromarray(np.random.default_rng(1).integers(0, 255, (height, width, 3), dtype=np.uint8))


def saved(image: Image.Image, kind: str, **options: Any) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()


def chunk(kind: bytes, body: bytes, *, crc: int | None = None) -> bytes:
    check = zlib.crc32(kind + body) if crc is None else crc
    return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", check)


def png(width: int, height: int, *extra: bytes, crc: int | None = None) -> bytes:
    """A PNG of zeros that claims this size."""
    header = chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0), crc=crc)
    rows = zlib.compress(bytes((1 + 3 * width) * height) if width * height < 1_000_000 else b"")
    return b"\x89PNG\r\n\x1a\n" + header + b"".join(extra) + chunk(b"IDAT", rows) + chunk(b"IEND", b"")


def turned(orientation: int) -> bytes:
    exif = Image.Exif()
    exif[0x0112] = orientation
    return saved(picture(), "JPEG", exif=exif)


def animation(kind: str) -> bytes:
    frames = [Image.new("RGB", (20, 10), colour) for colour in ("red", "lime", "blue")]
    return saved(frames[0], kind, save_all=True, append_images=frames[1:])


def text_bomb() -> bytes:
    """A PNG with 64 MB of compressed text."""
    return png(8, 8, chunk(b"zTXt", b"Comment\0\0" + zlib.compress(bytes(64 << 20), 9)))


def many_palettes() -> bytes:
    image = picture().quantize(8)
    return saved(image, "PNG", transparency=3)


def documents(kind: str) -> bytes:
    if kind == "zip":
        buffer = io.BytesIO()
        with zipfile.ZipFile(buffer, "w") as archive:
            archive.writestr("a.txt", "hello")
        return buffer.getvalue()
    return {
        "html": b"<!doctype html><title>404 Not Found</title><p>There is no such video.</p>",
        "lfs": b"version https://git-lfs.github.com/spec/v1\noid sha256:" + b"0" * 64 + b"\nsize 5340000000\n",
        "svg": b'<svg xmlns="http://www.w3.org/2000/svg" width="9" height="9"><image href="file:///etc/passwd"/></svg>',
        "eps": b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 10 10\n(/etc/passwd) (r) file\n",
        "pdf": b"%PDF-1.4\n1 0 obj<<>>endobj\ntrailer<<>>\n%%EOF\n",
        "hls": b"#EXTM3U\n#EXT-X-TARGETDURATION:9\n#EXTINF:1,\nfile:///etc/passwd\n#EXT-X-ENDLIST\n",
        "concat": b"ffconcat version 1.0\nfile '/etc/passwd'\n",
        "sdp": b"v=0\no=- 0 0 IN IP4 127.0.0.1\nc=IN IP4 127.0.0.1\nm=video 5004 RTP/AVP 96\n",
        "srt": b"1\n00:00:00,000 --> 00:00:02,000\nHello\n",
    }[kind]


def fifo(path: Path) -> None:
    os.mkfifo(path)


def listening(path: Path) -> None:
    with socket.socket(socket.AF_UNIX) as one:
        here = Path.cwd()
        os.chdir(path.parent)  # a socket's path may have 107 characters
        one.bind(path.name)
        os.chdir(here)


def link(target: str) -> Callable[[Path], object]:
    return lambda path: path.symlink_to(target)


NOISE = np.random.default_rng(5).bytes(20_000)
FAST = {"movflags": "faststart"}
FRAGMENTS = {"movflags": "frag_keyframe+empty_moov"}
VFR = np.cumsum([0, *np.random.default_rng(3).integers(10, 300, 23)]).tolist()

CASES = (
    # Not what they say they are.
    Case("empty.mp4", "video", "zero bytes", "empty", "", holding(b"")),
    Case("byte.mp4", "video", "one byte", "not-media", "", holding(b"\0")),
    Case("noise.mp4", "video", "noise", "not-media", "", holding(NOISE)),
    Case("noise.mkv", "video", "noise", "not-media", "", holding(NOISE[1:])),
    Case("page.mp4", "video", "an error page of a web server", "not-media", "", holding(documents("html"))),
    Case("pointer.mp4", "video", "a Git LFS pointer", "not-media", "", holding(documents("lfs"))),
    Case("archive.mp4", "video", "a zip archive", "not-media", "", holding(documents("zip"))),
    Case("photo.mp4", "video", "a PNG", "not-media", "", holding(saved(picture(), "PNG"))),
    Case("subtitle.mp4", "video", "subtitles", "not-media", "", holding(documents("srt"))),
    Case("zeros.mp4", "video", "20 kB of zeros", "not-media", "", holding(bytes(20_000))),
    Case("wrong.avi", "video", "an MP4 called .avi", "packed", "16 frames", named(".mp4")),
    Case("wrong.mp4", "video", "a Matroska file called .mp4", "packed", "16 frames", named(".mkv")),
    Case("nosuffix", "video", "an MP4 without a suffix", "packed", "16 frames", named(".mp4")),
    Case("moving_picture.gif", "video", "an animated GIF", "packed", "3 frames", holding(animation("GIF"))),
    # Files that would have us open others.
    Case("playlist.m3u8", "video", "a playlist that names /etc/passwd", "not-media", "", holding(documents("hls"))),
    Case("playlist.mp4", "video", "the same, called .mp4", "not-media", "", holding(documents("hls") + b"#")),
    Case("concat.mp4", "video", "a concat script", "not-media", "", holding(documents("concat"))),
    Case("session.sdp", "video", "a network session description", "not-media", "", holding(documents("sdp"))),
    # No picture in them.
    Case("sound.mp4", "video", "audio only", "no-video", "", sound("mp4", "aac")),
    Case("cover.m4a", "video", "audio with cover art", "no-video", "", sound("mp4", "aac", cover=True)),
    Case("wave.mp4", "video", "a WAV called .mp4", "not-media", "", sound("wav", "pcm_s16le")),
    # Cut off.
    Case("cut_half.mp4", "video", "MP4 with its index at the end, cut in half", "not-media", "", cut(0.5)),
    Case("cut_1.mp4", "video", "MP4, 1 % of it", "not-media", "", cut(0.01)),
    Case("cut_99.mp4", "video", "MP4 without its last per cent", "not-media", "", cut(0.99)),
    Case(
        "cut_fast.mp4", "video", "MP4 with its index in front, cut in half", "truncated", "", cut(0.5, container=FAST)
    ),
    Case("cut_fragments.mp4", "video", "fragmented MP4, cut in half", "truncated", "", cut(0.5, container=FRAGMENTS)),
    Case(
        "cut_fast_long.mp4",
        "video",
        "MP4 with its index in front, of 200 frames, cut in half: no frame that is taken was where it breaks off",
        "truncated",
        "",
        cut(0.5, container=FAST, n=200),
    ),
    Case(
        "cut_fragments_long.mp4",
        "video",
        "fragmented MP4 of 200 frames, cut in half: the same",
        "truncated",
        "",
        cut(0.5, container=FRAGMENTS, n=200),
    ),
    Case("cut.mkv", "video", "Matroska, cut in half", "truncated", "", cut(0.5)),
    Case("cut_head.mkv", "video", "Matroska, cut in its header", "not-media", "", cut(0.02)),
    Case(
        "cut.webm",
        "video",
        "WebM, cut in half",
        "truncated",
        "",
        cut(0.5, codec="libvpx-vp9", options={"cpu-used": "8", "deadline": "realtime"}),
    ),
    Case("cut.ts", "video", "MPEG-TS, cut in half", "truncated", "", cut(0.5, codec="mpeg2video")),
    Case("cut.avi", "video", "AVI, cut in half", "truncated", "", cut(0.5, codec="mpeg4")),
    Case("cut.h264", "video", "bare H.264, cut in half", "packed", "9 frames", cut(0.5)),
    # Damaged.
    Case(
        "mdat.mp4",
        "video",
        "the pictures of an MP4 zeroed, its index whole",
        "corrupt",
        "",
        damaged(0.02, 0.85, 0, n=24),
    ),
    Case("middle.mkv", "video", "noise over a third of it", "packed", "6 frames", damaged(0.3, 0.6)),
    Case(
        "start.mp4",
        "video",
        "H.264 with B-frames whose first three NAL units are noise",
        "corrupt",
        "",
        broken_start(packets=3, share=0, b=2),
    ),
    Case(
        "patched.mp4",
        "video",
        "the same, noise over their second half only: decoders patch the pictures up",
        "packed",
        "16 frames",
        broken_start(packets=3, share=0.5, b=2),
    ),
    Case("front.ts", "video", "noise over its first tenth", "corrupt", "", damaged(0.0, 0.1, codec="mpeg2video")),
    Case("head.mkv", "video", "noise over its header", "not-media", "", damaged(0.0, 0.05)),
    Case("nokey.mkv", "video", "no keyframe at all", "corrupt", "", without_keyframes),
    Case("sizes.ts", "video", "changes its size in the middle", "packed", "16 frames", two_sizes),
    Case(
        "claims.avi",
        "video",
        "its header claims 60000 x 60000 pixels, its pictures do not",
        "packed",
        "3 frames",
        claims_size(pictures=False),
    ),
    Case("bomb.avi", "video", "its pictures claim 60000 x 60000 pixels", "corrupt", "", claims_size(pictures=True)),
    # Odd, and fine.
    Case("one.mp4", "video", "one frame", "packed", "1 frame", made(n=1)),
    Case("two.mp4", "video", "two frames", "packed", "2 frames", made(n=2)),
    Case(
        "bframes.mp4",
        "video",
        "B-frames, open GOP",
        "packed",
        "16 frames",
        made(b=3, options={"x264-params": "open-gop=1:keyint=8:bframes=3"}),
    ),
    Case("vfr.mp4", "video", "variable frame rate", "packed", "14 frames", made(times=VFR)),
    Case(
        "late.ts",
        "video",
        "starts at one hour",
        "packed",
        "16 frames",
        made(times=[3_600_000 + 40 * i for i in range(24)]),
    ),
    Case("elst.mp4", "video", "an edit list that starts between keyframes", "packed", "16 frames", edited),
    Case("rotated.mp4", "video", "rotated by 90 degrees", "packed", "16 frames", made(rotation=90)),
    Case("ten_bit.mp4", "video", "10 bits per sample", "packed", "16 frames", made(pixels="yuv420p10le")),
    Case("odd.mp4", "video", "97 x 63 pixels", "packed", "16 frames", made(size=(97, 63), pixels="yuv444p")),
    Case("tiny.mp4", "video", "16 x 16 pixels", "packed", "16 frames", made(size=(16, 16))),
    Case("bare.h264", "video", "bare H.264: no container, no times, no index", "packed", "16 frames", made()),
    Case("fragments.mp4", "video", "fragmented, no index", "packed", "16 frames", made(container=FRAGMENTS)),
    Case("lossless.mkv", "video", "FFV1 in Matroska", "packed", "16 frames", made(codec="ffv1")),
    Case("concat:a|b.mp4", "video", "a name that is a protocol to FFmpeg", "packed", "16 frames", made(n=20)),
    Case("-i.mp4", "video", "a name that is an option", "packed", "16 frames", made(n=21)),
    Case(
        "a\nb %s {} 'q' \"é.mp4",
        "video",
        "a name with a line break, quotes, formats",
        "packed",
        "16 frames",
        made(n=22),
    ),
    # Paths.
    Case("nothing.mp4", "video", "no such file", "missing", "", None),
    Case("folder.mp4", "video", "a folder", "unreadable", "", lambda path: path.mkdir()),
    Case("fifo.mp4", "video", "a FIFO that nobody writes to", "unreadable", "", fifo),
    Case("socket.mp4", "video", "a socket", "unreadable", "", listening),
    Case("dangling.mp4", "video", "a link to nothing", "missing", "", link("gone.mp4")),
    Case("loop.mp4", "video", "a link to itself", "unreadable", "", link("loop.mp4")),
    Case("device.mp4", "video", "a link to /dev/zero", "outside-root", "", link("/dev/zero")),
    Case("escape.mp4", "video", "a link that leaves the media root", "outside-root", "", link("../../outside.mp4")),
    Case("../outside.mp4", "video", "a path that leaves the media root", "outside-root", "", None),
    Case("/etc/passwd", "video", "an absolute path outside", "outside-root", "", None),
    Case("https://example.org/a.mp4", "video", "an address", "bad-row", "", None),
    Case("nul\0.mp4", "video", "a NUL in the name", "bad-row", "", None),
    Case("n" * 300 + ".mp4", "video", "a name of 304 characters", "unreadable", "", None),
    # Images: not what they say they are.
    Case("empty.png", "image", "zero bytes", "empty", "", holding(b"")),
    Case("page.jpg", "image", "an error page of a web server", "not-media", "", holding(documents("html") + b" ")),
    Case("drawing.svg", "image", "an SVG that names /etc/passwd", "not-media", "", holding(documents("svg"))),
    Case("script.eps", "image", "PostScript, a program", "not-media", "", holding(documents("eps"))),
    Case("paper.pdf", "image", "a PDF", "not-media", "", holding(documents("pdf"))),
    Case("film.png", "image", "an MP4 called .png", "not-media", "", named(".mp4", n=5)),
    Case("noise.jpg", "image", "noise", "not-media", "", holding(NOISE[2:])),
    Case("wrong.jpg", "image", "a PNG called .jpg", "packed", "40x30", holding(saved(picture(), "PNG") + b"")),
    # Cut off, damaged, too large.
    Case("cut.png", "image", "PNG, cut in half", "corrupt", "", holding(saved(picture(200, 200), "PNG")[:60_000])),
    Case("cut.jpg", "image", "JPEG, cut in half", "corrupt", "", holding(saved(picture(200, 200), "JPEG")[:15_000])),
    Case(
        "cut.gif", "image", "GIF, cut in its second picture", "packed", "20x10, noted", holding(animation("GIF")[:-12])
    ),
    Case("crc.png", "image", "PNG whose header has a wrong checksum", "not-media", "", holding(png(8, 8, crc=7))),
    Case("bomb.png", "image", "1 kB that claims 60000 x 60000", "too-large", "", holding(png(60_000, 60_000))),
    Case(
        "large.png",
        "image",
        "claims 10000 x 9000: above the limit of 80 million pixels",
        "too-large",
        "",
        holding(png(10_000, 9_000)),
    ),
    Case("text.png", "image", "64 MB of compressed text inside", "corrupt", "", holding(text_bomb())),
    # Odd, and fine.
    Case("exif.jpg", "image", "EXIF says: turn by 90 degrees", "packed", "30x40", holding(turned(6))),
    Case(
        "exif_bad.jpg",
        "image",
        "a damaged EXIF block",
        "packed",
        "40x30",
        holding(saved(picture(), "JPEG", exif=b"Exif\0\0MM\0\x2a\xff\xff\xff\xff")),
    ),
    Case("cmyk.jpg", "image", "CMYK", "packed", "40x30", holding(saved(picture().convert("CMYK"), "JPEG"))),
    Case("palette.png", "image", "a palette with a transparent entry", "packed", "40x30", holding(many_palettes())),
    Case(
        "alpha.png", "image", "RGBA: over white", "packed", "40x30", holding(saved(picture().convert("RGBA"), "PNG"))
    ),
    Case(
        "grey_alpha.png", "image", "grey with alpha", "packed", "40x30", holding(saved(picture().convert("LA"), "PNG"))
    ),
    Case(
        "sixteen.png",
        "image",
        "16 bits per sample",
        "packed",
        "4x4",
        holding(saved(Image.fromarray(np.arange(16, dtype=np.uint16).reshape(4, 4) * 4000), "PNG")),
    ),
    Case(
        "float.tif",
        "image",
        "floating point",
        "packed",
        "4x4",
        holding(saved(Image.fromarray(np.linspace(0, 1, 16, dtype=np.float32).reshape(4, 4)), "TIFF")),
    ),
    Case("bits.png", "image", "one bit per pixel", "packed", "40x30", holding(saved(picture().convert("1"), "PNG"))),
    Case("one.png", "image", "one pixel", "packed", "1x1", holding(png(1, 1))),
    Case("long.png", "image", "60000 x 1 pixels", "packed", "60000x1", holding(png(60_000, 1))),
    Case(
        "moving.gif", "image", "animated: the first picture, said", "packed", "20x10, noted", holding(animation("GIF"))
    ),
    Case(
        "moving.png",
        "image",
        "animated PNG: the first picture, said",
        "packed",
        "20x10, noted",
        holding(animation("PNG")),
    ),
    Case(
        "moving.webp",
        "image",
        "animated WebP: the first picture, said",
        "packed",
        "20x10, noted",
        holding(animation("WEBP")),
    ),
    Case(
        "pages.tif",
        "image",
        "TIFF of several pages: the first, said",
        "packed",
        "20x10, noted",
        holding(animation("TIFF")),
    ),
    Case("tail.png", "image", "noise behind its end", "packed", "40x30", holding(saved(picture(), "PNG") + NOISE)),
    Case("modern.avif", "image", "AVIF", "packed", "40x30", holding(saved(picture(), "AVIF"))),
    Case("old.bmp", "image", "BMP", "packed", "40x30", holding(saved(picture(), "BMP"))),
)
DENIED = Case("denied.mp4", "video", "no permission to read it", "unreadable", "", None)
"""Root may read everything, so this one is tried as another user."""

HEAD = """\
# Hostile and odd files

What `pack` makes of files that are not what they should be. Each row is a test (`tests/data/test_hostile_files.py`);
this page is written from the same table, and a test keeps it so.

A file that cannot be used costs its own sample and nothing else: it is listed in `manifest.json` with one of the
reasons below, and the frames of its neighbours are the same as without it. Reasons:
REASONS.

Not in the table, because a stand-in for the decoder plays them: a decoder that crashes its process (corrupt), one that
never comes back or is slow (timeout), one that eats memory (too-large). See [data.md](data.md) for the limits.
`too-long` is not about files: training sets aside what has more tokens than its model takes.
Files cut at any byte or with any bytes changed are tried by the hundred, at random.

"""


def render() -> str:
    """The page."""
    lines = ["| file | given as | what is odd | outcome | stored |", "|---|---|---|---|---|"]
    for case in (*CASES, DENIED):
        name = case.name if len(case.name) < 60 else case.name[:20] + "..."
        shown = name.replace("\n", "\\n").replace("\0", "\\0").replace("|", "\\|")
        lines.append(f"| `{shown}` | {case.kind} | {case.what} | {case.outcome} | {case.detail} |")
    head = HEAD.replace("REASONS", ", ".join(Reason))
    return f"{head}{len(CASES) + 1} files:\n\n" + "\n".join(lines) + "\n"


if __name__ == "__main__":
    sys.stdout.write(render())
