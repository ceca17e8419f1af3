"""mmbench_en: multiple choice with rotated options; a question counts only if every rotation is right."""

from __future__ import annotations

from vtrap_bench import grading, measures
from vtrap_bench.tasks.prompts import LETTER, after, context, facts, ours, profile, select
from vtrap_bench.tasks.real import real_task
from vtrap_data.samples import Item
from vtrap_data.sources.benchmarks.mmbench_en import MMBENCH_EN as SOURCE
from vtrap_data.sources.benchmarks.spec import lettered


def lmms(item: Item) -> str:
    """The wording of lmms-eval, its empty line included."""
    hint = facts(item).get("hint", "")
    question = f"{hint} {item.question}" if hint else item.question
    return f"{question} There are several options:\n{lettered(item.options)}\n\n{LETTER}"


MMBENCH_EN = real_task(
    SOURCE,
    version=1,
    profiles={
        "vtrap": ours(after(LETTER, of=context), "letter"),
        "lmms": profile(lmms, "letter"),
        "vlmevalkit": profile(select, "letter"),
        "qwen": profile(select, "letter"),
    },
    grade=grading.letter,
    measure=measures.mmbench,
    max_new_tokens=128,
)
