"""Command line, recipes, data mixtures, groups, ledger: everything that needs no training."""

import json
import shutil

import numpy as np
import pytest
import torch

from vtrap_data.encoding.models import TOY_VL
from vtrap_data.errors import FatalSampleError, UsageError
from vtrap_data.loading.dataset import PackedDataset
from vtrap_train import groups, ledger
from vtrap_train.__main__ import main
from vtrap_train.config import RECIPES, parse, settings_of
from vtrap_train.data import Mixture, Part, locate, parse_data, parse_frames
from vtrap_train.launch import command
from vtrap_train.run import learning_rates, shares
from vtrap_train.sharding import PRESETS

SEVEN = "Qwen/Qwen2.5-VL-7B-Instruct"


def test_the_command_of_the_readme_gets_its_recipe():
    parsed = parse(["--model", "qwen2.5-vl-7b"])
    assert parsed.arguments.data == "vtrap/video-sft-hybrid"
    assert parsed.arguments.frames == "hybrid"
    assert parsed.arguments.freeze == ["vision"]
    assert parsed.config.learning_rate == 1e-5
    assert parsed.config.deepspeed is None and parsed.deepspeed is None  # decided by size: test_sharding.py
    assert parsed.config.output_dir == "runs/qwen2.5-vl-7b-hybrid"


def test_a_hub_id_gets_what_its_short_name_gets():
    short, by_id = (parse(["--model", m, "--output_dir", "out"]) for m in ("qwen2.5-vl-7b", SEVEN))
    assert short.recipe == by_id.recipe == parse(["--model", f"{SEVEN}@main"]).recipe == "qwen2.5-vl-7b"
    one, other = (settings_of(parsed, world_size=8, data=[]) for parsed in (short, by_id))
    assert other == one | {"model": SEVEN} and one["freeze"] == ["vision"]
    unknown = parse(["--model", "somebody/else"])
    assert unknown.recipe is None and unknown.arguments.freeze == []


def test_command_line_beats_config_beats_recipe(tmp_path):
    mine = tmp_path / "mine.yaml"
    mine.write_text("model: toy-vl\nlearning_rate: 5e-4\nmax_steps: 7\n")
    config = parse(["--config", str(mine), "--max_steps", "9"]).config
    assert (config.learning_rate, config.max_steps) == (5e-4, 9)
    assert config.per_device_train_batch_size == 16  # of the recipe for toy-vl


@pytest.mark.parametrize(
    ("argv", "says"),
    [
        ([], "--model is missing"),
        (["--model"], "expected one argument"),
        (["--model", "toy-vl", "--frames", "many"], "--frames 'many'"),
        (["--model", "toy-vl", "--frames", "0"], "--frames '0'"),
        (["--model", "toy-vl", "--data", "a:0"], "weight above 0"),
        (["--model", "toy-vl", "--data", "a:90%,b:20%"], "110.0%"),
        (["--model", "toy-vl", "--data", "a:90%,b:0.1"], "1 of 2"),
        (["--model", "toy-vl", "--data", "DATA", "--max_tokens", "100000000"], "--max_tokens 100000000 is more than"),
        (["--model", "toy-vl", "--data", "RARE"], "adds none of its 20 rows to an epoch: take more than 0.025"),
        (["--model", "toy-vl", "--data", "RARE", "--plan"], "adds none of its 20 rows"),
        (["--model", "toy-vl", "--seed", "-1"], "--seed -1 is not in 0 to"),
        (["--model", "toy-vl", "--eval_args", '"--limit 5'], "No closing quotation"),
        (
            ["--model", "toy-vl", "--per_device_train_batch_size", "0"],
            "--per_device_train_batch_size 0 is not positive",
        ),
        (
            ["--model", "toy-vl", "--gradient_accumulation_steps", "0"],
            "--gradient_accumulation_steps 0 is not positive",
        ),
        (["--model", "toy-vl", "--lora_r", "4", "--lora_dropout", "2"], "--lora_dropout 2.0"),
        (["--model", "toy-vl", "--lora_r", "4", "--lora_alpha", "0"], "leave it out for 2 x --lora_r"),
        (["--model", "toy-vl", "--gpu_memory_gb", "nan"], "--gpu_memory_gb nan"),
        (["--model", "toy-vl", "--save_strategy", "best"], "--load_best_model_at_end"),
        (["--model", "toy-vl", "--resume_from_checkpoint", "a/b"], "goes on from the last checkpoint"),
        (["--model", "toy-vl", "--no_such_flag", "1"], "no_such_flag"),
        (["--model", "toy-vl", "--max_step", "1"], "max_step"),  # no guessing of abbreviations
        (["--model", "toy-vl", "--learning_rate", "fast"], "--learning_rate"),
        (["--model", "toy-vl", "--max_length", "512"], "--max_tokens"),
        (["--model", "toy-vl", "--packing"], "--pack"),
        (["--model", "qwen2.5-vl-3b", "--pack"], "--tokens_per_batch"),
        (["--model", "toy-vl", "--load_best_model_at_end", "true"], "--eval_tasks"),
        (["--model", "toy-vl", "--eval_strategy", "steps"], "--eval_tasks"),
        (["--model", "toy-vl", "--freeze", "eyes"], "vision, projector, language"),
        (["--model", "toy-vl", "--vision_learning_rate=-1e-6"], "--vision_learning_rate -1e-06 is not 0 or above"),
        (["--model", "toy-vl", "--freeze", "vision", "--lora_r", "4"], "--lora_target"),
        (["--model", "toy-vl", "--vision_learning_rate", "1e-6"], "has no effect with --freeze vision (the recipe's"),
        (
            ["--model", "toy-vl", "--lora_r", "4", "--vision_learning_rate", "1e-6"],
            "--vision_learning_rate 1e-06 has no effect with --lora_target language",
        ),
        (["--model", "toy-vl", "--lora_alpha", "8"], "--lora_alpha 8.0 has no effect without --lora_r"),
        (["--model", "toy-vl", "--lora_target", "vision"], "--lora_target vision has no effect without --lora_r"),
        (["--model", "toy-vl", "--num_train_epochs", "0"], "neither --num_train_epochs 0.0 nor --max_steps"),
        (["--model", "toy-vl", "--learning_rate=-1"], "--learning_rate -1.0 is not 0 or above"),
        (["--model", "toy-vl", "--dataloader_drop_last"], "no effect with --tokens_per_batch"),  # of the recipe
        (["--model", "toy-vl", "--completion_only_loss", "true"], "the loss is on assistant turns"),
        (["--model", "toy-vl", "--chat_template_path", "mine.jinja"], "the model's own template"),
        (["--model", "toy-vl", "--auto_find_batch_size"], "--tokens_per_batch bounds"),
        (["--model", "toy-vl", "--ignore_data_skip"], "it would see samples again"),
        (["--model", "toy-vl", "--eval_tasks", "image", "--save_strategy", "no"], "--eval_tasks scores checkpoints"),
        (["--model", "toy-vl", "--eval_on_start"], "--eval_tasks scores the model before training"),
        (["--model", "toy-vl", "--activation_offloading"], "moves activations off a GPU"),
        (["--model", "toy-vl", "--deepspeed", "zero9"], "zero2, zero3"),
        (["--model", "toy-vl", "--config", "no/such.yaml"], "no/such.yaml"),
        (["--model", "toy-vl", "--data", "no/such/place"], "no packed dataset"),
        (["--model", "toy-vl", "--data", "no/such@v1"], "'no/such@v1' is not a local directory"),
        (["--model", "toy-vl", "--data", "no/name--at-all"], "'no/name--at-all' is not a local directory"),
        (["--model", "toy-vl", "--data", "no/name--at-all", "--streaming"], "was not found on the Hub"),
        (["--model", "toy-vll", "--data", "DATA"], "Did you mean 'toy-vl'"),
        (["--model", "qwen2.5-vl-7b", "--data", "DATA"], "'qwen2.5-vl-7b' cannot be used"),
        (["--model", "BARE", "--data", "DATA", "--plan"], "a folder must hold what save_pretrained writes"),
        (["--model", "toy-vl", "--data", "DATA", "--frames", "5"], "5"),
    ],
)
def test_wrong_use_is_one_line_and_exit_code_2(argv, says, capsys, packed, tmp_path):
    places = {
        "DATA": packed,
        "RARE": f"{packed}:0.001",
        "BARE": tmp_path,
    }  # a model of which only config.json is there
    shutil.copy(TOY_VL / "config.json", tmp_path)
    argv = [str(places.get(a, a)) for a in argv]
    assert main([*argv, "--output_dir", str(tmp_path / "out")]) == 2
    err = capsys.readouterr().err
    assert err.count("\n") == 1 and says in err and err.startswith("vtrap-train: ")


@pytest.mark.parametrize("dash", ["-", "_"])
def test_flags_may_be_spelt_with_dashes(dash, tmp_path):
    words = "--model toy-vl --tokens_per_batch 300 --eval_tasks image,video --push_to_hub --hub_model_id a/b"
    words += " --turns joined --streaming --streaming_shards 3 --lora_r 4 --max_skip_rate 0.5 --save_steps 7"
    parsed = parse([w.replace("_", dash) if w.startswith("--") else w for w in words.split()])
    arguments, config = parsed.arguments, parsed.config
    assert (config.tokens_per_batch, config.eval_tasks, config.publish) == (300, "image,video", True)
    assert (config.hub_model_id, config.save_steps) == ("a/b", 7)
    assert (arguments.turns, arguments.streaming, arguments.streaming_shards) == ("joined", True, 3)
    assert (arguments.lora_r, arguments.max_skip_rate) == (4, 0.5)


@pytest.mark.parametrize("flag", ["--lora_r", "--lora-r"])
def test_adapters_are_not_refused_for_what_a_recipe_freezes(flag, tmp_path):
    assert parse(["--model", "qwen2.5-vl-3b"]).arguments.freeze == ["vision"]
    assert parse(["--model", "qwen2.5-vl-3b", flag, "0"]).arguments.freeze == ["vision"]
    adapters = parse(["--model", "qwen2.5-vl-3b", flag, "64"]).arguments
    assert (adapters.lora_r, adapters.freeze) == (64, [])
    (tmp_path / "mine.yaml").write_text("lora_r: 8\n")
    adapters = parse(["--model", "qwen2.5-vl-3b", "--config", str(tmp_path / "mine.yaml")]).arguments
    assert (adapters.lora_r, adapters.freeze) == (8, [])
    with pytest.raises(UsageError, match="--lora_target"):
        parse(["--model", "qwen2.5-vl-3b", flag, "64", "--freeze", "vision"])


def test_what_a_recipe_freezes_may_be_trained(tmp_path):
    words = ["--model", "qwen2.5-vl-7b", "--vision_learning_rate", "1e-6"]
    assert parse([*words, "--freeze", "none"]).arguments.freeze == []
    (tmp_path / "all.yaml").write_text("freeze: none\n")
    assert parse([*words, "--config", str(tmp_path / "all.yaml")]).arguments.freeze == []


def test_the_old_name_of_a_setting_wins_where_it_is_said_more_strongly(tmp_path):
    (tmp_path / "a.yaml").write_text("activation_checkpointing: true\n")
    words = ["--model", "toy-vl", "--config", str(tmp_path / "a.yaml")]
    assert parse(words).config.activation_checkpointing is True  # the recipe says no, by the old name
    assert parse([*words, "--gradient_checkpointing", "false"]).config.activation_checkpointing is False
    assert parse([*words, "--gradient-checkpointing=false"]).config.activation_checkpointing is False


def test_an_output_folder_is_the_one_that_was_asked_for():
    assert parse(["--model", "toy-vl", "--output_dir", "trainer_output"]).config.output_dir == "trainer_output"


def test_config_with_an_unknown_key(tmp_path, capsys):
    path = tmp_path / "bad.yaml"
    path.write_text("model: toy-vl\nlerning_rate: 1\n")
    assert main([f"--config={path}"]) == 2
    assert "lerning_rate" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("line", "says"),
    [
        ("dtype: float16", "sets dtype to 'float16': argument --dtype: invalid choice"),
        ("turns: both", "sets turns to 'both': argument --turns: invalid choice"),
        ("max_steps: 2.5", "invalid int value: '2.5'"),
        ("learning_rate: true", "sets learning_rate to True"),
        ("frames: [8, 16]", "one value is wanted"),
        ("eval_tasks: [toy-image]", "sets eval_tasks to ['toy-image']"),
        ("report_to: no", "put it in quotes"),  # which YAML reads as false
        ("freeze: [[vision]]", "sets freeze to [['vision']]"),
        ("seed: null", "sets seed to None"),
        ("resume_from_checkpoint: a/b", "--resume_from_checkpoint a/b is not possible"),
    ],
)
def test_yaml_may_say_what_a_flag_may_say(line, says, tmp_path, capsys):
    path = tmp_path / "mine.yaml"
    path.write_text(f"{line}\n")
    assert main(["--model", "toy-vl", "--config", str(path)]) == 2
    err = capsys.readouterr().err
    assert err.count("\n") == 1 and says in err


def test_yaml_values_become_what_flags_become(tmp_path):
    path = tmp_path / "mine.yaml"
    path.write_text(
        "frames: 16\nfreeze: projector\nlearning_rate: 1e-5\nbf16: false\nlora_alpha: null\nweight_decay: 1\n"
        "lr_scheduler_kwargs: {num_cycles: 2}\nrun_name: 2026-01-02\n"
    )
    arguments, config, *_ = parse(["--model", "toy-vl", "--config", str(path)])
    assert (arguments.frames, arguments.freeze, arguments.lora_alpha) == ("16", ["projector"], None)
    assert (config.learning_rate, config.bf16, config.weight_decay) == (1e-5, False, 1.0)
    assert (config.lr_scheduler_kwargs, config.run_name) == ({"num_cycles": 2}, "2026-01-02")


def test_epochs_asked_for_more_strongly_count_although_something_weaker_says_steps(tmp_path):
    assert parse(["--model", "toy-vl"]).config.max_steps == 300  # of the recipe
    (tmp_path / "e.yaml").write_text("num_train_epochs: 2\n")
    (tmp_path / "s.yaml").write_text("max_steps: 7\n")
    epochs, steps = str(tmp_path / "e.yaml"), str(tmp_path / "s.yaml")
    for words, length in (
        (["--num_train_epochs", "2"], (-1, 2)),
        (["--num-train-epochs=2"], (-1, 2)),
        (["--config", epochs], (-1, 2)),
        (["--config", f"{steps},{epochs}"], (-1, 2)),
        (["--config", steps, "--num_train_epochs", "2"], (-1, 2)),
        (["--config", f"{epochs},{steps}"], (7, 2)),  # then Trainer goes by the steps
        (["--config", epochs, "--max_steps", "9"], (9, 2)),
    ):
        config = parse(["--model", "toy-vl", *words]).config
        assert (config.max_steps, config.num_train_epochs) == length, words


def test_every_recipe_parses_and_every_preset_is_safe_on_a_cpu():
    for name in RECIPES:
        assert parse(["--model", name]).config.learning_rate > 0
    for path in PRESETS.values():
        preset = json.loads(path.read_text())
        assert "optimizer" not in preset  # would compile a C++ optimiser
        assert preset["zero_optimization"]["overlap_comm"] is False


def test_parse_data_and_frames():
    assert parse_data("a, b:0.5,c/d:2") == (
        Part(location="a"),
        Part(location="b", weight=0.5),
        Part(location="c/d", weight=2.0),
    )
    assert parse_data("odd:name") == (Part(location="odd:name"),)
    assert parse_data("a:90%,b:10%") == (Part(location="a", share=0.9), Part(location="b", share=0.1))
    assert parse_data("http://h:8000, http://h:8000:0.5, https://h/x:2") == (
        Part(location="http://h:8000"),
        Part(location="http://h:8000", weight=0.5),
        Part(location="https://h/x", weight=2.0),
    )
    assert parse_frames("8") == 8 and parse_frames("hybrid") == "hybrid"


def test_a_revision_of_a_dataset_on_the_hub_is_what_is_opened(packed, tmp_path, monkeypatch):
    held = tmp_path / "datasets--ann--tiny"
    for revision, commit in (("main", "0" * 40), ("v1", "1" * 40)):  # as the client leaves what it has downloaded
        (held / "refs").mkdir(parents=True, exist_ok=True)
        (held / "refs" / revision).write_text(commit)
        shutil.copytree(packed, held / "snapshots" / commit)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    assert locate("ann/tiny@v1").name == "1" * 40
    assert locate("ann/tiny").name == "0" * 40
    mixture = Mixture(parse_data(f"ann/tiny@v1,ann/tiny,{packed}"), frames="hybrid", seed=0)
    assert mixture.on_hub() == [*({"id": "ann/tiny", "revision": commit * 40} for commit in "10"), None]


def test_mixture_weights_say_how_often_an_item_is_seen(packed_by_kind, monkeypatch):
    video, images = str(packed_by_kind["video"]), str(packed_by_kind["images"])
    parts = [Part(location=video, weight=2), Part(location=images, weight=0.5)]
    mixture = Mixture(parts, frames=2, seed=3)
    assert [(d["items"], d["per_epoch"]) for d in mixture.describe()] == [(12, 24), (6, 3)]
    assert mixture.sources == ("toy-images", "toy-videos")
    kinds = [mixture[row].kind for row in range(len(mixture))]
    assert kinds == mixture.column("kind").tolist() == ["video"] * 24 + ["images"] * 3
    again = Mixture(parts, frames=2, seed=3)
    assert (again.rows == mixture.rows).all()
    assert all(mixture[row].item.messages == mixture.outline(row).messages for row in (0, 13, 25))
    shard = mixture.datasets[1].column("shard")[0]
    monkeypatch.setattr(PackedDataset, "column", None)  # a skipped sample must not cost the names of all shards
    assert mixture.shard_of(24) == f"{images}/{shard}"


@pytest.mark.parametrize("share", [0.1, 0.5, 0.8])
def test_shares_are_those_of_an_epoch(share, packed_by_kind):
    data = f"{packed_by_kind['video']}:{100 - 100 * share:g}%,{packed_by_kind['images']}:{100 * share:g}%"
    mixture = Mixture(parse_data(data), frames=2, seed=0)
    video, images = (d["per_epoch"] for d in mixture.describe())
    assert video == 12 and abs(images - 12 * share / (1 - share)) <= 0.5
    seen = np.bincount(mixture.rows[mixture.rows[:, 0] == 1, 1], minlength=6)
    assert seen.max() - seen.min() <= 1  # none comes again before all have come
    assert "write a:90%" not in shares(mixture)
    parts = [Part(location=str(packed_by_kind[kind]), weight=0.5) for kind in ("video", "images")]
    assert "write a:90%" in shares(Mixture(parts, frames=2, seed=0))


def test_groups_cover_every_parameter_of_the_model(model_dir):
    from vtrap_data.encoding import load_model, resolve

    model = load_model(resolve(str(model_dir)))
    rates = {"vision": 1e-6, "projector": 1e-4, "language": 1e-5}
    groups.freeze(model, ["vision", "language"])
    facts = groups.facts(model, rates)
    assert sum(f.parameters for f in facts.values()) == sum(p.numel() for p in model.parameters())
    merger = sum(p.numel() for p in model.model.visual.merger.parameters())
    assert facts["projector"].parameters == facts["projector"].trainable == merger > 0
    assert facts["vision"].trainable == facts["language"].trainable == 0
    model.model.visual.patch_embed.proj.weight.requires_grad_(True)
    with pytest.raises(RuntimeError, match=r"1 parameters.*patch_embed"):
        groups.assert_frozen(model, ["vision", "language"])
    with pytest.raises(UsageError, match="nothing to train"):
        groups.freeze(model, ["vision", "projector", "language"])


def test_optimizer_groups_hold_every_trained_parameter_once(model_dir):
    from vtrap_data.encoding import load_model, resolve

    model = load_model(resolve(str(model_dir)))
    groups.freeze(model, ["vision"])
    decayed = {n for n, p in model.named_parameters() if p.ndim > 1}
    rates = {"vision": 1.0, "projector": 2.0, "language": 3.0}
    made = list(groups.optimizer_groups(model, decayed=decayed, weight_decay=0.1, rates=rates))
    held = [id(p) for g in made for p in g["params"]]
    assert sorted(held) == sorted(id(p) for p in model.parameters() if p.requires_grad)
    assert {g["lr"] for g in made} == {2.0, 3.0}
    assert all((g["weight_decay"] > 0) == (p.ndim > 1) for g in made for p in g["params"])


def test_a_rate_of_zero_is_zero():
    words = ["--model", "toy-vl", "--learning_rate", "1e-5", "--vision_learning_rate", "0"]
    parsed = parse(words)
    rates = learning_rates(parsed.arguments, parsed.config.learning_rate)
    assert rates == {"vision": 0.0, "projector": 1e-5, "language": 1e-5}


def test_ledger_forgets_what_came_after_a_step_and_survives_a_cut_line(tmp_path):
    lines = ledger.Lines(tmp_path / "a.jsonl")
    lines.append([{"step": 1, "x": "é"}, {"step": 2}])
    lines.append([{"step": 3}])
    with lines.path.open("a") as file:
        file.write('{"step": 4, "x": ')
    lines.rewind(2)
    assert lines.read() == [{"step": 1, "x": "é"}, {"step": 2}]
    assert list(tmp_path.iterdir()) == [lines.path]


def test_enforce_counts_against_the_whole_run():
    ledger.enforce(10, planned=1000, rate=0.01, last=None)
    with pytest.raises(FatalSampleError, match="11 samples were skipped"):
        ledger.enforce(11, planned=1000, rate=0.01, last=None)
    with pytest.raises(FatalSampleError):
        ledger.enforce(1, planned=30, rate=0.01, last=None)
    ledger.enforce(30, planned=30, rate=1.0, last=None)


def test_launch_passes_the_command_line_on():
    words = command(["--model", "toy-vl", "--gpus", "2"], count=2)
    assert words[1:] == ["-m", "vtrap_train.launch", "2", "--model", "toy-vl", "--gpus", "2"]


def test_one_of_several_gpus_is_a_process_that_sees_one(packed, tmp_path, monkeypatch):
    def launch(words, *, count):
        raise SystemExit(count)

    monkeypatch.setattr(torch.cuda, "device_count", lambda: 8)
    monkeypatch.setattr("vtrap_train.sharding.gpu_gb", lambda _: None)
    monkeypatch.setattr("vtrap_train.launch.launch", launch)
    with pytest.raises(SystemExit, match="1"):
        main(["--model", "toy-vl", "--data", str(packed), "--output_dir", str(tmp_path / "out"), "--gpus", "1"])


def test_a_plan_is_only_a_plan_and_publishing_is_asked_for_first_under_torchrun_too(
    packed, tmp_path, monkeypatch, capsys
):
    def refuse(model_id, *, output_dir):
        raise UsageError("you may not write there")

    monkeypatch.setattr("vtrap_train.launch.launched", lambda: True)
    monkeypatch.setattr("vtrap_train.push.prepare", refuse)
    out = tmp_path / "out"
    words = ["--model", "toy-vl", "--data", str(packed), "--output_dir", str(out), "--push_to_hub"]
    assert main([*words, "--plan"]) == 0
    assert "samples an epoch" in capsys.readouterr().out and not out.exists()
    assert main(words) == 2
    assert "you may not write there" in capsys.readouterr().err and not out.exists()


def test_totals_survive_json_bit_by_bit():
    from vtrap_train.totals import Totals

    totals = Totals.zeros(("a", "b"))
    facts = {
        "source": torch.tensor([1, 1, 0]),
        "kind": torch.tensor([0, 2, 0]),
        "frames": torch.tensor([4, 0, 2]),
        "visual_tokens": torch.tensor([32, 0, 16]),
        "real": torch.tensor([1, 1, 1]),
        "skips": [{}],
        "tokens": 60,
        "computed": 80,
    }
    totals.add(facts, loss=torch.tensor([0.1, 0.2, 0.3]), tokens=torch.tensor([1, 2, 3]))
    again = Totals.from_json(json.loads(json.dumps(totals.to_json())))
    assert torch.equal(again.vector, totals.vector)
    assert again.by_source()["b"].mean_loss == pytest.approx(0.1)
    assert again.by_kind()["video"].samples == 2 and again.by_kind()["images"].mean_loss is None
    assert (again.frames, again.visual_tokens, again.skipped) == (6, 48, 1)
    assert (again.tokens, again.padding) == (60, 0.25)
