"""What does the README of a packed corpus say? Collects the facts; `hub_cards` writes them."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from hub_cards.dataset_card import DatasetFacts, SourceFacts, dataset_card
from vtrap_data.shards.files import write_bytes
from vtrap_data.shards.manifest import DATA, README, Manifest


def write_card(root: Path, manifest: Manifest, rows: Sequence[Mapping[str, Any]]) -> None:
    """Write `README.md`, with the features declared so that stock `load_dataset` works.

    Args:
        root: The corpus folder.
        manifest: Its manifest.
        rows: Its index rows.
    """
    write_bytes(root / README, dataset_card(dataset_facts(manifest, rows)).encode())


def dataset_facts(
    manifest: Manifest, rows: Sequence[Mapping[str, Any]], *, repo_id: str | None = None
) -> DatasetFacts:
    """What a card says about a corpus; `repo_id` is `owner/name` where it is about to be published."""
    settings = manifest.settings
    samples = Counter(_origin(row) for row in rows if row["item_index"] == 0)
    items = Counter(_origin(row) for row in rows)
    kinds = Counter(row["kind"] for row in rows if row["item_index"] == 0)
    return DatasetFacts(
        pretty_name=settings.name,
        repo_id=repo_id,
        description=settings.description,
        sources=tuple(
            SourceFacts(name=name, licence=licence, redistributable=free, samples=n, items=items[name, licence, free])
            for (name, licence, free), n in samples.items()
        ),
        splits={settings.split: f"{DATA}/{settings.split}-*.tar"},
        n_samples=manifest.counts["samples"],
        n_items=manifest.counts["items"],
        kinds=dict(kinds),
        strategy=settings.strategy,
        params=dict(manifest.params),
        budgets=dict(Counter(row["budget"] for row in rows if row["kind"] == "video")),
        settings={
            "candidate budgets": ", ".join(map(str, settings.budgets)),
            "mean frames asked for": float(settings.mean_frames),
            "pool slots": settings.slots,
            "short side of frames": f"{settings.short_side} px",
            "stored at least": settings.store or "what some item needs",
        },
        provenance=dict(manifest.versions),
        quarantine=dict(Counter(entry.reason for entry in manifest.quarantine)),
        format_version=manifest.format,
        synthetic=settings.synthetic,
        benchmark=all(row["benchmark"] for row in rows),
    )


def _origin(row: Mapping[str, Any]) -> tuple[str, str, bool | None]:
    return row["source"], row["licence"], row["redistributable"]
