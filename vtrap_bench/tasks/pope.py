"""pope: is this object in the picture? F1 of "yes"."""

from __future__ import annotations

from vtrap_bench import grading, measures
from vtrap_bench.tasks.prompts import SHORT, YES_NO, after, bare, ours, profile
from vtrap_bench.tasks.real import real_task
from vtrap_data.sources.benchmarks.pope import POPE as SOURCE

POPE = real_task(
    SOURCE,
    version=1,
    profiles={
        "vtrap": ours(after(YES_NO, of=bare, gap=" "), "yes-no"),
        "lmms": profile(after(SHORT, of=bare), "yes-no"),
        "vlmevalkit": profile(after(YES_NO, of=bare, gap=" "), "yes-no"),
        "qwen": profile(after(YES_NO, of=bare, gap=" "), "yes-no"),
    },
    grade=grading.yes_no,
    measure=measures.pope,
    max_new_tokens=64,
)
