"""Does it fit? Memory per process, from the model's shape alone: no weights are loaded.

Weights, gradients and optimiser states are counted exactly. Activations are a rough estimate (what is kept between the
layers, plus the working set of one), good to tell 20 GB from 80. Sources: ZeRO, arXiv 1910.02054, section 3.1 (bytes
per parameter of mixed-precision Adam); Korthikanti et al., arXiv 2205.05198, section 4 (activations of a layer).
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

import torch
from transformers import AutoModelForImageTextToText

from vtrap_data.encoding import load_config, resolve
from vtrap_train.four_bits import in_four_bits
from vtrap_train.groups import check_groups, group_of
from vtrap_train.lora import lora_targets

if TYPE_CHECKING:
    from vtrap_train.config import TrainConfig, VtrapArguments

ALONE = "no sharding"
SETUPS = (ALONE, "zero2", "zero3", "zero3-offload")
"""From the cheapest to the one that needs the least memory of a GPU."""
GB = 1e9
LONG = 16_384
"""Tokens of a long sample, for want of better: 64 frames of 448 tokens a pair (docs/models.md), and some text."""


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


class Demand(NamedTuple):
    """What a run asks of its GPUs.

    Attributes:
        counts: Parameters.
        lean: Whether weights are in bfloat16 where DeepSpeed does not make them so.
        activations: Rough bytes of a forward pass of `tokens`.
        tokens: Of the pass that was reckoned with: `--tokens_per_batch`, else `LONG` for each sample of a batch (or
            `--max_tokens`). The data are not looked at, so that every process comes to the same result at once.
        four_bits: Whether the base is stored in four bits.
    """

    counts: Counts
    lean: bool
    activations: float
    tokens: int
    four_bits: bool = False

    def states(self, setup: str, processes: int) -> float:
        """As the function `states`."""
        return states(self.counts, setup=setup, processes=processes, lean=self.lean)

    def whole(self, setup: str, processes: int) -> float:
        """Bytes per process at the most: in the backward pass, or in the step of the optimiser, whichever is more."""
        step = 0.0
        if setup == "zero2":
            # DeepSpeed (stage_1_and_2.py, `step`) makes a flat copy of the gradients it holds, and that in 32 bits.
            step = 6.0 * self.counts.trained / processes
        return self.states(setup, processes) + max(self.activations, step)

    def beside(self) -> float:
        """Bytes of main memory over all nodes that zero3-offload takes: DeepSpeed's own estimate, less its reserve.

        2 per parameter, and per trained one 16 for gradients (also in 32 bits), the 32-bit weight and Adam.
        """
        return 2.0 * self.counts.total + 16.0 * self.counts.trained


def demand(arguments: VtrapArguments, config: TrainConfig, *, model_config: Any = None) -> Demand:
    """What a run asks of its GPUs, from its settings and the model's configuration. Raises UsageError.

    Args:
        arguments: Of the run.
        config: Of the run.
        model_config: Of the model; None reads that of `--model`.
    """
    if model_config is None:
        model_config = config_of(arguments)
    tokens = config.tokens_per_batch or config.per_device_train_batch_size * min(LONG, arguments.max_tokens or LONG)
    return Demand(
        counts=count(model_config, arguments),
        # Without DeepSpeed a full fine-tune keeps 32-bit weights, which the optimiser needs.
        lean=arguments.dtype == "bfloat16"
        or (arguments.dtype == "auto" and arguments.lora_r > 0 and _on(config, arguments, "bf16")),
        activations=activations(model_config, arguments, config, tokens=tokens, visual=tokens),
        tokens=tokens,
        four_bits=arguments.lora_4bit,
    )


def config_of(arguments: VtrapArguments) -> Any:
    """The model's own configuration. Raises UsageError if there is no such model."""
    return load_config(resolve(arguments.model))


def count(model_config: Any, arguments: VtrapArguments) -> Counts:
    """Count the parameters of a configuration as this run would train it."""
    with torch.device("meta"):
        model: Any = AutoModelForImageTextToText.from_config(model_config, dtype=torch.float32)
        model.tie_weights()
    total = sum(p.numel() for p in model.parameters())
    layers: dict[str, int] = {}
    for name, parameter in model.named_parameters():
        head, found, tail = name.partition(".layers.")
        key = f"{head}.{tail.split('.')[0]}" if found else name
        layers[key] = layers.get(key, 0) + parameter.numel()
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
        shared = 16.0 * counts.adapters
    elif setup == ALONE:
        shared = 12.0 * counts.trained  # gradient 4, Adam 8; the weight itself is in `base`
    else:
        shared = 14.0 * counts.trained  # gradient 2, Adam 8, the 32-bit weight 4
    if setup == ALONE:
        return base + shared
    if setup == "zero2":
        return base + shared / processes
    if setup == "zero3":
        return (base + shared) / processes + 2.0 * counts.largest
    return 4.0 * counts.largest  # a layer and its gradients: all else is in main memory


def activations(
    model_config: Any, arguments: VtrapArguments, config: TrainConfig, *, tokens: int, visual: int
) -> float:
    """Rough bytes of what a forward pass keeps for the backward pass.

    Args:
        model_config: Of the model.
        arguments: What is frozen.
        config: Checkpointing and precision.
        tokens: Of the largest batch, padding included.
        visual: Visual tokens in it; each stands for `spatial_merge_size`^2 patches.
    """
    text, vision = model_config.get_text_config(), getattr(model_config, "vision_config", None)
    width = 2 if config.fp16 or _on(config, arguments, "bf16") else 4
    per_layer = 12 * text.hidden_size + 3 * text.intermediate_size
    layers = text.num_hidden_layers
    checkpointed = _on(config, arguments, "activation_checkpointing")
    kept = (layers * text.hidden_size + per_layer) if checkpointed else layers * per_layer
    total = float(tokens * kept * width)
    if vision is not None:
        hidden = int(vision.hidden_size)
        depth = int(getattr(vision, "depth", 0) or getattr(vision, "num_hidden_layers", 0))
        patches = visual * int(getattr(vision, "spatial_merge_size", 1)) ** 2
        per_block = 12 * hidden + 2 * int(getattr(vision, "intermediate_size", 4 * hidden))
        still = "vision" in arguments.freeze or bool(arguments.lora_r)
        blocks = per_block if still else depth * hidden + per_block if checkpointed else depth * per_block
        total += patches * blocks * width
    return total


def _on(config: TrainConfig, arguments: VtrapArguments, name: str) -> bool:
    """Whether `bf16` or `activation_checkpointing` is on: here, or on the GPUs that `--gpu_memory_gb` speaks of."""
    elsewhere = config.use_cpu and arguments.gpu_memory_gb is not None
    return bool(getattr(config, name)) or (elsewhere and name in config.left_to_machine)
