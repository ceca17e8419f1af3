"""What do image and video gradients look like side by side? Draws `gradients.png` from the content of the JSON."""

from __future__ import annotations

import io
from collections.abc import Mapping
from typing import Any

import matplotlib as mpl
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

# Line, colour and marker of each measure: told apart without colour, too.
COSINES = {
    "plain/video": ("the video", "#1b4f72", "o"),
    "plain/shared": ("one frame repeated", "#2e8b57", "s"),
    "plain/temporal": ("temporal rest", "#c0392b", "^"),
    "plain/shuffled": ("frames shuffled", "#8e8e8e", "x"),
}
LENGTHS = {
    "plain-length/image": ("image", "#1b4f72", "o"),
    "plain-length/shared": ("one frame repeated", "#2e8b57", "s"),
    "plain-length/temporal": ("temporal rest", "#c0392b", "^"),
    "plain-length/order": ("video minus shuffled", "#8e8e8e", "x"),
}
SIGNALS = {
    "signal/image": ("image", "#1b4f72", "o"),
    "signal/video": ("video", "#c0392b", "^"),
}
TITLES = {"vision": "vision tower", "projector": "projector", "language": "language model"}


def figure_bytes(found: Mapping[str, Any]) -> bytes:
    """The figure as PNG: a column per module group; from above cosines, lengths, share of signal.

    Args:
        found: The content of `gradients.json`.
    """
    counts = [int(count) for count in found["frames"]]
    groups = [g for g in TITLES if g in found["frames"][str(counts[0])]["groups"]]
    figure = Figure(figsize=(3.4 * len(groups) + 2.2, 8.6), layout="constrained")
    FigureCanvasAgg(figure)
    with mpl.rc_context({"font.size": 10, "text.parse_math": False}):
        axes = figure.subplots(3, len(groups), sharex=True, sharey="row", squeeze=False)
        for column, group in enumerate(groups):
            rows = [found["frames"][str(count)]["groups"][group] for count in counts]
            _lines(axes[0][column], counts, rows, COSINES)
            _lines(axes[1][column], counts, rows, LENGTHS)
            axes[0][column].set_title(TITLES[group])
            axes[0][column].axhline(0, color="#444444", linewidth=0.8)
            axes[0][column].set_ylim(-1.05, 1.05)
            _lines(axes[2][column], counts, rows, SIGNALS)
            axes[1][column].set_ylim(0, 3)
            axes[2][column].set_ylim(-0.35, 1.05)
            axes[2][column].axhline(0, color="#444444", linewidth=0.8)
            axes[2][column].set_xlabel("frames")
        axes[0][0].set_ylabel("cosine with the image gradient")
        axes[1][0].set_ylabel("length / video gradient's")
        axes[2][0].set_ylabel("signal in the squared length")
        for row in axes:
            if row[0].get_legend_handles_labels()[0]:  # beside the row: lines may run anywhere in it
                row[-1].legend(
                    *row[0].get_legend_handles_labels(), loc="center left", bbox_to_anchor=(1.02, 0.5), frameon=False
                )
        figure.suptitle(
            f"Gradients of {_short(found['model'])}: {found['batches']} batches of {found['image_batch_size']} images "
            f"and {found['batch_size']} clips, "
            "95 % intervals over batches",
            fontsize=11,
        )
        with io.BytesIO() as file:
            figure.savefig(file, format="png", dpi=160, metadata={"Software": None})
            return file.getvalue()


def _lines(
    axes: Axes, counts: list[int], rows: list[Mapping[str, Any]], names: Mapping[str, tuple[str, str, str]]
) -> None:
    for name, (label, colour, marker) in names.items():
        drawn = [(c, row[name]) for c, row in zip(counts, rows, strict=True) if row[name]["value"] is not None]
        if not drawn:
            continue
        x = [c for c, _ in drawn]
        axes.plot(x, [e["value"] for _, e in drawn], color=colour, marker=marker, markersize=5, label=label)
        sure = [(c, e["low"], e["high"]) for c, e in drawn if e["low"] is not None]
        axes.fill_between(
            [c for c, _, _ in sure],
            [a for _, a, _ in sure],
            [b for _, _, b in sure],
            color=colour,
            alpha=0.15,
            linewidth=0,
        )
    axes.set_xscale("log", base=2)
    axes.set_xticks(counts, [str(c) for c in counts])
    axes.grid(color="#dddddd", linewidth=0.6)


def _short(name: str) -> str:
    return name if len(name) <= 40 else "…" + name[-39:]
