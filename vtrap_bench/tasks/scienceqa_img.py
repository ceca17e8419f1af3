"""scienceqa_img: school questions with a picture; by subject and grade."""

from __future__ import annotations

from vtrap_bench import grading, measures
from vtrap_bench.tasks.prompts import LETTER, after, context, ours, profile, select
from vtrap_bench.tasks.real import real_task
from vtrap_data.sources.benchmarks.scienceqa_img import SCIENCEQA_IMG as SOURCE

SCIENCEQA_IMG = real_task(
    SOURCE,
    version=1,
    profiles={
        "vtrap": ours(after(LETTER, of=context), "letter"),
        "lmms": profile(after(LETTER, of=context), "letter"),
        "vlmevalkit": profile(select, "letter"),
    },
    grade=grading.letter,
    measure=measures.accuracy("subject", "grade"),
    max_new_tokens=128,
)
