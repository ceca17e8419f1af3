"""What will a study cost? Its steps, the frames each setting trains on, and the time as far as it can be known."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np

from vtrap_bench.steps import Planned
from vtrap_bench.study_file import Setting, Study
from vtrap_bench.tasks import TASKS
from vtrap_bench.tasks.locate import MANIFEST, folder_of
from vtrap_data.errors import UsageError
from vtrap_data.loading.dataset import PackedDataset

WORDS = {"budget": "re-allocations", "train": "trainings", "score": "scorings"}


class Load(NamedTuple):
    """What one setting trains on.

    Attributes:
        name: Of the setting.
        frames: Mean frames per video item, by the corpus's index; None if that cannot be known before a step has run.
        share: Of the frames that the largest setting takes; None likewise.
        note: Why it is not known, or "".
    """

    name: str
    frames: float | None
    share: float | None
    note: str


def loads(settings: Sequence[Setting], corpus: Path) -> list[Load]:
    """Mean frames of each setting, from the index of the corpus: nothing is decoded.

    Args:
        settings: Of a study.
        corpus: Folder of the packed corpus.

    Raises:
        UsageError: There is no packed corpus, or it does not store the frames of a setting.
    """
    found: list[tuple[str, float | None, str]] = []
    for setting in settings:
        strategy = setting.strategy or ""
        fixed = strategy.startswith("fixed:")
        if strategy and setting.mean_frames is not None:
            found.append((setting.name, setting.mean_frames, ""))
        elif strategy not in ("", "random", "hybrid") and not fixed:
            found.append((setting.name, None, "known when its corpus is re-allocated"))
        else:
            frames = int(strategy.removeprefix("fixed:")) if fixed else setting.frames
            rows = PackedDataset(corpus, frames=frames).rows
            counts = np.asarray(rows["n_frames"].to_pylist(), dtype=float)
            video = np.asarray(rows["kind"].to_pylist()) == "video"
            found.append((setting.name, float(counts[video].mean()) if video.any() else 0.0, ""))
    most = max((frames for _, frames, _ in found if frames), default=None)
    return [Load(n, f, f / most if f is not None and most else None, note) for n, f, note in found]


def items(study: Study) -> dict[str, int | None]:
    """Questions that are asked of each task; None where its packed data is not there yet."""
    counts: dict[str, int | None] = {}
    limit = study.score.get("limit")
    for name in study.tasks:
        root = folder_of(TASKS[name], study.benchmarks)
        there = len(PackedDataset(root)) if (root / MANIFEST).is_file() else None
        counts[name] = min(there, limit) if there is not None and isinstance(limit, int) else there
    return counts


def as_text(study: Study, planned: Sequence[Planned]) -> str:
    """The cost for a terminal."""
    lines = []
    kinds = Counter(p.step.kind.split("-")[0] for p in planned)
    done = sum(p.state == "done" for p in planned)
    parts = ", ".join(f"{count} {WORDS.get(kind, kind)}" for kind, count in kinds.items())
    lines.append(f"{len(planned)} steps: {parts}; {done} done")
    lines.append(f"{len(study.settings)} settings x {len(study.seeds)} seeds of {study.model}")
    try:
        lines.append(f"  {'setting':<20}{'frames per video':>17}{'of the most':>13}")
        for load in loads(study.settings, study.corpus):
            shown = f"{'-' if load.frames is None else f'{load.frames:.1f}':>17}"
            share = f"{'-' if load.share is None else f'{100 * load.share:.0f} %':>13}"
            lines.append(f"  {load.name:<20}{shown}{share}  {load.note}".rstrip())
    except UsageError as error:
        lines[-1] = f"  frames per video: {error}"
    scored = Counter(frames for p in planned if p.step.kind.startswith("score") for frames in _frames(p.step.argv))
    lines.append("scorings at " + ", ".join(f"{frames} frames: {count}" for frames, count in scored.items()))
    for task, count in items(study).items():
        lines.append(f"  {task}: {'not packed yet' if count is None else f'{count} questions'}")
    lines.append(_time(planned))
    return "\n".join(lines)


def _frames(argv: Sequence[str]) -> list[str]:
    return argv[list(argv).index("--frames") + 1].split(",")


def _time(planned: Sequence[Planned]) -> str:
    """How long the rest takes, from finished steps of the same kind in this folder; without them nobody knows."""
    timed: dict[str, list[float]] = {}
    for p in planned:
        if p.state == "done" and p.seconds is not None:
            timed.setdefault(p.step.kind, []).append(p.seconds)
    left = [p for p in planned if p.state != "done"]
    unknown = sorted({p.step.kind for p in left} - timed.keys())
    if unknown:
        return (
            f"time: not known until a step of each kind has run here (not yet: {', '.join(unknown)}); "
            "`python -m vtrap_train --plan` says what a training needs"
        )
    seconds = sum(float(np.mean(timed[p.step.kind])) for p in left)
    return f"time: about {seconds / 60:.0f} minutes of steps left, going by those that are done"
