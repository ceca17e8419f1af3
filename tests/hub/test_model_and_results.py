"""Does a checkpoint arrive so that stock transformers loads it, and do its results appear on the Hub's boards?"""

from __future__ import annotations

import argparse
import json
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml
from standin.running import READ, STRANGER, WRITE, Forking, Running, run

import vtrap_bench.submit as submission
import vtrap_train.push as pushing
from vtrap_bench.records import Record, read_chained, read_records
from vtrap_bench.results_dataset import published_records
from vtrap_bench.scores import digest
from vtrap_data.errors import UsageError

MODEL = "vtrap/toy-vl-hybrid"
RESULTS = "vtrap/vtrap-results"


@pytest.fixture(scope="module")
def forking(hub: Running, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Forking]:
    found = Forking("all", hub, tmp_path_factory.mktemp("forking") / "home")
    yield found
    found.close()


def push(forking: Forking, folder: Path, *words: str) -> tuple[int, str]:
    return forking.run(["vtrap_train.__main__", "push", folder, MODEL, "--licence", "apache-2.0", *words])


def submit(forking: Forking, folder: Path, *, token: str | None = WRITE, model: str = MODEL) -> tuple[int, str]:
    return forking.run(["vtrap_bench.__main__", "submit", folder, "--model", model], token=token)


@pytest.fixture(scope="module")
def published(hub: Running, forking: Forking, checkpoint: Path, tmp_path_factory: pytest.TempPathFactory) -> Running:
    """The checkpoint is there, and datasets with the names of the toy benchmarks."""
    code, said = push(forking, checkpoint, "--tag", "v1")
    assert code == 0, said
    home = tmp_path_factory.mktemp("publisher") / "home"
    call(hub, home, "for name in 'image', 'video': api.create_repo(f'vtrap/toy-{name}', repo_type='dataset')")
    return hub


def call(hub: Running, home: Path, code: str, *, token: str | None = WRITE):
    """Run code with the stock client in a process of its own (this one is offline); returns what it prints as JSON."""
    done = run(
        ["-c", "import json; from huggingface_hub import HfApi; api = HfApi()\n" + code],
        hub.environment(home, token=token),
    )
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout or "null")


def read_result(hub: Running, revision: str) -> list[dict]:
    found = hub.repo(f"models/{MODEL}")
    sha = (
        found["prs"][revision.removeprefix("refs/pr/")] if revision.startswith("refs") else found["branches"][revision]
    )
    oid = found["commits"][sha]["tree"][".eval_results/vtrap.yaml"][0]
    return yaml.safe_load((Path(hub.folder) / "blobs" / oid[:2] / oid).read_text())


def test_a_checkpoint_is_published(published: Running, checkpoint: Path) -> None:
    state = published.repo(f"models/{MODEL}")
    tree = published.main_tree(f"models/{MODEL}")
    assert state["tags"] == {"v1": state["branches"]["main"]}
    assert {"model.safetensors", "config.json", "tokenizer.json", "README.md", "preprocessing.json"} <= tree.keys()
    # No pickles, no state of the optimiser, no intermediate checkpoints, no places of this machine.
    assert not {p for p in tree if p.endswith(".pt") or p.startswith("checkpoint-")}
    # No scores of checkpoints with the questions of benchmarks, nor the names of shards and machines.
    assert {p for p in tree if "/" in p} == {"adapter/adapter_config.json"}
    for name in tree:
        if name.endswith(".safetensors"):
            continue
        oid = tree[name][0]
        assert b"secret" not in (Path(published.folder) / "blobs" / oid[:2] / oid).read_bytes(), name


def test_what_is_no_checkpoint_is_not_sent(
    published: Running, forking: Forking, checkpoint: Path, tmp_path: Path
) -> None:
    before = published.repo(f"models/{MODEL}")
    parser = argparse.ArgumentParser()
    pushing.add_arguments(parser)
    private = shutil.copytree(checkpoint, tmp_path / "private")
    summary = json.loads((private / "training_summary.json").read_text())
    (private / "training_summary.json").write_text(json.dumps({**summary, "model": "/models/base"}))
    with pytest.raises(UsageError, match="licence"):
        pushing.run(parser.parse_args([str(private), MODEL]))
    torn = shutil.copytree(checkpoint, tmp_path / "torn")
    weights = torn / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-1000])
    code, said = push(forking, torn)
    assert code == 2, said
    assert "cannot be read here" in said
    assert published.repo(f"models/{MODEL}") == before


def test_results_are_submitted_once(published: Running, forking: Forking, tmp_path: Path, write_run) -> None:
    hub = published
    code, said = submit(forking, write_run("four", right=0.6))
    assert code == 0, said
    assert "SECRET" not in said
    model, results = hub.repo(f"models/{MODEL}"), hub.repo(f"datasets/{RESULTS}")
    assert [(d["status"], d["title"]) for d in model["discussions"]][1:] == [("open", "vtrap results")]
    assert ".eval_results/vtrap.yaml" not in hub.main_tree(f"models/{MODEL}")

    board = "rows = api.get_dataset_leaderboard('vtrap/toy-video', base_model_only={})\n"
    board += "print(json.dumps([[r.model_id, r.value, r.pull_request, r.source['url']] for r in rows]))"
    # Fine-tunes declare a base model, if it is on the Hub; toy-vl is not, so both views show it.
    for only in (None, False):
        ((name, value, number, url),) = call(hub, tmp_path / "home", board.format(only), token=None)
        assert (name, value, number) == (MODEL, 60.0, 2)
    records = [p for p in hub.main_tree(f"datasets/{RESULTS}") if p.endswith("records.jsonl")]
    assert len(records) == 1
    assert records[0].startswith(f"runs/{MODEL}/4-")
    assert records[0].rsplit("/", 1)[0] in url
    assert "secret" not in json.dumps(results)

    heads = [model["prs"], results["branches"]]
    code, said = submit(forking, write_run("same", right=0.6))
    assert code == 0, said
    assert "already submitted" in said
    assert [hub.repo(f"models/{MODEL}")["prs"], hub.repo(f"datasets/{RESULTS}")["branches"]] == heads

    # Another frame setting joins the open pull request; image tasks have no frame setting, so theirs is replaced.
    code, said = submit(forking, write_run("budget", frames="budget", right=0.7))
    assert code == 0, said
    entries = {e["dataset"]["task_id"]: e["value"] for e in read_result(hub, "refs/pr/2")}
    assert entries == {"toy-image": 70.0, "toy-video-4-frames": 60.0, "toy-video-budget": 70.0}
    assert len(hub.repo(f"models/{MODEL}")["discussions"]) == 2
    merge = f"api.merge_pull_request({MODEL!r}, 2)\nfound = api.model_info({MODEL!r}, expand=['evalResults'])\n"
    values = call(hub, tmp_path / "home", merge + "print(json.dumps([e.value for e in found.eval_results]))")
    assert sorted(values) == [60.0, 70.0, 70.0]
    assert len(read_result(hub, "main")) == 3


def test_what_is_not_submitted(published: Running, forking: Forking, tmp_path: Path, write_run) -> None:
    hub = published
    before = hub.control("state")["repos"]

    def refused(folder: Path, *says: str, token: str | None = WRITE, model: str = MODEL) -> None:
        code, said = submit(forking, folder, token=token, model=model)
        assert code == 2, said
        assert said.count("\n") == 1
        assert all(text in said for text in says), said

    good = write_run("good")
    # A process that imports everything itself: not a line more even then.
    words = ["-m", "vtrap_bench", "submit", good, "--model", MODEL]
    done = run(words, hub.environment(tmp_path / "home", token=None), cwd=tmp_path)
    assert done.returncode == 2, done.stderr
    assert done.stderr.count("\n") == 1
    assert "hf auth login" in done.stderr
    refused(good, "can only read", token=READ)
    refused(good, "vtrap/nothing does not exist", model="vtrap/nothing")

    def unfit(folder: Path, says: str) -> None:
        """Found out before the Hub is asked, so that this process, which is offline, can do."""
        parser = argparse.ArgumentParser()
        submission.add_arguments(parser)
        with pytest.raises(UsageError, match=says):
            submission.run(parser.parse_args([str(folder), "--model", MODEL]))

    edited = write_run("edited")
    text = (edited / "records.jsonl").read_text()
    (edited / "records.jsonl").write_text(text.replace('"response": "blue"', '"response": "red"', 1))
    unfit(edited, r"line \d+ is not as it was written")

    # Records and scores that fit each other, but one answer was put in by hand; one that was taken out.
    records = read_records(write_run("base").joinpath("records.jsonl"))
    made_up = write_run("made-up")
    rows = [json.loads(line) for line in (made_up / "records.jsonl").read_text().splitlines()]
    rows[15] |= {"response": "red", "correct": True}
    for kept in (rows, [*rows[:2], *rows[3:]]):
        (made_up / "records.jsonl").write_text("".join(json.dumps(row) + "\n" for row in kept))
        unfit(made_up, r"line \d+ is not as it was written")
    (made_up / "records.jsonl").write_text("".join(json.dumps(r.to_json()) + "\n" for r in records))
    unfit(made_up, "line 1 carries no hash")

    raised = write_run("raised")
    scores = json.loads((raised / "scores.json").read_text())
    scores["tasks"]["toy-video"]["score"] = 99.0
    (raised / "scores.json").write_text(json.dumps(scores))
    unfit(raised, r"tasks\.toy-video\.score is 99, its records give 50")

    for name, change, says in (
        ("short", {"items": 21, "limit": None}, "20 of 21 items of toy-video"),
        ("cut", {"items": 20, "limit": 20}, "without --limit"),
    ):
        folder = write_run(name)
        facts = json.loads((folder / "run.json").read_text())
        facts["tasks"]["toy-video"] |= change
        (folder / "run.json").write_text(json.dumps(facts))
        unfit(folder, says)

    other = write_run("other")
    facts = json.loads((other / "run.json").read_text())
    facts["model"]["weights"]["model.safetensors"] = "0" * 64
    (other / "run.json").write_text(json.dumps(facts))
    refused(other, "other weights", "model.safetensors has another hash")
    assert hub.control("state")["repos"] == before


def test_anyone_may_propose_results(published: Running, forking: Forking, write_run) -> None:
    """A stranger's records go to a dataset of their own, the scores to a pull request that they cannot merge."""
    code, said = submit(forking, write_run("strange", frames="8"), token=STRANGER)
    assert code == 0, said
    assert "datasets/bob/vtrap-results" in published.control("state")["repos"]
    proposal = published.repo(f"models/{MODEL}")["discussions"][-1]
    assert (proposal["author"], proposal["status"]) == ("bob", "open")


def test_questions_of_real_benchmarks_are_not_published(write_run) -> None:
    folder = write_run("real")
    scores = json.loads((folder / "scores.json").read_text())
    scores["tasks"]["toy-video"]["synthetic"] = False
    records = read_records(folder / "records.jsonl")
    rows = read_chained(folder / "records.jsonl")
    published = published_records(rows, scores)
    found = [json.loads(line) for line in published.splitlines()]
    for row, record in zip(found, records, strict=True):
        shown = record.task == "toy-image"
        assert (row["question"], row["answer"]) == (("?", "red") if shown else ("", ""))
        assert (row["response"], row["extracted"]) == (record.response, record.extracted)
    assert digest([Record.from_json(row) for row in found]) == scores["records_sha256"]
    # The chain holds for what others see, too.
    (folder / "published.jsonl").write_bytes(published)
    assert [row["chain"] for row in read_chained(folder / "published.jsonl")] == [row["chain"] for row in rows]
