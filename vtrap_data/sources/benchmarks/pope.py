"""POPE: is this object in the picture? Yes or no, with three ways of choosing objects that are not."""

from __future__ import annotations

from vtrap_data.sources.benchmarks.spec import Benchmark, Part, Question, Row, plain, text

CATEGORIES = ("random", "popular", "adversarial")


def read(row: Row, part: Part) -> Question:
    """One question; a row may count in several categories, with commas between them."""
    answer = text(row["answer"]).casefold()
    if answer not in ("yes", "no"):
        raise ValueError(f"the answer {answer[:60]!r} is neither yes nor no")
    categories = [name.strip().casefold() for name in text(row["category"]).split(",") if name.strip()]
    return Question(
        # The number of the row, or else that of the question, which starts anew in every category.
        id=f"{'+'.join(categories)}/{text(row['id']) or text(row['question_id'])}",
        question=plain(row["question"]),
        answer=answer,
        category=categories[0] if categories else "",
        images=(row["image"],),
        facts={"categories": ",".join(categories)},
    )


POPE = Benchmark(
    name="pope",
    title="POPE",
    media="images",
    ids=("lmms-lab-encoder/POPE", "lmms-lab/POPE"),
    revision="4db1276663dfa5eb8ad16a52d24c31a09e470896",
    parts=(Part(config="default", split="test", rows=9000, known="table"),),
    columns=("id", "question_id", "question", "answer", "image_source", "image", "category"),
    abilities=dict.fromkeys(CATEGORIES, "existence"),
    read=read,
    counts_from="lists of evaluation sets that users published with their results",
    licence="MIT",
    licence_stated="LICENSE of AoiDragon/POPE, which holds the questions; the pictures are those of COCO",
)
