"""longvideobench: referring questions about videos of seconds to an hour, without subtitles."""

from __future__ import annotations

from vtrap_bench import grading, measures
from vtrap_bench.tasks.prompts import LETTER, after, ours, profile
from vtrap_bench.tasks.real import real_task
from vtrap_data.sources.benchmarks.longvideobench import LONGVIDEOBENCH as SOURCE

LONGVIDEOBENCH = real_task(
    SOURCE,
    version=1,
    profiles={
        "vtrap": ours(after(LETTER), "letter"),
        "lmms": profile(after(f"{LETTER}\n"), "letter"),
        "vlmevalkit": profile(after(f"{LETTER}\n"), "letter"),
    },
    grade=grading.letter,
    measure=measures.accuracy("duration", "category"),
    max_new_tokens=128,
)
