"""What does the card say about a finished training? Read from the files it left, and from a report."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from dataclasses import replace
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from hub_cards.model_card import HUB_ID, ModelFacts
from hub_cards.report_rows import display_name, report_rows
from hub_cards.results import ResultRow
from vtrap_data.errors import UsageError
from vtrap_data.json_object import read_json_object
from vtrap_data.trained import PREPROCESSING, SETTINGS, SUMMARY

# What a reader of the card asks about first; settings.json, which is published too, holds everything.
RECIPE = (
    "learning_rate",
    "vision_learning_rate",
    "projector_learning_rate",
    "lr_scheduler_type",
    "warmup_steps",
    "warmup_ratio",
    "max_steps",
    "num_train_epochs",
    "per_device_train_batch_size",
    "gradient_accumulation_steps",
    "world_size",
    "optim",
    "weight_decay",
    "max_grad_norm",
    "bf16",
    "freeze",
    "lora_r",
    "seed",
)
OUTCOME = ("steps", "samples", "mean_frames", "visual_tokens", "train_loss", "skipped", "seconds")
ADAPTER = "adapter/adapter_config.json"
PLACES = ("/", "./", "../", "~", "file:")
LIBRARIES = ("vtrap", "torch", "transformers", "trl")


def model_facts(folder: Path, model_id: str, *, licence: str) -> ModelFacts:
    """What the card says about a finished training, from the files it left.

    Raises:
        UsageError: It is none, or is not finished.
    """
    remedy = "a finished training has one: run the same vtrap_train command again to go on with it"
    summary = read_json_object(folder / SUMMARY, remedy)
    preprocessing = read_json_object(folder / PREPROCESSING, remedy)
    settings = read_json_object(folder / SETTINGS, remedy)
    try:
        base, revision = _base(summary)
        shipped = summary["model"] == "toy-vl"
        link = None
        if licence.lower() == "unknown":
            # It ships with vtrap, under its licence.
            licence, link = ("apache-2.0", None) if shipped else base_licence(base, revision)
        return ModelFacts(
            model_id=model_id,
            base_model=base,
            base_revision=revision,
            data=tuple(dict.fromkeys(_corpus(part) for part in summary["data"])),
            frames=str(summary["frames"]),
            licence=licence,
            licence_link=link,
            recipe={k: settings[k] for k in RECIPE if settings.get(k) not in (None, [], "", -1)},
            training={k: _short(summary[k]) for k in OUTCOME if k in summary},
            preprocessing=preprocessing,
            synthetic=shipped,
            library_versions={name: found for name in LIBRARIES if (found := _version(name))},
        )
    except (KeyError, TypeError) as error:
        raise UsageError(f"{folder / 'training_summary.json'} is damaged ({error!r}): {remedy}") from error


def trade_off(report: Mapping[str, Any], *, model_id: str, name: str) -> list[ResultRow]:
    """The rows of a report for one checkpoint's card: this checkpoint, and its base at the same frame settings.

    Args:
        report: Content of `report.json`.
        model_id: What the checkpoint is called in the table.
        name: Of a setting (`hybrid`: its first seed), or of a checkpoint of a study (`hybrid-s0`).

    Raises:
        UsageError: The report has no such setting.
        ValueError: The report is damaged.
    """
    rows = report_rows(report)
    trained = [r for r in rows if r.setting is not None]
    found = [r for r in trained if name in (r.setting, f"{r.setting}-s{r.seed}")]
    if not found:
        names = ", ".join(dict.fromkeys(str(r.setting) for r in trained))
        raise UsageError(f"the report has no setting {name!r}: choose one of {names} with --setting")
    own = [replace(r.row, model=model_id) for r in found if r.seed == found[0].seed]
    shown = {row.frames for row in own}
    return [r.row for r in rows if r.setting is None and r.row.frames in shown] + own


def anonymous(value: Any) -> Any:
    """A JSON value without the places of this machine: of paths to local files only the last part is left.

    Example:
        >>> anonymous({"data": [{"data": "/home/me/corpus", "weight": 1.0}]})
        {'data': [{'data': 'corpus', 'weight': 1.0}]}
    """
    if isinstance(value, dict):
        return {key: anonymous(inner) for key, inner in value.items()}
    if isinstance(value, list):
        return [anonymous(inner) for inner in value]
    return display_name(value) if isinstance(value, str) and value.startswith(PLACES) else value


def published(folder: Path) -> dict[str, Any]:
    """What others may see of the files that a training leaves, by name: no places of this machine.

    Raises:
        UsageError: One is missing or damaged.
    """
    summary = read_json_object(folder / SUMMARY, "finish the training")
    settings = read_json_object(folder / SETTINGS, "finish the training")
    if not (summary.get("model_on_hub") or _named(str(summary["model"]))):
        summary["model"] = settings["model"] = _last(str(summary["model"]))
    corpora = [{**part, "data": _corpus(part)} for part in summary["data"]]
    summary["data"] = settings["data"] = corpora
    for scores in summary.get("evaluations", {}).values():  # the settings of a command, and where its output lies
        scores.pop("asked", None)
        scores.pop("error", None)
    found = {SUMMARY: summary, SETTINGS: settings}
    if (folder / ADAPTER).is_file():
        adapter = read_json_object(folder / ADAPTER, "finish the training")
        if "base_model_name_or_path" in adapter:
            adapter["base_model_name_or_path"] = _base(summary)[0]
        found[ADAPTER] = adapter
    return {name: anonymous(value) for name, value in found.items()}


def _base(summary: Mapping[str, Any]) -> tuple[str, str | None]:
    """The base model's Hub id and the revision it was taken at; of one that did not come from the Hub its name.

    What a folder is called may be somebody else's id on the Hub, so it is the training that says where it came from.
    Those of earlier versions did not: then only named models are known to be there.
    """
    name = str(summary["model"])
    if hub := summary.get("model_on_hub"):
        return str(hub["id"]), hub["revision"]
    ref = None if "model_on_hub" in summary and name != "toy-vl" else _named(name)
    if ref is None:
        return _last(name), None
    return (ref.path, ref.revision) if HUB_ID.fullmatch(ref.path) else (ref.name, None)


def _named(name: str) -> Any:
    from vtrap_data.encoding.models import named  # imports torch, which --help has no need of

    return named(name)


def _corpus(part: Mapping[str, Any]) -> str:
    """The Hub id of a corpus; of one that did not come from the Hub, or of which it is not known, its name."""
    hub = part.get("on_hub")
    return str(hub["id"]) if hub else _last(str(part["data"]))


def _last(place: str) -> str:
    return place.replace("\\", "/").rstrip("/").rpartition("/")[2] or place


def base_licence(base: str, revision: str | None) -> tuple[str, str | None]:
    """Licence of a base model as its card on the Hub gives it, and where its text is; or "unknown"."""
    from huggingface_hub import ModelCard

    from hub_cards.errors import Failed, Refused
    from hub_cards.repository import Repository

    if not HUB_ID.fullmatch(base):
        return "unknown", None
    try:
        text = Repository(base, "model").read_text("README.md", revision=revision or "main")
        data: Any = ModelCard(text or "").data
    except (Refused, Failed, ValueError) as error:
        print(f"the card of {base} could not be read for its licence: {error}", file=sys.stderr)
        return "unknown", None
    found = data.license_name if data.license == "other" else data.license
    link = data.license_link
    if link and not link.startswith("https://"):  # a file of the base's repository
        link = f"https://huggingface.co/{base}/blob/main/{link}"
    return str(found or "unknown"), link


def _short(value: Any) -> Any:
    return float(f"{value:.4g}") if isinstance(value, float) else value


def _version(name: str) -> str | None:
    try:
        return version(name)
    except PackageNotFoundError:
        return None
