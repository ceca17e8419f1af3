"""How do N processes start from one command? Through torchrun, with the same command line."""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from typing import NoReturn

import torch

from vtrap_data.errors import UsageError


def launched() -> bool:
    """Whether this process was started by torchrun, accelerate or deepspeed."""
    return "LOCAL_RANK" in os.environ


def processes(gpus: int) -> int:
    """How many processes a run on this machine has.

    Args:
        gpus: As given; 0 means one per visible GPU, and one without any. Without a GPU a larger number starts that
            many CPU processes (slow; for tests).

    Raises:
        UsageError: If there are fewer GPUs than asked for.
    """
    visible = torch.cuda.device_count()
    if visible and gpus > visible:
        raise UsageError(f"--gpus {gpus}: only {visible} visible here (CUDA_VISIBLE_DEVICES decides which)")
    return gpus or max(1, visible)


def command(argv: Sequence[str], *, count: int) -> list[str]:
    """The command that starts `count` processes of this program with these arguments."""
    runner = ["-m", "torch.distributed.run", "--standalone", f"--nproc_per_node={count}"]
    return [sys.executable, *runner, "-m", "vtrap_train", *argv]


def launch(argv: Sequence[str], *, count: int) -> NoReturn:
    """Replace this process by `count` of them."""
    os.environ.setdefault("OMP_NUM_THREADS", str(max(1, len(os.sched_getaffinity(0)) // (2 * count))))
    words = command(argv, count=count)
    sys.stdout.flush()
    sys.stderr.flush()
    os.execv(words[0], words)
