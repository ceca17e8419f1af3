"""ocrbench: reading text, formulas and documents; right answers of 1000, by group."""

from __future__ import annotations

from vtrap_bench import grading, measures
from vtrap_bench.tasks.prompts import FEW_WORDS, after, bare, ours, profile
from vtrap_bench.tasks.real import real_task
from vtrap_data.sources.benchmarks.ocrbench import OCRBENCH as SOURCE

OCRBENCH = real_task(
    SOURCE,
    version=2,
    profiles={
        "vtrap": ours(bare, "text"),
        "lmms": profile(bare, "text"),
        "qwen": profile(after(FEW_WORDS, of=bare), "text"),
    },
    grade=grading.contains_reference,
    measure=measures.ocrbench,
    max_new_tokens=128,
)
