"""mmstar: multiple choice that needs the picture; by category and by the 18 axes."""

from __future__ import annotations

from vtrap_bench import grading, measures
from vtrap_bench.tasks.prompts import LETTER, after, asked, ours, profile, select
from vtrap_bench.tasks.real import real_task
from vtrap_data.samples import Item
from vtrap_data.sources.benchmarks.mmstar import MMSTAR as SOURCE


def qwen(item: Item) -> str:
    """Qwen's wording, which has nothing between the last option and the instruction."""
    return f"Question: {asked(item)}Answer with the option letter only."


MMSTAR = real_task(
    SOURCE,
    version=1,
    profiles={
        "vtrap": ours(after(LETTER, of=asked), "letter"),
        "lmms": profile(after(LETTER.removesuffix("."), of=asked), "letter"),
        "vlmevalkit": profile(select, "letter"),
        "qwen": profile(qwen, "letter"),
    },
    grade=grading.letter,
    measure=measures.mmstar,
    max_new_tokens=128,
)
