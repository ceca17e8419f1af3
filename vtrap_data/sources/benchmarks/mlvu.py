"""MLVU (dev): seven multiple-choice tasks about long videos; options inside the question."""

from __future__ import annotations

import re

from vtrap_data.sources.benchmarks.spec import LETTERS, Benchmark, Part, Question, Row, by_letter, plain, text

ABILITIES = {
    "plotQA": "long-range",
    "needle": "long-range",
    "ego": "long-range",
    "count": "counting",
    "order": "order",
    "anomaly_reco": "action",
    "topic_reasoning": "long-range",
    "needleQA": "long-range",
    "sportsQA": "action",
    "tutorialQA": "order",
}
"""The last three are tasks of the test set, whose labels are public."""


def split_options(asked: str) -> tuple[str, tuple[str, ...]]:
    r"""The bare question and the options of "...\n(A) red\n(B) blue".

    Raises:
        ValueError: There are fewer than two, or their letters are out of order.
    """
    bare, *rest = re.split(r"(?:^|\n)\s*\(?([A-Z])[).:]\s*", asked)
    letters, options = rest[0::2], tuple(option.strip() for option in rest[1::2])
    if len(options) < 2 or "".join(letters) != LETTERS[: len(letters)]:
        raise ValueError(f"no options (A), (B), ... in {asked[-80:]!r}")
    return bare.strip(), options


def read(row: Row, part: Part) -> Question:
    """One question."""
    asked, task = plain(row["question"]), text(row["task_type"])
    question, options = split_options(asked)
    name = text(row["video_name"])
    return Question(
        id="",
        question=question.removesuffix("Options:").rstrip(),
        options=options,
        right=by_letter(row["answer"], options),
        category=task,
        video=tuple(f"{folder}{name}" for folder in ("", "video/", f"{task}/")),
        facts={"asked": asked, "task": task},
    )


MLVU = Benchmark(
    name="mlvu",
    title="MLVU (dev, multiple choice)",
    media="video",
    ids=("sy1998/MLVU_dev",),
    revision="96207eb9aa7101e2a495dd147684a7e618c79e12",
    parts=(Part(config="default", split="test", rows=2174, known="table"),),
    columns=("video_name", "question", "answer", "task_type"),
    abilities=ABILITIES,
    read=read,
    counts_from="a reference page of lmms-eval's tasks, counted with the Hub's size service",
    licence="CC-BY-NC-SA-4.0",
    licence_stated="README of JUNJIE99/MLVU, research only; its authors own no video and give access to researchers",
)
