"""Which items does a run answer, under which keys, and in which batches?"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple

from vtrap_bench.records import record_key
from vtrap_bench.run_settings import RunSettings
from vtrap_bench.tasks import TASKS, Task
from vtrap_bench.tasks.locate import MANIFEST, ensure
from vtrap_bench.tasks.task import PromptProfile
from vtrap_data.errors import UsageError
from vtrap_data.files import sha256_file
from vtrap_data.loading.dataset import PackedDataset


class Job(NamedTuple):
    """One item to answer.

    Attributes:
        key: Of its record.
        task: Name.
        number: In the task's data.
        order: By length, so that a batch holds items of about one length; those about the same media follow each
            other, so that they are decoded once.
    """

    key: str
    task: str
    number: int
    order: tuple[int, int, int, str, int]

    @property
    def pixels(self) -> int:
        """That it shows."""
        return self.order[0]


class Bench(NamedTuple):
    """A task with its data open and its items chosen."""

    task: Task
    profile: PromptProfile
    data: PackedDataset
    sha256: str
    limit: int | None
    jobs: list[Job]


def all_tasks(tasks: Sequence[Task], before: Mapping[str, Any] | None) -> list[Task]:
    """The tasks asked for and those that the folder has already."""
    asked = {task.name: task for task in tasks}
    kept = [TASKS[name] for name in (before or {}).get("tasks", {}) if name not in asked and name in TASKS]
    order = list(TASKS)
    return sorted([*tasks, *kept], key=lambda t: order.index(t.name) if t.name in order else len(order))


def open_bench(
    task: Task, settings: RunSettings, decides: Mapping[str, Any], before: Mapping[str, Any] | None
) -> Bench:
    """Open a task's data and choose its items.

    Args:
        task: Which.
        settings: Of the run.
        decides: What decides its answers (`run_file.what_decides`).
        before: The `run.json` that is there.

    Raises:
        UsageError: The data is not there or has changed since, or the task has no such profile.
    """
    if settings.profile not in task.profiles:
        raise UsageError(f"--profile {settings.profile!r}: task {task.name} has {', '.join(task.profiles)}")
    root = ensure(task, benchmarks=settings.benchmarks)
    moving = task.modality == "video" and settings.frames != "budget"
    try:
        data = PackedDataset(root, frames=int(settings.frames) if moving else "hybrid", keep_last=True)
    except UsageError as error:
        raise UsageError(f"--frames {settings.frames}, task {task.name}: {error}") from error
    sha256 = sha256_file(root / MANIFEST)
    entry = (before or {}).get("tasks", {}).get(task.name)
    limit = settings.limit
    if entry is not None:
        for what, now in (("version", task.version), ("data_sha256", sha256)):
            if entry[what] != now:
                raise UsageError(
                    f"--out {settings.out} holds answers to {task.name} with {what} {entry[what]}, now it is {now}: "
                    "choose another --out"
                )
        if task.name not in {t.name for t in settings.tasks}:
            limit = entry["limit"]  # it is only here because the folder has it already
        elif limit is not None:
            # Answers that are there are never thrown away.
            limit = None if entry["limit"] is None else max(limit, int(entry["limit"]))
    # Pictures and texts do not depend on the number of video frames: neither do the keys of their answers.
    common = {**decides, "task": task.name, "task_version": task.version, "data": sha256}
    common["max_new_tokens"] = task.max_new_tokens
    ids = data.column("item_id")
    if not ids:
        raise UsageError(f"{root} has no items: pack the benchmark again")
    if len(set(ids)) < len(ids):
        raise UsageError(f"{root}: item ids repeat, so answers cannot be told apart: pack it with unique ids")
    columns = [data.column(c) for c in ("key", "kind", "n_frames", "width", "height", "n_images", "text_chars")]
    taken = chosen(ids, limit)
    longest: dict[str, int] = {}  # text about each media item
    for number in taken:
        media, *_, chars = (c[number] for c in columns)
        longest[media] = max(chars, longest.get(media, 0))
    jobs = []
    for number in taken:
        media, kind, frames, width, height, images, chars = (c[number] for c in columns)
        shown = decides["frames"] if kind == "video" else None
        key = record_key(**{**common, "frames": shown, "item": ids[number]})
        order = (max(frames, images) * width * height, frames, longest[media], media, chars)
        jobs.append(Job(key, task.name, number, order))
    return Bench(task, task.profiles[settings.profile], data, sha256, limit, jobs)


def chosen(ids: Sequence[str], limit: int | None) -> list[int]:
    """Numbers of the items to answer. A limit takes those whose hashed ids come first: a fair sample, and nested."""
    if limit is None or limit >= len(ids):
        return list(range(len(ids)))
    order = sorted(range(len(ids)), key=lambda i: hashlib.sha256(ids[i].encode()).digest())
    return sorted(order[:limit])


def batches(pending: Sequence[Job], size: int) -> Iterator[list[Job]]:
    """Batches of one task and of about one length, the longest first: what does not fit fails at once."""
    tasks: dict[str, list[Job]] = {}
    for job in pending:
        tasks.setdefault(job.task, []).append(job)
    for jobs in tasks.values():
        jobs.sort(key=lambda j: j.order, reverse=True)
        yield from (jobs[i : i + size] for i in range(0, len(jobs), size))
