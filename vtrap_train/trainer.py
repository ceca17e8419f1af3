"""What does vtrap change about TRL's SFTTrainer? Resuming, saving, what is logged, and skipping bad samples."""

from __future__ import annotations

import contextlib
import json
import math
import random
import shutil
import sys
import time
from collections.abc import Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any, NamedTuple, cast

import numpy as np
import torch
from accelerate.utils import DistributedDataParallelKwargs, gather_object
from numpy.typing import NDArray
from safetensors import SafetensorError
from tqdm import tqdm
from transformers import PreTrainedModel, TrainerCallback
from transformers.trainer_callback import PrinterCallback, ProgressCallback
from transformers.trainer_pt_utils import get_length_grouped_indices
from trl import SFTTrainer

from vtrap_data.errors import UnreachableError, VtrapError, storage_full
from vtrap_data.trained import PREPROCESSING
from vtrap_train.batches import MICRO, Numbers, Order, RowSampler, StepLoader, StepSampler
from vtrap_train.collate import FACTS
from vtrap_train.command_line import refused_by_library
from vtrap_train.groups import Group, optimizer_groups
from vtrap_train.ledger import Lines, Skip, allowance, enforce, write_text
from vtrap_train.steps import steps
from vtrap_train.totals import COUNTS, Totals

PROGRESS = "progress.json"
SKIPPED = COUNTS.index("skipped") - len(COUNTS)


class VideoSFTTrainer(SFTTrainer):  # type: ignore[misc]
    """SFTTrainer for batches of `VideoCollator`.

    Args:
        sources: As given to the collator.
        rates: Peak learning rate per module group.
        preprocessing: The preprocessing manifest, saved with every checkpoint.
        max_skip_rate: Share of the planned samples that may be skipped.
        lengths: int [rows]: tokens of every row; needed with `--tokens_per_batch`.
        order: int64 [rows] for an epoch: that of a stream. None: Trainer's own.
        **kwargs: As for SFTTrainer.
    """

    optimizer: Any

    def __init__(
        self,
        *,
        sources: Sequence[str],
        rates: Mapping[Group, float],
        preprocessing: Mapping[str, Any],
        max_skip_rate: float,
        lengths: Any = None,
        order: Order | None = None,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        if kwargs.get("peft_config") is not None and getattr(self.model, "is_loaded_in_4bit", False):
            # SFTTrainer makes adapters bfloat16 then, which small steps do not move, and a resumed run would have them
            # in 32 bits, as PEFT does. Otherwise it decides by itself: ZeRO-3 fails on a mixture of both.
            for parameter in self.model.parameters():
                if parameter.requires_grad:
                    parameter.data = parameter.data.float()
        self.order = order
        self.lengths = lengths
        # SFTTrainer divides by the tokens of the whole step itself. Qwen2.5-VL declares that its own loss would not,
        # and Trainer then stops counting them: accumulated and multi-process steps would be weighted by micro-batch.
        self.model_accepts_loss_kwargs = True
        self.rates = dict(rates)
        self.preprocessing = dict(preprocessing)
        self.max_skip_rate = max_skip_rate
        out = Path(self.args.output_dir)
        self.skips = Lines(out / "skipped.jsonl")
        self.losses = Lines(out / "loss.jsonl")
        self._before = Totals.zeros(sources)  # of the whole run, up to the checkpoint it was resumed from
        self._here = Totals.zeros(sources, self.args.device)  # of this process since then
        self._logged = Totals.zeros(sources)
        self._window: dict[str, Any] | None = None  # of the checkpoint it was resumed from: see `_log_window`
        self._whole: _Whole | None = None
        self._seconds_before = 0.0
        self._started = time.monotonic()
        self.remove_callback(ProgressCallback)
        self.remove_callback(PrinterCallback)
        if not self.is_deepspeed_enabled:
            self.add_callback(ZeroGradients())
        self.add_callback(AsAsked())
        self.add_callback(CleanProgress(bar=not self.args.disable_tqdm))

    # What was trained on.

    def totals(self) -> Totals:
        """Totals over all ranks and over the parts of a resumed run. A collective: every rank must call it."""
        everywhere = self.accelerator.reduce(self._here.vector.clone(), reduction="sum").cpu()
        return Totals(self._before.sources, self._before.vector + everywhere)

    @property
    def seconds(self) -> float:
        """Time spent training, over the parts of a resumed run."""
        return self._seconds_before + time.monotonic() - self._started

    @cached_property
    def planned(self) -> int:
        """Samples that the whole run was meant to see: as many as `--plan` says."""
        return steps(self.args, rows=len(self.train_dataset), processes=self.args.world_size).samples

    def _build_accelerator_args(self, **kwargs: Any) -> dict[str, Any]:
        args: dict[str, Any] = super()._build_accelerator_args(**kwargs)
        for handler in args["kwargs_handlers"]:
            if isinstance(handler, DistributedDataParallelKwargs):
                handler.gradient_as_bucket_view = True  # or DDP keeps every gradient twice
        return args

    # Batches by tokens.

    def get_train_dataloader(self) -> Any:
        """As in Trainer, by the numbers of rows alone; with `--tokens_per_batch` a loader of whole steps."""
        if not self.args.tokens_per_batch:
            # Trainer would look each row up in its table, which takes longer than all else but decoding frames.
            return self._get_dataloader(
                Numbers(len(self.train_dataset)),
                description="Training",
                batch_size=self._train_batch_size,
                sampler_fn=lambda _: self._get_train_sampler(),
                is_training=True,
            )
        sampler = StepSampler(
            self.lengths,
            per_step=self.args.train_batch_size * self.args.world_size,
            tokens=self.args.tokens_per_batch,
            seed=self.args.data_seed,
            shuffle=self.args.train_sampling_strategy == "random",
            world_size=self.args.world_size,
            rank=self.args.process_index,
            packed=self.args.pack,
            order=self.order,
        )
        return StepLoader(
            sampler,
            self.data_collator,
            workers=self.args.dataloader_num_workers,
            pin_memory=self.args.dataloader_pin_memory,
            prefetch=self.args.dataloader_prefetch_factor,
            persistent=self.args.dataloader_persistent_workers,
        )

    def _get_train_sampler(self, train_dataset: Any = None) -> Any:
        order = self.order
        if order is None and self.args.train_sampling_strategy == "group_by_length":
            order = self._by_length
        if order is None:
            return super()._get_train_sampler(train_dataset)
        return RowSampler(order, rows=len(self.train_dataset))

    def _by_length(self, epoch: int) -> NDArray[np.int64]:
        """int64 [rows]: as Trainer groups them, but by seed and epoch alone.

        It draws from the generator that dropout draws from, too, and a resumed run would come to another order.
        """
        batch = self.args.train_batch_size * self.args.gradient_accumulation_steps
        generator = torch.Generator().manual_seed(self.args.data_seed + epoch)
        return np.asarray(get_length_grouped_indices(self.train_dataset["length"][:], batch, generator=generator))

    def _get_num_items_in_batch(self, batch_samples: list[Any], device: torch.device) -> Any:
        batches = [batch for step in batch_samples for batch in step.get(MICRO, [step])]
        return super()._get_num_items_in_batch(batches, device)

    def training_step(self, model: Any, inputs: dict[str, Any], num_items_in_batch: Any = None) -> torch.Tensor:
        """As in SFTTrainer, for every batch of a step; ranks exchange gradients after the last one."""
        if MICRO not in inputs:
            loss: torch.Tensor = super().training_step(model, inputs, num_items_in_batch)
            return loss
        losses = []
        for left, batch in zip(range(len(inputs[MICRO]) - 1, -1, -1), inputs[MICRO], strict=True):
            self.accelerator.gradient_state._set_sync_gradients(left == 0)
            wait = left > 0 and not self.is_deepspeed_enabled  # DeepSpeed goes by the flag
            with self.accelerator.no_sync(model) if wait else contextlib.nullcontext():
                losses.append(super().training_step(model, batch, num_items_in_batch))
        return torch.stack(losses).sum()

    def floating_point_ops(self, inputs: dict[str, Any]) -> int:
        """As in Trainer."""
        return sum(super(VideoSFTTrainer, self).floating_point_ops(batch) for batch in inputs.get(MICRO, [inputs]))

    def compute_loss(
        self, model: Any, inputs: dict[str, Any], return_outputs: bool = False, num_items_in_batch: Any = None
    ) -> Any:
        """SFTTrainer's loss; on the way, sum it up by source and modality and note skipped samples."""
        facts = inputs.pop(FACTS)
        keep = _Keep(model)
        result = super().compute_loss(
            keep, inputs, return_outputs=return_outputs, num_items_in_batch=num_items_in_batch
        )
        if self.model.training:
            outputs = keep.fused
            self._here.add(
                facts,
                loss=per_row(-outputs.log_probs.detach(), facts["packed"]),
                tokens=per_row(outputs.label_mask, facts["packed"]),
            )
            self.skips.append({"step": self.state.global_step + 1, **skip} for skip in facts["skips"])
            self._check(result[0] if return_outputs else result, facts)
        return result

    def _check(self, loss: torch.Tensor, facts: Mapping[str, Any]) -> None:
        """Stop, on every rank together and before anything is changed, if there is reason to."""
        lost = loss.new_tensor(facts["unreachable"] is not None, dtype=torch.float64)
        mine = torch.stack([(~torch.isfinite(loss.detach())).double().sum(), self._here.vector[SKIPPED], lost])
        broken, skipped, unreachable = self.accelerator.reduce(mine, reduction="sum").tolist()
        known = self._before.skipped + int(skipped)
        last = None
        if known > allowance(self.planned, self.max_skip_rate):
            # Who skipped something has written it down by now; whether it can be seen from another node is its disk's.
            last = next(reversed(self.skips.read()), None)
        enforce(known, planned=self.planned, rate=self.max_skip_rate, last=cast("Skip | None", last))
        if unreachable:
            why = [reason for reason in gather_object([facts["unreachable"]]) if reason]
            raise UnreachableError(f"{why[0]}.")
        if broken:
            own = (float(loss.detach()), facts["ids"][:8])
            # Only the first rank says it, and it may be another one's.
            value, items = next(f for f in gather_object([own]) if not math.isfinite(f[0]))
            raise NotFiniteError(
                f"the loss of step {self.state.global_step + 1} is {value} (items: {', '.join(items)}). Usual "
                "causes: a learning rate that is too high (--learning_rate), too little warm-up (--warmup_steps), "
                "fp16 instead of bf16."
            )

    def _log_window(self) -> dict[str, Any]:
        """What the next log line sums up so far, as JSON. A collective: every rank must call it."""
        return {
            "totals": self._logged.to_json(),
            "step": self._globalstep_last_logged,
            "loss": self.accelerator.gather(self._tr_loss[None]).tolist(),  # of each rank
            "metrics": self._metrics["train"],
        }

    def _run_epoch(self, **kwargs: Any) -> None:
        if self._window is not None:  # Trainer would begin a new one, with the steps since the checkpoint only
            self._tr_loss.fill_(self._window["loss"][self.args.process_index])
            self._globalstep_last_logged: int = self._window["step"]
            self._metrics["train"].update(self._window["metrics"])
            self._window = None
        # Trainer looks only after a step whether it was the last: a run that was killed between its last checkpoint
        # and its end, in the middle of an epoch, would take one more.
        if self.state.global_step < self.state.max_steps:
            super()._run_epoch(**kwargs)
        else:
            self.control.should_training_stop = True

    def _maybe_log_save_evaluate(self, *args: Any, **kwargs: Any) -> None:
        super()._maybe_log_save_evaluate(*args, **kwargs)
        self._whole = _Whole(
            self.state.global_step,
            self._here.vector.clone(),
            self._total_train_tokens,
            self.current_flos,
            self._tr_loss.clone(),
            {name: list(values) for name, values in self._metrics["train"].items()},
            _random_numbers(),
        )

    def _get_grad_norm(self, model: Any, grad_norm: Any = None) -> Any:
        norm = super()._get_grad_norm(model, grad_norm=grad_norm)  # the one of clipping, or without that its own
        # Under fp16 a scale of losses that is too high does that: the step is left out, and the scale lowered.
        if not self.args.fp16 and norm is not None and not math.isfinite(float(norm)):
            # The same on every rank: gradients have been averaged. The weights have not been touched: DeepSpeed leaves
            # such a step out, and would do so in silence.
            raise NotFiniteError(
                f"the gradient of step {self.state.global_step + 1} is {float(norm)} although its loss is finite: "
                "lower --learning_rate, or train in float32."
            )
        return norm

    def log(self, logs: dict[str, float], start_time: float | None = None) -> None:
        """Add the losses by source and modality of the steps since the last log, and write loss.jsonl."""
        training = "loss" in logs and self.model.training
        if training:
            totals = self.totals()
            window = totals - self._logged
            for kind, sums in (("source", window.by_source()), ("modality", window.by_kind())):
                logs |= {f"loss/{kind}/{n}": s.mean_loss for n, s in sums.items() if s.mean_loss is not None}
            logs["samples"] = totals.whole().samples
            logs |= {f"share/{n}": s.samples / max(1.0, logs["samples"]) for n, s in totals.by_source().items()}
            logs["visual_tokens"] = totals.visual_tokens
            logs["skipped"] = totals.skipped
            logs["padding"] = window.padding
            self._logged = totals
            self._metrics["train"]["num_tokens"] = [totals.tokens]  # SFTTrainer's own count knows no packed rows
        super().log(logs, start_time)
        if training and self.is_world_process_zero():
            self.losses.append([{"step": self.state.global_step, **logs}])

    def log_scores(self, scores: dict[str, float]) -> None:
        """Pass benchmark scores to the trackers, leaving the losses that SFTTrainer is averaging alone."""
        super(SFTTrainer, self).log(dict(scores))

    # Optimiser: one learning rate per module group.

    def create_optimizer(self, model: Any = None) -> torch.optim.Optimizer:
        """As in Trainer, with a learning rate per module group. Raises UsageError for settings that it cannot have."""
        with refused_by_library():
            if self.optimizer is None and len(set(self.rates.values())) > 1:
                target = self.model if model is None else model
                decayed = set(self.get_decay_parameter_names(target))
                cls, kwargs = self.get_optimizer_cls_and_kwargs(self.args, target)
                groups = list(
                    optimizer_groups(target, decayed=decayed, weight_decay=self.args.weight_decay, rates=self.rates)
                )
                self.optimizer = cls(groups, **kwargs)
            optimizer: torch.optim.Optimizer = super().create_optimizer(model)
        return optimizer

    def create_scheduler(self, *args: Any, **kwargs: Any) -> Any:
        """As in Trainer. Raises UsageError for settings that it cannot have."""
        with refused_by_library():
            return super().create_scheduler(*args, **kwargs)

    # Checkpoints.

    def save_progress(self) -> Path | None:
        """Save a checkpoint of the last whole step, unless there is one or the weights are no numbers any more.

        Every rank must call it.

        Returns:
            The newest complete checkpoint, if any.
        """
        folder = Path(self.args.output_dir) / f"checkpoint-{self.state.global_step}"
        # Under ZeRO-3 each rank holds a part of each parameter.
        mine = (getattr(p, "ds_tensor", p) for p in self.model.parameters())
        bad = torch.tensor(float(not all(bool(torch.isfinite(p).all()) for p in mine)), device=self.args.device)
        if not self.state.global_step or self.accelerator.reduce(bad, reduction="sum").item():
            return last_checkpoint(folder.parent)
        if self._whole is not None and self._whole.step == self.state.global_step:
            _, self._here.vector, self._total_train_tokens, self.current_flos, loss, metrics, numbers = self._whole
            self._tr_loss.copy_(loss)
            self._metrics["train"].clear()
            self._metrics["train"].update(metrics)
            _go_back_to(numbers)  # or whoever goes on would draw other dropout masks
        if not complete(folder):
            self._save_checkpoint(self.model_wrapped, None)
        return folder

    def _save_checkpoint(self, model: Any, trial: Any) -> None:
        try:
            self._write_checkpoint(model, trial)
        except (OSError, RuntimeError, SafetensorError) as error:
            if not storage_failed(error):
                raise
            folder = Path(self.args.output_dir) / f"checkpoint-{self.state.global_step}"
            if self.args.should_save:
                shutil.rmtree(folder, ignore_errors=True)  # half of it; what is left may be needed to go on
            last = last_checkpoint(folder.parent)
            raise StorageError(
                f"{folder} could not be written ({' '.join(str(error).split())[:200]}): "
                f"{shutil.disk_usage(folder.parent).free / 1e9:.1f} GB are free there. Make room (or lower "
                "--save_total_limit) and give the same command again: it goes on from "
                f"{last.name if last else 'the start'}"
            ) from error

    def _write_checkpoint(self, model: Any, trial: Any) -> None:
        totals, window = self.totals(), self._log_window()
        folder = Path(self.args.output_dir) / f"checkpoint-{self.state.global_step}"
        if self.args.should_save:
            folder.mkdir(parents=True, exist_ok=True)
            progress = {
                **totals.to_json(),
                "step": self.state.global_step,
                "seconds": self.seconds,
                "tokens": self._total_train_tokens,
                "world_size": self.args.world_size,
                "window": window,
            }
            write_text(folder / PROGRESS, json.dumps(progress))
        super()._save_checkpoint(model, trial)

    def create_model_card(self, *_: Any, **__: Any) -> None:
        """Nothing: the card is rendered on publishing, from the results."""

    def _save(self, output_dir: str | None = None, state_dict: dict[str, Any] | None = None) -> None:
        folder = Path(output_dir or self.args.output_dir)
        model = self.accelerator.unwrap_model(self.model)
        if state_dict is not None and isinstance(model, PreTrainedModel):
            state_dict = _untied(model, state_dict)
            if self.is_deepspeed_enabled:
                # Loading under ZeRO-3 notes renamings that were not used; undone on saving, they spoil the names.
                # Without a note transformers takes those that belong to the model.
                model._weight_conversions = None
        super()._save(str(folder), state_dict=state_dict)
        if not self.args.should_save:
            return
        write_text(folder / PREPROCESSING, json.dumps(self.preprocessing, indent=2, sort_keys=True) + "\n")
        # A pickle that nothing here reads; published, it would only set off scanners.
        (folder / "training_args.bin").unlink(missing_ok=True)
        for file in folder.glob("*.safetensors"):
            file.chmod(0o644)  # safetensors makes it 0600; whoever serves the model may be somebody else

    def resume(self, checkpoint: Path | None) -> None:
        """Continue counting where the checkpoint stopped; None: from nothing. Call before `train`."""
        step = 0
        if checkpoint is not None:
            progress = json.loads((checkpoint / PROGRESS).read_text(encoding="utf-8"))
            self._before = self._logged = Totals.from_json(progress)
            if (window := progress.get("window")) is not None:
                self._window, self._logged = window, Totals.from_json(window["totals"])
            self._seconds_before = progress["seconds"]
            self._total_train_tokens = progress["tokens"]
            step = progress["step"]
        if self.is_world_process_zero():
            self.skips.rewind(step)
            self.losses.rewind(step)

    def _load_from_checkpoint(self, resume_from_checkpoint: str, model: Any = None) -> None:
        target = self.model if model is None else model
        if isinstance(target, PreTrainedModel) and not self.is_fsdp_enabled:
            load_weights(target, Path(resume_from_checkpoint))
        else:
            super()._load_from_checkpoint(resume_from_checkpoint, model)

    def _load_best_model(self) -> None:
        if isinstance(self.model, PreTrainedModel) and not (self.is_deepspeed_enabled or self.is_fsdp_enabled):
            load_weights(self.model, Path(self.state.best_model_checkpoint))
        else:
            super()._load_best_model()


def per_row(values: torch.Tensor, packed: Sequence[int] | None) -> torch.Tensor:
    """Sums [samples] of what a batch has for each predicted token ([rows, length - 1]).

    Args:
        values: The first entry of a row belongs to its second token.
        packed: Length of each sample, where all share the one row; a dummy may follow them.
    """
    if packed is None:
        return values.sum(dim=1)
    row = torch.nn.functional.pad(values[0], (1, 0))
    rest = len(row) - sum(packed)
    sums = torch.stack([part.sum() for part in torch.split(row, [*packed, rest])])
    return sums[: len(packed)]


class _RandomNumbers(NamedTuple):
    """Where the generators of random numbers stand; `device`: that of the GPU, if there is one."""

    python: Any
    numpy: Any
    torch: torch.Tensor
    device: torch.Tensor | None


def _random_numbers() -> _RandomNumbers:
    device = torch.get_device_module().get_rng_state() if torch.accelerator.is_available() else None
    return _RandomNumbers(random.getstate(), np.random.get_state(), torch.get_rng_state(), device)


def _go_back_to(numbers: _RandomNumbers) -> None:
    random.setstate(numbers.python)
    np.random.set_state(numbers.numpy)
    torch.set_rng_state(numbers.torch)
    if numbers.device is not None:
        torch.get_device_module().set_rng_state(numbers.device)


class _Whole(NamedTuple):
    """What there was at the end of the last whole step: the one after it may not come to its end."""

    step: int
    totals: torch.Tensor
    tokens: int
    operations: float
    loss: torch.Tensor
    metrics: dict[str, list[float]]
    numbers: _RandomNumbers


class NotFiniteError(VtrapError):
    """Loss or gradients are no numbers any more."""


class StorageError(VtrapError):
    """A file could not be written: no space, or over a quota."""


_FULL = ("no space left", "file too large", "quota", "file write failed", "pytorchstreamwriter", "enforce fail")


def storage_failed(error: BaseException) -> bool:
    """Whether an error says that a disk is full (or a quota used up). Libraries wrap it, each in its own words."""
    return storage_full(error) or any(word in str(error).lower() for word in _FULL)


def load_weights(model: PreTrainedModel, checkpoint: Path) -> None:
    """Put the weights of a checkpoint into a model, every one of them.

    Checkpoints hold the Hub's names (visual.*), a model in memory has others (model.visual.*). `from_pretrained`
    translates; a plain `load_state_dict(strict=False)`, which Trainer does, silently restores nothing.

    Raises:
        RuntimeError: If a single parameter is missing, left over or of another shape.
    """
    kept = type(model).from_pretrained(checkpoint, dtype=model.dtype, use_safetensors=True)
    model.load_state_dict(kept.state_dict(), strict=True)


def complete(checkpoint: Path) -> bool:
    """Whether a checkpoint was written to its end: a crash may have come in between."""
    try:
        progress = json.loads((checkpoint / PROGRESS).read_text(encoding="utf-8"))
        json.loads((checkpoint / "trainer_state.json").read_text(encoding="utf-8"))
        return len(list(checkpoint.glob("rng_state*.pth"))) >= int(progress["world_size"])
    except (OSError, ValueError):
        return False


def ours(checkpoint: Path) -> bool:
    """Whether this trainer began to write the checkpoint."""
    return all(PROGRESS in p.name for p in checkpoint.iterdir()) or (checkpoint / PROGRESS).is_file()


def checkpoints(folder: Path) -> list[Path]:
    """The folders of checkpoints by step, complete or not. What else is called like them is somebody else's."""
    steps = {p: p.name.removeprefix("checkpoint-") for p in folder.glob("checkpoint-*") if p.is_dir()}
    return sorted((p for p, step in steps.items() if step.isdecimal()), key=lambda p: int(steps[p]))


def last_checkpoint(folder: Path) -> Path | None:
    """The newest complete checkpoint."""
    return next((p for p in reversed(checkpoints(folder)) if complete(p)), None)


class AsAsked(TrainerCallback):  # type: ignore[misc]
    """How often is logged and saved is what this command says. Trainer would go by what the checkpoint says."""

    def on_train_begin(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        """Work the steps out again, after the state was read."""
        state.compute_steps(args, state.max_steps)


class ZeroGradients(TrainerCallback):  # type: ignore[misc]
    """A parameter that no sample of a step has used has gradient zero, not none.

    Adam would leave one without a gradient out and count its steps apart. Several ranks, which run the vision tower on
    a masked dummy in every step, would then learn something else than one.
    """

    def on_pre_optimizer_step(self, args: Any, state: Any, control: Any, model: Any = None, **_: Any) -> None:
        """Fill in zeros."""
        for parameter in model.parameters():
            if parameter.requires_grad and parameter.grad is None:
                parameter.grad = torch.zeros_like(parameter)


class CleanProgress(TrainerCallback):  # type: ignore[misc]
    """A progress bar on stderr and one clean line per logging step."""

    def __init__(self, *, bar: bool) -> None:
        self.enabled = bar
        self.bar: Any = None

    def on_train_begin(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        """Show the bar from the step that training starts at."""
        if state.is_world_process_zero and self.enabled:
            self.bar = tqdm(total=state.max_steps, initial=state.global_step, unit="step", dynamic_ncols=True)

    def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        """One step further."""
        if self.bar is not None:
            self.bar.update(state.global_step - self.bar.n)

    def on_log(self, args: Any, state: Any, control: Any, logs: dict[str, Any] | None = None, **_: Any) -> None:
        """Write the line."""
        if state.is_world_process_zero and logs and ("loss" in logs or "eval_loss" in logs):
            tqdm.write(log_line(state.global_step, state.max_steps, logs), file=sys.stderr)

    def on_train_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        """Close the bar."""
        if self.bar is not None:
            self.bar.close()
            self.bar = None


def log_line(step: int, steps: int, logs: Mapping[str, Any]) -> str:
    """One line for people.

    >>> log_line(20, 300, {"loss": 1.25, "loss/modality/video": 1.5, "learning_rate": 3e-4, "skipped": 0})
    'step 20/300  loss 1.250  video 1.500  lr 0.0003'
    """
    parts = [f"step {step}/{steps}"]
    for name, key in (("loss", "loss"), ("eval loss", "eval_loss")):
        if key in logs:
            parts.append(f"{name} {logs[key]:.3f}")
    prefix = "loss/modality/"
    parts += [f"{k.removeprefix(prefix)} {v:.3f}" for k, v in logs.items() if k.startswith(prefix)]
    if "learning_rate" in logs:
        parts.append(f"lr {logs['learning_rate']:.3g}")
    if logs.get("skipped"):
        parts.append(f"skipped {logs['skipped']}")
    return "  ".join(parts)


class _Keep:
    """Calls the model and keeps what its fused head gives, so that a second look costs no second forward pass."""

    def __init__(self, model: Any) -> None:
        self.model = model
        self.fused: Any = None

    def __call__(self, **inputs: Any) -> Any:
        outputs = self.model(**inputs)
        if inputs.get("fused_lm_head"):  # label smoothing calls it without, too
            self.fused = outputs
        return outputs


def _untied(model: PreTrainedModel, state_dict: dict[str, Any]) -> dict[str, Any]:
    """Drop the second name of tied weights: DeepSpeed gathers them as if they were two."""
    if not model.config.get_text_config().tie_word_embeddings:
        return state_dict
    return {k: v for k, v in state_dict.items() if k != "lm_head.weight"}
