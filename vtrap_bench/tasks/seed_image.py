"""seed_image: four options about a picture, nine kinds of question."""

from __future__ import annotations

from vtrap_bench import grading, measures
from vtrap_bench.tasks.prompts import LETTER, after, ours, profile, select
from vtrap_bench.tasks.real import real_task
from vtrap_data.sources.benchmarks.seed_image import SEED_IMAGE as SOURCE

SEED_IMAGE = real_task(
    SOURCE,
    version=1,
    profiles={
        "vtrap": ours(after(LETTER), "letter"),
        "lmms": profile(after(LETTER), "letter"),
        "vlmevalkit": profile(select, "letter"),
    },
    grade=grading.letter,
    measure=measures.accuracy("type"),
    max_new_tokens=128,
)
