"""toy-video: what changes, moves, comes first or comes how often in synthetic clips, and what stays as it is."""

from __future__ import annotations

from pathlib import Path

from vtrap_bench.tasks.task import PromptProfile, Task, accuracy, as_packed
from vtrap_data.sources.toyworld.questions import SLOTS, VIDEO_ABILITIES, budgets_of

COUNT = 400
"""Clips; each has two questions: one about time, one static."""
SEED = 0
BUDGETS = budgets_of(SLOTS)
MEAN_FRAMES = 5
"""Mean over all questions of the budgets that `--frames budget` uses."""


def build(work: Path) -> list[list[str]]:
    """Generate and pack; the frames of the largest budget are stored for every clip, so any budget can be scored."""
    largest = str(max(BUDGETS))
    generate = ["toyworld", "videos", "--purpose", "bench", "--count", str(COUNT), "--seed", str(SEED)]
    pack = ["pack", str(work / "source" / "bench.jsonl"), "--out", str(work / "packed"), "--name", "toy-video"]
    pack += ["--split", "test", "--synthetic", "--budgets", ",".join(map(str, BUDGETS)), "--slots", largest]
    pack += ["--scorer", "lexical", "--store", largest, "--mean-frames", str(MEAN_FRAMES)]
    return [[*generate, "--out", str(work / "source")], pack]


TOY_VIDEO = Task(
    name="toy-video",
    version=3,
    modality="video",
    abilities=VIDEO_ABILITIES,
    profiles={"vtrap": PromptProfile(messages=as_packed, form="option")},
    metric=accuracy,
    max_new_tokens=8,
    synthetic=True,
    build=build,
)
