"""mmmu: college questions in 30 subjects, multiple choice and open, with up to seven pictures."""

from __future__ import annotations

import re

from vtrap_bench import grading, measures
from vtrap_bench.tasks.prompts import LETTER, SHORT, Wording, facts, marks, ours, profile, question_and_options, select
from vtrap_bench.tasks.real import real_task
from vtrap_bench.tasks.task import PromptProfile
from vtrap_data.samples import IMAGE_MARK, Item, Message
from vtrap_data.sources.benchmarks.mmmu import MMMU as SOURCE


def direct(item: Item) -> str:
    """Question and options, and which form of answer is wanted."""
    return f"{question_and_options(item)}\n{LETTER if item.options else SHORT}"


def lmms(item: Item) -> str:
    """The wording of lmms-eval, its empty line included."""
    return f"{question_and_options(item)}\n\n{LETTER if item.options else SHORT}"


def listed(item: Item) -> str:
    """VLMEvalKit's and Qwen's wording. An open question has nothing to select."""
    return select(item) if item.options else f"Question: {item.question}\n"


def interleaved(wording: Wording) -> PromptProfile:
    """Pictures where the text names them; in front if it names one twice, or not in the order of their numbers."""

    def messages(item: Item) -> tuple[Message, ...]:
        text = wording(item)
        if ",".join(re.findall(r"<image (\d)>", text)) == facts(item)["images"]:
            text = re.sub(r"<image \d>", IMAGE_MARK, text)
        else:
            text = marks(item) + text
        return (Message(role="user", content=text),)

    return PromptProfile(messages=messages, form="letter")


MMMU = real_task(
    SOURCE,
    version=1,
    profiles={
        "vtrap": ours(direct, "letter"),
        "lmms": interleaved(lmms),
        "vlmevalkit": interleaved(listed),
        "qwen": profile(listed, "letter"),
    },
    grade=grading.letter_or_open,
    measure=measures.accuracy("domain", "subject", "type"),
    max_new_tokens=512,
)
