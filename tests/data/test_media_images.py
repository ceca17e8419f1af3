import contextlib
import hashlib
import io
import os
import struct
import zlib

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from vtrap_data.errors import Reason, SampleError
from vtrap_data.media import jpeg
from vtrap_data.media.images import load_image, open_image

rng = np.random.default_rng(0)


def data(image, kind="PNG", **options):
    out = io.BytesIO()
    image.save(out, kind, **options)
    return out.getvalue()


def noise(width=20, height=10):
    return Image.fromarray(np.random.default_rng(1).integers(0, 255, (height, width, 3), dtype=np.uint8))


def test_facts_are_of_the_upright_image_and_bytes_are_the_original(tmp_path):
    exif = Image.Exif()
    exif[0x0112] = 6
    raw = data(noise(20, 10), "JPEG", exif=exif)
    (tmp_path / "photo.jpg").write_bytes(raw)
    facts = open_image(tmp_path / "photo.jpg")
    assert (facts.width, facts.height, facts.format) == (10, 20, "JPEG")
    assert facts.data == raw and facts.sha256 == hashlib.sha256(raw).hexdigest()


@pytest.mark.parametrize(
    ("orientation", "turn"),
    [
        (1, lambda a: a),
        (2, np.fliplr),
        (3, lambda a: np.rot90(a, 2)),
        (4, np.flipud),
        (5, lambda a: a.swapaxes(0, 1)),
        (6, lambda a: np.rot90(a, -1)),
        (7, lambda a: np.rot90(a, 2).swapaxes(0, 1)),
        (8, np.rot90),
        (99, lambda a: a),
    ],
)
def test_exif_orientation(orientation, turn):
    exif = Image.Exif()
    exif[0x0112] = orientation
    image = noise()
    np.testing.assert_array_equal(np.asarray(load_image(data(image, exif=exif))), turn(np.asarray(image)))


def test_a_damaged_exif_block_does_not_lose_the_image():
    image = load_image(data(noise(), "JPEG", exif=b"Exif\x00\x00MM\x00\x2a\xff\xff\xff\xff"))
    assert image.size == (20, 10)


def test_transparency_lies_over_white():
    clear = Image.new("RGBA", (2, 1), (255, 0, 0, 0))
    clear.putpixel((1, 0), (0, 0, 0, 128))
    assert [load_image(data(clear)).getpixel((x, 0)) for x in (0, 1)] == [(255, 255, 255), (127, 127, 127)]
    grey = Image.new("LA", (1, 1), (0, 0))
    assert load_image(data(grey)).getpixel((0, 0)) == (255, 255, 255)
    palette = Image.new("P", (1, 1), 0)
    palette.putpalette([9, 9, 9])
    assert load_image(data(palette, transparency=0)).getpixel((0, 0)) == (255, 255, 255)
    assert load_image(data(palette)).getpixel((0, 0)) == (9, 9, 9)


def test_sixteen_bits_are_scaled_and_not_cut_off():
    ramp = Image.fromarray(np.array([[0, 257, 32896, 65535]], dtype=np.uint16))
    for kind in ("PNG", "TIFF"):
        image = load_image(data(ramp, kind))
        assert [image.getpixel((x, 0)) for x in range(4)] == [(0, 0, 0), (1, 1, 1), (128, 128, 128), (255, 255, 255)]


def test_floats_grey_bits_and_cmyk():
    assert (
        load_image(data(Image.fromarray(np.array([[0.0, 1.0]], dtype=np.float32)), "TIFF")).getpixel((1, 0))
        == (255,) * 3
    )
    assert (
        load_image(data(Image.fromarray(np.array([[0.0, 200.0]], dtype=np.float32)), "TIFF")).getpixel((1, 0))
        == (200,) * 3
    )
    assert load_image(data(Image.new("L", (1, 1), 77))).getpixel((0, 0)) == (77, 77, 77)
    assert load_image(data(Image.new("1", (1, 1), 1))).getpixel((0, 0)) == (255, 255, 255)
    assert load_image(data(Image.new("CMYK", (1, 1), (0, 0, 0, 0)), "TIFF")).getpixel((0, 0)) == (255, 255, 255)


def four_channels(values, *, transform):
    """An 8x8 JPEG of one colour, written out byte by byte as Adobe's programs do: no library has had a hand in it.

    Args:
        values: The four samples as they are stored, which is inverted: 255 is no ink.
        transform: Of the APP14 marker: 0 for CMYK, 2 for YCCK.
    """

    def segment(mark, body):
        return bytes([0xFF, mark]) + struct.pack(">H", len(body) + 2) + body

    adobe = b"Adobe" + struct.pack(">HHHB", 100, 0, 0, transform)
    frame = struct.pack(">BHHB", 8, 8, 8, 4) + b"".join(bytes([n, 0x11, 0]) for n in range(1, 5))
    scan = bytes([4, 1, 0, 2, 0, 3, 0, 4, 0, 0, 63, 0])
    # DC: the number of bits of the difference as 4 bits; AC: "0" ends the block.
    sizes = bytes([0x00, 0, 0, 0, 12, *[0] * 12, *range(12)])
    ends = bytes([0x10, 1, *[0] * 15, 0])
    bits = ""
    for value in values:
        level = 8 * (value - 128)  # quantised by 1
        n = abs(level).bit_length()
        bits += format(n, "04b") + (format(level if level > 0 else level + 2**n - 1, f"0{n}b") if n else "") + "0"
    bits += "1" * (-len(bits) % 8)
    coded = int(bits, 2).to_bytes(len(bits) // 8, "big").replace(b"\xff", b"\xff\0")
    body = segment(0xEE, adobe) + segment(0xDB, bytes([0]) + bytes([1] * 64)) + segment(0xC0, frame)
    return b"\xff\xd8" + body + segment(0xC4, sizes + ends) + segment(0xDA, scan) + coded + b"\xff\xd9"


@pytest.mark.parametrize(
    ("ink", "colour"),
    [
        ((0, 0, 0, 0), (255, 255, 255)),
        ((0, 255, 255, 0), (255, 0, 0)),
        ((255, 0, 255, 0), (0, 255, 0)),
        ((255, 255, 0, 0), (0, 0, 255)),
        ((0, 0, 0, 255), (0, 0, 0)),
        ((0, 0, 0, 155), (100, 100, 100)),
        ((0, 155, 0, 0), (255, 100, 255)),
    ],
)
def test_the_colours_of_a_cmyk_jpeg_are_not_inverted(ink, colour):
    stored = [255 - value for value in ink]
    image = load_image(four_channels(stored, transform=0))
    assert image.mode == "RGB" and image.size == (8, 8)
    np.testing.assert_allclose(np.asarray(image), np.full((8, 8, 3), colour), atol=1)
    # The same as YCCK: brightness and two colour differences (JFIF) of what the first three samples lack to 255.
    red, green, blue = ink[:3]
    bright = 0.299 * red + 0.587 * green + 0.114 * blue
    differences = [128 + (blue - bright) / 1.772, 128 + (red - bright) / 1.402]
    ycck = [min(255, round(value)) for value in (bright, *differences)]
    np.testing.assert_allclose(
        np.asarray(load_image(four_channels([*ycck, stored[3]], transform=2))), np.asarray(image, dtype=int), atol=3
    )


@pytest.mark.parametrize("kind", ["GIF", "WEBP", "PNG"])
def test_the_first_frame_of_an_animation(kind):
    frames = [Image.new("RGB", (8, 8), colour) for colour in ("red", "lime", "blue")]
    options = {"lossless": True} if kind == "WEBP" else {}
    moving = data(frames[0], kind, save_all=True, append_images=frames[1:], duration=40, **options)
    assert load_image(moving).getpixel((3, 3)) == (255, 0, 0)


def reason(data):
    with pytest.raises(SampleError) as caught:
        load_image(data, name="the-sample")
    assert caught.value.sample == "the-sample"
    return caught.value.reason


def bomb(width, height):
    """A PNG that claims to be huge: a valid header and almost no data."""

    def chunk(kind, body):
        return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))

    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(b"")) + chunk(b"IEND", b"")


@pytest.mark.filterwarnings("ignore::PIL.Image.DecompressionBombWarning")
def test_bad_bytes_say_why(tmp_path):
    assert reason(b"") is Reason.EMPTY
    assert reason(b"hello" * 100) is Reason.NOT_MEDIA
    assert reason(b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 10 10\n") is Reason.NOT_MEDIA
    assert reason(data(noise(200, 200))[:-500]) is Reason.CORRUPT
    assert reason(data(noise(200, 200), "JPEG")[:2000]) is Reason.CORRUPT
    assert reason(bomb(10_000, 9_000)) is Reason.TOO_LARGE
    assert reason(bomb(60_000, 60_000)) is Reason.TOO_LARGE


def test_bad_paths_say_why(tmp_path):
    def of(path):
        with pytest.raises(SampleError) as caught:
            open_image(path)
        return caught.value.reason

    os.mkfifo(tmp_path / "pipe.png")
    (tmp_path / "empty.png").touch()
    (tmp_path / "cut.png").write_bytes(data(noise(200, 200))[:-500])
    assert of(tmp_path / "none.png") is Reason.MISSING
    assert of(tmp_path / "a\0b.png") is Reason.UNREADABLE
    assert of(tmp_path) is Reason.UNREADABLE
    assert of(tmp_path / "pipe.png") is Reason.UNREADABLE
    assert of(tmp_path / "empty.png") is Reason.EMPTY
    assert of(tmp_path / "cut.png") is Reason.CORRUPT


def test_hostile_bytes_only_ever_raise_a_sample_error():
    for kind in ("PNG", "JPEG", "GIF", "WEBP", "TIFF", "BMP"):
        whole = data(noise(40, 40), kind)
        for _ in range(40):
            broken = bytearray(whole)
            for at in rng.integers(0, len(broken), 5):
                broken[at] = rng.integers(0, 256)
            with contextlib.suppress(SampleError):
                assert load_image(bytes(broken)).mode == "RGB"


def test_jpeg_is_deterministic_close_and_bare():
    y, x = np.mgrid[0:64, 0:96]
    smooth = np.stack([x * 2, y * 3, (x + y)], axis=-1).astype(np.uint8)
    image = Image.fromarray(smooth)
    first = jpeg.encode(image)
    image.info["comment"] = b"private"
    image.info["icc_profile"] = b"profile"
    assert jpeg.encode(image) == first and b"private" not in first
    back = jpeg.decode(first)
    assert back.mode == "RGB" and back.size == (96, 64)
    assert np.abs(np.asarray(back, dtype=int) - smooth).mean() < 3
    with Image.open(io.BytesIO(first)) as stored:
        assert stored.layer[0][1:3] == (2, 2)  # 4:2:0
    with pytest.raises(ValueError, match="only RGB"):
        jpeg.encode(image.convert("L"))


@given(st.integers(1, 70), st.integers(1, 70), st.integers(1, 3), st.sampled_from(["RGB", "L"]))
@settings(max_examples=60, deadline=None)
def test_frames_have_the_pixels_that_pillow_makes(width, height, frames, mode):
    """So stock `datasets` and `webdataset`, which decode with Pillow, see what vtrap sees."""
    blobs = []
    for number in range(frames):
        pixels = np.random.default_rng(number).integers(0, 256, (height, width, 3), dtype=np.uint8)
        image = Image.fromarray(pixels).convert(mode)
        blobs.append(jpeg.encode(image) if mode == "RGB" else data(image, "JPEG"))
    found = jpeg.decode_all(blobs)
    assert found.shape == (frames, height, width, 3) and found.dtype == np.uint8
    for pixels, blob in zip(found, blobs, strict=True):
        with Image.open(io.BytesIO(blob)) as image:
            np.testing.assert_array_equal(pixels, np.asarray(image.convert("RGB")))


def test_frames_of_one_video_have_one_size_and_no_frames_are_none():
    assert jpeg.decode_all([]).shape == (0, 0, 0, 3)
    first = jpeg.encode(noise(20, 30))
    for other in ((30, 20), (40, 30), (20, 29), (1, 1)):
        with pytest.raises(SampleError, match="their sizes are"):
            jpeg.decode_all([first, jpeg.encode(noise(*other))])


def test_hostile_frames_only_ever_raise_a_sample_error():
    whole, draw = jpeg.encode(noise(40, 56)), np.random.default_rng(3)
    for _ in range(3000):
        broken = bytearray(whole)
        for _ in range(int(draw.integers(1, 6))):
            broken[int(draw.integers(0, len(broken)))] = int(draw.integers(0, 256))
        with contextlib.suppress(SampleError):
            assert jpeg.decode(bytes(broken[: int(draw.integers(1, len(broken) + 1))])).mode == "RGB"


def test_a_broken_stored_frame_names_the_sample():
    whole = jpeg.encode(noise(200, 200))
    cmyk = data(noise(20, 20).convert("CMYK"), "JPEG")
    zeros = whole[:3000] + bytes(64) + whole[3064:]  # Pillow takes it for a sound file
    for broken in (b"", b"nothing", None, whole[:3000], data(noise()), cmyk, zeros):
        with pytest.raises(SampleError) as caught:
            jpeg.decode(broken, name="key-7")
        assert caught.value.sample == "key-7" and caught.value.reason is Reason.CORRUPT
