"""What happens between a command line and a finished checkpoint? The whole of it, in order."""

from __future__ import annotations

import errno
import fcntl
import json
import os
import shutil
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
import transformers
from datasets import Dataset

from vtrap_data.encoding import ModelRef, accept_bytes, load_model, load_processor, preprocessing, resolve
from vtrap_data.errors import FatalSampleError, UnreachableError, UsageError
from vtrap_data.json_object import read_json_object
from vtrap_data.parsing import parse_json
from vtrap_data.trained import LOCK, SETTINGS, SUMMARY
from vtrap_train.checkpoint_eval import EVALUATIONS, SCORES, CheckpointEval
from vtrap_train.collate import KINDS, VideoCollator
from vtrap_train.command_line import refused_by_library
from vtrap_train.config import (
    CHOICE,
    Parsed,
    TrainConfig,
    VtrapArguments,
    mixture_of,
    origin,
    settings_hash,
    settings_of,
)
from vtrap_train.data import Mixture
from vtrap_train.four_bits import load_in_four_bits
from vtrap_train.groups import GROUPS, Group, assert_frozen, assert_tied, check_groups, facts, freeze, table
from vtrap_train.ledger import write_text
from vtrap_train.lengths import ESTIMATED, ceiling, lengths
from vtrap_train.lora import lora, merge_adapter
from vtrap_train.packing import packer
from vtrap_train.trainer import (
    NotFiniteError,
    VideoSFTTrainer,
    checkpoints,
    complete,
    last_checkpoint,
    ours,
)


def run(parsed: Parsed, *, callbacks: Sequence[transformers.TrainerCallback] = ()) -> dict[str, Any]:
    """Train, or go on training, or find that it has been done.

    Args:
        parsed: From `config.parse`.
        callbacks: For TRL's trainer, beside the usual ones.

    Returns:
        The training summary, as it is in `training_summary.json`.

    Raises:
        UsageError: Settings that cannot work, or an output folder that holds another run or is being written.
        FatalSampleError: More samples were bad than allowed.
    """
    arguments, config = parsed.arguments, parsed.config
    quiet()
    use_threads(cpu=config.use_cpu)
    out = Path(str(config.output_dir))
    ref = resolve(arguments.model)
    if Path(ref.path).exists() and out.exists() and out.samefile(ref.path):
        raise UsageError(
            f"--output_dir {str(out)!r} is the model that training starts from, and would be overwritten: choose "
            "another directory"
        )
    most = ceiling(arguments.max_tokens, ref)
    mixture = mixture_of(parsed)
    _say(config, f"model      {arguments.model}: {origin(recipe=parsed.recipe, revision=ref.revision)}")
    agree(config)
    _say(config, f"sharding   {config.sharding.why}")
    _say(config, shares(mixture))
    settings = settings_of(parsed, world_size=config.world_size, data=mixture.describe())
    if (summary := finished(out, settings)) is not None:
        _say(config, f"{out} is finished ({summary['steps']} steps, same settings): nothing to do")
        return summary
    with alone(out) if config.should_save else nullcontext():
        return _train(parsed, ref, mixture, most=most, settings=settings, callbacks=callbacks)


@contextmanager
def alone(out: Path) -> Iterator[None]:
    """Keep a second training out of the folder: each would remove what the other wrote.

    The lock is the process's own. `flock`'s would pass to the workers of a loader, which outlive a killed run by
    seconds, and keep out the one that goes on.

    Raises:
        UsageError: Another one is writing there.
    """
    out.mkdir(parents=True, exist_ok=True)
    with (out / LOCK).open("w") as file:
        try:
            fcntl.lockf(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            if error.errno in (errno.EACCES, errno.EAGAIN):
                raise UsageError(
                    f"another training is writing --output_dir {str(out)!r}: wait for it, or choose another directory"
                ) from None
            # else a file system without locks, on which nobody gets one
        yield


def _train(
    parsed: Parsed,
    ref: ModelRef,
    mixture: Mixture,
    *,
    most: int,
    settings: Mapping[str, Any],
    callbacks: Sequence[transformers.TrainerCallback],
) -> dict[str, Any]:
    arguments, config = parsed.arguments, parsed.config
    out = Path(str(config.output_dir))
    if config.should_save:
        forget_others(out, settings)
        write_text(out / SETTINGS, json.dumps(settings, indent=2) + "\n")
        for leftover in checkpoints(out):
            if not complete(leftover):
                _say(config, f"{leftover} was not written to its end: removed")
                shutil.rmtree(leftover)
                continue
            # Trainer removes what was changed longest ago. Where that was cut short, the folder is younger than its
            # files, and would outlive a whole checkpoint.
            written = (leftover / "trainer_state.json").stat().st_mtime
            os.utime(leftover, (written, written))
    checkpoint = last_checkpoint(out)

    processor = load_processor(ref)
    dtype, attention = weights_dtype(parsed), arguments.attn_implementation
    model: Any
    with refused_by_library():
        if arguments.lora_4bit:
            model = load_in_four_bits(ref, dtype=dtype, attn_implementation=attention)
        else:
            model = load_model(ref, dtype=dtype, attn_implementation=attention)
    accept_bytes(model, processor)
    on_hub = None
    if not Path(ref.path).exists():
        on_hub = {"id": ref.path, "revision": getattr(model.config, "_commit_hash", None) or ref.revision}
    tied = assert_tied(model)
    frozen = check_groups(arguments.freeze, setting="--freeze")
    if not arguments.lora_r:  # PEFT freezes everything but its adapters itself
        freeze(model, frozen)
    rates = learning_rates(arguments, config.learning_rate)
    collator = VideoCollator(
        mixture,
        processor,
        sources=mixture.sources,
        max_tokens=most,
        # One process sees what it sees; several must all run the vision tower on both kinds of pixels.
        always=("image", "video") if config.world_size > 1 else (),
        pad_to_multiple_of=config.pad_to_multiple_of or 1,
        pack=packer(ref, model.config, attn_implementation=arguments.attn_implementation) if config.pack else None,
    )

    tokens = None
    if config.tokens_per_batch:
        found = lengths(mixture, processor)
        tokens = found.tokens
        if not found.exact:
            _say(config, f"lengths    {ESTIMATED}")
    if config.data_seed is None:
        config.data_seed = config.seed  # the order must not hang on what else has drawn random numbers
    with refused_by_library():
        trainer = VideoSFTTrainer(
            sources=mixture.sources,
            rates=rates,
            preprocessing=preprocessing(ref, processor),
            max_skip_rate=arguments.max_skip_rate,
            order=mixture.order if mixture.streaming else None,
            lengths=tokens,
            model=model,
            args=config,
            data_collator=collator,
            train_dataset=row_table(mixture),
            processing_class=processor,
            callbacks=list(callbacks),
            peft_config=lora(arguments, model) if arguments.lora_r else None,
        )
    assert_frozen(trainer.model, frozen)
    groups = facts(trainer.model, rates)
    _say(config, table(groups) + ("\n" + tied if tied else ""))
    scored = checkpoint_eval(trainer, arguments, ref=ref, processor=processor) if config.eval_tasks else None
    if scored is not None:
        trainer.add_callback(scored)
    trainer.resume(checkpoint)
    if checkpoint is not None:
        _say(config, f"going on from {checkpoint}")
    try:
        trainer.train(resume_from_checkpoint=None if checkpoint is None else str(checkpoint))
    except (FatalSampleError, NotFiniteError, UnreachableError) as error:
        saved = trainer.save_progress()
        kept = f"What was learned before is in {saved}." if saved else "Nothing had been learned yet."
        raise type(error)(f"{error} {kept}") from error
    assert_frozen(trainer.model, frozen)

    trainer.save_model(str(out / "adapter" if arguments.lora_r else out))
    totals = trainer.totals()
    whole, kinds = totals.whole(), totals.by_kind()
    videos = kinds["video"].samples
    summary = {
        "steps": trainer.state.global_step,
        "samples": int(whole.samples),
        "frames": arguments.frames,
        "mean_frames": totals.frames / videos if videos else 0.0,
        "visual_tokens": totals.visual_tokens,
        "train_loss": whole.mean_loss,
        "loss_by_source": {n: s.mean_loss for n, s in totals.by_source().items()},
        "samples_by_source": {n: int(s.samples) for n, s in totals.by_source().items()},
        "loss_by_modality": {n: kinds[n].mean_loss for n in KINDS},
        "samples_by_modality": {n: int(kinds[n].samples) for n in KINDS},
        "skipped": totals.skipped,
        "padding": totals.padding,
        "seconds": round(trainer.seconds, 3),
        "seed": config.seed,
        "model": arguments.model,
        "model_on_hub": on_hub,
        "data": [{**part, "on_hub": hub} for part, hub in zip(mixture.describe(), mixture.on_hub(), strict=True)],
        "sharding": {"setup": config.sharding.setup, "why": config.sharding.why},
        "groups": {
            n: {"parameters": g.parameters, "trainable": g.trainable, "learning_rate": g.learning_rate}
            for n, g in groups.items()
        },
        "settings_hash": settings_hash(dict(settings)),
    }
    if scored is not None:
        summary["evaluations"] = {str(step): scores for step, scores in sorted(scored.scores.items())}
        summary["best_step"] = scored.best()
    if config.should_save:
        if arguments.lora_r:
            merge_adapter(ref, out / "adapter", out, processor=processor)
        write_text(out / SUMMARY, json.dumps(summary, indent=2) + "\n")
    trainer.accelerator.wait_for_everyone()
    return summary


def checkpoint_eval(
    trainer: VideoSFTTrainer, arguments: VtrapArguments, *, ref: ModelRef, processor: Any
) -> CheckpointEval:
    """What scores the checkpoints of this run."""
    config: Any = trainer.args
    frames = "budget" if arguments.frames == "hybrid" else arguments.frames
    return CheckpointEval(
        base=arguments.model,
        out=Path(config.output_dir),
        tasks=config.eval_tasks,
        frames=config.eval_frames or frames,
        more=config.eval_args,
        metric=config.metric_for_best_model if config.load_best_model_at_end else None,
        export=partial(merge_adapter, ref, processor=processor) if arguments.lora_r else None,
        log=trainer.log_scores,
    )


def finished(out: Path, settings: Mapping[str, Any]) -> dict[str, Any] | None:
    """The summary, if the folder holds a finished run with these settings; None if it is free to train in.

    Raises:
        UsageError: If it holds a run, finished or not, with other settings.
    """
    if out.exists() and not out.is_dir():
        raise UsageError(f"--output_dir {str(out)!r} is not a directory")
    if os.fsencode(out).decode(errors="ignore") != str(out):
        raise UsageError(f"--output_dir {str(out)!r} holds bytes that are no UTF-8: choose another name")
    if not (out / SUMMARY).is_file():
        for folder in out.glob("checkpoint-*"):
            if folder.is_dir() and not folder.name.removeprefix("checkpoint-").isdecimal():
                raise UsageError(
                    f"--output_dir {str(out)!r} holds {folder.name}, which is no checkpoint but would be removed like "
                    "an old one: move it, or rename it so that it does not begin with 'checkpoint-'"
                )
    for checkpoint in checkpoints(out):
        # Training would rotate them away, so they must be ours: the first file that goes in is `progress.json`. Where
        # that was interrupted while one was rotated away, it may be the first that went: then `SETTINGS` says so. It
        # is asked first: the first rank may be removing the checkpoint already.
        if not ((out / SETTINGS).is_file() or complete(checkpoint) or ours(checkpoint)):
            raise UsageError(
                f"--output_dir {str(out)!r} holds {checkpoint.name} of another program: choose another one"
            )
    before = out / SETTINGS
    if before.is_file() and ((out / SUMMARY).is_file() or last_checkpoint(out) is not None):
        other = read_json_object(before, "choose another --output_dir, or remove that one")
        free = frozenset() if (out / SUMMARY).is_file() else CHOICE
        differing = sorted(k for k in (other.keys() | settings.keys()) - free if other.get(k) != settings.get(k))
        if differing:
            changes = ", ".join(_change(k, other.get(k), settings.get(k)) for k in differing[:4])
            raise UsageError(
                f"--output_dir {str(out)!r} holds a run with other settings ({changes}): choose another directory, "
                "or remove that one"
            )
    if not (out / SUMMARY).is_file():
        return None
    summary = read_json_object(out / SUMMARY, "remove it, and the same command goes on from the last checkpoint")
    if not before.is_file() and summary.get("settings_hash") != settings_hash(dict(settings)):
        raise UsageError(
            f"--output_dir {str(out)!r} holds a finished run, and no {SETTINGS} that says which: choose another "
            "directory, or remove that one"
        )
    return summary


def forget_others(out: Path, settings: Mapping[str, Any]) -> None:
    """Remove the scores of a run with other settings that was given up before its first checkpoint."""
    try:
        before = parse_json((out / SETTINGS).read_bytes())
    except (OSError, ValueError):
        return
    if any(before.get(k) != v for k, v in settings.items() if k not in CHOICE):
        shutil.rmtree(out / SCORES, ignore_errors=True)
        (out / EVALUATIONS).unlink(missing_ok=True)


def shares(mixture: Mixture) -> str:
    """What an epoch is made of, for people."""
    parts = mixture.describe()
    told = "data       " + ", ".join(
        f"{p['data']}: {p['per_epoch']:,} of an epoch ({p['per_epoch'] / len(mixture):.1%}), {p['items']:,} items"
        for p in parts
    )
    if len(parts) > 1 and abs(sum(p["weight"] for p in parts) - 1) < 1e-6 and not any(p.share for p in mixture.parts):
        told += "\n           (a weight is how often an epoch sees an item; for shares of an epoch write a:90%,b:10%)"
    return told


def agree(config: TrainConfig) -> None:
    """Raise UsageError where the processes of a run share out by different presets: they would wait for each other."""
    if config.world_size == 1:
        return
    everywhere: list[Any] = [None] * config.world_size
    torch.distributed.all_gather_object(everywhere, config.sharding)
    if len({sharding.setup for sharding in everywhere}) > 1:
        told = "; ".join(dict.fromkeys(f"{sharding.why}" for sharding in everywhere))
        raise UsageError(
            f"the GPUs of this run differ, and so do the DeepSpeed presets that fit them ({told}): say which one with "
            "--deepspeed"
        )


def row_table(mixture: Mixture) -> Dataset:
    """The rows as TRL wants them: their lengths, for `--train_sampling_strategy group_by_length`, and their number."""
    pictures = mixture.column("n_frames") + mixture.column("n_images")
    lengths = mixture.column("text_chars") // 4 + pictures * _area(mixture)
    return Dataset.from_dict({"length": lengths.astype(np.int64)})


def _area(mixture: Mixture) -> Any:
    # In units of a merged 28 x 28 patch: only the order matters to the sampler.
    return np.maximum(1, mixture.column("width") * mixture.column("height") // 784)


def learning_rates(arguments: VtrapArguments, base: float) -> dict[Group, float]:
    """Peak learning rate per module group."""
    own = {"vision": arguments.vision_learning_rate, "projector": arguments.projector_learning_rate}
    return {group: base if (rate := own.get(group)) is None else rate for group in GROUPS}


def weights_dtype(parsed: Parsed) -> torch.dtype:
    """Type of the weights in memory."""
    arguments, config = parsed.arguments, parsed.config
    if arguments.dtype != "auto":
        return torch.bfloat16 if arguments.dtype == "bfloat16" else torch.float32
    # DeepSpeed keeps 32-bit master weights; with LoRA the base is frozen. Otherwise AdamW needs them itself.
    lean = bool(config.bf16) and not config.use_cpu and (config.deepspeed is not None or arguments.lora_r > 0)
    return torch.bfloat16 if lean else torch.float32


def use_threads(*, cpu: bool) -> None:
    """On a CPU leave half of the cores alone: oversubscribed threads wait for each other, up to 80 times slower."""
    if cpu and "OMP_NUM_THREADS" not in os.environ:
        local = int(os.environ.get("LOCAL_WORLD_SIZE", "1"))
        torch.set_num_threads(max(1, len(os.sched_getaffinity(0)) // (2 * local)))


def quiet() -> None:
    """Errors only from the libraries, and no progress bars but ours."""
    transformers.utils.logging.set_verbosity_error()
    transformers.utils.logging.disable_progress_bar()


def _say(config: Any, text: str) -> None:
    if config.process_index == 0:
        print(text, file=sys.stderr)


def _change(name: str, before: Any, now: Any) -> str:
    """Where two values differ first: of two corpora the beginning may be the same."""
    if isinstance(before, dict) and isinstance(now, dict):
        key = min(k for k in before.keys() | now.keys() if before.get(k) != now.get(k))
        return _change(f"{name}.{key}", before.get(key), now.get(key))
    if isinstance(before, list) and isinstance(now, list) and len(before) == len(now):
        place = next(i for i, (one, other) in enumerate(zip(before, now, strict=True)) if one != other)
        return _change(f"{name}[{place}]", before[place], now[place])
    return f"{name} {_short(before)} -> {_short(now)}"


def _short(value: Any) -> str:
    text = json.dumps(value)
    return text if len(text) <= 60 else text[:57] + "..."
