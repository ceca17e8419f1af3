"""What does each question really see? One HTML page with the very frames that its budget selects."""

from __future__ import annotations

import base64
import io
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import NamedTuple

import jinja2
from PIL import Image

from vtrap_data.errors import SampleError, UsageError
from vtrap_data.files import write_bytes
from vtrap_data.media import images, jpeg
from vtrap_data.samples import PackedItem, PackedSample
from vtrap_data.shards.manifest import Manifest, read_manifest
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


class Tick(NamedTuple):
    """A stored frame on the time line: where, in per cent of the video's length, and whether the item sees it."""

    percent: float
    chosen: bool


class Seen(NamedTuple):
    """An item on the page: the pictures it sees, its time line (empty without a video), why it got its budget."""

    item: PackedItem
    pictures: tuple[Picture, ...]
    line: tuple[Tick, ...]
    why: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Shown:
    """A media item on the page: its facts, all its pictures, and for each item the pictures that it sees."""

    sample: PackedSample
    pictures: tuple[Picture, ...]
    items: tuple[Seen, ...]
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
    try:
        shown = [_shown(n, s, manifest) for n, s in enumerate(islice(read_stored(root, members=True), limit))]
    except (ValueError, KeyError, IndexError, ArithmeticError, SampleError) as error:
        raise UsageError(f"{root} is damaged ({error}): run `doctor` on it") from error
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


def _shown(number: int, stored: StoredSample, manifest: Manifest) -> Shown:
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
    budgets = manifest.settings.budgets
    seen = [
        Seen(
            item,
            tuple(pictures[i] for i in item.frame_ids) if sample.video else tuple(pictures),
            _line(sample, item),
            why(item, sample, manifest),
        )
        for item in sample.items
    ]
    residuals = sample.video.residuals if sample.video else ()
    return Shown(
        sample=sample,
        pictures=tuple(pictures),
        items=tuple(seen),
        residuals=tuple(zip(budgets, residuals, strict=bool(residuals))),
    )


def _line(sample: PackedSample, item: PackedItem) -> tuple[Tick, ...]:
    video = sample.video
    if video is None:
        return ()
    chosen = set(item.frame_ids)
    times = enumerate(video.frame_times)
    return tuple(Tick(min(100.0, 100 * time / video.duration), place in chosen) for place, time in times)


def why(item: PackedItem, sample: PackedSample, manifest: Manifest) -> str:
    """Why an item got its budget, in a sentence, from what is stored; empty without a video."""
    if sample.video is None:
        return ""
    strategy, budgets = manifest.settings.strategy, manifest.settings.budgets
    if strategy.startswith("fixed:"):
        return f"{strategy}: every video item gets {item.budget} frames"
    if strategy == "random":
        return "random: drawn from the budgets that hybrid gives, whatever the question"
    known = []
    if item.demand is not None:
        known.append(f"the question asks about time to {item.demand:.2f}")
    if sample.video.residuals:
        left = sample.video.residuals[budgets.index(item.budget)]
        known.append(f"{item.budget} frames leave {left:.3f} of the video unseen")
        if item.demand is not None:
            known.append(f"their product is {item.demand * left:.4f}")
    limit = manifest.params.get("eps")
    if isinstance(limit, (int, float)):
        known.append(f"the limit that gives the mean asked for is {limit:.4f}")
    return f"{strategy}: {'; '.join(known)}" if known else strategy


def _picture(image: Image.Image, name: str, caption: str) -> Picture:
    ratio = image.width / image.height
    image.thumbnail((THUMB_SIDE, THUMB_SIDE))
    buffer = io.BytesIO()
    image.save(buffer, "JPEG", quality=70)
    data = "data:image/jpeg;base64," + base64.b64encode(buffer.getvalue()).decode()
    return Picture(name=name, data=data, ratio=ratio, caption=caption)
