"""How many optimiser steps does a run take, and how many samples does it see? What Trainer will do, asked before."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any, NamedTuple

from accelerate.data_loader import BatchSamplerShard
from torch.utils.data import BatchSampler
from transformers import Trainer

from vtrap_train.config import TrainConfig


class Steps(NamedTuple):
    """The length of a run.

    Attributes:
        steps: Optimiser steps.
        samples: That they see, over all processes. The last step of an epoch sees what is left of it; several
            processes fill it up with the epoch's first samples, as accelerate does, but not with `--tokens_per_batch`.
    """

    steps: int
    samples: int


def steps(config: TrainConfig, *, rows: int, processes: int) -> Steps:
    """The length of a run over `rows` rows an epoch."""
    batch = config.per_device_train_batch_size
    whole = batch * processes
    if config.tokens_per_batch:  # a pass of the loader is a step of all processes
        passes, epoch = -(-rows // whole), rows
    else:
        batches: Any = BatchSampler(range(rows), batch, drop_last=config.dataloader_drop_last)
        passes = len(batches)
        if processes > 1:
            passes = len(BatchSamplerShard(batches, num_processes=processes))
        alone = processes == 1 and not config.dataloader_drop_last
        epoch = rows if alone else passes * whole
    # Trainer's own arithmetic, which reads nothing of the trainer but these.
    trainer: Any = SimpleNamespace(get_sp_size=lambda: 1, get_total_train_batch_size=lambda _: 0, num_examples=len)
    _, per_epoch, *_, total = Trainer.set_initial_training_values(trainer, config, range(passes))
    epochs, rest = divmod(total, per_epoch)
    return Steps(total, epochs * epoch + rest * config.gradient_accumulation_steps * whole)
