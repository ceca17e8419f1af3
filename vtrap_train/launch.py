"""How do N processes start from one command, and what is said when one of them ends? torchrun, with fewer words."""

from __future__ import annotations

import logging
import os
import signal
import sys
from collections.abc import Sequence
from typing import Any, NoReturn

import torch

from vtrap_data.errors import UsageError


def launched() -> bool:
    """Whether this process was started by torchrun, accelerate or deepspeed."""
    return "LOCAL_RANK" in os.environ


def processes(gpus: int, *, elsewhere: bool = False) -> int:
    """How many processes a run has.

    Args:
        gpus: As given; 0 means one per visible GPU, and one without any. Without a GPU a larger number starts that
            many CPU processes (slow; for tests).
        elsewhere: It is planned for other machines, so those GPUs need not be here.

    Raises:
        UsageError: If there are fewer GPUs than asked for.
    """
    visible = torch.cuda.device_count()
    if visible and gpus > visible and not elsewhere:
        raise UsageError(f"--gpus {gpus}: only {visible} visible here (CUDA_VISIBLE_DEVICES decides which)")
    return gpus or max(1, visible)


def command(argv: Sequence[str], *, count: int) -> list[str]:
    """The command that starts `count` processes of this program with these arguments."""
    return [sys.executable, "-m", "vtrap_train.launch", str(count), *argv]


def launch(argv: Sequence[str], *, count: int) -> NoReturn:
    """Replace this process by `count` of them."""
    os.environ.setdefault("OMP_NUM_THREADS", str(max(1, len(os.sched_getaffinity(0)) // (2 * count))))
    words = command(argv, count=count)
    sys.stdout.flush()
    sys.stderr.flush()
    os.execv(words[0], words)


def main(words: Sequence[str]) -> int:
    """Run `count` processes through torchrun. Returns the exit code of the one that failed first, or 0.

    Args:
        words: The count, then the arguments of each.
    """
    from torch.distributed import run as torchrun
    from torch.distributed.elastic.multiprocessing.api import SignalException
    from torch.distributed.elastic.multiprocessing.errors import ChildFailedError

    logging.disable(logging.CRITICAL)  # in this process only; those that fail say why themselves
    runner: Any = torchrun  # has no types
    count, *argv = words
    try:
        runner.run(runner.parse_args(["--standalone", f"--nproc_per_node={count}", "-m", "vtrap_train", *argv]))
    except ChildFailedError as error:
        rank, failure = error.get_first_failure()
        if failure.exitcode >= 0:
            return int(failure.exitcode)
        name = signal.Signals(-failure.exitcode).name
        hint = " (too little memory?)" if name == "SIGKILL" else ""
        again = "the same command goes on from the last checkpoint"
        print(f"vtrap-train: process {rank} was ended by {name}{hint}: {again}", file=sys.stderr)
        return 128 - int(failure.exitcode)
    except SignalException as error:
        return 128 + int(error.sigval)
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
