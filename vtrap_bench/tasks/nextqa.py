"""nextqa: why, how, before, after and what, in five options; by group and type."""

from __future__ import annotations

from vtrap_bench import grading, measures
from vtrap_bench.tasks.prompts import LETTER, after, ours, profile, question_and_options
from vtrap_bench.tasks.real import real_task
from vtrap_data.sources.benchmarks.nextqa import NEXTQA as SOURCE

NEXTQA = real_task(
    SOURCE,
    version=1,
    profiles={
        "vtrap": ours(after(LETTER), "letter"),
        "lmms": profile(question_and_options, "letter"),
    },
    grade=grading.letter,
    measure=measures.accuracy("group", "type"),
    max_new_tokens=128,
)
