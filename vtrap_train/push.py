"""`push`: what does a checkpoint look like on the Hub, may it go there, and did it arrive?"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Mapping
from dataclasses import replace
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from hub_cards.model_card import HUB_ID, ModelFacts, model_card
from hub_cards.publish import Upload, list_uploads, render
from hub_cards.report_rows import display_name, report_rows
from hub_cards.results import ResultRow
from vtrap_data.errors import UsageError, VtrapError

EXAMPLE = """\
examples:
  python -m vtrap_train push runs/demo/models/hybrid-s0 vtrap/toy-vl-hybrid --report runs/demo/report.json \\
      --licence apache-2.0 --dry-run runs/hub    then open runs/hub/index.html
  python -m vtrap_train push runs/demo/models/hybrid-s0 vtrap/toy-vl-hybrid --licence apache-2.0    publish

It uploads to a pull request, loads the weights back with stock `transformers`, merges and tags. Interrupted, it goes
on when it is run again.
"""

# Weights of an earlier version that would be loaded beside, or instead of, the new ones.
OWNED = ("*.safetensors", "*.safetensors.index.json", "adapter/*")
# Pickles, which run code when they are loaded, and the state of the optimiser are nothing to publish.
NEVER = (".bin", ".pt", ".pth", ".pkl")
MARKER = "training_summary.json"

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
LIBRARIES = ("vtrap", "torch", "transformers", "trl")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of `python -m vtrap_train push`."""
    parser.description = "Publish a checkpoint on the Hub, or render its card and list what would be sent."
    parser.epilog = EXAMPLE
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.add_argument("dir", type=Path, metavar="DIR", help="a finished --output_dir of vtrap_train")
    parser.add_argument("id", metavar="ID", help="owner/name on the Hub")
    parser.add_argument("--dry-run", type=Path, metavar="OUT", help="render into this folder, send nothing")
    parser.add_argument("--report", type=Path, metavar="report.json", help="of vtrap_bench, for the trade-off table")
    parser.add_argument("--setting", metavar="NAME", help="which setting of the report (default: by the name of DIR)")
    parser.add_argument("--licence", default="unknown", help="of the weights: that of the base model, as a rule")
    parser.add_argument("--tag", help="name of this version (default: made from the content)")
    parser.add_argument("--private", action="store_true", help="if the repository has to be made, make it private")


def run(args: argparse.Namespace) -> int:
    """Run `python -m vtrap_train push`. Returns the exit code.

    Raises:
        UsageError: The checkpoint or the report cannot be read or published, or the Hub refuses it.
        VtrapError: Publishing did not get through.
    """
    folder: Path = args.dir
    blocked = []
    if args.licence.lower() == "unknown":
        blocked.append("The licence of the weights is not known: give the base model's with --licence.")
    try:
        facts = model_facts(folder, args.id, licence=args.licence)
        figure = None
        if args.report is not None:
            report = _read(args.report, "make it with `python -m vtrap_bench report`")
            table = trade_off(report, model_id=args.id, name=args.setting or folder.resolve().name)
            facts = replace(facts, table=tuple(table), synthetic=any(row.synthetic for row in table))
            drawn = args.report.parent / "figures" / "trade_off.png"
            figure = drawn if drawn.is_file() else None
        uploads = [u for u in list_uploads(folder) if not u.path.startswith("checkpoint-")]
        kept = [u for u in uploads if u.path not in ("README.md", "preprocessing.json") and not _never(u.path)]
        if args.dry_run is None:
            if blocked:
                raise UsageError(f"{folder} may not be published: {' '.join(blocked)}")
            return _publish(folder, facts, kept, figure=figure, tag=args.tag, private=args.private)
        render(args.dry_run, model=facts, model_files=kept, model_blocked=blocked, figure=figure)
    except ValueError as error:
        raise UsageError(str(error)) from error
    for reason in blocked:
        print(f"would be refused: {reason}", file=sys.stderr)
    print(f"{args.dry_run / 'index.html'}: what publishing {args.id} would send")
    return 0


def _publish(
    folder: Path, facts: ModelFacts, kept: list[Upload], *, figure: Path | None, tag: str | None, private: bool
) -> int:
    from hub_cards.publishing import Content, Failed, Publication, ReadBack, Refused, publish

    files: dict[str, Content] = {upload.path: folder / upload.path for upload in kept}
    for name in (MARKER, "settings.json"):
        files[name] = _json(anonymous(_read(folder / name, "finish the training")))
    if figure is not None:
        facts = replace(facts, figure=figure.name)
        files[figure.name] = figure
    files |= {"README.md": model_card(facts).encode(), "preprocessing.json": _json(dict(facts.preprocessing))}
    try:
        done = publish(
            Publication(
                repo_id=facts.model_id,
                repo_type="model",
                files=files,
                owned=OWNED,
                marker=MARKER,
                read_back=ReadBack("vtrap_train.readback", (), local=folder),
                tag=tag,
                private=private,
            )
        )
    except Refused as error:
        raise UsageError(str(error)) from error
    except Failed as error:
        raise VtrapError(str(error)) from error
    print(f"{done.url}: {'published' if done.changed else 'nothing to do, already published'} as {done.tag}")
    return 0


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
    return display_name(value) if isinstance(value, str) and value.startswith(("/", "./", "../", "~")) else value


def _json(value: Any) -> bytes:
    return (json.dumps(value, indent=1, ensure_ascii=False) + "\n").encode()


def _never(path: str) -> bool:
    return path.endswith(NEVER)


def model_facts(folder: Path, model_id: str, *, licence: str) -> ModelFacts:
    """What the card says about a finished training, from the files it left.

    Raises:
        UsageError: It is none, or is not finished.
    """
    remedy = "a finished training has one: run the same vtrap_train command again to go on with it"
    summary = _read(folder / "training_summary.json", remedy)
    preprocessing = _read(folder / "preprocessing.json", remedy)
    settings = _read(folder / "settings.json", remedy)
    try:
        base, revision = _base(str(summary["model"]))
        return ModelFacts(
            model_id=model_id,
            base_model=base,
            base_revision=revision,
            data=tuple(dict.fromkeys(display_name(part["data"]) for part in summary["data"])),
            frames=str(summary["frames"]),
            licence=licence,
            recipe={k: settings[k] for k in RECIPE if settings.get(k) not in (None, [], "", -1)},
            training={k: _short(summary[k]) for k in OUTCOME if k in summary},
            preprocessing=preprocessing,
            synthetic=base == "toy-vl",
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


def _base(name: str) -> tuple[str, str | None]:
    """The base model's Hub id and pinned revision; of one that is not on the Hub its name."""
    from vtrap_data.encoding.models import NAMED  # imports torch, which --help has no need of

    ref = NAMED.get(name)
    if ref is None:
        return display_name(name), None
    return (ref.path, ref.revision) if HUB_ID.fullmatch(ref.path) else (ref.name, None)


def _short(value: Any) -> Any:
    return float(f"{value:.4g}") if isinstance(value, float) else value


def _version(name: str) -> str | None:
    try:
        return version(name)
    except PackageNotFoundError:
        return None


def _read(path: Path, remedy: str) -> dict[str, Any]:
    try:
        data = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise UsageError(f"{path} does not exist; {remedy}") from error
    except (OSError, ValueError) as error:
        raise UsageError(f"{path} cannot be read ({error}); {remedy}") from error
    if not isinstance(data, dict):
        raise UsageError(f"{path} holds no JSON object; {remedy}")
    return data
