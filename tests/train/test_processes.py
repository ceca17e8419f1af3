"""Several processes (gloo, on the CPU): they stop together, adapters, batches by tokens, and dummies.

The nine pairs of modalities under DDP, ZeRO-2 and ZeRO-3 are in test_whole_runs.py.
"""

import json
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from alike import TORCHRUN, assert_alike, launch, log, same, start
from safetensors.torch import load_file
from whole_runs import CELLS, HOW, STEPS

import vtrap_train
from vtrap_data.encoding import collate, encode, load_model, load_processor, resolve
from vtrap_data.loading.dataset import PackedDataset
from vtrap_train.config import parse
from vtrap_train.memory import GB, demand
from vtrap_train.run import run
from vtrap_train.sharding import MARGIN


@pytest.fixture(scope="module")
def nine(singles):
    """--data whose epoch is the nine pairs of `CELLS`, one after the other, each of one sample."""
    return ",".join(str(singles[kind]) for cell in CELLS for kind in cell)


ADAPTERS = "--lora_r 4 --lora_dropout 0.1 --lora_target language+projector+vision --learning_rate 1e-2"


def assert_like(out, alone, model_dir):
    weights, reference, start = (load_file(folder / "model.safetensors") for folder in (out, alone, model_dir))
    assert_alike(weights, reference, start, way=5e-3, each=1e-3)


@pytest.mark.slow
def test_ranks_stop_together_when_one_has_a_reason_and_adapters_go_on_under_zero3(model_dir, singles, tmp_path):
    out = tmp_path / "out"
    rounds = ["text", "text", "images", "images", "images", "text", "text", "video", "video", "text"]
    data = ",".join(str(singles[kind]) for kind in rounds)  # step 4: only rank 1 has the video
    processor = load_processor(resolve(str(model_dir)))
    longest = {k: len(encode(PackedDataset(singles[k])[0], processor, train=True).input_ids) for k in singles}
    words = ["--model", model_dir, "--data", data, "--output_dir", out, *STEPS.split(), "--max_steps", "5"]
    words += [*HOW["zero3"].split(), *ADAPTERS.split(), "--per_device_train_batch_size", "1", "--save_steps", "2"]
    words += ["--max_tokens", longest["video"] - 1]
    assert longest["video"] > max(longest["text"], longest["images"])
    done = start([*words, "--gpus", "2"])
    assert done.returncode == 1
    assert done.stderr.count("vtrap-train: ") == 1 and "Traceback" not in done.stderr
    assert "1 samples were skipped" in done.stderr and f"learned before is in {out / 'checkpoint-3'}" in done.stderr
    lines = log(out)
    aside = (out / "checkpoint-3").rename(tmp_path / "aside")  # step 3 comes again, from the checkpoint of step 2
    done = launch([*words, "--max_skip_rate", "1", "--save_steps", "1", "--save_total_limit", "9"], by=TORCHRUN)
    assert f"going on from {out / 'checkpoint-2'}" in done.stderr
    assert log(out)[:3] == lines and len(lines) == 3 and log(out)[-1]["skipped"] == 2
    assert same(*(folder / "adapter_model.safetensors" for folder in (aside, out / "checkpoint-3")))
    assert set(load_file(out / "model.safetensors")) == set(load_file(model_dir / "model.safetensors"))


@pytest.mark.slow
def test_adapters_go_on_exactly_under_zero2_and_the_best_ones_come_out(model_dir, nine, tmp_path):
    out = tmp_path / "out"
    words = ["--model", model_dir, "--data", nine, "--output_dir", out, *ADAPTERS.split(), "--max_steps", "6"]
    words += ["--logging_steps", "1", "--save_steps", "2", *HOW["zero2"].split(), "--per_device_train_batch_size", "1"]
    words += ["--gradient_accumulation_steps", "3", "--tokens_per_batch", "60"]
    words += ["--eval_tasks", "image,video", "--load_best_model_at_end", "true", "--save_total_limit", "3"]
    (out / "eval").mkdir(parents=True)
    for step, score in ((0, 10.0), (2, 20.0), (4, 40.0), (6, 30.0)):  # those that are there are not worked out again
        scores = {"image": score, "video": score, "tasks": {"toy-image": score}}
        scores["asked"] = {"tasks": "image,video", "frames": "budget", "arguments": []}
        (out / "eval" / f"step-{step}.json").write_text(json.dumps(scores))
    launch(words, by=TORCHRUN)
    lines, whole = log(out), tmp_path / "whole"
    whole.mkdir()
    for name in ("checkpoint-4", "checkpoint-6", "adapter", "training_summary.json", "model.safetensors"):
        (out / name).rename(whole / name)  # as if killed after the checkpoint of step 2
    done = launch(words, by=TORCHRUN)
    assert f"going on from {out / 'checkpoint-2'}" in done.stderr
    assert log(out) == lines and len(lines) == 6
    for step in (4, 6):
        assert same(*(folder / f"checkpoint-{step}" / "adapter_model.safetensors" for folder in (whole, out)))
    for folder in (whole, out):  # the best one is what comes out
        assert same(*(folder / name / "adapter_model.safetensors" for name in ("checkpoint-4", "adapter")))
    assert same(whole / "model.safetensors", out / "model.safetensors")


def test_a_process_that_is_killed_is_told_and_what_is_wrong_is_said_once(model_dir, packed, tmp_path):
    done = start(["--model", model_dir, "--data", "no/such/place", "--output_dir", tmp_path, "--gpus", "2"])
    assert done.returncode == 2 and done.stderr.count("\n") == 1 and "no packed dataset" in done.stderr
    child = "import os, signal; os.kill(os.getpid(), signal.SIGKILL) if os.environ['RANK'] == '1' else signal.pause()"
    fake = tmp_path / "vtrap_train"  # what torchrun starts
    fake.mkdir()
    (fake / "__init__.py").write_text("")
    shutil.copyfile(Path(vtrap_train.__file__).with_name("launch.py"), fake / "launch.py")
    (fake / "__main__.py").write_text(child)
    done = subprocess.run(
        [sys.executable, "-m", "vtrap_train.launch", "2"], cwd=tmp_path, capture_output=True, text=True, timeout=120
    )
    assert done.returncode == 128 + signal.SIGKILL
    assert "process 1 was ended by SIGKILL (too little memory?)" in done.stderr and "Traceback" not in done.stderr


SPOILT = """
import os, sys
from deepspeed.runtime.engine import DeepSpeedEngine
from vtrap_train.__main__ import main

stock, calls = DeepSpeedEngine.backward, []

def backward(self, loss, *args, **kwargs):
    calls.append(1)
    spoilt = len(calls) == 3 and os.environ["RANK"] == "1"
    return stock(self, loss * (float("inf") if spoilt else 1), *args, **kwargs)

DeepSpeedEngine.backward = backward
sys.exit(main())
"""


@pytest.mark.slow
@pytest.mark.parametrize("how", ["zero2", "zero3"])
def test_a_gradient_that_is_no_number_stops_deepspeed_too(how, model_dir, nine, tmp_path):
    """It leaves the step out by itself, and would end well however often that happens."""
    words = ["--model", model_dir, "--data", nine, *STEPS.split(), "--max_steps", 4, *HOW[how].split()]
    words += ["--per_device_train_batch_size", 1, "--output_dir"]
    (tmp_path / "spoilt.py").write_text(SPOILT)
    done = start([*words, tmp_path / "out"], by=(*TORCHRUN[:-2], str(tmp_path / "spoilt.py")))
    assert done.returncode == 1 and done.stderr.count("vtrap-train: ") == 1
    assert "the gradient of step 3 is " in done.stderr and f"in {tmp_path / 'out/checkpoint-2'}" in done.stderr
    assert [line["step"] for line in log(tmp_path / "out")] == [1, 2]
    for out in ("out", "straight"):  # nothing of the step is left in what was saved
        launch([*words, tmp_path / out], by=TORCHRUN)
    assert log(tmp_path / "out") == log(tmp_path / "straight") and same(tmp_path / "out", tmp_path / "straight")


@pytest.mark.slow
def test_batches_by_tokens_over_two_ranks_under_zero2(model_dir, nine, tmp_path):
    out = tmp_path / "out"
    # Steps of six samples, cut by length; the reference is made of the same steps in one process.
    steps = (
        "--max_steps 3 --learning_rate 1e-3 --logging_steps 1 --save_strategy no --train_sampling_strategy sequential"
    )
    words = ["--model", model_dir, "--data", nine, *steps.split()]
    run(parse([str(w) for w in [*words, "--output_dir", tmp_path / "one", "--per_device_train_batch_size", 6]]))
    many = ["--per_device_train_batch_size", "1", "--gradient_accumulation_steps", "3", "--tokens_per_batch", "60"]
    # On GPUs that small zero2 is what fits, and nobody has to say so.
    needed = demand(*parse([str(w) for w in [*words, *many]])[:2])
    gb = needed.whole("zero2", 2) / GB / (1 - MARGIN) * 1.01
    assert gb * (1 - MARGIN) < needed.whole("no sharding", 2) / GB
    launch([*words, "--output_dir", out, *many, "--gpu_memory_gb", gb], by=TORCHRUN)
    settings, summary = (json.loads((out / n).read_text()) for n in ("settings.json", "training_summary.json"))
    assert settings["deepspeed"]["zero_optimization"]["stage"] == 2
    assert summary["sharding"]["setup"] == "zero2" and "no sharding would take" in summary["sharding"]["why"]
    lines, expected = log(out), log(tmp_path / "one")
    assert [line["loss"] for line in lines] == pytest.approx([line["loss"] for line in expected], rel=1e-3)
    assert [line["visual_tokens"] for line in lines] == [line["visual_tokens"] for line in expected]
    assert_like(out, tmp_path / "one", model_dir)


def test_a_dummy_changes_neither_loss_nor_gradients(model_dir, packed_by_kind):
    ref = resolve(str(model_dir))
    processor, model = load_processor(ref), load_model(ref).train()
    for kind, lacks in (("text", ("image", "video")), ("images", ("video",)), ("video", ("image",))):
        samples = [encode(PackedDataset(packed_by_kind[kind])[i], processor, train=True) for i in range(2)]
        found = []
        for always in ((), ("image", "video")):
            batch = collate(samples, processor, always=always)
            assert ("pixel_values" in batch) == ("image" in always or kind == "images")
            assert ("pixel_values_videos" in batch) == ("video" in always or kind == "video")
            model.zero_grad()
            loss = model(**batch).loss
            loss.backward()
            found.append((loss.item(), {n: p.grad for n, p in model.named_parameters()}))
        (loss, plain), (with_dummy_loss, with_dummy) = found
        assert lacks and with_dummy_loss == pytest.approx(loss, abs=1e-6)
        for name, gradient in with_dummy.items():
            assert gradient is not None  # every parameter takes part, which is what ZeRO waits for
            torch.testing.assert_close(gradient, torch.zeros_like(gradient) if plain[name] is None else plain[name])
