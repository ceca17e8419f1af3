"""Does a video score grow with the frames shown? The command `python -m vtrap_bench sweep`.

It makes (or goes on with) one run per number of frames, and compares each with the next, item by item: a curve alone
does not say whether its steps are more than chance.
"""

from __future__ import annotations

import argparse
import itertools
import json
from collections.abc import Sequence
from contextlib import redirect_stdout
from io import StringIO
from pathlib import Path
from typing import Any

from vtrap_bench import run as running
from vtrap_bench.compare import ALPHA, Difference, compare
from vtrap_bench.finished import read_run
from vtrap_bench.statistics import holm
from vtrap_bench.tasks import TASKS, select_tasks
from vtrap_bench.tasks.locate import present
from vtrap_data.errors import UsageError, printable_lines
from vtrap_data.files import write_bytes

SWEEP = "sweep.json"
SWEEP_FORMAT = 1
SHOWN = ("score", "ci", "mean_frames", "visual_tokens", "unparsed")

EXAMPLES = """\
examples:
  python -m vtrap_bench sweep --model toy-vl --tasks toy-video --frames 2,4,8,16 --out runs/sweep
  python -m vtrap_bench report runs/sweep/frames-* --out runs/sweep/report   # beside those of another model
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Arguments of the command: those of `run`, with a list of frames."""
    running.add_arguments(parser)
    parser.set_defaults(frames="8,16,32,64", tasks="video")
    parser.description = "Score a model at several numbers of frames, and compare each with the next."
    parser.epilog = EXAMPLES


def run(args: argparse.Namespace) -> int:
    """Sweep; exit code 0."""
    frames = running.parse_frames(args.frames)
    if len(frames) < 2:
        raise UsageError(f"--frames {args.frames!r}: a sweep needs at least two, such as 8,16,32,64")
    tasks = select_tasks(args.tasks, present=present(TASKS.values(), benchmarks=args.benchmarks))
    if not any(task.modality == "video" for task in tasks):
        raise UsageError(f"--tasks {args.tasks}: a sweep over frames needs a video task")
    as_json, args.json = args.json, False
    with redirect_stdout(StringIO()):  # the tables of the single runs: what they hold comes below
        code = running.run(args)
    if code != 0:
        return code
    folders = [args.out / f"frames-{setting}" for setting in frames]
    found = sweep(folders, names=[str(setting) for setting in frames])
    write_bytes(args.out / SWEEP, (json.dumps(found, indent=1) + "\n").encode())
    print(json.dumps(found, indent=1) if as_json else printable_lines(text(found)))
    return 0


def sweep(folders: Sequence[Path], *, names: Sequence[str]) -> dict[str, Any]:
    """What finished runs at several numbers of frames add up to.

    Args:
        folders: Of the runs, in the order of the curve.
        names: The frames of each.

    Returns:
        JSON: per task the scores at the frames at which it was scored, and the change of each step; p-values are
        adjusted by Holm over all steps.
    """
    runs = [read_run(folder) for folder in folders]
    steps = [compare(a, b) for a, b in itertools.pairwise(runs)]
    points: dict[str, list[dict[str, Any]]] = {}
    for name, one in zip(names, runs, strict=True):
        for task, facts in one.scores.tasks.items():  # a folder may hold more tasks, of an earlier command
            if facts.modality == "video":
                shown = {key: getattr(facts, key) for key in SHOWN}
                points.setdefault(task, []).append({"frames": name, **shown, "ci": list(facts.ci)})
    moved: list[tuple[str, str, Difference]] = [
        (f"{a} to {b}", row.task, row)
        for (a, b), step in zip(itertools.pairwise(names), steps, strict=True)
        for row in step.tasks
        if row.task in points
    ]
    tested = [row.p for _, _, row in moved if row.p is not None]
    adjusted = iter(holm(tested))
    return {
        "format": SWEEP_FORMAT,
        "model": runs[0].scores.model,
        "tasks": points,
        "steps": [
            {
                "step": step,
                "task": task,
                "difference": row.difference,
                "ci": None if row.low is None else [row.low, row.high],
                "p_holm": None if row.p is None else next(adjusted),
                "detectable": row.detectable,
            }
            for step, task, row in moved
        ],
    }


def text(found: dict[str, Any]) -> str:
    """The sweep for a terminal."""
    lines = []
    for task, points in found["tasks"].items():
        lines.append(f"{task}, {found['model']}")
        lines.append(f"  {'frames':<10}{'score':>7}   {'95 % interval':<15}{'visual tokens':>14}{'unparsed':>10}")
        for p in points:
            between = f"{p['ci'][0]:.1f} to {p['ci'][1]:.1f}"
            counts = f"{p['visual_tokens']:>14}{100 * p['unparsed']:9.1f}%"
            lines.append(f"  {p['frames']:<10}{p['score']:7.1f}   {between:<15}{counts}")
        for step in (s for s in found["steps"] if s["task"] == task):
            between = "" if step["ci"] is None else f" (95 % interval {step['ci'][0]:+.1f} to {step['ci'][1]:+.1f})"
            sure = step["p_holm"] is not None and step["p_holm"] < ALPHA
            verdict = "more than chance explains" if sure else "may be chance"
            lines.append(f"  {step['step']} frames: {step['difference']:+.1f} points{between}: {verdict}")
    return "\n".join(lines)
