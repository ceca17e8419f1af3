"""How does a packed corpus get other budgets without touching video? Frames are copied, budgets written anew."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
from tqdm import tqdm

from vtrap_data.budgets.demand import DEMAND_VERSION
from vtrap_data.errors import UsageError
from vtrap_data.media.select import frame_ids
from vtrap_data.shards.allocation import Scorer, allocate_again, asked_items, demand_scores
from vtrap_data.shards.card import write_card
from vtrap_data.shards.files import sha256_file
from vtrap_data.shards.index import count_rows, frame_counts, read_index, write_index
from vtrap_data.shards.manifest import INDEX, Manifest, PackSettings, read_manifest, write_manifest
from vtrap_data.shards.pack import packed_item
from vtrap_data.shards.stored import read_stored
from vtrap_data.shards.write import Stored, write_shards


def reallocate(
    source: Path,
    out: Path,
    *,
    strategy: str,
    mean_frames: float | None = None,
    scorer: Scorer | None = None,
    seed: int | None = None,
    name: str | None = None,
) -> Manifest:
    """Write a corpus with the media of `source` and other budgets. Every stored frame is kept.

    Args:
        source: A packed corpus.
        out: Folder of the new one; new or empty.
        strategy: "fixed:N", "instruction", "coverage", "hybrid" or "random".
        mean_frames: Mean budget to hit; None: as `source`.
        scorer: What reads the questions; None: as `source`.
        seed: Of "random"; None: as `source`.
        name: Name of the new corpus; None: as `source`.

    Returns:
        The manifest of the new corpus.

    Raises:
        UsageError: `out` is not empty, the strategy needs what was not measured, or needs frames that are not stored.
    """
    old = read_manifest(source)
    settings = replace(
        old.settings,
        strategy=strategy,
        mean_frames=old.settings.mean_frames if mean_frames is None else mean_frames,
        scorer=scorer or old.settings.scorer,
        seed=old.settings.seed if seed is None else seed,
        name=name or old.settings.name,
    )
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise UsageError(f"--out {out} is not an empty folder: choose another")
    asked = asked_items(source)
    scores = demand_scores(asked, settings)
    allocation = allocate_again(asked, scores, settings) if asked else None
    granted = dict(zip((one.id for one in asked), allocation.budgets if allocation else (), strict=True))
    _check_stored(source, granted, settings)
    demand = {one.id: score for one, score in zip(asked, scores, strict=True)}
    stored = tqdm(
        _rewritten(source, granted, demand, settings), "write", old.counts["samples"], unit="sample", disable=None
    )
    # Under another name until it is whole: a kill leaves no half corpus at `out` that would block the next attempt.
    half = out.with_name(f".{out.name}.unfinished")
    shutil.rmtree(half, ignore_errors=True)
    written = write_shards(half, stored, split=settings.split, samples_per_shard=settings.samples_per_shard)
    write_index(half, written.index)
    manifest = replace(
        old,
        settings=settings,
        params=dict(allocation.params) if allocation else {},
        counts={**count_rows(written.index), "bytes": sum(shard.bytes for shard in written.shards)},
        shards=written.shards,
        index_sha256=sha256_file(half / INDEX),
        versions={**old.versions, "demand": DEMAND_VERSION},
    )
    write_card(half, manifest, written.index)
    write_manifest(half, manifest)
    half.replace(out)
    return manifest


def _check_stored(source: Path, granted: dict[str, int], settings: PackSettings) -> None:
    """Find items whose new budget needs frames that the corpus lacks, before anything is written."""
    index = read_index(source, ("item_id", "kind", "pool"))
    names = index["item_id"].to_pylist()
    budgets = np.array([granted.get(name, 0) for name in names], dtype=np.int64)
    lacking = np.flatnonzero(frame_counts(index, budgets, smallest=settings.smallest) < 0).tolist()
    if lacking:
        listed = ", ".join(names[i] for i in lacking[:3])
        listed += f" and {len(lacking) - 3} more" if len(lacking) > 3 else ""
        raise UsageError(
            f"{source} does not store the frames that {settings.strategy} needs for {len(lacking)} items ({listed}): "
            f"pack the media again with --store {max(int(budgets[i]) for i in lacking)}"
        )


def _rewritten(
    source: Path, granted: dict[str, int], demand: dict[str, float | None], settings: PackSettings
) -> Iterator[Stored]:
    for stored in read_stored(source, members=True):
        video = stored.sample.video
        items = []
        for item in stored.sample.items:
            budget = granted.get(item.id, 0)
            ids = frame_ids(video.pool, budget, smallest=settings.smallest) if video else ()
            items.append(packed_item(item, budget=budget, ids=ids, demand=demand.get(item.id)))
        yield Stored(replace(stored.sample, items=tuple(items)), stored.members, stored.frames)
