"""egoschema: one question about each three-minute egocentric clip; the labelled subset."""

from __future__ import annotations

from vtrap_bench import grading, measures
from vtrap_bench.tasks.prompts import LETTER, after, ours, profile
from vtrap_bench.tasks.real import real_task
from vtrap_data.sources.benchmarks.egoschema import EGOSCHEMA as SOURCE

EGOSCHEMA = real_task(
    SOURCE,
    version=1,
    profiles={
        "vtrap": ours(after(LETTER), "letter"),
        "lmms": profile(after(LETTER), "letter"),
    },
    grade=grading.letter,
    measure=measures.accuracy(),
    max_new_tokens=128,
)
