"""MME: two yes/no questions about each picture, in 14 sub-tasks."""

from __future__ import annotations

from vtrap_data.sources.benchmarks.spec import Benchmark, Part, Question, Row, plain, text

SUFFIX = "Please answer yes or no."
PERCEPTION = (
    "existence", "count", "position", "color", "posters", "celebrity", "scene", "landmark", "artwork", "OCR",
)  # fmt: skip
COGNITION = ("commonsense_reasoning", "numerical_calculation", "text_translation", "code_reasoning")
ABILITIES = {
    "existence": "existence",
    "count": "counting",
    "position": "position",
    "color": "attribute",
    "posters": "knowledge",
    "celebrity": "knowledge",
    "scene": "scene",
    "landmark": "knowledge",
    "artwork": "knowledge",
    "OCR": "ocr",
    **dict.fromkeys(COGNITION, "reasoning"),
}


def read(row: Row, part: Part) -> Question:
    """One of the two questions; `pair` names the picture."""
    answer = text(row["answer"]).casefold()
    if answer not in ("yes", "no"):
        raise ValueError(f"the answer {answer[:60]!r} is neither yes nor no")
    return Question(
        id=f"{text(row['category'])}/{text(row['question_id'])}",
        question=plain(row["question"]).removesuffix(SUFFIX).rstrip(),
        answer=answer,
        category=text(row["category"]),
        images=(row["image"],),
        facts={"subtask": text(row["category"]), "pair": text(row["question_id"])},
    )


MME = Benchmark(
    name="mme",
    title="MME",
    media="images",
    ids=("lmms-lab-encoder/MME", "lmms-lab/MME"),
    revision="d6c9023f017b564f7b3ccccf5348166bce8fdbcd",
    parts=(Part(config="default", split="test", rows=2374, known="card"),),
    columns=("question_id", "image", "question", "answer", "category"),
    abilities=ABILITIES,
    read=read,
    counts_from="dataset_info of the card",
    licence="MME terms",
    licence_stated="README of BradyFU/Awesome-Multimodal-Large-Language-Models: for research, given out on request",
)
