"""Python that a page shows and no other test runs, as it stands there."""

from __future__ import annotations

import json
import re
import runpy
from pathlib import Path
from typing import Any

import pytest

from vtrap_bench.__main__ import main as bench
from vtrap_bench.tasks import TASKS
from vtrap_data.__main__ import main
from vtrap_data.loading.dataset import PackedDataset

DOCS = Path(__file__).parents[2] / "docs"
SMALL = ["--budgets", "2,4", "--slots", "4", "--mean-frames", "3", "--scorer", "lexical", "--workers", "0"]


def run_block(page: str, holding: str) -> dict[str, Any]:
    """Run the Python block of a page that holds some text. Returns its names."""
    (block,) = [b for b in re.findall(r"```python\n(.*?)```", (DOCS / page).read_text(), re.DOTALL) if holding in b]
    names: dict[str, Any] = {}
    exec(block, names)
    return names


def toy(folder: Path, what: str, *, purpose: str = "train") -> Path:
    assert main(["toyworld", what, "--count", "2", "--purpose", purpose, "--out", str(folder)]) == 0
    return folder / f"{purpose}.jsonl"


def test_a_training_loop_of_ones_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    for what in ("videos", "images"):
        assert main(["pack", str(toy(Path("source") / what, what)), "--out", f"packed/{what}", *SMALL]) == 0
    names = run_block("loading.md", "def encode_batch")
    assert names["loader"].epoch == 1 and names["place"]["epoch"] == 1
    assert {"pixel_values", "pixel_values_videos"} & set(names["batch"])
    assert 0 < names["loss"].item() < 50


def test_a_benchmark_of_ones_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    task = run_block("benchmark.md", "MY_CLIPS = ")["MY_CLIPS"]
    monkeypatch.setitem(TASKS, task.name, task)
    rows = toy(tmp_path / "source", "videos", purpose="bench")
    assert main(["pack", str(rows), "--out", str(tmp_path / "packed/my-clips"), "--split", "test", *SMALL]) == 0
    where = ["--benchmarks", str(tmp_path / "packed"), "--out", str(tmp_path / "run")]
    assert bench(["run", "--model", "toy-vl", "--tasks", "my-clips", "--frames", "2", *where]) == 0
    records = [json.loads(line) for line in (tmp_path / "run/records.jsonl").read_text().splitlines()]
    assert len(records) == 4
    assert {record["task"] for record in records} == {"my-clips"}
    (asked,) = task.profiles["vtrap"].messages(PackedDataset(tmp_path / "packed/my-clips")[0].item)
    assert asked.content.startswith("<video>\n") and "\nA. " in asked.content


def test_the_stand_in_takes_the_benchmarks_of_the_cache(tmp_path: Path) -> None:
    for name in ("toy-video-v3", "my-clips"):
        (tmp_path / "benchmarks" / name).mkdir(parents=True)
        (tmp_path / "benchmarks" / name / "manifest.json").touch()
    (tmp_path / "benchmarks/.toy-video-v3.lock").touch()
    (tmp_path / "study.json").write_text('{"checkpoints": []}')
    commands = runpy.run_path(str(DOCS.parent / "scripts/demo_hub.py"))["commands"]
    run = commands(tmp_path, tmp_path, tmp_path / "benchmarks")
    pushed = [words[-1] for words in run if words[2:4] == ["vtrap_data", "push"]]
    assert pushed[1:] == ["vtrap/my-clips", "vtrap/toy-video"]
