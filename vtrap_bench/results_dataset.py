"""What does a results dataset hold of a run, and how does it get there?

README.md, vtrap_results.json                                         the card, and that it is such a dataset
runs/OWNER/MODEL/FRAMES-HASH/records.jsonl, scores.json, run.json     a run, never changed again
"""

from __future__ import annotations

import dataclasses
import datetime
import json
from collections.abc import Sequence
from pathlib import Path
from types import NoneType
from typing import Any, NamedTuple, get_args, get_origin, get_type_hints

from hub_cards.errors import Moved, Refused
from hub_cards.publishing import Publication, publish
from hub_cards.readback import count_records
from hub_cards.rendering import card
from hub_cards.report_rows import display_name
from hub_cards.repository import Repository
from hub_cards.verifying import ReadBack
from vtrap_bench.changes import Json
from vtrap_bench.records import CHAIN, PRIVATE, RECORDS, RUN, Record
from vtrap_bench.scores import SCORES
from vtrap_data.parsing import parse_json

NAME = "vtrap-results"
MARKER = "vtrap_results.json"
MOVES = 3
"""How often another submission to the same results dataset may come first before we give up."""
_HIDDEN: Json = {name: [] if name == "options" else "" for name in PRIVATE}
_KINDS = {str: "string", bool: "bool", int: "int64", float: "float64"}


class Submission(NamedTuple):
    """A run on its way.

    Attributes:
        folder: Of the run.
        facts: Content of its `run.json`.
        scores: Content of its `scores.json`.
        rows: Lines of its `records.jsonl`.
        model: Repository of the model on the Hub.
        origin: What the model was fine-tuned from and with, as far as its repository says.
    """

    folder: Path
    facts: Json
    scores: Json
    rows: Sequence[Json]
    model: str
    origin: Json

    @property
    def place(self) -> str:
        """Its folder in a results dataset."""
        return f"runs/{self.model}/{self.scores['frames']}-{str(self.scores['records_sha256'])[:12]}"


def publish_run(run: Submission, results: str) -> str:
    """Put records, scores and settings of a run into a results dataset, if they are not there.

    Args:
        run: The run.
        results: `owner/name` of the dataset, which is made if it does not exist.

    Returns:
        The day of the run.

    Raises:
        Refused: The Hub does not allow it.
        Failed: It did not get through.
    """
    date = _date(run, results)
    name = display_name(str(run.facts["model"]["name"]))
    facts = {**run.facts, "model": {**run.facts["model"], "name": name}}
    facts |= {"submitted_to": run.model, **run.origin, "date": date}
    records = f"{run.place}/{RECORDS}"
    publication = Publication(
        repo_id=results,
        repo_type="dataset",
        files={
            "README.md": _card(results).encode(),
            MARKER: b'{"format": 1}\n',
            records: published_records(run.rows, run.scores),
            f"{run.place}/{SCORES}": _json({**run.scores, "model": display_name(str(run.scores["model"]))}),
            f"{run.place}/{RUN}": _json(facts),
        },
        marker=MARKER,
        # Tags are for versions; this dataset only grows.
        tag="",
        read_back=ReadBack("hub_cards.readback", ("records", records), expected=count_records(run.rows)),
    )
    for attempt in range(1, MOVES + 1):
        try:
            publish(publication)
            return date
        except Moved:
            if attempt == MOVES:
                raise
    raise AssertionError("unreachable")


def _date(run: Submission, results: str) -> str:
    """The day of the run; if it was submitted before, as it was then: copying a folder makes its files younger."""
    try:
        text = Repository(results, "dataset").read_text(f"{run.place}/{RUN}")
    except Refused:  # no results dataset yet
        text = None
    try:
        before = parse_json(text or "{}")
    except ValueError:  # damaged there: this submission mends it
        before = {}
    when = datetime.datetime.fromtimestamp((run.folder / SCORES).stat().st_mtime, tz=datetime.UTC)
    return str((before.get("date") if isinstance(before, dict) else None) or when.date().isoformat())


def published_records(rows: Sequence[Json], scores: Json) -> bytes:
    """The lines of `records.jsonl` as anyone may read them.

    The questions and answers of a benchmark belong to others, and a benchmark that lies open in records ends up in
    training data: they are left out, except for synthetic ones. The hash chain does not cover them, so it still holds.

    Args:
        rows: The lines of the run.
        scores: Content of its `scores.json`.
    """
    lines = []
    for row in rows:
        hidden = {} if scores["tasks"][row["task"]].get("synthetic") else _HIDDEN
        lines.append(json.dumps({**row, **hidden}, ensure_ascii=False) + "\n")
    return "".join(lines).encode()


def _card(results: str) -> str:
    data = [{"split": "train", "path": f"runs/**/{RECORDS}"}]
    return card(
        {
            "pretty_name": "vtrap results",
            "tags": ["vtrap", "evaluation"],
            "configs": [{"config_name": "default", "default": True, "data_files": data}],
            "dataset_info": [{"config_name": "default", "features": features()}],
        },
        "results.md.jinja",
        results=results,
    )


def features() -> list[Json]:
    """The columns of the records: declared, since a run may have only empty values in one of them, or none."""
    kinds = get_type_hints(Record)
    columns = [_column(field.name, kinds[field.name]) for field in dataclasses.fields(Record)]
    return [*columns, _column(CHAIN, str)]


def _column(name: str, kind: Any) -> Json:
    """Of `str`, `float | None`, `tuple[str, ...]`, ..."""
    inner = next((a for a in get_args(kind) if a not in (NoneType, Ellipsis)), kind)
    return {"name": name, "list" if get_origin(kind) is tuple else "dtype": _KINDS[inner]}


def _json(value: Json) -> bytes:
    return (json.dumps(value, indent=1, ensure_ascii=False) + "\n").encode()
