"""What did training change? The numbers of a report, from finished runs.

A change is always measured against the base scored at the same number of frames, item by item, with an interval that
is clustered by medium. Over several seeds, the interval is that of the mean over seeds. This module makes the content
of `report.json`; `report` and `figures` only show it.
"""

from __future__ import annotations

import hashlib
import json
import math
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, NamedTuple

import numpy as np
from scipy import stats

from vtrap_bench.abilities import across, common_ability, tasks_of
from vtrap_bench.finished import Run, read_run
from vtrap_bench.run_info import USUAL
from vtrap_bench.scores import SCORES, Mean, group_mean
from vtrap_bench.statistics import mean_difference, paired_difference
from vtrap_bench.study_file import STUDY_RECORD
from vtrap_bench.thumbnails import Thumbnails
from vtrap_data.encoding.manifest import unequal
from vtrap_data.errors import UsageError
from vtrap_data.json_object import read_json_object
from vtrap_data.trained import SUMMARY

REPORT_FORMAT = 1
MODALITIES: tuple[Modality, ...] = ("image", "video")
FLIPS_EACH = 2

Modality = Literal["image", "video"]
Json = dict[str, Any]


@dataclass(frozen=True, slots=True, kw_only=True)
class ScoredModel:
    """A model and its runs.

    Attributes:
        name: Name of the setting, or "base".
        frames: What it was trained with: a number or "hybrid"; in a report on bare runs, what it was scored with.
        strategy: How its corpus was re-allocated.
        seed: Of the training.
        evaluated: The run in which it was scored at the frames it was trained with: a key of `runs`.
        runs: By number of frames shown ("budget" for packed budgets).
        training: Content of `training_summary.json`; empty when there is none.
    """

    name: str
    frames: int | str
    strategy: str | None
    seed: int | None
    evaluated: str
    runs: Mapping[str, Run]
    training: Json = field(default_factory=dict)


@dataclass(frozen=True, slots=True, kw_only=True)
class Material:
    """Everything a report is made of.

    Attributes:
        base: What changes are measured against.
        trained: The others.
        common: Number of frames at which all were scored, as a key of their runs; None without.
        curve: Frame counts of the curve; empty for every one that was scored.
        commands: What was run, in order.
        unfinished: Names of what the study names but has not scored yet.
        benchmarks: Folder of the packed benchmarks, for pictures of items; None: the cache.
    """

    base: ScoredModel
    trained: Sequence[ScoredModel]
    common: str | None
    curve: Sequence[int] = ()
    commands: Sequence[str] = ()
    unfinished: Sequence[str] = ()
    benchmarks: Path | None = None


def read_runs_of_study(folder: Path) -> Material:
    """Read the runs of a study, finished or not.

    Raises:
        UsageError: There is no study here, its base is not scored yet, or a run cannot be read.
    """
    study = read_json_object(folder / STUDY_RECORD, "give a study's folder or folders of runs")
    if study.get("format") != 1:
        raise UsageError(f"{folder / STUDY_RECORD} has format {study.get('format')!r}, not 1: run the study again")
    try:
        return _material(folder, study)
    except (KeyError, TypeError, ValueError, AttributeError, OSError) as error:
        why = f"{type(error).__name__}: {error}"
        raise UsageError(f"{folder / STUDY_RECORD} is damaged ({why}): run the study again") from error


def _material(folder: Path, study: Mapping[str, Any]) -> Material:
    checkpoints, unfinished = [], []
    for entry in study["checkpoints"]:
        name = entry["setting"] or "base"
        runs = {f: read_run(folder / run) for f, run in entry["runs"].items() if (folder / run / SCORES).exists()}
        if entry["evaluated"] not in runs:
            unfinished.append(name if entry["seed"] is None else f"{name}, seed {entry['seed']}")
            continue
        checkpoints.append(
            ScoredModel(
                name=name,
                frames=entry["frames"] if entry["frames"] is not None else int(entry["evaluated"]),
                strategy=entry["strategy"],
                seed=entry["seed"],
                evaluated=entry["evaluated"],
                runs=runs,
                training=_training(folder / entry["model"]) if entry["setting"] else {},
            )
        )
    if not checkpoints or checkpoints[0].name != "base":
        raise UsageError(f"the base of the study in {folder} is not scored yet: run the study again")
    base, *trained = checkpoints
    return Material(
        base=base,
        trained=[c for c in trained if c.evaluated in base.runs],
        common=str(study["common_frames"]),
        curve=study["curve"],
        commands=study["commands"],
        unfinished=unfinished,
        benchmarks=Path(study["benchmarks"]) if study.get("benchmarks") else None,
    )


def read_runs(folders: Sequence[Path]) -> Material:
    """Take bare runs: the first is the base of the others, and runs of one model are put together.

    Raises:
        UsageError: One cannot be read, or two are of one model at the same frames.
    """
    grouped: dict[str, dict[str, Run]] = {}
    for folder in folders:
        run = read_run(folder)
        runs = grouped.setdefault(run.scores.model, {})
        frames = run.scores.frames
        if frames in runs:
            raise UsageError(f"{runs[frames].folder} and {folder} both score {run.scores.model} at {frames} frames")
        runs[frames] = run
    names: set[str] = set()
    checkpoints: list[ScoredModel] = []
    for model, runs in grouped.items():
        frames, first = next(iter(runs.items()))
        name = "base" if not checkpoints else first.scores.label or Path(model).name
        while name in names:
            name += "'"
        names.add(name)
        shown: int | str = int(frames) if frames.isdecimal() else "hybrid"
        training = _training(Path(model))
        trained_with = training.get("frames", shown)
        if isinstance(trained_with, str) and trained_with.isdecimal():
            trained_with = int(trained_with)
        checkpoints.append(
            ScoredModel(
                name=name,
                frames=trained_with,
                strategy=None,
                seed=None,
                evaluated=frames,
                runs=runs,
                training=training,
            )
        )
    base, *trained = checkpoints
    shared = [f for f in base.runs if all(f in c.runs for c in trained)]
    common = next((f for f in shared if any(f != c.evaluated for c in trained)), None)
    return Material(base=base, trained=trained, common=common)


def build(material: Material, *, versions: Mapping[str, str] | None = None) -> Json:
    """Work out the content of `report.json`.

    Raises:
        UsageError: Two runs that must be compared answered different items.
    """
    base = material.base
    pictures = Thumbnails(material.benchmarks)
    settings = [_entry(c, material) for c in material.trained]
    names = list(dict.fromkeys(c.name for c in material.trained))
    facts: Json = {}
    for checkpoint in (base, *material.trained):
        for run in checkpoint.runs.values():
            for task, found in run.scores.tasks.items():
                facts.setdefault(task, {k: getattr(found, k) for k in ("modality", "version", "synthetic")})
    return {
        "format": REPORT_FORMAT,
        "synthetic": any(found["synthetic"] for found in facts.values()),
        "tasks": facts,
        "common_frames": material.common,
        "base": {
            "name": base.name,
            "model": next(iter(base.runs.values())).scores.model,
            **_sheet(base, base.evaluated),
            "at": {frames: _sheet(base, frames) for frames in sorted(base.runs, key=_fewest_first)},
        },
        "settings": settings,
        "summary": [_summary([s for s in settings if s["name"] == name]) for name in names],
        "curve": _curves(material),
        "flips": [flip for name in names for flip in _flips(name, material, pictures)],
        "run_settings": _run_settings(material),
        "commands": list(material.commands),
        "unfinished": list(material.unfinished),
        "versions": dict(versions or {}),
    }


def seed_interval(values: Sequence[float]) -> tuple[float, float]:
    """95 % t interval of the mean of independent trainings. Needs at least two."""
    mean, error = float(np.mean(values)), float(np.std(values, ddof=1)) / math.sqrt(len(values))
    reach = float(stats.t.ppf(0.975, len(values) - 1)) * error
    return mean - reach, mean + reach


def _entry(checkpoint: ScoredModel, material: Material) -> Json:
    """One checkpoint: as trained, and at the common setting."""
    common = material.common
    both = common is not None and common in checkpoint.runs and common in material.base.runs
    return {
        "name": checkpoint.name,
        "frames": checkpoint.frames,
        "strategy": checkpoint.strategy,
        "seed": checkpoint.seed,
        "evaluated": checkpoint.evaluated,
        **_sheet(checkpoint, checkpoint.evaluated, material.base),
        "train_visual_tokens": checkpoint.training.get("visual_tokens"),
        "train_mean_frames": checkpoint.training.get("mean_frames"),
        "train_steps": checkpoint.training.get("steps"),
        "train_seconds": checkpoint.training.get("seconds"),
        "common": {"frames": common, **_sheet(checkpoint, str(common), material.base)} if both else None,
    }


def _view(checkpoint: ScoredModel, frames: str) -> dict[str, Run]:
    """Which run holds each task at this number of frames: image tasks may be in another run than video tasks."""
    found = dict.fromkeys(checkpoint.runs[frames].scores.tasks, checkpoint.runs[frames])
    for run in checkpoint.runs.values():
        for task, facts in run.scores.tasks.items():
            if facts.modality == "image":
                found.setdefault(task, run)
    return found


def _fewest_first(frames: str) -> tuple[bool, int, str]:
    number = frames.isascii() and frames.isdecimal()
    return not number, int(frames) if number else 0, frames


def _sheet(checkpoint: ScoredModel, frames: str, base: ScoredModel | None = None) -> Json:
    """Scores of a checkpoint at a number of frames, and their change against the base at the same number.

    Every change is None where the base was not scored at that number.
    """
    view = _view(checkpoint, frames)
    before = _before(base, frames) if base is not None else {}
    sheet: Json = {"abilities": {}}
    for modality in MODALITIES:
        tasks = [t for t, run in view.items() if run.scores.tasks[t].modality == modality]
        sheet[modality] = _score(_total(view, tasks, modality)) if tasks else None
        if base is not None:
            whole = bool(tasks) and before.keys() >= set(tasks)
            sheet[f"{modality}_change"] = _change([_pairs(before[t], view[t], t) for t in tasks]) if whole else None
    for task, run in view.items():
        rows = {a: {**_score(s), "n": s.n} for a, s in run.scores.tasks[task].abilities.items()}
        if base is not None:
            pairs_of = _by_ability(before[task], run, task) if task in before else {}
            for ability, row in rows.items():
                row["change"] = _change([pairs_of[ability]]) if ability in pairs_of else None
        sheet["abilities"][task] = rows
    sheet["across"] = _across(view, None if base is None else before)
    sheet["reading"] = {task: _reading(run, task) for task, run in view.items()}
    all_facts = [run.scores.tasks[t] for t, run in view.items()]
    video = [f for f in all_facts if f.modality == "video"]
    sheet["n"] = sum(f.n for f in all_facts)
    for key, some in (("unparsed", all_facts), ("empty", all_facts), ("mean_frames", video)):
        count = sum(f.n for f in some)
        sheet[key] = sum(getattr(f, key) * f.n for f in some) / count if count else None
    sheet["eval_visual_tokens"] = sum(f.visual_tokens for f in all_facts)
    return sheet


def _before(base: ScoredModel, frames: str) -> dict[str, Run]:
    """What a checkpoint shown that many frames is compared with: nothing where the base was not shown as many."""
    return _view(base, frames) if frames in base.runs else {}


def _total(view: Mapping[str, Run], tasks: Sequence[str], modality: Modality) -> Mean:
    """The mean over exactly these tasks, which may lie in several runs."""
    for run in (view[task] for task in tasks):
        total = run.scores.group(modality)
        if total is not None and {t for t, f in run.scores.tasks.items() if f.modality == modality} == set(tasks):
            return total
    members = [(view[t].scores.tasks[t].score, [*view[t].records[t].values()]) for t in tasks]
    return group_mean(members, seed=view[tasks[0]].info.bootstrap.seed)


def _reading(run: Run, task: str) -> Json:
    """How the answers of a task were read: the share of each stage, 0 to 1, the most frequent first."""
    stages = Counter(answer.stage for answer in run.records[task].values())
    return {stage: count / stages.total() for stage, count in stages.most_common()}


def _run_settings(material: Material) -> list[Json]:
    """What decided the answers, each setting with its value, or its values where runs differ.

    Of how frames became inputs, which is long, only what differs.
    """
    found: dict[str, list[str]] = {}
    runs = [run for checkpoint in (material.base, *material.trained) for run in checkpoint.runs.values()]
    # What one run leaves out because it is as usual is a value, too, where another has it.
    usual = {name: value for name, value in USUAL.items() if any(name in run.info.decides for run in runs)}
    for run in runs:
        decides = {k: v for k, v in {**usual, **run.info.decides}.items() if k not in ("model", "frames")}
        limits = [("limit", task.limit) for task in run.info.tasks.values()]
        for name, value in [*decides.items(), ("device", run.info.device), *limits]:
            if value is not None and _text(value) not in found.setdefault(name, []):
                found[name].append(_text(value))
    prepared = [run.info.preprocessing for run in runs if run.info.preprocessing is not None]
    for other in prepared[1:]:
        for one in unequal(prepared[0], other):
            values = found.setdefault(f"preprocessing.{one.name}", [_text(one.left)])
            if _text(one.right) not in values:
                values.append(_text(one.right))
    return [{"name": name, "values": values} for name, values in sorted(found.items())]


def _text(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(value, sort_keys=True)


def _across(view: Mapping[str, Run], before: Mapping[str, Run] | None) -> Json:
    """Each common ability over the tasks that test it: which they are, the mean of their scores, its change."""
    parts: dict[tuple[str, str], list[str]] = {}
    for task, run in view.items():
        for item, answer in sorted(run.records[task].items()):
            parts.setdefault((task, common_ability(task, answer.ability)), []).append(item)
    found: Json = {}
    for ability, members in across(parts).items():
        scores = [float(np.mean([view[t].records[t][i].score for i in parts[t, a]])) for t, a in members]
        row: Json = {"tasks": list(tasks_of(members)), "score": 100 * float(np.mean(scores)), "ci": None}
        row["n"] = sum(len(parts[member]) for member in members)
        if before is not None:
            shared = all(t in before for t, _ in members)
            row["change"] = _change([_pairs(before[t], view[t], t, a) for t, a in members]) if shared else None
        found[ability] = row
    return found


class _Pairs(NamedTuple):
    before: list[float]
    after: list[float]
    clusters: list[str]


def _pairs(before: Run, after: Run, task: str, common: str | None = None) -> _Pairs:
    """Scores of the same items in both runs; with `common`, of one common ability."""
    old, new = before.records[task], after.records[task]
    versions = [run.scores.tasks[task].version for run in (before, after)]
    if versions[0] != versions[1]:
        raise UsageError(
            f"{before.folder} and {after.folder} hold versions {versions[0]} and {versions[1]} of {task}, which "
            "cannot be compared: score both with this version of vtrap"
        )
    if old.keys() != new.keys():
        only = next(iter(old.keys() ^ new.keys()))
        raise UsageError(
            f"{before.folder} and {after.folder} answered different items of {task} ({only!r} is in one only): "
            "score both on the same benchmark"
        )
    ids = [i for i in sorted(old) if common is None or common_ability(task, old[i].ability) == common]
    return _Pairs([old[i].score for i in ids], [new[i].score for i in ids], [old[i].cluster for i in ids])


def _by_ability(before: Run, after: Run, task: str) -> dict[str, _Pairs]:
    every = _pairs(before, after, task)
    names = [before.records[task][i].ability for i in sorted(before.records[task])]
    found: dict[str, _Pairs] = {name: _Pairs([], [], []) for name in dict.fromkeys(names)}
    for name, was, now, cluster in zip(names, every.before, every.after, every.clusters, strict=True):
        found[name].before.append(was)
        found[name].after.append(now)
        found[name].clusters.append(cluster)
    return found


def _change(pairs: Sequence[_Pairs]) -> Json:
    """Change in points: the mean over tasks of each task's mean over items (`statistics.mean_difference`).

    Tasks are taken to share no media. No interval where a task has fewer than two clusters, or where nothing
    varies.
    """
    value = 100 * float(np.mean([np.mean(p.after) - np.mean(p.before) for p in pairs]))
    if any(len(set(p.clusters)) < 2 for p in pairs):
        return {"value": value, "ci": None}
    low, high = mean_difference([paired_difference(p.before, p.after, p.clusters) for p in pairs]).interval
    if low == high:  # every item changed alike (none did, say): nothing says how sure that is
        return {"value": value, "ci": None}
    return {"value": value, "ci": [100 * low, 100 * high]}


def _summary(entries: Sequence[Json]) -> Json:
    """One setting: the mean over its seeds."""
    first = entries[0]
    row: Json = {k: first[k] for k in ("name", "frames", "strategy", "evaluated")}
    row["seeds"] = [e["seed"] for e in entries if e["seed"] is not None]
    row["interval"] = f"t over {len(entries)} seeds" if len(entries) > 1 else "clustered over items"
    row.update(_mean_sheet(entries))
    for key in ("train_visual_tokens", "train_mean_frames", "train_seconds"):
        row[key] = _mean([e[key] for e in entries])
    commons = [e["common"] for e in entries if e["common"]]
    whole = len(commons) == len(entries)
    row["common"] = {"frames": commons[0]["frames"], **_mean_sheet(commons)} if whole else None
    return row


def _mean_sheet(sheets: Sequence[Json]) -> Json:
    row: Json = {}
    for modality in MODALITIES:
        row[modality] = _mean_estimate([s[modality] for s in sheets], "score")
        row[f"{modality}_change"] = _mean_estimate([s[f"{modality}_change"] for s in sheets], "value")
    row["abilities"] = {
        task: {
            ability: {
                **(_mean_estimate([s["abilities"][task][ability] for s in sheets], "score") or {}),
                "change": _mean_estimate([s["abilities"][task][ability]["change"] for s in sheets], "value"),
            }
            for ability in rows
        }
        for task, rows in sheets[0]["abilities"].items()
    }
    row["across"] = {
        ability: {
            "tasks": found["tasks"],
            "score": float(np.mean([s["across"][ability]["score"] for s in sheets])),
            "change": _mean_estimate([s["across"][ability].get("change") for s in sheets], "value"),
        }
        for ability, found in sheets[0]["across"].items()
    }
    for key in ("n", "unparsed", "empty", "mean_frames", "eval_visual_tokens"):
        row[key] = _mean([s[key] for s in sheets])
    row["reading"] = {
        task: {
            stage: float(np.mean([s["reading"][task].get(stage, 0.0) for s in sheets]))
            for stage in dict.fromkeys(stage for s in sheets for stage in s["reading"][task])
        }
        for task in sheets[0]["reading"]
    }
    return row


def _mean_estimate(found: Sequence[Json | None], key: str) -> Json | None:
    present = [f for f in found if f is not None]
    if not present or len(present) < len(found):
        return None
    values = [f[key] for f in present]
    ci = list(seed_interval(values)) if len(values) > 1 else present[0]["ci"]
    return {key: float(np.mean(values)), "ci": ci}


def _mean(values: Iterable[float | None]) -> float | None:
    values = list(values)
    present = [v for v in values if v is not None]
    return float(np.mean(present)) if present and len(present) == len(values) else None


def _curves(material: Material) -> list[Json]:
    """Video score at each number of frames, for the base and every checkpoint that was scored at three or more."""
    curves = []
    counts = {str(n) for n in material.curve}
    for checkpoint in (material.base, *material.trained):
        points = []
        for frames in checkpoint.runs:
            if counts and frames not in counts and frames != "budget":
                continue
            sheet = _sheet(checkpoint, frames)
            if sheet["video"]:
                shown: int | str = int(frames) if frames.isdecimal() else frames
                points.append({"frames": shown, "mean_frames": sheet["mean_frames"], "video": sheet["video"]})
        fixed = [p for p in points if isinstance(p["frames"], int)]
        if len(fixed) < min(3, max(len(counts), 2)):
            continue
        seed = checkpoint.seed
        curves.append(
            {
                "name": checkpoint.name,
                "setting": None if checkpoint is material.base else checkpoint.name,
                "seed": seed,
                "image": _sheet(checkpoint, checkpoint.evaluated)["image"],
                "points": sorted(fixed, key=lambda p: p["frames"]) + [p for p in points if p not in fixed],
            }
        )
    return curves if len(curves) > 1 or not material.trained else []


def _flips(name: str, material: Material, pictures: Thumbnails) -> list[Json]:
    """Items of a setting's first seed that were right before and wrong after, and the other way round.

    Which ones is decided by a hash of their id, so that neither the order of the benchmark nor taste picks them.
    """
    checkpoint = next(c for c in material.trained if c.name == name)
    frames = checkpoint.evaluated
    after = _view(checkpoint, frames)
    before = _before(material.base, frames)
    flips = []
    for modality in MODALITIES:
        for kind, sign in (("lost", -1), ("gained", 1)):
            found = []
            for task, run in after.items():
                if run.scores.tasks[task].modality != modality or task not in before:
                    continue
                old = before[task].records[task]
                for item, new in run.records[task].items():
                    if item in old and (new.score - old[item].score) * sign > 0.5:
                        found.append((hashlib.sha256(f"{task}/{item}".encode()).digest(), task, item, old[item], new))
            for _, task, item, was, new in sorted(found, key=lambda f: f[0])[:FLIPS_EACH]:
                flips.append(
                    {
                        "setting": name,
                        "seed": checkpoint.seed,
                        "kind": kind,
                        "task": task,
                        "item_id": item,
                        "ability": new.ability,
                        "question": new.question,
                        "options": list(new.options),
                        "answer": new.answer,
                        "before": was.response,
                        "after": new.response,
                        "frame_times": list(new.frame_times),
                        "media": pictures.of(new, data_sha256=after[task].info.tasks[task].data_sha256),
                    }
                )
    return flips


def _score(found: Mean) -> Json:
    return {"score": float(found.score), "ci": list(found.ci)}


def _training(model: Path) -> Json:
    path = model / SUMMARY
    return read_json_object(path, "train it again") if path.is_file() else {}
