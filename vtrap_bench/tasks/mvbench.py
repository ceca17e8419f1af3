"""mvbench: 20 kinds of question about short clips; the mean over them."""

from __future__ import annotations

from vtrap_bench import grading, measures
from vtrap_bench.tasks.prompts import BRACKETS, LETTER, after, ours, profile
from vtrap_bench.tasks.real import real_task
from vtrap_data.samples import Item
from vtrap_data.sources.benchmarks.mvbench import MVBENCH as SOURCE
from vtrap_data.sources.benchmarks.spec import lettered

SYSTEM = (
    "Carefully watch the video and pay attention to the cause and sequence of events, the detail and movement of "
    "objects, and the action and pose of persons. Based on your observations, select the best option that accurately "
    "addresses the question.\n"
)


def lmms(item: Item) -> str:
    """The wording of lmms-eval."""
    return f"Question:{item.question}\nOption:\n{lettered(item.options, BRACKETS)}\nOnly give the best option.\n"


def vlmevalkit(item: Item) -> str:
    """The wording of VLMEvalKit, without the "Best option:(" that it puts into the model's mouth."""
    return f"Question: {item.question}\nOptions:\n{lettered(item.options, BRACKETS)}\nOnly give the best option."


MVBENCH = real_task(
    SOURCE,
    version=1,
    profiles={
        "vtrap": ours(after(LETTER), "letter"),
        "lmms": profile(lmms, "letter"),
        "vlmevalkit": profile(vlmevalkit, "letter", system=SYSTEM),
    },
    grade=grading.letter,
    measure=measures.accuracy("task", mean_of="task"),
    max_new_tokens=128,
)
