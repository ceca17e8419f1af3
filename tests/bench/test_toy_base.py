"""The shipped toy-vl: good at pictures, at chance where time is needed. Scored by the product itself."""

from __future__ import annotations

import json
import subprocess
import sys
from collections import defaultdict
from pathlib import Path

import pytest

from vtrap_data.encoding.models import TOY_VL
from vtrap_data.sources.toyworld.questions import TEMPORAL_ABILITIES


def command(*arguments: object) -> None:
    done = subprocess.run(
        [sys.executable, "-m", *map(str, arguments)], capture_output=True, text=True, check=False, timeout=600
    )
    assert done.returncode == 0, done.stderr[-2000:]


@pytest.fixture(scope="module")
def scored(tmp_path_factory) -> Path:
    work = tmp_path_factory.mktemp("toy")
    packs = {
        "toy-image": ("images", 400, []),
        "toy-video": ("videos", 160, ["--budgets", "2,4,8,16", "--slots", "16"]),
    }
    for task, (kind, count, options) in packs.items():
        source = work / "source" / task
        # Another seed than that of the published benchmarks: other scenes.
        command("vtrap_data", "toyworld", kind, "--purpose", "bench", "--seed", 7, "--count", count, "--out", source)
        fixed = ["--strategy", "fixed:16"] if kind == "videos" else []
        bench = work / "bench" / task
        command("vtrap_data", "pack", source / "bench.jsonl", "--out", bench, "--workers", 0, *options, *fixed)
    command(
        *("vtrap_bench", "run", "--model", "toy-vl", "--tasks", "toy-image,toy-video", "--frames", 16),
        *("--benchmarks", work / "bench", "--out", work / "run"),
    )
    return work / "run"


@pytest.mark.slow
def test_it_sees_pictures(scored):
    abilities = json.loads((scored / "scores.json").read_text())["tasks"]["toy-image"]["abilities"]
    assert set(abilities) == {"colour", "shape", "count", "position", "digit"}
    scores = {name: a["score"] for name, a in abilities.items()}
    assert sum(scores.values()) / len(scores) >= 90, scores


@pytest.mark.slow
def test_it_answers_questions_about_time_in_form_but_at_chance(scored):
    chance = {"change": 1 / 2, "morph": 1 / 2, "order": 1 / 2, "blinks": 1 / 4}  # of the two that can be seen
    right, formed = defaultdict(list), []
    for line in (scored / "records.jsonl").read_text().splitlines():
        record = json.loads(line)
        if record["ability"] in TEMPORAL_ABILITIES:
            right[record["ability"]].append(record["correct"])
            formed.append(record["response"].strip() in record["options"])
    assert right.keys() == chance.keys()
    assert sum(formed) >= 0.9 * len(formed), "nearly always an answer that is possible"
    for ability, answers in right.items():
        n = len(answers)
        spread = 3 * (chance[ability] * (1 - chance[ability]) / n) ** 0.5
        assert abs(sum(answers) / n - chance[ability]) < spread, (ability, sum(answers), n)


def test_the_checkpoint_is_small_and_in_the_standard_files():
    files = {p.name for p in TOY_VL.iterdir()}
    assert {"config.json", "model.safetensors", "tokenizer.json", "processor_config.json"} <= files
    assert sum(p.stat().st_size for p in TOY_VL.iterdir()) <= 8_000_000
    assert not [name for name in files if name.endswith((".bin", ".pt", ".pth", ".pkl"))]
