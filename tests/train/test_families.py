"""Every model family through the real command: what it learns, what it saves, and whether it goes on exactly."""

import json

import pytest
import torch
from data.encoding_families import NAMES, build
from safetensors.torch import load_file
from transformers import AutoModelForImageTextToText, AutoProcessor, TrainerCallback

from vtrap_train.config import parse
from vtrap_train.groups import group_of
from vtrap_train.run import run


class KillAt(TrainerCallback):
    def __init__(self, step):
        self.step = step

    def on_step_begin(self, args, state, control, **_):
        if state.global_step == self.step:
            raise KeyboardInterrupt


def log(out):
    return [json.loads(line) for line in (out / "loss.jsonl").read_text().splitlines()]


@pytest.fixture(scope="module", params=NAMES)
def family(request, tmp_path_factory):
    folder = tmp_path_factory.mktemp(request.param) / "base"
    build(request.param, folder)
    return folder


def test_a_family_is_trained_saved_and_gone_on_with(family, packed, tmp_path):
    words = ["--model", family, "--data", packed, "--frames", 4, "--max_steps", 4, "--per_device_train_batch_size", 5]
    words += ["--learning_rate", 1e-3, "--logging_steps", 1, "--save_steps", 2, "--freeze", "vision"]
    whole, killed = tmp_path / "whole", tmp_path / "killed"
    summary = run(parse([str(w) for w in [*words, "--output_dir", whole]]))
    assert summary["skipped"] == 0 and all(summary["samples_by_modality"].values())
    assert all(group["parameters"] > 0 for group in summary["groups"].values())
    assert log(whole)[-1]["loss"] < log(whole)[0]["loss"]

    with pytest.raises(KeyboardInterrupt):
        run(parse([str(w) for w in [*words, "--output_dir", killed]]), callbacks=[KillAt(3)])
    run(parse([str(w) for w in [*words, "--output_dir", killed]]))
    assert log(killed) == log(whole)

    base = load_file(family / "model.safetensors")
    for folder in (whole / "checkpoint-2", whole):
        # What someone has who has transformers and nothing of vtrap.
        model, report = AutoModelForImageTextToText.from_pretrained(folder, output_loading_info=True)
        assert not any(report[kind] for kind in ("missing_keys", "unexpected_keys", "mismatched_keys"))
        assert type(AutoProcessor.from_pretrained(folder)) is type(AutoProcessor.from_pretrained(family))
        saved = load_file(folder / "model.safetensors")
        assert {k: v.shape for k, v in saved.items()} == {k: v.shape for k, v in base.items()}  # names of the Hub
        stock = AutoModelForImageTextToText.from_pretrained(family)
        for (name, before), (_, after) in zip(stock.named_parameters(), model.named_parameters(), strict=True):
            if group_of(name) == "vision":
                assert torch.equal(before, after), name
        assert any(not torch.equal(a, b) for a, b in zip(stock.parameters(), model.parameters(), strict=True))
    again = load_file(killed / "model.safetensors")
    assert all(torch.equal(saved[k], again[k]) for k in saved)


def test_adapters_of_a_family_are_merged(family, packed, tmp_path):
    words = ["--model", family, "--data", packed, "--frames", 2, "--max_steps", 2, "--per_device_train_batch_size", 4]
    words += ["--learning_rate", 1e-2, "--lora_r", 2, "--lora_target", "language+projector", "--save_strategy", "no"]
    run(parse([str(w) for w in [*words, "--output_dir", tmp_path / "out"]]))
    base, merged = (load_file(folder / "model.safetensors") for folder in (family, tmp_path / "out"))
    assert merged.keys() == base.keys()
    assert {name for name in base if not torch.equal(base[name], merged[name])}
    AutoModelForImageTextToText.from_pretrained(tmp_path / "out")
