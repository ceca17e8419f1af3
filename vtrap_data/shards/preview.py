"""What does each question really see? One HTML page with the very frames that its budget selects."""

from __future__ import annotations

import base64
import io
from dataclasses import dataclass
from itertools import islice
from pathlib import Path

import jinja2
from PIL import Image

from vtrap_data.errors import UsageError
from vtrap_data.media import images, jpeg
from vtrap_data.samples import PackedItem, PackedSample
from vtrap_data.shards.files import write_bytes
from vtrap_data.shards.manifest import read_manifest
from vtrap_data.shards.members import FRAMES, IMAGES, unpack_list
from vtrap_data.shards.stored import StoredSample, read_stored

THUMB_SIDE = 160
"""Longest side of a picture on the page, in pixels."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Picture:
    """A thumbnail as a data URI, and its place in the page's style sheet: frames repeat, their bytes should not.

    Attributes:
        name: CSS class.
        data: `data:image/jpeg;base64,...`
        ratio: Width divided by height.
        caption: What stands under it.
    """

    name: str
    data: str
    ratio: float
    caption: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Shown:
    """A media item on the page: its facts, all its pictures, and for each item the pictures that it sees."""

    sample: PackedSample
    pictures: tuple[Picture, ...]
    items: tuple[tuple[PackedItem, tuple[Picture, ...]], ...]
    residuals: tuple[tuple[int, float], ...]


def preview(root: Path, out: Path, *, limit: int = 50) -> int:
    """Write the page. It needs no network and no other file.

    Args:
        root: A packed corpus.
        out: The page.
        limit: At most that many media items, from the first on.

    Returns:
        How many media items are on it.

    Raises:
        UsageError: No packed corpus, or a limit below 1.
    """
    if limit < 1:
        raise UsageError(f"--limit must be at least 1, not {limit}")
    manifest = read_manifest(root)
    budgets = manifest.settings.budgets
    shown = [_shown(n, s, budgets) for n, s in enumerate(islice(read_stored(root, members=True), limit))]
    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("vtrap_data.shards", "templates"),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    page = environment.get_template("preview.html").render(manifest=manifest, shown=shown)
    write_bytes(out, page.encode())
    return len(shown)


def _shown(number: int, stored: StoredSample, budgets: tuple[int, ...]) -> Shown:
    sample = stored.sample
    pictures: list[Picture] = []
    if sample.video is not None:
        for place, data in enumerate(unpack_list(stored.members[FRAMES])):
            picture = jpeg.decode(data, name=sample.key)
            pictures.append(_picture(picture, f"p{number}-{place}", f"{sample.video.frame_times[place]:.2f} s"))
    elif sample.images:
        for place, data in enumerate(unpack_list(stored.members[IMAGES])):
            picture = images.load_image(data, name=sample.key)
            pictures.append(_picture(picture, f"p{number}-{place}", sample.images[place].name))
    seen = [
        (item, tuple(pictures[i] for i in item.frame_ids) if sample.video else tuple(pictures))
        for item in sample.items
    ]
    residuals = sample.video.residuals if sample.video else ()
    return Shown(
        sample=sample,
        pictures=tuple(pictures),
        items=tuple(seen),
        residuals=tuple(zip(budgets, residuals, strict=bool(residuals))),
    )


def _picture(image: Image.Image, name: str, caption: str) -> Picture:
    ratio = image.width / image.height
    image.thumbnail((THUMB_SIDE, THUMB_SIDE))
    buffer = io.BytesIO()
    image.save(buffer, "JPEG", quality=70)
    data = "data:image/jpeg;base64," + base64.b64encode(buffer.getvalue()).decode()
    return Picture(name=name, data=data, ratio=ratio, caption=caption)
