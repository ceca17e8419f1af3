"""TextVQA (val): open questions about text in pictures, ten people's answers each."""

from __future__ import annotations

from vtrap_data.sources.benchmarks.spec import Benchmark, Part, Question, Row, plain, references, sequence, text


def read(row: Row, part: Part) -> Question:
    """One question; the answer is the list of all references, repeated ones included."""
    return Question(
        id=text(row["question_id"]),
        question=plain(row["question"]),
        answer=references([text(answer) for answer in sequence(row["answers"])]),
        category="text",
        images=(row["image"],),
        facts={},
    )


TEXTVQA = Benchmark(
    name="textvqa",
    title="TextVQA (val)",
    media="images",
    ids=("lmms-lab-encoder/textvqa", "lmms-lab/textvqa"),
    revision="9c0699cd19768ac5ab97568f6b3cbac4c0062884",
    parts=(Part(config="default", split="validation", rows=5000, known="table"),),
    columns=("question_id", "question", "image", "answers", "image_id"),
    abilities={"text": "ocr"},
    read=read,
    counts_from="lists of evaluation sets that users published with their results",
    licence="CC-BY-4.0",
    licence_stated="card of facebook/textvqa, of the questions; the images keep those of Open Images",
)
