"""toy-image: colour, shape, count, position and digits in synthetic pictures. Answers are words, without letters."""

from __future__ import annotations

from pathlib import Path

from vtrap_bench.tasks.task import PromptProfile, Task, accuracy, as_packed

COUNT = 1000
SEED = 0


def build(work: Path) -> list[list[str]]:
    """Generate and pack."""
    generate = ["toyworld", "images", "--purpose", "bench", "--count", str(COUNT), "--seed", str(SEED)]
    pack = ["pack", str(work / "source" / "bench.jsonl"), "--out", str(work / "packed"), "--name", "toy-image"]
    return [[*generate, "--out", str(work / "source")], [*pack, "--split", "test", "--synthetic"]]


TOY_IMAGE = Task(
    name="toy-image",
    version=1,
    modality="image",
    abilities=("colour", "shape", "count", "position", "digit"),
    profiles={"vtrap": PromptProfile(messages=as_packed, form="option")},
    metric=accuracy,
    max_new_tokens=8,
    synthetic=True,
    build=build,
)
