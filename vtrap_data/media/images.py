"""What is this still image, and how does it look? Original bytes are kept; pixels are made the same way everywhere.

Rules of `load_image`: turned upright by its EXIF note, transparency over white, 16 bits scaled to 8, the first frame
of an animation, always RGB.
"""

from __future__ import annotations

import hashlib
import io
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple, cast

import numpy as np
from PIL import Image, UnidentifiedImageError

from vtrap_data.errors import Reason, SampleError
from vtrap_data.media.files import check_file, check_pixels

MAX_BYTES = 512 * 1024 * 1024
"""Size of an image file above which it is refused."""

KEPT_BLOCKS = 64
"""Image buffers that Pillow keeps for the next image, where it keeps none (`PILLOW_BLOCKS_MAX`). Otherwise every image
is fresh memory, which the system has to clear page by page: a third on top of the decoding."""

# Raster formats only: EPS would start Ghostscript, and the rest is rare enough not to be worth its parsers.
_FORMATS = ("JPEG", "MPO", "PNG", "WEBP", "GIF", "BMP", "TIFF", "AVIF", "PPM", "JPEG2000")

_ORIENTATION = 0x0112
_UPRIGHT = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}


@dataclass(frozen=True, slots=True, kw_only=True)
class ImageFile:
    """A checked image file.

    Attributes:
        data: The original bytes.
        sha256: Of `data`, hex.
        format: Pillow's name of the format ("JPEG", ...).
        width: Pixels, after EXIF rotation.
        height: Pixels, after EXIF rotation.
        frames: Pictures of an animation (pages of a TIFF), of which the first is used; 1 for a still image.
    """

    data: bytes
    sha256: str
    format: str
    width: int
    height: int
    frames: int = 1


def open_image(path: Path) -> ImageFile:
    """Read and check an image file; every pixel is decoded once, so that a bad file is found now and not in training.

    Raises:
        SampleError: MISSING, UNREADABLE, EMPTY, TOO_LARGE, NOT_MEDIA or CORRUPT.
    """
    size = check_file(path)
    if size > MAX_BYTES:
        raise SampleError(str(path), Reason.TOO_LARGE, f"has {size} bytes; at most {MAX_BYTES} are allowed")
    data = path.read_bytes()
    seen = _decode(data, str(path))
    return ImageFile(
        data=data,
        sha256=hashlib.sha256(data).hexdigest(),
        format=seen.format,
        width=seen.image.width,
        height=seen.image.height,
        frames=_frames(data),
    )


def load_image(data: bytes, *, name: str = "<image>") -> Image.Image:
    """Image bytes as an upright RGB image.

    Raises:
        SampleError: EMPTY, NOT_MEDIA, TOO_LARGE or CORRUPT, with `name` as the sample.
    """
    return _decode(data, name).image


class _Decoded(NamedTuple):
    format: str
    image: Image.Image


def _decode(data: bytes, name: str) -> _Decoded:
    if not data:
        raise SampleError(name, Reason.EMPTY, "has zero bytes")
    _keep_memory()
    try:
        with Image.open(io.BytesIO(data), formats=_formats()) as image:
            check_pixels(name, *image.size)
            image.load()  # the first frame of an animation
            orientation = _orientation(image)  # before it loses its metadata
            return _Decoded(str(image.format), _upright(_rgb(image), orientation))
    except UnidentifiedImageError:
        raise SampleError(name, Reason.NOT_MEDIA, f"no image of a known format ({', '.join(_FORMATS)})") from None
    except Image.DecompressionBombError as error:
        raise SampleError(name, Reason.TOO_LARGE, str(error)) from None
    except SampleError:
        raise
    except Exception as error:  # hostile bytes make the decoders raise nearly anything
        raise SampleError(name, Reason.CORRUPT, f"cannot be decoded ({type(error).__name__}: {error})") from None


@cache
def _formats() -> tuple[str, ...]:
    Image.init()  # Pillow loads its rarer plugins on request only, and naming one that is not loaded is a KeyError
    return tuple(kind for kind in _FORMATS if kind in Image.OPEN)


def _frames(data: bytes) -> int:
    try:
        with Image.open(io.BytesIO(data), formats=_formats()) as image:
            # The second picture of an MPO is a thumbnail or the other eye's view, and no movement.
            return 1 if image.format == "MPO" else int(getattr(image, "n_frames", 1))
    except Exception:  # counting walks through the whole file: damage after the first picture does not matter
        return 1


def _orientation(image: Image.Image) -> int:
    try:
        return int(image.getexif().get(_ORIENTATION, 1))
    except Exception:  # a damaged EXIF block is no reason to lose the image
        return 1


def _upright(image: Image.Image, orientation: int) -> Image.Image:
    move = _UPRIGHT.get(orientation)
    return image if move is None else image.transpose(move)


def _rgb(image: Image.Image) -> Image.Image:
    """Any mode as RGB, without the metadata of the file."""
    if image.mode.startswith("I"):  # 16 bits per sample; Pillow also uses 32-bit "I" to hold them
        values = np.asarray(image).astype(np.float64)
        return Image.fromarray(np.clip(np.rint(values * (255 / 65535)), 0, 255).astype(np.uint8)).convert("RGB")
    if image.mode == "F":  # floating point has no fixed white: [0, 1] by convention, else 0-255
        values = np.nan_to_num(np.asarray(image).astype(np.float64), nan=0.0, posinf=255.0, neginf=0.0)
        scale = 255.0 if values.size and values.min() >= 0 and values.max() <= 1 else 1.0
        return Image.fromarray(np.clip(np.rint(values * scale), 0, 255).astype(np.uint8)).convert("RGB")
    if image.has_transparency_data:
        cut = image.convert("RGBA")
        flat = Image.new("RGB", cut.size, "white")
        flat.paste(cut, mask=cut.getchannel("A"))
        return flat
    plain = image if image.mode == "RGB" else image.convert("RGB")  # `convert` would copy
    plain.info = {}
    return plain


@cache
def _keep_memory() -> None:
    """Make Pillow keep `KEPT_BLOCKS`, in this process and from now on."""
    core = cast("Any", Image).core
    if not core.get_blocks_max():
        core.set_blocks_max(KEPT_BLOCKS)
