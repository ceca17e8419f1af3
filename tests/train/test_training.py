"""Training with the real trainer on a tiny model: what it writes, how it resumes, what it freezes and skips."""

import json
import shutil
from collections import Counter, defaultdict
from functools import partial
from importlib.util import find_spec
from pathlib import Path

import pytest
import torch
from alike import log, moved, same
from safetensors.torch import load_file
from transformers import TrainerCallback
from transformers.integrations import HfDeepSpeedConfig

from vtrap_data.encoding import collate, encode, load_model, load_processor, preprocessing, resolve
from vtrap_data.encoding.tokens import IGNORE
from vtrap_data.errors import UsageError
from vtrap_data.loading.dataset import PackedDataset
from vtrap_train import memory
from vtrap_train.__main__ import main
from vtrap_train.config import parse
from vtrap_train.four_bits import load_in_four_bits
from vtrap_train.ledger import Lines
from vtrap_train.run import finished, run
from vtrap_train.sharding import PRESETS
from vtrap_train.trainer import last_checkpoint, load_weights

NO_FOUR_BITS = "QLoRA needs bitsandbytes, which has no build for this platform"


class Killed(Exception):
    pass


class KillAt(TrainerCallback):
    def __init__(self, step):
        self.step = step

    def on_step_begin(self, args, state, control, **_):
        if state.global_step == self.step:
            raise Killed


def argv(model, data, out, *more):
    fixed = "--max_steps 6 --per_device_train_batch_size 4 --learning_rate 1e-3 --logging_steps 1 --save_steps 3"
    return ["--model", str(model), "--data", str(data), "--output_dir", str(out), *fixed.split(), *map(str, more)]


@pytest.fixture(scope="module")
def straight(model_dir, packed, tmp_path_factory):
    """Six steps without an interruption."""
    out = tmp_path_factory.mktemp("straight") / "out"
    summary = run(parse(argv(model_dir, packed, out)))
    return out, summary


def test_the_output_is_an_ordinary_checkpoint_with_the_names_of_the_hub(straight, model_dir):
    out, _ = straight
    before, after = load_file(model_dir / "model.safetensors"), load_file(out / "model.safetensors")
    assert {k: (v.shape, v.dtype) for k, v in after.items()} == {k: (v.shape, v.dtype) for k, v in before.items()}
    assert any(not torch.equal(before[k], after[k]) for k in after)
    ref = resolve(str(out))
    assert json.loads((out / "preprocessing.json").read_text()) == json.loads(
        json.dumps(preprocessing(ref, load_processor(ref)))
    )
    assert (out / "model.safetensors").stat().st_mode & 0o777 == 0o644
    assert not list(out.rglob("training_args.bin"))
    assert torch.equal(load_model(ref).state_dict()["lm_head.weight"], after["model.embed_tokens.weight"])


def test_summary_and_loss_log_say_what_was_trained_on(straight):
    out, summary = straight
    assert summary == json.loads((out / "training_summary.json").read_text())
    assert (summary["steps"], summary["samples"], summary["frames"]) == (6, 24, "hybrid")
    assert sum(summary["samples_by_modality"].values()) == summary["samples"]
    assert summary["model_on_hub"] is None and [part["on_hub"] for part in summary["data"]] == [None]
    assert set(summary["loss_by_source"]) == {"toy-videos", "toy-images", "toy-text"}
    assert sum(summary["samples_by_source"].values()) == summary["samples"]
    shares = {k.removeprefix("share/"): v for k, v in log(out)[-1].items() if k.startswith("share/")}
    assert shares == pytest.approx({k: v / 24 for k, v in summary["samples_by_source"].items()})
    assert 0 < summary["mean_frames"] <= 16 and summary["visual_tokens"] > 0 and summary["skipped"] == 0
    lines = log(out)
    assert [line["step"] for line in lines] == [1, 2, 3, 4, 5, 6]
    assert lines[-1]["visual_tokens"] == summary["visual_tokens"]
    assert lines[-1]["loss"] < lines[0]["loss"]
    for line in lines:  # each for its own step: what is summed starts anew
        kinds = [v for k, v in line.items() if k.startswith("loss/modality/")]
        assert min(kinds) - 1e-5 <= line["loss"] <= max(kinds) + 1e-5


@pytest.mark.parametrize(
    "more",
    [
        ("--per_device_train_batch_size", 7, "--gradient_accumulation_steps", 3),
        ("--per_device_train_batch_size", 20, "--tokens_per_batch", 300, "--pack"),
    ],
)
def test_losses_by_source_and_modality_are_those_of_the_tokens(more, model_dir, packed, tmp_path):
    """One step over all 20 samples, against the losses of their tokens, each sample alone and worked out here."""
    ref = resolve(str(model_dir))
    processor, model = load_processor(ref), load_model(ref, dtype=torch.float32).eval()
    tokens = defaultdict(list)
    for example in PackedDataset(packed):
        batch = collate([encode(example, processor, train=True)], processor)
        labels = batch.pop("labels")[0, 1:]
        with torch.no_grad():
            words = model(**batch).logits[0, :-1].log_softmax(dim=-1)
        found = [-words[place, label].item() for place, label in enumerate(labels.tolist()) if label != IGNORE]
        for key in ("loss", f"loss/source/{example.source}", f"loss/modality/{example.kind}"):
            tokens[key] += found
    expected = {key: sum(values) / len(values) for key, values in tokens.items()}
    assert len(expected) == 1 + 3 + 3
    out = tmp_path / "out"
    summary = run(parse(argv(model_dir, packed, out, "--max_steps", 1, "--save_strategy", "no", *more)))
    (line,) = log(out)
    assert {k: v for k, v in line.items() if k.startswith("loss")} == pytest.approx(expected, rel=1e-5)
    for kind in ("source", "modality"):
        told = {f"loss/{kind}/{name}": loss for name, loss in summary[f"loss_by_{kind}"].items()}
        assert told == pytest.approx({k: v for k, v in expected.items() if k in told}, rel=1e-5)


@pytest.mark.parametrize("at", [1, 2, 3, 4, 5])  # before, at and after the first checkpoint
def test_a_killed_run_goes_on_as_if_nothing_had_happened(at, straight, model_dir, packed, tmp_path):
    whole, expected = straight
    out = tmp_path / "out"
    words = argv(model_dir, packed, out)
    with pytest.raises(Killed):
        run(parse(words), callbacks=[KillAt(at)])
    assert len(log(out)) == at  # what came after the checkpoint will be done, and logged, again
    half = out / "checkpoint-5"  # a crash while writing
    if at == 4:
        assert last_checkpoint(out).name == "checkpoint-3"
        shutil.copytree(out / "checkpoint-3", half)
        (half / "trainer_state.json").write_text('{"global_step": 5')
    more = ["--save_steps", "1"] if at == 5 else []  # how often is saved may change
    summary = run(parse([*words, *more]))
    assert half.exists() == (at == 5)
    assert log(out) == log(whole)
    assert same(whole, out)
    assert {k: v for k, v in summary.items() if k != "seconds"} == {
        k: v for k, v in expected.items() if k != "seconds"
    }


def test_a_run_grouped_by_length_goes_on_in_the_order_that_it_began(model_dir, packed, tmp_path):
    """In the second epoch (20 samples of which a step takes four), whatever dropout has drawn before."""
    outs = [tmp_path / "whole", tmp_path / "killed"]
    more = ["--train_sampling_strategy", "group_by_length", "--lora_r", 2, "--lora_dropout", 0.2, "--max_steps", 7]
    run(parse(argv(model_dir, packed, outs[0], *more)))
    with pytest.raises(Killed):
        run(parse(argv(model_dir, packed, outs[1], *more)), callbacks=[KillAt(6)])
    run(parse(argv(model_dir, packed, outs[1], *more)))
    assert log(outs[0]) == log(outs[1]) and same(*outs)


def test_a_run_killed_after_its_last_step_takes_no_further_one(straight, model_dir, packed, tmp_path):
    """Between its last checkpoint and the weights, in the middle of an epoch: Trainer would go on with its samples."""
    whole, expected = straight
    out = tmp_path / "out"
    shutil.copytree(whole, out)
    for name in ("model.safetensors", "training_summary.json"):
        (out / name).unlink()
    steps = expected["steps"]
    assert last_checkpoint(out).name == f"checkpoint-{steps}" and steps * 4 % len(PackedDataset(packed))
    summary = run(parse(argv(model_dir, packed, out)))
    assert summary["steps"] == steps and last_checkpoint(out).name == f"checkpoint-{steps}"
    assert log(out) == log(whole) and same(whole, out)
    assert {k: v for k, v in summary.items() if k != "seconds"} == {
        k: v for k, v in expected.items() if k != "seconds"
    }


def test_checkpoints_of_another_program_are_left_alone(model_dir, packed, tmp_path, capsys):
    foreign = tmp_path / "out" / "checkpoint-9" / "model.safetensors"
    foreign.parent.mkdir(parents=True)
    foreign.write_bytes(b"precious")
    assert main(argv(model_dir, packed, tmp_path / "out")) == 2
    assert "checkpoint-9 of another program" in capsys.readouterr().err
    assert foreign.read_bytes() == b"precious"


def test_what_somebody_put_beside_the_checkpoints_is_not_removed(model_dir, packed, tmp_path, capsys):
    """A model that was exported by hand: it has no optimiser, and looks like a checkpoint that was cut short."""
    out = tmp_path / "out"
    words = argv(model_dir, packed, out, "--max_steps", 2)
    with pytest.raises(Killed):
        run(parse([*words, "--save_steps", "1"]), callbacks=[KillAt(1)])
    aside = out / "checkpoint-1-merged" / "model.safetensors"
    aside.parent.mkdir()
    aside.write_bytes(b"precious")
    assert main(words) == 2
    assert "holds checkpoint-1-merged, which is no checkpoint" in capsys.readouterr().err
    assert aside.read_bytes() == b"precious"
    aside.parent.rename(out / "merged-1")
    (out / "checkpoint-notes.txt").write_text("a file is nobody's checkpoint")
    assert main([*words, "--save_steps", "1"]) == 0
    aside = shutil.copytree(out / "merged-1", out / "checkpoint-1-merged")
    assert main(words) == 0  # finished: nothing is removed any more


def test_training_does_not_overwrite_the_model_that_it_starts_from(model_dir, packed, tmp_path, capsys):
    model = shutil.copytree(model_dir, tmp_path / "model")
    (tmp_path / "link").symlink_to(model)
    assert main(argv(model, packed, tmp_path / "link", "--lora_r", 2)) == 2
    assert "is the model that training starts from" in capsys.readouterr().err
    assert same(model, model_dir) and not (model / "settings.json").exists()


def test_a_finished_run_of_which_nobody_knows_the_settings_is_not_taken_for_this_one(straight, tmp_path):
    out, summary = straight
    settings = json.loads((out / "settings.json").read_text())
    shutil.copy(out / "training_summary.json", tmp_path)
    assert finished(tmp_path, settings) == summary
    with pytest.raises(UsageError, match="says which"):
        finished(tmp_path, settings | {"seed": 7})


def test_a_corpus_that_was_packed_anew_is_told_from_the_one_before(tmp_path):
    """What is said of the two begins alike."""
    before, now = ({"data": [{"data": "a" * 99, "index_sha256": digest}], "world_size": 2} for digest in ("aa", "bb"))
    (tmp_path / "settings.json").write_text(json.dumps(before))
    (tmp_path / "training_summary.json").write_text("{}")
    with pytest.raises(UsageError, match=r'\(data\[0\].index_sha256 "aa" -> "bb"\)'):
        finished(tmp_path, now)


@pytest.mark.parametrize(
    ("more", "says"),
    [
        (("--attn_implementation", "flash_attention_3"), "FlashAttention3"),
        (("--lr_scheduler_kwargs", '{"x": 1}'), "unexpected keyword argument 'x'"),
        (("--adam_beta1", 2), "Invalid beta parameter"),
        (("--report_to", "papyrus"), "papyrus is not supported"),
        (("--lora_r", 2, "--lora_target", "lm_head"), "`lm_head` is not supported"),
        (("--lora_r", 2, "--lora_target", "nothing"), "whole names such as 'model.language_model.layers."),
    ],
)
def test_what_a_library_refuses_is_one_line(more, says, model_dir, packed, tmp_path, capsys):
    assert main(argv(model_dir, packed, tmp_path / "out", *more)) == 2
    assert says in capsys.readouterr().err.splitlines()[-1]


def test_labels_may_be_smoothed(straight, model_dir, packed, tmp_path):
    """The losses by source and modality stay those of the labels; accumulated steps learn what whole ones do."""
    outs = [tmp_path / "whole", tmp_path / "accumulated"]
    for out, batch in zip(outs, (4, 1), strict=True):
        more = ["--per_device_train_batch_size", batch, "--gradient_accumulation_steps", 4 // batch]
        run(parse(argv(model_dir, packed, out, *more, "--label_smoothing_factor", 0.2, "--max_steps", 2)))
    (first, last), accumulated = log(outs[0]), log(outs[1])
    plain = log(straight[0])[0]
    assert first["loss"] != pytest.approx(plain["loss"], rel=1e-4)
    assert {k: v for k, v in first.items() if k.startswith("loss/")} == pytest.approx(
        {k: v for k, v in plain.items() if k.startswith("loss/")}, rel=1e-6
    )
    assert [a["loss"] for a in accumulated] == pytest.approx([first["loss"], last["loss"]], rel=1e-5)


def test_a_checkpoint_that_was_being_removed_is_known_as_ours(tmp_path, monkeypatch):
    # Ctrl-C in the middle of the removal of an old one: what is left may be anything of it.
    (tmp_path / "checkpoint-2").mkdir()
    (tmp_path / "checkpoint-2" / "model.safetensors").write_bytes(b"half")
    with pytest.raises(UsageError, match="of another program"):
        finished(tmp_path, {"seed": 0})
    (tmp_path / "settings.json").write_text('{"seed": 0}')
    assert finished(tmp_path, {"seed": 0}) is None
    monkeypatch.setattr("vtrap_train.run.ours", Path.rmdir)  # another rank removes it while this one looks
    assert finished(tmp_path, {"seed": 0}) is None


def test_a_finished_run_says_so_and_another_one_is_refused(straight, model_dir, packed, capsys):
    out, _ = straight
    stamp = (out / "model.safetensors").stat().st_mtime_ns
    assert main(argv(model_dir, packed, out, "--logging_steps", 2)) == 0  # how it is logged is no difference
    err = capsys.readouterr().err
    assert "is finished (6 steps, same settings)" in err and f"{model_dir}: no recipe" in err
    assert main(argv(model_dir, packed, out, "--frames", 4)) == 2
    assert 'frames "hybrid" -> "4"' in capsys.readouterr().err
    assert (out / "model.safetensors").stat().st_mtime_ns == stamp


def test_weights_come_back_from_a_checkpoint_and_a_missing_one_is_an_error(straight, model_dir, tmp_path):
    out, _ = straight
    model = load_model(resolve(str(model_dir)))
    stock = {k: v.clone() for k, v in model.state_dict().items()}
    # What Trainer does by itself: the names do not match, nothing is restored, nothing is said.
    model.load_state_dict(load_file(out / "model.safetensors"), strict=False)
    changed = sum(not torch.equal(v, stock[k]) for k, v in model.state_dict().items())
    load_weights(model, out)
    restored = sum(not torch.equal(v, stock[k]) for k, v in model.state_dict().items())
    assert changed < restored
    want = load_model(resolve(str(out))).state_dict()
    assert all(torch.equal(v, want[k]) for k, v in model.state_dict().items())


def test_frozen_groups_do_not_move_and_rates_differ(model_dir, packed, tmp_path):
    out = tmp_path / "out"
    more = ["--freeze", "vision", "--projector_learning_rate", "0.01", "--max_steps", 2]
    summary = run(parse(argv(model_dir, packed, out, *more)))
    before, after = load_file(model_dir / "model.safetensors"), load_file(out / "model.safetensors")
    moved = {k for k in before if not torch.equal(before[k], after[k])}
    vision = {k for k in before if k.startswith("visual.") and "merger" not in k}
    assert vision and not moved & vision
    assert moved == set(before) - vision
    assert log(out)[0]["learning_rate"] == 0.001  # that of --learning_rate, whatever others there are
    rates = {name: row["learning_rate"] for name, row in summary["groups"].items()}
    assert rates == {"vision": None, "projector": 0.01, "language": 0.001}


def test_samples_over_the_ceiling_are_skipped_and_listed(model_dir, packed, tmp_path, monkeypatch):
    out = tmp_path / "out"
    monkeypatch.setattr(Lines, "read", None)  # as long as it is not too many, nobody looks at what was skipped before
    more = ["--max_tokens", 60, "--frames", 16, "--max_skip_rate", 1, "--per_device_train_batch_size", 2]
    summary = run(parse(argv(model_dir, packed, out, *more)))
    listed = [json.loads(line) for line in (out / "skipped.jsonl").read_text().splitlines()]
    assert summary["skipped"] == len(listed) > 0
    assert summary["samples"] + summary["skipped"] == 12
    assert summary["samples_by_modality"]["video"] == 0  # 16 frames are 128 tokens
    for line in listed:
        assert line["reason"] == "too-long" and line["source"] == "toy-videos" and "--max_tokens" in line["detail"]
        assert 1 <= line["step"] <= 6


def test_batches_without_a_single_good_sample_train_nothing_and_end_well(model_dir, packed_by_kind, tmp_path, capsys):
    out = tmp_path / "out"
    more = ["--max_tokens", 5, "--max_skip_rate", 1, "--max_steps", 2]
    assert main(argv(model_dir, packed_by_kind["video"], out, *more)) == 0
    assert "0 samples, 0 visual tokens, no loss, 8 skipped" in capsys.readouterr().out
    summary = json.loads((out / "training_summary.json").read_text())
    assert (summary["samples"], summary["skipped"], summary["train_loss"]) == (0, 8, None)
    before, after = load_file(model_dir / "model.safetensors"), load_file(out / "model.safetensors")
    assert all(torch.equal(before[k], after[k]) for k in before)


@pytest.mark.parametrize("seen", [True, False])
def test_too_many_bad_samples_stop_training_with_exit_code_1(seen, model_dir, packed, tmp_path, capsys, monkeypatch):
    out = tmp_path / "out"
    if not seen:  # another node wrote it down, and the file has not come yet
        monkeypatch.setattr(Lines, "append", lambda self, records: None)
    assert main(argv(model_dir, packed, out, "--max_tokens", 60, "--frames", 16)) == 1
    err = capsys.readouterr().err
    assert "vtrap-train: 1 samples were skipped" in err and "--max_skip_rate" in err and "Traceback" not in err
    assert ("The last one: " in err) == seen
    assert not (out / "training_summary.json").exists()


def test_lora_ends_as_an_ordinary_checkpoint_beside_its_adapter(model_dir, packed, tmp_path):
    out = tmp_path / "out"
    words = argv(model_dir, packed, out, "--lora_r", 4, "--lora_target", "language+projector")
    with pytest.raises(Killed):
        run(parse(words), callbacks=[KillAt(4)])
    summary = run(parse(words))
    base, merged = load_file(model_dir / "model.safetensors"), load_file(out / "model.safetensors")
    assert set(base) == set(merged)
    moved = {k for k in base if not torch.equal(base[k], merged[k])}
    assert moved and all("proj" in k or "merger" in k for k in moved)
    assert not any(k.startswith("visual.blocks") for k in moved)
    assert summary["groups"]["vision"]["trainable"] == 0 < summary["groups"]["projector"]["trainable"]
    assert (out / "adapter" / "adapter_model.safetensors").is_file()
    load_model(resolve(str(out)))


def test_workers_change_nothing_and_a_run_with_them_goes_on_exactly(straight, model_dir, packed, tmp_path):
    whole, out = straight[0], tmp_path / "out"
    words = argv(model_dir, packed, out, "--dataloader_num_workers", 2)
    with pytest.raises(Killed):
        run(parse(words), callbacks=[KillAt(5)])
    assert log(out) == log(whole)[:5]  # the workers were ahead of what had been learned
    run(parse(words))
    assert log(out) == log(whole)
    assert same(whole, out)


class Loader(TrainerCallback):
    def on_train_begin(self, args, state, control, train_dataloader, **_):
        self.loader = train_dataloader


def test_batches_by_tokens_are_loaded_as_asked(model_dir, packed, tmp_path):
    kept = Loader()
    more = ["--tokens_per_batch", 200, "--dataloader_num_workers", 1, "--dataloader_prefetch_factor", 3]
    more += ["--dataloader_persistent_workers", "--max_steps", 1, "--save_strategy", "no"]
    run(parse(argv(model_dir, packed, tmp_path / "out", *more)), callbacks=[kept])
    assert (kept.loader.prefetch_factor, kept.loader.persistent_workers) == (3, True)


class Watch(TrainerCallback):
    """How often a layer of the vision tower and one of the language model are run, and on which type."""

    def __init__(self):
        self.calls, self.dtypes = Counter(), set()

    def on_train_begin(self, args, state, control, model, **_):
        for name in ("visual.blocks", "language_model.layers"):
            # Recomputing ends as soon as it has what the backward pass needs: here it has to come by.
            layer = model.get_submodule(f"model.{name}.0.mlp.down_proj")
            layer.register_forward_pre_hook(partial(self.note, name))

    def note(self, name, layer, inputs):
        self.calls[name] += 1
        self.dtypes.add(inputs[0].dtype)


@pytest.mark.parametrize(
    ("more", "dtype", "loss", "weights"),
    [
        (("--gradient_checkpointing", "true"), torch.float32, 0.0, 0.0),
        (("--gradient_checkpointing", "true", "--bf16", "true"), torch.bfloat16, 0.01, 0.2),
    ],
)
def test_recomputing_learns_the_same_and_bf16_about(more, dtype, loss, weights, straight, model_dir, packed, tmp_path):
    watch, out = Watch(), tmp_path / "out"
    run(parse(argv(model_dir, packed, out, *more)), callbacks=[watch])
    lines = log(out)
    pixels = sum(f"loss/modality/{kind}" in line for kind in ("video", "images") for line in lines)  # each by itself
    assert watch.calls == {"visual.blocks": 2 * pixels, "language_model.layers": 2 * 6} and watch.dtypes == {dtype}
    assert [a["loss"] for a in lines] == pytest.approx([b["loss"] for b in log(straight[0])], rel=loss)
    found, *others = (load_file(folder / "model.safetensors") for folder in (out, straight[0], model_dir))
    assert {v.dtype for v in found.values()} == {torch.float32} and moved(found, *others) <= weights


def test_killed_lora_goes_on_exactly(model_dir, packed, tmp_path):
    outs = [tmp_path / "whole", tmp_path / "killed"]
    more = ["--lora_r", 4, "--lora_dropout", 0.1]
    run(parse(argv(model_dir, packed, outs[0], *more)))
    with pytest.raises(Killed):
        run(parse(argv(model_dir, packed, outs[1], *more)), callbacks=[KillAt(4)])
    run(parse(argv(model_dir, packed, outs[1], *more)))
    assert log(outs[0]) == log(outs[1])
    for name in ("model.safetensors", "adapter/adapter_model.safetensors"):
        assert same(*(out / name for out in outs))


def test_four_bits_without_bitsandbytes_is_one_line(model_dir, packed, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr("vtrap_train.four_bits.find_spec", lambda name: None)
    assert main(argv(model_dir, packed, tmp_path / "out", "--lora_r", 4, "--lora_4bit")) == 2
    assert "pip install bitsandbytes" in capsys.readouterr().err


def test_four_bits_do_not_go_with_zero3(model_dir):
    pytest.importorskip("bitsandbytes", reason=NO_FOUR_BITS)
    zero3 = HfDeepSpeedConfig(json.loads(PRESETS["zero3"].read_text()))  # in force as long as it lives
    with pytest.raises(UsageError, match="--deepspeed zero2"):
        load_in_four_bits(resolve(str(model_dir)), dtype=torch.float32, attn_implementation="sdpa")
    del zero3


def test_four_bits_train_adapters_only_and_go_on_exactly(model_dir, packed, tmp_path):
    pytest.importorskip("bitsandbytes", reason=NO_FOUR_BITS)
    outs = [tmp_path / "whole", tmp_path / "killed"]
    more = ["--lora_r", 4, "--lora_4bit", "--max_steps", 4, "--per_device_train_batch_size", 20]  # all, in each step
    more += ["--learning_rate", 1e-2, "--save_steps", 2]
    summary = run(parse(argv(model_dir, packed, outs[0], *more)))
    lines = log(outs[0])
    assert lines[-1]["loss"] < lines[0]["loss"] and summary["groups"]["vision"]["trainable"] == 0
    with pytest.raises(Killed):
        run(parse(argv(model_dir, packed, outs[1], *more)), callbacks=[KillAt(3)])
    run(parse(argv(model_dir, packed, outs[1], *more)))
    assert log(outs[1]) == lines
    adapter = load_file(outs[0] / "adapter" / "adapter_model.safetensors")
    assert {v.dtype for v in adapter.values()} == {torch.float32}
    base, merged, again = (load_file(d / "model.safetensors") for d in (model_dir, *outs))
    assert set(base) == set(merged) and all(torch.equal(merged[k], again[k]) for k in base)
    moved = {k for k in base if not torch.equal(base[k], merged[k])}
    assert moved and all("layers" in k and "visual" not in k for k in moved)


def test_four_bits_are_for_the_language_model(model_dir):
    pytest.importorskip("bitsandbytes", reason=NO_FOUR_BITS)
    stored = load_in_four_bits(resolve(str(model_dir)), dtype=torch.float32, attn_implementation="sdpa")
    small = {n for n, m in stored.named_modules() if type(m).__name__ == "Linear4bit"}
    linear = {n for n, m in stored.named_modules() if isinstance(m, torch.nn.Linear)}
    assert small == {n for n in linear if ".language_model." in n}
    # The plan counts what is really there: the small weights, two in a byte, and all others in 32 bits.
    counts = memory.count(stored.config, parse(argv(model_dir, "data", "out", "--lora_r", 4, "--lora_4bit")).arguments)
    weights = {id(p): p for p in stored.parameters()}.values()
    packed_two = [p for p in weights if p.dtype == torch.uint8]
    assert len(packed_two) == len(small) and counts.small == 2 * sum(p.numel() for p in packed_two)
    assert counts.total - counts.small == sum(p.numel() for p in weights if p.dtype == torch.float32)


@pytest.mark.parametrize("tracker", ["trackio", "wandb"])
def test_offline_trackers_get_every_step(tracker, model_dir, packed, tmp_path, monkeypatch):
    if find_spec(tracker) is None:  # looked for, not imported: trackio reads its folder on import
        pytest.skip(f"{tracker} has an environment of its own: scripts/test runs this there")
    monkeypatch.setenv("TRACKIO_DIR", str(tmp_path / "trackio"))
    monkeypatch.setenv("WANDB_MODE", "offline")
    monkeypatch.setenv("WANDB_DIR", str(tmp_path))
    run(parse(argv(model_dir, packed, tmp_path / "out", "--report_to", tracker, "--max_steps", 2)))
    written = [p for p in (tmp_path / tracker).rglob("*") if p.is_file()]
    assert written and sum(p.stat().st_size for p in written) > 100


def test_tensorboard_gets_what_the_loss_log_gets(model_dir, packed, tmp_path, monkeypatch):
    events = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator")
    monkeypatch.setenv("TENSORBOARD_LOGGING_DIR", str(tmp_path / "board"))
    run(parse(argv(model_dir, packed, tmp_path / "out", "--report_to", "tensorboard", "--max_steps", 2)))
    board = events.EventAccumulator(str(tmp_path / "board")).Reload()
    for name in ("loss", "loss/modality/video", "share/toy-images", "padding"):
        told = {event.step: event.value for event in board.Scalars(f"train/{name}")}
        assert told == pytest.approx({line["step"]: line[name] for line in log(tmp_path / "out") if name in line})
        assert told


@pytest.mark.parametrize("tracker", ["tensorboard", "trackio", "wandb"])
def test_a_tracker_that_is_missing_is_one_line(tracker, model_dir, packed, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr("vtrap_train.config.find_spec", lambda name: None)
    assert main(argv(model_dir, packed, tmp_path / "out", "--report_to", tracker)) == 2
    err = capsys.readouterr().err
    assert f"--report_to {tracker}" in err and f"pip install {tracker}" in err


def test_ties_are_checked_and_told(model_dir):
    from vtrap_train.groups import assert_tied

    model = load_model(resolve(str(model_dir)))
    assert "counted once" in assert_tied(model)
    model.lm_head.weight = torch.nn.Parameter(model.lm_head.weight.detach().clone())
    with pytest.raises(RuntimeError, match="tie_word_embeddings is True"):
        assert_tied(model)
    model.config.text_config.tie_word_embeddings = False
    assert assert_tied(model) == ""
