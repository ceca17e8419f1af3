"""AI2D: multiple choice about school diagrams, in the variant where the labels that options name are masked."""

from __future__ import annotations

from vtrap_data.sources.benchmarks.spec import Benchmark, Part, Question, Row, by_index, plain, sequence, text


def read(row: Row, part: Part) -> Question:
    """One question."""
    options = tuple(plain(option) for option in sequence(row["options"]))
    return Question(
        id=text(row.get("id")),
        question=plain(row["question"]),
        options=options,
        right=by_index(row["answer"], options),
        category="diagram",
        images=(row["image"],),
        facts={"variant": "mask"},
    )


AI2D = Benchmark(
    name="ai2d",
    title="AI2D (mask)",
    media="images",
    ids=("lmms-lab-encoder/ai2d", "lmms-lab/ai2d"),
    revision="c83a9b9692933aff8349157c88a413df9d02c4e5",
    parts=(Part(config="default", split="test", rows=3088, known="table"),),
    columns=("question", "options", "answer", "image"),
    abilities={"diagram": "reasoning"},
    read=read,
    counts_from="lists of evaluation sets that users published with their results",
    licence="CC-BY-SA-4.0",
    licence_stated="entry of its makers in awslabs/open-data-registry; the diagrams were found by searching the web",
)
