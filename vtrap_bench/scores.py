"""What do the records of a run add up to? `scores.json`: per task and ability a score with its interval."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np

from vtrap_bench.extract import Stage
from vtrap_bench.records import Record
from vtrap_bench.statistics import bootstrap_means, percentile_interval, share_interval
from vtrap_bench.tasks import GROUPS, Task
from vtrap_data.files import canonical_json

SCORES = "scores.json"
SCORES_FORMAT = 1


def by_task(records: Iterable[Record]) -> dict[str, list[Record]]:
    """Records by name of task, each list ordered by item id: the order in which items were finished is chance."""
    tasks: dict[str, list[Record]] = {}
    for record in sorted(records, key=lambda r: r.item_id):
        tasks.setdefault(record.task, []).append(record)
    return tasks


def by_ability(records: Sequence[Record], abilities: Sequence[str]) -> dict[str, list[Record]]:
    """Records by ability, in the order of `abilities`, then those it does not name."""
    found: dict[str, list[Record]] = {name: [] for name in abilities}
    for record in records:
        found.setdefault(record.ability, []).append(record)
    return {name: group for name, group in found.items() if group}


def digest(records: Iterable[Record]) -> str:
    """Of the records and their order-free content: tells whether scores are up to date."""
    return hashlib.sha256(canonical_json(sorted([r.key, r.response, r.correct] for r in records))).hexdigest()


def compute(tasks: Sequence[Task], records: Sequence[Record], *, head: Mapping[str, Any], seed: int) -> dict[str, Any]:
    """The content of `scores.json`.

    Args:
        tasks: All tasks of the run, each with at least one record.
        records: All records of the run.
        head: Entries for the top: model, label, frames.
        seed: Of the bootstrap.

    Returns:
        JSON. Scores and intervals in points (0..100); `unparsed` and `empty` as shares (0..1); `mean_frames` per
        item; `visual_tokens` summed over the items; `extra` with the benchmark's own numbers, for tasks that have any.
        A group's score is the mean over its tasks.
    """
    grouped = by_task(records)
    scores: dict[str, Any] = {"format": SCORES_FORMAT, **head, "tasks": {}, "records_sha256": digest(records)}
    for task in tasks:
        scores["tasks"][task.name] = _task(task, grouped[task.name])
    for group in GROUPS:
        members = [task for task in tasks if task.modality == group]
        if members:
            scores[group] = _group([(scores["tasks"][t.name], grouped[t.name]) for t in members], seed=seed)
    return scores


def _task(task: Task, records: Sequence[Record]) -> dict[str, Any]:
    n = len(records)
    return {
        "version": task.version,
        "modality": task.modality,
        "synthetic": task.synthetic,
        **_score(task, records),
        "clusters": len({r.cluster for r in records}),
        "unparsed": sum(r.stage == Stage.UNPARSED for r in records) / n,
        "empty": sum(r.stage == Stage.EMPTY for r in records) / n,
        "mean_frames": sum(r.n_frames for r in records) / n,
        "visual_tokens": sum(r.visual_tokens for r in records),
        "abilities": {a: _score(task, group) for a, group in by_ability(records, task.abilities).items()},
        **({} if task.measure is None else {"extra": dict(task.measure(records))}),
    }


def _score(task: Task, records: Sequence[Record]) -> dict[str, Any]:
    earned = [r.score for r in records]
    if task.metric is None:
        score = 100.0 * float(np.mean(earned))
    else:
        said, right = [r.extracted or "" for r in records], [r.answer for r in records]
        score = float(task.metric().compute(predictions=said, references=right)["accuracy"])
    interval = share_interval(earned, [r.cluster for r in records])
    return {
        "score": score,
        "ci": [100 * interval.low, 100 * interval.high],
        "n": len(records),
    }


def _group(members: Sequence[tuple[Mapping[str, Any], Sequence[Record]]], *, seed: int) -> dict[str, Any]:
    score = float(np.mean([task["score"] for task, _ in members]))
    if len(members) == 1:
        return {"score": score, "ci": members[0][0]["ci"]}
    # Tasks share no media, so they are resampled independently: a seed of its own for each.
    draws = [
        bootstrap_means([r.score for r in records], [r.cluster for r in records], seed=seed + i)
        for i, (_, records) in enumerate(members)
    ]
    interval = percentile_interval(np.mean(draws, axis=0))
    return {"score": score, "ci": [100 * interval.low, 100 * interval.high]}
