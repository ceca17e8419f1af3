"""What do the numbers of a report look like?

Each function draws one figure from the report's data (the content of `report.json`), so a figure can be drawn again
from that file alone. Figures are narrow with large type: they are read on phones too. Nothing in the data is ever read
as mathtext, so a name may hold any character.
"""

from __future__ import annotations

import io
import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple

import matplotlib as mpl
import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.colors import LinearSegmentedColormap, to_hex
from matplotlib.figure import Figure
from matplotlib.text import Annotation
from matplotlib.transforms import Bbox

from vtrap_data.errors import cut

Report = Mapping[str, Any]

WIDTH = 4.8
DPI = 200
_MOST_COLUMNS = 7
_SHADE = 0.6  # Exponent: with 1, a change of 5 points would be invisible beside one of 50.


@dataclass(frozen=True, slots=True, kw_only=True)
class Theme:
    """The colours of one appearance.

    Attributes:
        paper: Background.
        ink: Text and the base.
        muted: Secondary text.
        grid: Lines behind the data.
        ramp: First and last colour of the fixed frame counts, fewest first.
        hybrid: Packed hybrid budgets.
        random: The shuffled control.
        others: Any other strategy, in turn.
        change: Loss, no change, gain.
    """

    paper: str
    ink: str
    muted: str
    grid: str
    ramp: tuple[str, str]
    hybrid: str
    random: str
    others: tuple[str, ...]
    change: tuple[str, str, str]


LIGHT = Theme(
    paper="#ffffff",
    ink="#1b1f24",
    muted="#5f6975",
    grid="#e3e7eb",
    ramp=("#4f93cf", "#0b3a75"),
    hybrid="#d9480f",
    random="#767f88",
    others=("#0c8577", "#7a4fb5", "#a8750a"),
    change=("#b5342b", "#f7f7f5", "#1f6fb2"),
)
DARK = Theme(
    paper="#14181d",
    ink="#e8ebee",
    muted="#a3adb8",
    grid="#2c333b",
    ramp=("#5b8fc7", "#c4e0ff"),
    hybrid="#ff8142",
    random="#98a2ad",
    others=("#3cc2b0", "#b596ec", "#e0b04a"),
    change=("#d4574d", "#22282f", "#3f8fd6"),
)


class Drawn(NamedTuple):
    """A figure as PNG bytes, and its size in CSS pixels."""

    png: bytes
    width: int
    height: int


def draw_all(report: Report, *, theme: Theme = LIGHT) -> dict[str, Drawn]:
    """Draw every figure the report has data for, by name, in reading order.

    Names: `trade_off`, `trade_off_common`, `abilities`, `frame_curve`, `cost`.
    """
    colours = setting_colours(report["summary"], theme)
    drawn = {}
    with _style(theme):
        for name, figure in (
            ("trade_off", trade_off(report, colours, theme)),
            ("trade_off_common", trade_off(report, colours, theme, common=True)),
            ("abilities", abilities(report, colours, theme)),
            ("frame_curve", frame_curve(report, colours, theme)),
            ("cost", cost(report, colours, theme)),
        ):
            if figure is not None:
                drawn[name] = _png(figure)
    return drawn


def setting_colours(settings: Iterable[Mapping[str, Any]], theme: Theme) -> dict[str, str]:
    """A colour for each setting by what it is: fixed counts a ramp, hybrid the accent, random grey, others in turn.

    Args:
        settings: Each with `name`, `frames` (a number, "hybrid" or "budget") and `strategy`.
        theme: Where the colours come from.
    """
    settings = list(settings)
    counts = sorted({s["frames"] for s in settings if isinstance(s["frames"], int)})
    ramp = LinearSegmentedColormap.from_list("ramp", theme.ramp)
    colours: dict[str, str] = {}
    others = 0
    for setting in settings:
        fixed = None
        if isinstance(setting["frames"], int):
            fixed = to_hex(ramp(counts.index(setting["frames"]) / (len(counts) - 1) if len(counts) > 1 else 0.6))
        if fixed is not None and fixed not in colours.values():
            colours[setting["name"]] = fixed
        elif setting["strategy"] in (None, "hybrid") and theme.hybrid not in colours.values():
            colours[setting["name"]] = theme.hybrid
        elif setting["strategy"] == "random" and theme.random not in colours.values():
            colours[setting["name"]] = theme.random
        else:
            colours[setting["name"]] = theme.others[others % len(theme.others)]
            others += 1
    return colours


def trade_off(report: Report, colours: Mapping[str, str], theme: Theme, *, common: bool = False) -> Figure | None:
    """Image change against video change, in points; the base is the origin. None without both.

    Args:
        report: The report.
        colours: By setting name.
        theme: Appearance.
        common: Scored at the common number of frames, instead of at the frames trained with.
    """

    def view(entry: Mapping[str, Any]) -> Mapping[str, Any] | None:
        found = entry.get("common") if common else entry
        return found if found and found["image_change"] and found["video_change"] else None

    means = [(s["name"], v) for s in report["summary"] if (v := view(s))]
    if not means:
        return None
    fig, (ax,) = _figure(theme, height=4.1)
    for entry in report["settings"]:
        single = view(entry)
        if single and len([s for s in report["settings"] if s["name"] == entry["name"]]) > 1:
            x, y = single["video_change"]["value"], single["image_change"]["value"]
            ax.plot(x, y, "o", ms=4, mec="none", mfc=colours[entry["name"]], alpha=0.4, zorder=2)
    ax.axhline(0, color=theme.muted, lw=0.9, zorder=1)
    ax.axvline(0, color=theme.muted, lw=0.9, zorder=1)
    ax.plot(0, 0, "o", ms=8, mfc=theme.paper, mec=theme.ink, mew=1.5, zorder=4)
    labels = [_Label(0.0, 0.0, "base", theme.ink)]
    for name, mean in means:
        x, y = mean["video_change"], mean["image_change"]
        colour = colours[name]
        at = (x["value"], y["value"])
        ax.errorbar(*at, xerr=_bars(x), yerr=_bars(y), fmt="none", ecolor=colour, elinewidth=1.4, zorder=3)
        ax.plot(*at, "o", ms=9, mfc=colour, mec=theme.paper, mew=1.2, zorder=5)
        labels.append(_Label(*at, name, colour))
    ax.margins(0.12)
    # Changes of hundredths of a point must not fill the figure.
    ax.set_xlim(min(ax.get_xlim()[0], -1.0), max(ax.get_xlim()[1], 1.0))
    ax.set_ylim(min(ax.get_ylim()[0], -1.0), max(ax.get_ylim()[1], 1.0))
    ax.set_xlabel("video change (points)")
    ax.set_ylabel("image change (points)")
    _signed(ax, "xy")
    _grid(ax, theme, "both")
    if ax.get_xlim()[1] > 0 > ax.get_ylim()[0]:
        ax.text(0.985, 0.02, "video gained, image lost", transform=ax.transAxes, **_note(theme, "right", "bottom"))
    if ax.get_xlim()[1] > 0 and ax.get_ylim()[1] > 0.12 * -ax.get_ylim()[0]:
        ax.text(0.985, 0.98, "both gained", transform=ax.transAxes, **_note(theme, "right", "top"))
    _place(fig, ax, labels)
    return fig


def abilities(report: Report, colours: Mapping[str, str], theme: Theme) -> Figure | None:
    """Heat map: change against the base for each ability (rows) and setting (columns); image above video."""
    settings = report["summary"]
    groups: list[tuple[str, list[tuple[str, str]]]] = []
    for modality in ("image", "video"):
        tasks = [t for t, facts in report["tasks"].items() if facts["modality"] == modality]
        rows = [(t, a) for t in tasks for a in report["base"]["abilities"].get(t, {})]
        if rows:
            groups.append((modality, rows))
    if not groups or not settings:
        return None
    shared = [a for a, found in report["base"].get("across", {}).items() if len(found["tasks"]) > 1]
    if shared:
        groups.append(("across", [("", a) for a in shared]))
    counts = [len(rows) for _, rows in groups]
    width = WIDTH + 0.62 * max(len(settings) - _MOST_COLUMNS, 0)
    fig, axes = _figure(theme, height=1.0 + 0.29 * sum(counts) + 0.35 * len(counts), ratios=counts, width=width)
    tables = [
        np.array([[_ability_change(s, t, a) for s in settings] for t, a in rows], dtype=float) for _, rows in groups
    ]
    finite = np.concatenate([np.abs(table[np.isfinite(table)]) for table in tables])
    limit = max(float(finite.max()) if finite.size else 0.0, 5.0)
    cmap = LinearSegmentedColormap.from_list("change", theme.change)
    for ax, (modality, rows), table in zip(axes, groups, tables, strict=True):
        many = len({t for t, _ in rows}) > 1
        shades = np.sign(table) * (np.abs(table) / limit) ** _SHADE
        ax.imshow(np.ma.masked_invalid(shades), cmap=cmap, vmin=-1, vmax=1, aspect="auto", interpolation="nearest")
        for i, j in np.ndindex(table.shape):
            if math.isfinite(table[i, j]):
                face = cmap((shades[i, j] + 1) / 2)
                dark = 0.299 * face[0] + 0.587 * face[1] + 0.114 * face[2] < 0.55
                ink = "#ffffff" if dark else "#1b1f24"
                ax.text(j, i, _points(float(table[i, j])), ha="center", va="center", fontsize=8, color=ink)
        sheet = report["base"]
        base = [(sheet["abilities"][t] if t else sheet["across"])[a]["score"] for t, a in rows]
        names = [cut(f"{t}: {a}" if many else a, 24) for t, a in rows]
        ax.set_yticks(range(len(rows)), [f"{n}  {_number(b)}" for n, b in zip(names, base, strict=True)])
        ax.set_xticks(np.arange(len(settings) + 1) - 0.5, minor=True)
        ax.set_yticks(np.arange(len(rows) + 1) - 0.5, minor=True)
        ax.grid(which="minor", color=theme.paper, lw=1.6)
        ax.tick_params(which="both", length=0)
        for spine in ax.spines.values():
            spine.set_visible(False)
        ax.set_xticks([])
        ax.set_ylabel(modality, fontsize=10, color=theme.ink)
    top = axes[0]
    long = max(len(cut(s["name"], 20)) for s in settings) > 40 // len(settings)
    top.set_xticks(range(len(settings)), [cut(s["name"], 20) for s in settings])
    top.xaxis.tick_top()
    for label, setting in zip(top.get_xticklabels(), settings, strict=True):
        label.set(rotation=40 if long else 0, ha="left" if long else "center", rotation_mode="anchor")
        label.set_color(colours[setting["name"]])
    head: dict[str, Any] = {"ha": "right", "va": "bottom", "textcoords": "offset points", "color": theme.muted}
    top.annotate("base", (0, 1), (-4, 4), xycoords="axes fraction", **head)
    axes[-1].set_xlabel("score of the base, and change against it in points", color=theme.muted, fontsize=8)
    return fig


def frame_curve(report: Report, colours: Mapping[str, str], theme: Theme) -> Figure | None:
    """Video score against the number of frames shown, one line per checkpoint, with its image score beside it."""
    curves = [c for c in report["curve"] if any(isinstance(p["frames"], int) for p in c["points"])]
    if not curves:
        return None
    fig, (ax,) = _figure(theme, height=3.9)
    counts = sorted({p["frames"] for c in curves for p in c["points"] if isinstance(p["frames"], int)})
    low, high = math.log2(counts[0]), math.log2(counts[-1])
    step = (high - low) / max(len(counts) - 1, 1) or 1.0
    image_at = low - 1.1 * step
    with_image = any(c["image"] for c in curves)
    ends = []
    for i, curve in enumerate(curves):
        colour = theme.ink if curve["setting"] is None else colours[curve["setting"]]
        points = [p for p in curve["points"] if isinstance(p["frames"], int) and p["video"]]
        xs = [math.log2(p["frames"]) for p in points]
        ys = [p["video"]["score"] for p in points]
        band = [p["video"]["ci"] for p in points]
        dash = "--" if curve["setting"] is None else "-"
        ax.fill_between(xs, [b[0] for b in band], [b[1] for b in band], color=colour, alpha=0.10, lw=0)
        ax.plot(xs, ys, dash, marker="o", color=colour, lw=1.8, ms=4.5, zorder=3)
        for p in curve["points"]:
            if p["frames"] == "budget" and p["video"] and p["mean_frames"]:
                style: dict[str, Any] = {
                    "marker": "D",
                    "ms": 6.5,
                    "mfc": theme.paper,
                    "mec": colour,
                    "mew": 1.6,
                    "zorder": 4,
                }
                ax.plot(math.log2(p["mean_frames"]), p["video"]["score"], **style)
        if curve["image"]:
            at = image_at + 0.16 * step * (i - (len(curves) - 1) / 2)
            y = curve["image"]
            ax.errorbar(at, y["score"], yerr=_bars(y, "score"), fmt="s", ms=5, color=colour, elinewidth=1.2, zorder=3)
        if ys:
            ends.append(_Label(xs[-1], ys[-1], curve["name"], colour))
    ticks = [math.log2(n) for n in counts]
    names = [str(n) for n in counts]
    if with_image:
        ticks, names = [image_at, *ticks], ["image", *names]
        ax.axvline(low - 0.55 * step, color=theme.grid, lw=1)
    ax.set_xticks(ticks, names)
    if with_image:
        ax.get_xticklabels()[0].set_color(theme.muted)
    ax.set_xlim((image_at if with_image else low) - 0.5 * step, high + 0.2 * step)
    ax.set_xlabel("frames of the video shown")
    ax.set_ylabel("score")
    _grid(ax, theme, "y")
    if any(p["frames"] == "budget" for c in curves for p in c["points"]):
        ax.set_title("◇ at each item's packed budget, drawn at the mean", fontsize=8, color=theme.muted, loc="left")
    _ends(fig, ax, ends)
    return fig


def cost(report: Report, colours: Mapping[str, str], theme: Theme) -> Figure | None:
    """Video score (above) and image score (below) against the visual tokens seen in training."""
    summary = [s for s in report["summary"] if s["train_visual_tokens"]]
    kinds = [k for k in ("video", "image") if report["base"][k] and any(s[k] for s in summary)]
    if not summary or not kinds:
        return None
    most = max(s["train_visual_tokens"] for s in summary)
    unit, word = next(
        ((u, w) for u, w in ((1e9, "billions"), (1e6, "millions"), (1e3, "thousands")) if most >= u), (1, "")
    )
    fig, axes = _figure(theme, height=2.6 * len(kinds) + 0.4, ratios=[1] * len(kinds), share_x=True)
    for ax, kind in zip(axes, kinds, strict=True):
        labels = []
        for s in summary:
            x, colour, y = s["train_visual_tokens"] / unit, colours[s["name"]], s[kind]
            singles = [
                e for e in report["settings"] if e["name"] == s["name"] and e["train_visual_tokens"] and e[kind]
            ]
            for e in singles if len(singles) > 1 else []:
                at = e["train_visual_tokens"] / unit
                ax.plot(at, e[kind]["score"], "o", ms=4, mec="none", mfc=colour, alpha=0.4, zorder=2)
            if y:
                ax.errorbar(x, y["score"], yerr=_bars(y, "score"), fmt="none", ecolor=colour, elinewidth=1.4, zorder=3)
                ax.plot(x, y["score"], "o", ms=9, mfc=colour, mec=theme.paper, mew=1.2, zorder=5)
                labels.append(_Label(x, y["score"], s["name"], colour))
        base = report["base"][kind]["score"]
        ax.axhline(base, color=theme.ink, lw=1.2, ls="--", zorder=1)
        ax.margins(x=0.15, y=0.2)
        ax.set_xlim(left=min(0.0, ax.get_xlim()[0]))
        ax.set_ylim(max(ax.get_ylim()[0], -3.0), min(ax.get_ylim()[1], 103.0))
        ax.set_ylabel(f"{kind} score")
        _grid(ax, theme, "y")
        name: dict[str, Any] = {"ha": "left", "va": "bottom", "fontsize": 8.5, "color": theme.ink}
        # At the left edge, where no setting lies: none trains on zero tokens.
        ax.annotate("base", (0, base), (3, 2), xycoords=("axes fraction", "data"), textcoords="offset points", **name)
        _place(fig, ax, labels)
    axes[-1].set_xlabel(f"visual tokens seen in training{f' ({word})' if word else ''}")
    return fig


# Parts shared by the figures.


class _Label(NamedTuple):
    x: float
    y: float
    text: str
    colour: str


@contextmanager
def _style(theme: Theme) -> Iterator[None]:
    with mpl.rc_context(
        {
            "text.usetex": False,
            "text.parse_math": False,
            "font.size": 9,
            "axes.labelsize": 9,
            "axes.edgecolor": theme.grid,
            "axes.labelcolor": theme.ink,
            "axes.spines.top": False,
            "axes.spines.right": False,
            "text.color": theme.ink,
            "xtick.color": theme.grid,
            "ytick.color": theme.grid,
            "xtick.labelcolor": theme.ink,
            "ytick.labelcolor": theme.ink,
            "axes.unicode_minus": True,
        }
    ):
        yield


def _figure(
    theme: Theme,
    *,
    height: float,
    ratios: Sequence[int] = (1,),
    width: float = WIDTH,
    share_x: bool = False,
) -> tuple[Figure, list[Axes]]:
    fig = Figure(figsize=(width, height), dpi=DPI, facecolor=theme.paper)
    fig.set_layout_engine("constrained", h_pad=0.06, w_pad=0.06)
    grid = fig.subplots(len(ratios), 1, squeeze=False, sharex=share_x, gridspec_kw={"height_ratios": list(ratios)})
    axes = list(grid[:, 0])
    for ax in axes:
        ax.set_facecolor(theme.paper)
    return fig, axes


def _png(figure: Figure) -> Drawn:
    buffer = io.BytesIO()
    # No metadata: the same numbers give the same bytes.
    figure.savefig(buffer, format="png", dpi=DPI, metadata={"Software": None})
    width, height = figure.get_size_inches() * 100
    return Drawn(buffer.getvalue(), round(width), round(height))


def _bars(estimate: Mapping[str, Any], key: str = "value") -> list[list[float]] | None:
    """Distances from the value to the ends of its interval, as `errorbar` wants them."""
    if not estimate["ci"]:
        return None
    low, high = estimate["ci"]
    return [[max(estimate[key] - low, 0.0)], [max(high - estimate[key], 0.0)]]


def _ability_change(setting: Mapping[str, Any], task: str, ability: str) -> float:
    found = (setting["abilities"].get(task, {}) if task else setting["across"]).get(ability)
    return float(found["change"]["value"]) if found and found["change"] else math.nan


def _points(value: float) -> str:
    text = f"{value:+.1f}".replace("-", "−")
    return "0.0" if text in ("+0.0", "−0.0") else text


def _number(value: float | None) -> str:
    return "" if value is None else f"{value:.0f}"


def _signed(ax: Axes, which: str) -> None:
    def show(value: float, _position: float) -> str:
        return "0" if abs(value) < 1e-9 else f"{value:+g}".replace("-", "−")

    for axis in which:
        (ax.xaxis if axis == "x" else ax.yaxis).set_major_formatter(show)


def _grid(ax: Axes, theme: Theme, axis: Literal["both", "x", "y"]) -> None:
    ax.grid(axis=axis, color=theme.grid, lw=0.7, zorder=0)
    ax.set_axisbelow(True)
    ax.tick_params(length=0)


def _note(theme: Theme, ha: str, va: str) -> dict[str, Any]:
    return {"ha": ha, "va": va, "fontsize": 8, "color": theme.muted, "style": "italic", "zorder": 1}


_NEAR = 22.0  # points: a label further away from its point needs a line to it
_AWAY = [
    (math.cos(angle) * far, math.sin(angle) * far)
    for far in (9, 15, _NEAR, 32, 44, 58, 76, 96)
    for angle in np.deg2rad([35, -35, 145, -145, 90, -90, 0, 180, 60, -60, 120, -120, 15, -15, 165, -165])
]


def _place(fig: Figure, ax: Axes, labels: Sequence[_Label]) -> None:
    """Write each label at the nearest place where it covers no point, bar, line or label already there."""
    canvas = FigureCanvasAgg(fig)
    canvas.draw()  # Settles the layout: overlap is measured in pixels.
    renderer = canvas.get_renderer()
    scale = fig.dpi / 72
    taken = [t.get_window_extent(renderer) for t in ax.texts]
    taken += [line.get_window_extent(renderer).padded(scale) for line in ax.lines]
    for lines in ax.collections:
        for path in lines.get_paths():
            ends = ax.transData.transform(path.vertices)
            taken.append(Bbox([ends.min(axis=0), ends.max(axis=0)]).padded(1.5 * scale))
    inside = ax.get_window_extent(renderer)
    points = ax.transData.transform([(label.x, label.y) for label in labels])
    for label, point in zip(labels, points, strict=True):
        others = points[np.hypot(*(points - point).T) > scale]
        text = cut(label.text, 24)
        note = ax.annotate(text, (label.x, label.y), (0, 0), textcoords="offset points", color=label.colour)
        note.set(fontsize=8.5, fontweight="bold", in_layout=False, zorder=6)
        prices = []
        for dx, dy in _AWAY:
            _beside(note, dx, dy)
            box = note.get_window_extent(renderer).padded(scale)
            covered = sum(_overlap(box, other) for other in taken)
            outside = box.width * box.height - _overlap(box, inside)
            way = point + np.outer(np.linspace(0, scale, 9), (dx, dy))  # it must not lead past another point
            near = int((np.hypot(*(way[:, None] - others).T) < 7 * scale).any(1).sum())
            prices.append(100 * (covered + 4 * outside) + (math.hypot(dx, dy) + 40 * near) * scale)
        away = _AWAY[int(np.argmin(prices))]
        _beside(note, *away)
        taken.append(note.get_window_extent(renderer))
        if math.hypot(*away) > _NEAR + 1:
            line = {"arrowstyle": "-", "color": label.colour, "lw": 0.8, "shrinkA": 0, "shrinkB": 4}
            to = ax.annotate("", (label.x, label.y), away, textcoords="offset points", arrowprops=line)
            to.set_in_layout(False)


def _beside(note: Annotation, dx: float, dy: float) -> None:
    """Put a label so far from its point, that side of it towards the point on which a line would arrive."""
    sideways = "left" if dx > 1 else "right" if dx < -1 else "center"
    upright = "center" if abs(dx) > 1 else "bottom" if dy > 0 else "top"
    note.set(position=(dx, dy), ha=sideways, va=upright)


def _ends(fig: Figure, ax: Axes, labels: Sequence[_Label]) -> None:
    """Write each label right of the end of its line, pushed apart where they would overlap."""
    notes = []
    for label in sorted(labels, key=lambda one: one.y):
        note = ax.annotate(
            cut(label.text, 18), (label.x, label.y), (7, 0), textcoords="offset points", color=label.colour
        )
        note.set(fontsize=8.5, fontweight="bold", va="center", annotation_clip=False)
        notes.append(note)
    canvas = FigureCanvasAgg(fig)
    canvas.draw()
    renderer = canvas.get_renderer()
    boxes = [note.get_window_extent(renderer) for note in notes]
    centres = [(box.y0 + box.y1) / 2 for box in boxes]
    gap = max((box.height for box in boxes), default=0.0) * 1.05
    for _ in range(50):
        for i in range(1, len(centres)):
            if (lack := gap - (centres[i] - centres[i - 1])) > 0:
                centres[i - 1] -= lack / 2
                centres[i] += lack / 2
    for note, box, centre in zip(notes, boxes, centres, strict=True):
        note.set_position((7, (centre - (box.y0 + box.y1) / 2) * 72 / fig.dpi))


def _overlap(a: Bbox, b: Bbox) -> float:
    """Area in square pixels that two boxes share."""
    wide = min(a.x1, b.x1) - max(a.x0, b.x0)
    high = min(a.y1, b.y1) - max(a.y0, b.y0)
    return float(max(wide, 0.0) * max(high, 0.0))
