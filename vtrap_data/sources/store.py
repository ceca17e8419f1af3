"""What do all sources write alike? Pictures that came inside rows, under the hash of their bytes; ids that differ."""

from __future__ import annotations

import hashlib
from pathlib import Path

from vtrap_data.files import write_bytes

_ENDINGS = {b"\x89PNG": "png", b"\xff\xd8\xff": "jpg", b"GIF8": "gif", b"RIFF": "webp", b"BM": "bmp", b"II*\0": "tif"}


def ending(data: bytes) -> str | None:
    """What files with these first bytes are called; None for bytes that begin like no picture."""
    return next((name for start, name in _ENDINGS.items() if data.startswith(start)), None)


def store_image(data: bytes, out: Path, folder: str, *, spread: bool = False) -> str:
    """Write one picture; equal pictures are one file, so that their rows share a medium.

    Args:
        data: Its bytes.
        out: Where `folder` lies.
        folder: What the name begins with.
        spread: Over 256 folders: a million files in one are slow.

    Returns:
        Its path below `out`.
    """
    digest = hashlib.sha256(data).hexdigest()
    parts = [folder, *([digest[:2]] if spread else []), f"{digest[:32]}.{ending(data) or 'img'}"]
    name = "/".join(parts)
    path = out / name
    # Without sync, a million times: a power cut may leave a file cut off, which is written again here.
    if not path.is_file() or path.stat().st_size != len(data):
        write_bytes(path, data, sync=False)
    return name


def unique(name: str, used: dict[str, int]) -> str:
    """`name`, or `name#2` and on where it is taken: LLaVA files repeat ids, MME gives two questions of a picture one.

    Args:
        name: What is wanted.
        used: Names that are taken; gets the new one.
    """
    found = name
    while found in used:
        used[name] += 1
        found = f"{name}#{used[name]}"
    used[found] = 1
    return found
