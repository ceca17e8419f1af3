"""What are a benchmark's own numbers? Functions from the records of a task to `extra` in `scores.json`.

Each gives JSON with a `headline`: the name of the number that the benchmark's tables show, its value, and the most it
can be. Numbers are in points (0 to 100) unless they say otherwise. An unread answer is wrong in all of them.
"""

from __future__ import annotations

import statistics
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, NamedTuple

from vtrap_bench.records import Record
from vtrap_data.sources.benchmarks.mme import COGNITION, PERCEPTION
from vtrap_data.sources.benchmarks.ocrbench import GROUPS
from vtrap_data.sources.benchmarks.pope import CATEGORIES
from vtrap_data.sources.benchmarks.spec import read_facts

Measure = Callable[[Sequence[Record]], Mapping[str, Any]]


class Answer(NamedTuple):
    """A record with its facts read."""

    record: Record
    facts: dict[str, str]


def answers(records: Iterable[Record]) -> list[Answer]:
    """Records with their facts."""
    return [Answer(record, read_facts(record.facts)) for record in records]


def headline(name: str, value: float, *, most: float = 100.0) -> dict[str, Any]:
    """The entry that says which number is the benchmark's own."""
    return {"name": name, "value": value, "most": most}


def points(group: Sequence[Answer]) -> float:
    """Mean of what the answers earn, in points."""
    return 100 * statistics.fmean(answer.record.score for answer in group)


def by(group: Iterable[Answer], key: Callable[[Answer], str]) -> dict[str, list[Answer]]:
    """Answers by a key, in the order of the keys."""
    found: dict[str, list[Answer]] = {}
    for answer in group:
        found.setdefault(key(answer), []).append(answer)
    return dict(sorted(found.items()))


def groups(group: Iterable[Answer], fact: str) -> dict[str, dict[str, Any]]:
    """Score and count of each value of a fact."""
    parts = by(group, lambda answer: answer.facts.get(fact, ""))
    return {name or "none": {"score": points(part), "n": len(part)} for name, part in parts.items()}


def unrotated(group: Sequence[Answer]) -> list[Answer]:
    """The answers to questions as they were written, without rotated copies."""
    return [answer for answer in group if answer.facts.get("rotation", "0") == "0"]


def circular(group: Sequence[Answer]) -> dict[str, Any]:
    """CircularEval: a question is right only if it is in every rotation of its options.

    Returns:
        `circular`, `vanilla` (the first rotation only) and `questions`, all over the questions whose rotations are all
        there; `incomplete` counts the others. Empty if nothing was rotated.
    """
    rotated = [answer for answer in group if "rotation" in answer.facts]
    if not rotated:
        return {}
    questions = by(rotated, lambda answer: answer.facts["base"])
    whole = [copies for copies in questions.values() if len(copies) == len(copies[0].record.options)]
    found = {"questions": len(whole), "incomplete": len(questions) - len(whole)}
    if not whole:
        return {"circular": None, "vanilla": None, **found}
    right = [all(copy.record.correct for copy in copies) for copies in whole]
    vanilla = points(unrotated([copy for copies in whole for copy in copies]))
    return {"circular": 100 * statistics.fmean(right), "vanilla": vanilla, **found}


def accuracy(*facts: str, mean_of: str | None = None) -> Measure:
    """Accuracy, also by the values of facts; of the questions as written, and circular where copies were asked.

    Args:
        facts: What to break it down by.
        mean_of: A fact: the headline is the mean over its values instead of over the questions.
    """

    def measure(records: Sequence[Record]) -> dict[str, Any]:
        every = answers(records)
        # With --limit, or where the first copy could not be packed, no question may be left as it was written.
        group = unrotated(every) or every
        pooled = points(group)
        found: dict[str, Any] = {"headline": headline("accuracy", pooled), "accuracy": pooled}
        if mean_of is not None:
            mean = statistics.fmean(part["score"] for part in groups(group, mean_of).values())
            name = f"mean over {mean_of}"
            found |= {"headline": headline(name, mean), name: mean}
        found["by"] = {fact: groups(group, fact) for fact in facts}
        return found | circular(every)

    return measure


def mmbench(records: Sequence[Record]) -> dict[str, Any]:
    """MMBench: circular accuracy, overall, by category and by L2 category; vanilla beside it."""
    group = answers(records)
    found = circular(group)
    parts = {
        fact: {name: circular(part) for name, part in by(group, lambda a, fact=fact: a.facts[fact]).items()}  # type: ignore[misc]
        for fact in ("l2", "category")
    }
    value = found.get("circular")
    return {**({} if value is None else {"headline": headline("circular", value)}), **found, "by": parts}


def mme(records: Sequence[Record]) -> dict[str, Any]:
    """MME: per sub-task accuracy plus the share of pictures with both questions right; their sums (2800 of all 14).

    Pictures with one question only (because of --limit, or an unreadable file) are left out and counted.
    """
    subtasks: dict[str, dict[str, float]] = {}
    incomplete = 0
    for name, part in by(answers(records), lambda answer: answer.facts["subtask"]).items():
        pairs = by(part, lambda answer: answer.facts["pair"]).values()
        whole = [pair for pair in pairs if len(pair) == 2]
        incomplete += len(pairs) - len(whole)
        if whole:
            single = points([answer for pair in whole for answer in pair])
            both = 100 * statistics.fmean(all(answer.record.correct for answer in pair) for pair in whole)
            subtasks[name] = {"acc": single, "acc+": both, "score": single + both, "pictures": len(whole)}
    perception, cognition = (
        sum(subtasks[name]["score"] for name in names if name in subtasks) for names in (PERCEPTION, COGNITION)
    )
    return {
        "headline": headline("perception + cognition", perception + cognition, most=200.0 * len(subtasks)),
        "perception": perception,
        "cognition": cognition,
        "subtasks": subtasks,
        "incomplete_pairs": incomplete,
    }


def pope(records: Sequence[Record]) -> dict[str, Any]:
    """POPE: F1, precision, recall and accuracy with "yes" as the positive answer, and how often the model says yes.

    A row that counts in several categories does so in each, and as often in the numbers over all: tables that join
    the rows of equal questions give what the 9000 rows give.
    """
    group = answers(records)
    parts = {
        name: detection([a for a in group if name in a.facts["categories"].split(",")])
        for name in sorted({c for a in group for c in a.facts["categories"].split(",")})
    }
    named = [parts[name]["f1"] for name in CATEGORIES if name in parts]
    overall = detection([a for a in group for _ in a.facts["categories"].split(",")])
    return {
        "headline": headline("f1", overall["f1"]),
        **overall,
        **({"f1 mean over categories": statistics.fmean(named)} if named else {}),
        "by": {"category": parts},
    }


def detection(group: Sequence[Answer]) -> dict[str, float]:
    """Precision, recall, F1, accuracy, in points, and `yes_ratio`: the share of "yes" among the answers, in points.

    An answer that is neither yes nor no is not "yes", and wrong. A ratio whose denominator is 0 is 0.
    """
    said = [answer.record.extracted == "yes" for answer in group]
    true = [answer.record.answer == "yes" for answer in group]
    hits = sum(s and t for s, t in zip(said, true, strict=True))
    precision = hits / sum(said) if any(said) else 0.0
    recall = hits / sum(true) if any(true) else 0.0
    return {
        "accuracy": points(group),
        "precision": 100 * precision,
        "recall": 100 * recall,
        "f1": 100 * 2 * precision * recall / (precision + recall) if hits else 0.0,
        "yes_ratio": 100 * statistics.fmean(said),
        "yes_ratio_truth": 100 * statistics.fmean(true),
        "n": len(group),
    }


def mmstar(records: Sequence[Record]) -> dict[str, Any]:
    """MMStar: accuracy, and beside it the mean over the L2 axes that lmms-eval reports."""
    found = accuracy("category", "l2")(records)
    axes = [part["score"] for part in found["by"]["l2"].values()]
    return {**found, "mean over l2": statistics.fmean(axes)}


def ocrbench(records: Sequence[Record]) -> dict[str, Any]:
    """OCRBench: right answers (of all its questions, the most is 1000), by group and by type."""
    group = answers(records)
    right = sum(answer.record.correct for answer in group)
    parts = by(group, lambda answer: GROUPS.get(answer.facts["type"], "other"))
    return {
        "headline": headline("right answers", right, most=float(len(group))),
        "right": right,
        "n": len(group),
        "groups": {
            name: {"right": sum(a.record.correct for a in part), "n": len(part)} for name, part in parts.items()
        },
        "by": {"type": groups(group, "type")},
    }


def tempcompass(records: Sequence[Record]) -> dict[str, Any]:
    """TempCompass: the mean over its judge-free tasks, and pooled; by task, by dimension, and by both."""
    found = accuracy("task", "dim", mean_of="task")(records)
    tasks = by(unrotated(answers(records)), lambda answer: answer.facts["task"])
    return {**found, "dim in task": {name: groups(part, "dim") for name, part in tasks.items()}}
