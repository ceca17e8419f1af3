"""How are weights, gradients and optimiser states shared out? By the lightest DeepSpeed preset that fits."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import torch

from vtrap_data.errors import UsageError
from vtrap_data.json_object import read_json_object
from vtrap_train.four_bits import check_goes_with, goes_with
from vtrap_train.memory import ALONE, GB, SETUPS, Demand, demand

if TYPE_CHECKING:
    from vtrap_train.config import TrainConfig, VtrapArguments

PRESETS = {p.stem: p for p in sorted((Path(__file__).parent / "presets").glob("*.json"))}
AUTO, NONE = "auto", "none"
MARGIN = 0.1
"""Share of a GPU's memory that is left alone: CUDA itself, buffers of NCCL and DeepSpeed, fragmentation."""


class Sharding(NamedTuple):
    """What is shared out.

    Attributes:
        setup: One of `memory.SETUPS`. A DeepSpeed file of one's own counts as the preset it is most like.
        file: The DeepSpeed configuration; None without DeepSpeed.
        why: In a line, for people.
    """

    setup: str
    file: Path | None
    why: str


UNSHARDED = Sharding(ALONE, None, f"{ALONE}: one process")


def decide(
    asked: str | None,
    arguments: VtrapArguments,
    config: TrainConfig,
    *,
    processes: int,
    needed: Demand | None = None,
) -> Sharding:
    """What a run shares out over its processes: what was asked for, or the lightest of `memory.SETUPS` that fits.

    The same in every process of a run, and for `--plan`. Whether it fits is reckoned from the model's shape, the
    number of processes and the memory of a GPU; without a GPU (and `--gpu_memory_gb`) nothing is shared out.

    Args:
        asked: `--deepspeed` or a YAML's word: a preset, a file, `none`. None or `auto`: nothing was asked for (nor,
            with None, by a configuration of accelerate that sets up DeepSpeed).
        arguments: Of the run.
        config: Of the run.
        processes: All of them, on all nodes.
        needed: From `memory.demand`, where that is known already.

    Raises:
        UsageError: What was asked for does not exist or cannot fit; or nothing fits.
    """
    gb = gpu_gb(arguments.gpu_memory_gb)
    if asked is not None and asked != AUTO:
        file = None if asked == NONE else preset(asked)
        setup = ALONE if file is None else setup_of(file)
        if arguments.lora_4bit:
            check_goes_with(setup)
        if gb is not None:
            needed = needed or demand(arguments, config)
            if needed.states(setup, processes) > gb * GB:
                raise UsageError(refusal(needed, setup=setup, processes=processes, gb=gb, model=arguments.model))
        return Sharding(setup, file, f"{setup}: asked for")
    if asked is None and os.environ.get("ACCELERATE_USE_DEEPSPEED") == "true":
        setup = {"2": "zero2", "3": "zero3"}.get(os.environ.get("ACCELERATE_DEEPSPEED_ZERO_STAGE", ""), ALONE)
        return Sharding(setup, None, f"{setup}: as accelerate is configured")
    if gb is None:
        return Sharding(ALONE, None, f"{ALONE}: there is no GPU here (and no --gpu_memory_gb) to fit into")
    needed = needed or demand(arguments, config)
    elsewhere = arguments.plan and arguments.gpu_memory_gb is not None
    main = None if elsewhere else main_memory_gb(processes)
    setup = lightest(needed, processes=processes, gb=gb, main_gb=main)
    if needed.states(setup, processes) > gb * GB:
        told = refusal(needed, setup=setup, processes=processes, gb=gb, model=arguments.model, main_gb=main)
        raise UsageError(told)
    return Sharding(setup, PRESETS.get(setup), _why(needed, setup, processes=processes, gb=gb))


def possible(needed: Demand, *, processes: int, main_gb: float | None = None) -> list[str]:
    """Those of `memory.SETUPS` that a run can have, lightest first. One process has nobody to share with.

    Args:
        needed: From `memory.demand`.
        processes: Of the run.
        main_gb: GB of main memory for all of them; None: as much as it takes.
    """
    found = [name for name in SETUPS if goes_with(name) or not needed.four_bits]
    if processes == 1:
        found = [name for name in found if name not in ("zero2", "zero3")]
    if main_gb is not None and needed.beside() > main_gb * GB:
        found = [name for name in found if name != "zero3-offload"]
    return found


def lightest(needed: Demand, *, processes: int, gb: float, main_gb: float | None = None) -> str:
    """The first of `possible` that fits with `MARGIN`, or the last one: it may be tight then, or too much.

    More processes or more memory never make one that fits with the margin a heavier one: what each setup takes only
    shrinks with the processes. (One process alone may have no choice but a tight one that several need not take.)
    """
    names = possible(needed, processes=processes, main_gb=main_gb)
    room = (1 - MARGIN) * gb * GB
    return next((name for name in names if needed.whole(name, processes) <= room), names[-1])


def refusal(needed: Demand, *, setup: str, processes: int, gb: float, model: str, main_gb: float | None = None) -> str:
    """Why a run cannot fit, and what would. Arguments as for `lightest`; `setup` is the one that does not fit."""
    taken = needed.states(setup, processes) / GB
    names = possible(needed, processes=processes)
    others = {n: needed.states(n, processes) / GB for n in names if n != setup}
    fit = {n: x for n, x in others.items() if x <= gb}
    ways = []
    if "zero3-offload" in fit and main_gb is not None and needed.beside() > main_gb * GB:
        del fit["zero3-offload"]
        ways.append(f"zero3-offload with {needed.beside() / GB:.0f} GB of main memory, not {main_gb:.0f}")
    ways[:0] = [f"--deepspeed {name if name != ALONE else NONE} ({x:.3g} GB)" for name, x in fit.items()]
    more = (2**n for n in range(1, 12) if 2**n > processes)
    found = ((count, lightest(needed, processes=count, gb=gb, main_gb=main_gb)) for count in more)
    fitting = ((n, name) for n, name in found if needed.whole(name, n) <= (1 - MARGIN) * gb * GB)
    if not fit and (enough := next(fitting, None)) is not None:
        ways.append(f"{enough[0]} GPUs (--gpus, several nodes) with {enough[1]}")
    if not needed.counts.adapters:
        ways.append("--lora_r 64, which trains adapters only")
    elif not needed.four_bits:
        ways.append("--lora_4bit, which stores the base in four bits")
    ways.append("a smaller model")
    return (
        f"{model} cannot be trained like this: weights, gradients and optimiser states take {taken:.3g} GB per "
        f"process ({setup}, {processes} process(es)) and a GPU has {gb:.3g} GB. What helps: {'; '.join(ways)}"
    )


def setup_of(file: Path) -> str:
    """Which of `memory.SETUPS` a DeepSpeed configuration is, or is most like."""
    if PRESETS.get(file.stem) == file:
        return file.stem
    zero = read_json_object(file, "a DeepSpeed configuration is a JSON object: --deepspeed FILE").get(
        "zero_optimization", {}
    )
    if zero.get("stage") != 3:
        return "zero2" if zero.get("stage") == 2 else ALONE
    return "zero3-offload" if zero.get("offload_param") or zero.get("offload_optimizer") else "zero3"


def preset(name: str) -> Path:
    """File of a DeepSpeed preset or configuration. Raises UsageError if there is none."""
    path = PRESETS.get(name, Path(name))
    if not path.is_file():
        raise UsageError(f"--deepspeed {name!r} is neither a file nor one of {', '.join((AUTO, NONE, *PRESETS))}")
    return path


def gpu_gb(asked: float | None) -> float | None:
    """Memory of a GPU in GB: as given, or of the smallest one here; None without either."""
    if asked is not None:
        return asked
    found = [torch.cuda.get_device_properties(i).total_memory for i in range(torch.cuda.device_count())]
    return min(found) / GB if found else None


def main_memory_gb(processes: int) -> float | None:
    """Main memory in GB of all nodes of this run, taken to be like this one; None where there is no GPU."""
    if not torch.cuda.is_available():
        return None
    local = int(os.environ.get("LOCAL_WORLD_SIZE", processes))
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") * processes / local / GB


def _why(needed: Demand, setup: str, *, processes: int, gb: float) -> str:
    whole = needed.whole(setup, processes) / GB
    where = "one GPU" if processes == 1 else f"each of {processes} GPUs"
    told = f"{setup}: about {whole:.3g} of {gb:.3g} GB on {where} for passes of {needed.tokens:,} tokens"
    if setup == "zero3-offload":
        told += f", and {needed.beside() / GB:.3g} GB of main memory in all"
    if setup != ALONE:
        names = possible(needed, processes=processes)
        lighter = names[names.index(setup) - 1]
        told += f"; {lighter} would take {needed.whole(lighter, processes) / GB:.3g}"
    if whole > (1 - MARGIN) * gb:
        told += ". That is tight: lower --tokens_per_batch (or --max_tokens), or take more GPUs"
    return told
