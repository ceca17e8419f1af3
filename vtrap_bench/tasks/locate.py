"""Where is the packed data of a task? Given by --benchmarks, or in the cache, where it is made on first use."""

from __future__ import annotations

import fcntl
import shlex
import shutil
import subprocess
import sys
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path

from vtrap_bench.tasks.task import Task
from vtrap_data.errors import UsageError, VtrapError
from vtrap_data.files import home

MANIFEST = "manifest.json"
"""Written last by `pack`: a folder that has it is complete."""


def cache() -> Path:
    """`$VTRAP_HOME/benchmarks`."""
    return home() / "benchmarks"


def present(tasks: Iterable[Task], *, benchmarks: Path | None = None) -> set[str]:
    """Names of the tasks whose packed data is in `benchmarks`, or in the cache if that is None."""
    return {task.name for task in tasks if (folder_of(task, benchmarks) / MANIFEST).is_file()}


def folder_of(task: Task, benchmarks: Path | None) -> Path:
    """Where the packed data of a task is, if it is there: in `benchmarks`, or in the cache if that is None."""
    return cache() / f"{task.name}-v{task.version}" if benchmarks is None else benchmarks / task.name


def ensure(task: Task, *, benchmarks: Path | None = None) -> Path:
    """Folder of the packed data of a task.

    Args:
        task: Which.
        benchmarks: Folder that holds one folder per task; nothing is made there. None: the cache. A task that can be
            built is built there on first use; the cache folder carries the task's version in its name.

    Raises:
        UsageError: It is not there and cannot be made.
        VtrapError: Making it failed.
    """
    if benchmarks is not None:
        path = folder_of(task, benchmarks)
        if not (path / MANIFEST).is_file():
            raise UsageError(
                f"--benchmarks {benchmarks}: no packed benchmark in {path} (no {MANIFEST}); pack it there, or leave "
                "--benchmarks out"
            )
        return path
    path = folder_of(task, None)
    if (path / MANIFEST).is_file():
        return path
    if task.build is None:
        how = f": make it with `python -m vtrap_data benchmark {task.name}` and `pack`" if task.source else ""
        raise UsageError(f"task {task.name} has no packed data in {path}{how}; then give --benchmarks")
    path.parent.mkdir(parents=True, exist_ok=True)
    with _lock(path.with_name(f".{path.name}.lock")):
        # Another process may have made it while this one waited.
        if not (path / MANIFEST).is_file():
            _build(task, path)
    return path


def _build(task: Task, path: Path) -> None:
    assert task.build is not None
    print(f"making the benchmark {task.name} in {path} (once)", file=sys.stderr)
    # Beside the destination, so that the rename stays on one file system.
    work = path.with_name(f".{path.name}.unfinished")
    shutil.rmtree(work, ignore_errors=True)  # of a process that was killed: whoever is here has the lock
    work.mkdir()
    try:
        for arguments in task.build(work):
            command = [sys.executable, "-m", "vtrap_data", *arguments]
            done = subprocess.run(command, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, check=False)
            if done.returncode != 0:
                shown = shlex.join(["python", *command[1:]])
                raise VtrapError(f"making {task.name} failed with exit code {done.returncode}: {shown}")
        (work / "packed").replace(path)
    finally:
        shutil.rmtree(work, ignore_errors=True)


@contextmanager
def _lock(path: Path) -> Iterator[None]:
    with path.open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield
