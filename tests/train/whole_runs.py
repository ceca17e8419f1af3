"""Trainings by the real command, each in a process of its own, that tests judge against one plain one.

They are run one after the other, in a thread beside the tests that come before, so that a second core is used.
"""

from __future__ import annotations

import json
import shutil
import signal
import subprocess
from concurrent.futures import ThreadPoolExecutor
from itertools import product
from pathlib import Path
from typing import NamedTuple

from alike import TORCHRUN, launch, log, start

from vtrap_data.shards.index import read_index
from vtrap_train.trainer import complete, last_checkpoint

KINDS = ("text", "images", "video")
CELLS = tuple(product(KINDS, repeat=2))
"""Of every step: the modality of the first half of its samples and of the second, which is that of ranks 0 and 1."""
BATCH = 8
STEPS = "--max_steps 9 --learning_rate 1e-3 --logging_steps 1 --save_steps 5 --train_sampling_strategy sequential"
SAME = {
    "batches of 1, 8 times accumulated": "--per_device_train_batch_size 1 --gradient_accumulation_steps 8",
    "streamed": "--per_device_train_batch_size 8 --streaming",
    "packed": "--per_device_train_batch_size 8 --tokens_per_batch 160 --pack --dataloader_num_workers 2",
}

HOW = {
    "ddp": "",
    "zero2": "--deepspeed zero2 --gpu_memory_gb 80",  # what is asked for wins over what would fit
    "zero3": "--deepspeed zero3 --gradient_checkpointing true",  # as in every recipe that uses it
}


class Kill(NamedTuple):
    """Where a process is ended: in the backward pass after `steps` logged steps, or when it is about to do `event`.

    `goes_on` is the step from which the next one has to go on.
    """

    steps: int = -1
    event: str = ""
    path: str = ""
    goes_on: int = 0


KILLS = {
    "in step 2, before the first checkpoint": Kill(steps=1),
    "in saving step 4, the weights are there": Kill(event="open", path="checkpoint-4/.preprocessing.json", goes_on=2),
    "in saving step 6, all but the last file": Kill(event="open", path="checkpoint-6/trainer_state.json", goes_on=4),
    "after step 8, removing an old checkpoint": Kill(event="os.remove", path="checkpoint-4", goes_on=8),
    "in step 9, before the weights are moved": Kill(steps=8, goes_on=8),
}

# Python reads this before the command: which samples each step learns from is noted, and the process ends where asked.
WATCHED = """
import json, os, signal, sys
from pathlib import Path

def watch():
    import vtrap_data, torch
    from vtrap_train.trainer import VideoSFTTrainer

    out, order = Path(os.environ["OUT"]), Path(os.environ["ORDER"])
    steps, event, path, _ = json.loads(os.environ["KILL"])
    stock, backward = VideoSFTTrainer._check, torch.Tensor.backward
    folder, removed = [""], []

    def noting(trainer, loss, facts):
        with order.open("a") as file:
            file.write(json.dumps([trainer.state.global_step + 1, facts["ids"]]) + "\\n")
        return stock(trainer, loss, facts)

    def killing(*args, **kwargs):
        backward(*args, **kwargs)
        log = out / "loss.jsonl"
        if log.is_file() and len(log.read_text().splitlines()) == steps:
            os.kill(os.getpid(), signal.SIGKILL)

    def watching(name, args):
        if name != event:  # os.kill is an event, too
            if name == "shutil.rmtree":
                folder[0] = str(args[0])
            return
        if name == "os.remove" and path in folder[0]:
            removed.append(args[0])
        if len(removed) == 3 if name == "os.remove" else path in str(args[:1]):
            os.kill(os.getpid(), signal.SIGKILL)

    VideoSFTTrainer._check, torch.Tensor.backward = noting, killing
    sys.addaudithook(watching)

if sys.orig_argv[1:3] == ["-m", "vtrap_train"]:
    watch()
"""

# ... of two processes, the loss of the second is no number in step 8.
NO_NUMBER = """
import os
if os.environ.get("RANK") == "1":
    import vtrap_data
    from trl import SFTTrainer
    stock = SFTTrainer.compute_loss
    def broken(self, *args, **kwargs):
        loss = stock(self, *args, **kwargs)
        return loss * float("nan") if self.state.global_step == 7 else loss
    SFTTrainer.compute_loss = broken
"""

# ... from the first file of a checkpoint on, no file may grow beyond a megabyte: what a full disk does.
FULL = """
import resource, sys

def full(event, args):
    if event == "open" and "checkpoint-4/" in str(args[0]):
        resource.setrlimit(resource.RLIMIT_FSIZE, (1_000_000, resource.RLIM_INFINITY))

sys.addaudithook(full)
"""


class Part(NamedTuple):
    """What was found after a process was killed: samples of each step, the last checkpoint, half ones."""

    code: int
    order: list[list[object]]
    last: int
    half: list[str]


class Together(NamedTuple):
    """What two processes did: undisturbed, disturbed (under DDP only: its log lines, too), and gone on with."""

    done: subprocess.CompletedProcess[str]
    broken: subprocess.CompletedProcess[str] | None
    until: list[dict[str, float]]
    again: subprocess.CompletedProcess[str]


class WholeRuns:
    """Runs the command in the background.

    Args:
        model: The model's folder.
        corpora: Holds a packed dataset of four items for each of `KINDS`.
        server: Serves `corpora`.
        root: Where everything is written.
    """

    def __init__(self, model: Path, corpora: Path, server: object, root: Path) -> None:
        self.model, self.corpora, self.server, self.root = model, corpora, server, root
        self.pool = ThreadPoolExecutor(1)
        jobs = {"plain": lambda: launch(self.words("plain", f"--per_device_train_batch_size {BATCH}"))}
        for name, more in SAME.items():
            jobs[name] = lambda name=name, more=more: self.other(name, more)
        jobs |= {how: lambda how=how: self.together(how) for how in HOW}
        jobs |= {"killed": self.killed, "damaged and full": self.damaged_and_full, "refused": self.refused}
        self.jobs = {name: self.pool.submit(job) for name, job in jobs.items()}

    def found(self, name):
        """Wait for a run. Returns what its function returns; raises what it raises."""
        return self.jobs[name].result()  # each process has a time limit

    def out(self, name):
        """Where a run that has ended well wrote to."""
        self.found(name)
        return self.root / name

    def words(self, name, more, *, corpora=None):
        """The arguments of a run over the cells."""
        data = ",".join(f"{corpora or self.corpora}/{kind}" for cell in CELLS for kind in cell)
        out = self.root / name
        return ["--model", self.model, "--data", data, "--output_dir", out, *STEPS.split(), *more.split()]

    def other(self, name, more):
        """One of `SAME`."""
        url = self.server.url if name == "streamed" else None
        return launch(
            self.words(name, more, corpora=url),
            VTRAP_HOME=str(self.root / "home"),
            **self.watched(name, Kill()),
        )

    def together(self, how):
        """Two processes, whose end is kept in "... at first"; then again, stopped on the way and gone on with."""
        out, broken, until = self.root / how, None, []
        words = self.words(how, f"--json --gpus 2 --per_device_train_batch_size {BATCH // 2} {HOW[how]}")
        done = launch(words)
        shutil.copytree(out, self.root / f"{how} at first")
        if how == "ddp":
            shutil.rmtree(out)
            (self.root / "no number").mkdir()
            (self.root / "no number" / "sitecustomize.py").write_text(NO_NUMBER)
            broken = start(words, PYTHONPATH=str(self.root / "no number"))
            until = log(out)
            assert not (out / "training_summary.json").exists()
        else:
            for name in ("checkpoint-9", "training_summary.json", "model.safetensors"):
                path = out / name
                shutil.rmtree(path) if path.is_dir() else path.unlink()  # as if killed after the checkpoint of step 5
        return Together(done, broken, until, launch(words, by=TORCHRUN))

    def watched(self, name, kill):
        """The environment in which a run notes its samples in a file with its name, and ends where `kill` says."""
        (self.root / "watched").mkdir(exist_ok=True)
        (self.root / "watched" / "sitecustomize.py").write_text(WATCHED)
        order = self.root / f"{name}.jsonl"
        return {
            "PYTHONPATH": str(self.root / "watched"),
            "OUT": str(self.root / name.partition(":")[0]),
            "ORDER": str(order),
            "KILL": json.dumps(kill),
        }

    def order(self, name):
        """The samples of each step that a watched run learned from."""
        return [json.loads(line) for line in (self.root / f"{name}.jsonl").read_text().splitlines()]

    def killed(self):
        """Killed at each of `KILLS`, then left alone. Returns what was found in between, and the last process."""
        out, parts = self.root / "killed", []
        words = self.words("killed", f"{SAME['packed']} --save_steps 2")
        for number, kill in enumerate(KILLS.values()):
            done = start(words, **self.watched(f"killed:{number}", kill))
            last = last_checkpoint(out)
            parts.append(
                Part(
                    code=done.returncode,
                    order=self.order(f"killed:{number}"),
                    last=0 if last is None else int(last.name.rpartition("-")[2]),
                    half=[folder.name for folder in out.glob("checkpoint-*") if not complete(folder)],
                )
            )
            assert done.returncode == -signal.SIGKILL, done.stderr[-3000:]
        return parts, launch(words)

    def damaged_and_full(self):
        """A shard is damaged, then whole again; the disk is full, then empty. Returns each process that has ended."""
        corpora = shutil.copytree(self.corpora, self.root / "damaged")
        words = self.words("damaged and full", f"--per_device_train_batch_size {BATCH}", corpora=corpora)
        rows = read_index(corpora / "video").to_pylist()
        middle = sorted(rows, key=lambda r: r["json_offset"])[len(rows) // 2]
        with (corpora / "video" / middle["shard"]).open("r+b") as file:
            file.seek(middle["frames_offset"])
            file.write(b"\x7f" * middle["frames_size"])
        damaged = start(words)
        shutil.copyfile(self.corpora / "video" / middle["shard"], corpora / "video" / middle["shard"])
        (self.root / "full").mkdir()
        (self.root / "full" / "sitecustomize.py").write_text(FULL)
        words += ["--save_steps", "2"]
        full = start(words, PYTHONPATH=str(self.root / "full"))
        return damaged, full, launch(words), middle

    def refused(self):
        """Each with a mistake in it."""
        words = self.words("refused", "")
        wrong = {"ceiling": ["--max_tokens", "100000000"], "model": ["--model", "qwen2.5-vl-7c"]}
        return {name: start([*words, *more]) for name, more in wrong.items()}
