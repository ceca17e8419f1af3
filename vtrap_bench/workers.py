"""How do several processes on this machine share a run? Each is started with the same command, and its own GPUs."""

from __future__ import annotations

import argparse
import os
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from contextlib import suppress
from typing import NamedTuple

from vtrap_data.errors import UsageError, VtrapError
from vtrap_data.interruption import terminable

_OURS = ("processes", "gpus", "json")


class Share(NamedTuple):
    """How a run is shared on this machine.

    Attributes:
        processes: Number of them.
        devices: What CUDA_VISIBLE_DEVICES says in each; () without GPUs.
    """

    processes: int
    devices: tuple[str, ...]


def share_of(*, processes: int | None, gpus: int | None, device: str) -> Share:
    """Divide the GPUs among the processes.

    Args:
        processes: As given; None: one, or one per GPU.
        gpus: As given; None: leave GPUs alone.
        device: As given.

    Raises:
        UsageError: The numbers cannot be, or there are fewer GPUs.
    """
    count = (gpus or 1) if processes is None else processes
    if count < 1:
        raise UsageError(f"--processes {processes} must be at least 1")
    if gpus is None:
        return Share(count, ())
    if gpus < 1 or gpus % count:
        raise UsageError(f"--gpus {gpus} cannot be divided among --processes {count}")
    if device not in ("auto", "cuda"):
        raise UsageError(f"--device {device} and --gpus exclude each other: every process has GPUs of its own")
    there = _visible()
    if gpus > len(there):
        raise UsageError(f"--gpus {gpus}: only {len(there)} visible here (CUDA_VISIBLE_DEVICES decides which)")
    each = gpus // count
    return Share(count, tuple(",".join(there[i * each : (i + 1) * each]) for i in range(count)))


def share(args: argparse.Namespace, how: Share) -> None:
    """Run the command `run` in several processes until all have ended.

    What a process leaves when it ends early is done by the others, so the run is complete if one of them ended well.

    Raises:
        VtrapError: None did.
    """
    started: list[subprocess.Popen[bytes]] = []
    with terminable():
        try:
            for number in range(how.processes):
                started.append(_start(args, how, number))
            told: set[int] = set()
            while any(p.poll() is None for p in started):
                _tell(started, told)
                time.sleep(0.2)
            _tell(started, told)
        finally:
            for process in started:
                with suppress(ProcessLookupError):
                    process.terminate()
            for process in started:
                process.wait()
    if all(p.returncode for p in started):
        raise VtrapError(f"--out {args.out}: all {how.processes} processes failed; what they said is above")


def command(args: argparse.Namespace) -> list[str]:
    """The command line of one process: that of `run` with these arguments."""
    options = {k.replace("_", "-"): v for k, v in vars(args).items() if k not in _OURS and v is not None}
    return [sys.executable, "-m", "vtrap_bench", "run", *(f"--{name}={value}" for name, value in options.items())]


def environment(how: Share, number: int) -> dict[str, str]:
    """What process `number` (from 0) finds in its environment."""
    env = dict(os.environ)
    if how.devices:
        env["CUDA_VISIBLE_DEVICES"] = how.devices[number]
    # Without this, each process starts as many threads as there are cores and they slow each other down.
    env.setdefault("OMP_NUM_THREADS", str(max(1, len(os.sched_getaffinity(0)) // how.processes)))
    if number:
        env["TQDM_DISABLE"] = "1"  # the first one's bar counts what all of them answer
    return env


def _start(args: argparse.Namespace, how: Share, number: int) -> subprocess.Popen[bytes]:
    # The scores are printed once, by the process that started these; Ctrl-C reaches it alone, and it ends them.
    quiet, env = subprocess.DEVNULL, environment(how, number)
    return subprocess.Popen(command(args), stdin=quiet, stdout=quiet, env=env, start_new_session=True)


def _tell(started: Sequence[subprocess.Popen[bytes]], told: set[int]) -> None:
    for number, process in enumerate(started):
        if process.poll() and number not in told:
            told.add(number)
            code = process.returncode
            how = f"was ended by signal {-code}" if code < 0 else f"failed with exit code {code}"
            if code == -signal.SIGKILL:
                how += " (often: out of memory)"
            print(
                f"process {number + 1} of {len(started)} {how}; what it had in hand is left to the others",
                file=sys.stderr,
            )


def _visible() -> list[str]:
    said = os.environ.get("CUDA_VISIBLE_DEVICES")
    if said is not None:
        return [name for name in said.split(",") if name.strip()]
    import torch

    return [str(number) for number in range(torch.cuda.device_count())]
