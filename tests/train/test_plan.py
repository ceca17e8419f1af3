"""The plan needs no weights and must agree with what encoding really does."""

import json
import math
import shutil
import subprocess
from pathlib import Path

import pytest
from accelerate.data_loader import BatchSamplerShard
from conftest import pack_into
from hypothesis import given
from hypothesis import strategies as st
from peft import get_peft_model
from torch.utils.data import BatchSampler

from vtrap_data.encoding import ModelRef, encode, load_model, load_processor, resolve
from vtrap_data.encoding.models import NAMED
from vtrap_data.loading.dataset import PackedDataset
from vtrap_data.shards.manifest import PackSettings
from vtrap_data.shards.pack import pack
from vtrap_train import memory
from vtrap_train.__main__ import main
from vtrap_train.config import SETUPS, parse
from vtrap_train.lora import lora
from vtrap_train.run import run
from vtrap_train.steps import steps


def test_plan_agrees_with_encoding_and_reads_no_weights(model_dir, packed, tmp_path, capsys):
    bare = tmp_path / "bare"
    shutil.copytree(model_dir, bare, ignore=shutil.ignore_patterns("*.safetensors"))
    more = ["--per_device_train_batch_size", "4", "--num_train_epochs", "2", "--plan", "--json"]
    assert main(["--model", str(bare), "--data", str(packed), *more]) == 0
    plan = json.loads(capsys.readouterr().out)
    processor = load_processor(resolve(str(bare)))

    def real(frames):
        return [encode(e, processor, train=True).visual_tokens for e in PackedDataset(packed, frames=frames)]

    assert plan["tokens"]["visual"] == sum(real("hybrid"))
    assert list(plan["against_fixed"]) == ["2", "4", "8", "16"]
    for budget, row in plan["against_fixed"].items():
        assert row["visual_tokens"] == sum(real(int(budget)))
    assert (plan["per_epoch"], plan["steps"]) == (20, 10)
    total = [len(encode(e, processor, train=True).input_ids) for e in PackedDataset(packed)]
    assert plan["tokens"]["visual"] + plan["tokens"]["text"] == sum(total)
    assert plan["tokens"]["longest"] == max(total)
    bins = plan["tokens"]["histogram"]
    assert [b["samples"] for b in bins] == [sum(b["from"] <= n < b["below"] for n in total) for b in bins]
    assert [b["from"] for b in bins[1:]] == [b["below"] for b in bins[:-1]] and len(bins) > 1
    assert bins[0]["samples"] and bins[-1]["samples"] and sum(b["samples"] for b in bins) == 20
    assert plan["memory"]["gb"]["zero3-offload"] < plan["memory"]["gb"]["no sharding"]


# 20 samples an epoch, which no step of eight divides evenly; batches of eight are in test_batches.py.
@pytest.mark.parametrize(
    "more",
    [
        "--gradient_accumulation_steps 8 --num_train_epochs 2",
        "--per_device_train_batch_size 2 --gradient_accumulation_steps 4 --max_steps 4 --streaming",
    ],
)
def test_steps_and_samples_are_those_of_the_run(more, model_dir, packed, tmp_path, capsys):
    words = ["--model", str(model_dir), "--data", str(packed), "--output_dir", str(tmp_path / "out")]
    words += ["--save_strategy", "no", *more.split()]
    assert main([*words, "--plan", "--json"]) == 0
    plan = json.loads(capsys.readouterr().out)
    summary = run(parse(words))
    assert (summary["steps"], summary["samples"]) == (plan["steps"], plan["samples"])


CONFIG = parse(["--model", "toy-vl", "--tokens_per_batch", "0"]).config


@given(
    rows=st.integers(1, 60),
    batch=st.integers(1, 5),
    accumulate=st.integers(1, 4),
    processes=st.integers(1, 4),
    epochs=st.sampled_from([0.3, 1, 1.5, 3]),
    most=st.sampled_from([-1, 1, 7, 30]),
)
def test_steps_and_samples_of_several_processes(rows, batch, accumulate, processes, epochs, most):
    ranks = [BatchSampler(range(rows), batch, drop_last=False)]
    if processes > 1:
        ranks = [BatchSamplerShard(ranks[0], num_processes=processes, process_index=r) for r in range(processes)]
    passes = [sum(map(len, together)) for together in zip(*ranks, strict=True)]
    epoch = [sum(passes[at : at + accumulate]) for at in range(0, len(passes), accumulate)]
    total = most if most > 0 else math.ceil(len(epoch) * epochs)
    CONFIG.per_device_train_batch_size, CONFIG.gradient_accumulation_steps = batch, accumulate
    CONFIG.num_train_epochs, CONFIG.max_steps = epochs, most
    found = steps(CONFIG, rows=rows, processes=processes)
    assert found == (total, sum(epoch[step % len(epoch)] for step in range(total)))


def test_plan_for_people(model_dir, packed, capsys):
    words = ["--model", str(model_dir), "--data", str(packed), "--max_tokens", "40", "--plan"]
    assert main(words) == 0
    out = capsys.readouterr().out
    assert "over the ceiling of 40" in out and "against " in out and "no recipe" in out
    assert "skipped: more than --max_skip_rate 0.01 of them, at which training stops" in out
    assert main([*words, "--max_skip_rate", "1"]) == 0
    assert "skipped\n" in capsys.readouterr().out


@pytest.fixture(scope="module")
def wide(sources, tmp_path_factory):
    """Two clips with every budget up to 64 stored."""
    out = tmp_path_factory.mktemp("wide") / "packed"
    clips = [s for s in sources if s.kind == "video"][:2]
    settings = PackSettings(name="wide", budgets=(8, 16, 32, 64), slots=64, mean_frames=16, store=64, short_side=64)
    pack(clips, out, settings=settings)
    return out


@pytest.mark.parametrize("name", NAMED)
def test_every_named_model_has_a_recipe_and_a_plan(name, model_dir, wide, monkeypatch, capsys):
    # Shapes are those of the tiny model; the settings are the recipe's, by short name and by Hub id.
    typed = [name] if name == "toy-vl" else [name, NAMED[name].path]
    monkeypatch.setitem(NAMED, name, ModelRef(name=name, path=str(model_dir), family="qwen2_5_vl"))
    plans = []
    for model in typed:
        assert main(["--model", model, "--data", str(wide), "--gpus", "8", "--plan", "--json"]) == 0
        plans.append(json.loads(capsys.readouterr().out))
    plan = plans[0]
    assert all(p | {"model": name} == plan for p in plans) and plan["recipe"] == name
    assert plan["processes"] == 8
    assert plan["memory"]["setup"] == "no sharding" and "no GPU here" in plan["memory"]["why"]
    assert list(plan["against_fixed"]) == ["8", "16", "32", "64"]


def test_fixed_budgets_to_compare_with_are_those_of_videos(model_dir, packed_by_kind, sources, tmp_path, capsys):
    """Packs of pictures have the default slots, 64: nothing of the videos' 16 could be shown at 64 frames."""
    pictures = pack_into([s for s in sources if s.kind == "images"], tmp_path / "pictures", slots=64)
    found = {}
    for name, data in (("both", f"{packed_by_kind['video']},{pictures}"), ("pictures", str(pictures))):
        assert main(["--model", str(model_dir), "--data", data, "--plan", "--json"]) == 0
        found[name] = list(json.loads(capsys.readouterr().out)["against_fixed"])
    assert found == {"both": ["2", "4", "8", "16"], "pictures": []}


@pytest.mark.parametrize("name", SETUPS)
def test_every_setup_that_ships_has_a_plan(name, model_dir, wide, capsys):
    assert main(["--model", str(model_dir), "--config", name, "--data", str(wide), "--plan", "--json"]) == 0
    plan = json.loads(capsys.readouterr().out)
    parsed = parse(["--model", str(model_dir), "--config", name])
    if name.startswith("frames-"):
        assert plan["frames"] == name.removeprefix("frames-")
        row = plan["against_fixed"][plan["frames"]]
        assert row["saved"] == 0 and row["visual_tokens"] == plan["tokens"]["visual"]
    if "lora" in name:
        assert plan["memory"]["trained"] < plan["memory"]["parameters"] and plan["processes"] == 1
    if parsed.config.tokens_per_batch:
        assert 0 <= plan["padding"] < 1


def test_setups_combine_and_the_later_one_wins(model_dir):
    parsed = parse(["--model", str(model_dir), "--config", "one-node,frames-16"])
    assert (parsed.arguments.frames, parsed.arguments.gpus, parsed.deepspeed) == ("16", 8, None)


def test_what_cannot_fit_is_refused_with_what_would(model_dir, packed, capsys):
    words = ["--model", str(model_dir), "--data", str(packed), "--plan"]
    assert main([*words, "--gpu_memory_gb", "0.00001"]) == 2  # not even zero3-offload
    assert "(zero3-offload, 1 process(es))" in capsys.readouterr().err
    words += ["--deepspeed", "none"]
    assert main([*words, "--gpu_memory_gb", "0.01"]) == 2
    err = capsys.readouterr().err
    assert "weights, gradients and optimiser states take" in err and "--lora_r" in err and "a smaller model" in err
    assert main([*words, "--gpu_memory_gb", "0.01", "--lora_r", "4", "--dtype", "bfloat16"]) == 0
    assert "<- this run, on 0.01 GB" in capsys.readouterr().out


def test_memory_of_full_training_is_what_zero_says(model_dir):
    counts = memory.Counts(total=1000, trained=800, adapters=0, largest=100)
    assert memory.states(counts, setup="no sharding", processes=1, lean=False) == 4 * 1000 + 12 * 800
    assert memory.states(counts, setup="zero2", processes=4, lean=False) == 2 * 1000 + 14 * 800 / 4
    assert memory.states(counts, setup="zero3", processes=4, lean=False) == (2 * 1000 + 14 * 800) / 4 + 200
    assert memory.states(counts, setup="zero3-offload", processes=4, lean=False) == 4 * 100
    # The meta model counts what the real one has, adapters included.
    parsed = parse(["--model", str(model_dir), "--lora_r", "4", "--lora_target", "language+projector"])
    model = load_model(resolve(str(model_dir)))
    found = memory.count(model.config, parsed.arguments)
    assert found.total == sum(p.numel() for p in model.parameters())
    adapted = get_peft_model(model, lora(parsed.arguments, model))
    assert found.adapters == sum(p.numel() for p in adapted.parameters() if p.requires_grad)


def test_four_bits_are_planned_without_zero3(model_dir, packed, capsys):
    words = ["--model", str(model_dir), "--data", str(packed), "--lora_r", "4", "--lora_4bit", "--gpus", "2", "--plan"]
    assert main([*words, "--json"]) == 0
    assert list(json.loads(capsys.readouterr().out)["memory"]["gb"]) == ["no sharding", "zero2"]
    assert main([*words, "--deepspeed", "zero3"]) == 2
    assert "--deepspeed zero2" in capsys.readouterr().err


def test_the_slurm_script_is_sound():
    script = Path(__file__).parents[2] / "scripts" / "train.slurm"
    subprocess.run(["bash", "-n", script], check=True)
    example = next(line for line in script.read_text().splitlines() if "sbatch scripts/train.slurm" in line)
    parsed = parse(example.split("train.slurm", 1)[1].split())
    assert parsed.recipe == "qwen2.5-vl-72b" and parsed.config.tokens_per_batch > 0
