"""OCRBench (v1): 1000 open questions about text, formulas and documents in pictures."""

from __future__ import annotations

from typing import Any

from vtrap_data.sources.benchmarks.spec import Benchmark, Part, Question, Row, plain, references, sequence, text

GROUPS = {
    "Regular Text Recognition": "Text Recognition",
    "Irregular Text Recognition": "Text Recognition",
    "Artistic Text Recognition": "Text Recognition",
    "Handwriting Recognition": "Text Recognition",
    "Digit String Recognition": "Text Recognition",
    "Non-Semantic Text Recognition": "Text Recognition",
    "Scene Text-centric VQA": "Scene Text-centric VQA",
    "Doc-oriented VQA": "Doc-oriented VQA",
    "Key Information Extraction": "Key Information Extraction",
    "Handwritten Mathematical Expression Recognition": "Handwritten Mathematical Expression Recognition",
}
"""Question type -> group of the official table."""
FORMULAS = "HME100k"


def read(row: Row, part: Part) -> Question:
    """One question; the answer is the list of all references."""
    kind = text(row["question_type"])
    return Question(
        id=text(row.get("id")),
        question=plain(row["question"]),
        answer=references([text(answer) for answer in _answers(row["answer"])]),
        category=kind,
        images=(row["image"],),
        facts={"type": kind, "dataset": text(row["dataset"])},
    )


def _answers(cell: Any) -> list[Any]:
    """A list, in tables as its literal, or the only one."""
    try:
        return sequence(cell)
    except ValueError:
        return [cell]


OCRBENCH = Benchmark(
    name="ocrbench",
    title="OCRBench",
    media="images",
    ids=("echo840/OCRBench",),
    revision="92a54bd1384387c178d5a07140a2d85e0a3d12e1",
    parts=(Part(config="default", split="test", rows=1000, known="card"),),
    columns=("dataset", "question", "question_type", "answer", "image"),
    abilities=dict.fromkeys(GROUPS, "ocr"),
    read=read,
    counts_from="dataset_info of the card",
    licence="unstated",
    licence_stated="neither the card of echo840/OCRBench nor the README of Yuliang-Liu/MultimodalOCR names a licence",
)
