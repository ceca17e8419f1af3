"""Would a training of a study be refused? Asked before its first step: scoring the base alone may take hours."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

from vtrap_bench.steps import Planned
from vtrap_data.errors import UsageError

_ITS_OWN = ("--data", "--frames", "--seed", "--output_dir")
"""What a study writes itself for each training; all else is what its YAML has under `train:`."""


def check_trainings(planned: Sequence[Planned], *, corpus: Path) -> None:
    """Ask `vtrap_train --plan` once for each set of options with which something is yet to be trained.

    Args:
        planned: The steps of a study.
        corpus: The packed dataset of the study; stands for those with other budgets, which are yet to be made.

    Raises:
        UsageError: A training would be refused; the message says which and why.
    """
    asked: set[tuple[str, ...]] = set()
    for step in (p.step for p in planned if p.step.kind == "train" and p.state != "done"):
        options = _without(step.argv, _ITS_OWN)
        if options in asked:
            continue
        if not asked:
            print("asking vtrap_train whether it takes the options under train: ...", file=sys.stderr)
        asked.add(options)
        argv = [sys.executable, *_without(step.argv[1:], ("--data",)), "--data", str(corpus), "--plan"]
        answer = subprocess.run(argv, stdin=subprocess.DEVNULL, capture_output=True, text=True, errors="replace")
        if answer.returncode:
            said = (answer.stderr.strip().splitlines() or [f"exit code {answer.returncode}"])[-1]
            raise UsageError(f"step {step.name} would fail: {said}")


def _without(argv: Sequence[str], flags: Sequence[str]) -> tuple[str, ...]:
    """A command without these flags and the one value that each has."""
    return tuple(word for place, word in enumerate(argv) if not {word, argv[max(0, place - 1)]} & {*flags})
