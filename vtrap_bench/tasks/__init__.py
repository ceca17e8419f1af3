"""Which benchmarks are there? One file per task; a new one is a file and a line here."""

from __future__ import annotations

from collections.abc import Collection

from vtrap_bench.tasks.ai2d import AI2D
from vtrap_bench.tasks.egoschema import EGOSCHEMA
from vtrap_bench.tasks.longvideobench import LONGVIDEOBENCH
from vtrap_bench.tasks.mlvu import MLVU
from vtrap_bench.tasks.mmbench_en import MMBENCH_EN
from vtrap_bench.tasks.mme import MME
from vtrap_bench.tasks.mmmu import MMMU
from vtrap_bench.tasks.mmstar import MMSTAR
from vtrap_bench.tasks.mvbench import MVBENCH
from vtrap_bench.tasks.nextqa import NEXTQA
from vtrap_bench.tasks.ocrbench import OCRBENCH
from vtrap_bench.tasks.perceptiontest import PERCEPTIONTEST
from vtrap_bench.tasks.pope import POPE
from vtrap_bench.tasks.scienceqa_img import SCIENCEQA_IMG
from vtrap_bench.tasks.seed_image import SEED_IMAGE
from vtrap_bench.tasks.task import Task
from vtrap_bench.tasks.tempcompass import TEMPCOMPASS
from vtrap_bench.tasks.textvqa import TEXTVQA
from vtrap_bench.tasks.toy_image import TOY_IMAGE
from vtrap_bench.tasks.toy_video import TOY_VIDEO
from vtrap_bench.tasks.videomme import VIDEOMME
from vtrap_bench.tasks.videommmu import VIDEOMMMU
from vtrap_data.errors import UsageError

TASKS: dict[str, Task] = {
    task.name: task
    for task in (
        *(TOY_IMAGE, TOY_VIDEO),
        *(MME, MMSTAR, MMBENCH_EN, POPE, SEED_IMAGE, SCIENCEQA_IMG, TEXTVQA, OCRBENCH, MMMU, AI2D),
        *(VIDEOMME, MVBENCH, TEMPCOMPASS, VIDEOMMMU, LONGVIDEOBENCH, MLVU, NEXTQA, EGOSCHEMA, PERCEPTIONTEST),
    )
}
GROUPS = ("image", "video")

__all__ = ["GROUPS", "TASKS", "Task", "select_tasks"]


def select_tasks(names: str, *, present: Collection[str] = ()) -> list[Task]:
    """Turn "image,toy-video" into tasks: names of tasks and of groups, each task once, in the order of TASKS.

    A group is the real benchmarks of its modality that are `present`; where there is none, it is the toy task, which
    can be made on the spot. So synthetic and real scores are never averaged unless both are named.

    Args:
        names: With commas between them.
        present: Names of tasks whose packed data is at hand (`locate.present`).

    Raises:
        UsageError: A name is neither a task nor a group, or there is none.
    """
    wanted: set[str] = set()
    for name in (part.strip() for part in names.split(",") if part.strip()):
        if name in GROUPS:
            members = [task for task in TASKS.values() if task.modality == name]
            real = {task.name for task in members if not task.synthetic and task.name in present}
            wanted |= real or {task.name for task in members if task.synthetic}
        elif name in TASKS:
            wanted.add(name)
        else:
            raise UsageError(f"--tasks: {name!r} is no task; there are {', '.join(TASKS)} and the groups image, video")
    if not wanted:
        raise UsageError(f"--tasks is empty; there are {', '.join(TASKS)} and the groups image, video")
    return [task for task in TASKS.values() if task.name in wanted]
