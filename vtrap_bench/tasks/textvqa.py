"""textvqa: reading text in pictures; VQA accuracy against ten people's answers, without OCR tokens in the prompt."""

from __future__ import annotations

from vtrap_bench import grading, measures
from vtrap_bench.tasks.prompts import FEW_WORDS, SHORT, after, bare, ours, profile
from vtrap_bench.tasks.real import real_task
from vtrap_data.samples import Item
from vtrap_data.sources.benchmarks.textvqa import TEXTVQA as SOURCE


def lmms(item: Item) -> str:
    """The wording of lmms-eval, which lower-cases all of the question but its first letter."""
    return f"{item.question.capitalize()}\n{SHORT}"


TEXTVQA = real_task(
    SOURCE,
    version=2,
    profiles={
        "vtrap": ours(after(SHORT, of=bare), "text"),
        "lmms": profile(lmms, "text"),
        "vlmevalkit": profile(after(FEW_WORDS, of=bare), "text"),
        "qwen": profile(after(FEW_WORDS, of=bare), "text"),
    },
    grade=grading.vqa,
    measure=measures.accuracy(),
    max_new_tokens=64,
)
