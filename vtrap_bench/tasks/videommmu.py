"""videommmu: what can be perceived in, understood from, and applied after a lecture; three tracks."""

from __future__ import annotations

from vtrap_bench import grading, measures
from vtrap_bench.tasks.prompts import LETTER, SHORT, facts, ours, profile, question_and_options
from vtrap_bench.tasks.real import real_task
from vtrap_data.samples import Item
from vtrap_data.sources.benchmarks.videommmu import VIDEOMMMU as SOURCE

ADAPT = (
    "You should watch and learn the video content. Then apply what you learned to answer the following {kind} "
    "question. The image for this question is at the end of the video."
)


def lmms(item: Item) -> str:
    """The wording of lmms-eval."""
    if facts(item)["track"] != "Adaptation":
        return f"{question_and_options(item)}\nPlease ignore the Quiz question in last frame of the video."
    kind = "multi-choice" if item.options else "open-ended"
    return f"{ADAPT.format(kind=kind)}\n{question_and_options(item)}"


def direct(item: Item) -> str:
    """The same, and which form of answer is wanted."""
    return f"{lmms(item)}\n{LETTER if item.options else SHORT}"


VIDEOMMMU = real_task(
    SOURCE,
    version=1,
    profiles={
        "vtrap": ours(direct, "letter"),
        "lmms": profile(lmms, "letter"),
    },
    grade=grading.letter_or_open,
    measure=measures.accuracy("track", "subject", "type", mean_of="track"),
    max_new_tokens=1024,
)
