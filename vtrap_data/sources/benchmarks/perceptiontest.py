"""PerceptionTest (val): three options, four areas and four kinds of reasoning, about filmed everyday scripts."""

from __future__ import annotations

from vtrap_data.sources.benchmarks.spec import Benchmark, Part, Question, Row, by_index, plain, sequence, text

ABILITIES = {"memory": "long-range", "abstraction": "counting", "physics": "reasoning", "semantics": "action"}


def read(row: Row, part: Part) -> Question:
    """One question."""
    options = tuple(plain(option) for option in sequence(row["options"]))
    name, area = text(row["video_name"]), text(row["area"]).casefold()
    return Question(
        id=f"{name}/{text(row['question_id'])}",
        question=plain(row["question"]),
        options=options,
        right=by_index(row["answer_id"], options),
        category=area,
        video=tuple(f"{folder}{name}.mp4" for folder in ("", "videos/")),
        facts={
            "area": area,
            "reasoning": text(row["reasoning"]).casefold(),
            "tags": ",".join(text(tag) for tag in sequence(row["tag"])),
        },
    )


PERCEPTIONTEST = Benchmark(
    name="perceptiontest",
    title="PerceptionTest (val)",
    media="video",
    ids=("lmms-eval/PerceptionTest_Val", "lmms-lab/PerceptionTest_Val"),
    revision="c5e520d8c4167fb1f135c36e9d6e67312b4f8e6b",
    parts=(Part(config="mc_question_val", split="validation", rows=19140, known="card"),),
    columns=("video_name", "question", "question_id", "options", "answer_id", "area", "reasoning", "tag"),
    abilities=ABILITIES,
    read=read,
    counts_from="dataset_info of the card",
    licence="CC-BY-4.0",
    redistributable=True,
    licence_stated="README of google-deepmind/perception_test, of everything but its software; filmed for it",
)
