"""Video-MME: 900 videos from seconds to an hour, three four-option questions each."""

from __future__ import annotations

from vtrap_data.sources.benchmarks.spec import (
    Benchmark,
    Part,
    Question,
    Row,
    by_letter,
    option_texts,
    plain,
    sequence,
    text,
)

DOMAINS = (
    "Knowledge",
    "Film & Television",
    "Sports Competition",
    "Artistic Performance",
    "Life Record",
    "Multilingual",
)
ABILITIES = {
    "Temporal Perception": "order",
    "Spatial Perception": "position",
    "Attribute Perception": "attribute",
    "Action Recognition": "action",
    "Object Recognition": "recognition",
    "OCR Problems": "ocr",
    "Counting Problem": "counting",
    "Temporal Reasoning": "order",
    "Spatial Reasoning": "relation",
    "Action Reasoning": "cause",
    "Object Reasoning": "reasoning",
    "Information Synopsis": "long-range",
}


def read(row: Row, part: Part) -> Question:
    """One question. Subtitles are not used."""
    options = option_texts(sequence(row["options"]))
    name = text(row["videoID"])
    return Question(
        id=text(row["question_id"]),
        question=plain(row["question"]),
        options=options,
        right=by_letter(row["answer"], options),
        category=text(row["task_type"]),
        video=tuple(f"{folder}{name}.{end}" for folder in ("data/", "") for end in ("mp4", "MP4", "mkv")),
        facts={key: text(row[key]) for key in ("duration", "domain", "sub_category", "task_type")},
    )


VIDEOMME = Benchmark(
    name="videomme",
    title="Video-MME (without subtitles)",
    media="video",
    ids=("lmms-eval/Video-MME", "lmms-lab/Video-MME"),
    revision="ead1408f75b618502df9a1d8e0950166bf0a2a0b",
    parts=(Part(config="videomme", split="test", rows=2700, known="card"),),
    columns=(
        "video_id",
        "duration",
        "domain",
        "sub_category",
        "videoID",
        "question_id",
        "task_type",
        "question",
        "options",
        "answer",
    ),
    abilities=ABILITIES,
    read=read,
    counts_from="dataset_info of the card",
    licence="Video-MME terms",
    licence_stated="README of MME-Benchmarks/Video-MME: academic research, nothing published without approval",
)
