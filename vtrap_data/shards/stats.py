"""What is in a packed corpus? Counts, histograms, visual tokens and frames used, from the index alone."""

from __future__ import annotations

from bisect import bisect
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from vtrap_data.errors import printable
from vtrap_data.shards.index import count_values, read_index
from vtrap_data.shards.manifest import Manifest, read_manifest
from vtrap_data.shards.tokens import frame_tokens, image_tokens

TOKEN_EDGES = (64, 256, 1024, 4096, 16384)
"""Visual tokens at which the bars of the token histogram end."""

DURATION_EDGES = (2.0, 5.0, 10.0, 30.0, 60.0, 180.0, 600.0)
"""Seconds at which the bars of the duration histogram end."""


_COLUMNS = (
    *("item_index", "kind", "source", "ability", "budget", "n_frames", "distinct", "duration"),
    *("json_size", "frames_size", "images_size", "licence", "redistributable", "width", "height", "n_images"),
)


def stats(root: Path) -> dict[str, Any]:
    """The facts of a corpus, ready for JSON.

    Returns:
        name, split, strategy, params, counts; bytes (of the shards, and per member kind); kinds, sources, licences
        (samples per licence, with what may be done), abilities; budgets (items per budget), frames (items per frames
        really used), durations (videos per range of seconds), tokens (items per range of visual tokens, see
        `shards.tokens`; several images count as if all had the size of the first) and tokens_total; frames_used: mean
        frames per video item as packed, and had each fixed budget been given, where a video never gives more frames
        than its pool has distinct ones; quarantine.

    Raises:
        UsageError: `root` is no packed corpus.
    """
    return describe(read_manifest(root), read_index(root, _COLUMNS))


def describe(manifest: Manifest, index: pa.Table) -> dict[str, Any]:
    """The same, of a manifest and an index that have been read already."""
    index = index.select(_COLUMNS)
    firsts = index.filter(pc.equal(index["item_index"], 0))
    videos = index.filter(pc.equal(index["kind"], "video"))
    tokens: Counter[int] = Counter()
    for looks, n in count_values(index.filter(pc.not_equal(index["kind"], "text")), *_LOOKS).items():
        tokens[_tokens(*looks)] += n
    used: dict[str, float] = {}
    if videos.num_rows:
        used["packed"] = pc.sum(videos["n_frames"]).as_py() / videos.num_rows
        for budget in manifest.settings.budgets:
            shown = pc.min_element_wise(videos["distinct"], budget)
            used[f"fixed:{budget}"] = pc.sum(shown).as_py() / videos.num_rows
    return {
        "name": manifest.settings.name,
        "split": manifest.settings.split,
        "strategy": manifest.settings.strategy,
        "params": dict(manifest.params),
        "counts": dict(manifest.counts),
        "bytes": {
            "shards": sum(shard.bytes for shard in manifest.shards),
            **{kind: pc.sum(firsts[f"{kind}_size"]).as_py() or 0 for kind in ("json", "frames", "images")},
        },
        "kinds": _histogram(_one(index, "kind")),
        "sources": _histogram(_one(index, "source")),
        "licences": _histogram(
            Counter({f"{name}, {_MAY[may]}": n for (name, may), n in count_values(firsts, *_TERMS).items()})
        ),
        "abilities": _histogram(_one(index, "ability")),
        "budgets": _numbers(_one(videos, "budget")),
        "frames": _numbers(_one(videos, "n_frames")),
        "durations": _ranges(_one(firsts, "duration"), DURATION_EDGES, " s"),
        "tokens": _ranges(tokens, TOKEN_EDGES, ""),
        "tokens_total": sum(size * n for size, n in tokens.items()),
        "frames_used": used,
        "quarantine": _histogram(Counter(entry.reason for entry in manifest.quarantine)),
    }


def as_text(facts: dict[str, Any]) -> str:
    """The facts as a page of text."""
    counts, size = facts["counts"], facts["bytes"]
    params = {name: value for name, value in facts["params"].items() if not isinstance(value, str)}
    solved = [f", {printable(name)} {value:.4g}" for name, value in params.items()]
    lines = [
        f"{printable(facts['name'])} ({facts['split']}): {counts['items']} items about {counts['samples']} samples, "
        f"{size['shards'] / 1e6:.1f} MB",
        f"strategy {printable(facts['strategy'])}{''.join(solved)}",
        f"bytes: frames {size['frames'] / 1e6:.1f} MB, images {size['images'] / 1e6:.1f} MB, "
        f"json {size['json'] / 1e6:.1f} MB; {counts['frames_stored']} frames stored",
    ]
    if counts["duplicate_media"]:
        lines.append(f"{counts['duplicate_media']} media files are stored more than once")
    for title, key in (
        ("items per kind", "kinds"),
        ("items per source", "sources"),
        ("samples per licence", "licences"),
        ("items per ability", "abilities"),
        ("video items per budget", "budgets"),
        ("video items per frames used", "frames"),
        ("videos per duration", "durations"),
        ("items per visual tokens (roughly)", "tokens"),
        ("set aside", "quarantine"),
    ):
        if facts[key]:
            lines += ["", title, *_bars(facts[key])]
    if facts["frames_used"]:
        packed = facts["frames_used"]["packed"]
        lines += ["", "mean frames per video item"]
        for name, mean in facts["frames_used"].items():
            saved = f"   packed uses {packed / mean:.2f}x of it" if name != "packed" and mean else ""
            lines.append(f"  {name:<10}{mean:8.2f}{saved}")
    return "\n".join(lines)


def _one(table: pa.Table, column: str) -> Counter[Any]:
    """How often each value of a column occurs, gaps left out."""
    return Counter({value: n for (value,), n in count_values(table, column).items() if value is not None})


def _histogram(counted: Counter[Any]) -> dict[str, int]:
    return {str(name): n for name, n in counted.most_common()}


def _numbers(counted: Counter[int]) -> dict[str, int]:
    return {str(number): n for number, n in sorted(counted.items())}


def _ranges(counted: Counter[Any], edges: Sequence[float], unit: str) -> dict[str, int]:
    bars: Counter[str] = Counter()
    names = [f"< {edge:g}{unit}" for edge in edges] + [f">= {edges[-1]:g}{unit}"]
    for value, n in counted.items():
        bars[names[bisect(edges, value)]] += n
    return {name: bars[name] for name in names if bars[name]}


_LOOKS = ("kind", "n_frames", "n_images", "width", "height")
_TERMS = ("licence", "redistributable")


def _tokens(kind: str, n_frames: int, n_images: int, width: int, height: int) -> int:
    return frame_tokens(n_frames, width, height) if kind == "video" else n_images * image_tokens(width, height)


_MAY = {True: "may be passed on", False: "may not be passed on", None: "not known whether it may be passed on"}


def _bars(histogram: dict[str, int]) -> list[str]:
    shown = [(printable(name), n) for name, n in histogram.items()]
    most = max(n for _, n in shown)
    width = max(len(name) for name, _ in shown)
    return [f"  {name:<{width}} {n:>8} {'█' * max(1, round(30 * n / most))}" for name, n in shown]
