"""What is a benchmark, as data? Where its rows are, which columns they have, and what one row asks."""

from __future__ import annotations

import ast
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

from vtrap_data.parsing import parse_json
from vtrap_data.samples import IMAGE_MARK, VIDEO_MARK
from vtrap_data.sources.counts import Known

Row = Mapping[str, Any]

ABILITIES = (
    "recognition",
    "existence",
    "attribute",
    "ocr",
    "counting",
    "position",
    "relation",
    "scene",
    "knowledge",
    "reasoning",
    "action",
    "order",
    "direction",
    "speed",
    "change",
    "cause",
    "long-range",
    "other",
)
"""The abilities that every benchmark's categories are mapped to, so that one ability can be followed across them.
"other" is for categories that the map of a benchmark does not know; they are named when its rows are read."""

LETTERS = "ABCDEFGHIJKLMNOPQRSTUVWXYZ"


@dataclass(frozen=True, slots=True, kw_only=True)
class Part:
    """One configuration of a benchmark on the Hub.

    Attributes:
        config: Its name; "default" where there is only one.
        split: Which split is scored.
        rows: How many rows it should have, after rows of another kind are left out.
        known: How that is known.
    """

    config: str
    split: str
    rows: int
    known: Known


@dataclass(frozen=True, slots=True, kw_only=True)
class Question:
    """What one row asks.

    Attributes:
        id: From the row; made unique where rows repeat it. "": the row has none, so its number is taken.
        question: The bare question, without options and instructions.
        options: In the order shown, without letters; empty for an open question.
        right: Index of the right option; None for an open question.
        answer: Of an open question: the reference, or `references(...)` where there are several.
        category: Key of the benchmark's ability map.
        images: Images inside the row, in the order of their marks.
        video: Names the video file may have, relative to the media folder; the first that exists is taken.
        facts: What prompts and metrics need beside these: sub-tasks, hints, pairs.
        labelled: Options carry labels of their own ("Option 1: ..."), so their order cannot be changed.
    """

    id: str
    question: str
    options: tuple[str, ...] = ()
    right: int | None = None
    answer: str = ""
    category: str
    images: tuple[Any, ...] = ()
    video: tuple[str, ...] = ()
    facts: Mapping[str, str] = field(default_factory=dict)
    labelled: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Benchmark:
    """A benchmark as its authors publish it.

    Attributes:
        name: As typed: "mme".
        title: As its authors write it: "MME".
        media: "images" (inside the rows) or "video" (files beside them).
        ids: Hub ids that hold it: the present one first, then those it was moved from, which lead to the same commits.
        revision: Commit of the data set, as pinned by public code; rows were not looked at from here. None: none is
            known, so reading from the Hub needs --revision.
        parts: Configurations that are scored.
        counts_from: The document that gives their counts.
        columns: What every row must have.
        abilities: Of each category, one of ABILITIES.
        read: Turns a row into a question. None: the row belongs to another task. Raises ValueError for a bad row.
        licence: As packed samples carry it: what its authors state, "unstated" where they name none.
        redistributable: Whether a statement was found by which those who made its media allow to pass them on. False
            also where none was found: publishing refuses.
        licence_stated: By whom and where, and what it covers; where nothing is stated, in which documents.
    """

    name: str
    title: str
    media: Literal["images", "video"]
    ids: tuple[str, ...]
    revision: str | None = None
    parts: tuple[Part, ...]
    columns: tuple[str, ...]
    abilities: Mapping[str, str]
    read: Callable[[Row, Part], Question | None]
    counts_from: str
    licence: str
    redistributable: bool = False
    licence_stated: str

    @property
    def rows(self) -> int:
        """Expected rows of all parts."""
        return sum(part.rows for part in self.parts)

    def pinned(self, source: str) -> str | None:
        """The known commit of a Hub id; None for a data set that is not of `ids`."""
        return self.revision if source in self.ids else None

    def ability(self, category: str) -> str:
        """The common ability of a category, "other" where the map does not know it."""
        return self.abilities.get(category, "other")

    def shown_abilities(self) -> tuple[str, ...]:
        """The common abilities it can have, in the order of ABILITIES."""
        return tuple(name for name in ABILITIES if name in self.abilities.values())


# --- facts: how what an Item has no field for travels through the shards --------------------------------------


def write_facts(facts: Mapping[str, str]) -> str:
    """Facts as the text of `Item.category`: JSON with sorted keys."""
    return json.dumps(dict(facts), sort_keys=True, ensure_ascii=False)


def read_facts(category: str | None) -> dict[str, str]:
    """Read them back.

    Raises:
        ValueError: It is no object of texts.
    """
    facts = parse_json(category or "{}")
    if not isinstance(facts, dict) or not all(isinstance(value, str) for value in facts.values()):
        raise ValueError(f"category {category!r} is no object of texts: convert the benchmark again")
    return facts


def references(answers: Sequence[str]) -> str:
    """Several references as the text of `Item.answer`: a JSON array."""
    if not answers:
        raise ValueError("it has no reference answer")
    return json.dumps(list(answers), ensure_ascii=False)


def read_references(answer: str) -> list[str]:
    """The references that `references` wrote; any other text is the only one."""
    try:
        found = parse_json(answer)
    except ValueError:
        return [answer]
    return [str(one) for one in found] if isinstance(found, list) else [answer]


# --- values of rows ------------------------------------------------------------------------------------------


def text(value: Any) -> str:
    """A cell as text: "" where there is nothing."""
    return "" if value is None or value != value else str(value).strip()


def filled(value: Any) -> str:
    """A cell of a table whose empty cells were written as "nan" or "N/A"."""
    found = plain(value)
    return "" if found.casefold() in ("nan", "n/a") else found


def plain(value: Any) -> str:
    """A cell as text of a prompt, in which nothing stands for a medium by accident."""
    return text(value).replace(IMAGE_MARK, "(image)").replace(VIDEO_MARK, "(video)")


def sequence(value: Any) -> list[Any]:
    """A cell that holds a list, a Python or JSON literal of one, or nothing."""
    if isinstance(value, str):
        try:
            value = parse_json(value)  # first: a Python literal of the same words would keep the slash of "km\\/h"
        except ValueError:
            value = _literal(value)
    if value is None:
        return []
    if not isinstance(value, (list, tuple)):
        raise ValueError(f"{str(value)[:60]!r} is no list")
    return list(value)


def _literal(cell: str) -> Any:
    try:
        return ast.literal_eval(cell)
    except (ValueError, SyntaxError, MemoryError, RecursionError) as error:  # the last two: nested too deeply
        raise ValueError(f"{cell[:60]!r} is no list") from error


def option_texts(values: Sequence[Any]) -> tuple[str, ...]:
    """Options without the letters that some data sets put in front of all of them.

    >>> option_texts(["A. red", "B. blue"]), option_texts(["A.I.", "robots"])
    (('red', 'blue'), ('A.I.', 'robots'))
    """
    shown = [plain(value) for value in values]
    for form in ("{}. ", "{}) ", "({}) ", "{}: ", "{}."):
        marks = [form.format(letter) for letter in LETTERS[: len(shown)]]
        if all(option.startswith(mark) for option, mark in zip(shown, marks, strict=True)):
            return tuple(option.removeprefix(mark).strip() for option, mark in zip(shown, marks, strict=True))
    return tuple(shown)


def option_cells(row: Row) -> tuple[str, ...]:
    """Options in columns of their own, A to E, of which the last may be empty or not there.

    Raises:
        ValueError: One in the middle is empty: letters must stay what they were.
    """
    cells = [filled(row.get(letter)) for letter in LETTERS[:5]]
    while cells and not cells[-1]:
        cells.pop()
    if "" in cells:
        raise ValueError(f"option {LETTERS[cells.index('')]} is empty but a later one is not")
    return tuple(cells)


def by_letter(answer: Any, options: Sequence[str]) -> int:
    """Index that a letter stands for ("B", "(b)", "B. red").

    Raises:
        ValueError: It is no letter, or there is no such option.
    """
    word = text(answer).lstrip("(").upper()
    if not word or (len(word) > 1 and word[1].isalnum()) or word[0] not in LETTERS[: len(options)]:
        raise ValueError(f"the answer {text(answer)[:60]!r} is no letter of the {len(options)} options")
    return LETTERS.index(word[0])


def by_index(answer: Any, options: Sequence[str]) -> int:
    """Index that a number from 0 on stands for.

    Raises:
        ValueError: It is no number, or there is no such option.
    """
    word = text(answer)
    if not (word.isascii() and word.isdecimal()) or int(word) >= len(options):
        raise ValueError(f"the answer {word[:60]!r} is no index of the {len(options)} options")
    return int(word)


def by_text(answer: Any, options: Sequence[str]) -> int:
    """Index of the first option that the answer is, word for word.

    Raises:
        ValueError: It is none of them.
    """
    if plain(answer) not in options:
        raise ValueError(f"the answer {text(answer)[:60]!r} is none of the {len(options)} options")
    return list(options).index(plain(answer))


def lettered(options: Sequence[str], form: str = "{letter}. {option}") -> str:
    """Options as lines, each with its letter."""
    return "\n".join(form.format(letter=letter, option=o) for letter, o in zip(LETTERS, options, strict=False))
