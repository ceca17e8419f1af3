"""What does vtrap change about TRL's SFTTrainer? Resuming, saving, what is logged, and skipping bad samples."""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from tqdm import tqdm
from transformers import PreTrainedModel, TrainerCallback
from transformers.trainer_callback import PrinterCallback, ProgressCallback
from trl import SFTTrainer

from vtrap_train.collate import FACTS
from vtrap_train.groups import Group, optimizer_groups
from vtrap_train.ledger import Lines, Skip, enforce, write_text
from vtrap_train.totals import Totals

PROGRESS = "progress.json"
PREPROCESSING = "preprocessing.json"


class VideoSFTTrainer(SFTTrainer):  # type: ignore[misc]
    """SFTTrainer for batches of `VideoCollator`.

    Args:
        sources: As given to the collator.
        rates: Peak learning rate per module group.
        preprocessing: The preprocessing manifest, saved with every checkpoint.
        max_skip_rate: Share of the planned samples that may be skipped.
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
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
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
        self._seconds_before = 0.0
        self._started = time.monotonic()
        self.remove_callback(ProgressCallback)
        self.remove_callback(PrinterCallback)
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

    @property
    def planned(self) -> int:
        """Samples that the whole run was meant to see."""
        per_step = self.args.train_batch_size * self.args.gradient_accumulation_steps * self.args.world_size
        return int(self.state.max_steps * per_step)

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
            outputs = keep.first
            self._here.add(facts, loss=-outputs.log_probs.detach().sum(dim=1), tokens=outputs.label_mask.sum(dim=1))
            if facts["skips"]:
                self._skip(facts["skips"])
        return result

    def _skip(self, skips: Sequence[Skip]) -> None:
        self.skips.append({"step": self.state.global_step + 1, **skip} for skip in skips)
        known = self._before.skipped + self._here.skipped
        enforce(known, planned=self.planned, rate=self.max_skip_rate, last=skips[-1])

    def log(self, logs: dict[str, float], start_time: float | None = None) -> None:
        """Add the losses by source and modality of the steps since the last log, and write loss.jsonl."""
        training = "loss" in logs and self.model.training
        if training:
            totals = self.totals()
            window = totals - self._logged
            for kind, sums in (("source", window.by_source()), ("modality", window.by_kind())):
                logs |= {f"loss/{kind}/{n}": s.mean_loss for n, s in sums.items() if s.mean_loss is not None}
            logs["samples"] = totals.whole().samples
            logs["visual_tokens"] = totals.visual_tokens
            logs["skipped"] = totals.skipped
            self._logged = totals
            enforce(totals.skipped, planned=self.planned, rate=self.max_skip_rate, last=None)
        super().log(logs, start_time)
        if training and self.is_world_process_zero():
            self.losses.append([{"step": self.state.global_step, **logs}])

    # Optimiser: one learning rate per module group.

    def create_optimizer(self, model: Any = None) -> torch.optim.Optimizer:
        """As in Trainer, with a learning rate per module group."""
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

    # Checkpoints.

    def _save_checkpoint(self, model: Any, trial: Any) -> None:
        totals = self.totals()
        folder = Path(self.args.output_dir) / f"checkpoint-{self.state.global_step}"
        if self.args.should_save:
            folder.mkdir(parents=True, exist_ok=True)
            progress = {
                **totals.to_json(),
                "step": self.state.global_step,
                "seconds": self.seconds,
                "tokens": self._total_train_tokens,
                "world_size": self.args.world_size,
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
    except (OSError, ValueError):
        return False
    return len(list(checkpoint.glob("rng_state*.pth"))) >= int(progress["world_size"])


def ours(checkpoint: Path) -> bool:
    """Whether this trainer began to write the checkpoint."""
    return all(PROGRESS in p.name for p in checkpoint.iterdir()) or (checkpoint / PROGRESS).is_file()


def last_checkpoint(folder: Path) -> Path | None:
    """The newest complete checkpoint."""
    found = [p for p in folder.glob("checkpoint-*") if p.name.rpartition("-")[2].isdecimal() and complete(p)]
    return max(found, key=lambda p: int(p.name.rpartition("-")[2]), default=None)


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
    """Calls the model and keeps its first outputs, so that a second look at them costs no second forward pass."""

    def __init__(self, model: Any) -> None:
        self.model = model
        self.first: Any = None

    def __call__(self, **inputs: Any) -> Any:
        outputs = self.model(**inputs)
        self.first = outputs if self.first is None else self.first
        return outputs


def _untied(model: PreTrainedModel, state_dict: dict[str, Any]) -> dict[str, Any]:
    """Drop the second name of tied weights: DeepSpeed gathers them as if they were two."""
    if not model.config.get_text_config().tie_word_embeddings:
        return state_dict
    return {k: v for k, v in state_dict.items() if k != "lm_head.weight"}
