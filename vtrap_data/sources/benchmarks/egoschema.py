"""EgoSchema, its labelled subset: one five-option question about each three-minute egocentric clip."""

from __future__ import annotations

from vtrap_data.sources.benchmarks.spec import (
    Benchmark,
    Part,
    Question,
    Row,
    by_index,
    option_texts,
    plain,
    sequence,
    text,
)


def read(row: Row, part: Part) -> Question:
    """One question."""
    options = option_texts(sequence(row["option"]))
    name = text(row["video_idx"])
    return Question(
        id=text(row["question_idx"]),
        question=plain(row["question"]),
        options=options,
        right=by_index(row["answer"], options),
        category="long-form",
        video=tuple(f"{folder}{name}.{end}" for folder in ("", "videos/") for end in ("mp4", "MP4")),
        facts={},
    )


EGOSCHEMA = Benchmark(
    name="egoschema",
    title="EgoSchema (Subset)",
    media="video",
    ids=("lmms-eval/egoschema", "lmms-lab/egoschema"),
    revision="58350524ea7eb29c47000121f4f4b65eb6b4acb9",
    parts=(Part(config="Subset", split="test", rows=500, known="table"),),
    columns=("question_idx", "question", "video_idx", "option", "answer"),
    abilities={"long-form": "long-range"},
    read=read,
    counts_from="a reference page of lmms-eval's tasks, counted with the Hub's size service",
    licence="Ego4D licence",
    licence_stated="paper (section 2): released under the licence of Ego4D, which is signed with its consortium",
)
