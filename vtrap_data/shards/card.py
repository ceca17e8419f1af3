"""What does the README of a packed corpus say? Collects the facts; `hub_cards` writes them."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import pyarrow as pa
import pyarrow.compute as pc

from hub_cards.dataset_card import DatasetFacts, SourceFacts, dataset_card
from vtrap_data.files import write_bytes
from vtrap_data.shards.index import count_values
from vtrap_data.shards.manifest import DATA, README, Manifest
from vtrap_data.shards.stats import describe


def write_card(root: Path, manifest: Manifest, index: pa.Table) -> None:
    """Write `README.md`, with the features declared so that stock `load_dataset` works.

    Args:
        root: The corpus folder.
        manifest: Its manifest.
        index: Its index.
    """
    write_bytes(root / README, dataset_card(dataset_facts(manifest, index)).encode())


def dataset_facts(manifest: Manifest, index: pa.Table, *, repo_id: str | None = None) -> DatasetFacts:
    """What a card says about a corpus; `repo_id` is `owner/name` where it is about to be published."""
    settings = manifest.settings
    firsts = index.filter(pc.equal(index["item_index"], 0))
    videos = index.filter(pc.equal(index["kind"], "video"))
    items = count_values(index, *_ORIGIN)
    facts = describe(manifest, index)
    return DatasetFacts(
        pretty_name=settings.name,
        repo_id=repo_id,
        description=settings.description,
        sources=tuple(
            SourceFacts(name=origin[0], licence=origin[1], redistributable=origin[2], samples=n, items=items[origin])
            for origin, n in count_values(firsts, *_ORIGIN).items()
        ),
        splits={settings.split: f"{DATA}/{settings.split}-*.tar"},
        n_samples=manifest.counts["samples"],
        n_items=manifest.counts["items"],
        kinds={kind: n for (kind,), n in count_values(firsts, "kind").items()},
        strategy=settings.strategy,
        params=dict(manifest.params),
        budgets={budget: n for (budget,), n in count_values(videos, "budget").items()},
        settings={
            "candidate budgets": ", ".join(map(str, settings.budgets)),
            "mean frames asked for": float(settings.mean_frames),
            "pool slots": settings.slots,
            "short side of frames": f"{settings.short_side} px",
            **({} if settings.fit is None else {"then at a size that this model takes as it is": settings.fit.model}),
            "stored at least": settings.store or "what some item needs",
        },
        provenance=dict(manifest.versions),
        quarantine=dict(Counter(entry.reason for entry in manifest.quarantine)),
        format_version=manifest.format,
        synthetic=settings.synthetic,
        histograms={
            title: facts[key]
            for title, key in (
                ("videos per duration", "durations"),
                ("video items per frames used", "frames"),
                ("items per visual tokens", "tokens"),
            )
            if facts[key]
        },
        frames_used=facts["frames_used"],
        benchmark=pc.all(index["benchmark"]).as_py() is not False,
    )


_ORIGIN = ("source", "licence", "redistributable")
