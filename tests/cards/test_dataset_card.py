"""Does the card make stock `datasets` and `webdataset` read a real tar right, and does it survive hostile names?"""

from __future__ import annotations

import io
import json
import re
import tarfile
from dataclasses import fields, is_dataclass, replace
from pathlib import Path
from typing import Any

import msgpack
import pytest
import yaml
from huggingface_hub import DatasetCard
from PIL import Image

from hub_cards.dataset_card import DatasetFacts, SourceFacts, dataset_card, features, refuse_reasons, size_category
from vtrap_data import samples as s

FACTS = DatasetFacts(
    pretty_name="Tiny",
    repo_id="vtrap/video-sft-hybrid",
    sources=(SourceFacts(name="toyworld", licence="Apache-2.0", redistributable=True, samples=4, items=5),),
    splits={"train": "data/train-*.tar"},
    n_samples=4,
    n_items=5,
    kinds={"video": 2, "images": 1, "text": 1},
    strategy="hybrid",
    params={"eps": 0.0625},
    budgets={2: 2, 4: 1},
    format_version=s.FORMAT_VERSION,
)


def jpeg(colour: str, size: tuple[int, int] = (8, 6)) -> bytes:
    out = io.BytesIO()
    Image.new("RGB", size, colour).save(out, "JPEG")
    return out.getvalue()


def item(name: str, **more: Any) -> s.PackedItem:
    turns = (s.Message(role="user", content="<video>\nWhat?"), s.Message(role="assistant", content="That."))
    return s.PackedItem(id=name, messages=turns, **more)


def sample(key: str, kind: s.Kind, **more: Any) -> s.PackedSample:
    values = {"id": key, "source": "toyworld", "licence": "Apache-2.0", "redistributable": True} | more
    return s.PackedSample(key=key, kind=kind, **values)


def video(duration: float, n: int, **more: Any) -> s.PackedVideo:
    return s.PackedVideo(
        name="a.mp4",
        sha256="0" * 64,
        duration=duration,
        fps=29.97,
        width=8,
        height=6,
        frame_times=tuple(0.5 + i for i in range(n)),
        frame_bytes=tuple(range(n + 1)),
        pool=tuple(range(n)),
        **more,
    )


# The first five samples are what stock inference would look at: only text and images, so a video that comes later
# would be lost if the features were not declared.
ROWS: list[tuple[s.PackedSample, dict[str, list[bytes]]]] = [
    *((sample(f"t{i}", "text", redistributable=None, items=(item(f"t{i}-q"),)), {}) for i in range(5)),
    (
        sample(
            "im",
            "images",
            items=(item("im-q", options=("red", "blue"), answer="red", ability="colour", needs=1),),
            images=(s.PackedImage(name="a.png", sha256="1" * 64, width=8, height=6),) * 2,
        ),
        {"images.mp": [jpeg("red"), jpeg("blue", (5, 4))]},
    ),
    (
        sample("va", "video", items=(item("va-1", budget=2, frame_ids=(0, 2), demand=1.0),), video=video(3.0, 3)),
        {"frames.mp": [jpeg("red"), jpeg("green"), jpeg("blue")]},
    ),
    (
        sample(
            "vb",
            "video",
            items=(item("vb-1", budget=1, frame_ids=(0,)), item("vb-2", budget=1, frame_ids=(0,), demand=0.25)),
            video=video(1.5, 1, residuals=(1.0, 0.5)),
        ),
        {"frames.mp": [jpeg("white")]},
    ),
]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("packed")
    (root / "data").mkdir()
    for n, part in enumerate((ROWS[:6], ROWS[6:])):
        with tarfile.open(root / "data" / f"train-{n:05d}.tar", "w") as tar:
            for row, media in part:
                members = {"json": json.dumps(row.to_json()).encode()}
                members |= {name: msgpack.packb(images) for name, images in media.items()}
                for name, data in members.items():
                    info = tarfile.TarInfo(f"{row.key}.{name}")
                    info.size = len(data)
                    tar.addfile(info, io.BytesIO(data))
    (root / "README.md").write_text(dataset_card(FACTS))
    return root


@pytest.mark.parametrize("streaming", [True, False])
def test_stock_datasets_reads_mixed_rows(folder: Path, tmp_path: Path, streaming: bool) -> None:
    from datasets import load_dataset

    data = load_dataset(str(folder), split="train", streaming=streaming, cache_dir=str(tmp_path))
    rows = list(data)
    assert [row["__key__"] for row in rows] == [row.key for row, _ in ROWS]
    for got, (want, media) in zip(rows, ROWS, strict=True):
        assert got["json"] == want.to_json()
        assert s.PackedSample.from_json(got["json"]) == want
        for column in ("frames.mp", "images.mp"):
            images = got[column]
            if column not in media:
                assert images is None
                continue
            assert [image.size for image in images] == [Image.open(io.BytesIO(b)).size for b in media[column]]
            assert all(isinstance(image, Image.Image) for image in images)
    by_key = {row["__key__"]: row for row in rows}
    assert by_key["va"]["frames.mp"][2].convert("RGB").getpixel((0, 0))[2] > 240  # the blue one is last: time order
    # Whole numbers in one row, fractions in the next: all floats, nothing truncated.
    durations = [by_key[key]["json"]["video"]["duration"] for key in ("va", "vb")]
    assert durations == [3.0, 1.5]
    assert all(type(d) is float for d in durations)
    assert type(by_key["va"]["json"]["items"][0]["demand"]) is float


def test_webdataset_reads_the_same_rows(folder: Path) -> None:
    import webdataset as wds

    shards = sorted(str(path) for path in folder.glob("data/train-*.tar"))
    rows = list(wds.WebDataset(shards, shardshuffle=False).decode())
    assert [row["__key__"] for row in rows] == [row.key for row, _ in ROWS]
    for got, (want, media) in zip(rows, ROWS, strict=True):
        assert got["json"] == want.to_json()
        assert {k: got[k] for k in ("frames.mp", "images.mp") if k in got} == media


def test_snippets_in_the_card_run(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    text = dataset_card(replace(FACTS, repo_id=None)).replace("path/to/this/folder", str(folder))
    text = text.replace("row = next(iter(rows))", 'row = next(r for r in rows if r["json"]["kind"] == "video")')
    snippets = [part.split("```")[0] for part in text.split("```python\n")[1:]]
    assert len(snippets) == 2
    for snippet in snippets:
        exec(compile(snippet, "card", "exec"), {})
    out = capsys.readouterr().out
    assert "[0.5, 2.5]" in out
    assert out.count("JpegImageFile") == 2 + 6


def _leaf_names(columns: list[dict[str, Any]]) -> dict[str, Any]:
    out: dict[str, Any] = {}
    for column in columns:
        inner = column.get("struct", column.get("list"))
        out[column["name"]] = _leaf_names(inner) if isinstance(inner, list) else None
    return out


def _keys(value: Any) -> Any:
    if is_dataclass(value):
        return {f.name: _keys(getattr(value, f.name)) for f in fields(value)}
    if isinstance(value, tuple) and value and is_dataclass(value[0]):
        return _keys(value[0])
    return None


def test_features_are_exactly_the_keys_of_a_sample() -> None:
    full = sample("v", "video", items=(item("q"),), video=video(1.0, 1), images=ROWS[5][0].images)
    assert _leaf_names(features())["json"] == _keys(full)


def test_front_matter_is_what_the_hub_reads() -> None:
    from datasets import Features, List, Value
    from datasets import Image as ImageFeature

    card = DatasetCard(dataset_card(FACTS))
    data = card.data.to_dict()
    assert data["license"] == "apache-2.0"
    assert data["size_categories"] == ["n<1K"]
    assert data["configs"][0]["data_files"] == [{"split": "train", "path": "data/train-*.tar"}]
    parsed = Features._from_yaml_list(data["dataset_info"][0]["features"])
    assert parsed["frames.mp"] == List(ImageFeature())
    assert parsed["json"]["video"]["fps"] == Value("float64")
    assert 'load_dataset("vtrap/video-sft-hybrid"' in card.text


def test_hostile_names_stay_text() -> None:
    evil = "a|b\n## x\n<script>alert(1)</script> [go](javascript:1) `"
    text = dataset_card(
        replace(
            FACTS,
            pretty_name="x: [y\n---\nz",
            sources=(replace(FACTS.sources[0], name=evil, licence="My Own"),),
            provenance={"by": evil},
            strategy="fixed:`8",
        )
    )
    head, body = text.split("\n---\n", 1)
    assert yaml.safe_load(head.removeprefix("---\n"))["license_name"] == "my-own"
    assert "<script" not in body
    assert not re.search(r"(?<!\\)\]\(javascript", body)
    assert "\n## x" not in body
    row = next(line for line in body.splitlines() if "My Own" in line)
    assert row.replace("\\|", "").count("|") == 6


def test_sources_that_may_not_be_published_are_named() -> None:
    assert refuse_reasons(FACTS) == []
    closed = replace(FACTS.sources[0], name="closed", licence="research only", redistributable=False)
    unknown = replace(FACTS.sources[0], name="found", licence="unknown", redistributable=None)
    facts = replace(FACTS, sources=(*FACTS.sources, closed, unknown))
    reasons = refuse_reasons(facts)
    assert ["closed (research only)" in reasons[0], "found (unknown)" in reasons[1]] == [True, True]
    assert not any("toyworld" in reason for reason in reasons)
    assert "Not for publishing" in dataset_card(facts)
    assert "Not for publishing" not in dataset_card(FACTS)


@pytest.mark.parametrize("splits", [{}, {"a/b": "data/x-*.tar"}, {"train": "/etc/*.tar"}, {"train": "../x-*.tar"}])
def test_bad_splits_are_refused(splits: dict[str, str]) -> None:
    with pytest.raises(ValueError, match="split"):
        dataset_card(replace(FACTS, splits=splits))


@pytest.mark.parametrize(("n", "name"), [(0, "n<1K"), (999, "n<1K"), (10_000, "10K<n<100K"), (10**12, "n>1T")])
def test_size_categories(n: int, name: str) -> None:
    assert size_category(n) == name
