"""perceptiontest: memory, abstraction, physics, semantics; the validation set, whose labels are public."""

from __future__ import annotations

from vtrap_bench import grading, measures
from vtrap_bench.tasks.prompts import LETTER, after, ours, profile
from vtrap_bench.tasks.real import real_task
from vtrap_data.sources.benchmarks.perceptiontest import PERCEPTIONTEST as SOURCE

PERCEPTIONTEST = real_task(
    SOURCE,
    version=1,
    profiles={
        "vtrap": ours(after(LETTER), "letter"),
        "lmms": profile(after(LETTER), "letter"),
    },
    grade=grading.letter,
    measure=measures.accuracy("area", "reasoning"),
    max_new_tokens=128,
)
