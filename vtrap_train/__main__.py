"""`python -m vtrap_train`: fine-tune a vision-language model on packed video, images and text."""

from __future__ import annotations

import json
import logging
import os
import sys
import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from vtrap_data.errors import (
    FatalSampleError,
    UnreachableError,
    UsageError,
    VtrapError,
    first_line,
    printable,
    wrong_path,
)
from vtrap_data.interruption import interruption_told
from vtrap_train.command_line import Parser


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command. Returns the exit code: 0 done, 1 stopped, 2 wrong use, 130 interrupted."""
    words = list(sys.argv[1:] if argv is None else argv)
    warnings.simplefilter("ignore", FutureWarning)
    # Where it is installed it is imported, and misses a kernel for CPUs that nobody asked for.
    logging.getLogger("bitsandbytes.backends.cpu.ops").setLevel(logging.ERROR)
    try:
        with interruption_told():
            return _main(words)
    except UsageError as error:
        _complain(error)
        return 2
    except VtrapError as error:
        _complain(error)
        return 1
    except OSError as error:
        from vtrap_train.trainer import storage_failed

        if wrong_path(error):
            _complain(error)
            return 2
        if not storage_failed(error):
            raise
        _complain(f"{error}: make room and give the same command again; it goes on from the last checkpoint")
        return 1
    except RuntimeError as error:
        import torch

        if not isinstance(error, torch.OutOfMemoryError):
            raise
        _complain(
            f"{first_line(error)} Less is needed with a smaller --tokens_per_batch (or --per_device_train_batch_size, "
            "more --gradient_accumulation_steps), --gradient_checkpointing true, more GPUs, a heavier --deepspeed, "
            "--lora_r. A run that has checkpoints goes on with its own settings only: choose another --output_dir"
        )
        return 1
    except KeyboardInterrupt:
        _complain("interrupted; the same command goes on from the last checkpoint")
        return 130


def _main(words: list[str]) -> int:
    import torch

    if not torch.cuda.is_available():
        os.environ.setdefault("DS_ACCELERATOR", "cpu")  # or DeepSpeed, which is always imported, warns on stdout

    if words[:1] == ["push"]:
        return _push(words[1:])
    from vtrap_train.config import mixture_of, parse
    from vtrap_train.launch import launch, launched, processes
    from vtrap_train.plan import plan, plan_text
    from vtrap_train.push import prepare, publish_trained
    from vtrap_train.run import run
    from vtrap_train.sharding import decide

    parsed = parse(words, launched=launched())
    first = not launched() or parsed.config.process_index == 0
    elsewhere = parsed.arguments.plan and parsed.arguments.gpu_memory_gb is not None
    count = parsed.config.world_size if launched() else processes(parsed.arguments.gpus, elsewhere=elsewhere)
    if parsed.arguments.plan:
        if first:
            facts = plan(parsed, processes=count)
            print(json.dumps(facts, indent=2) if parsed.arguments.json else plan_text(facts))
        return 0
    if parsed.config.publish and first:
        prepare(parsed.config.hub_model_id, output_dir=Path(str(parsed.config.output_dir)))
    if not launched():
        sharding = decide(parsed.deepspeed, parsed.arguments, parsed.config, processes=count)
        if count > 1:
            mixture_of(parsed)  # what is wrong with it is better said once
        # One of several GPUs is started like several: in this process Trainer would split batches over all of them.
        if count > 1 or sharding.file is not None or torch.cuda.device_count() > 1:
            launch(words, count=count)
        parsed.config.sharding = sharding
    summary = run(parsed)
    if first:
        print(json.dumps(summary, indent=2) if parsed.arguments.json else _closing(summary, parsed.config.output_dir))
        if parsed.config.publish:
            publish_trained(parsed.config)
    return 0


def _push(words: list[str]) -> int:
    from vtrap_train import push

    parser = Parser(prog="python -m vtrap_train push")
    push.add_arguments(parser)
    return push.run(parser.parse_args(words))


def _closing(summary: Mapping[str, Any], out: object) -> str:
    loss = "no loss" if summary["train_loss"] is None else f"loss {summary['train_loss']:.4f}"
    return (
        f"{out}: {summary['steps']} steps, {summary['samples']} samples, {summary['visual_tokens']} visual tokens, "
        f"{loss}, {summary['skipped']} skipped, {summary['seconds']:.0f} s"
    )


def _complain(error: object) -> None:
    who = ""
    if (rank := os.environ.get("RANK", "0")) != "0":
        from vtrap_train.trainer import NotFiniteError

        if isinstance(error, (UsageError, FatalSampleError, UnreachableError, NotFiniteError)):
            return  # these stop all processes; the first says so
        who = f"process {rank}: "
    from tqdm import tqdm

    tqdm.write(f"vtrap-train: {who}{printable(error)}", file=sys.stderr)  # above a bar, not behind it


if __name__ == "__main__":
    sys.exit(main())
