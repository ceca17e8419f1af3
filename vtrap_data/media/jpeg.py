"""How is one frame stored? As a baseline JPEG, quality 85, chroma 4:2:0; the same image gives the same bytes."""

from __future__ import annotations

import io
from collections.abc import Sequence

import numpy as np
import simplejpeg  # type: ignore[import-untyped]
from numpy.typing import NDArray
from PIL import Image, features

from vtrap_data import buffers
from vtrap_data.errors import Reason, SampleError
from vtrap_data.media.files import check_pixels
from vtrap_data.media.size import Size

QUALITY = 85

_COLOURS = ("YCbCr", "Gray", "RGB")
_START = b"\xff\xd8"


def version() -> str:
    """The JPEG library and its version, for manifests: bytes may differ between versions."""
    turbo = features.version("libjpeg_turbo")
    return f"libjpeg-turbo {turbo}" if turbo else f"libjpeg {features.version('jpg')}"


def encode(image: Image.Image) -> bytes:
    """An RGB image as JPEG bytes, without any metadata."""
    if image.mode != "RGB":
        raise ValueError(f"only RGB images are stored, not mode {image.mode}")
    out = io.BytesIO()
    # Explicit empties: Pillow would otherwise take over comment and colour profile from where the image came from.
    bare = {"comment": b"", "icc_profile": None, "exif": b""}
    image.save(out, "JPEG", quality=QUALITY, subsampling="4:2:0", optimize=False, **bare)
    return out.getvalue()


def decode(data: bytes, *, name: str = "<jpeg>") -> Image.Image:
    """JPEG bytes as an RGB image.

    Raises:
        SampleError: CORRUPT or TOO_LARGE, with `name` as the sample.
    """
    return Image.fromarray(decode_all([data], name=name)[0])


def decode_all(frames: Sequence[bytes], *, name: str = "<jpeg>") -> NDArray[np.uint8]:
    """The JPEGs of a video as uint8 [frames, height, width, 3], RGB, one after the other in memory.

    By simplejpeg: the pixels are those that Pillow makes, by the same libjpeg-turbo, in four fifths of the time, since
    they are written where they are wanted. Unlike Pillow it does not take a damaged file for a sound one.

    Raises:
        SampleError: CORRUPT, or TOO_LARGE, with `name` as the sample.
    """
    width, height = _size(frames[0], name) if frames else Size(0, 0)
    try:
        out = buffers.empty((len(frames), height, width, 3), np.uint8)
        for data, place in zip(frames, out, strict=True):
            # The size of each is known from decoding it: asking for it first costs a hundredth of that.
            if simplejpeg.decode_jpeg(data, "RGB", buffer=place).shape != place.shape:
                raise ValueError("it is smaller than the first")
    except (ValueError, TypeError) as error:
        sizes = sorted({_size(data, name) for data in frames})
        raise _broken(name, f"their sizes are {sizes}" if len(sizes) > 1 else error) from None
    except MemoryError:
        detail = f"{len(frames)} frames of {width}x{height} do not fit into memory"
        raise SampleError(name, Reason.TOO_LARGE, detail) from None
    return out


def _size(data: bytes, name: str) -> Size:
    try:
        height, width, colours, _ = simplejpeg.decode_jpeg_header(data)
    except (ValueError, TypeError) as error:  # TypeError: no bytes at all
        raise _broken(name, error if data and data[:2] == _START else "it does not begin as one") from None
    check_pixels(name, width, height)
    if colours not in _COLOURS:
        raise _broken(name, f"its colours are {colours}, not {' or '.join(_COLOURS)}")
    return Size(width, height)


def _broken(name: str, why: object) -> SampleError:
    return SampleError(name, Reason.CORRUPT, f"a stored frame is no whole JPEG ({why})")
