"""What does the make-up of a corpus look like? The histograms of `stats` as one picture."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

from vtrap_data.errors import UsageError
from vtrap_data.files import write_bytes

PANELS = (
    ("video items per budget", "budgets"),
    ("video items per frames used", "frames"),
    ("videos per duration", "durations"),
    ("items per visual tokens (roughly)", "tokens"),
    ("items per source", "sources"),
    ("samples per licence", "licences"),
)
MOST_BARS = 10
"""Longer histograms end in one bar for the rest."""


def draw(facts: dict[str, Any], out: Path) -> None:
    """Write the histograms of a corpus as a PNG.

    Args:
        facts: What `stats` returns.
        out: The picture.

    Raises:
        UsageError: matplotlib is not installed.
    """
    try:
        from matplotlib.figure import Figure
    except ImportError:
        raise UsageError('--png needs matplotlib: pip install "vtrap[bench]"') from None
    panels = [(title, facts[key]) for title, key in PANELS if facts[key]]
    figure = Figure(figsize=(11, 3 * -(-max(1, len(panels)) // 2)), layout="constrained")
    figure.suptitle(
        _plain(f"{facts['name']}: {facts['counts']['items']} items about {facts['counts']['samples']} samples")
    )
    for number, (title, histogram) in enumerate(panels, start=1):
        axes = figure.add_subplot(-(-len(panels) // 2), 2, number)
        bars = list(histogram.items())
        if len(bars) > MOST_BARS:
            rest = sum(count for _, count in bars[MOST_BARS - 1 :])
            bars = [*bars[: MOST_BARS - 1], (f"{len(bars) - MOST_BARS + 1} more", rest)]
        names = [_plain(name if len(name) <= 40 else f"{name[:37]}...") for name, _ in bars]
        axes.barh(range(len(bars)), [count for _, count in bars], color="#2563eb")
        axes.set_yticks(range(len(bars)), names, fontsize=8)
        axes.invert_yaxis()
        axes.set_title(title, fontsize=10)
        axes.margins(x=0.15)
        for place, (_, count) in enumerate(bars):
            axes.annotate(f" {count}", (count, place), va="center", fontsize=8)
        axes.spines[["top", "right"]].set_visible(False)
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=110, metadata={"Software": None})
    write_bytes(out, buffer.getvalue())


def _plain(text: str) -> str:
    """Text in which no dollar sign starts a formula."""
    return text.replace("$", r"\$")
