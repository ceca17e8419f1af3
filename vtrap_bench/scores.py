"""What do the records of a run add up to? `scores.json`: per task and ability a score with its interval."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Literal

import numpy as np

from vtrap_bench.extract import Stage
from vtrap_bench.records import Record
from vtrap_bench.statistics import bootstrap_means, percentile_interval, share_interval
from vtrap_bench.tasks import GROUPS, Task
from vtrap_data.errors import UsageError
from vtrap_data.files import canonical_json

SCORES = "scores.json"
SCORES_FORMAT = 1
_ALIKE = 1e-6
"""By how much a number may differ from what the records give: other machines sum in another order."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Mean:
    """A score with its 95 % interval, in points (0..100)."""

    score: float
    ci: tuple[float, float]

    def __post_init__(self) -> None:
        if len(tuple(self.ci)) != 2:
            raise ValueError(f"'ci': is {list(self.ci)}, not two numbers")


@dataclass(frozen=True, slots=True, kw_only=True)
class Score(Mean):
    """That of `n` items."""

    n: int


@dataclass(frozen=True, slots=True, kw_only=True)
class TaskScores(Score):
    """A task in `scores.json`; `compute` says in which units.

    Attributes:
        version: Of the task.
        modality: Group that its score counts in.
        synthetic: Whether its items were generated.
        clusters: Clusters that the items form.
        unparsed: Share of answers that could not be read.
        empty: Share of answers that say nothing.
        mean_frames: Frames per item.
        visual_tokens: Of all items.
        abilities: Score of each ability.
        extra: The benchmark's own numbers.
    """

    version: int
    modality: Literal["image", "video"]
    synthetic: bool
    clusters: int
    unparsed: float
    empty: float
    mean_frames: float
    visual_tokens: int
    abilities: Mapping[str, Score]
    extra: Mapping[str, Any] | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Scores:
    """What `scores.json` says.

    Attributes:
        format: SCORES_FORMAT.
        model: As the user typed it.
        label: What tables call the model.
        frames: Frames per video, or "budget".
        tasks: By name.
        records_sha256: `digest` of the records.
        image: Mean over the image tasks; None without any.
        video: Over the video tasks.
    """

    format: int
    model: str
    label: str
    frames: str
    tasks: Mapping[str, TaskScores]
    records_sha256: str
    image: Mean | None = None
    video: Mean | None = None

    def __post_init__(self) -> None:
        if self.format != SCORES_FORMAT:
            raise ValueError(f"'format': is {self.format}, not {SCORES_FORMAT}")
        for group in GROUPS:
            if (self.group(group) is None) is any(task.modality == group for task in self.tasks.values()):
                raise ValueError(f"{group!r}: a score of the {group} tasks is there without any, or is missing")

    def group(self, name: str) -> Mean | None:
        """The mean over the tasks of a modality."""
        return self.image if name == "image" else self.video


def by_task(records: Iterable[Record]) -> dict[str, list[Record]]:
    """Records by name of task, each list ordered by item id: the order in which items were finished is chance."""
    tasks: dict[str, list[Record]] = {}
    for record in sorted(records, key=lambda r: r.item_id):
        tasks.setdefault(record.task, []).append(record)
    return tasks


def by_ability(records: Sequence[Record], abilities: Iterable[str]) -> dict[str, list[Record]]:
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
            parts = [(scores["tasks"][t.name]["score"], grouped[t.name]) for t in members]
            mean = group_mean(parts, seed=seed)
            scores[group] = {"score": mean.score, "ci": list(mean.ci)}
    return scores


def differences(said: Scores, records: Sequence[Record], *, seed: int) -> list[str]:
    """Every number of `scores.json` that its records do not give, as "tasks.toy-image.score is 90, its records give
    83.3333".

    The mean stands for every metric, as each of ours is one: computing it with the metric's own library takes seconds
    to load. `extra` is left out, as it is made of what published records do not hold.

    Args:
        said: What the file says.
        records: All records of the run.
        seed: Of the bootstrap.
    """
    grouped = by_task(records)
    found = [] if digest(records) == said.records_sha256 else ["records_sha256 is of other records"]
    if other := grouped.keys() ^ said.tasks.keys():
        return [*found, f"tasks.{min(other)} has no records, or its records no scores"]
    for name, task in said.tasks.items():
        found += _unlike(task, counted(grouped[name], task.abilities), f"tasks.{name}")
    for group in GROUPS:
        members = [name for name, task in said.tasks.items() if task.modality == group]
        if members:
            mean = group_mean([(said.tasks[name].score, grouped[name]) for name in members], seed=seed)
            found += _unlike(said.group(group), asdict(mean), group)
    return found


def _unlike(said: Any, given: Any, where: str) -> list[str]:
    if isinstance(given, Mapping):
        found = said if isinstance(said, Mapping) else asdict(said)
        if isinstance(said, Mapping) and (other := said.keys() ^ given.keys()):
            return [f"{where}.{min(other)} has no records, or its records no score"]
        return [one for key, value in given.items() for one in _unlike(found[key], value, f"{where}.{key}")]
    if isinstance(given, (list, tuple)):
        return [one for a, b in zip(said, given, strict=True) for one in _unlike(a, b, where)]
    if math.isclose(said, given, rel_tol=0, abs_tol=_ALIKE):
        return []
    return [f"{where} is {said:.6g}, its records give {given:.6g}"]


def _task(task: Task, records: Sequence[Record]) -> dict[str, Any]:
    try:
        extra = {} if task.measure is None else {"extra": dict(task.measure(records))}
    except KeyError as error:
        if task.source is None:
            raise  # a measure of one's own: nobody knows what it lacks
        raise UsageError(
            f"the items of {task.name} lack the fact {error}: make its data with `python -m vtrap_data benchmark "
            f"{task.name}`, and choose another --out"
        ) from error
    return {
        "version": task.version,
        "modality": task.modality,
        "synthetic": task.synthetic,
        **counted(records, task.abilities, metric=task.metric),
        **extra,
    }


def counted(
    records: Sequence[Record], abilities: Iterable[str], *, metric: Callable[[], Any] | None = None
) -> dict[str, Any]:
    """What the records of one task add up to: the part of its `TaskScores` that follows from them alone, as JSON."""
    n = len(records)
    return {
        **_score(records, metric),
        "clusters": len({r.cluster for r in records}),
        "unparsed": sum(r.stage == Stage.UNPARSED for r in records) / n,
        "empty": sum(r.stage == Stage.EMPTY for r in records) / n,
        "mean_frames": sum(r.n_frames for r in records) / n,
        "visual_tokens": sum(r.visual_tokens for r in records),
        "abilities": {a: _score(group, metric) for a, group in by_ability(records, abilities).items()},
    }


def _score(records: Sequence[Record], metric: Callable[[], Any] | None) -> dict[str, Any]:
    earned = [r.score for r in records]
    if metric is None:
        score = 100.0 * float(np.mean(earned))
    else:
        said, right = [r.extracted or "" for r in records], [r.answer for r in records]
        score = float(metric().compute(predictions=said, references=right)["accuracy"])
    interval = share_interval(earned, [r.cluster for r in records])
    return {
        "score": score,
        "ci": [100 * interval.low, 100 * interval.high],
        "n": len(records),
    }


def group_mean(members: Sequence[tuple[float, Sequence[Record]]], *, seed: int) -> Mean:
    """The score of several tasks, each counting alike, with its interval.

    Args:
        members: Score and records of each.
        seed: Of the bootstrap.
    """
    score = float(np.mean([score for score, _ in members]))
    if len(members) == 1:
        interval = share_interval([r.score for r in members[0][1]], [r.cluster for r in members[0][1]])
        return Mean(score=score, ci=(100 * interval.low, 100 * interval.high))
    # Tasks share no media, so they are resampled independently: a seed of its own for each.
    draws = [
        bootstrap_means([r.score for r in records], [r.cluster for r in records], seed=seed + i)
        for i, (_, records) in enumerate(members)
    ]
    interval = percentile_interval(np.mean(draws, axis=0))
    return Mean(score=score, ci=(100 * interval.low, 100 * interval.high))
