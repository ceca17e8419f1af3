"""`push`: what does a checkpoint look like on the Hub, may it go there, and did it arrive?"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
from dataclasses import replace
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any

from hub_cards.dry_run import Upload, list_uploads, render
from hub_cards.model_card import HUB_ID, ModelFacts, model_card
from vtrap_data.errors import UsageError
from vtrap_data.json_object import read_json_object
from vtrap_data.push_command import add_push_arguments, explained, say_rendered, send
from vtrap_data.trained import LOCK, PREPROCESSING, SETTINGS, SUMMARY
from vtrap_train.card_facts import model_facts, published, trade_off

EXAMPLES = """\
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
# What `save_pretrained` writes of model, processor and tokenizer; an adapter; what vtrap says about the training.
SENT = (
    "config.json",
    "generation_config.json",
    "model.safetensors",
    "model-?????-of-?????.safetensors",
    "model.safetensors.index.json",
    "*processor_config.json",
    "tokenizer.json",
    "tokenizer.model",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "added_tokens.json",
    "vocab.json",
    "merges.txt",
    "chat_template.jinja",
    "chat_template.json",
    "additional_chat_templates/*.jinja",
    "adapter/adapter_config.json",
    "adapter/adapter_model.safetensors",
    "LICENSE*",
    "NOTICE*",
    SUMMARY,
    SETTINGS,
    "loss.jsonl",
)
# What else a training leaves: the state of the optimiser, shards of this machine, scores, questions and answers.
KNOWN = (
    "README.md",
    LOCK,
    PREPROCESSING,
    "checkpoint-*",
    "adapter",
    "eval",
    "eval.jsonl",
    "skipped.jsonl",
    "runs",
    "trainer_state.json",
    "progress.json",
    "latest",
    "zero_to_fp32.py",
    "global_step*",
    "*.pt",
    "*.pth",
    "*.bin",
)
"""Nothing is said about leaving these out. By the first part of their path."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of `python -m vtrap_train push`."""
    add_push_arguments(
        parser,
        description="Publish a checkpoint on the Hub, or render its card and list what would be sent.",
        examples=EXAMPLES,
        folder="a finished --output_dir of vtrap_train",
    )
    parser.add_argument("--report", type=Path, metavar="report.json", help="of vtrap_bench, for the trade-off table")
    parser.add_argument("--setting", metavar="NAME", help="which setting of the report (default: by the name of DIR)")
    parser.add_argument(
        "--licence", default="unknown", help="of the weights (default: what the base model's card on the Hub says)"
    )
    parser.add_argument(
        "--checkpoints", action="store_true", help="intermediate ones, too, each as a revision: checkpoint-100, ..."
    )


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
            report = read_json_object(args.report, "make it with `python -m vtrap_bench report`")
            table = trade_off(report, model_id=args.id, name=args.setting or folder.resolve().name)
            synthetic = facts.synthetic or any(row.synthetic for row in table)
            facts = replace(facts, table=tuple(table), synthetic=synthetic)
            drawn = args.report.parent / "figures" / "trade_off.png"
            figure = drawn if drawn.is_file() else None
        blocked = []
        if facts.licence.lower() == "unknown":
            blocked.append(
                f"The licence of the weights is not known, and the card of {facts.base_model} on the Hub gives none: "
                "say it with --licence."
            )
        _say_left_out(folder)
        if args.dry_run is None:
            if blocked:
                raise UsageError(f"{folder} may not be published: {' '.join(blocked)}")
            return _publish(folder, facts, steps, figure=figure, tag=args.tag, private=args.private)
        sent = [u for part in (folder, *steps) for u in _uploads(part, root=folder)]
        render(args.dry_run, model=facts, model_files=sent, model_blocked=blocked, figure=figure)
    except ValueError as error:
        raise UsageError(str(error)) from error
    return say_rendered(args.dry_run, what=f"publishing {args.id}", blocked=blocked)


def _publish(
    folder: Path, facts: ModelFacts, steps: Sequence[Path], *, figure: Path | None, tag: str | None, private: bool
) -> int:
    from hub_cards.fingerprints import Content
    from hub_cards.publishing import Publication
    from hub_cards.verifying import ReadBack

    files: dict[str, Content] = {upload.path: folder / upload.path for upload in _uploads(folder)}
    record = {name: _json(value) for name, value in published(folder).items()}
    shown = replace(facts, figure=figure.name) if figure is not None else facts
    if figure is not None:
        files[figure.name] = figure
    preprocessing = _json(dict(facts.preprocessing))
    files |= {**record, "README.md": model_card(shown).encode(), PREPROCESSING: preprocessing}
    common: Any = {"repo_id": facts.model_id, "repo_type": "model", "marker": SUMMARY, "private": private}
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
        parts |= {
            SUMMARY: record[SUMMARY],
            SETTINGS: record[SETTINGS],
            "README.md": card.encode(),
            PREPROCESSING: preprocessing,
        }
        read_back = ReadBack("vtrap_train.readback", (), local=step)
        send(Publication(**common, files=parts, read_back=read_back, tag=step.name, aside=True))
    return 0


def checkpoints(folder: Path) -> list[Path]:
    """The intermediate checkpoints that were written to their end, by step.

    Raises:
        UsageError: One holds no whole model.
    """
    from vtrap_train.trainer import checkpoints as written
    from vtrap_train.trainer import complete

    found = [p for p in written(folder) if complete(p)]
    for step in found:
        if not (step / "config.json").is_file():
            raise UsageError(
                f"{step} holds no whole model, so it cannot be published by itself (adapters are merged at the end of "
                "a training): leave --checkpoints out"
            )
    return found


def _uploads(folder: Path, *, root: Path | None = None) -> list[Upload]:
    """What of a checkpoint is sent as it is, by its path from `root` (the folder itself unless given)."""
    prefix = "" if root is None or root == folder else f"{folder.relative_to(root).as_posix()}/"
    return [Upload(prefix + upload.path, upload.bytes) for upload in list_uploads(folder) if _fits(upload.path, SENT)]


def _say_left_out(folder: Path) -> None:
    """Whoever put something else there may have meant it to be sent."""
    found = [u.path for u in list_uploads(folder) if not _fits(u.path, SENT)]
    others = sorted({first for path in found if not _fits(first := path.partition("/")[0], KNOWN)})
    if others:
        shown = ", ".join(others[:8]) + (", ..." if len(others) > 8 else "")
        print(f"not sent, as it is no part of the model: {shown}", file=sys.stderr)


def _fits(name: str, patterns: Sequence[str]) -> bool:
    return any(fnmatchcase(name, pattern) and name.count("/") == pattern.count("/") for pattern in patterns)


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
    from hub_cards.account import account, may_write

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


def _json(value: Any) -> bytes:
    return (json.dumps(value, indent=1, ensure_ascii=False) + "\n").encode()
