"""SEED-Bench, its image part: four options about one picture, nine kinds of question."""

from __future__ import annotations

from vtrap_data.sources.benchmarks.spec import Benchmark, Part, Question, Row, by_letter, plain, text

TYPES = {
    "1": "Scene Understanding",
    "2": "Instance Identity",
    "3": "Instance Attributes",
    "4": "Instance Location",
    "5": "Instance Counting",
    "6": "Spatial Relation",
    "7": "Instance Interaction",
    "8": "Visual Reasoning",
    "9": "Text Understanding",
}
ABILITIES = {
    "Scene Understanding": "scene",
    "Instance Identity": "recognition",
    "Instance Attributes": "attribute",
    "Instance Location": "position",
    "Instance Counting": "counting",
    "Spatial Relation": "relation",
    "Instance Interaction": "relation",
    "Visual Reasoning": "reasoning",
    "Text Understanding": "ocr",
}


def read(row: Row, part: Part) -> Question | None:
    """One question about a picture; rows about videos are left out."""
    if text(row["data_type"]) != "image":
        return None
    options = tuple(plain(row[f"choice_{letter}"]) for letter in "abcd")
    kind = TYPES.get(text(row["question_type_id"]), text(row["question_type_id"]))
    images = row["image"] if isinstance(row["image"], list) else [row["image"]]
    return Question(
        id=text(row["question_id"]),
        question=plain(row["question"]),
        options=options,
        right=by_letter(row["answer"], options),
        category=kind,
        images=tuple(images),
        facts={"type": kind},
    )


SEED_IMAGE = Benchmark(
    name="seed_image",
    title="SEED-Bench (image)",
    media="images",
    ids=("lmms-lab-encoder/SEED-Bench", "lmms-lab/SEED-Bench"),
    revision="74c4ea0cee96786739e4ccb97d227818a05ae752",
    parts=(Part(config="default", split="test", rows=14233, known="memory"),),
    columns=(
        "question",
        "choice_a",
        "choice_b",
        "choice_c",
        "choice_d",
        "answer",
        "data_id",
        "data_type",
        "question_id",
        "question_type_id",
        "image",
    ),
    abilities=ABILITIES,
    read=read,
    counts_from="memory: no document was found",
    licence="CC-BY-NC-4.0",
    licence_stated="card of AILab-CVC/SEED-Bench, of the questions; the images keep those of Conceptual Captions",
)
