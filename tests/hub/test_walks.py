"""The three walks of docs/walks, word for word: real commands, a Hub on loopback, tiny models under real names."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from pathlib import Path

import av
import numpy as np
import pytest
from bench.benchmark_rows import fixture
from bench.benchmark_rows import write_rows as write_benchmark
from data.shards_media import chat, write_clip, write_rows
from standin.page import Save, steps
from standin.running import ACCOUNTS, ROOT, Forking, Repository, Running, serve

from vtrap_data.encoding.models import NAMED
from vtrap_data.sources.benchmarks import BENCHMARKS

WALKS = ROOT / "docs" / "walks"
BASE = NAMED["qwen2.5-vl-7b"]
QUESTIONS = (("What happens first?", "The square moves."), ("What colour is the square?", "White."))
VIDEOMME = "---\nconfigs:\n- config_name: videomme\n  data_files:\n  - {split: test, path: videomme/test.jsonl}\n---\n"


@pytest.fixture(scope="module")
def world(hub: Running, checkpoint: Path, tmp_path_factory: pytest.TempPathFactory) -> Running:
    """What the Hub has on the first day: a base model, somebody's fine-tune of it, the rows of two benchmarks."""
    from vtrap_data.toy_vl.build import build_model, build_processor

    root = tmp_path_factory.mktemp("world")
    users = {name: {"orgs": [*user["orgs"], "me"]} for name, user in ACCOUNTS["users"].items()}
    users["ann"]["orgs"] += ["lmms-lab-encoder", "lmms-eval"]
    hub.control("accounts", {"users": users})
    trained = shutil.ignore_patterns("checkpoint-*", "*.pt", "*summary.json", "settings.json", "preprocessing.json")
    base = shutil.copytree(checkpoint, root / "base", ignore=trained)
    (base / "README.md").write_text("---\nlicense: apache-2.0\n---\n# A tiny stand-in\n")
    tuned = shutil.copytree(base, root / "tuned")
    build_model(build_processor().tokenizer, seed=1).save_pretrained(tuned)
    (tuned / "README.md").write_text(f"---\nlicense: apache-2.0\nbase_model: {BASE.path}\n---\n# A fine-tune\n")
    rows = [BENCHMARKS[name] for name in ("pope", "videomme")]
    for known in rows:
        write_benchmark(known.name, root / known.name)
    (root / "videomme/README.md").write_text(VIDEOMME)
    serve(
        hub,
        root / "home",
        Repository(base, BASE.path, sha=BASE.revision),
        Repository(tuned, "me/my-vl-7b"),
        *(Repository(root / known.name, known.ids[0], "dataset", known.revision) for known in rows),
    )
    return hub


@pytest.fixture(scope="module")
def reader(world: Running, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Forking]:
    forking = Forking("all", world, tmp_path_factory.mktemp("reader"))
    yield forking
    forking.close()


@pytest.fixture
def clone(tmp_path: Path) -> Path:
    """Where the reader stands: an empty folder but for what is theirs."""
    mine = tmp_path / "my"
    for number in range(6):
        write_clip(mine / f"clips/{number}.mp4", frames=16, seed=number)
    rows = [
        {"id": f"{n}-{q}", "video": f"clips/{n}.mp4", "conversations": chat(f"<video>\n{question}", answer)}
        for n in range(6)
        for q, (question, answer) in enumerate(QUESTIONS)
    ]
    write_rows(mine / "videos.jsonl", rows)
    for name in sorted({row["videoID"] for row in fixture("videomme")}):
        write_noise(mine / f"videomme/{name}.mp4")
    return tmp_path


def write_noise(path: Path) -> None:
    """A clip of 70 frames that looks like none of the reader's."""
    pictures = np.random.default_rng(7).integers(0, 255, (7, 4, 6, 3), dtype=np.uint8).repeat(16, 1).repeat(16, 2)
    path.parent.mkdir(parents=True, exist_ok=True)
    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx264", rate=10, options={"preset": "ultrafast"})
        stream.width, stream.height, stream.pix_fmt = 96, 64, "yuv420p"
        for number in range(70):
            container.mux(stream.encode(av.VideoFrame.from_ndarray(pictures[number // 10], format="rgb24")))
        container.mux(stream.encode())


def walk(reader: Forking, clone: Path, page: str, *, instead: dict[str, str]) -> dict[str, str]:
    """Type a page. What each command said."""
    reader.home = clone
    said = {}
    # Workers take longer to start than these clips to decode.
    instead = {"vtrap_data pack ": "vtrap_data pack --workers 0 ", **instead}
    # Their benchmarks have a handful of rows.
    instead = {"vtrap_data benchmark ": "vtrap_data benchmark --accept-count ", **instead}
    for step in steps(WALKS / f"{page}.md", instead=instead):
        if isinstance(step, Save):
            (clone / step.name).write_text(step.text)
            continue
        assert step[:2] == ["python", "-m"], step
        code, output = reader.run([f"{step[2]}.__main__", *step[3:]])
        with (clone / "transcript.txt").open("a") as file:  # for whoever looks at a failure
            file.write(f"$ {' '.join(step)}\n{output}\n")
        assert code == 0, f"{' '.join(step)}\n{output[-3000:]}"
        assert "SECRET" not in output
        said[" ".join(step[2:])] = output
    return said


def line(said: dict[str, str], start: str) -> str:
    return next(text for command, text in said.items() if command.startswith(start))


@pytest.mark.slow
def test_hybrid_budgets_for_a_7b(reader: Forking, clone: Path) -> None:
    instead = {"seeds: [0, 1, 2]": "seeds: [0]", "{config: one-gpu-lora}": "{config: one-gpu-lora, max_steps: 1}"}
    instead |= {"  - {name: random, frames: hybrid, strategy: random}\n": ""}
    said = walk(reader, clone, "hybrid_7b", instead=instead)
    assert "12 items about 6 samples" in line(said, "vtrap_data pack --workers 0 my")
    report = json.loads((clone / "runs/study/report.json").read_text())
    assert [setting["name"] for setting in report["summary"]] == ["hybrid", "fixed-16"]
    for setting in report["summary"]:
        assert setting["image"] is not None and setting["video"] is not None
    assert "fixed-16" in said["vtrap_bench study study.yaml --out runs/study"]


@pytest.mark.slow
def test_eight_gpus_tonight(reader: Forking, clone: Path) -> None:
    one = " --config hybrid --gradient_accumulation_steps 8 --gpus 1"  # as many steps accumulated, in one process
    instead = {f" --config one-node,hybrid {flag}": f"{one} {flag}" for flag in ("--max_steps", "--save_steps")}
    instead |= {" --gpus 8": ""}
    said = walk(reader, clone, "eight_gpus", instead=instead)
    assert "on 8 process(es)" in line(
        said, "vtrap_train --model qwen2.5-vl-7b --data runs/corpus --config one-node,hybrid --gpu_mem"
    )
    summary = json.loads((clone / "runs/7b/training_summary.json").read_text())
    assert summary["samples"] == 12 and summary["frames"] == "hybrid"
    tuned = json.loads((clone / "runs/tuned/run.json").read_text())
    assert tuned["model"]["weights"] != json.loads((clone / "runs/base/run.json").read_text())["model"]["weights"]


@pytest.mark.slow
def test_a_model_on_the_leaderboard(reader: Forking, world: Running, clone: Path) -> None:
    walk(reader, clone, "leaderboard", instead={})
    tree = world.main_tree("spaces/me/leaderboard")
    assert {"index.html", "leaderboard.json"} <= set(tree)
    open_requests = [d for d in world.repo("models/me/my-vl-7b")["discussions"] if d["status"] == "open"]
    assert len(open_requests) == 1
