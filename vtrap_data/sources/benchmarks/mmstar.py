"""MMStar: 1500 multiple-choice questions that cannot be answered without the picture; options inside the question."""

from __future__ import annotations

import re

from vtrap_data.sources.benchmarks.spec import (
    LETTERS,
    Benchmark,
    Part,
    Question,
    Row,
    by_letter,
    option_cells,
    plain,
    text,
)

ABILITIES = {
    "image scene and topic": "scene",
    "image style & quality": "attribute",
    "image emotion": "recognition",
    "object counting": "counting",
    "recognition": "recognition",
    "localization": "position",
    "single-instance reasoning": "attribute",
    "cross-instance attribute reasoning": "attribute",
    "cross-instance relation reasoning": "relation",
    "code & sequence reasoning": "reasoning",
    "diagram reasoning": "reasoning",
    "common reasoning": "reasoning",
    "biology & chemistry & physics": "knowledge",
    "electronics & energy & mechanical eng.": "knowledge",
    "geography & earth science & agriculture": "knowledge",
    "geometry": "reasoning",
    "numeric commonsense and calculation": "reasoning",
    "statistical reasoning": "reasoning",
}


def split_options(asked: str) -> tuple[str, tuple[str, ...]]:
    r"""The bare question and the options of "...\nOptions: A: red, B: blue".

    Options may hold commas and colons: the letters are looked for in their order, each after a comma or a line end.

    Raises:
        ValueError: There are fewer than two.
    """
    bare, found, listed = asked.rpartition("Options:")
    options: list[str] = []
    rest = listed.strip()
    if found and rest.startswith("A:"):
        rest = rest.removeprefix("A:")
        for letter in LETTERS[1:]:
            mark = re.search(rf"(?:,\s*|\s*\n\s*){letter}:", rest)
            if mark is None:
                break
            options.append(rest[: mark.start()].strip())
            rest = rest[mark.end() :]
        options.append(rest.strip().removesuffix(","))
    if len(options) < 2:
        raise ValueError(f"no options in {asked[-80:]!r}")
    return bare.strip(), tuple(options)


def read(row: Row, part: Part) -> Question:
    """One question. In tables its options are columns of their own; then they are put as they are elsewhere."""
    asked = plain(row["question"])
    try:
        question, options = split_options(asked)
    except ValueError:
        question, options = asked, option_cells(row)
        if not options:
            raise
        asked = f"{question}\nOptions: {', '.join(map('{}: {}'.format, LETTERS, options))}"
    return Question(
        id=text(row["index"]),
        question=question,
        options=options,
        right=by_letter(row["answer"], options),
        category=text(row["l2_category"]),
        images=(row["image"],),
        facts={"asked": asked, "category": text(row["category"]), "l2": text(row["l2_category"])},
    )


MMSTAR = Benchmark(
    name="mmstar",
    title="MMStar",
    media="images",
    ids=("Lin-Chen/MMStar",),
    revision="bc98d668301da7b14f648724866e57302778ab27",
    parts=(Part(config="val", split="val", rows=1500, known="card"),),
    columns=("index", "question", "image", "answer", "category", "l2_category"),
    abilities=ABILITIES,
    read=read,
    counts_from="dataset_info of the card",
    licence="unstated",
    licence_stated="neither the card of Lin-Chen/MMStar nor the README of MMStar-Benchmark/MMStar names a licence",
)
