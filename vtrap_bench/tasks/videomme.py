"""videomme: videos from seconds to an hour, without subtitles; by duration, domain, kind of video, kind of task."""

from __future__ import annotations

from vtrap_bench import grading, measures
from vtrap_bench.tasks.prompts import LETTER, after, ours, profile, question_and_options
from vtrap_bench.tasks.real import real_task
from vtrap_data.samples import Item
from vtrap_data.sources.benchmarks.videomme import VIDEOMME as SOURCE

RESPOND = "Respond with only the letter (A, B, C, or D) of the correct option."
BEST = "Select the best answer to the following multiple-choice question based on the video"


def lmms(item: Item) -> str:
    """The wording of lmms-eval, which names subtitles though there are none."""
    return f"{BEST} and the subtitles. {RESPOND}\n{question_and_options(item)}\n\n{LETTER}"


def vlmevalkit(item: Item) -> str:
    """The wording of VLMEvalKit."""
    return f"These are the frames of a video. {BEST}. {RESPOND}\nQuestion: {question_and_options(item)}\nAnswer: "


def qwen(item: Item) -> str:
    """The wording of Qwen's own script, which is the authors'."""
    return f"{BEST}. {RESPOND}\nQuestion: {question_and_options(item)}\nThe best answer is:"


VIDEOMME = real_task(
    SOURCE,
    version=1,
    profiles={
        "vtrap": ours(after(LETTER), "letter"),
        "lmms": profile(lmms, "letter"),
        "vlmevalkit": profile(vlmevalkit, "letter", gap="\n"),
        "qwen": profile(qwen, "letter"),
    },
    grade=grading.letter,
    measure=measures.accuracy("duration", "domain", "sub_category", "task_type"),
    max_new_tokens=128,
)
