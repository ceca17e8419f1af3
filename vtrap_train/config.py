"""What can be set, what is the default, and where does a value come from?

Two dataclasses behind TRL's parser: `VtrapArguments` (model, data, frames, limits, module groups, LoRA) and
`TrainConfig` (SFTConfig: every field of it is a flag). Strongest first: command line, `--config FILE`, the recipe that
ships for a named model, defaults.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import shlex
from collections.abc import Callable, Mapping, Sequence
from dataclasses import InitVar, asdict, dataclass, field, fields
from datetime import date
from functools import partial
from importlib.util import find_spec
from pathlib import Path
from typing import Any, NamedTuple, get_args, get_origin, get_type_hints

import torch
from trl import SFTConfig, TrlParser

from vtrap_data.encoding.models import named
from vtrap_data.encoding.turns import Turns
from vtrap_data.errors import UsageError, nearest
from vtrap_data.files import home
from vtrap_data.parsing import parse_json, parse_yaml
from vtrap_train.command_line import Parser
from vtrap_train.data import Mixture, Streaming, parse_data, parse_frames
from vtrap_train.groups import GROUPS, check_groups
from vtrap_train.sharding import AUTO, NONE, PRESETS, UNSHARDED, Sharding, decide, preset

HERE = Path(__file__).parent
SETUPS = {p.stem: p for p in sorted((HERE / "setups").glob("*.yaml"))}
RECIPES = {p.stem: p for p in sorted((HERE / "recipes").glob("*.yaml"))}

EPILOG = """\
examples:
  python -m vtrap_train --model toy-vl --data DIR --frames hybrid --output_dir runs/hybrid
  python -m vtrap_train --model qwen2.5-vl-7b                         # the published corpus, its packed budgets
  python -m vtrap_train --model qwen2.5-vl-7b --data videos,images:0.5 --plan
  python -m vtrap_train --model qwen2.5-vl-7b --frames 16 --gpus 8    # DeepSpeed as the memory of the GPUs asks for
  python -m vtrap_train --model qwen2.5-vl-3b --lora_r 64 --lora_target language+projector
  python -m vtrap_train --model qwen2.5-vl-7b --streaming             # fetch shards while training
  python -m vtrap_train --config my.yaml --learning_rate 1e-5
  python -m vtrap_train --model qwen2.5-vl-7b --config one-gpu-lora,frames-16

Every field of TRL's SFTConfig is a flag. A run that was interrupted goes on from its last checkpoint when the same
command is given again; a finished one says so. Exit codes: 0 done, 1 stopped (too many bad samples), 2 wrong use.
"""


# Instead of the 200 flags in brackets that argparse would print first.
USAGE = """python -m vtrap_train [--model MODEL] [--data DATA] [--frames FRAMES] [--config FILE] [--plan] [FLAG ...]
       python -m vtrap_train push --help"""

CONFIG_HELP = (
    f"YAML with any of these settings, or one that ships: {', '.join(SETUPS)}. Several with commas; later ones win."
)


@dataclass
class VtrapArguments:
    """What vtrap adds to SFTConfig."""

    model: str = field(
        default="", metadata={"help": "Named model (toy-vl, qwen2.5-vl-7b, ...), directory or Hub id[@revision]."}
    )
    data: str = field(
        default="vtrap/video-sft-hybrid",
        metadata={
            "help": "Packed datasets: DIR_OR_ID[:weight][,...]. Weight: times an epoch sees each item; with %%: share "
            "of the epoch (videos:90%%,images:10%%)."
        },
    )
    frames: str = field(
        default="hybrid", metadata={"help": "Frames per video: 'hybrid' (the packed budgets) or a fixed number."}
    )
    turns: Turns = field(
        default="separate",
        metadata={"help": "Questions about one video: separate examples, or joined into one conversation."},
    )
    streaming: bool = field(
        default=False,
        metadata={
            "help": "Fetch the shards of --data (Hub id, https://, s3://, ...) when they are needed instead of "
            "downloading all first. Samples are shuffled among a few shards at a time."
        },
    )
    streaming_shards: int = field(
        default=8,
        metadata={"help": "Shards of each dataset among which a stream is shuffled. Twice as many are kept on disk."},
    )
    streaming_cache: str | None = field(
        default=None,
        metadata={"help": "Where they are kept: a folder on a local disk. Default: $VTRAP_HOME/streaming."},
    )
    max_tokens: int | None = field(
        default=None,
        metadata={"help": "Ceiling per sample; longer ones are skipped, never cut. Default: the model's context."},
    )
    max_skip_rate: float = field(
        default=0.01, metadata={"help": "Share of the planned samples that may be skipped before training stops."}
    )
    freeze: list[str] = field(
        default_factory=list,
        metadata={"help": "Module groups that are not trained: vision, projector, language; 'none' trains them all."},
    )
    vision_learning_rate: float | None = field(
        default=None, metadata={"help": "Of the vision tower. Default: --learning_rate."}
    )
    projector_learning_rate: float | None = field(
        default=None, metadata={"help": "Of the projector. Default: --learning_rate."}
    )
    dtype: str = field(
        default="auto",
        metadata={
            "help": "Of the weights. auto: bfloat16 with DeepSpeed or LoRA on a GPU (32-bit copies are kept where "
            "they are needed), else float32.",
            "choices": ["auto", "float32", "bfloat16"],
        },
    )
    attn_implementation: str = field(default="sdpa", metadata={"help": "As in transformers."})
    lora_r: int = field(default=0, metadata={"help": "Rank of LoRA adapters; 0 trains the weights themselves."})
    lora_alpha: float | None = field(default=None, metadata={"help": "Scale of LoRA. Default: 2 x rank."})
    lora_dropout: float = field(default=0.0, metadata={"help": "Dropout on the input of LoRA adapters."})
    lora_target: str = field(
        default="language",
        metadata={"help": "Where adapters go: language, projector, vision, some with '+', or a regular expression."},
    )
    lora_4bit: bool = field(
        default=False, metadata={"help": "QLoRA: store the frozen base in four bits. Needs bitsandbytes."}
    )
    gpu_memory_gb: float | None = field(
        default=None,
        metadata={"help": "Memory of a GPU to fit into: for --plan on another machine. Default: that of those here."},
    )
    gpus: int = field(default=0, metadata={"help": "Processes to start on this machine. 0: one per visible GPU."})
    plan: bool = field(default=False, metadata={"help": "Print what the run would cost and stop. Loads no weights."})
    json: bool = field(default=False, metadata={"help": "Print the plan or the summary as JSON."})

    def __post_init__(self) -> None:
        """Check every value that does not need the model or the data. Raises UsageError."""
        if not self.model:
            raise UsageError("--model is missing: a named model (toy-vl, qwen2.5-vl-7b, ...), a directory or a Hub id")
        parse_frames(self.frames)
        parse_data(self.data)
        if self.freeze == ["none"]:
            self.freeze = []
        check_groups(self.freeze, setting="--freeze")
        if not 0 <= self.max_skip_rate <= 1:
            raise UsageError(f"--max_skip_rate {self.max_skip_rate} is not in 0 to 1")
        if self.max_tokens is not None and self.max_tokens < 1:
            raise UsageError(f"--max_tokens {self.max_tokens} is not positive")
        for name in ("vision_learning_rate", "projector_learning_rate"):
            rate = getattr(self, name)
            if rate is not None and not 0 <= rate < float("inf"):
                raise UsageError(f"--{name} {rate} is not 0 or above; leave it out for --learning_rate")
        if self.streaming_shards < 1:
            raise UsageError(f"--streaming_shards {self.streaming_shards} is not positive")
        if self.lora_r < 0 or self.gpus < 0:
            raise UsageError("--lora_r and --gpus cannot be negative")
        if not 0 <= self.lora_dropout < 1:
            raise UsageError(f"--lora_dropout {self.lora_dropout} is not in 0 to 1 (below 1)")
        if self.lora_alpha is not None and not 0 < self.lora_alpha < float("inf"):
            raise UsageError(f"--lora_alpha {self.lora_alpha} is not above 0; leave it out for 2 x --lora_r")
        if self.gpu_memory_gb is not None and not 0 < self.gpu_memory_gb < float("inf"):
            raise UsageError(f"--gpu_memory_gb {self.gpu_memory_gb} is not above 0")
        if self.lora_4bit and not self.lora_r:
            raise UsageError(
                "--lora_4bit needs --lora_r: weights in four bits cannot be trained, adapters on them can"
            )
        if self.lora_r and self.freeze:
            raise UsageError("--freeze has no effect with --lora_r: adapters go where --lora_target says")
        for name, usual in (("lora_alpha", None), ("lora_dropout", 0.0), ("lora_target", "language")):
            if not self.lora_r and (value := getattr(self, name)) != usual:
                raise UsageError(f"--{name} {value} has no effect without --lora_r: add --lora_r 64, or leave it out")
        targets = self.lora_target.split("+")
        for group in ("vision", "projector"):
            adapted = group in targets or not set(targets) <= set(GROUPS)  # a regular expression may fit anything
            still = f"--lora_target {self.lora_target}" if self.lora_r and not adapted else ""
            if group in self.freeze:
                still = f"--freeze {' '.join(self.freeze)} (the recipe's, if not yours; --freeze none trains all)"
            if still and (rate := getattr(self, f"{group}_learning_rate")):
                raise UsageError(f"--{group}_learning_rate {rate} has no effect with {still}")


@dataclass
class TrainConfig(SFTConfig):  # type: ignore[misc]
    """SFTConfig with defaults for video: see the docs page for the list of those that differ."""

    output_dir: str | None = field(
        default=None, metadata={"help": "Where the checkpoint goes. Default: runs/<model>-<frames>."}
    )
    per_device_train_batch_size: int = field(default=1, metadata={"help": "Samples per device and forward pass."})
    tokens_per_batch: int = field(
        default=0,
        metadata={
            "help": "Cut each step into forward passes of at most so many tokens, of samples that are about equally "
            "long. The samples of a step, per_device_train_batch_size x gradient_accumulation_steps x processes, "
            "stay the same. 0: per_device_train_batch_size samples each, whatever their lengths."
        },
    )
    pack: bool = field(
        default=False,
        metadata={
            "help": "Lay the samples of a forward pass end to end in one row instead of padding them (Qwen families; "
            "needs --tokens_per_batch). Same result; pays where attention can skip what is masked (flash_attention_2)."
        },
    )
    eval_tasks: str = field(
        default="",
        metadata={"help": "Score every checkpoint on these benchmarks, as `vtrap_bench run --tasks` has them."},
    )
    eval_frames: str = field(
        default="", metadata={"help": "Frames per video when scoring. Default: those of training."}
    )
    eval_args: str = field(
        default="",
        metadata={"help": 'More arguments for `vtrap_bench run`, such as "--limit 500 --benchmarks DIR".'},
    )
    max_length: int | None = field(default=None, metadata={"help": "Not used: nothing is cut. See --max_tokens."})
    remove_unused_columns: bool = field(default=False, metadata={"help": "Must stay off."})
    gradient_checkpointing: bool | None = field(
        default=None, metadata={"help": "Recompute activations to save memory. Default: on with a GPU."}
    )
    activation_checkpointing: bool | None = field(
        default=None, metadata={"help": "The new name of --gradient_checkpointing."}
    )
    deepspeed: dict[str, Any] | str | None = field(
        default=None,
        metadata={
            "help": f"A preset ({', '.join(PRESETS)}), a DeepSpeed configuration file, or {NONE}. Default: {AUTO}, "
            "the lightest that fits the GPUs."
        },
    )
    dataloader_pin_memory: bool = field(default=True, metadata={"help": "Faster copies to a GPU."})
    dataloader_num_workers: int = field(
        default=-1, metadata={"help": "Processes that decode and encode. -1: none on a CPU, up to 8 per GPU."}
    )
    save_total_limit: int | None = field(default=2, metadata={"help": "Checkpoints kept for resuming."})
    report_to: str = field(default="none", metadata={"help": "Tracker: none, trackio, wandb, tensorboard, ..."})
    logging_nan_inf_filter: bool = field(default=False, metadata={"help": "Hide NaN losses from the log."})
    share: InitVar[Callable[[TrainConfig], Sharding] | None] = None

    def __post_init__(self, share: Callable[[TrainConfig], Sharding] | None) -> None:
        """Fill in what depends on the machine. Raises UsageError for settings that cannot work here.

        Args:
            share: Decides about DeepSpeed, once everything that it looks at is known.
        """
        for name, wanted, why in (
            ("max_length", None, "vision tokens are never truncated; --max_tokens sets a ceiling"),
            ("packing", False, "samples carry pixels; --tokens_per_batch N --pack packs them"),
            ("padding_free", False, "samples carry pixels; --tokens_per_batch N --pack packs them"),
            ("assistant_only_loss", False, "the loss is on assistant turns already"),
            ("remove_unused_columns", False, "the collator needs the row numbers"),
            ("save_only_model", False, "such a checkpoint cannot be resumed from"),
            ("hub_token", None, "it would show in the list of processes; use `hf auth login` or HF_TOKEN"),
            ("resume_from_checkpoint", None, "a run goes on from the last checkpoint in its --output_dir by itself"),
            ("hub_revision", None, "the model goes to the default branch, checkpoint-N to a revision of that name"),
            ("completion_only_loss", None, "the loss is on assistant turns"),
            ("model_init_kwargs", None, "--dtype and --attn_implementation say how the model is loaded"),
            ("chat_template_path", None, "what is learned of a conversation follows from the model's own template"),
            ("eos_token", None, "an answer ends as in the model's own template"),
            ("pad_token", None, "padding is masked, and made of the model's own token"),
            ("eval_on_start", False, "--eval_tasks scores the model before training, too"),
            ("ignore_data_skip", False, "it would see samples again; going on opens none that was seen anyway"),
            ("auto_find_batch_size", False, "steps would change on the way; --tokens_per_batch bounds a forward pass"),
        ):
            if getattr(self, name) != wanted:
                shown = "" if name == "hub_token" else f" {getattr(self, name)}"
                raise UsageError(f"--{name}{shown} is not possible: {why}")
        for name in ("per_device_train_batch_size", "gradient_accumulation_steps"):
            if getattr(self, name) < 1:
                raise UsageError(f"--{name} {getattr(self, name)} is not positive")
        if self.max_steps <= 0 and self.num_train_epochs <= 0:
            raise UsageError(
                f"neither --num_train_epochs {self.num_train_epochs} nor --max_steps {self.max_steps} is positive"
            )
        for name in ("learning_rate", "weight_decay"):
            if not 0 <= getattr(self, name) < float("inf"):
                raise UsageError(f"--{name} {getattr(self, name)} is not 0 or above")
        for name in ("seed", "data_seed"):
            if not 0 <= (getattr(self, name) or 0) < 2**32:
                raise UsageError(f"--{name} {getattr(self, name)} is not in 0 to {2**32 - 1}")
        try:
            shlex.split(self.eval_args)
        except ValueError as error:
            raise UsageError(f"--eval_args {self.eval_args!r} is not what a shell takes: {error}") from error
        if self.save_strategy == "best":
            raise UsageError(
                "--save_strategy best is not possible: with steps or epoch, --load_best_model_at_end true keeps the "
                "best checkpoint"
            )
        # The Trainer would show readers every half-written state: publishing comes after the training.
        self.publish: bool = bool(self.push_to_hub)
        self.push_to_hub: bool = False
        if self.eval_strategy != "no":
            raise UsageError("--eval_strategy is not possible: --eval_tasks image,video scores every checkpoint")
        if self.eval_tasks and self.save_strategy == "no":
            raise UsageError("--eval_tasks scores checkpoints, and with --save_strategy no there are none")
        best = self.load_best_model_at_end
        if best and not self.eval_tasks:
            raise UsageError("--load_best_model_at_end needs scores to choose by: add --eval_tasks image,video")
        if best and self.save_strategy not in ("steps", "epoch"):
            raise UsageError(
                f"--load_best_model_at_end has nothing to choose from with --save_strategy {self.save_strategy}"
            )
        if best and self.metric_for_best_model is None:
            self.metric_for_best_model: str | None = "mean"
        self.load_best_model_at_end: bool = False  # the Trainer would ask for an evaluation of its own
        if self.tokens_per_batch < 0:
            raise UsageError(f"--tokens_per_batch {self.tokens_per_batch} is negative")
        asked: Any = self.report_to  # transformers has made a list of it by now
        trackers = [asked] if isinstance(asked, str) else asked or []
        for tracker in ("tensorboard", "trackio", "wandb"):
            if tracker in trackers and find_spec(tracker) is None:
                raise UsageError(f"--report_to {tracker}: it is not installed (pip install {tracker})")
        if self.pack and not self.tokens_per_batch:
            raise UsageError("--pack needs --tokens_per_batch N: how many tokens a packed row may have")
        if self.use_liger_kernel and find_spec("liger_kernel") is None:
            raise UsageError("--use_liger_kernel: it is not installed (pip install liger-kernel)")
        if self.tokens_per_batch:
            if self.dataloader_drop_last:
                raise UsageError("--dataloader_drop_last has no effect with --tokens_per_batch: leave one of them out")
            if self.train_sampling_strategy not in ("random", "sequential"):
                raise UsageError(
                    f"--tokens_per_batch groups samples by length itself: --train_sampling_strategy "
                    f"{self.train_sampling_strategy} must be random or sequential"
                )
            # The trainer's own batch is the whole step; what is run at once is decided inside of it.
            self.per_device_train_batch_size *= self.gradient_accumulation_steps
            self.gradient_accumulation_steps: int = 1
        self.use_cpu: bool = self.use_cpu or not torch.accelerator.is_available()
        # `sharding` reckons for GPUs elsewhere, too, where these would be on.
        self.left_to_machine = frozenset(
            name
            for name, value in (
                ("bf16", True if self.fp16 else self.bf16),
                (
                    "activation_checkpointing",
                    self.gradient_checkpointing if self.activation_checkpointing is None else True,
                ),
            )
            if value is None
        )
        if self.bf16 is None:
            self.bf16: bool = not self.use_cpu and not self.fp16 and bool(torch.cuda.is_bf16_supported())
        if self.activation_checkpointing is None:
            self.activation_checkpointing = (
                not self.use_cpu if self.gradient_checkpointing is None else self.gradient_checkpointing
            )
        if self.dataloader_num_workers < 0:
            local = int(os.environ.get("LOCAL_WORLD_SIZE", "1"))
            self.dataloader_num_workers = 0 if self.use_cpu else min(8, len(os.sched_getaffinity(0)) // local)
        if not self.dataloader_num_workers:
            self.dataloader_persistent_workers: bool = False
        self.dataloader_pin_memory = self.dataloader_pin_memory and not self.use_cpu
        if self.activation_offloading and self.use_cpu:
            raise UsageError("--activation_offloading moves activations off a GPU, and none is used: leave it out")
        self.dataset_kwargs = {"skip_prepare_dataset": True}  # our collator makes the tensors
        if isinstance(self.deepspeed, str):
            self.deepspeed = str(preset(self.deepspeed))
        self.sharding = UNSHARDED
        if share is not None:
            self.sharding = share(self)
            self.deepspeed = None if self.sharding.file is None else str(self.sharding.file)
        if self.use_cpu and self.deepspeed:
            import deepspeed

            # Plain gloo; the alternative is compiled on first use, which takes a compiler and most of a minute.
            deepspeed.ops.__compatible_ops__["deepspeed_shm_comm"] = False
        if self.use_cpu and int(os.environ.get("WORLD_SIZE", "1")) > 1:
            self._cpu_backend()
        super().__post_init__()
        self.load_best_model_at_end = best

    def _cpu_backend(self) -> None:
        # Without a GPU accelerate picks no backend for DeepSpeed and stays in one process, whatever ddp_backend says.
        if self.deepspeed:
            from accelerate import PartialState

            os.environ["ACCELERATE_USE_DEEPSPEED"] = "true"
            PartialState(backend="gloo")
            self.accelerator_config = {"use_configured_state": True}
        else:
            self.ddp_backend = "gloo"


class Parsed(NamedTuple):
    """What a command line means.

    Attributes:
        arguments: Of vtrap.
        config: Of TRL's trainer.
        deepspeed: What is asked for, on the command line or in a YAML file: see `sharding.decide`. It is set up in
            processes that were launched only.
        recipe: Name of the model whose recipe was taken.
    """

    arguments: VtrapArguments
    config: TrainConfig
    deepspeed: str | None = None
    recipe: str | None = None


class _Parser(Parser, TrlParser):  # type: ignore[misc]
    def __init__(self, kinds: Sequence[type], **settings: Any) -> None:
        super().__init__(kinds, **settings)  # type: ignore[arg-type]  # TrlParser's, which has no types


class _Formatter(argparse.ArgumentDefaultsHelpFormatter, argparse.RawDescriptionHelpFormatter):
    pass


class _Peek(Parser):
    """Finds the flags that decide about the rest."""

    def __init__(self) -> None:
        super().__init__(add_help=False, allow_abbrev=False)
        self.add_argument("--model")
        self.add_argument("--config")
        self.add_argument("--deepspeed")
        self.add_argument("--lora_r", "--lora-r")


def flags() -> Any:
    """The parser of everything that can be set (TRL's, which has no types)."""
    parser = _Parser(
        (VtrapArguments, TrainConfig),
        prog="python -m vtrap_train",
        usage=USAGE,
        description="Fine-tune a vision-language model on packed video, images and text, with TRL's SFTTrainer.",
        epilog=EPILOG,
        formatter_class=_Formatter,
        allow_abbrev=False,
    )
    parser.add_argument("--config", default=None, metavar="FILE", help=CONFIG_HELP)
    return parser


def parse(argv: Sequence[str], *, launched: bool = False) -> Parsed:
    """Turn a command line into settings.

    Args:
        argv: Without the program name.
        launched: Whether this process was started by torchrun or the like. Where it was not, DeepSpeed cannot be set
            up.

    Raises:
        UsageError: For anything wrong in the command line, a recipe or a value.
    """
    parser = flags()
    peek, rest = _Peek().parse_known_args(list(argv))
    given: dict[str, Any] = {}
    for part in (peek.config or "").split(","):
        if part:
            given = _over(given, read_settings(SETUPS.get(part, Path(part)), parser))
    entry = named(str(peek.model or given.get("model", "")))
    recipe = entry.name if entry is not None and entry.name in RECIPES else None
    settings = {} if recipe is None else read_settings(RECIPES[recipe], parser)
    words = [*rest, *(["--model", peek.model] if peek.model is not None else [])]
    words += ["--lora_r", peek.lora_r] if peek.lora_r is not None else []
    if str(given.get("lora_r", 0) if peek.lora_r is None else peek.lora_r) != "0":
        settings.pop("freeze", None)  # recipes freeze for training the weights themselves; adapters have a target
    asked = [peek.deepspeed, given.pop("deepspeed", None), settings.pop("deepspeed", None)]
    deepspeed = next((str(word) for word in asked if word is not None), None)
    if deepspeed is not None and deepspeed not in (AUTO, NONE):
        preset(deepspeed)
    typed = {word.partition("=")[0][2:].replace("-", "_"): None for word in rest if word.startswith("--")}
    settings = _over(_over(settings, given), typed)
    parser.set_defaults_with_config(**{k: v for k, v in settings.items() if k not in typed})
    try:
        found = vars(parser.parse_args(words))
        arguments = VtrapArguments(**_of(VtrapArguments, found))
        share = partial(decide, deepspeed, arguments, processes=int(os.environ.get("WORLD_SIZE", "1")))
        config = TrainConfig(**_of(TrainConfig, found), share=share if launched else None)
    except (ValueError, TypeError, ImportError) as error:
        raise UsageError(str(error)) from error
    if not found["output_dir"]:
        config.output_dir = str(Path("runs") / f"{Path(arguments.model).name}-{arguments.frames}")
    return Parsed(arguments=arguments, config=config, deepspeed=deepspeed, recipe=recipe)


# Beside the setting on the left, the one on the right would not count.
_HIDES = {
    "max_steps": "num_train_epochs",
    "activation_checkpointing": "gradient_checkpointing",
    "activation_checkpointing_kwargs": "gradient_checkpointing_kwargs",
}


def _over(weak: Mapping[str, Any], strong: Mapping[str, Any]) -> dict[str, Any]:
    """Settings, of which the stronger win; also over a weaker one that would hide them (epochs over steps)."""
    return {**{k: v for k, v in weak.items() if _HIDES.get(k) not in strong}, **strong}


def _of(kind: type, found: Mapping[str, Any]) -> dict[str, Any]:
    return {f.name: found[f.name] for f in fields(kind) if f.init}


def origin(*, recipe: str | None, revision: str | None) -> str:
    """Which settings and weights a model comes with, for people.

    >>> origin(recipe="qwen2.5-vl-7b", revision="cc59489813"), origin(recipe=None, revision=None)
    ('recipe qwen2.5-vl-7b, revision cc59489813', 'no recipe')
    """
    return (f"recipe {recipe}" if recipe else "no recipe") + (f", revision {revision}" if revision else "")


def mixture_of(parsed: Parsed) -> Mixture:
    """The samples of `--data` as `--frames`, `--turns` and `--streaming` want them. Raises UsageError."""
    arguments, config = parsed.arguments, parsed.config
    streaming = None
    if arguments.streaming:
        if config.train_sampling_strategy not in ("random", "sequential"):
            raise UsageError(
                f"--streaming shuffles by itself: --train_sampling_strategy {config.train_sampling_strategy} must be "
                "random or sequential; --tokens_per_batch groups samples by length"
            )
        streaming = Streaming(
            shards=arguments.streaming_shards,
            cache=Path(arguments.streaming_cache) if arguments.streaming_cache else home() / "streaming",
            shuffle=config.train_sampling_strategy == "random",
            seed=config.seed if config.data_seed is None else config.data_seed,
        )
    return Mixture(
        parse_data(arguments.data),
        frames=parse_frames(arguments.frames),
        seed=config.seed,
        turns=arguments.turns,
        streaming=streaming,
    )


def read_settings(path: Path, parser: argparse.ArgumentParser) -> dict[str, Any]:
    """Read a recipe.

    Args:
        path: Of a YAML file.
        parser: From `flags`. What a flag would not take, a setting does not take either.

    Raises:
        UsageError: It is no YAML mapping, or sets something unknown or to a value that cannot be.
    """
    where = f"--config {str(path)!r}"
    try:
        settings = parse_yaml(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise UsageError(f"{where} cannot be read: {error}{nearest(str(path), SETUPS)}") from error
    if not isinstance(settings, dict):
        raise UsageError(f"{where} is no mapping of settings to values")
    known = {action.dest: action for action in parser._actions if action.dest not in ("config", "help")}
    if unknown := sorted(str(k) for k in settings if k not in known):
        raise UsageError(f"{where} sets what does not exist: {', '.join(unknown)}{nearest(unknown[0], known)}")
    hints = get_type_hints(VtrapArguments) | get_type_hints(TrainConfig)
    found = {}
    for name, value in settings.items():
        try:
            found[name] = _as_flag(parser, name, value, hint=hints[name], several=known[name].nargs == "+")
        except UsageError as error:
            raise UsageError(f"{where} sets {name} to {value!r}: {error}") from error
    return found


def _as_flag(parser: argparse.ArgumentParser, name: str, value: Any, *, hint: Any, several: bool) -> Any:
    """What a flag of that value would set."""
    kinds = {get_origin(kind) or kind for kind in (get_args(hint) or (hint,))} | {get_origin(hint)}
    if type(value) in kinds & {type(None), bool, dict} or (value == [] and list in kinds):
        return value
    if isinstance(value, list) and list in kinds and not several:
        return value
    values = value if isinstance(value, list) and several else [value]
    if not all(type(one) in (str, int, float, date) for one in values):
        what = "put it in quotes" if isinstance(value, bool) else "one value is wanted"
        raise UsageError(f"it is not of a type that --{name} takes; {what}")
    words = [f"--{name}", *map(str, values)] if len(values) > 1 else [f"--{name}={values[0]}"]
    return getattr(parser.parse_args(words), name)


# Settings that change neither the trained weights nor their meaning: a run may go on with others.
_FREE = frozenset(
    """
    output_dir disable_tqdm report_to run_name project trackio_space_id push_to_hub local_rank ddp_backend ddp_timeout
    logging_dir logging_steps logging_strategy logging_first_step logging_nan_inf_filter
    log_level log_level_replica log_on_each_node save_total_limit save_strategy save_steps save_on_each_node
    dataloader_num_workers dataloader_prefetch_factor dataloader_pin_memory dataloader_persistent_workers
    hub_token hub_model_id hub_strategy hub_private_repo hub_always_push hub_revision
    accelerator_config do_train do_eval do_predict resume_from_checkpoint use_cpu skip_memory_metrics
    json plan gpus gpu_memory_gb max_skip_rate eval_tasks eval_frames eval_args streaming_cache
    """.split()  # noqa: SIM905
)


CHOICE = frozenset({"load_best_model_at_end", "metric_for_best_model", "greater_is_better"})
"""Settings that only choose among the checkpoints: they may change until that is done."""


def settings_of(parsed: Parsed, *, world_size: int, data: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """Everything that decides the result, as JSON: what a resumed run must have in common with the first part."""
    config = parsed.config.to_dict()
    names = {f.name for f in fields(parsed.config)}
    settings = {k: v for k, v in config.items() if k in names and k not in _FREE}
    settings |= {k: v for k, v in asdict(parsed.arguments).items() if k not in _FREE}
    if not parsed.arguments.streaming:  # then it says nothing, and runs that were begun before it existed go on
        settings = {k: v for k, v in settings.items() if not k.startswith("streaming")}
    if isinstance(settings.get("deepspeed"), str):
        settings["deepspeed"] = parse_json(Path(settings["deepspeed"]).read_text(encoding="utf-8"))
    settings |= {"world_size": world_size, "data": list(data)}
    plain: dict[str, Any] = json.loads(json.dumps(settings, default=str, sort_keys=True))
    return plain


def settings_hash(settings: dict[str, Any]) -> str:
    """Short hash of `settings_of`."""
    return hashlib.sha256(json.dumps(settings, sort_keys=True).encode()).hexdigest()[:16]
