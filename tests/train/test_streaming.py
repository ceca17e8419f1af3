"""Training from an address: the same samples and result as from a folder, and exact resume without reading again."""

import json
import shutil
import threading
from collections import Counter
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer

import numpy as np
import pytest
import torch
from alike import LOSS, WEIGHTS, launch, log, moved, same
from conftest import pack_into
from safetensors.torch import load_file
from transformers import TrainerCallback

from vtrap_data.loading import remote
from vtrap_data.shards.manifest import read_manifest
from vtrap_train.__main__ import main
from vtrap_train.collate import VideoCollator
from vtrap_train.config import mixture_of, parse
from vtrap_train.lengths import ESTIMATED
from vtrap_train.plan import plan_text
from vtrap_train.run import run

SEQUENTIAL = ("--train_sampling_strategy", "sequential")


class Server(ThreadingHTTPServer):
    """Serves a folder, notes what was asked for, and can be out of order."""

    def __init__(self, folder):
        self.asked, self.broken = [], False
        super().__init__(("127.0.0.1", 0), partial(Handler, directory=str(folder)))
        threading.Thread(target=self.serve_forever, daemon=True).start()

    @property
    def url(self):
        return f"http://127.0.0.1:{self.server_address[1]}"

    def shards(self):
        return Counter(path for path in self.asked if path.endswith(".tar"))


class Handler(SimpleHTTPRequestHandler):
    def do_GET(self):
        self.server.asked.append(self.path)
        if self.server.broken and self.path.endswith(".tar"):
            self.send_error(503)
        else:
            super().do_GET()

    def log_message(self, *_):
        pass


@pytest.fixture(scope="module")
def corpus(sources, tmp_path_factory):
    """14 samples (20 items) in 7 shards."""
    return pack_into(sources, tmp_path_factory.mktemp("streamed") / "corpus", samples_per_shard=2)


@pytest.fixture
def server(corpus):
    with Server(corpus) as server:
        yield server
        server.shutdown()


@pytest.fixture(autouse=True)
def own_cache(tmp_path, monkeypatch):
    monkeypatch.setenv("VTRAP_HOME", str(tmp_path / "vtrap"))
    monkeypatch.setattr(remote, "PATIENCE", 0.0)


def argv(model, data, out, *more):
    fixed = (
        "--per_device_train_batch_size 4 --learning_rate 1e-3 --logging_steps 1 --save_steps 3 --num_train_epochs 2"
    )
    return [str(w) for w in ["--model", model, "--data", data, "--output_dir", out, *fixed.split(), *more]]


def alike(one, other):
    return log(one) == log(other) and same(one, other)


class Seen(TrainerCallback):
    """Which rows were opened; and where to stop."""

    def __init__(self, monkeypatch, kill_at=None):
        self.rows, self.kill_at = [], kill_at
        stock = VideoCollator.__call__

        def noting(collator, rows):
            self.rows += rows
            return stock(collator, rows)

        monkeypatch.setattr(VideoCollator, "__call__", noting)

    def on_step_begin(self, args, state, control, **_):
        if state.global_step == self.kill_at:
            raise KeyboardInterrupt


# ... and without either through the command itself: test_whole_runs.py.
@pytest.mark.parametrize("more", [("--tokens_per_batch", "200"), ("--turns", "joined")])
def test_map_style_and_streaming_are_bit_equal(more, model_dir, corpus, server, tmp_path):
    words = (*SEQUENTIAL, *more)
    assert main(argv(model_dir, corpus, tmp_path / "map", *words)) == 0
    assert main(argv(model_dir, server.url, tmp_path / "stream", "--streaming", *words)) == 0
    if more[:1] == ("--tokens_per_batch",):  # lengths are estimated from a shard, so passes may be cut elsewhere
        one, other = log(tmp_path / "map"), log(tmp_path / "stream")
        assert [a["loss"] for a in one] == pytest.approx([b["loss"] for b in other], rel=LOSS)
        ends = (
            load_file(folder / "model.safetensors") for folder in (tmp_path / "stream", tmp_path / "map", model_dir)
        )
        assert moved(*ends) < WEIGHTS
        assert [a["visual_tokens"] for a in one] == [b["visual_tokens"] for b in other]
    else:
        assert alike(tmp_path / "map", tmp_path / "stream")
    # All of them fit into the cache, so none was fetched twice, over two epochs.
    assert server.shards() == {f"/{s.path}": 1 for s in read_manifest(corpus).shards}


@pytest.fixture(scope="module")
def shuffled(model_dir, corpus, tmp_path_factory):
    """Shuffled among two shards at a time, read from a folder."""
    out = tmp_path_factory.mktemp("shuffled") / "out"
    with pytest.MonkeyPatch.context() as patch:
        seen = Seen(patch)
        run(parse(argv(model_dir, corpus, out, "--streaming", "--streaming_shards", 2)), callbacks=[seen])
    return out, seen.rows


def test_the_order_of_a_stream_is_the_one_that_it_says(shuffled, model_dir, corpus):
    _, rows = shuffled
    words = argv(model_dir, corpus, "out", "--streaming", "--streaming_shards", 2)
    mixture = mixture_of(parse(words))
    assert rows == [*mixture.order(0), *mixture.order(1)]
    assert sorted(rows[:20]) == sorted(rows[20:]) == list(range(20)) and rows[:20] != rows[20:]
    shards = np.asarray(mixture.datasets[0].column("shard"))[rows[:20]]
    first = {name: place for place, name in reversed(list(enumerate(shards)))}
    last = {name: place for place, name in enumerate(shards)}
    at_once = [sum(first[n] <= place <= last[n] for n in first) for place in range(20)]
    assert 1 < max(at_once) <= 3


@pytest.mark.parametrize("at", [1, 3, 4, 7, 9])  # before the first checkpoint, at one, after it; in the second epoch
def test_a_killed_stream_goes_on_exactly_and_opens_nothing_twice(
    at, shuffled, model_dir, server, tmp_path, monkeypatch
):
    whole, rows = shuffled
    out = tmp_path / "out"
    words = argv(model_dir, server.url, out, "--streaming", "--streaming_shards", 2)
    with pytest.raises(KeyboardInterrupt):
        run(parse(words), callbacks=[Seen(monkeypatch, kill_at=at)])
    shutil.rmtree(tmp_path / "vtrap")  # it may go on on another machine
    server.asked.clear()
    seen = Seen(monkeypatch)
    run(parse(words), callbacks=[seen])
    assert alike(whole, out)
    assert seen.rows == rows[at // 3 * 12 :]
    mixture = mixture_of(parse(words))
    shards = mixture.datasets[0].column("shard")
    assert set(server.shards()) == {f"/{shards[row]}" for row in seen.rows}  # only what is still to come
    kept = list((tmp_path / "vtrap").rglob("*.tar"))
    assert len(kept) <= 6 and not list((tmp_path / "vtrap").rglob("*.part"))


def test_parts_of_a_mixture_may_be_streams_or_folders(model_dir, server, packed_by_kind, tmp_path):
    data = f"{server.url}:0.5,{packed_by_kind['images']}:2"
    words = argv(model_dir, data, tmp_path / "out", "--streaming", "--streaming_shards", 1)
    mixture = mixture_of(parse(words))
    assert [d["per_epoch"] for d in mixture.describe()] == [10, 12]
    order = mixture.order(3)
    assert sorted(order.tolist()) == list(range(22))
    parts = mixture.rows[order, 0]
    assert 0 < parts[:11].sum() < 11  # mixed, although one of them is a single shard
    assert run(parse(words))["samples"] == 44


def test_a_server_that_goes_away_keeps_what_was_learned(shuffled, model_dir, server, tmp_path, capsys):
    whole, _ = shuffled
    out = tmp_path / "out"
    words = argv(model_dir, server.url, out, "--streaming", "--streaming_shards", 2)

    class Fails(TrainerCallback):
        def on_step_begin(self, args, state, control, **_):
            server.broken = state.global_step >= 1

    with pytest.raises(
        remote.UnreachableError, match=r"\.tar could not be fetched .*503.*What was learned before is in"
    ):
        run(parse(words), callbacks=[Fails()])
    assert list(out.glob("checkpoint-*"))
    assert main(words) == 1
    err = capsys.readouterr().err
    assert "could not be fetched" in err and "Traceback" not in err
    server.broken = False
    assert main(words) == 0
    assert alike(whole, out) and not (out / "skipped.jsonl").exists()


def test_a_shard_that_is_another_one_is_told(model_dir, corpus, tmp_path, capsys):
    changed = shutil.copytree(corpus, tmp_path / "changed")
    for shard in read_manifest(changed).shards:
        with (changed / shard.path).open("r+b") as file:
            file.write(b"\x7f")
    with Server(changed) as server:
        assert main(argv(model_dir, server.url, tmp_path / "out", "--streaming")) == 1
        server.shutdown()
    err = capsys.readouterr().err
    assert "is not the shard that manifest.json names" in err and "Nothing had been learned yet" in err


@pytest.mark.parametrize(
    ("data", "more", "says"),
    [
        ("URL", (), "--streaming"),
        ("URL/nowhere", ("--streaming",), "is a packed corpus there"),
        ("http://127.0.0.1:9", ("--streaming",), "is a packed corpus there"),
        ("nowhere", ("--streaming",), "no packed dataset"),
        ("odd://there/corpus", ("--streaming",), "odd"),
        ("URL", ("--streaming", "--streaming_shards", "0"), "--streaming_shards 0"),
        ("URL", ("--streaming", "--train_sampling_strategy", "group_by_length"), "--tokens_per_batch"),
    ],
)
def test_wrong_use(data, more, says, model_dir, server, tmp_path, capsys):
    assert main(argv(model_dir, data.replace("URL", server.url), tmp_path / "out", *more)) == 2
    err = capsys.readouterr().err
    assert says in err and err.count("\n") == 1


def test_a_plan_fetches_one_shard(model_dir, server, capsys):
    words = ["--model", str(model_dir), "--data", server.url, "--streaming", "--plan", "--json"]
    assert main(words) == 0
    facts = json.loads(capsys.readouterr().out)
    assert facts["per_epoch"] == 20 and facts["tokens"]["exact"] is False and ESTIMATED in plan_text(facts)
    assert sum(server.shards().values()) == 1


@pytest.mark.slow
def test_from_the_hub_with_two_processes_and_workers_which_go_on_exactly(model_dir, corpus, tmp_path):
    from standin.running import run as python
    from standin.running import running

    upload = "import sys; from huggingface_hub import HfApi; api = HfApi(); api.create_repo('ann/tiny', "
    upload += (
        "repo_type='dataset'); api.upload_folder(repo_id='ann/tiny', repo_type='dataset', folder_path=sys.argv[1])"
    )
    more = ["--streaming", "--streaming_shards", 2, "--max_steps", 4]
    run(parse(argv(model_dir, corpus, tmp_path / "one", *more)))
    with running(tmp_path / "hub") as hub:
        environment = {**hub.environment(tmp_path / "home"), "VTRAP_HOME": str(tmp_path / "vtrap")}
        assert python(["-c", upload, corpus], environment).returncode == 0
        words = argv(model_dir, "ann/tiny", tmp_path / "two", *more, "--gpus", 2)
        words += ["--per_device_train_batch_size", "2", "--dataloader_num_workers", "1"]

        environment["HF_HUB_OFFLINE"] = "0"
        launch(words, **environment)
        whole = tmp_path / "whole"
        shutil.copytree(tmp_path / "two", whole)
        for name in ("checkpoint-4", "training_summary.json", "model.safetensors"):
            path = tmp_path / "two" / name
            shutil.rmtree(path) if path.is_dir() else path.unlink()  # as if killed after the checkpoint of step 3
        shutil.rmtree(tmp_path / "vtrap")  # the shards, too
        assert f"going on from {tmp_path / 'two' / 'checkpoint-3'}" in launch(words, **environment).stderr
        assert alike(whole, tmp_path / "two")
    one, two = log(tmp_path / "one"), log(tmp_path / "two")
    assert [a["loss"] for a in one] == pytest.approx([b["loss"] for b in two], rel=1e-3)
    assert [a["visual_tokens"] for a in one] == [b["visual_tokens"] for b in two]
    weights, reference = (load_file(tmp_path / name / "model.safetensors") for name in ("two", "one"))
    for key, value in reference.items():
        torch.testing.assert_close(weights[key], value, rtol=1e-2, atol=1e-3)
