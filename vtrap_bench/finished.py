"""What came of a run? The files of a finished one, read back."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

from vtrap_bench.records import RECORDS, RUN, Record, read_chained, read_records, records_of
from vtrap_bench.run_info import RunInfo, read_typed
from vtrap_bench.scores import SCORES, Scores, by_task, differences
from vtrap_data.errors import UsageError
from vtrap_data.trained import SUMMARY


@dataclass(frozen=True, slots=True, kw_only=True)
class Run:
    """A finished run. Its three files speak of the same tasks.

    Attributes:
        folder: Where it lies.
        info: What `run.json` says.
        scores: What `scores.json` says.
        records: By task and item id, ordered by item id.
    """

    folder: Path
    info: RunInfo
    scores: Scores
    records: Mapping[str, Mapping[str, Record]]

    @property
    def label(self) -> str:
        """What tables call its model."""
        return self.info.label


class Untouched(NamedTuple):
    """A finished run that is as it was made, and the lines of its `records.jsonl`."""

    run: Run
    rows: list[dict[str, Any]]


def read_run(folder: Path, *, rows: Sequence[dict[str, Any]] | None = None) -> Run:
    """Read a finished run.

    Args:
        folder: Where it lies.
        rows: The lines of its `records.jsonl`, where they have been read.

    Raises:
        UsageError: It is none, is not finished, was written in another format or is damaged; the message names the
            file and the key.
    """
    if not (folder / RUN).is_file():
        several = sorted(p.parent.name for p in folder.glob(f"*/{SCORES}"))
        hint = f"; it holds the runs {', '.join(several)}" if several else ""
        if (folder / SUMMARY).is_file():
            hint = f"; it is a trained model: score it first (python -m vtrap_bench run --model {folder} --out DIR)"
        raise UsageError(f"{folder} is no run: it has no {RUN}{hint}")
    if not (folder / SCORES).is_file():
        raise UsageError(f"the run in {folder} is not finished (no {SCORES}): run its command again")
    info = read_typed(RunInfo, folder / RUN, "run it again in another --out")
    scores = read_typed(Scores, folder / SCORES, "remove it and run its command again")
    path = folder / RECORDS
    found = read_records(path) if rows is None else records_of(rows, path)
    records = {task: {r.item_id: r for r in some} for task, some in by_task(found).items()}
    for task in (*scores.tasks, *records, *info.tasks):
        for name, there in ((RUN, info.tasks), (SCORES, scores.tasks), (RECORDS, records)):
            if task not in there:
                raise UsageError(f"{folder / name} has nothing of {task}: run the command of this run again")
        if (held := len(records[task])) != (wanted := scores.tasks[task].n):
            raise UsageError(f"{path} holds {held} of the {wanted} items of {task}: run the benchmark again")
        for fact in ("version", "modality", "synthetic"):
            one, two = getattr(info.tasks[task], fact), getattr(scores.tasks[task], fact)
            if one != two:
                raise UsageError(
                    f"{folder / SCORES} gives {task} the {fact} {two}, {RUN} gives {one}: remove {SCORES} and run its "
                    "command again"
                )
    if not records:
        raise UsageError(f"{path} holds no records: run the benchmark again")
    return Run(folder=folder, info=info, scores=scores, records=records)


def read_untouched(folder: Path) -> Untouched:
    """Read a finished run that may be shown to others: whole, and as it was made.

    Its records are chained by hashes, every item is answered, and each number of its scores is what the records give.

    Raises:
        UsageError: What `read_run` says, or something was changed by hand.
    """
    # First: records that were changed by hand are to be called that, not incomplete.
    rows = read_chained(folder / RECORDS) if (folder / RECORDS).exists() else []
    run = read_run(folder, rows=rows or None)
    for task, asked in run.info.tasks.items():
        if (answered := len(run.records[task])) != asked.items:
            raise UsageError(
                f"{folder} is not finished: {answered} of {asked.items} items of {task} are answered; run the same "
                "benchmark command again"
            )
    if run.scores.frames != run.info.frames:
        raise UsageError(f"{folder / SCORES} is of {run.scores.frames} frames, {RUN} of {run.info.frames}")
    records = [record for some in run.records.values() for record in some.values()]
    if found := differences(run.scores, records, seed=run.info.bootstrap.seed):
        more = f" (and {len(found) - 1} more)" if len(found) > 1 else ""
        raise UsageError(
            f"{folder / SCORES}: {found[0]}{more}: it was changed by hand, or is of another version; remove it and "
            "run the same benchmark command again"
        )
    return Untouched(run, rows)
