"""A packed corpus of videos, images and text, and a model of the real class with random weights, made once."""

import os
from dataclasses import replace
from pathlib import Path

import pytest

os.environ.setdefault("OMP_NUM_THREADS", "1")

from vtrap_data.samples import Item, Message, SourceSample
from vtrap_data.shards.manifest import PackSettings
from vtrap_data.shards.pack import pack
from vtrap_data.sources.toyworld.generate import Recipe, generate


@pytest.fixture(scope="session")
def model_dir(tmp_path_factory):
    from vtrap_data.toy_vl.build import build_model, build_processor

    out = tmp_path_factory.mktemp("model")
    processor = build_processor()
    build_model(processor.tokenizer, seed=1).save_pretrained(out)
    processor.save_pretrained(out)
    return out


@pytest.fixture(scope="session")
def sources(tmp_path_factory):
    """Source samples: 4 clips with 3 questions each, 6 pictures, 2 texts."""
    root = tmp_path_factory.mktemp("world")
    found = []
    for kind, count in (("videos", 6), ("images", 6)):
        jsonl = generate(Recipe(kind=kind, purpose="train", count=count), root / kind)
        found += [_named(s, f"toy-{kind}") for s in _read(jsonl, root / kind)]
    return [*found, *(text_sample(n) for n in range(2))]


@pytest.fixture(scope="session")
def packed(sources, tmp_path_factory):
    return pack_into(sources, tmp_path_factory.mktemp("packed") / "mixed")


@pytest.fixture(scope="session")
def packed_by_kind(sources, tmp_path_factory):
    root = tmp_path_factory.mktemp("packed")
    return {
        kind: pack_into([s for s in sources if s.kind == kind], root / kind) for kind in ("video", "images", "text")
    }


@pytest.fixture(scope="session")
def singles(sources, tmp_path_factory):
    """For each kind a packed dataset of one item."""
    root = tmp_path_factory.mktemp("singles")
    found = {}
    for kind in ("text", "images", "video"):
        sample = next(s for s in sources if s.kind == kind)
        found[kind] = pack_into([replace(sample, items=sample.items[:1])], root / kind, strategy="fixed:4")
    return found


@pytest.fixture(scope="session")
def whole_runs(model_dir, sources, tmp_path_factory):
    """Trainings by the real command, which run in the background: see whole_runs.py."""
    from test_streaming import Server
    from whole_runs import KINDS, WholeRuns

    root = tmp_path_factory.mktemp("whole runs")
    samples = [*sources, *(text_sample(n) for n in range(2, 4))]
    for kind in KINDS:
        found = [s for s in samples if s.kind == kind][: 2 if kind == "video" else 4]  # a clip has two questions
        pack_into(found, root / "corpora" / kind, samples_per_shard=2)
    with Server(root / "corpora") as server:
        runs = WholeRuns(model_dir, root / "corpora", server, root)
        yield runs
        runs.pool.shutdown(cancel_futures=True)
        server.shutdown()


@pytest.fixture(scope="session", autouse=True)
def begin(request):
    """What takes long is begun early."""
    if any("whole_runs" in item.fixturenames for item in request.session.items):
        request.getfixturevalue("whole_runs")


def pack_into(samples, out: Path, **changes) -> Path:
    settings = {"budgets": (2, 4, 8, 16), "slots": 16, "mean_frames": 4, "store": 16, "short_side": 64, **changes}
    pack(samples, out, settings=PackSettings(name="tiny", **settings))
    return out


def text_sample(number: int) -> SourceSample:
    turns = (
        Message(role="user", content=f"How many shapes are there? {number}"),
        Message(role="assistant", content="2"),
    )
    return SourceSample(
        id=f"text-{number}",
        kind="text",
        paths=(),
        items=(Item(id=f"text-{number}-0", messages=turns, question="How many shapes are there?"),),
        source="toy-text",
        licence="CC0-1.0",
        redistributable=True,
    )


def _read(jsonl, root):
    from vtrap_data.sources.jsonl import read_jsonl

    return read_jsonl(jsonl, media_root=root, name=None).samples


def _named(sample, source):
    return replace(sample, source=source)
