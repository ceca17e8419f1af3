"""Several processes (gloo, on the CPU): any mix of modalities on any rank, under ZeRO, with the same result."""

import json
import os
import shutil
import subprocess
import sys

import pytest
import torch
from safetensors.torch import load_file

from vtrap_data.encoding import collate, encode, load_model, load_processor, resolve
from vtrap_data.loading.dataset import PackedDataset
from vtrap_train.config import parse
from vtrap_train.run import run

STEPS = "--max_steps 2 --learning_rate 1e-3 --logging_steps 1 --save_steps 1 --train_sampling_strategy sequential"


@pytest.fixture(scope="module")
def mixed(packed_by_kind):
    """--data for an epoch of one text, two video and one image item, in this order."""
    shares = (("text", 1 / 2), ("video", 2 / 12), ("images", 1 / 6))
    return ",".join(f"{packed_by_kind[kind]}:{share}" for kind, share in shares)


@pytest.fixture(scope="module")
def alone(model_dir, mixed, tmp_path_factory):
    """The same two steps in one process, where nothing can hang."""
    out = tmp_path_factory.mktemp("alone") / "out"
    words = ["--model", model_dir, "--data", mixed, "--output_dir", out, *STEPS.split()]
    run(parse([str(w) for w in [*words, "--per_device_train_batch_size", 2]]))
    return out


def launch(words):
    done = subprocess.run(
        [sys.executable, "-m", "vtrap_train", *map(str, words)],
        capture_output=True,
        text=True,
        timeout=200,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    )
    assert done.returncode == 0, done.stderr[-4000:]
    return done


def log(out):
    return [json.loads(line) for line in (out / "loss.jsonl").read_text().splitlines()]


@pytest.mark.slow
@pytest.mark.parametrize("how", ["zero2", "zero3"])
def test_every_rank_may_have_another_modality(how, model_dir, mixed, alone, tmp_path):
    # Step 1: text on one rank, video on the other. Step 2: video and image.
    out = tmp_path / how
    words = ["--model", model_dir, "--data", mixed, "--output_dir", out, *STEPS.split(), "--json"]
    words += ["--gpus", "2", "--deepspeed", how, "--per_device_train_batch_size", "1"]
    done = launch(words)
    assert json.loads(done.stdout)["samples_by_modality"] == {"video": 2, "images": 1, "text": 1}
    lines, expected = log(out), log(alone)
    assert [line["loss"] for line in lines] == pytest.approx([line["loss"] for line in expected], rel=1e-4)
    for line, other in zip(lines, expected, strict=True):
        modalities = {k: v for k, v in line.items() if k.startswith("loss/modality/")}
        assert len(modalities) == 2
        assert modalities == pytest.approx({k: other[k] for k in modalities}, rel=1e-3)
        assert line["visual_tokens"] == other["visual_tokens"]
    weights, reference = load_file(out / "model.safetensors"), load_file(alone / "model.safetensors")
    assert set(weights) == set(reference) == set(load_file(model_dir / "model.safetensors"))  # names of the Hub
    for key, value in reference.items():
        torch.testing.assert_close(weights[key], value, rtol=1e-2, atol=5e-4)
    if how == "zero3":
        for name in ("checkpoint-2", "training_summary.json", "model.safetensors"):
            path = out / name
            shutil.rmtree(path) if path.is_dir() else path.unlink()  # as if killed after the first step
        launch(words)
        assert log(out) == lines
        again = load_file(out / "model.safetensors")
        assert all(torch.equal(weights[key], again[key]) for key in weights)


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
