"""MMBench-EN (dev): multiple choice, each question asked once per rotation of its options."""

from __future__ import annotations

from vtrap_data.sources.benchmarks.spec import (
    Benchmark,
    Part,
    Question,
    Row,
    by_letter,
    filled,
    option_cells,
    plain,
    text,
)

ROTATION = 1_000_000
"""Copy k of question q has index q + k * ROTATION."""
ABILITIES = {
    "image_scene": "scene",
    "image_style": "attribute",
    "image_topic": "scene",
    "image_quality": "attribute",
    "image_emotion": "recognition",
    "object_localization": "position",
    "attribute_recognition": "attribute",
    "celebrity_recognition": "knowledge",
    "ocr": "ocr",
    "spatial_relationship": "relation",
    "attribute_comparison": "attribute",
    "action_recognition": "action",
    "physical_property_reasoning": "reasoning",
    "function_reasoning": "knowledge",
    "identity_reasoning": "knowledge",
    "social_relation": "relation",
    "physical_relation": "relation",
    "nature_relation": "relation",
    "structuralized_imagetext_understanding": "ocr",
    "future_prediction": "reasoning",
}


def read(row: Row, part: Part) -> Question:
    """One rotation of one question."""
    options = option_cells(row)
    index = int(row["index"])
    return Question(
        id=str(index),
        question=plain(row["question"]),
        options=options,
        right=by_letter(row["answer"], options),
        category=text(row["category"]),
        images=(row["image"],),
        facts={
            "hint": filled(row["hint"]),
            "base": str(index % ROTATION),
            "rotation": str(index // ROTATION),
            "category": text(row["category"]),
            "l2": text(row["L2-category"]),
        },
    )


MMBENCH_EN = Benchmark(
    name="mmbench_en",
    title="MMBench-EN (dev)",
    media="images",
    ids=("lmms-lab-encoder/MMBench", "lmms-lab/MMBench"),
    revision="56ba1af8954932c4804bd3f522e05ed96e63b654",
    parts=(Part(config="en", split="dev", rows=4329, known="table"),),
    columns=("index", "question", "hint", "A", "B", "C", "D", "answer", "category", "L2-category", "image"),
    abilities=ABILITIES,
    read=read,
    counts_from="lists of evaluation sets that users published with their results",
    licence="CC-BY-4.0",
    licence_stated="card of opencompass/MMBench; the pictures are from public data sets and the internet (README)",
)
