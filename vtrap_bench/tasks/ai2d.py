"""ai2d: multiple choice about school diagrams (the masked variant; numbers without masks are not comparable)."""

from __future__ import annotations

from vtrap_bench import grading, measures
from vtrap_bench.tasks.prompts import LETTER, after, ours, profile, select
from vtrap_bench.tasks.real import real_task
from vtrap_data.sources.benchmarks.ai2d import AI2D as SOURCE

AI2D = real_task(
    SOURCE,
    version=1,
    profiles={
        "vtrap": ours(after(LETTER), "letter"),
        "lmms": profile(after(LETTER), "letter"),
        "vlmevalkit": profile(select, "letter"),
    },
    grade=grading.letter,
    measure=measures.accuracy(),
    max_new_tokens=128,
)
