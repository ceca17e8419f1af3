"""What decided the answers of a run? `run.json`, written before the first answer."""

from __future__ import annotations

import importlib.metadata
import json
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from tqdm import tqdm

import vtrap_bench
from vtrap_bench.backends import GENERATION, BackendSettings
from vtrap_bench.extract import EXTRACTOR_VERSION
from vtrap_bench.jobs import Bench
from vtrap_bench.models import LocalModel
from vtrap_bench.records import RECORDS, RUN
from vtrap_bench.run_info import RUN_FORMAT, USUAL, RunInfo, read_typed
from vtrap_bench.run_settings import RunSettings
from vtrap_bench.statistics import RESAMPLES
from vtrap_bench.tasks.task import PROMPTS_VERSION
from vtrap_data.encoding.manifest import differences
from vtrap_data.errors import UsageError
from vtrap_data.files import canonical_json, write_bytes
from vtrap_data.json_object import read_json_object
from vtrap_data.media.select import FRAMES_VERSION
from vtrap_data.trained import PREPROCESSING


def what_decides(settings: RunSettings, model: LocalModel, loading: BackendSettings) -> dict[str, Any]:
    """Everything that decides an answer, beside the item and its task. Part of every record's key."""
    serving = settings.serving
    given = {"answers": settings.answers, "engine": serving.engine, "videos": serving.videos}
    return {
        "model": model.digest,
        "backend": settings.backend,
        "dtype": loading.dtype,
        "generation": GENERATION,
        "profile": settings.profile,
        "prompts": PROMPTS_VERSION,
        "extractor": EXTRACTOR_VERSION,
        "frame_rule": FRAMES_VERSION,
        "frames": str(settings.frames),
        **{name: value for name, value in given.items() if value != USUAL[name]},
    }


def describe(
    settings: RunSettings,
    model: LocalModel,
    loading: BackendSettings,
    decides: Mapping[str, Any],
    benches: Sequence[Bench],
    before: Mapping[str, Any] | None,
) -> dict[str, Any]:
    """The content of `run.json`: the JSON form of a `RunInfo`."""
    default = Path(settings.model).resolve().name if Path(settings.model).is_dir() else settings.model
    return {
        "format": RUN_FORMAT,
        "model": {
            "name": settings.model,
            "hub_revision": model.revision,
            "family": model.ref.family,
            "weights": dict(model.weights),
        },
        "label": settings.label or (before or {}).get("label") or default,
        "frames": str(settings.frames),
        "tasks": {
            b.task.name: {
                "version": b.task.version,
                "modality": b.task.modality,
                "synthetic": b.task.synthetic,
                "data_sha256": b.sha256,
                "items": len(b.jobs),
                "limit": b.limit,
                "max_new_tokens": b.task.max_new_tokens,
                "answer_form": b.profile.form,
            }
            for b in benches
        },
        "decides": dict(decides),
        "device": loading.device,
        "batch_size": settings.batch_size,
        "bootstrap": {"seed": settings.seed, "resamples": RESAMPLES, "level": 0.95, "tasks": "wilson-clustered"},
        "preprocessing": (before or {}).get("preprocessing"),
        "backend": (before or {}).get("backend", {}),
        "versions": {
            "vtrap": vtrap_bench.__version__,
            **{name: importlib.metadata.version(name) for name in ("torch", "transformers")},
        },
    }


def refuse_other(before: Mapping[str, Any], decides: Mapping[str, Any], settings: RunSettings) -> None:
    """Raise UsageError if what decides the answers of the run that is there differs from what is asked for."""
    if other := differences(dict(before["decides"]), dict(decides)):
        raise UsageError(
            f"--out {settings.out} holds a run with other settings ({'; '.join(other)}): choose another --out"
        )


def same_server(before: Mapping[str, Any], name: str | None, settings: RunSettings) -> None:
    """Raise UsageError if a server is asked for another model than the one that the run was begun with.

    Which weights a server has cannot be seen, but what it calls them can: it decides the answers as weights do.

    Args:
        before: What the backend of the run said of itself (`run.json`).
        name: What the server calls the model that is asked now; None: not known yet, or there is no server.
        settings: Of the run.
    """
    begun = before.get("served_name")
    if begun is not None and name is not None and name != begun:
        raise UsageError(
            f"--out {settings.out} holds answers of what its server calls {begun!r}, now it is {name!r}: choose "
            "another --out"
        )


def same_preprocessing(
    before: Mapping[str, Any] | None, now: Mapping[str, Any], settings: RunSettings, model: LocalModel
) -> dict[str, Any]:
    """The preprocessing manifest as JSON, compared with what the run began with and what the model was trained with.

    Raises:
        UsageError: The run was begun with another.
    """
    current: dict[str, Any] = json.loads(canonical_json(dict(now)))
    if before is not None and (other := differences(dict(before), current)):
        raise UsageError(
            f"--out {settings.out} was begun with other preprocessing ({'; '.join(other)}): choose another --out"
        )
    trained = model.folder / PREPROCESSING
    if trained.is_file() and (other := differences(read_json_object(trained, "train it again"), current)):
        note(f"warning: {settings.model} was trained with other preprocessing: {'; '.join(other)}")
    return current


def read_info(out: Path) -> dict[str, Any] | None:
    """The `run.json` that is there, sound as a `RunInfo`, as JSON: it is written again; None if there is no run.

    Raises:
        UsageError: It is damaged, or is missing beside records.
    """
    path = out / RUN
    if not path.is_file():
        if (out / RECORDS).is_file() and (out / RECORDS).stat().st_size:
            raise UsageError(
                f"--out {out} has {RECORDS} but no {RUN}, so nobody knows what made it: choose another --out"
            )
        return None
    remedy = "choose another --out"
    read_typed(RunInfo, path, remedy)
    return read_json_object(path, remedy)


def write_json(path: Path, content: Mapping[str, Any]) -> None:
    """Write a file of a run, whole or not at all."""
    write_bytes(path, (json.dumps(content, indent=1, ensure_ascii=False, allow_nan=False) + "\n").encode())


def note(text: str) -> None:
    """Tell the user, without tearing the progress bar."""
    tqdm.write(text, file=sys.stderr)
