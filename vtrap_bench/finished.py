"""What came of a run? The files of a finished one, read back."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from vtrap_bench.records import RECORDS, RUN, Record, read_records
from vtrap_bench.scores import SCORES, SCORES_FORMAT, by_task
from vtrap_data.errors import UsageError
from vtrap_data.json_object import read_json_object


@dataclass(frozen=True, slots=True, kw_only=True)
class Run:
    """A finished run.

    Attributes:
        folder: Where it lies.
        info: Content of `run.json`.
        scores: Content of `scores.json`.
        records: By task and item id, ordered by item id.
    """

    folder: Path
    info: dict[str, Any]
    scores: dict[str, Any]
    records: Mapping[str, Mapping[str, Record]]

    @property
    def label(self) -> str:
        """What tables call its model."""
        return str(self.info["label"])


def read_run(folder: Path) -> Run:
    """Read a finished run.

    Raises:
        UsageError: It is none, is not finished, or was written in another format.
    """
    if not (folder / RUN).is_file():
        several = sorted(p.parent.name for p in folder.glob(f"*/{SCORES}"))
        hint = f"; it holds the runs {', '.join(several)}" if several else ""
        raise UsageError(f"{folder} is no run: it has no {RUN}{hint}")
    if not (folder / SCORES).is_file():
        raise UsageError(f"the run in {folder} is not finished (no {SCORES}): run its command again")
    info = read_json_object(folder / RUN, "run it again in another --out")
    if not isinstance(info.get("tasks"), dict):
        raise UsageError(f"{folder / RUN} is damaged (it has no tasks): run it again in another --out")
    scores = read_json_object(folder / SCORES, "remove it and run its command again")
    if scores.get("format") != SCORES_FORMAT or not isinstance(scores.get("tasks"), dict):
        raise UsageError(
            f"{folder / SCORES} has format {scores.get('format')!r}, not {SCORES_FORMAT}: score the run again"
        )
    path = folder / RECORDS
    records = {task: {r.item_id: r for r in rows} for task, rows in by_task(read_records(path)).items()}
    for task, facts in scores["tasks"].items():
        wanted = facts.get("n") if isinstance(facts, dict) else None
        if not isinstance(wanted, int):
            raise UsageError(f"{folder / SCORES} is damaged (tasks, {task!r}): score the run again")
        if (found := len(records.get(task, {}))) < wanted:
            raise UsageError(f"{path} holds {found} of the {wanted} items of {task}: run the benchmark again")
    return Run(folder=folder, info=info, scores=scores, records=records)
