"""mlvu: seven kinds of question about long videos; the mean over them, and pooled."""

from __future__ import annotations

from vtrap_bench import grading, measures
from vtrap_bench.tasks.prompts import BRACKETS, LETTER, after, asked, ours, profile
from vtrap_bench.tasks.real import real_task
from vtrap_data.samples import Item
from vtrap_data.sources.benchmarks.mlvu import MLVU as SOURCE
from vtrap_data.sources.benchmarks.spec import lettered

SYSTEM = (
    "Carefully watch this video and pay attention to every detail. Based on your observations, select the best option "
    "that accurately addresses the question."
)


def vlmevalkit(item: Item) -> str:
    """The wording of VLMEvalKit."""
    return f"Question: {item.question}\nOptions:\n{lettered(item.options, BRACKETS)}\nOnly give the best option."


MLVU = real_task(
    SOURCE,
    version=1,
    profiles={
        "vtrap": ours(after(LETTER, of=asked), "letter"),
        "lmms": profile(after("Only give the best option.\nBest option: (", of=asked), "letter"),
        "vlmevalkit": profile(vlmevalkit, "letter", system=SYSTEM),
    },
    grade=grading.letter,
    measure=measures.accuracy("task", mean_of="task"),
    max_new_tokens=128,
)
