"""How is one frame stored? As a baseline JPEG, quality 85, chroma 4:2:0; the same image gives the same bytes."""

from __future__ import annotations

import io
from functools import cache
from typing import Any, cast

from PIL import Image, features

from vtrap_data.errors import Reason, SampleError
from vtrap_data.media.files import check_pixels

QUALITY = 85

KEPT_BLOCKS = 64
"""Image buffers that Pillow keeps for the next image, where it keeps none (`PILLOW_BLOCKS_MAX`). Otherwise every frame
is fresh memory, which the system has to clear page by page: a third on top of the decoding."""


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
    keep_memory()
    try:
        image = Image.open(io.BytesIO(data), formats=("JPEG",))
        check_pixels(name, *image.size)
        if image.mode != "RGB":
            return image.convert("RGB")
        image.load()  # `convert` would copy, which costs as much again as decoding
        return image
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
        raise SampleError(name, Reason.CORRUPT, f"a stored frame is no whole JPEG ({error})") from None


@cache
def keep_memory() -> None:
    """Make Pillow keep `KEPT_BLOCKS`, in this process and from now on."""
    core = cast("Any", Image).core
    if not core.get_blocks_max():
        core.set_blocks_max(KEPT_BLOCKS)
