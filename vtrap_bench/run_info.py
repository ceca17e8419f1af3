"""What does a run say of itself? The form of `run.json`, which `run_file` writes and everything else reads."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, TypeVar

from vtrap_data.errors import UsageError
from vtrap_data.files import canonical_json
from vtrap_data.json_object import read_json_object
from vtrap_data.parsing import typed

RUN_FORMAT = 1
USUAL = {"answers": "generate", "engine": "{}", "videos": "video"}
"""Settings that `decides` leaves out where they are these, so that runs made before there were others go on."""
_ASKED = {**{name: USUAL[name] for name in ("answers", "videos")}, "profile": "vtrap"}

T = TypeVar("T")


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelInfo:
    """Which model answered.

    Attributes:
        name: As the user typed it.
        hub_revision: Commit on the Hub; None for a folder.
        family: Which encoding it uses.
        weights: sha256 of each weights file by name.
    """

    name: str
    hub_revision: str | None
    family: str
    weights: Mapping[str, str]


@dataclass(frozen=True, slots=True, kw_only=True)
class TaskInfo:
    """What was asked.

    Attributes:
        version: Of the task.
        modality: Group that its score counts in.
        synthetic: Whether its items were generated.
        data_sha256: Of the manifest of its packed data.
        items: How many were chosen.
        limit: As given; None for all.
        max_new_tokens: Longest answer.
        answer_form: Which form of answer the prompts ask for.
    """

    version: int
    modality: Literal["image", "video"]
    synthetic: bool
    data_sha256: str
    items: int
    limit: int | None
    max_new_tokens: int
    answer_form: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Bootstrap:
    """How intervals are made.

    Attributes:
        seed: Of the resampling of groups, 0 or more.
        resamples: How many.
        level: Share of intervals that hold the truth.
        tasks: Rule for single tasks; "bootstrap" in the first runs, which do not say.
    """

    seed: int
    resamples: int
    level: float
    tasks: str = "bootstrap"

    def __post_init__(self) -> None:
        if self.seed < 0:
            raise ValueError(f"'seed': is {self.seed}, not 0 or more")


@dataclass(frozen=True, slots=True, kw_only=True)
class RunInfo:
    """What `run.json` says.

    Attributes:
        format: RUN_FORMAT.
        model: Which.
        label: What tables call it.
        frames: Frames per video, or "budget".
        tasks: By name.
        decides: Everything else that decides the answers (`run_file.what_decides`).
        device: As torch names it.
        batch_size: Items per batch.
        bootstrap: How intervals are made.
        preprocessing: Manifest of the encoding; None until the model is loaded.
        backend: What the backend says of itself once it is loaded.
        versions: Of the libraries.
    """

    format: int
    model: ModelInfo
    label: str
    frames: str
    tasks: Mapping[str, TaskInfo]
    decides: Mapping[str, Any]
    device: str
    batch_size: int
    bootstrap: Bootstrap
    preprocessing: Mapping[str, Any] | None
    backend: Mapping[str, Any]
    versions: Mapping[str, str]

    def __post_init__(self) -> None:
        if self.format != RUN_FORMAT:
            raise ValueError(f"'format': is {self.format}, not {RUN_FORMAT}")


def unusual(info: RunInfo) -> dict[str, str]:
    """How the questions of a run were put and answered, where that is not as usual: scores are no equals then."""
    found = {name: str(info.decides.get(name, usual)) for name, usual in _ASKED.items()}
    return {name: value for name, value in found.items() if value != _ASKED[name]}


def read_typed(kind: type[T], path: Path, remedy: str) -> T:
    """Read a JSON file of a run as what it says.

    Keys that are not known are passed over: a newer version may have written it.

    Args:
        kind: Dataclass of the file.
        path: The file.
        remedy: What makes a good one, for the message.

    Raises:
        UsageError: There is no such file, or it says something else; the message names the file and the key.
    """
    data = read_json_object(path, remedy)
    try:
        canonical_json(data)  # what cannot be written again (half a surrogate pair, NaN) is not of ours
        return typed(kind, data, known_only=True)
    except (ValueError, RecursionError) as error:
        raise UsageError(f"{path} is damaged ({error}): {remedy}") from error
