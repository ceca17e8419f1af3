"""Scores of checkpoints while training: the real benchmark on a tiny model; which checkpoint is best; what is kept."""

import json
import multiprocessing
import os
import socket
from types import SimpleNamespace

import pytest
import torch
from accelerate import PartialState
from alike import log, same
from safetensors.torch import load_file

from vtrap_data.shards.manifest import PackSettings
from vtrap_data.shards.pack import pack
from vtrap_data.sources.jsonl import read_jsonl
from vtrap_data.sources.toyworld.generate import Recipe, generate
from vtrap_train.__main__ import main
from vtrap_train.checkpoint_eval import CheckpointEval, alone
from vtrap_train.config import mixture_of, parse, settings_of
from vtrap_train.run import run


@pytest.fixture(scope="module")
def benchmarks(tmp_path_factory):
    root = tmp_path_factory.mktemp("benchmarks")
    for kind, name, count in (("images", "toy-image", 4), ("videos", "toy-video", 2)):
        jsonl = generate(Recipe(kind=kind, purpose="bench", count=count), root / "source" / name)
        settings = PackSettings(name=name, budgets=(2, 4), slots=4, mean_frames=3, store=4, split="test")
        pack(read_jsonl(jsonl, media_root=jsonl.parent, name=None).samples, root / name, settings=settings)
    return root


def argv(model, data, out, *more):
    fixed = "--max_steps 4 --per_device_train_batch_size 2 --learning_rate 1e-3 --logging_steps 1 --save_steps 2"
    return [str(w) for w in ["--model", model, "--data", data, "--output_dir", out, *fixed.split(), *more]]


def lines(out):
    return [json.loads(line) for line in (out / "eval.jsonl").read_text().splitlines()]


def write_score(out, step, image, video, *, tasks="image,video"):
    path = out / "eval" / f"step-{step}.json"
    path.parent.mkdir(parents=True, exist_ok=True)
    scores = {"image": image, "video": video, "tasks": {"toy-image": image, "toy-video": video}}
    scores["asked"] = {"tasks": tasks, "frames": "budget", "arguments": []}
    path.write_text(json.dumps(scores))


@pytest.mark.slow
def test_a_checkpoint_is_scored_by_the_real_benchmark(model_dir, packed, benchmarks, tmp_path, capsys):
    out = tmp_path / "out"
    more = ["--max_steps", 2, "--eval_tasks", "toy-image,toy-video", "--eval_frames", 2]
    more += ["--eval_args", f"--benchmarks {benchmarks} --batch-size 8 --device cpu", "--lora_r", 2]
    summary = run(parse(argv(model_dir, packed, out, *more)))
    found = lines(out)
    assert [line["step"] for line in found] == [0, 2]
    for line in found:
        assert 0 <= line["image"] <= 100 and set(line["tasks"]) == {"toy-image", "toy-video"}
    assert found[1]["video_change"] == found[1]["video"] - found[0]["video"]
    assert set(summary["evaluations"]) == {"0", "2"}
    scores = json.loads((out / "eval" / "step-2" / "scores.json").read_text())
    assert scores["label"] == "step 2" and scores["tasks"]["toy-image"]["n"] == 4
    assert "step 2  scores: image" in capsys.readouterr().err
    assert not list((out / "eval").glob("*-model"))  # the adapter was merged for scoring only
    # Log lines still average the losses of all of their steps.
    assert {"loss", "entropy"} <= set(json.loads((out / "loss.jsonl").read_text().splitlines()[-1]))


@pytest.mark.parametrize("lora", [(), ("--lora_r", "2")], ids=["full", "lora"])
def test_the_best_checkpoint_is_what_comes_out(lora, model_dir, packed, tmp_path):
    out = tmp_path / "out"
    for step, image, video in ((0, 90.0, 40.0), (2, 89.0, 60.0), (4, 60.0, 70.0)):
        write_score(out, step, image, video)  # scores that are there are not worked out again
    more = ["--eval_tasks", "image,video", "--load_best_model_at_end", "true", *lora]
    summary = run(parse(argv(model_dir, packed, out, *more)))
    assert summary["best_step"] == 2
    folders, name = (".", "checkpoint-2", "checkpoint-4"), "model.safetensors"
    if lora:
        folders, name = ("adapter", *folders[1:]), "adapter_model.safetensors"
    final, best, last = (load_file(out / folder / name) for folder in folders)
    assert all(torch.equal(final[k], best[k]) for k in final)
    assert any(not torch.equal(final[k], last[k]) for k in final)
    assert [(line["step"], line["image_change"], line["video_change"]) for line in lines(out)] == [
        (0, 0.0, 0.0),
        (2, -1.0, 20.0),
        (4, -30.0, 30.0),
    ]


def test_a_benchmark_that_fails_does_not_stop_training(model_dir, packed, tmp_path, capsys):
    out = tmp_path / "out"
    write_score(out, 0, 50.0, 50.0, tasks="no-such-task")
    more = ["--max_steps", 2, "--eval_tasks", "no-such-task"]
    summary = run(parse(argv(model_dir, packed, out, *more)))
    assert summary["steps"] == 2 and "exit code 2" in lines(out)[-1]["error"]
    assert lines(out)[0]["image"] == 50
    assert "not scored" in capsys.readouterr().err
    assert "no-such-task" in (out / "eval" / "step-2.log").read_text()


def test_scoring_adapters_changes_nothing_of_what_is_learned(model_dir, packed, tmp_path, monkeypatch):
    """They are merged for it, and dropout goes on as if that had not been."""
    monkeypatch.setattr("vtrap_train.checkpoint_eval.subprocess.call", lambda *_, **__: 2)  # scores are tested above
    plain, scored = tmp_path / "plain", tmp_path / "scored"
    more = ["--lora_r", 2, "--lora_dropout", 0.1]
    run(parse(argv(model_dir, packed, plain, *more)))
    run(parse(argv(model_dir, packed, scored, *more, "--eval_tasks", "image")))
    assert [line["step"] for line in lines(scored)] == [0, 2, 4]
    assert log(scored) == log(plain) and same(scored, plain)


def test_a_metric_that_no_task_gives_is_named(model_dir, packed, tmp_path, capsys):
    """Before anything is trained. It may be mended, also in a run that has checkpoints, until the run is finished."""
    out = tmp_path / "out"
    for step in (0, 2, 4):
        write_score(out, step, 1.0, 2.0, tasks="image")
    more = ["--eval_tasks", "image", "--load_best_model_at_end", "true", "--metric_for_best_model"]
    assert main(argv(model_dir, packed, out, *more, "beauty")) == 2
    assert "'beauty' is no score that --eval_tasks gives: mean, image, video, toy-image" in capsys.readouterr().err
    assert not (out / "loss.jsonl").exists()
    run(parse(argv(model_dir, packed, out, *more, "video")))
    (out / "training_summary.json").rename(out / "kept.json")  # as if it had been stopped at its end
    assert main(argv(model_dir, packed, out, *more, "image")) == 0
    assert "going on from" in capsys.readouterr().err
    assert main(argv(model_dir, packed, out, *more, "video")) == 2
    assert 'metric_for_best_model "image" -> "video"' in capsys.readouterr().err


@pytest.mark.parametrize("rate", ["1e-3", "1e-4"])
def test_scores_of_a_run_with_other_settings_are_not_taken_for_its_own(rate, model_dir, packed, tmp_path, monkeypatch):
    """It was given up before its first checkpoint. (The benchmark "fails": that it was asked tells.)"""
    out = tmp_path / "out"
    more = ["--eval_tasks", "image", "--max_steps", 1, "--learning_rate"]
    write_score(out, 0, 50.0, 60.0, tasks="image")
    (out / "eval.jsonl").write_text('{"step": 0, "image": 50.0}\n')
    before = parse(argv(model_dir, packed, out, *more, "1e-3"))
    settings = settings_of(before, world_size=1, data=mixture_of(before).describe())
    (out / "settings.json").write_text(json.dumps(settings))
    monkeypatch.setattr("vtrap_train.checkpoint_eval.subprocess.call", lambda *_, **__: 2)
    summary = run(parse(argv(model_dir, packed, out, *more, rate)))
    assert ("error" in summary["evaluations"]["0"]) == (rate == "1e-4")
    assert ("image" in lines(out)[0]) == (rate == "1e-3")


def rank(number, port, out, pipe):
    """One of two processes that begin a training."""
    many = {"WORLD_SIZE": "2", "RANK": str(number), "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
    os.environ.update(many, LOCAL_RANK=str(number))
    PartialState._reset_state()
    state = PartialState(cpu=True)
    how = {"tasks": "no-such-task", "frames": "budget", "more": "--limit 2", "metric": None, "export": None}
    scored = CheckpointEval(base="toy-vl", out=out, log=print, **how)
    now = SimpleNamespace(is_world_process_zero=state.is_main_process, global_step=0)
    scored.on_train_begin(None, now, None)
    pipe.send(scored.scores)
    state.destroy_process_group()


def test_kept_scores_of_something_else_are_worked_out_again_and_every_rank_has_the_same(tmp_path):
    """Of other items they would be compared with new ones; and a rank that took up what is being replaced would choose
    another best checkpoint. (The benchmark fails here, which is quick; that it was asked tells.)"""
    write_score(tmp_path, 0, 50.0, 50.0, tasks="no-such-task")  # without --limit
    answers = tmp_path / "eval" / "step-0" / "records.jsonl"
    answers.parent.mkdir()
    answers.write_text("of other items")
    (tmp_path / "eval.jsonl").write_text('{"step": 0, "error": "of the time before"}\n')
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    fork = multiprocessing.get_context("fork")
    pipes, told = zip(*(fork.Pipe(duplex=False) for _ in range(2)), strict=True)
    ranks = [fork.Process(target=rank, args=(n, port, tmp_path, told[n])) for n in range(2)]
    for process in ranks:
        process.start()
    found = [pipe.recv() if pipe.poll(200) else None for pipe in pipes]
    for process in ranks:
        process.join(60)
        process.kill()
    assert found[0] == found[1] and set(found[0]) == {0}
    assert "exit code 2" in found[0][0]["error"]
    assert found[0][0]["asked"] == {"tasks": "no-such-task", "frames": "budget", "arguments": ["--limit", "2"]}
    assert not answers.exists()
    assert len(lines(tmp_path)) == 2 and "exit code 2" in lines(tmp_path)[1]["error"]  # the new ones are told


def test_a_child_is_not_taken_for_a_rank():
    many = {"RANK": "1", "LOCAL_RANK": "1", "WORLD_SIZE": "8", "MASTER_ADDR": "x", "TORCHELASTIC_RUN_ID": "y"}
    assert alone({**many, "PATH": "p", "CUDA_VISIBLE_DEVICES": "3"}) == {"PATH": "p", "CUDA_VISIBLE_DEVICES": "3"}
