"""How does a score get onto the Hub's own boards: `.eval_results/vtrap.yaml` in a model repo, `eval.yaml` in ours?

The Hub shows one number per task, highest first, so there is one entry per number and every number is "higher is
better". A `verifyToken` can only come from the Hub's own jobs; we never write one.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import yaml
from huggingface_hub import EvalResultEntry, eval_result_entries_to_yaml

from hub_cards.model_card import HUB_ID

RESULTS_PATH = ".eval_results/vtrap.yaml"
EVAL_YAML = "eval.yaml"
FRAMES = (8, 16, 32, 64)
"""Frame settings that every video benchmark has a board for; those it was packed with come on top."""


@dataclass(frozen=True, slots=True, kw_only=True)
class TaskNumber:
    """One number of one benchmark.

    Attributes:
        dataset_id: Hub id of the benchmark's dataset.
        task_id: As in that dataset's `eval.yaml`.
        value: Percent, 0 to 100, higher is better.
        dataset_revision: Commit of the dataset that was scored.
        notes: Frame setting and whatever else makes the number comparable.
    """

    dataset_id: str
    task_id: str
    value: float
    dataset_revision: str | None = None
    notes: str | None = None


def eval_results_yaml(
    numbers: Sequence[TaskNumber],
    *,
    date: str | None = None,
    source_url: str | None = None,
    source_name: str | None = None,
) -> str:
    """The text of `.eval_results/vtrap.yaml`.

    Args:
        numbers: One entry each, written in the order given.
        date: ISO 8601 day of the run.
        source_url: Where the records lie.
        source_name: What to call them; shown only together with a URL.

    Raises:
        ValueError: Nothing to write, a value that is no number from 0 to 100, a dataset that is no Hub id, or the same
            task twice.
    """
    if not numbers:
        raise ValueError("no scores to submit: the run has no task with a published benchmark dataset")
    seen: set[tuple[str, str]] = set()
    for number in numbers:
        name = (number.dataset_id, number.task_id)
        if not HUB_ID.fullmatch(number.dataset_id):
            raise ValueError(f"dataset {number.dataset_id!r} of task {number.task_id!r} must be owner/name on the Hub")
        if not (math.isfinite(number.value) and 0 <= number.value <= 100):
            raise ValueError(f"{name[0]} {name[1]}: {number.value} is no percentage from 0 to 100")
        if name in seen:
            raise ValueError(f"{name[0]} {name[1]} appears twice: submit one frame setting at a time")
        seen.add(name)
    entries = [
        EvalResultEntry(
            dataset_id=number.dataset_id,
            task_id=number.task_id,
            value=round(number.value, 4),
            dataset_revision=number.dataset_revision,
            date=date,
            source_url=source_url,
            source_name=source_name if source_url else None,
            notes=number.notes,
        )
        for number in numbers
    ]
    return str(yaml.safe_dump(eval_result_entries_to_yaml(entries), sort_keys=False, allow_unicode=True))


def merge_eval_results(existing: Sequence[str], new: str) -> str:
    """Put new results into a file that may hold others.

    An entry replaces the one about the same task. It keeps the old one, date and all, when only the date differs: the
    same results submitted again change nothing.

    Args:
        existing: The texts of the file as it is (on the default branch, in an open pull request), oldest first.
        new: From `eval_results_yaml`.

    Raises:
        ValueError: An existing file is no list of results.
    """
    found: dict[tuple[str, str], dict[str, Any]] = {}
    for text in existing:
        try:
            entries = yaml.safe_load(text) or []
            found |= {(e["dataset"]["id"], e["dataset"]["task_id"]): e for e in entries}
        except Exception as error:  # it is other people's file, and YAML raises nearly anything
            raise ValueError(f"{RESULTS_PATH} of the model is no list of results ({type(error).__name__})") from error
    for entry in yaml.safe_load(new):
        key = (entry["dataset"]["id"], entry["dataset"]["task_id"])
        old = {k: v for k, v in found.get(key, {}).items() if k not in ("date", "verifyToken")}
        if old != {k: v for k, v in entry.items() if k != "date"}:
            found[key] = entry
    return str(yaml.safe_dump(list(found.values()), sort_keys=False, allow_unicode=True))


def task_id(task: str, frames: str | None) -> str:
    """Which board of a benchmark a number belongs to: the frame setting changes what a video task measures.

    Args:
        task: Name of the task, which is that of its dataset.
        frames: Frame setting: a number, or "budget". None for a task without video.

    Example:
        >>> task_id("toy-video", "8"), task_id("toy-video", "budget"), task_id("toy-image", None)
        ('toy-video-8-frames', 'toy-video-budget', 'toy-image')
    """
    if frames is None:
        return task
    return f"{task}-{frames}-frames" if frames.isdecimal() else f"{task}-{frames}"


def task_ids(task: str, budgets: Sequence[int]) -> list[str]:
    """Every board of a benchmark: one if it has no video (`budgets` is empty), else one per frame setting."""
    if not budgets:
        return [task_id(task, None)]
    return [task_id(task, frames) for frames in ("budget", *map(str, sorted({*FRAMES, *budgets})))]


def eval_yaml(*, name: str, description: str, tasks: Sequence[tuple[str, str, str]]) -> str:
    """The text of `eval.yaml` at the root of a benchmark dataset.

    Args:
        name: Of the benchmark.
        description: One sentence.
        tasks: (task id, config, split) for each number of the benchmark.

    Raises:
        ValueError: No task, or two tasks of one id.
    """
    ids = [task for task, _, _ in tasks]
    if not ids or len(set(ids)) < len(ids):
        raise ValueError(f"eval.yaml needs one or more tasks with different ids, got {ids}")
    data: dict[str, Any] = {
        "name": name,
        "description": description,
        "evaluation_framework": "vtrap",  # the Hub shows the boards once it is registered there
        "tasks": [{"id": task, "config": config, "split": split} for task, config, split in tasks],
    }
    return str(yaml.safe_dump(data, sort_keys=False, allow_unicode=True))
