"""What would this run cost? Answered from the index and the tokenizer: no pixels, no weights."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from vtrap_data.encoding import load_processor, resolve
from vtrap_train.batches import StepSampler, padding
from vtrap_train.config import Parsed, mixture_of, origin
from vtrap_train.data import Mixture
from vtrap_train.lengths import ESTIMATED, ceiling, lengths, visual_lengths
from vtrap_train.memory import GB, SETUPS, activations, config_of, demand
from vtrap_train.sharding import MARGIN, decide, gpu_gb, possible
from vtrap_train.steps import steps


def plan(parsed: Parsed, *, processes: int) -> dict[str, Any]:
    """Work out what a run would do.

    Args:
        parsed: Settings.
        processes: That the run would have.

    Returns:
        JSON-ready: `per_epoch`, `steps` and `samples` of the whole run, `tokens` (text, visual and histogram per
        epoch; `exact`: whether every sample was counted), `over_ceiling` (samples of an epoch) and `max_skip_rate`,
        `against_fixed` (visual tokens at each fixed budget and the share saved), `padding` (its share with
        `--tokens_per_batch`, else null) and `memory`: GB per process for weights, gradients and optimiser states in
        each setup, a rough estimate of the activations on top, the setup of this run and why it is that, the memory of
        a GPU.

    Raises:
        UsageError: Model, data or ceiling cannot be used; or, as in `sharding.decide`, weights, gradients and
            optimiser states alone need more than a GPU has.
    """
    arguments, config = parsed.arguments, parsed.config
    ref = resolve(arguments.model)
    processor: Any = load_processor(ref)
    mixture = mixture_of(parsed)
    most = ceiling(arguments.max_tokens, ref)

    kinds, frames = mixture.column("kind"), mixture.column("n_frames")
    visual, text, exact = lengths(mixture, processor, counted_texts=len(mixture))
    tokens = visual + text
    batch = config.per_device_train_batch_size * config.gradient_accumulation_steps * processes
    length = steps(config, rows=len(mixture), processes=processes)
    videos = kinds == "video"
    fixed = {str(f): visual_lengths(mixture, _at_budget(mixture, f), processor) for f in _budgets(mixture)}
    largest, largest_visual = _largest(parsed, tokens, visual)
    needed = memory(parsed, processes=processes, tokens=largest, visual=largest_visual)
    return {
        "model": arguments.model,
        "revision": ref.revision,
        "recipe": parsed.recipe,
        "data": mixture.describe(),
        "frames": arguments.frames,
        "per_epoch": len(mixture),
        "by_kind": {k: int((kinds == k).sum()) for k in sorted(set(kinds.tolist()))},
        "by_source": {s: int((mixture.column("source") == s).sum()) for s in mixture.sources},
        "processes": processes,
        "batch": batch,
        "steps": length.steps,
        "samples": length.samples,
        "mean_frames": float(frames[videos].mean()) if videos.any() else 0.0,
        "tokens": {
            "text": int(text.sum()),
            "visual": int(visual.sum()),
            "longest": int(tokens.max()),
            "exact": exact,
            "histogram": histogram(tokens.tolist()),
        },
        "ceiling": most,
        "over_ceiling": int((tokens > most).sum()),
        "max_skip_rate": arguments.max_skip_rate,
        "against_fixed": {
            f: {
                "visual_tokens": int(v.sum()),
                "saved": 1 - int(visual[videos].sum()) / max(1, int(v[videos].sum())),
            }
            for f, v in fixed.items()
        },
        "padding": _padding(parsed, mixture, tokens, processes=processes),
        "memory": needed,
    }


def histogram(tokens: Sequence[int]) -> list[dict[str, int]]:
    """Counts in bins of powers of two.

    >>> histogram([3, 5, 6])
    [{'from': 2, 'below': 4, 'samples': 1}, {'from': 4, 'below': 8, 'samples': 2}]
    """
    powers = [max(0, int(t).bit_length() - 1) for t in tokens]
    return [
        {"from": 2**p, "below": 2 ** (p + 1), "samples": powers.count(p)} for p in range(min(powers), max(powers) + 1)
    ]


def memory(parsed: Parsed, *, processes: int, tokens: int, visual: int) -> dict[str, Any]:
    """What each setup needs per process, and which one the run would use.

    Args:
        parsed: Settings.
        processes: That the run would have.
        tokens: Of the largest forward pass, padding included.
        visual: Visual tokens in it.
    """
    arguments, config = parsed.arguments, parsed.config
    needed = demand(arguments, config)
    sharding = decide(parsed.deepspeed, arguments, config, processes=processes, needed=needed)
    names = [n for n in SETUPS if n == sharding.setup or n in possible(needed, processes=processes)]
    room = activations(config_of(arguments), arguments, config, tokens=tokens, visual=visual)
    return {
        "parameters": needed.counts.total,
        "trained": needed.counts.trained,
        "gb": {name: round(needed.states(name, processes) / GB, 3) for name in names},
        "activations_gb": round(room / GB, 3),
        "setup": sharding.setup,
        "why": sharding.why,
        "gpu_gb": gpu_gb(arguments.gpu_memory_gb),
    }


def plan_text(facts: dict[str, Any]) -> str:
    """The plan for people."""
    tokens = facts["tokens"]
    lines = [
        f"{facts['model']}: {origin(recipe=facts['recipe'], revision=facts['revision'])}",
        f"{facts['per_epoch']:,} samples an epoch, frames {facts['frames']} "
        f"(mean {facts['mean_frames']:.1f} per video)",
        f"  {', '.join(f'{n:,} {k}' for k, n in facts['by_kind'].items())}",
        f"{facts['steps']:,} steps of up to {facts['batch']} samples on {facts['processes']} process(es), "
        f"{facts['samples']:,} samples in all",
        f"tokens an epoch: {tokens['visual']:,} visual, {tokens['text']:,} text; longest sample {tokens['longest']:,}",
    ]
    most = max(b["samples"] for b in tokens["histogram"])
    for b in tokens["histogram"]:
        bar = "#" * math.ceil(40 * b["samples"] / most)
        lines.append(f"  {b['from']:>7} to {b['below'] - 1:<7} {b['samples']:>9,} {bar}")
    if not tokens["exact"]:
        lines.append(f"  {ESTIMATED}")
    if facts["over_ceiling"]:
        told = f"{facts['over_ceiling']:,} samples are over the ceiling of {facts['ceiling']:,} and would be skipped"
        if facts["over_ceiling"] > facts["per_epoch"] * facts["max_skip_rate"]:
            told += f": more than --max_skip_rate {facts['max_skip_rate']:g} of them, at which training stops"
        lines.append(told)
    for budget, row in facts["against_fixed"].items():
        tokens_then = f"{row['visual_tokens']:,} visual tokens"
        share = (
            f"{row['saved']:.1%} of the videos' saved" if row["saved"] >= 0 else f"{-row['saved']:.1%} more than that"
        )
        lines.append(f"against {budget} frames for all: {tokens_then}, {share}")
    if facts["padding"] is not None:
        lines.append(f"padding with --tokens_per_batch: {facts['padding']:.1%}")
    lines += memory_lines(facts["memory"])
    return "\n".join(lines)


def memory_lines(facts: dict[str, Any]) -> list[str]:
    """The memory table for people."""
    lines = [
        f"{facts['parameters']:,} parameters, {facts['trained']:,} trained; GB per process for weights, gradients and "
        f"optimiser states, and with about {facts['activations_gb']:.1f} GB of activations (a rough estimate):"
    ]
    for name, gb in facts["gb"].items():
        whole = gb + facts["activations_gb"]
        mark = "  <- this run" if name == facts["setup"] else ""
        if mark and facts["gpu_gb"] is not None:
            mark += f", on {facts['gpu_gb']:.3g} GB"
            if whole > (1 - MARGIN) * facts["gpu_gb"]:
                room = (1 - MARGIN) * facts["gpu_gb"] - facts["activations_gb"]
                fitting = [n for n, other in facts["gb"].items() if other <= room]
                mark += ": tight; fewer --tokens_per_batch, a smaller batch"
                mark += f" or --deepspeed {fitting[0]}" if fitting else ""
        lines.append(f"  {name:<14} {gb:>9.2f} {whole:>9.2f}{mark}")
    return [*lines, f"  {facts['why']}"]


def _largest(parsed: Parsed, tokens: NDArray[np.int64], visual: NDArray[np.int64]) -> tuple[int, int]:
    """Tokens and visual tokens of the largest forward pass that can come."""
    config = parsed.config
    share = float((visual / np.maximum(1, tokens)).max())
    if config.tokens_per_batch:
        most = max(config.tokens_per_batch, int(tokens.max()))
    else:
        most = config.per_device_train_batch_size * int(tokens.max())
    return most, int(most * share)


def _padding(parsed: Parsed, mixture: Mixture, tokens: NDArray[np.int64], *, processes: int) -> float | None:
    config = parsed.config
    if not config.tokens_per_batch:
        return None
    sampler = StepSampler(
        tokens,
        per_step=config.per_device_train_batch_size * processes,
        tokens=config.tokens_per_batch,
        seed=config.seed if config.data_seed is None else config.data_seed,
        shuffle=config.train_sampling_strategy == "random",
        world_size=processes,
        packed=config.pack,
        order=mixture.order if mixture.streaming else None,
    )
    return padding(sampler).share


def _budgets(mixture: Mixture) -> list[int]:
    """The fixed budgets to compare with: those of packs with videos, and 8 to 64 where a pool has as many slots."""
    settings = [d.manifest.settings for d in mixture.datasets if "video" in set(d.column("kind"))]
    slots = max((s.slots for s in settings), default=0)
    return sorted({b for s in settings for b in s.budgets} | {b for b in (8, 16, 32, 64) if b <= slots})


def _at_budget(mixture: Mixture, budget: int) -> Any:
    return np.minimum(budget, np.maximum(1, mixture.column("distinct")))
