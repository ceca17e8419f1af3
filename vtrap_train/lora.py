"""Where do adapters go, and how do they become part of an ordinary checkpoint?"""

from __future__ import annotations

import re
import shutil
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from vtrap_data.encoding import ModelRef, load_model
from vtrap_data.errors import UsageError
from vtrap_data.trained import PREPROCESSING
from vtrap_train.groups import GROUPS, group_of

if TYPE_CHECKING:
    from vtrap_train.config import VtrapArguments


def lora(arguments: VtrapArguments, model: Any) -> Any:
    """The PEFT configuration: every linear layer of the groups named by `--lora_target`, or a regular expression."""
    from peft import LoraConfig

    return LoraConfig(
        r=arguments.lora_r,
        lora_alpha=2 * arguments.lora_r if arguments.lora_alpha is None else arguments.lora_alpha,
        lora_dropout=arguments.lora_dropout,
        target_modules=lora_targets(arguments, model),
    )


def lora_targets(arguments: VtrapArguments, model: Any) -> list[str]:
    """Names of the layers that get an adapter. Raises UsageError if there are none."""
    wanted = arguments.lora_target.split("+")
    linear = [name for name, module in model.named_modules() if isinstance(module, torch.nn.Linear)]
    if set(wanted) <= set(GROUPS):
        found = [name for name in linear if group_of(name) in wanted and not name.endswith("lm_head")]
    else:
        try:
            found = [name for name in linear if re.fullmatch(arguments.lora_target, name)]
        except re.error as error:
            raise UsageError(f"--lora_target {arguments.lora_target!r} is no regular expression: {error}") from error
    if not found:
        example = next(name for name in reversed(linear) if not name.endswith("lm_head"))  # which TRL does not adapt
        raise UsageError(
            f"--lora_target {arguments.lora_target!r} fits no linear layer: {', '.join(GROUPS)}, some with '+', "
            f"or a regular expression for whole names such as {example!r}"
        )
    return found


def merge_adapter(ref: ModelRef, adapter: Path, out: Path, *, processor: Any) -> None:
    """Write base plus adapter as one ordinary checkpoint. On the CPU, from files: works after any ZeRO stage."""
    from peft import PeftModel
    from transformers.integrations import deepspeed

    training = deepspeed._hf_deepspeed_config_weak_ref and deepspeed._hf_deepspeed_config_weak_ref()
    deepspeed.unset_hf_deepspeed_config()  # or ZeRO-3 would partition this model, too
    try:
        merged = PeftModel.from_pretrained(load_model(ref), str(adapter)).merge_and_unload()
    finally:
        if training:
            deepspeed.set_hf_deepspeed_config(training)
    merged.save_pretrained(out)
    processor.save_pretrained(out)
    shutil.copyfile(adapter / PREPROCESSING, out / PREPROCESSING)
    for file in out.glob("*.safetensors"):
        file.chmod(0o644)
