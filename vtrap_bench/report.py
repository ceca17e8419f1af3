"""How is a study shown? One HTML file that opens offline, `report.json`, PNG figures, and a table for the terminal.

The numbers are made by `vtrap_bench.changes`, the figures by `vtrap_bench.figures`. Everything that comes from a
benchmark or a model is escaped, and the page allows neither scripts nor any request.
"""

from __future__ import annotations

import argparse
import base64
import hashlib
import json
import platform
import shutil
import sys
import unicodedata
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from importlib import metadata, resources
from pathlib import Path
from typing import Any, NamedTuple

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup
from tqdm import tqdm

from vtrap_bench import changes, figures
from vtrap_bench.study_file import STUDY_RECORD
from vtrap_data.errors import UsageError, cut
from vtrap_data.files import write_bytes
from vtrap_data.parsing import finite

EXAMPLES = """\
examples:
  python -m vtrap_bench report runs/study                              # again, from a study's finished runs
  python -m vtrap_bench report runs/base runs/tuned --out runs/report  # the first run is the base
"""

LIBRARIES = ("vtrap", "torch", "transformers", "trl", "numpy", "pillow", "av")

CAPTIONS = {
    "trade_off": (
        "Trade-off, {at}",
        "Image change against video change, each against the base at equal frames, with 95 % intervals. Small dots "
        "are seeds. Up and to the right is better.",
    ),
    "trade_off_common": (
        "Trade-off, at {common} frames for all",
        "The same checkpoints, every one shown {common} frames of each video, whatever it was trained with.",
    ),
    "abilities": (
        "What moved",
        "Change of each ability against the base, {at}; below the line, abilities that several "
        "tasks test, each task counting alike. A table below has the same numbers.",
    ),
    "frame_curve": (
        "Frames shown",
        "Video score against the number of frames shown in the test, with 95 % intervals over items. Squares: image "
        "score, which does not depend on frames.",
    ),
    "cost": (
        "Cost",
        "Scores {at}, against all visual tokens the model saw in training.",
    ),
}


class _Column(NamedTuple):
    head: str
    cell: Callable[[Mapping[str, Any]], str]
    rank: int  # Columns with the highest rank are dropped first where the terminal is narrow.


def write_report(paths: Sequence[Path], *, out: Path, benchmarks: Path | None = None) -> dict[str, Any]:
    """Write `report.html`, `report.json` and `figures/*.png` into `out`.

    Args:
        paths: One study folder, or folders of finished runs of which the first is the base.
        out: Where to write.
        benchmarks: Folder of packed benchmarks, for pictures of items; None: that of the study, or the cache.

    Returns:
        What `report.json` holds.

    Raises:
        UsageError: The paths are neither, or runs cannot be compared.
    """
    if len(paths) == 1 and (paths[0] / STUDY_RECORD).exists():
        material = changes.read_runs_of_study(paths[0])
    elif len(paths) == 1:
        need = "give the folder of a study, or at least two runs with the base first"
        raise UsageError(f"{paths[0]} is no study (it has no {STUDY_RECORD}): {need}")
    else:
        material = changes.read_runs(paths)
    if benchmarks is not None:
        material = replace(material, benchmarks=benchmarks)
    report = finite(changes.build(material, versions=_versions()))
    # Back through JSON: the page and the figures show exactly what the file holds.
    text = json.dumps(report, indent=1, allow_nan=False)
    report = dict(json.loads(text))
    drawn: dict[str, dict[str, figures.Drawn]] = {}
    themes = {"light": figures.LIGHT, "dark": figures.DARK}
    for name, theme in tqdm(themes.items(), desc="drawing", leave=False, disable=not sys.stderr.isatty()):
        drawn[name] = figures.draw_all(report, theme=theme)
    for theme_name, some in drawn.items():
        for name, figure in some.items():
            suffix = "" if theme_name == "light" else "_dark"
            write_bytes(out / "figures" / f"{name}{suffix}.png", figure.png)
    write_bytes(out / "report.html", render_html(report, drawn=drawn).encode())
    write_bytes(out / "report.json", (text + "\n").encode())
    return report


def _environment() -> Environment:
    """Templates of this package. Everything that goes into them is escaped, text without control characters."""
    env = Environment(
        loader=PackageLoader("vtrap_bench"),
        autoescape=True,
        undefined=StrictUndefined,
        finalize=lambda value: plain(value) if type(value) is str else value,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    env.filters.update(points=points, score=score, tokens=tokens, count=count, share=share, clip=cut, frames=_frames)
    return env


def page(template: str, *, more_css: str = "", **facts: Any) -> str:
    """A page that opens offline and runs nothing: the style sheet is in it, allowed by its hash and nothing else is.

    Args:
        template: Name of one of this package.
        more_css: Added to the style sheet.
        facts: For the template, beside `css` and `css_hash`.
    """
    css = resources.files("vtrap_bench").joinpath("templates/report.css").read_text("utf-8") + more_css
    css_hash = base64.b64encode(hashlib.sha256(css.encode()).digest()).decode()
    return _environment().get_template(template).render(css=Markup(css), css_hash=css_hash, **facts)


def render_html(report: Mapping[str, Any], *, drawn: Mapping[str, Mapping[str, figures.Drawn]]) -> str:
    """The page: self-contained, light and dark, readable on a phone.

    Args:
        report: What `report.json` holds.
        drawn: Figures by theme ("light", "dark") and name.
    """
    return page(
        "report.html.jinja",
        more_css=_swatches(report),
        report=report,
        figures=[_figure(report, drawn, name) for name in CAPTIONS if name in drawn["light"]],
        swatch={s["name"]: f"c{i}" for i, s in enumerate(report["summary"])},
        uncompared=uncompared(report),
        unlike=unlike(report),
        at=_at(report),
        questions=_questions(report),
        most_tokens=max((s["train_visual_tokens"] or 0 for s in report["summary"]), default=0),
    )


def print_table(report: Mapping[str, Any]) -> None:
    """Print the summary to stdout, dropping columns until it fits the terminal."""
    width = shutil.get_terminal_size((100, 24)).columns
    print("\n" + table(report, width=width), flush=True)


def table(report: Mapping[str, Any], *, width: int) -> str:
    """The summary as text of at most `width` columns (at least 40)."""
    columns = [
        _Column("setting", lambda s: plain(s["name"]), 0),
        _Column("image", lambda s: score(s["image"]), 2),
        _Column("change", lambda s: points(s["image_change"]), 0),
        _Column("95 %", lambda s: _interval(s["image_change"]), 3),
        _Column("video", lambda s: score(s["video"]), 1),
        _Column("change", lambda s: points(s["video_change"]), 0),
        _Column("95 %", lambda s: _interval(s["video_change"]), 4),
        _Column("frames", lambda s: count(s["train_mean_frames"]), 5),
        _Column("tokens", lambda s: tokens(s["train_visual_tokens"]), 6),
        _Column("unparsed", lambda s: share(s["unparsed"]), 7),
    ]
    none = {"image_change": None, "video_change": None, "train_mean_frames": None, "train_visual_tokens": None}
    rows = [{**report["base"], **none}, *report["summary"]]
    name_width = 24
    while True:
        cells = [[cut(c.cell(row), name_width if c.rank == 0 else 24) for c in columns] for row in rows]
        widths = [max(len(c.head), *(len(row[i]) for row in cells)) for i, c in enumerate(columns)]
        total = sum(widths) + 2 * (len(widths) - 1)
        worst = max(c.rank for c in columns)
        if total <= max(width, 40) or (worst == 0 and name_width <= 8):
            break
        if worst > 0:
            columns = [c for c in columns if c.rank != worst]
        else:
            name_width -= 2
    lines = []
    if report["synthetic"]:
        lines.append(cut("synthetic toy world: these numbers say nothing about real models", max(width, 40)))
    if "--limit" in (asked := _questions(report)):
        lines.append(cut(asked, max(width, 40)))
    for row in [[c.head for c in columns], *cells]:
        first, *rest = (
            cell.rjust(w) if i else cell.ljust(w) for i, (cell, w) in enumerate(zip(row, widths, strict=True))
        )
        lines.append("  ".join([first, *rest]).rstrip())
    lines.insert(len(lines) - len(rows), "-" * total)
    lines += [
        cut(f"no change for {name}: the base has no run at {at}", max(width, 40)) for name, at in uncompared(report)
    ]
    lines += [cut(f"warning: runs differ beside the model: {name}", max(width, 40)) for name in unlike(report)]
    return "\n".join(lines)


def uncompared(report: Mapping[str, Any]) -> list[tuple[str, str]]:
    """Settings that have no change, as the base was not scored at their frames: name and frames of each."""
    return [
        (plain(s["name"]), "the packed budgets" if s["evaluated"] == "budget" else f"{s['evaluated']} frames")
        for s in report["summary"]
        if s["evaluated"] not in report["base"]["at"]
    ]


def unlike(report: Mapping[str, Any]) -> list[str]:
    """Settings that decide answers, beside model and frames, in which the runs differ: each with its values."""
    several = [s for s in report["run_settings"] if len(s["values"]) > 1 and s["name"] not in ("device", "limit")]
    return [plain(f"{s['name']} ({' or '.join(s['values'])})") for s in several]


def plain(text: str) -> str:
    r"""Text that is safe to show anywhere: no control characters, no bidi overrides, no lone surrogates.

    >>> plain("a\x1b[31mb") == "a\ufffd[31mb"
    True
    """
    return "".join("\ufffd" if c not in "\n\t" and _hidden(c) else c for c in text)


def _hidden(char: str) -> bool:
    return (
        unicodedata.category(char) in ("Cc", "Cs") or char in "\u202a\u202b\u202c\u202d\u202e\u2066\u2067\u2068\u2069"
    )


def points(change: Mapping[str, Any] | None, *, key: str = "value") -> str:
    """A change in points, signed: "+1.2", "−0.4", "0.0"; "–" for none."""
    if change is None:
        return "–"
    text = f"{change[key]:+.1f}".replace("-", "−")
    return "0.0" if text in ("+0.0", "−0.0") else text


def score(found: Mapping[str, Any] | None) -> str:
    """A score with one decimal; "–" for none."""
    return "–" if found is None else f"{found['score']:.1f}"


def tokens(number: float | None) -> str:
    """A large count in the unit people think in: "950", "12.3k", "4.56M", "1.20B"."""
    if number is None:
        return "–"
    for unit, letter, digits in ((1e9, "B", 2), (1e6, "M", 2), (1e3, "k", 1)):
        if number >= unit:
            return f"{number / unit:.{digits}f}{letter}"
    return f"{number:.0f}"


def count(number: float | None) -> str:
    """A count with at most one decimal; "–" for none."""
    return "–" if number is None else f"{number:.1f}".removesuffix(".0")


def share(part: float | None) -> str:
    """A share (0..1) in percent with one decimal; "–" for none."""
    return "–" if part is None else f"{100 * part:.1f}%"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of `python -m vtrap_bench report`."""
    parser.description = (
        "Write report.html (opens offline), report.json and figures from a study or from finished runs."
    )
    parser.epilog = EXAMPLES
    parser.add_argument("paths", nargs="+", type=Path, metavar="STUDY_DIR|RUN", help="a study, or runs, base first")
    parser.add_argument("--out", type=Path, metavar="DIR", help="where to write (default: the study's own folder)")
    parser.add_argument(
        "--benchmarks",
        type=Path,
        metavar="DIR",
        help="packed benchmarks, for pictures of items",
    )
    parser.add_argument("--json", action="store_true", help="print report.json to stdout instead of the table")


def run(args: argparse.Namespace) -> int:
    """Run `python -m vtrap_bench report`. Returns the exit code.

    Raises:
        UsageError: The paths or options are wrong.
    """
    out: Path | None = args.out
    if out is None:
        if len(args.paths) > 1:
            raise UsageError("--out is missing: several runs have no folder of their own to write a report to")
        out = args.paths[0]
    if out.exists() and not out.is_dir():
        raise UsageError(f"--out {out} is a file: give a folder")
    report = write_report(args.paths, out=out, benchmarks=args.benchmarks)
    if args.json:
        print(json.dumps(report, indent=1))
    else:
        print_table(report)
        print(f"\nreport: {out / 'report.html'}\nnumbers: {out / 'report.json'}")
    return 0


def _at(report: Mapping[str, Any]) -> str:
    """The frames of the main tables. A study scores each checkpoint as it was trained; of bare runs nobody knows."""
    return "at the frames trained with" if report["commands"] else "at the frames of the runs"


def _questions(report: Mapping[str, Any]) -> str:
    """How many questions were answered, and what `--limit` was where it was given."""
    numbers = dict.fromkeys(str(found["n"]) for found in (report["base"], *report["settings"]))
    limits = [value for found in report["run_settings"] if found["name"] == "limit" for value in found["values"]]
    return f"{' or '.join(numbers)} questions" + (f" (--limit {', '.join(limits)})" if limits else "")


def _figure(report: Mapping[str, Any], drawn: Mapping[str, Mapping[str, figures.Drawn]], name: str) -> dict[str, Any]:
    title, caption = (text.format(common=report["common_frames"], at=_at(report)) for text in CAPTIONS[name])
    found = {theme: drawn[theme][name] for theme in ("light", "dark")}
    return {
        "title": title,
        "caption": caption,
        "alt": f"{title}. {caption} The numbers stand in the tables of this page.",
        "width": found["light"].width,
        "height": found["light"].height,
        **{theme: base64.b64encode(figure.png).decode() for theme, figure in found.items()},
    }


def _swatches(report: Mapping[str, Any]) -> str:
    """A class per setting with the colour it has in the figures (an inline style would need a laxer policy)."""
    parts = []
    for theme, wrap in ((figures.LIGHT, "%s"), (figures.DARK, "@media (prefers-color-scheme: dark) {%s}")):
        colours = figures.setting_colours(report["summary"], theme).values()
        rules = "".join(f".c{i}{{background:{colour}}}" for i, colour in enumerate(colours))
        parts.append(wrap % rules)
    return "\n".join(parts)


def _frames(setting: Mapping[str, Any]) -> str:
    return f"{setting['frames']} ({setting['strategy']})" if setting["strategy"] else str(setting["frames"])


def _interval(change: Mapping[str, Any] | None) -> str:
    if change is None or change["ci"] is None:
        return "–"
    low, high = ({"value": bound} for bound in change["ci"])
    return f"{points(low)}…{points(high)}"


def _versions() -> dict[str, str]:
    found = {"python": platform.python_version()}
    for name in LIBRARIES:
        try:
            found[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            continue
    return found
