"""A stand-in Hub, a packed corpus, a tiny checkpoint and a finished run, each made once."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace

import pytest
from data.shards_media import SMALL, write_clip, write_photo, write_rows
from standin.running import Running, running

PRIVATE = (
    "eval/step-0/records.jsonl",
    "eval/step-0/run.json",
    "eval/step-0.json",
    "eval/step-0.log",
    "eval.jsonl",
    "skipped.jsonl",
    "runs/Nov26_machine/events.out.tfevents.1.machine",
)
"""What a training leaves beside a model that is nothing to publish."""


@pytest.fixture(scope="module")
def hub(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    with running(tmp_path_factory.mktemp("hub")) as found:
        yield found


@pytest.fixture(autouse=True)
def no_faults(request: pytest.FixtureRequest) -> None:
    if "hub" in request.fixturenames:
        request.getfixturevalue("hub").faults()


def pack(folder: Path, *, photos: int = 4, seed: int = 0, redistributable: bool | None = True) -> Path:
    """A corpus of one clip, some photos and a text, two samples per shard."""
    from vtrap_data.__main__ import main

    free = {"source": "ours", "licence": "CC0-1.0", "redistributable": redistributable}
    clip = write_clip(folder / "src/clip.mp4", seed=seed)
    rows = [
        {**free, "id": f"clip-{i}", "video": clip.name, "conversations": _chat(f"<video>\n{question}")}
        for i, question in enumerate(("In which order do things happen?", "What colour is it?"))
    ]
    for number in range(photos):
        write_photo(folder / f"src/p{number}.png", seed=10 * seed + number)
        rows.append({**free, "id": f"p{number}", "image": f"p{number}.png", "conversations": _chat("<image>\nWhat?")})
    rows.append({**free, "id": "text", "conversations": _chat("2 + 2?")})
    source = write_rows(folder / "src/rows.jsonl", rows)
    words = ["pack", str(source), "--out", str(folder / "corpus"), "--name", "tiny", "--samples-per-shard", "2"]
    assert main([*words, *SMALL]) == 0
    return folder / "corpus"


def _chat(question: str) -> list[dict[str, str]]:
    return [{"from": "human", "value": question}, {"from": "gpt", "value": "yes"}]


@pytest.fixture(scope="session")
def corpora(tmp_path_factory: pytest.TempPathFactory) -> SimpleNamespace:
    """Two versions of one corpus, the second with fewer shards; and one that may not be passed on."""
    root = tmp_path_factory.mktemp("corpora")
    return SimpleNamespace(
        old=pack(root / "old", photos=6),
        new=pack(root / "new", photos=2, seed=1),
        forbidden=pack(root / "forbidden", photos=1, redistributable=False),
    )


@pytest.fixture(scope="session")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A toy-vl with random weights, and the files that a training leaves beside it."""
    from vtrap_data.toy_vl.build import build_model, build_processor

    folder = tmp_path_factory.mktemp("models") / "hybrid-s0"
    processor = build_processor()
    build_model(processor.tokenizer, seed=0).save_pretrained(folder)
    processor.save_pretrained(folder)
    summary = {"model": "toy-vl", "data": [{"data": "/secret/place/corpus"}], "frames": "hybrid", "steps": 1}
    (folder / "training_summary.json").write_text(json.dumps(summary))
    settings = {"learning_rate": 3e-4, "data": summary["data"]}
    (folder / "settings.json").write_text(json.dumps(settings))
    (folder / "preprocessing.json").write_text(json.dumps({"family": "qwen2_5_vl"}))
    (folder / "optimizer.pt").write_bytes(b"nothing to publish")
    (folder / "checkpoint-1").mkdir()
    (folder / "checkpoint-1/scheduler.json").write_text("{}")
    # As with --eval_tasks and a tracker: questions and answers of benchmarks, and places of this machine.
    for name in PRIVATE:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text("a secret")
    (folder / "adapter").mkdir()
    (folder / "adapter/adapter_config.json").write_text("{}")
    return folder


@pytest.fixture
def write_run(tmp_path: Path, checkpoint: Path):
    """Write finished runs of the checkpoint, as `vtrap_bench run` leaves them."""
    from finished_run import write_info, write_scores

    from hub_cards.readback import file_sha256
    from vtrap_bench.records import Record, RecordFile
    from vtrap_bench.tasks import TASKS

    def write(name: str, *, frames: str = "4", right: float = 0.5, items: int = 20) -> Path:
        folder = tmp_path / name
        tasks = [TASKS["toy-image"], TASKS["toy-video"]]
        records = []
        for task in tasks:
            for i in range(items):
                correct = i < items * right
                said = "red" if correct else "blue"
                facts = {"key": f"{task.name}-{i}", "task": task.name, "item_id": f"{task.name}-{i}", "stage": "exact"}
                facts |= {"ability": task.abilities[0], "cluster": f"m{i // 2}", "question": "?", "answer": "red"}
                facts |= {"options": ("red", "blue"), "response": said, "extracted": said, "correct": correct}
                facts |= {"frame_times": (), "n_frames": 4, "visual_tokens": 16, "prompt_tokens": 20}
                facts |= {"likelihoods": (-0.5, -1.5)} if task.name == "toy-image" else {}
                records.append(Record(**facts))
        folder.mkdir()
        with RecordFile(folder / "records.jsonl") as file:
            file.append(records)
        write_scores(folder, records, model=str(checkpoint), frames=frames)
        weights = {"model.safetensors": file_sha256(checkpoint / "model.safetensors")}
        write_info(folder, records, model=str(checkpoint), frames=frames, weights=weights)
        return folder

    return write
