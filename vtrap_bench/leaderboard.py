"""`leaderboard build`: one page that compares finished runs and studies, each model beside its base."""

from __future__ import annotations

import argparse
import os
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from urllib.parse import quote

from hub_cards.leaderboard import write_leaderboard
from hub_cards.publish import PLAN, render
from hub_cards.report_rows import report_rows
from hub_cards.results import ResultRow
from vtrap_bench.changes import STUDY_RECORD, Material, build, read_runs, read_study
from vtrap_data.errors import UsageError

EXAMPLE = """\
examples:
  python -m vtrap_bench leaderboard build runs/demo --out runs/hub/leaderboard           a study
  python -m vtrap_bench leaderboard build runs/base runs/tuned --out runs/leaderboard    runs, the base first
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of `python -m vtrap_bench leaderboard`."""
    parser.description = "Build a static page from finished runs: sortable, filterable, opens without a server."
    parser.epilog = EXAMPLE
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.add_argument("action", choices=("build",), help="build the page")
    parser.add_argument(
        "runs",
        type=Path,
        nargs="+",
        metavar="RUN",
        help="folders of studies, or of runs of which the first is the base",
    )
    parser.add_argument("--out", type=Path, required=True, metavar="DIR", help="folder of the page")


def run(args: argparse.Namespace) -> int:
    """Run `python -m vtrap_bench leaderboard build`. Returns the exit code.

    Raises:
        UsageError: A run cannot be read, or two of them cannot be compared.
    """
    out: Path = args.out
    rows = leaderboard_rows(args.runs, out=out)
    try:
        if out.name == "leaderboard" and (out.parent / PLAN).is_file():
            # The folder of a dry run: its index shows the page too.
            render(out.parent, rows=rows)
        else:
            write_leaderboard(out, rows)
    except ValueError as error:
        raise UsageError(str(error)) from error
    print(f"{out / 'index.html'}: {len(rows)} rows")
    return 0


def leaderboard_rows(folders: Sequence[Path], *, out: Path) -> list[ResultRow]:
    """Rows of studies (each with its own base) and of bare runs (the first is the base of the others).

    Args:
        folders: Of studies and runs.
        out: Folder of the page, which links to the records relative to itself.
    """
    studies = [folder for folder in folders if (folder / STUDY_RECORD).is_file()]
    bare = [folder for folder in folders if folder not in studies]
    materials = [read_study(folder) for folder in studies]
    if bare:
        materials.append(read_runs(bare))
    rows = [row for material in materials for row in _linked(material, out)]
    # Two studies of one base score it twice, to the same numbers; one row is enough.
    return list({(row.model, row.frames, row.base, row.image, row.video): row for row in rows}.values())


def _linked(material: Material, out: Path) -> list[ResultRow]:
    """The rows of one comparison, each with the link to its records."""
    folders = {
        (None if checkpoint is material.base else checkpoint.name, checkpoint.seed, frames): found.folder
        for checkpoint in (material.base, *material.trained)
        for frames, found in checkpoint.runs.items()
    }
    rows = []
    for setting, seed, row in report_rows(build(material)):
        records = folders[setting, seed, row.frames] / "records.jsonl"
        link = quote(os.path.relpath(records.resolve(), out.resolve()).replace(os.sep, "/"))
        rows.append(replace(row, records=link))
    return rows
