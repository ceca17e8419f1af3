"""What goes wrong on the way: each a clear message, progress is kept, and the same command goes on."""

import json
import shutil
import subprocess
import sys

import pytest
import torch
from alike import log, same
from safetensors.torch import load_file

from vtrap_data.shards.index import read_index
from vtrap_train import trainer
from vtrap_train.__main__ import main
from vtrap_train.config import parse
from vtrap_train.run import run


def argv(model, data, out, *more):
    fixed = "--max_steps 6 --per_device_train_batch_size 2 --learning_rate 1e-3 --logging_steps 1 --save_steps 4"
    return [str(w) for w in ["--model", model, "--data", data, "--output_dir", out, *fixed.split(), *more]]


@pytest.fixture(scope="module")
def straight(model_dir, packed, tmp_path_factory):
    out = tmp_path_factory.mktemp("straight") / "out"
    run(parse(argv(model_dir, packed, out)))
    return out


def test_a_loss_that_is_no_number_stops_before_the_weights_are_spoilt(
    straight, model_dir, packed, tmp_path, monkeypatch, capsys
):
    stock = trainer.SFTTrainer.compute_loss
    calls = []

    def broken(self, *args, **kwargs):
        calls.append(1)
        loss = stock(self, *args, **kwargs)
        return loss * float("nan") if len(calls) == 4 else loss  # of the fourth step

    out = tmp_path / "out"
    with monkeypatch.context() as patch:
        patch.setattr(trainer.SFTTrainer, "compute_loss", broken)
        assert main(argv(model_dir, packed, out)) == 1
    err = capsys.readouterr().err
    assert "vtrap-train: the loss of step 4 is nan (items: " in err and "Traceback" not in err
    assert "--learning_rate" in err and f"What was learned before is in {out / 'checkpoint-3'}" in err
    assert all(torch.isfinite(v).all() for v in load_file(out / "checkpoint-3" / "model.safetensors").values())
    assert main(argv(model_dir, packed, out)) == 0  # the machine had a bad moment: nothing is lost
    assert log(out) == log(straight) and same(out, straight)


def test_two_trainings_do_not_write_one_folder(straight, model_dir, packed, tmp_path, monkeypatch, capsys):
    """The second comes while the first is in its third step, and after it has stopped."""
    out, argv_ = tmp_path / "out", argv(model_dir, packed, tmp_path / "out")
    stock = trainer.SFTTrainer.compute_loss
    calls, second = [], []

    def meanwhile(self, *args, **kwargs):
        calls.append(1)
        if len(calls) == 3:
            before = sorted(out.rglob("*"))
            second.append(
                subprocess.run([sys.executable, "-m", "vtrap_train", *argv_], capture_output=True, text=True)
            )
            assert sorted(out.rglob("*")) == before
        return stock(self, *args, **kwargs)

    with monkeypatch.context() as patch:
        patch.setattr(trainer.SFTTrainer, "compute_loss", meanwhile)
        run(parse(argv_))
    assert second[0].returncode == 2
    assert f"another training is writing --output_dir {str(out)!r}: wait for it" in second[0].stderr
    assert same(out, straight)
    assert main(argv_) == 0 and "is finished" in capsys.readouterr().err


def test_dropout_and_log_lines_go_on_as_if_no_step_had_been_broken_off(model_dir, packed, tmp_path, monkeypatch):
    """In the middle of an epoch, and in the first step of one (20 samples, of which a step takes four).

    A log line is for seven steps, so it sums up what two processes before it have seen.
    """
    stock = trainer.SFTTrainer.compute_loss
    more = "--max_steps 7 --per_device_train_batch_size 1 --gradient_accumulation_steps 4 --logging_steps 7"
    words = [*more.split(), "--lora_r", 2, "--lora_dropout", 0.2]
    straight, out = tmp_path / "straight", tmp_path / "out"
    run(parse(argv(model_dir, packed, straight, *words)))
    for passes, last in ((10, 2), (14, 5)):  # the second one of steps 3 and 6
        calls = []

        def broken(self, *args, calls=calls, passes=passes, **kwargs):
            calls.append(1)
            loss = stock(self, *args, **kwargs)
            return loss * float("nan") if len(calls) == passes else loss

        with monkeypatch.context() as patch:
            patch.setattr(trainer.SFTTrainer, "compute_loss", broken)
            assert main(argv(model_dir, packed, out, *words)) == 1
        assert trainer.last_checkpoint(out).name == f"checkpoint-{last}"
    assert main(argv(model_dir, packed, out, *words)) == 0
    assert log(out) == log(straight) and len(log(out)) == 1 and same(out, straight)
    states = [json.loads((o / "checkpoint-7/trainer_state.json").read_text()) for o in (out, straight)]
    assert states[0]["total_flos"] == states[1]["total_flos"] > 0


@pytest.mark.parametrize("most", [1, 0])  # with and without clipping
def test_a_gradient_that_is_no_number_stops_before_the_weights_are_spoilt(
    most, model_dir, packed, tmp_path, monkeypatch, capsys
):
    stock, calls = torch.Tensor.backward, []

    def spoilt(self, *args, **kwargs):
        calls.append(1)
        return stock(self * (float("inf") if len(calls) == 3 else 1), *args, **kwargs)

    monkeypatch.setattr(torch.Tensor, "backward", spoilt)
    out = tmp_path / "out"
    assert main(argv(model_dir, packed, out, "--max_grad_norm", most)) == 1
    err = capsys.readouterr().err
    assert "the gradient of step 3 is nan although its loss is finite" in err and "checkpoint-2" in err


def test_a_log_that_cannot_be_written_is_one_line(model_dir, packed, tmp_path, monkeypatch, capsys):
    def full(*_, **__):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(trainer.Lines, "append", full)
    assert main(argv(model_dir, packed, tmp_path / "out")) == 1
    err = capsys.readouterr().err
    assert "No space left on device: make room" in err and "Traceback" not in err


def test_a_gpu_that_is_full_is_one_line(model_dir, packed, tmp_path, monkeypatch, capsys):
    def full(*_, **__):
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB.\nIt has 80 GiB.")

    monkeypatch.setattr(trainer.SFTTrainer, "compute_loss", full)
    assert main(argv(model_dir, packed, tmp_path / "out")) == 1
    told = capsys.readouterr().err.splitlines()[-1]
    assert "vtrap-train: CUDA out of memory. Tried to allocate 2.00 GiB. Less is needed with a" in told


def test_an_output_folder_that_cannot_be_is_wrong_use(model_dir, packed, tmp_path, capsys):
    assert main(argv(model_dir, packed, tmp_path / "caf\udce9")) == 2  # a byte that is no UTF-8
    assert "no UTF-8: choose another name" in capsys.readouterr().err and not list(tmp_path.iterdir())
    (tmp_path / "file").write_text("")
    assert main(argv(model_dir, packed, tmp_path / "file" / "out")) == 2
    assert f"Not a directory: '{tmp_path / 'file' / 'out'}'" in capsys.readouterr().err.splitlines()[-1]


def damage(corpus, kind):
    """Spoil the middle of the shard of a corpus. Returns the first row of the index that is hit, and the items."""
    rows = [r for r in read_index(corpus).to_pylist() if r["kind"] == "video"]
    rows.sort(key=lambda r: r["json_offset"])
    middle = rows[len(rows) // 2]
    with (corpus / middle["shard"]).open("r+b") as file:
        if kind == "cut":
            file.truncate(middle["frames_offset"])
            hit = {r["item_id"] for r in read_index(corpus).to_pylist() if r["json_offset"] >= middle["json_offset"]}
        else:
            start, size = middle[f"{kind}_offset"], middle[f"{kind}_size"]
            file.seek(start)
            file.write(b"\x7f" * size)
            hit = {r["item_id"] for r in rows if r["key"] == middle["key"]}
    return middle, hit


DAMAGES = ["json", "frames", "cut"]


@pytest.mark.parametrize("kind", DAMAGES)
def test_a_shard_that_is_damaged_in_the_middle_costs_what_it_holds_there(kind, model_dir, packed, tmp_path):
    broken = shutil.copytree(packed, tmp_path / "broken")
    middle, hit = damage(broken, kind)
    out = tmp_path / "out"
    summary = run(
        parse(argv(model_dir, broken, out, "--max_steps", -1, "--num_train_epochs", 1, "--max_skip_rate", 1))
    )
    listed = [json.loads(line) for line in (out / "skipped.jsonl").read_text().splitlines()]
    assert {line["reason"] for line in listed} == {"corrupt"}
    assert len(listed) == summary["skipped"] == len(hit)
    assert {line["sample"] for line in listed} <= hit | {middle["key"]}
    assert {line["shard"] for line in listed} == {str(broken / middle["shard"])}
    assert summary["samples"] == 20 - len(hit)


IN_ORDER = ("--train_sampling_strategy", "sequential")


@pytest.fixture(scope="module")
def in_order(model_dir, packed, tmp_path_factory):
    out = tmp_path_factory.mktemp("in_order") / "out"
    run(parse(argv(model_dir, packed, out, *IN_ORDER)))
    return out


@pytest.mark.parametrize("kind", ["json", "cut"])  # "frames" through the command itself: test_whole_runs.py
def test_a_damaged_shard_stops_a_run_that_goes_on_when_it_is_whole_again(
    kind, in_order, model_dir, packed, tmp_path, capsys
):
    broken = shutil.copytree(packed, tmp_path / "broken")
    middle, hit = damage(broken, kind)
    rows = [r["item_id"] for r in read_index(broken).to_pylist()][:12]
    before = min(rows.index(item) for item in hit if item in rows) // 2  # whole steps of two
    assert 0 < before < 6
    out = tmp_path / "out"
    words = argv(model_dir, broken, out, *IN_ORDER)  # at the usual --max_skip_rate
    assert main(words) == 1
    (told,) = [line for line in capsys.readouterr().err.splitlines() if "vtrap-train: " in line]
    assert str(broken / middle["shard"]) in told and any(name in told for name in (middle["key"], *hit))
    assert f"What was learned before is in {out / f'checkpoint-{before}'}." in told
    shutil.copyfile(packed / middle["shard"], broken / middle["shard"])
    assert main(words) == 0
    assert f"going on from {out / f'checkpoint-{before}'}" in capsys.readouterr().err
    assert log(out) == log(in_order) and same(out, in_order)


def test_too_many_bad_samples_keep_what_was_learned_and_a_higher_rate_goes_on(
    straight, model_dir, packed, tmp_path, monkeypatch, capsys
):
    from vtrap_data.errors import Reason, SampleError
    from vtrap_train import collate

    stock, seen = collate.encode, []

    def flaky(example, *args, **kwargs):
        seen.append(example.item.id)
        if len(seen) == 5:
            raise SampleError(example.item.id, Reason.CORRUPT, "a tile fell off")
        return stock(example, *args, **kwargs)

    out = tmp_path / "out"
    with monkeypatch.context() as patch:
        patch.setattr(collate, "encode", flaky)
        assert main(argv(model_dir, packed, out)) == 1
    err = capsys.readouterr().err
    assert "1 samples were skipped, more than" in err and "a tile fell off" in err and "checkpoint-2" in err
    assert main(argv(model_dir, packed, out, "--max_skip_rate", 1)) == 0
    assert log(out) == log(straight) and same(out, straight)  # the sample is whole again; it is not counted as skipped
    assert (out / "skipped.jsonl").read_text() == ""
