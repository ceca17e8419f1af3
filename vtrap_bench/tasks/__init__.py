"""Which benchmarks are there? One file per task; a new one is a file and a line here."""

from __future__ import annotations

from vtrap_bench.tasks.task import Task
from vtrap_bench.tasks.toy_image import TOY_IMAGE
from vtrap_bench.tasks.toy_video import TOY_VIDEO
from vtrap_data.errors import UsageError

TASKS: dict[str, Task] = {task.name: task for task in (TOY_IMAGE, TOY_VIDEO)}
GROUPS = ("image", "video")

__all__ = ["GROUPS", "TASKS", "Task", "select_tasks"]


def select_tasks(names: str) -> list[Task]:
    """Turn "image,toy-video" into tasks: names of tasks and of groups, each task once, in the order of TASKS.

    Raises:
        UsageError: A name is neither a task nor a group, or there is none.
    """
    wanted: set[str] = set()
    for name in (part.strip() for part in names.split(",") if part.strip()):
        if name in GROUPS:
            wanted |= {task.name for task in TASKS.values() if task.modality == name}
        elif name in TASKS:
            wanted.add(name)
        else:
            raise UsageError(f"--tasks: {name!r} is no task; there are {', '.join(TASKS)} and the groups image, video")
    if not wanted:
        raise UsageError(f"--tasks is empty; there are {', '.join(TASKS)} and the groups image, video")
    return [task for task in TASKS.values() if task.name in wanted]
