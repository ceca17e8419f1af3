"""ScienceQA-IMG: school questions with a picture, two to five options, sometimes with a context."""

from __future__ import annotations

from vtrap_data.sources.benchmarks.spec import Benchmark, Part, Question, Row, by_index, plain, sequence, text


def read(row: Row, part: Part) -> Question | None:
    """One question; rows without a picture are left out."""
    if row["image"] is None:
        return None
    options = tuple(plain(choice) for choice in sequence(row["choices"]))
    subject = text(row["subject"])
    return Question(
        id=text(row.get("id")),
        question=plain(row["question"]),
        options=options,
        right=by_index(row["answer"], options),
        category=subject,
        images=(row["image"],),
        facts={
            "hint": plain(row["hint"]),
            "subject": subject,
            "grade": text(row["grade"]),
            "topic": text(row["topic"]),
        },
    )


SCIENCEQA_IMG = Benchmark(
    name="scienceqa_img",
    title="ScienceQA-IMG",
    media="images",
    ids=("lmms-lab-encoder/ScienceQA", "lmms-lab/ScienceQA"),
    revision="69dd4d6b67373d38f96a5badd5d24d0eb5bcdc50",
    parts=(Part(config="ScienceQA-IMG", split="test", rows=2017, known="table"),),
    columns=("image", "question", "choices", "answer", "hint", "grade", "subject", "topic"),
    abilities={"natural science": "knowledge", "social science": "knowledge", "language science": "knowledge"},
    read=read,
    counts_from="lists of evaluation sets that users published with their results",
    licence="CC-BY-NC-SA-4.0",
    licence_stated="README of lupantech/ScienceQA; the card of a copy, derek-thomas/ScienceQA, says CC-BY-SA-4.0",
)
