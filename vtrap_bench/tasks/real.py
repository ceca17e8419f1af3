"""How does a published benchmark become a task? What all 19 have in common."""

from __future__ import annotations

from collections.abc import Mapping

from vtrap_bench.grading import Grader
from vtrap_bench.measures import Measure
from vtrap_bench.tasks.task import PromptProfile, Task
from vtrap_data.sources.benchmarks.spec import Benchmark


def real_task(
    source: Benchmark,
    *,
    version: int,
    profiles: Mapping[str, PromptProfile],
    grade: Grader,
    measure: Measure,
    max_new_tokens: int,
) -> Task:
    """A task about a published benchmark: named like it, with the common abilities of its categories.

    Questions about one file are never independent, so the cluster is the medium: packing joins equal images even where
    the rows name them differently.
    """
    return Task(
        name=source.name,
        version=version,
        modality="image" if source.media == "images" else "video",
        abilities=source.shown_abilities(),
        profiles=profiles,
        max_new_tokens=max_new_tokens,
        source=source,
        grade=grade,
        measure=measure,
    )
