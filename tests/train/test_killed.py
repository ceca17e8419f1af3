"""SIGKILL at five steps of one training, each time somewhere else in the step: the end is that of an undisturbed run.

Every part is the command's own `main` in a process of its own. They are forked from one that has imported everything
(seconds each), and the last part, which comes to the end, is the literal `python -m vtrap_train`.
"""

import json
import os
import signal
import sys
from multiprocessing import get_context, set_start_method
from typing import NamedTuple

import pytest
import torch
from alike import log, same, start

from vtrap_train.__main__ import main
from vtrap_train.trainer import VideoSFTTrainer, complete, last_checkpoint


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
    "in step 10, before the weights are moved": Kill(steps=9, goes_on=8),
}
WORDS = "--max_steps 12 --per_device_train_batch_size 2 --gradient_accumulation_steps 2 --learning_rate 1e-3"
WORDS += " --logging_steps 1 --save_steps 2 --tokens_per_batch 160 --pack --dataloader_num_workers 2"


def part(words, out, order, kill):
    """Run the command; note which samples each step learns from, and end where `kill` says."""
    set_start_method("fork", force=True)  # of the loader's workers, as where a shell has started the command
    stock, backward = VideoSFTTrainer._check, torch.Tensor.backward
    folder, removed = [""], []

    def noting(trainer, loss, facts):
        with order.open("a") as file:
            file.write(json.dumps([trainer.state.global_step + 1, facts["ids"]]) + "\n")
        return stock(trainer, loss, facts)

    def killing(*args, **kwargs):
        backward(*args, **kwargs)
        if kill is not None and (out / "loss.jsonl").is_file() and len(log(out)) == kill.steps:
            os.kill(os.getpid(), signal.SIGKILL)

    def watching(event, args):
        if kill is None or not kill.event:
            return
        if event == "shutil.rmtree":
            folder[0] = str(args[0])
        if event == "os.remove" and kill.path in folder[0]:
            removed.append(args[0])
        reached = len(removed) == 3 if event == "os.remove" else kill.path in str(args[:1])
        if event == kill.event and reached:  # os.kill is an event, too
            os.kill(os.getpid(), signal.SIGKILL)

    VideoSFTTrainer._check, torch.Tensor.backward = noting, killing
    sys.addaudithook(watching)
    sys.exit(main(words))


def read(order):
    return [json.loads(line) for line in order.read_text().splitlines()]


@pytest.mark.slow
def test_a_training_that_is_killed_five_times_ends_as_if_nothing_had_happened(model_dir, packed, tmp_path):
    whole, out = tmp_path / "whole", tmp_path / "killed"
    context = get_context("forkserver")
    context.set_forkserver_preload(["vtrap_train.__main__", "vtrap_train.run", "vtrap_train.plan", "vtrap_train.push"])

    def run_part(folder, order, kill=None):
        words = ["--model", model_dir, "--data", packed, *WORDS.split(), "--output_dir", folder]
        process = context.Process(target=part, args=([str(w) for w in words], folder, order, kill))
        process.start()
        process.join()
        return process.exitcode, words

    code, words = run_part(whole, tmp_path / "order")
    assert code == 0
    undisturbed = read(tmp_path / "order")
    assert [step for step, _ in undisturbed] == sorted(step for step, _ in undisturbed)
    assert any(len(ids) > 1 for _, ids in undisturbed) and len(undisturbed) > 12  # packed; more than a batch a step

    expected = 0
    for number, (where, kill) in enumerate(KILLS.items()):
        order = tmp_path / f"order-{number}"
        code, words = run_part(out, order, kill)
        assert code == -signal.SIGKILL, where
        last = last_checkpoint(out)
        assert (0 if last is None else int(last.name.rpartition("-")[2])) == kill.goes_on, where
        went = read(order)
        begin = next(n for n, (step, _) in enumerate(undisturbed) if step == expected + 1)
        assert went == undisturbed[begin : begin + len(went)] and went, where
        if where.startswith("in saving"):
            half = [folder.name for folder in out.glob("checkpoint-*") if not complete(folder)]
            assert half == [kill.path.partition("/")[0]]
        expected = kill.goes_on
    done = start(words)
    assert done.returncode == 0, done.stderr[-3000:]
    assert f"going on from {out / 'checkpoint-8'}" in done.stderr
    assert log(out) == log(whole) and len(log(whole)) == 12
    assert same(whole, out)
    summaries = [json.loads((folder / "training_summary.json").read_text()) for folder in (whole, out)]
    assert len({json.dumps({k: v for k, v in s.items() if k != "seconds"}) for s in summaries}) == 1
    assert sorted(p.name for p in out.glob("checkpoint-*")) == sorted(p.name for p in whole.glob("checkpoint-*"))
