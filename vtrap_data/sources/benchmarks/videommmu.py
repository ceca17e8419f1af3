"""Video-MMMU: lectures, and what can be learned from them: perception, comprehension, adaptation."""

from __future__ import annotations

from vtrap_data.sources.benchmarks.spec import (
    Benchmark,
    Part,
    Question,
    Row,
    by_letter,
    option_texts,
    plain,
    references,
    sequence,
    text,
)

TRACKS = ("Perception", "Comprehension", "Adaptation")
DISCIPLINES = ("Art", "Science", "Humanities", "Engineering", "Medicine", "Business")


def read(row: Row, part: Part) -> Question:
    """One question. The picture that an Adaptation question is about is the end of its video."""
    name = text(row["id"])
    closed = text(row["question_type"]) != "open"
    options = option_texts(sequence(row["options"])) if closed else ()
    return Question(
        id=f"{part.config}/{name}",
        question=plain(row["question"]),
        options=options,
        right=by_letter(row["answer"], options) if closed else None,
        answer="" if closed else references([text(row["answer"])]),
        category=part.config,
        video=tuple(f"{folder}{name}.mp4" for folder in ("", *(f"{d}/" for d in DISCIPLINES))),
        facts={
            "track": part.config,
            "type": text(row["question_type"]),
            "subject": "_".join(name.split("_")[1:-1]) or name,
        },
    )


VIDEOMMMU = Benchmark(
    name="videommmu",
    title="Video-MMMU",
    media="video",
    ids=("lmms-eval/VideoMMMU", "lmms-lab/VideoMMMU"),
    revision="d1c35ac933123d79e877b7f1b9506afb0309cf1b",
    parts=tuple(Part(config=track, split="test", rows=300, known="viewer") for track in TRACKS),
    columns=("id", "question", "options", "answer", "question_type"),
    abilities={"Perception": "ocr", "Comprehension": "knowledge", "Adaptation": "reasoning"},
    read=read,
    counts_from="viewer of the data set",
    licence="unstated",
    licence_stated="card of lmms-lab/VideoMMMU: all rights in the videos remain with those who made them",
)
