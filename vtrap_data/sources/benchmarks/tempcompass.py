"""TempCompass: does a model see time? Multiple choice, yes/no and caption matching, in five dimensions.

The fourth task, captioning, needs a language model as judge and is left out.
"""

from __future__ import annotations

import re

from vtrap_data.sources.benchmarks.spec import Benchmark, Part, Question, Row, plain, text

ABILITIES = {
    "action": "action",
    "speed": "speed",
    "direction": "direction",
    "order": "order",
    "attribute_change": "change",
}
_OPTION = re.compile(
    r"\s*(?P<label>(?:(?:option|caption|sentence|description)\s+)?[A-H1-8])\s*[.:)]\s+(?P<text>.+?)\s*", re.IGNORECASE
)


def listed_options(asked: str) -> tuple[str, tuple[str, ...]]:
    """The bare question and the option lines ("A. slowly", "Option 1: a man ...") below it.

    Raises:
        ValueError: There are fewer than two.
    """
    lines = [line.strip() for line in asked.splitlines() if line.strip()]
    options = [line for line in lines if _OPTION.fullmatch(line)]
    if len(options) < 2:
        raise ValueError(f"no options in {asked[-80:]!r}")
    return "\n".join(line for line in lines if line not in options), tuple(options)


def option_parts(option: str) -> tuple[str, str]:
    """Label and text of an option line: "Option 1: a man" is ("Option 1", "a man")."""
    found = _OPTION.fullmatch(option)
    return (found["label"], found["text"]) if found else ("", option)


def read(row: Row, part: Part) -> Question:
    """One question of the task that the part is."""
    asked, answer, dimension = plain(row["question"]), plain(row["answer"]), text(row["dim"])
    facts = {"asked": asked, "task": part.config, "dim": dimension}
    name = text(row["video_id"])
    video = tuple(f"{folder}{name}.mp4" for folder in ("videos/", "", "video/"))
    if part.config == "yes_no":
        if answer.casefold() not in ("yes", "no"):
            raise ValueError(f"the answer {answer[:60]!r} is neither yes nor no")
        return Question(id="", question=asked, answer=answer.casefold(), category=dimension, video=video, facts=facts)
    question, lines = listed_options(asked)
    hits = [number for number, line in enumerate(lines) if answer in (line, option_parts(line)[1])]
    if len(hits) != 1:
        raise ValueError(f"the answer {answer[:60]!r} is {len(hits)} of the {len(lines)} options")
    # Letters are the extractor's own; "Option 1" and the like stay part of the option.
    options = tuple(option_parts(line)[1] for line in lines) if part.config == "multi-choice" else lines
    return Question(
        id="",
        question=question,
        options=options,
        right=hits[0],
        category=dimension,
        video=video,
        facts=facts,
        labelled=part.config == "caption_matching",
    )


TEMPCOMPASS = Benchmark(
    name="tempcompass",
    title="TempCompass (without captioning)",
    media="video",
    ids=("lmms-eval/TempCompass", "lmms-lab/TempCompass"),
    revision="c8a67d88a3bc6fd4b2f9ae2f9e112668fbe05722",
    parts=(
        Part(config="multi-choice", split="test", rows=1580, known="card"),
        Part(config="yes_no", split="test", rows=2453, known="card"),
        Part(config="caption_matching", split="test", rows=1503, known="card"),
    ),
    columns=("video_id", "question", "answer", "dim"),
    abilities=ABILITIES,
    read=read,
    counts_from="dataset_info of the card",
    licence="unstated",
    licence_stated="neither the card of lmms-lab/TempCompass nor the README of llyx97/TempCompass names a licence",
)
