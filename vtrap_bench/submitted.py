"""Which models were submitted to a results dataset, and what did each gain and lose against its base?"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import NamedTuple, TypeVar

from hub_cards.report_rows import display_name, report_rows
from hub_cards.results import ResultRow
from vtrap_bench.changes import Json, Material, ScoredModel, build
from vtrap_bench.finished import Run, read_untouched
from vtrap_bench.records import RUN
from vtrap_bench.run_info import read_typed, unusual
from vtrap_data.errors import UsageError, VtrapError, printable
from vtrap_data.interruption import terminable
from vtrap_data.push_command import explained

T = TypeVar("T")


@dataclass(frozen=True, slots=True, kw_only=True)
class Origin:
    """What `submit` adds to a `run.json`.

    Attributes:
        submitted_to: Repository of the model.
        date: ISO day of the run.
        base: What the model was fine-tuned from; None where its repository does not say, and for a base.
        trained_with: Frame setting of the training.
    """

    submitted_to: str
    date: str
    base: str | None = None
    trained_with: str | None = None


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
    """A row per model, frame setting and way of asking. A change is given where the base has the same two.

    A run is left out, and named on stderr, if it cannot be read, its hash chain is broken, or its scores are not what
    its records give. Of two such runs of a model the later one counts.

    Args:
        root: From `fetched`.
        link: Address of the folder that holds `runs/`, for the links to the records.
    """
    found: dict[tuple[str, str, str], Submitted] = {}
    for path in sorted(root.glob(f"runs/*/*/*/{RUN}")):
        place = path.parent.relative_to(root).as_posix()
        entry = _sound(place, partial(_read, path.parent, f"{link}/{place}"))
        if entry is None:
            continue
        kind = (entry.model, entry.frames, _asked(entry))
        if kind not in found or found[kind].date <= entry.date:
            found[kind] = entry
    entries = list(found.values())
    rows = [_sound(entry.run.folder.relative_to(root).as_posix(), partial(_row, entry, entries)) for entry in entries]
    return [row for row in rows if row is not None]


def _sound(place: str, read: Callable[[], T]) -> T | None:
    """What is read of one submission: None, said on stderr, where it is not as it should be. Others go on."""
    try:
        return read()
    except (VtrapError, OSError, ValueError) as error:
        print(printable(f"left out {place}: {error}"), file=sys.stderr)
        return None


def _read(folder: Path, link: str) -> Submitted:
    run = read_untouched(folder).run
    origin = read_typed(Origin, folder / RUN, "submit the run again")
    model = origin.submitted_to
    return Submitted(
        model=model,
        base=origin.base,
        trained=origin.trained_with,
        run=run,
        frames=run.scores.frames,
        date=origin.date,
        records=link,
        names=frozenset({model} if origin.base else {model, display_name(run.info.model.name)}),
    )


def _row(entry: Submitted, entries: Sequence[Submitted]) -> ResultRow:
    alike = [e for e in entries if e.frames == entry.frames and _asked(e) == _asked(entry)]
    base = next((e for e in alike if entry.base in e.names), None)
    own = _checkpoint(entry, entry.model)
    facts: Json = {"model": entry.model, "base": entry.base, "trained": entry.trained, "date": entry.date}
    facts |= {"records": entry.records, "notes": _asked(entry)}
    if base is not None:
        try:
            report = build(Material(base=_checkpoint(base, "base"), trained=[own], common=None))
            return replace(report_rows(report)[-1].row, **{**facts, "base": base.model})
        except UsageError:
            other = "scored on other items, or another version of a task, than its base"
            facts["notes"] = "; ".join(filter(None, (facts["notes"], other)))
    report = build(Material(base=own, trained=[], common=None))
    return replace(report_rows(report)[0].row, **facts)


def _asked(entry: Submitted) -> str:
    """How its questions were put and answered, where that is not as usual, and what was left out.

    "profile: lmms", "only 50 questions: mme". `submit` refuses the latter, but a pull request can be made by hand.
    """
    info = entry.run.info
    told = [f"{name}: {value}" for name, value in unusual(info).items()]
    told += [f"only {task.limit} questions: {name}" for name, task in info.tasks.items() if task.limit is not None]
    return ", ".join(told)


def _checkpoint(entry: Submitted, name: str) -> ScoredModel:
    frames: int | str = int(entry.frames) if entry.frames.isdecimal() else "hybrid"
    return ScoredModel(
        name=name, frames=frames, strategy=None, seed=None, evaluated=entry.frames, runs={entry.frames: entry.run}
    )
