"""Does it fit? Memory per process, from the model's shape alone: no weights are loaded.

Weights, gradients and optimiser states are counted exactly. Activations are a rough estimate (what is kept between the
layers, plus the working set of one), good to tell 20 GB from 80. Sources: ZeRO, arXiv 1910.02054, section 3.1 (bytes
per parameter of mixed-precision Adam); Korthikanti et al., arXiv 2205.05198, section 4 (activations of a layer).
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, NamedTuple

import torch
from transformers import AutoConfig

from vtrap_data.encoding import resolve
from vtrap_data.errors import UsageError
from vtrap_train.config import PRESETS, Parsed
from vtrap_train.four_bits import check_goes_with, goes_with, in_four_bits
from vtrap_train.groups import check_groups, group_of

ALONE = "no sharding"
SETUPS = (ALONE, "zero2", "zero3", "zero3-offload")
GB = 1e9


class Counts(NamedTuple):
    """Parameters of a model.

    Attributes:
        total: Of the model.
        trained: Of it that get gradients, adapters included.
        adapters: Added by LoRA.
        largest: The largest number of parameters in one layer of the language model; ZeRO-3 gathers one at a time.
        small: Of the total, those that `--lora_4bit` stores in four bits; all others it keeps in 32.
    """

    total: int
    trained: int
    adapters: int
    largest: int
    small: int = 0


def count(model_config: Any, parsed: Parsed) -> Counts:
    """Count the parameters of a configuration as this run would train it."""
    from transformers import AutoModelForImageTextToText

    from vtrap_train.run import lora_targets

    with torch.device("meta"):
        model: Any = AutoModelForImageTextToText.from_config(model_config, dtype=torch.float32)
        model.tie_weights()
    total = sum(p.numel() for p in model.parameters())
    layers: dict[str, int] = {}
    for name, parameter in model.named_parameters():
        head, found, tail = name.partition(".layers.")
        key = f"{head}.{tail.split('.')[0]}" if found else name
        layers[key] = layers.get(key, 0) + parameter.numel()
    arguments = parsed.arguments
    if arguments.lora_r:
        wanted = set(lora_targets(arguments, model))
        linear = [m for n, m in model.named_modules() if n in wanted]
        adapters = sum(arguments.lora_r * (m.in_features + m.out_features) for m in linear)
        small = sum(m.in_features * m.out_features for m in in_four_bits(model)) if arguments.lora_4bit else 0
        return Counts(total, adapters, adapters, max(layers.values()), small)
    frozen = check_groups(arguments.freeze, setting="--freeze")
    trained = sum(p.numel() for n, p in model.named_parameters() if group_of(n) not in frozen)
    return Counts(total, trained, 0, max(layers.values()))


def states(counts: Counts, *, setup: str, processes: int, lean: bool) -> float:
    """Bytes per process for weights, gradients and Adam states.

    Args:
        counts: From `count`.
        setup: One of `SETUPS`.
        processes: That share them.
        lean: Weights in bfloat16 (2 bytes). Without sharding a trained one needs its own 32-bit copy then, too.
    """
    base = counts.total * (2.0 if lean or setup != ALONE else 4.0)
    if counts.small:  # 4.127 bits with their scales, which are quantised, too: QLoRA, arXiv 2305.14314, section 3
        base = counts.small * 4.127 / 8 + (counts.total - counts.small) * 4.0
    if counts.adapters:
        # PEFT keeps adapters, their gradients and states in 32 bits.
        own = 16.0 * counts.adapters
        if setup == ALONE:
            return base + own
        return (base if setup == "zero2" else base / processes) + own / processes
    if setup == ALONE:
        return base + counts.trained * 12.0  # gradient 4, Adam 8, the weight itself is in `base`
    gradients, adam = 2.0 * counts.trained, 12.0 * counts.trained
    if setup == "zero2":
        return base + (gradients + adam) / processes
    gathered = 2.0 * counts.largest
    if setup == "zero3":
        return (base + gradients + adam) / processes + gathered
    return gradients / processes + gathered


def activations(model_config: Any, parsed: Parsed, *, tokens: int, visual: int) -> float:
    """Rough bytes of what a forward pass keeps for the backward pass.

    Args:
        model_config: Of the model.
        parsed: Settings: checkpointing, precision, freezing.
        tokens: Of the largest batch, padding included.
        visual: Visual tokens in it; each stands for `spatial_merge_size`^2 patches.
    """
    config = parsed.config
    text, vision = model_config.get_text_config(), getattr(model_config, "vision_config", None)
    width = 2 if config.bf16 or config.fp16 else 4
    per_layer = 12 * text.hidden_size + 3 * text.intermediate_size
    layers = text.num_hidden_layers
    checkpointed = bool(config.activation_checkpointing)
    kept = (layers * text.hidden_size + per_layer) if checkpointed else layers * per_layer
    total = float(tokens * kept * width)
    if vision is not None:
        hidden = int(vision.hidden_size)
        depth = int(getattr(vision, "depth", 0) or getattr(vision, "num_hidden_layers", 0))
        patches = visual * int(getattr(vision, "spatial_merge_size", 1)) ** 2
        per_block = 12 * hidden + 2 * int(getattr(vision, "intermediate_size", 4 * hidden))
        still = "vision" in parsed.arguments.freeze or bool(parsed.arguments.lora_r)
        blocks = per_block if still else depth * hidden + per_block if checkpointed else depth * per_block
        total += patches * blocks * width
    return total


def setup_of(parsed: Parsed, *, processes: int) -> str:
    """Which of `SETUPS` a run would use. A DeepSpeed file of one's own counts as the preset it is most like.

    Raises:
        UsageError: ZeRO-3 with `--lora_4bit`.
    """
    setup = _setup_of(parsed, processes=processes)
    if parsed.arguments.lora_4bit:
        check_goes_with(setup)
    return setup


def _setup_of(parsed: Parsed, *, processes: int) -> str:
    chosen = parsed.sharding if processes > 1 or parsed.put_aside is not None else None
    if chosen is None:
        return ALONE
    if chosen.stem in PRESETS and PRESETS[chosen.stem] == chosen:
        return chosen.stem
    zero = json.loads(Path(chosen).read_text(encoding="utf-8")).get("zero_optimization", {})
    if int(zero.get("stage", 0)) < 3:
        return "zero2" if int(zero.get("stage", 0)) == 2 else ALONE
    return "zero3-offload" if zero.get("offload_param") or zero.get("offload_optimizer") else "zero3"


def check_fit(parsed: Parsed, *, processes: int) -> None:
    """Raise UsageError if the run cannot fit on the GPUs here; nothing is checked without any."""
    gb = available_gb(None)
    if gb is None:
        return
    ref = resolve(parsed.arguments.model)
    config = AutoConfig.from_pretrained(ref.path, revision=ref.revision, trust_remote_code=False)
    setup = setup_of(parsed, processes=processes)
    refuse(per_setup(config, parsed, processes=processes), setup=setup, processes=processes, gb=gb, model=ref.name)


def per_setup(model_config: Any, parsed: Parsed, *, processes: int) -> dict[str, float]:
    """GB per process for weights, gradients and optimiser states, for each of `SETUPS` that the run could have."""
    counts = count(model_config, parsed)
    # Without DeepSpeed a full fine-tune keeps 32-bit weights, which the optimiser needs.
    lean = parsed.arguments.dtype == "bfloat16" or (parsed.config.bf16 and parsed.arguments.lora_r > 0)
    return {
        name: states(counts, setup=name, processes=processes, lean=lean) / GB
        for name in SETUPS
        if goes_with(name) or not parsed.arguments.lora_4bit
    }


def available_gb(asked: float | None) -> float | None:
    """Memory of a GPU in GB: as given, or of the smallest one here; None without either."""
    if asked is not None:
        return asked
    found = [torch.cuda.get_device_properties(i).total_memory for i in range(torch.cuda.device_count())]
    return min(found) / GB if found else None


def refuse(need: dict[str, float], *, setup: str, processes: int, gb: float, model: str) -> None:
    """Raise UsageError if weights, gradients and optimiser states alone do not fit, and say what would."""
    if need[setup] <= gb:
        return
    fitting = [name for name in SETUPS[1:] if name in need and need[name] <= gb]
    ways = [f"--deepspeed {name} ({need[name]:.0f} GB)" for name in fitting]
    if processes == 1 or not fitting:
        # Sharded states shrink with the processes: how many would do?
        ways += ["more GPUs (--gpus N shares the states out under zero2 and zero3)"]
    ways += ["--lora_r 64, which trains adapters only", "a smaller model"]
    raise UsageError(
        f"{model} cannot be trained like this: weights, gradients and optimiser states take {need[setup]:.0f} GB per "
        f"process ({setup}, {processes} process(es)) and a GPU has {gb:.0f} GB. What would fit: {'; '.join(ways)}"
    )
