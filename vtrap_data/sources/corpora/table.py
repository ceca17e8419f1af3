"""What is known about a corpus before anyone has it? The types of corpora.yaml, and the corpora themselves."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from importlib.resources import files
from typing import Any, Literal, get_args

import yaml

from vtrap_data.sources.counts import Known

Shape = Literal["conversations", "captions", "qa"]
"""How a row says what was asked and answered: see `convert`."""

UNKNOWN = "unknown"
"""What corpora.yaml says of a count that no public document gives."""

Columns = Mapping[str, Any]
"""Columns by name, with types: "string", "int", "float", "image", [what a list holds], {key: type} of an object."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Subset:
    """A part of a corpus.

    Attributes:
        name: As its authors call it.
        files: Globs of its annotation files, relative to the data set.
        rows: How many rows it should have; None: no public document says so.
        known: How that is known.
    """

    name: str
    files: tuple[str, ...]
    rows: int | None
    known: Known


@dataclass(frozen=True, slots=True, kw_only=True)
class NamedCorpus:
    """A corpus as its authors publish it.

    Attributes:
        name: As typed.
        title: As its authors write it.
        ids: Hub data sets that hold it, the present id first.
        revision: Commit of the data set, as pinned by public code; rows were not looked at from here. None: none is
            known, so reading from the Hub needs --revision.
        shape: How its rows are read.
        media: "video" (files beside the rows) or "images" (inside them).
        columns: What every row must have.
        optional: What rows may have besides.
        columns_known: How the columns are known.
        columns_from: The document that says so, and that all subsets have the same.
        question: For captions: what to ask.
        layout: Folders, below the media folder, in which a row's file may lie; `{subset}` is the subset, `{name}` the
            last part of its name, `{source}` the row's `data_source`. The first that has the file is taken.
        layout_known: How that is known.
        licence: As packed samples carry it.
        licence_known: How that is known.
        redistributable: Whether a statement was found by which those who made its media allow to pass them on. False
            also where none was found: publishing refuses.
        licence_note: What the licence covers, and what is said of the media.
        counts_from: The documents that give the counts.
        notes: What else a user has to know.
        subsets: Its parts, by name.
    """

    name: str
    title: str
    ids: tuple[str, ...]
    revision: str | None = None
    shape: Shape
    media: Literal["video", "images"]
    columns: Columns
    optional: Columns
    columns_known: Known
    columns_from: str
    question: str = ""
    layout: tuple[str, ...]
    layout_known: Known
    licence: str
    licence_known: Known
    redistributable: bool
    licence_note: str
    counts_from: str
    notes: tuple[str, ...]
    subsets: Mapping[str, Subset]

    def pinned(self, source: str) -> str | None:
        """The known commit of a Hub id; None for a data set that is not of `ids`."""
        return self.revision if source in self.ids else None


def read_table(text: str) -> dict[str, NamedCorpus]:
    """Corpora from YAML. Raises ValueError or TypeError for data that are not of these types."""
    table = yaml.safe_load(text)
    return {name: _corpus(name, facts) for name, facts in table.items()}


def _corpus(name: str, facts: Mapping[str, Any]) -> NamedCorpus:
    subsets = {
        part: Subset(
            name=part, files=tuple(f["files"]), rows=None if f["rows"] == UNKNOWN else int(f["rows"]), known=f["known"]
        )
        for part, f in facts["subsets"].items()
    }
    plain: dict[str, Any] = {key: tuple(value) if isinstance(value, list) else value for key, value in facts.items()}
    corpus = NamedCorpus(**{**plain, "name": name, "subsets": subsets})
    claims = [corpus.columns_known, corpus.layout_known, corpus.licence_known, *(s.known for s in subsets.values())]
    if wrong := [claim for claim in claims if claim not in get_args(Known)]:
        raise ValueError(f"{name}: {wrong[0]!r} is no way to know a fact")
    if not isinstance(corpus.redistributable, bool):
        raise ValueError(f"{name}: redistributable is {corpus.redistributable!r}, not true or false")
    if corpus.shape not in get_args(Shape) or (corpus.shape == "captions") != bool(corpus.question):
        raise ValueError(f"{name}: shape {corpus.shape!r} with question {corpus.question!r}")
    return corpus


CORPORA = read_table((files(__package__) / "corpora.yaml").read_text(encoding="utf-8"))
"""Every corpus by name."""
