"""`push`: what does a checkpoint look like on the Hub, may it go there, and did it arrive?"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Mapping, Sequence
from dataclasses import replace
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from hub_cards.model_card import HUB_ID, ModelFacts, model_card
from hub_cards.publish import Upload, list_uploads, render
from hub_cards.report_rows import display_name, report_rows
from hub_cards.results import ResultRow
from vtrap_data.errors import UsageError
from vtrap_data.push import explained, send

EXAMPLE = """\
examples:
  python -m vtrap_train push runs/demo/models/hybrid-s0 vtrap/toy-vl-hybrid --report runs/demo/report.json \\
      --dry-run runs/hub    then open runs/hub/index.html
  python -m vtrap_train push runs/demo/models/hybrid-s0 vtrap/toy-vl-hybrid                  publish
  python -m vtrap_train push runs/7b vtrap/qwen2.5-vl-7b-hybrid --checkpoints    and checkpoint-N as revisions

It uploads to a pull request, loads the weights back with stock `transformers`, merges and tags. Interrupted, it goes
on when it is run again.
"""

# Weights of an earlier version that would be loaded beside, or instead of, the new ones.
OWNED = ("*.safetensors", "*.safetensors.index.json", "adapter/*")
# Pickles, which run code when they are loaded, and the state of the optimiser are nothing to publish.
NEVER = (".bin", ".pt", ".pth", ".pkl")
STATE = ("checkpoint-", "global_step", "trainer_state.json", "progress.json", "latest", "zero_to_fp32.py")
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
    parser.add_argument(
        "--licence", default="unknown", help="of the weights (default: what the base model's card on the Hub says)"
    )
    parser.add_argument(
        "--checkpoints", action="store_true", help="intermediate ones, too, each as a revision: checkpoint-100, ..."
    )
    parser.add_argument("--tag", help="name of this version (default: made from the content)")
    parser.add_argument("--private", action="store_true", help="if the repository has to be made, make it private")


def run(args: argparse.Namespace) -> int:
    """Run `python -m vtrap_train push`. Returns the exit code.

    Raises:
        UsageError: The checkpoint or the report cannot be read or published, or the Hub refuses it.
        VtrapError: Publishing did not get through.
    """
    folder: Path = args.dir
    steps = checkpoints(folder) if args.checkpoints else []
    try:
        facts = model_facts(folder, args.id, licence=args.licence)
        facts = replace(facts, checkpoints=tuple(step.name for step in steps))
        figure = None
        if args.report is not None:
            report = _read(args.report, "make it with `python -m vtrap_bench report`")
            table = trade_off(report, model_id=args.id, name=args.setting or folder.resolve().name)
            facts = replace(facts, table=tuple(table), synthetic=any(row.synthetic for row in table))
            drawn = args.report.parent / "figures" / "trade_off.png"
            figure = drawn if drawn.is_file() else None
        blocked = []
        if facts.licence.lower() == "unknown":
            blocked.append(
                f"The licence of the weights is not known, and the card of {facts.base_model} on the Hub gives none: "
                "say it with --licence."
            )
        if args.dry_run is None:
            if blocked:
                raise UsageError(f"{folder} may not be published: {' '.join(blocked)}")
            return _publish(folder, facts, steps, figure=figure, tag=args.tag, private=args.private)
        sent = [u for part in (folder, *steps) for u in _uploads(part, root=folder)]
        render(args.dry_run, model=facts, model_files=sent, model_blocked=blocked, figure=figure)
    except ValueError as error:
        raise UsageError(str(error)) from error
    for reason in blocked:
        print(f"would be refused: {reason}", file=sys.stderr)
    print(f"{args.dry_run / 'index.html'}: what publishing {args.id} would send")
    return 0


def _publish(
    folder: Path, facts: ModelFacts, steps: Sequence[Path], *, figure: Path | None, tag: str | None, private: bool
) -> int:
    from hub_cards.publishing import Content, Publication, ReadBack

    files: dict[str, Content] = {upload.path: folder / upload.path for upload in _uploads(folder)}
    record = {
        name: _json(anonymous(_read(folder / name, "finish the training"))) for name in (MARKER, "settings.json")
    }
    shown = replace(facts, figure=figure.name) if figure is not None else facts
    if figure is not None:
        files[figure.name] = figure
    preprocessing = _json(dict(facts.preprocessing))
    files |= {**record, "README.md": model_card(shown).encode(), "preprocessing.json": preprocessing}
    common: Any = {"repo_id": facts.model_id, "repo_type": "model", "marker": MARKER, "private": private}
    send(
        Publication(
            **common,
            files=files,
            owned=OWNED,
            read_back=ReadBack("vtrap_train.readback", (), local=folder),
            tag=tag,
        )
    )
    for step in steps:
        # No table: what was measured is the finished model.
        card = model_card(replace(facts, table=(), training={}, checkpoint=step.name, checkpoints=()))
        parts: dict[str, Content] = {upload.path: step / upload.path for upload in _uploads(step)}
        parts |= {**record, "README.md": card.encode(), "preprocessing.json": preprocessing}
        read_back = ReadBack("vtrap_train.readback", (), local=step)
        send(Publication(**common, files=parts, read_back=read_back, tag=step.name, aside=True))
    return 0


def checkpoints(folder: Path) -> list[Path]:
    """The intermediate checkpoints that were written to their end, by step.

    Raises:
        UsageError: One holds no whole model.
    """
    from vtrap_train.trainer import complete

    found = [p for p in folder.glob("checkpoint-*") if p.name.rpartition("-")[2].isdecimal() and complete(p)]
    for step in found:
        if not (step / "config.json").is_file():
            raise UsageError(
                f"{step} holds no whole model, so it cannot be published by itself (adapters are merged at the end of "
                "a training): leave --checkpoints out"
            )
    return sorted(found, key=lambda p: int(p.name.rpartition("-")[2]))


def _uploads(folder: Path, *, root: Path | None = None) -> list[Upload]:
    """What of a checkpoint is sent as it is, by its path from `root` (the folder itself unless given)."""
    prefix = "" if root is None or root == folder else f"{folder.relative_to(root).as_posix()}/"
    return [
        Upload(prefix + upload.path, upload.bytes)
        for upload in list_uploads(folder)
        if not upload.path.startswith(STATE)
        and not upload.path.endswith(NEVER)
        and upload.path not in ("README.md", "preprocessing.json")
    ]


def prepare(model_id: str | None, *, output_dir: Path) -> str:
    """Before a training that is to be published: may it go there? Better known now than after a week.

    Args:
        model_id: `owner/name`, or the name alone; None: that of the output folder. The owner is then the account.
        output_dir: Of the training.

    Returns:
        `owner/name`.

    Raises:
        UsageError: Nobody is logged in, or the account may not write there.
        VtrapError: The Hub does not answer.
    """
    from hub_cards.publishing import account, may_write

    me = explained(account)
    name = model_id or output_dir.resolve().name
    found = name if "/" in name else f"{me.name}/{name}"
    if not HUB_ID.fullmatch(found):
        raise UsageError(f"--hub_model_id {found!r} must be owner/name, such as vtrap/qwen2.5-vl-7b-hybrid")
    explained(lambda: may_write(me, found))
    return found


def publish_trained(config: Any) -> int:
    """What `--push_to_hub` does when the training is done: `push`, with the settings that TRL has for it.

    Args:
        config: TrainConfig: `hub_model_id`, `hub_private_repo`, and `hub_strategy`, of which only `all_checkpoints`
            makes a difference.

    Returns:
        The exit code; raises as `run`.
    """
    out = Path(str(config.output_dir))
    words = [str(out), prepare(config.hub_model_id, output_dir=out)]
    words += ["--private"] if config.hub_private_repo else []
    words += ["--checkpoints"] if config.hub_strategy == "all_checkpoints" else []
    parser = argparse.ArgumentParser()
    add_arguments(parser)
    return run(parser.parse_args(words))


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
        if licence.lower() == "unknown":
            licence, link = base_licence(base, revision)
        else:
            link = None
        return ModelFacts(
            model_id=model_id,
            base_model=base,
            base_revision=revision,
            data=tuple(dict.fromkeys(display_name(part["data"]) for part in summary["data"])),
            frames=str(summary["frames"]),
            licence=licence,
            licence_link=link,
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


def base_licence(base: str, revision: str | None) -> tuple[str, str | None]:
    """Licence of a base model as its card on the Hub gives it, and where its text is; or "unknown"."""
    from huggingface_hub import ModelCard

    from hub_cards.publishing import Failed, Refused, read_text

    if base == "toy-vl":
        return "apache-2.0", None  # ships with vtrap, under its licence
    if not HUB_ID.fullmatch(base):
        return "unknown", None
    try:
        text = read_text(base, "README.md", repo_type="model", revision=revision or "main")
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
