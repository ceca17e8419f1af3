"""The lines of the README, word for word: train from the Hub, publish, score, submit, see it on the boards and on the
leaderboard page."""

from __future__ import annotations

import json
import re
import shutil
import urllib.request
from collections.abc import Iterator, Sequence
from pathlib import Path
from types import SimpleNamespace

import pytest
import yaml
from standin.running import WRITE, Forking, Repository, Running, run, serve

from vtrap_data.encoding.models import NAMED

TUNED = "vtrap/qwen2.5-vl-7b-hybrid"
PINNED = NAMED["qwen2.5-vl-7b"].revision
BASE_CARD = "---\nlicense: other\nlicense_name: tiny-licence\nlicense_link: LICENSE\n---\n# A tiny stand-in\n"

# What someone types who has transformers and nothing of vtrap.
LOAD_STEP = """
import json, sys
from pathlib import Path
from huggingface_hub import snapshot_download
files = {}
for revision in ("main", sys.argv[1]):
    folder = Path(snapshot_download("vtrap/qwen2.5-vl-7b-hybrid", revision=revision))
    files[revision] = sorted(p.name for p in folder.iterdir())
print(json.dumps(files))
"""


def ours(hub: Running, tmp_path: Path, words: Sequence[str | Path], *, token: str | None = WRITE) -> str:
    environment = {**hub.environment(tmp_path / "home", token=token), "VTRAP_HOME": str(tmp_path / "vtrap")}
    done = run(words, environment, cwd=tmp_path)
    assert done.returncode == 0, done.stderr[-3000:]
    assert "SECRET" not in done.stdout + done.stderr
    return done.stdout


def forked(forking: Forking, words: Sequence[str | Path], *, token: str | None = WRITE) -> str:
    """The same without the time to import. Of each kind one is left as typed, here, in test_literal_line.py or in
    test_push_dataset.py."""
    assert words[0] == "-m"
    code, said = forking.run([f"{words[1]}.__main__", *words[2:]], token=token)
    assert code == 0, said[-3000:]
    assert "SECRET" not in said
    return said


def call(hub: Running, tmp_path: Path, code: str):
    said = ours(hub, tmp_path, ["-c", "import json; from huggingface_hub import HfApi; api = HfApi()\n" + code])
    return json.loads(said or "null")


def read(hub: Running, repo: str, path: str) -> str:
    entry = hub.main_tree(repo)[path]
    name = entry[2] or entry[0]
    return (Path(hub.folder) / "blobs" / name[:2] / name).read_text()


def check_links(hub: Running, repo: str) -> None:
    """Every link of a card leads to something that was published: a file beside it, or a repository."""
    card = read(hub, repo, "README.md")
    _, head, body = card.split("---\n", 2)
    metadata = yaml.safe_load(head)
    known = hub.control("state")["repos"].keys()
    named = [f"datasets/{name}" for name in metadata.get("datasets") or []]
    named += [f"models/{metadata['base_model']}"] if "base_model" in metadata else []
    assert set(named) <= known, named
    links = [*re.findall(r"\]\(([^)]+)\)", body), *re.findall(r"(?:href|src)=\"([^\"]+)", body)]
    links += [metadata["license_link"]] if "license_link" in metadata else []
    for link in links:
        path = link.removeprefix("https://huggingface.co/")
        name, _, file = path.partition("/blob/main/")
        if path == link:
            assert link in hub.main_tree(repo), f"{repo}: {link}"
            continue
        name = name if name.startswith(("datasets/", "spaces/")) else f"models/{name}"
        assert name in known, f"{repo}: {link}"
        assert not file or file in hub.main_tree(name), f"{repo}: {link}"
    for name in re.findall(r"(?:load_dataset|from_pretrained|snapshot_download)\(\"([^\"]+)", body):
        assert any(f"{kind}/{name}" in known for kind in ("datasets", "models")), f"{repo}: {name}"


@pytest.fixture(scope="module")
def benchmarks(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The toy benchmarks, with a handful of questions each."""
    from vtrap_data.__main__ import main

    root = tmp_path_factory.mktemp("benchmarks")
    small = ["--budgets", "2,4", "--slots", "4", "--store", "4", "--mean-frames", "3", "--scorer", "lexical"]
    for kind, more in (("image", []), ("video", small)):
        source = root / "source" / kind
        words = ["toyworld", f"{kind}s", "--purpose", "bench", "--count", "3", "--out", str(source), "--workers", "0"]
        assert main(words) == 0
        packed = ["--out", str(root / f"toy-{kind}"), "--name", f"toy-{kind}", "--split", "test", "--synthetic"]
        assert main(["pack", str(source / "bench.jsonl"), *packed, *more, "--workers", "0"]) == 0
    return root


@pytest.fixture
def forking(hub: Running, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Forking]:
    monkeypatch.setenv("VTRAP_HOME", str(tmp_path / "vtrap"))
    found = Forking("all", hub, tmp_path)
    yield found
    found.close()


@pytest.mark.slow
def test_train_publish_score_submit(
    hub: Running, forking: Forking, checkpoint: Path, corpora: SimpleNamespace, benchmarks: Path, tmp_path: Path
) -> None:
    trained = shutil.ignore_patterns("checkpoint-*", "*.pt", "training_summary.json", "settings.json")
    base = shutil.copytree(checkpoint, tmp_path / "base", ignore=trained)
    (base / "README.md").write_text(BASE_CARD)
    (base / "LICENSE").write_text("Do what you like.\n")
    # At the commit at which vtrap pins the model.
    serve(hub, tmp_path / "home", Repository(base, "Qwen/Qwen2.5-VL-7B-Instruct", sha=PINNED))
    forked(forking, ["-m", "vtrap_data", "push", corpora.old, "vtrap/video-sft-hybrid"])
    for kind in ("image", "video"):
        forked(forking, ["-m", "vtrap_data", "push", benchmarks / f"toy-{kind}", f"vtrap/toy-{kind}"])

    # Nobody needs to be logged in to train.
    train = ["-m", "vtrap_train", "--model", "qwen2.5-vl-7b"]
    forked(forking, train, token=None)
    out = tmp_path / "runs/qwen2.5-vl-7b-hybrid"
    summary = json.loads((out / "training_summary.json").read_text())
    assert summary["data"][0]["data"] == "vtrap/video-sft-hybrid"
    last = f"checkpoint-{summary['steps']}"

    # The same command with TRL's own flags: it is trained already, so it is published.
    assert "models/vtrap" not in str(hub.control("state")["repos"].keys())
    hub_flags = ["--push_to_hub", "--hub_model_id", TUNED, "--hub_strategy", "all_checkpoints"]
    said = forked(forking, [*train, *hub_flags])
    assert f"{hub.url}/{TUNED}: published" in said
    assert f"{hub.url}/{TUNED}/tree/{last}: published as {last}" in said
    state = hub.repo(f"models/{TUNED}")
    main, step = state["branches"]["main"], state["tags"][last]
    assert set(state["tags"]) == {last, *(name for name in state["tags"] if state["tags"][name] == main)}
    assert state["commits"][main]["parent"] != step
    assert sorted(d["status"] for d in state["discussions"]) == ["closed", "merged"]
    files = json.loads(ours(hub, tmp_path, ["-c", LOAD_STEP, last], token=None))
    assert {"model.safetensors", "config.json", "tokenizer.json", "preprocessing.json", "README.md"} <= set(
        files[last]
    )
    assert not [name for name in files[last] if name.endswith((".pt", ".pth", ".bin"))]
    card = yaml.safe_load(read(hub, f"models/{TUNED}", "README.md").split("---\n")[1])
    assert (card["license"], card["license_name"]) == ("other", "tiny-licence")
    assert card["license_link"] == "https://huggingface.co/Qwen/Qwen2.5-VL-7B-Instruct/blob/main/LICENSE"
    assert card["base_model"] == "Qwen/Qwen2.5-VL-7B-Instruct"
    assert f'revision="{last}"' in read(hub, f"models/{TUNED}", "README.md")

    # Score base and fine-tune as anyone would, by their names on the Hub; submit both.
    values = {}
    for name, model in ((TUNED, TUNED), ("Qwen/Qwen2.5-VL-7B-Instruct", "qwen2.5-vl-7b")):
        scored = tmp_path / f"scored-{len(values)}"
        words = ["-m", "vtrap_bench", "run", "--model", model, "--tasks", "image,video", "--frames", "budget"]
        forked(forking, [*words, "--benchmarks", benchmarks, "--out", scored], token=None)
        values[name] = json.loads((scored / "scores.json").read_text())["tasks"]["toy-video"]["score"]
        submit = ["-m", "vtrap_bench", "submit", scored, "--model", name, "--results", "vtrap/vtrap-results"]
        assert "submitted" in ours(hub, tmp_path, submit)

    # The card again, now with what was gained and lost.
    report = tmp_path / "report"
    forked(forking, ["-m", "vtrap_bench", "report", tmp_path / "scored-1", tmp_path / "scored-0", "--out", report])
    again = ["-m", "vtrap_train", "push", out, TUNED, "--report", report / "report.json", "--setting", TUNED]
    assert "published as" in ours(hub, tmp_path, again)
    card_text = read(hub, f"models/{TUNED}", "README.md")
    assert "![Image change against video change](trade_off.png)" in card_text
    assert f"| {TUNED} | hybrid | budget |" in card_text

    ask = "rows = api.get_dataset_leaderboard('vtrap/toy-video', base_model_only=False)\n"
    rows = call(hub, tmp_path, ask + "print(json.dumps({r.model_id: [r.value, r.pull_request] for r in rows}))")
    assert rows == {name: [pytest.approx(value, abs=1e-3), rows[name][1]] for name, value in values.items()}
    assert all(number for _, number in rows.values())
    # The benchmark has a board for what was submitted.
    boards = {task["id"] for task in yaml.safe_load(read(hub, "datasets/vtrap/toy-video", "eval.yaml"))["tasks"]}
    assert {"toy-video-budget", "toy-video-2-frames", "toy-video-64-frames"} <= boards

    # The leaderboard, from the results dataset alone.
    push = ["-m", "vtrap_bench", "leaderboard", "push", "--results", "vtrap/vtrap-results", "--space", "vtrap/board"]
    assert "/spaces/vtrap/board: published" in ours(hub, tmp_path, push)
    assert "nothing to do" in forked(forking, push)
    found = json.loads(read(hub, "spaces/vtrap/board", "leaderboard.json"))["rows"]
    assert {row["model"]: row.get("base") for row in found} == {
        TUNED: "Qwen/Qwen2.5-VL-7B-Instruct",
        "Qwen/Qwen2.5-VL-7B-Instruct": None,
    }
    tuned = next(row for row in found if row["model"] == TUNED)
    assert tuned["trained"] == "hybrid"
    assert tuned["video_change"][0] == pytest.approx(values[TUNED] - values["Qwen/Qwen2.5-VL-7B-Instruct"])
    assert tuned["records"].startswith(f"{hub.url}/datasets/vtrap/vtrap-results/tree/main/runs/{TUNED}/budget-")
    assert set(hub.main_tree("spaces/vtrap/board")) == {
        ".gitattributes",
        "README.md",
        "index.html",
        "leaderboard.json",
    }
    for repo in (
        f"models/{TUNED}",
        "datasets/vtrap/video-sft-hybrid",
        "datasets/vtrap/toy-video",
        "datasets/vtrap/vtrap-results",
        "spaces/vtrap/board",
    ):
        check_links(hub, repo)
    with urllib.request.urlopen(f"{hub.url}/spaces/vtrap/board", timeout=30) as answer:
        assert answer.headers["Content-Type"].startswith("text/html")
        assert TUNED in answer.read().decode()
