"""Every model family through the real command: what it learns, what it saves, and whether it goes on exactly."""

import pytest
import torch
from alike import TORCHRUN, launch, log, moved, same
from data.encoding_families import NAMES, build
from safetensors.torch import load_file
from transformers import AutoModelForImageTextToText, AutoProcessor, TrainerCallback

from vtrap_data.encoding import collate, encode, load_model, load_processor, resolve
from vtrap_data.loading.dataset import PackedDataset
from vtrap_train.config import parse
from vtrap_train.groups import group_of
from vtrap_train.run import run


class KillAt(TrainerCallback):
    def __init__(self, step):
        self.step = step

    def on_step_begin(self, args, state, control, **_):
        if state.global_step == self.step:
            raise KeyboardInterrupt


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
    assert same(whole, killed)


def test_adapters_of_a_family_are_merged(family, packed, tmp_path):
    words = ["--model", family, "--data", packed, "--frames", 2, "--max_steps", 2, "--per_device_train_batch_size", 4]
    words += ["--learning_rate", 1e-2, "--lora_r", 2, "--lora_target", "language+projector", "--save_strategy", "no"]
    run(parse([str(w) for w in [*words, "--output_dir", tmp_path / "out"]]))
    base, merged = (load_file(folder / "model.safetensors") for folder in (family, tmp_path / "out"))
    assert merged.keys() == base.keys()
    assert {name for name in base if not torch.equal(base[name], merged[name])}
    AutoModelForImageTextToText.from_pretrained(tmp_path / "out")


def test_a_dummy_changes_no_gradient(family, packed_by_kind):
    ref = resolve(str(family))
    processor, model = load_processor(ref), load_model(ref).train()
    used = {}
    for kind, data in packed_by_kind.items():
        samples = [encode(PackedDataset(data, frames=4)[i], processor, train=True) for i in range(2)]
        found = []
        for always in ((), ("image", "video")):
            batch = collate(samples, processor, always=always)
            model.zero_grad()
            loss = model(**batch).loss
            loss.backward()
            gradients = {n: None if p.grad is None else p.grad.clone() for n, p in model.named_parameters()}
            pixels = sum(value.numel() for name, value in batch.items() if name.startswith("pixel"))
            found.append((pixels, loss.item(), gradients))
        (pixels, loss, plain), (more_pixels, with_dummy_loss, with_dummy) = found
        # LLaVA 1.5 shows a video as pictures, so one of either kind is all there is.
        assert (more_pixels > pixels) == (ref.family != "llava" or kind == "text")
        assert with_dummy_loss == pytest.approx(loss, abs=1e-6)
        largest = max(float(g.abs().max()) for g in plain.values() if g is not None)
        for name, gradient in with_dummy.items():
            if gradient is None:
                assert plain[name] is None, name
                continue
            expected = torch.zeros_like(gradient) if plain[name] is None else plain[name]
            torch.testing.assert_close(gradient, expected, rtol=1e-4, atol=1e-6 * largest, msg=f"{kind}: {name}")
        used[kind] = {name for name, gradient in with_dummy.items() if gradient is not None}
    assert used["text"] == used["images"] == used["video"]  # every rank waits for the same gradients


# deepstack, and rows that end with an `image_newline`; the states of the second one are kept beside the GPU
SHARDED = {"qwen3_vl": "zero3", "llava_onevision": "zero3-offload"}


@pytest.mark.slow
@pytest.mark.parametrize("name", SHARDED)
def test_ranks_with_other_modalities_do_not_hang(name, singles, tmp_path):
    base = tmp_path / "base"
    build(name, base)
    cells = (("text", "video"), ("video", "images"), ("images", "text"))
    words = ["--model", base, "--data", ",".join(str(singles[kind]) for cell in cells for kind in cell)]
    words += ["--max_steps", 3, "--learning_rate", 1e-3, "--logging_steps", 1, "--save_strategy", "no"]
    words += ["--train_sampling_strategy", "sequential"]
    run(parse([str(w) for w in [*words, "--output_dir", tmp_path / "one", "--per_device_train_batch_size", 2]]))
    words += ["--deepspeed", SHARDED[name], "--output_dir", tmp_path / "two", "--per_device_train_batch_size", 1]
    words += ["--gradient_checkpointing", "true"]  # as in every recipe that uses them
    launch(words, by=TORCHRUN)
    lines, expected = log(tmp_path / "two"), log(tmp_path / "one")
    assert [line["loss"] for line in lines] == pytest.approx([line["loss"] for line in expected], rel=1e-3)
    for line, cell in zip(lines, cells, strict=True):
        assert {k for k in line if k.startswith("loss/modality/")} == {f"loss/modality/{kind}" for kind in cell}
    weights, reference, start = (
        load_file(out / "model.safetensors") for out in (tmp_path / "two", tmp_path / "one", base)
    )
    assert moved(weights, reference, start) < 0.02  # of the way that training went
