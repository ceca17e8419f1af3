"""What does a study ask for? Its YAML, read strictly: whatever is wrong is named with its place."""

from __future__ import annotations

import argparse
import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import MISSING, dataclass, field, fields
from pathlib import Path
from typing import Any, Literal

import yaml

from vtrap_bench.run import add_arguments
from vtrap_bench.tasks import TASKS, select_tasks
from vtrap_bench.tasks.locate import present
from vtrap_data.budgets.allocate import STRATEGIES as ALLOCATE
from vtrap_data.errors import UsageError, cut, nearest
from vtrap_data.parsing import parse_yaml

BASE = "base"
"""What the untrained model is called, and no setting."""

Frames = int | Literal["hybrid"]
Evaluated = int | Literal["budget"]
Option = str | int | float | bool | tuple[str | int | float | bool, ...]

STUDY_RECORD = "study.json"
"""What a study writes down of itself, for its report."""

STRATEGIES = tuple(sorted(set(ALLOCATE) - {"fixed:N"}))
_NAME = re.compile(r"(?!.*-s[0-9]+$)[a-z0-9][a-z0-9._-]{0,39}")  # "-s0" is what we add for the seed.
_FLAG = re.compile(r"[a-z][a-z0-9_]*")
_TRAIN_OURS = ("model", "data", "frames", "seed", "output_dir")
_SCORE_OURS = ("model", "tasks", "frames", "benchmarks", "out", "json", "label")


@dataclass(frozen=True, slots=True, kw_only=True)
class Replay:
    """Other data to train on beside the corpus, pictures for example.

    Attributes:
        data: Packed dataset.
        percent: Of the samples of an epoch, which sees the corpus once.
    """

    data: Path
    percent: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Setting:
    """One way to train.

    Attributes:
        name: What it is called in the report, and in file names.
        frames: Frames per training video, or "hybrid": the budgets packed in the corpus.
        strategy: Re-allocate the corpus with this strategy first ("random", "coverage", ... or "fixed:N").
        mean_frames: Mean budget for that strategy; None keeps the corpus's own.
        replay: Mixed into the corpus; None for nothing.
        train: Options of `vtrap_train` that differ from the study's.
    """

    name: str
    frames: Frames
    strategy: str | None = None
    mean_frames: float | None = None
    replay: Replay | None = None
    train: Mapping[str, Option] = field(default_factory=dict)

    @property
    def evaluated(self) -> Evaluated:
        """The frames at which a checkpoint of this setting is scored as trained."""
        return "budget" if self.frames == "hybrid" else self.frames


@dataclass(frozen=True, slots=True, kw_only=True)
class Curve:
    """Which checkpoints are scored on video at which frame counts. The base is always one of them.

    Attributes:
        frames: Frame counts; empty for no curve.
        settings: Names of settings, whose first seed is swept.
    """

    frames: tuple[int, ...] = ()
    settings: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Study:
    """A whole experiment. Paths are relative to the folder the command is run from.

    Attributes:
        model: Base model: a name, a Hub id or a folder.
        corpus: Packed dataset to train on.
        benchmarks: Folder with the packed benchmarks; None: the cache, where toy tasks are made on first use.
        tasks: What to score.
        settings: What to compare.
        seeds: Each setting is trained once per seed.
        common_frames: Every checkpoint is scored at the frames it was trained with and at this number of frames.
        train: Options of `vtrap_train` for every setting.
        score: Options of `vtrap_bench run` for every checkpoint ("limit", "batch_size", ...).
        curve: The sweep over frame counts.
    """

    model: str
    corpus: Path
    tasks: tuple[str, ...]
    settings: tuple[Setting, ...]
    common_frames: int
    benchmarks: Path | None = None
    seeds: tuple[int, ...] = (0,)
    train: Mapping[str, Option] = field(default_factory=dict)
    score: Mapping[str, Option] = field(default_factory=dict)
    curve: Curve = field(default_factory=Curve)


def read_study(path: Path) -> Study:
    """Read a study from YAML, strictly.

    Raises:
        UsageError: The file cannot be read, or a key or value is not allowed; the message names the place.
    """
    try:
        data = parse_yaml(path.read_text("utf-8"), loader=_StrictLoader)
    except FileNotFoundError as error:
        raise UsageError(f"{path} does not exist: give the study's YAML file") from error
    except (OSError, UnicodeDecodeError) as error:
        raise UsageError(f"{path} cannot be read: {error}") from error
    except ValueError as error:
        raise UsageError(f"{path} is not valid YAML: {error}") from error
    try:
        return _study(data)
    except UsageError as error:
        raise UsageError(f"{path}: {error}") from error


# Each function checks one level and names the place in its message.


def _study(data: object) -> Study:
    found = _mapping(data, Study, "the study")
    settings = tuple(_setting(s, f"settings[{i}]") for i, s in enumerate(_list(found["settings"], "settings")))
    names = [s.name for s in settings]
    if not settings:
        raise UsageError("settings is empty: name at least one way to train")
    _unique(names, "settings", "name")
    seeds = tuple(_whole(s, f"seeds[{i}]", least=0) for i, s in enumerate(_list(found.get("seeds", [0]), "seeds")))
    if not seeds:
        raise UsageError("seeds is empty: give at least one, for example [0]")
    _unique(seeds, "seeds", "seed")
    benchmarks = Path(_text(found["benchmarks"], "benchmarks")) if found.get("benchmarks") is not None else None
    return Study(
        model=_text(found["model"], "model"),
        corpus=Path(_text(found["corpus"], "corpus")),
        benchmarks=benchmarks,
        tasks=_tasks(found["tasks"], benchmarks=benchmarks),
        settings=settings,
        common_frames=_whole(found["common_frames"], "common_frames", least=1),
        seeds=seeds,
        train=_options(found.get("train", {}), "train"),
        score=_score(found.get("score", {})),
        curve=_curve(found.get("curve", {}), names),
    )


def _setting(data: object, where: str) -> Setting:
    found = _mapping(data, Setting, where)
    name = _text(found["name"], f"{where}.name")
    if not _NAME.fullmatch(name) or name == BASE:
        raise UsageError(
            f"{where}.name is {name!r}: use 1 to 40 of a-z, 0-9, '.', '_' and '-', a letter or digit first; "
            "not 'base', and not ending like a seed ('-s0')"
        )
    frames: Frames
    if found["frames"] == "hybrid":
        frames = "hybrid"
    elif isinstance(found["frames"], str):
        raise UsageError(f"{where}.frames is {found['frames']!r}: give a number of frames, or hybrid")
    else:
        frames = _whole(found["frames"], f"{where}.frames", least=1)
    strategy, mean = found.get("strategy"), found.get("mean_frames")
    if strategy is not None:
        strategy = _text(strategy, f"{where}.strategy")
        if strategy not in STRATEGIES and not re.fullmatch(r"fixed:[1-9][0-9]{0,5}", strategy):
            allowed = f"one of {', '.join(STRATEGIES)}, or fixed:N"
            raise UsageError(f"{where}.strategy is {strategy!r}: give {allowed}{nearest(strategy, STRATEGIES)}")
        if frames != "hybrid":
            raise UsageError(f"{where}.strategy re-allocates the packed budgets, so its frames must be hybrid")
    if mean is not None:
        mean = _number(mean, f"{where}.mean_frames")
        if strategy is None:
            raise UsageError(f"{where}.mean_frames needs a strategy: it is the mean that the strategy must hit")
    replay = _replay(found["replay"], f"{where}.replay") if found.get("replay") is not None else None
    train = _options(found.get("train", {}), f"{where}.train")
    return Setting(name=name, frames=frames, strategy=strategy, mean_frames=mean, replay=replay, train=train)


def _replay(data: object, where: str) -> Replay:
    found = _mapping(data, Replay, where)
    percent = _number(found["percent"], f"{where}.percent")
    if percent >= 100:
        raise UsageError(f"{where}.percent is {percent:g}: give less than 100, the corpus is the rest")
    return Replay(data=Path(_text(found["data"], f"{where}.data")), percent=percent)


def _curve(data: object, names: Sequence[str]) -> Curve:
    found = _mapping(data, Curve, "curve")
    frames = [_whole(n, f"curve.frames[{i}]", least=1) for i, n in enumerate(_list(found.get("frames", []), "curve"))]
    settings = _list(found.get("settings", []), "curve.settings")
    for name in settings:
        if name not in names:
            raise UsageError(f"curve.settings names {name!r}, which is no setting{nearest(str(name), names)}")
    if settings and not frames:
        raise UsageError("curve.settings is given without curve.frames: name the frame counts to sweep")
    return Curve(frames=tuple(sorted(set(frames))), settings=tuple(dict.fromkeys(settings)))


def _options(data: object, where: str, *, ours: Sequence[str] = _TRAIN_OURS) -> dict[str, Option]:
    if not isinstance(data, dict):
        raise UsageError(f"{where} is {_show(data)}: give options of the command as key: value")
    options: dict[str, Option] = {}
    for key, value in data.items():
        if not isinstance(key, str) or not _FLAG.fullmatch(key):
            raise UsageError(f"{where} has the option {_show(key)}: names are a-z, 0-9 and '_', without dashes")
        if key in ours:
            raise UsageError(f"{where}.{key} is set by the study itself: leave it out (it has a key of its own)")
        values = value if isinstance(value, list) else [value]
        for one in values:
            if not isinstance(one, (str, int, float)) or (isinstance(one, str) and one.startswith("-")):
                raise UsageError(f"{where}.{key} is {_show(value)}: give text, a number, true, false or a list")
        options[key] = tuple(value) if isinstance(value, list) else value
    return options


def _score(data: object) -> dict[str, Option]:
    """As `_options`, of which `run` knows each: found here, not when the first step has begun."""
    options = _options(data, "score", ours=_SCORE_OURS)
    parser = argparse.ArgumentParser(add_help=False)
    add_arguments(parser)
    known = [action.dest for action in parser._actions if action.dest not in _SCORE_OURS]
    for key in options:
        if key not in known:
            raise UsageError(f"score has the unknown key {key!r}; allowed: {', '.join(known)}{nearest(key, known)}")
    return options


def _mapping(data: object, kind: type[Any], where: str) -> dict[str, Any]:
    """The mapping `data`, having every key that the dataclass needs and none that it lacks."""
    if not isinstance(data, dict):
        raise UsageError(f"{where} is {_show(data)}: give key: value pairs")
    allowed = {f.name: f.default is MISSING and f.default_factory is MISSING for f in fields(kind)}
    for key in data:
        if key not in allowed:
            near = nearest(str(key), allowed)
            raise UsageError(f"{where} has the unknown key {_show(key)}; allowed: {', '.join(allowed)}{near}")
    for key, needed in allowed.items():
        if needed and key not in data:
            raise UsageError(f"{where} lacks the key {key!r}")
    return dict(data)


def _list(data: object, where: str) -> list[Any]:
    if not isinstance(data, list):
        raise UsageError(f"{where} is {_show(data)}: give a list")
    return data


def _tasks(data: object, *, benchmarks: Path | None) -> tuple[str, ...]:
    for name in (names := _list(data, "tasks")):
        if name not in (*TASKS, "image", "video"):
            raise UsageError(f"tasks names {_show(name)}, which is none; there are {', '.join(TASKS)}, image, video")
    if not names:
        raise UsageError("tasks is empty: name at least one")
    at_hand = present(TASKS.values(), benchmarks=benchmarks)
    return tuple(t.name for t in select_tasks(",".join(names), present=at_hand))


def _text(data: object, where: str) -> str:
    if not isinstance(data, str) or not data.strip() or not data.isprintable():
        raise UsageError(f"{where} is {_show(data)}: give text")
    if data.startswith("-"):
        raise UsageError(f"{where} is {_show(data)}: it would be read as an option, so it must not start with a dash")
    return data


def _whole(data: object, where: str, *, least: int) -> int:
    if isinstance(data, bool) or not isinstance(data, int) or data < least:
        raise UsageError(f"{where} is {_show(data)}: give a whole number, {least} or more")
    return data


def _number(data: object, where: str) -> float:
    if isinstance(data, bool) or not isinstance(data, (int, float)) or not math.isfinite(data) or data <= 0:
        raise UsageError(f"{where} is {_show(data)}: give a number above 0")
    return float(data)


def _unique(values: Sequence[object], where: str, what: str) -> None:
    for i, value in enumerate(values):
        if value in values[:i]:
            raise UsageError(f"{where} has the {what} {value!r} twice")


def _show(data: object) -> str:
    return cut(repr(data))


class _StrictLoader(yaml.SafeLoader):
    """The safe loader, refusing a key given twice (which YAML would settle silently by taking the last)."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        seen: list[object] = []
        for key_node, _ in node.value:
            if key_node.tag == "tag:yaml.org,2002:merge":
                continue
            key = self.construct_object(key_node, deep=True)
            if key in seen:
                raise yaml.YAMLError(f"the key {key!r} is given twice, line {key_node.start_mark.line + 1}")
            seen.append(key)
        return super().construct_mapping(node, deep)
