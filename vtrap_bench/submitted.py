"""Which models were submitted to a results dataset, and what did each gain and lose against its base?"""

from __future__ import annotations

import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

from hub_cards.report_rows import display_name, report_rows
from hub_cards.results import ResultRow
from vtrap_bench.changes import Json, Material, ScoredModel, build
from vtrap_bench.finished import Run, read_run
from vtrap_bench.records import RECORDS, RUN, read_chained
from vtrap_data.errors import UsageError, VtrapError, printable
from vtrap_data.interruption import terminable
from vtrap_data.push_command import explained


class Submitted(NamedTuple):
    """A run of a results dataset.

    Attributes:
        model: Repository of the model.
        base: What it was fine-tuned from; None for a base.
        trained: Frame setting of the training.
        run: The run.
        frames: Frame setting of the scoring.
        date: ISO day.
        records: Link to the records.
        names: What fine-tunes may call this model as their base.
    """

    model: str
    base: str | None
    trained: str | None
    run: Run
    frames: str
    date: str
    records: str
    names: frozenset[str]


@contextmanager
def fetched(results: str) -> Iterator[Path]:
    """The files of a results dataset: a folder as it is, `owner/name` downloaded for as long as the block lasts.

    Raises:
        UsageError: There is none.
        VtrapError: The Hub does not answer.
    """
    if Path(results).is_dir():
        yield Path(results)
        return
    from hub_cards.repository import Repository
    from hub_cards.scratch import scratch

    with terminable(), scratch("results") as folder:
        explained(lambda: Repository(results, "dataset").download(folder))
        yield folder


def submitted_rows(root: Path, *, link: str) -> list[ResultRow]:
    """A row per model and frame setting. A change is given where the base was submitted at the same setting.

    A run that cannot be read, or whose hash chain is broken, is left out and named on stderr. Of two runs of a model
    at one setting the later one counts.

    Args:
        root: From `fetched`.
        link: Address of the folder that holds `runs/`, for the links to the records.
    """
    found: dict[tuple[str, str], Submitted] = {}
    for path in sorted(root.glob(f"runs/*/*/*/{RUN}")):
        try:
            entry = _read(path.parent, f"{link}/{path.parent.relative_to(root).as_posix()}")
        except (VtrapError, OSError, ValueError, KeyError, TypeError, AttributeError) as error:
            print(printable(f"left out {path.parent.relative_to(root)}: {error}"), file=sys.stderr)
            continue
        before = found.get((entry.model, entry.frames))
        if before is None or before.date <= entry.date:
            found[entry.model, entry.frames] = entry
    entries = list(found.values())
    return [_row(entry, entries) for entry in entries]


def _read(folder: Path, link: str) -> Submitted:
    read_chained(folder / RECORDS)
    run = read_run(folder)
    facts = run.info
    model, name = str(facts["submitted_to"]), display_name(str(facts["model"]["name"]))
    base = facts.get("base")
    return Submitted(
        model=model,
        base=None if base is None else str(base),
        trained=facts.get("trained_with"),
        run=run,
        frames=str(run.scores["frames"]),
        date=str(facts["date"]),
        records=link,
        names=frozenset({model} if base else {model, name}),
    )


def _row(entry: Submitted, entries: Sequence[Submitted]) -> ResultRow:
    base = next((e for e in entries if entry.base in e.names and e.frames == entry.frames), None)
    own = _checkpoint(entry, entry.model)
    facts: Json = {"model": entry.model, "base": entry.base, "trained": entry.trained, "date": entry.date}
    facts["records"] = entry.records
    if base is not None:
        try:
            report = build(Material(base=_checkpoint(base, "base"), trained=[own], common=None))
            return replace(report_rows(report)[-1].row, **{**facts, "base": base.model})
        except UsageError:
            facts["notes"] = "scored on other items, or another version of a task, than its base"
    report = build(Material(base=own, trained=[], common=None))
    return replace(report_rows(report)[0].row, **facts)


def _checkpoint(entry: Submitted, name: str) -> ScoredModel:
    frames: int | str = int(entry.frames) if entry.frames.isdecimal() else "hybrid"
    return ScoredModel(
        name=name, frames=frames, strategy=None, seed=None, evaluated=entry.frames, runs={entry.frames: entry.run}
    )
