"""tempcompass: action, speed, direction, order, change; multiple choice, yes/no, caption matching. No judge."""

from __future__ import annotations

from vtrap_bench import grading, measures
from vtrap_bench.tasks.prompts import LETTER, YES_NO, asked, facts, ours, profile
from vtrap_bench.tasks.real import real_task
from vtrap_data.samples import Item
from vtrap_data.sources.benchmarks.tempcompass import TEMPCOMPASS as SOURCE

BEST = "Please directly give the best option:"


def direct(item: Item) -> str:
    """A letter, yes or no, or the option that matches."""
    if not item.options:
        return f"{item.question} {YES_NO}"
    return f"{asked(item)}\n{LETTER if facts(item)['task'] == 'multi-choice' else BEST}"


def lmms(item: Item) -> str:
    """The wording of lmms-eval."""
    return f"{asked(item)}\n{BEST if item.options else 'Please answer yes or no:'}"


TEMPCOMPASS = real_task(
    SOURCE,
    version=1,
    profiles={
        "vtrap": ours(direct, "letter"),
        "lmms": profile(lmms, "letter"),
    },
    grade=grading.tempcompass,
    measure=measures.tempcompass,
    max_new_tokens=128,
)
