"""`submit`: what would a finished run put into a model's repository on the Hub? So far the dry run only."""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path

from hub_cards.eval_results import TaskNumber
from hub_cards.model_card import HUB_ID
from hub_cards.publish import Results, render
from vtrap_bench.changes import Json, read_run
from vtrap_bench.records import RECORDS, read_records
from vtrap_bench.scores import digest
from vtrap_data.errors import UsageError

RUN = "run.json"
NOT_BUILT = "publishing to the Hub itself is not built yet: add --dry-run OUT to render what would be submitted"

EXAMPLE = """\
example:
  python -m vtrap_bench submit runs/hybrid --model vtrap/toy-vl-hybrid --dry-run runs/hub
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of `python -m vtrap_bench submit`."""
    parser.description = "Render the results of a finished run as the Hub's leaderboards read them."
    parser.epilog = EXAMPLE
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.add_argument("run_dir", type=Path, metavar="RUN", help="folder of a finished run")
    parser.add_argument("--model", required=True, metavar="ID", help="owner/name of the model on the Hub")
    parser.add_argument("--benchmarks", default="vtrap", metavar="OWNER", help="whose benchmark datasets on the Hub")
    parser.add_argument("--dry-run", type=Path, metavar="OUT", help="render into this folder, send nothing")


def run(args: argparse.Namespace) -> int:
    """Run `python -m vtrap_bench submit`. Returns the exit code.

    Raises:
        UsageError: The run is unfinished or was changed by hand, the id is none, or it is no dry run.
    """
    if args.dry_run is None:
        raise UsageError(NOT_BUILT)
    folder: Path = args.run_dir
    scores = read_run(folder).scores
    if digest(read_records(folder / RECORDS)) != scores.get("records_sha256"):
        raise UsageError(f"{folder / RECORDS} is not what scores.json was computed from: score the run again")
    scored = str(scores["model"])
    blocked = []
    if HUB_ID.fullmatch(scored) and scored != args.model:
        blocked.append(f"The run scored {scored}, not {args.model}: submit it to that model's repository.")
    blocked += _limited(folder / RUN)
    numbers = task_numbers(scores, owner=args.benchmarks)
    try:
        render(args.dry_run, results=Results(model_id=args.model, numbers=numbers, blocked=tuple(blocked)))
    except ValueError as error:
        raise UsageError(str(error)) from error
    for reason in blocked:
        print(f"would be refused: {reason}", file=sys.stderr)
    print(f"{args.dry_run / 'index.html'}: what submitting {folder} to {args.model} would send")
    return 0


def task_numbers(scores: Json, *, owner: str) -> list[TaskNumber]:
    """One number per task of a run.

    The frame setting changes what a video task measures, so each has a board of its own: `toy-video-8-frames`,
    `toy-video-budget`. Image tasks have one.

    Args:
        scores: Content of `scores.json`.
        owner: Of the benchmark datasets, each named like its task.
    """
    frames = str(scores["frames"])
    setting = f"{frames}-frames" if frames.isdecimal() else frames
    return [
        TaskNumber(
            dataset_id=f"{owner}/{task}",
            task_id=f"{task}-{setting}" if facts["modality"] == "video" else task,
            value=float(facts["score"]),
            notes=_notes(facts, frames),
        )
        for task, facts in scores["tasks"].items()
    ]


def _limited(path: Path) -> list[str]:
    """Why a run that scored only some items of a task would be refused."""
    try:
        tasks = json.loads(path.read_text(encoding="utf-8"))["tasks"]
        cut = [f"{name} ({facts['items']} items)" for name, facts in tasks.items() if facts["limit"] is not None]
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise UsageError(
            f"{path} cannot be read ({type(error).__name__}: {error}): run the benchmark again"
        ) from error
    return [f"Only some items were scored, of {', '.join(cut)}: run it again without --limit."] if cut else []


def _notes(facts: Json, frames: str) -> str:
    low, high = facts["ci"]
    parts = [f"95% CI {low:.1f} to {high:.1f}", f"n={facts['n']}", f"task version {facts['version']}"]
    if facts["modality"] == "video":
        parts.append(f"frames={frames} (mean {facts['mean_frames']:.1f})")
    if facts.get("synthetic"):
        parts.append("synthetic data")
    return ", ".join(parts)
