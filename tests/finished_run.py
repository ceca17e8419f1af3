"""What `vtrap_bench run` leaves in a folder beside the records, for tests that write their own records."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from vtrap_bench.records import Record
from vtrap_bench.scores import compute
from vtrap_bench.tasks import TASKS
from vtrap_bench.tasks.task import Task


def write_info(
    folder: Path,
    records: Sequence[Record],
    *,
    model: str,
    frames: str = "4",
    tasks: Mapping[str, Mapping[str, Any]] | None = None,
    weights: Mapping[str, str] | None = None,
    hub_revision: str | None = None,
    **change: Any,
) -> None:
    """Write `run.json`. `tasks`: what differs in each; `change`: what differs otherwise."""
    info = {
        "format": 1,
        "model": {"name": model, "hub_revision": hub_revision, "family": "qwen2_5_vl", "weights": dict(weights or {})},
        "label": Path(model).name,
        "frames": frames,
        "tasks": {
            name: {
                "version": TASKS[name].version,
                "modality": TASKS[name].modality,
                "synthetic": TASKS[name].synthetic,
                "data_sha256": "0" * 64,
                "items": sum(r.task == name for r in records),
                "limit": None,
                "max_new_tokens": 8,
                "answer_form": "option",
                **(tasks or {}).get(name, {}),
            }
            for name in dict.fromkeys(r.task for r in records)
        },
        "decides": {"model": model, "backend": "transformers", "dtype": "float32", "frames": frames},
        "device": "cpu",
        "batch_size": 8,
        "bootstrap": {"seed": 0, "resamples": 2000, "level": 0.95, "tasks": "wilson-clustered"},
        "preprocessing": {},
        "backend": {},
        "versions": {},
        **change,
    }
    (folder / "run.json").write_text(json.dumps(info), "utf-8")


def write_scores(folder: Path, records: Sequence[Record], *, model: str, frames: str = "4", **change: Any) -> None:
    """Write `scores.json`, by the product's own scorer. `change`: what differs in every task."""
    tasks = [_plain(TASKS[name], **change) for name in dict.fromkeys(r.task for r in records)]
    head = {"model": model, "label": Path(model).name, "frames": frames}
    (folder / "scores.json").write_text(json.dumps(compute(tasks, records, head=head, seed=0)), "utf-8")


def _plain(task: Task, **change: Any) -> Task:
    """Scored by the mean: `evaluate` takes seconds to import, and gives the same."""
    return replace(task, metric=None, measure=None, grade=task.grade or _never, **change)


def _never(*_: object, **__: object) -> Any:
    raise AssertionError("nothing is graded here")
