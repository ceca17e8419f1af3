"""Does a dry run render everything that would be published, and say what would stop it?"""

from __future__ import annotations

import argparse
import json
import re
from collections.abc import Callable
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path
from types import ModuleType

import pytest
import yaml
from finished_run import write_info, write_scores
from huggingface_hub import ModelCard, parse_eval_result_entries
from PIL import Image

import vtrap_bench.leaderboard
import vtrap_bench.submit
import vtrap_data.push
import vtrap_train.push
from hub_cards.dataset_card import DatasetFacts, SourceFacts
from hub_cards.dry_run import Results, Upload, render
from hub_cards.eval_results import TaskNumber, eval_results_yaml, eval_yaml
from hub_cards.model_card import ModelFacts, model_card
from hub_cards.report_rows import report_rows
from hub_cards.results import Estimate, ResultRow
from vtrap_bench.changes import build, read_runs
from vtrap_bench.records import Record, RecordFile
from vtrap_bench.tasks import TASKS
from vtrap_data.errors import UsageError

DATASET = DatasetFacts(
    pretty_name="Tiny",
    repo_id="vtrap/video-sft-hybrid",
    sources=(SourceFacts(name="open", licence="CC-BY-4.0", redistributable=True, samples=1, items=2),),
    splits={"train": "data/train-*.tar"},
    n_samples=1,
    n_items=2,
    strategy="fixed:8",
    format_version=1,
)
ROW = ResultRow(
    model="vtrap/toy-vl-hybrid",
    base="toy-vl",
    frames="16",
    trained="hybrid",
    image=Estimate(95.0, 93.0, 97.0),
    video=Estimate(71.5, 68.0, 75.0),
    image_change=Estimate(-2.5, -4.0, -1.0),
    video_change=Estimate(21.0, 17.0, 25.0),
    synthetic=True,
)
MODEL = ModelFacts(
    model_id="vtrap/toy-vl-hybrid",
    base_model="Qwen/Qwen2.5-VL-3B-Instruct",
    data=("vtrap/video-sft-hybrid", "local"),
    frames="hybrid",
    licence="apache-2.0",
    recipe={"learning_rate": 1e-5, "note": "a|b"},
    table=(ROW,),
    preprocessing={"family": "qwen2_5_vl", "video_processor": {"patch_size": 14}},
)


class Links(HTMLParser):
    def __init__(self) -> None:
        super().__init__()
        self.found: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.found += [value or "" for name, value in attrs if name in ("href", "src")]


def links(page: Path) -> list[str]:
    parser = Links()
    parser.feed(page.read_text())
    return [link for link in parser.found if not link.startswith("#")]


def test_everything_is_rendered_and_every_link_leads_somewhere(tmp_path: Path) -> None:
    figure = tmp_path / "trade_off.png"
    Image.new("RGB", (4, 4)).save(figure)
    out = tmp_path / "hub"
    parts = render(
        out,
        dataset=DATASET,
        dataset_files=[Upload("data/train-00000.tar", 2_500_000)],
        model=MODEL,
        figure=figure,
        results=Results("vtrap/toy-vl-hybrid", [TaskNumber(dataset_id="vtrap/toy", task_id="toy", value=71.5)]),
        rows=[ROW],
    )
    assert list(parts) == ["dataset", "model", "results", "leaderboard"]
    expected = [file for part in parts.values() for file in part.files]
    assert sorted(links(out / "index.html")) == sorted(expected)
    assert {"model/.eval_results/vtrap.yaml", "leaderboard/index.html", "model/trade_off.png"} < set(expected)
    assert all((out / file).is_file() for file in expected)
    assert (out / "model/trade_off.png").read_bytes() == figure.read_bytes()
    assert "![Image change against video change](trade_off.png)" in (out / "model/README.md").read_text()
    page = (out / "index.html").read_text()
    assert "2.5 MB" in page
    assert "Would be refused" not in page
    assert json.loads((out / "model/preprocessing.json").read_text())["family"] == "qwen2_5_vl"
    assert not list(out.rglob("*.tmp*"))


def test_parts_rendered_one_after_another_are_all_in_the_index(tmp_path: Path) -> None:
    render(tmp_path, dataset=DATASET)
    render(tmp_path, model=MODEL)
    assert set(render(tmp_path, rows=[ROW])) == {"dataset", "model", "leaderboard"}
    (tmp_path / "dataset/README.md").unlink()
    assert set(render(tmp_path)) == {"model", "leaderboard"}
    first = (tmp_path / "index.html").read_bytes()
    render(tmp_path, model=MODEL)
    assert (tmp_path / "index.html").read_bytes() == first


def test_reasons_against_publishing_are_on_the_page(tmp_path: Path) -> None:
    closed = SourceFacts(name="<closed>", licence="research only", redistributable=False, samples=1, items=1)
    render(tmp_path, dataset=replace(DATASET, sources=(*DATASET.sources, closed)))
    page = (tmp_path / "index.html").read_text()
    assert "Would be refused" in page
    assert "&lt;closed&gt; (research only)" in page
    assert "<closed>" not in page


@pytest.mark.parametrize("file", ["../secret.md", "/etc/hostname"])
def test_a_plan_that_points_outside_is_not_followed(tmp_path: Path, file: str) -> None:
    (tmp_path / "secret.md").write_text("secret")
    out = tmp_path / "out"
    out.mkdir()
    part = {"target": "a/b", "files": [file], "uploads": [], "blocked": []}
    (out / "plan.json").write_text(json.dumps({"format": 1, "parts": {"model": part}}))
    assert render(out) == {}
    assert "secret" not in (out / "index.html").read_text()


def test_names_that_are_no_hub_ids_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="owner/name"):
        render(tmp_path, dataset=replace(DATASET, repo_id="nobody"))
    with pytest.raises(ValueError, match="owner/name"):
        render(tmp_path, model=replace(MODEL, model_id="../x"))
    assert not (tmp_path / "index.html").exists()


def test_model_card_says_what_the_hub_needs() -> None:
    card = ModelCard(model_card(MODEL))
    assert card.data.base_model == "Qwen/Qwen2.5-VL-3B-Instruct"
    assert card.data.datasets == ["vtrap/video-sft-hybrid"]
    assert (card.data.pipeline_tag, card.data.library_name) == ("video-text-to-text", "transformers")
    assert "vtrap" in card.data.tags
    row = next(line for line in card.text.splitlines() if line.startswith("| vtrap/toy-vl-hybrid"))
    assert "| 95.0 [93.0, 97.0] | 71.5 [68.0, 75.0] | −2.5 [−4.0, −1.0] | +21.0 [+17.0, +25.0] |" in row
    assert r"| note | a\|b |" in card.text
    assert r"| video\_processor.patch\_size | 14 |" in card.text
    assert "Synthetic" not in card.text
    toy = ModelCard(model_card(replace(MODEL, base_model="toy-vl", synthetic=True, table=())))
    assert toy.data.base_model is None  # not on the Hub, so no link
    assert "**Synthetic.**" in toy.text
    assert "Not measured yet" in toy.text


def test_results_file_is_what_the_hub_client_reads_back() -> None:
    numbers = [
        TaskNumber(dataset_id="vtrap/toy-video", task_id="toy-video-budget", value=71.512345, notes="n=3: 50%"),
        TaskNumber(dataset_id="vtrap/toy-image", task_id="toy-image", value=100, dataset_revision="a" * 40),
    ]
    text = eval_results_yaml(numbers, date="2026-11-23", source_url="https://example.org/r", source_name="vtrap run")
    assert "verifyToken" not in text
    found = parse_eval_result_entries(yaml.safe_load(text))
    assert [(e.dataset_id, e.task_id, e.value) for e in found] == [
        ("vtrap/toy-video", "toy-video-budget", 71.5123),
        ("vtrap/toy-image", "toy-image", 100),
    ]
    assert (found[0].date, found[0].source_name, found[0].notes) == ("2026-11-23", "vtrap run", "n=3: 50%")
    assert found[1].dataset_revision == "a" * 40


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"value": float("nan")}, "percentage"),
        ({"value": 101.0}, "percentage"),
        ({"dataset_id": "toy"}, "owner/name"),
        ({}, "twice"),
    ],
)
def test_wrong_results_are_refused(change: dict[str, object], message: str) -> None:
    good = TaskNumber(dataset_id="a/b", task_id="t", value=50.0)
    with pytest.raises(ValueError, match=message):
        eval_results_yaml([good, replace(good, **change)])  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="no scores"):
        eval_results_yaml([])


def test_eval_yaml() -> None:
    data = yaml.safe_load(
        eval_yaml(name="Toy", description="x", tasks=[("a", "video", "test"), ("b", "image", "test")])
    )
    assert data["evaluation_framework"] == "vtrap"
    assert data["tasks"][1] == {"id": "b", "config": "image", "split": "test"}
    with pytest.raises(ValueError, match="different ids"):
        eval_yaml(name="Toy", description="x", tasks=[("a", "v", "test"), ("a", "i", "test")])


# ---- the commands, on the files that the other rooms write ---------------------------------------------------------


def call(module: ModuleType, *words: object) -> int:
    parser = argparse.ArgumentParser()
    module.add_arguments(parser)
    run: Callable[[argparse.Namespace], int] = module.run
    return run(parser.parse_args([str(word) for word in words]))


def write_run(
    folder: Path, *, model: str, frames: str, right: float, limit: int | None = None, hub_revision: str | None = None
) -> Path:
    """A finished run of toy-image and toy-video, as the benchmark writes it, with a share `right` of right answers."""
    records = []
    for task in ("toy-image", "toy-video"):
        for i in range(20):
            correct = i < 20 * right
            records.append(
                Record(
                    key=f"{task}-{i}",
                    task=task,
                    item_id=f"{task}-{i}",
                    ability=TASKS[task].abilities[i % 2],
                    cluster=f"m{i // 2}",
                    question="?",
                    options=("red", "blue"),
                    answer="red",
                    response="red" if correct else "blue",
                    extracted="red" if correct else "blue",
                    stage="exact",
                    correct=correct,
                    frame_times=(),
                    n_frames=0 if task == "toy-image" else 4,
                    visual_tokens=16,
                    prompt_tokens=20,
                )
            )
    folder.mkdir(parents=True)
    with RecordFile(folder / "records.jsonl") as file:
        file.append(records)
    write_scores(folder, records, model=model, frames=frames)
    limits = {task: {"limit": limit} for task in ("toy-image", "toy-video")}
    write_info(folder, records, model=model, frames=frames, tasks=limits, hub_revision=hub_revision)
    return folder


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    root = tmp_path_factory.mktemp("runs")
    base = write_run(root / "base", model="toy-vl", frames="4", right=0.9)
    return [base, write_run(root / "tuned", model=str(root / "models" / "hybrid-s0"), frames="4", right=0.6)]


def test_leaderboard_of_runs(tmp_path: Path, runs: list[Path]) -> None:
    out = tmp_path / "hub" / "leaderboard"
    render(tmp_path / "hub", dataset=DATASET)
    assert call(vtrap_bench.leaderboard, "build", *runs, "--out", out) == 0
    page = (out / "index.html").read_text()
    rows = json.loads(re.search(r'id="rows">(.*?)</script>', page, re.S)[1])  # type: ignore[index]
    assert [(r["model"], r.get("base"), r["frames"]) for r in rows] == [
        ("toy-vl", None, "4"),
        ("hybrid-s0", "toy-vl", "4"),
    ]
    assert rows[0]["image"][0] == pytest.approx(90)
    assert rows[1]["image_change"][0] == pytest.approx(-30)
    low, high = rows[1]["image_change"][1:]
    assert low < -30 < high
    assert "image_change" not in rows[0]
    assert all((out / r["records"]).resolve().is_file() for r in rows)
    assert str(tmp_path) not in page
    assert "leaderboard/index.html" in links(tmp_path / "hub/index.html")


def test_leaderboard_of_a_study(tmp_path: Path) -> None:
    checkpoints = []
    for setting, seed, right in ((None, None, 0.9), ("hybrid", 0, 0.7), ("hybrid", 1, 0.6)):
        name = "base" if setting is None else f"{setting}-s{seed}"
        model = "toy-vl" if setting is None else f"models/{name}"
        found = {}
        for frames in ("4", "budget"):
            write_run(tmp_path / "study/scores" / name / frames, model=model, frames=frames, right=right)
            found[frames] = f"scores/{name}/{frames}"
        evaluated = "4" if setting is None else "budget"
        facts = {"setting": setting, "seed": seed, "model": model, "evaluated": evaluated, "strategy": None}
        checkpoints.append({**facts, "frames": setting and "hybrid", "runs": found})
    record = {"format": 1, "checkpoints": checkpoints, "common_frames": 4, "curve": [], "commands": []}
    (tmp_path / "study/study.json").write_text(json.dumps(record))
    rows = vtrap_bench.leaderboard.leaderboard_rows([tmp_path / "study"], out=tmp_path / "page")
    assert [(r.model, r.frames, r.trained) for r in rows] == [
        ("toy-vl", "4", None),
        ("toy-vl", "budget", None),
        ("hybrid, seed 0", "budget", "hybrid"),
        ("hybrid, seed 0", "4", "hybrid"),
        ("hybrid, seed 1", "budget", "hybrid"),
        ("hybrid, seed 1", "4", "hybrid"),
    ]
    assert rows[4].records == "../study/scores/hybrid-s1/budget/records.jsonl"
    assert [r.video_change.value for r in rows[2:] if r.video_change] == pytest.approx([-20, -20, -30, -30])


def test_submit(tmp_path: Path, runs: list[Path], capsys: pytest.CaptureFixture[str]) -> None:
    assert call(vtrap_bench.submit, runs[1], "--model", "vtrap/toy-vl-hybrid", "--dry-run", tmp_path) == 0
    found = yaml.safe_load((tmp_path / "model/.eval_results/vtrap.yaml").read_text())
    assert [(e["dataset"]["id"], e["dataset"]["task_id"], e["value"]) for e in found] == [
        ("vtrap/toy-image", "toy-image", 60.0),
        ("vtrap/toy-video", "toy-video-4-frames", 60.0),
    ]
    assert "synthetic data" in found[0]["notes"]
    assert "refused" not in capsys.readouterr().err


def test_submit_says_what_would_be_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    cut = write_run(
        tmp_path / "cut", model="Qwen/Qwen2.5-VL-3B-Instruct", frames="4", right=0.5, limit=20, hub_revision="c" * 40
    )
    assert call(vtrap_bench.submit, cut, "--model", "other/model", "--dry-run", tmp_path / "hub") == 0
    said = capsys.readouterr().err
    assert "The run scored Qwen/Qwen2.5-VL-3B-Instruct, not other/model" in said
    assert "without --limit" in said
    records = (cut / "records.jsonl").read_text()
    (cut / "records.jsonl").write_text(records.replace('"response": "blue"', '"response": "red"', 1))
    with pytest.raises(UsageError, match=r"line \d+ is not as it was written"):
        call(vtrap_bench.submit, cut, "--model", "other/model", "--dry-run", tmp_path / "hub")


@pytest.fixture
def checkpoint(tmp_path: Path) -> Path:
    folder = tmp_path / "models" / "hybrid-s0"
    folder.mkdir(parents=True)
    summary = {"model": "toy-vl", "data": [{"data": "/secret/place/corpus"}], "frames": "hybrid", "steps": 300}
    summary |= {"samples": 9600, "train_loss": 0.123456, "visual_tokens": 5}
    (folder / "training_summary.json").write_text(json.dumps(summary))
    (folder / "settings.json").write_text(json.dumps({"learning_rate": 3e-4, "max_steps": 300, "bf16": False}))
    (folder / "preprocessing.json").write_text(json.dumps({"family": "qwen2_5_vl"}))
    (folder / "model.safetensors").write_bytes(b"0" * 2000)
    (folder / "checkpoint-10").mkdir()
    (folder / "checkpoint-10" / "optimizer.pt").write_bytes(b"0")
    (folder / "eval" / "step-0").mkdir(parents=True)
    (folder / "eval" / "step-0" / "records.jsonl").write_text("questions and answers of a benchmark")
    (folder / "skipped.jsonl").write_text("places of this machine")
    return folder


def test_push_a_checkpoint(
    tmp_path: Path, runs: list[Path], checkpoint: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    report = build(read_runs(runs))
    (tmp_path / "report.json").write_text(json.dumps(report))
    out = tmp_path / "hub"
    words = [checkpoint, "vtrap/toy-vl-hybrid", "--dry-run", out, "--report", tmp_path / "report.json"]
    summary = (checkpoint / "training_summary.json").read_text()
    (checkpoint / "training_summary.json").write_text(summary.replace("toy-vl", "/secret/place/base"))
    assert call(vtrap_train.push, *words) == 0
    assert "licence" in capsys.readouterr().err
    (checkpoint / "training_summary.json").write_text(summary)  # toy-vl ships with vtrap, so its licence is known
    assert call(vtrap_train.push, *words) == 0
    assert "refused" not in capsys.readouterr().err
    assert "license: apache-2.0" in (out / "model/README.md").read_text()
    text = (out / "model/README.md").read_text()
    assert "secret" not in text
    assert "| corpus |" in text
    assert "| toy-vl | — | 4 | 90.0" in text
    assert "| vtrap/toy-vl-hybrid | 4 | 4 | 60.0" in text
    assert "−30.0" in text
    assert "| learning\\_rate | 0.0003 |" in text
    assert "**Synthetic.**" in text
    plan = json.loads((out / "plan.json").read_text())["parts"]["model"]
    assert [name for name, _ in plan["uploads"]] == ["model.safetensors", "settings.json", "training_summary.json"]
    # A toy stays one where it is scored on real benchmarks.
    (tmp_path / "report.json").write_text(json.dumps(report).replace('"synthetic": true', '"synthetic": false'))
    assert call(vtrap_train.push, *words) == 0
    assert "**Synthetic.**" in (out / "model/README.md").read_text()
    with pytest.raises(UsageError, match="no setting 'other': choose one of hybrid-s0"):
        call(vtrap_train.push, *words, "--setting", "other")


def test_push_a_corpus(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    from vtrap_data.shards.manifest import PackSettings
    from vtrap_data.shards.pack import pack
    from vtrap_data.sources.jsonl import read_jsonl

    Image.new("RGB", (32, 24), "red").save(tmp_path / "a.png")
    row = {"id": "a", "image": "a.png", "source": "found", "licence": "research only", "redistributable": False}
    row["messages"] = [
        {"role": "user", "content": "<image>\nColour?"},
        {"role": "assistant", "content": "red"},
    ]
    (tmp_path / "rows.jsonl").write_text(json.dumps(row) + "\n")
    corpus = read_jsonl(tmp_path / "rows.jsonl", media_root=None, name=None)
    pack(corpus.samples, tmp_path / "corpus", settings=PackSettings(name="tiny"), rejected=corpus.rejected)
    out = tmp_path / "hub"
    assert call(vtrap_data.push, tmp_path / "corpus", "vtrap/tiny", "--dry-run", out) == 0
    assert "found (research only)" in capsys.readouterr().err
    text = (out / "dataset/README.md").read_text()
    assert 'load_dataset("vtrap/tiny"' in text
    plan = json.loads((out / "plan.json").read_text())["parts"]["dataset"]
    assert [name for name, _ in plan["uploads"]] == ["data/train-00000.tar", "index.parquet", "manifest.json"]
    assert "found (research only)" in plan["blocked"][0]
    with pytest.raises(UsageError, match="owner/name"):
        call(vtrap_data.push, tmp_path / "corpus", "tiny", "--dry-run", out)


def test_report_rows_refuse_what_they_do_not_know() -> None:
    with pytest.raises(ValueError, match="format 2"):
        report_rows({"format": 2})
    with pytest.raises(ValueError, match="damaged"):
        report_rows({"format": 1, "base": {}})
