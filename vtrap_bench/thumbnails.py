"""What did the model see? Small pictures of an item's frames or images, from the packed benchmark, for a page."""

from __future__ import annotations

import base64
import io
from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import Any

from PIL import Image

from vtrap_bench.records import Record
from vtrap_bench.tasks import TASKS
from vtrap_bench.tasks.locate import MANIFEST, folder_of
from vtrap_data.errors import VtrapError
from vtrap_data.files import sha256_file
from vtrap_data.loading.dataset import PackedDataset

SIDE = 112
"""Longer side in pixels: several fit beside each other on a phone."""
MOST = 4
"""Pictures per item; of more frames, some evenly spread ones are shown."""
QUALITY = 72


class Thumbnails:
    """Pictures of items, as far as the packed data that a run was made on is at hand.

    Args:
        benchmarks: Folder of packed benchmarks; None: the cache.
    """

    def __init__(self, benchmarks: Path | None) -> None:
        self._benchmarks = benchmarks
        self._open = cache(self._opened)

    def of(self, record: Record, *, data_sha256: str | None) -> list[dict[str, Any]]:
        """Pictures of what a record was about.

        Args:
            record: Its frame times say which frames were shown.
            data_sha256: Of the data the run was made on; with other data there are no pictures.

        Returns:
            JSON, in time order: `time` in seconds (None for an image) and `jpeg` in base64. Empty if the data is not
            at hand or cannot be read.
        """
        found = self._open(record.task, data_sha256)
        if found is None or record.item_id not in found[1]:
            return []
        data, numbers = found
        number = numbers[record.item_id]
        try:
            sample = data.sample(number)
            if sample.video is None:
                return [_picture(None, image) for image in data.image_bytes(number)[:MOST]]
            times = sample.video.frame_times
            ids = [i for i, time in enumerate(times) if time in set(record.frame_times)]
            if len(ids) > MOST:
                ids = [ids[round(k * (len(ids) - 1) / (MOST - 1))] for k in range(MOST)]
            shown = data.frame_bytes(number, ids)
            return [_picture(times[i], image) for i, image in zip(ids, shown, strict=True)]
        except (VtrapError, OSError, ValueError):
            return []

    def _opened(self, task: str, data_sha256: str | None) -> tuple[PackedDataset, Mapping[str, int]] | None:
        if task not in TASKS:
            return None
        root = folder_of(TASKS[task], self._benchmarks)
        try:
            if data_sha256 is None or sha256_file(root / MANIFEST) != data_sha256:
                return None
            data = PackedDataset(root)
        except (VtrapError, OSError, ValueError):
            return None
        return data, {item: number for number, item in enumerate(data.column("item_id"))}


def _picture(time: float | None, data: bytes) -> dict[str, Any]:
    # Drawn again: what lies in a data set never reaches the page as it is.
    with Image.open(io.BytesIO(data)) as image:
        small = image.convert("RGB")
    small.thumbnail((SIDE, SIDE), Image.Resampling.LANCZOS)
    out = io.BytesIO()
    small.save(out, "JPEG", quality=QUALITY)
    jpeg = base64.b64encode(out.getvalue()).decode()
    return {"time": time, "jpeg": jpeg, "width": small.width, "height": small.height}
