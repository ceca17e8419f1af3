"""`leaderboard build`: one page that compares finished runs and studies, each model beside its base."""

from __future__ import annotations

import argparse
import os
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from urllib.parse import quote

from huggingface_hub import constants

from hub_cards.dry_run import PLAN, render
from hub_cards.leaderboard import ROWS, leaderboard_files, write_leaderboard
from hub_cards.model_card import HUB_ID
from hub_cards.report_rows import report_rows
from hub_cards.results import ResultRow
from vtrap_bench.changes import Material, build, read_runs, read_runs_of_study
from vtrap_bench.records import RECORDS
from vtrap_bench.study_file import STUDY_RECORD
from vtrap_bench.submitted import fetched, submitted_rows
from vtrap_data.errors import UsageError
from vtrap_data.push_command import send

EXAMPLE = """\
examples:
  python -m vtrap_bench leaderboard build runs/demo --out runs/hub/leaderboard           a study
  python -m vtrap_bench leaderboard build runs/base runs/tuned --out runs/leaderboard    runs, the base first
  python -m vtrap_bench leaderboard build --results vtrap/vtrap-results --out page       what was submitted
  python -m vtrap_bench leaderboard push --results vtrap/vtrap-results --space vtrap/leaderboard
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of `python -m vtrap_bench leaderboard`."""
    parser.description = "Build a static page from finished runs: sortable, filterable, opens without a server."
    parser.epilog = EXAMPLE
    parser.add_argument("action", choices=("build", "push"), help="build the page; push: publish it as a static Space")
    parser.add_argument(
        "runs",
        type=Path,
        nargs="*",
        metavar="RUN",
        help="folders of studies, or of runs of which the first is the base",
    )
    parser.add_argument(
        "--results",
        action="append",
        default=[],
        metavar="ID",
        help="a results dataset on the Hub, which `submit` adds to, or a folder that holds one; may be repeated",
    )
    parser.add_argument("--out", type=Path, metavar="DIR", help="build: folder of the page")
    parser.add_argument("--space", metavar="ID", help="push: owner/name of the Space")
    parser.add_argument("--private", action="store_true", help="push: if the Space has to be made, make it private")


def run(args: argparse.Namespace) -> int:
    """Run `python -m vtrap_bench leaderboard`. Returns the exit code.

    Raises:
        UsageError: A run cannot be read, two of them cannot be compared, or the Hub refuses the page.
        VtrapError: The Hub does not answer.
    """
    if not args.runs and not args.results:
        raise UsageError("nothing to show: give folders of runs, or --results OWNER/vtrap-results")
    needed, other = ("out", "space") if args.action == "build" else ("space", "out")
    if getattr(args, needed) is None or getattr(args, other) is not None:
        raise UsageError(f"`leaderboard {args.action}` takes --{needed}, not --{other}")
    if args.action == "push" and (args.runs or any(Path(name).is_dir() for name in args.results)):
        raise UsageError(
            "`leaderboard push` takes results datasets on the Hub only, since a page there cannot link to your files: "
            "`submit` the runs first"
        )
    rows = leaderboard_rows(args.runs, out=args.out) if args.runs else []
    for results in args.results:
        with fetched(results) as root:
            link = (
                _relative(root, args.out)
                if Path(results).is_dir()
                else f"{constants.ENDPOINT}/datasets/{results}/tree/main"
            )
            rows += submitted_rows(root, link=link)
    try:
        return _push(rows, args) if args.action == "push" else _build(rows, args)
    except ValueError as error:
        raise UsageError(str(error)) from error


def _build(rows: Sequence[ResultRow], args: argparse.Namespace) -> int:
    out: Path = args.out
    if out.name == "leaderboard" and (out.parent / PLAN).is_file():
        # The folder of a dry run: its index shows the page too.
        render(out.parent, rows=rows)
    else:
        write_leaderboard(out, rows, results=_on_hub(args.results))
    print(f"{out / 'index.html'}: {len(rows)} rows")
    return 0


def _push(rows: Sequence[ResultRow], args: argparse.Namespace) -> int:
    from hub_cards.publishing import Publication
    from hub_cards.verifying import ReadBack

    files = leaderboard_files(rows, results=_on_hub(args.results))
    return send(
        Publication(
            repo_id=args.space,
            repo_type="space",
            files={name: text.encode() for name, text in files.items()},
            owned=("style.css",),  # of the Hub's template
            marker=ROWS,
            read_back=ReadBack("hub_cards.readback", ("files", "space", ",".join(files))),
            private=args.private,
        )
    )


def _on_hub(results: Sequence[str]) -> list[str]:
    return [name for name in results if not Path(name).is_dir() and HUB_ID.fullmatch(name)]


def _relative(path: Path, out: Path) -> str:
    """Address of a file as the page in `out` links to it."""
    return quote(os.path.relpath(path.resolve(), out.resolve()).replace(os.sep, "/"))


def leaderboard_rows(folders: Sequence[Path], *, out: Path) -> list[ResultRow]:
    """Rows of studies (each with its own base) and of bare runs (the first is the base of the others).

    Args:
        folders: Of studies and runs.
        out: Folder of the page, which links to the records relative to itself.
    """
    studies = [folder for folder in folders if (folder / STUDY_RECORD).is_file()]
    bare = [folder for folder in folders if folder not in studies]
    materials = [read_runs_of_study(folder) for folder in studies]
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
        records = folders[setting, seed, row.frames] / RECORDS
        rows.append(replace(row, records=_relative(records, out)))
    return rows
