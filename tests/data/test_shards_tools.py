from __future__ import annotations

import html
import json
import os
import re
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from shards_media import chat, tree, write_clip, write_corpus, write_rows

from hub_cards.scratch import locked
from vtrap_data.__main__ import main
from vtrap_data.errors import UsageError
from vtrap_data.loading.dataset import PackedDataset
from vtrap_data.shards import duplicates, measure
from vtrap_data.shards import looks as looks_module
from vtrap_data.shards import reallocate as reallocate_module
from vtrap_data.shards.allocation import as_text as allocation_text
from vtrap_data.shards.allocation import compare_strategies
from vtrap_data.shards.doctor import doctor
from vtrap_data.shards.duplicates import near_duplicates
from vtrap_data.shards.figure import draw
from vtrap_data.shards.manifest import PackSettings, read_manifest
from vtrap_data.shards.pack import pack
from vtrap_data.shards.preview import preview
from vtrap_data.shards.reallocate import reallocate
from vtrap_data.shards.stats import as_text, stats
from vtrap_data.sources.jsonl import read_jsonl

SETTINGS = PackSettings(name="tiny", budgets=(2, 4, 8, 16), slots=16, mean_frames=6, store=16, samples_per_shard=4)


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_corpus(tmp_path_factory.mktemp("source"))


@pytest.fixture(scope="module")
def packed(source: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("packed") / "corpus"
    pack(read_jsonl(source).samples, out, settings=SETTINGS)
    return out


def budgets(root: Path) -> list[int]:
    return PackedDataset(root).column("budget")


def test_reallocating_equals_packing_again(source: Path, packed: Path, tmp_path: Path) -> None:
    for strategy in ("fixed:4", "coverage", "random", "hybrid"):
        name = strategy.replace(":", "")
        again = tmp_path / f"{name}-packed"
        pack(read_jsonl(source).samples, again, settings=replace(SETTINGS, strategy=strategy))
        moved = reallocate(packed, tmp_path / name, strategy=strategy)
        assert doctor(tmp_path / name) == []
        assert moved == read_manifest(tmp_path / name)
        assert budgets(tmp_path / name) == budgets(again)
        for one, two in zip(PackedDataset(tmp_path / name), PackedDataset(again), strict=True):
            # More may be stored here, so the same frames may have other places.
            assert replace(one.item, frame_ids=()) == replace(two.item, frame_ids=())
            assert (one.frames is None) == (two.frames is None)
            if one.frames and two.frames:
                assert one.frames.times == two.frames.times
                assert [i.tobytes() for i in one.frames.images] == [i.tobytes() for i in two.frames.images]
    # The very same settings give the very same corpus.
    assert tree(tmp_path / "hybrid") == tree(packed)


def test_reallocating_opens_no_media(packed: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object, **__: object) -> None:
        raise AssertionError("a medium was opened")

    monkeypatch.setattr(measure, "decode_each", refuse)
    monkeypatch.setattr(measure, "probe", refuse)
    reallocate(packed, tmp_path / "new", strategy="fixed:2", name="two")
    assert read_manifest(tmp_path / "new").settings.name == "two"
    assert set(budgets(tmp_path / "new")) == {0, 2}


def test_reallocating_says_what_is_not_stored(source: Path, packed: Path, tmp_path: Path) -> None:
    pack(read_jsonl(source).samples, tmp_path / "small", settings=replace(SETTINGS, strategy="fixed:2", store=None))
    with pytest.raises(UsageError, match=r"7 items \(q0-order, q0-colour, bench and 4 more\).*--store 16"):
        reallocate(tmp_path / "small", tmp_path / "new", strategy="fixed:16")
    with pytest.raises(UsageError, match="coverage, which was not measured"):
        reallocate(tmp_path / "small", tmp_path / "new", strategy="hybrid")
    assert not (tmp_path / "new").exists()
    with pytest.raises(UsageError, match="not an empty folder"):
        reallocate(packed, packed, strategy="fixed:2")
    with pytest.raises(UsageError, match="fixed:3"):
        reallocate(packed, tmp_path / "new", strategy="fixed:3")


@pytest.mark.parametrize(
    ("wrong", "said"),
    [
        ({"strategy": "hybird"}, "--strategy 'hybird' is not known"),
        ({"strategy": "hybrid", "mean_frames": 40}, "--mean-frames must lie between"),
        ({"strategy": "random", "seed": -1}, "--seed must be 0 or more"),
        ({"strategy": "hybrid", "scorer": "guess"}, "scorer"),
        ({"strategy": "fixed:3"}, "fixed:3"),
    ],
)
def test_what_cannot_be_is_refused_before_the_corpus_is_read(
    packed: Path, tmp_path: Path, wrong: dict[str, Any], said: str
) -> None:
    shutil.copytree(packed, tmp_path / "corpus")
    shutil.rmtree(tmp_path / "corpus/data")  # who reads it ends with another error
    with pytest.raises(UsageError, match=said):
        reallocate(tmp_path / "corpus", tmp_path / "new", **wrong)


def test_a_killed_reallocation_can_be_run_again(packed: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def die(*_: object) -> None:
        raise KeyboardInterrupt

    out = tmp_path / "new"
    with monkeypatch.context() as patch:
        patch.setattr(reallocate_module, "write_index", die)
        with pytest.raises(KeyboardInterrupt):
            reallocate(packed, out, strategy="fixed:2")
    assert not out.exists()
    out.mkdir()  # an empty folder is fine, too
    reallocate(packed, out, strategy="fixed:2")
    assert doctor(out) == []
    assert [path.name for path in tmp_path.iterdir()] == ["new"]


def test_two_reallocations_do_not_write_the_same_corpus(packed: Path, tmp_path: Path) -> None:
    half = tmp_path / ".new.unfinished"
    half.mkdir()
    lock = locked(half, 0)  # as another process has it that is at it
    with pytest.raises(UsageError, match=r"another process is giving .*/new its budgets right now"):
        reallocate(packed, tmp_path / "new", strategy="fixed:2")
    os.close(lock)
    (half / "data").mkdir()  # and as a kill leaves it
    (half / "data/train-00000.tar").write_bytes(b"half")
    reallocate(packed, tmp_path / "new", strategy="fixed:2")
    assert doctor(tmp_path / "new") == []
    assert [path.name for path in tmp_path.iterdir()] == ["new"]


def test_strategies_are_compared_against_the_truth(packed: Path) -> None:
    outcomes = {one.strategy: one for one in compare_strategies(packed)}
    assert list(outcomes) == [
        "hybrid",
        "instruction",
        "coverage",
        "random",
        "fixed:2",
        "fixed:4",
        "fixed:8",
        "fixed:16",
    ]
    assert {one.items for one in outcomes.values()} == {7}
    assert {one.items_with_truth for one in outcomes.values()} == {6}
    assert [outcomes[f"fixed:{n}"].mean_frames for n in (2, 4, 8, 16)] == [2, 4, 8, 16]
    # Half of the six items need 16 frames, half need one.
    assert [outcomes[f"fixed:{n}"].enough for n in (2, 4, 8, 16)] == [0.5, 0.5, 0.5, 1.0]
    hybrid = PackedDataset(packed)
    needs, given = hybrid.column("needs"), hybrid.column("budget")
    got = [given[n] >= need for n, need in enumerate(needs) if need is not None]
    assert outcomes["hybrid"].enough == sum(got) / len(got)
    assert outcomes["hybrid"].mean_frames == sum(given) / 7
    assert "hybrid" in allocation_text(list(outcomes.values()))


def test_a_mean_of_zero_frames_is_refused(packed: Path) -> None:
    outcomes = {one.strategy: one for one in compare_strategies(packed, mean_frames=0)}
    assert "from 2 to 16, not 0" in (outcomes["hybrid"].error or "") and outcomes["fixed:4"].error is None


def test_strategies_that_cannot_be_used_say_why(source: Path, tmp_path: Path) -> None:
    pack(read_jsonl(source).samples, tmp_path / "small", settings=replace(SETTINGS, strategy="fixed:2", store=None))
    outcomes = {one.strategy: one for one in compare_strategies(tmp_path / "small")}
    assert "not measured" in (outcomes["hybrid"].error or "")
    assert outcomes["fixed:4"].error is None
    assert outcomes["instruction"].error is None
    photos = [sample for sample in read_jsonl(source).samples if sample.kind == "images"]
    pack(photos, tmp_path / "photos", settings=SETTINGS)
    assert doctor(tmp_path / "photos") == []
    with pytest.raises(UsageError, match="no video items"):
        compare_strategies(tmp_path / "photos")


def test_stats_count_what_is_there(packed: Path) -> None:
    facts = stats(packed)
    json.dumps(facts)
    assert facts["kinds"] == {"video": 7, "images": 2, "text": 1}
    assert facts["counts"]["samples_video"] == 3
    assert facts["counts"]["duplicate_media"] == 1, "photo a.png is in two samples"
    assert facts["counts"]["frames_stored"] == 16 + 16 + 5
    assert facts["budgets"] == {str(b): budgets(packed).count(b) for b in sorted(set(budgets(packed)) - {0})}
    assert facts["durations"] == {"< 2 s": 1, "< 5 s": 2}
    assert facts["frames_used"]["fixed:16"] == (5 * 16 + 2 * 5) / 7
    assert facts["frames_used"]["packed"] == sum(PackedDataset(packed).column("n_frames")) / 7
    assert facts["bytes"]["shards"] == sum(path.stat().st_size for path in (packed / "data").glob("*.tar"))
    text = as_text(facts)
    assert "tiny (train): 10 items about 6 samples" in text
    assert "order" in text


def test_the_preview_shows_the_frames_of_each_budget(packed: Path, tmp_path: Path) -> None:
    assert preview(packed, tmp_path / "p.html") == 6
    page = (tmp_path / "p.html").read_text()
    articles = page.split("<article>")[1:]
    assert len(articles) == 10
    for number, example in enumerate(PackedDataset(packed)):
        shown = re.findall(r'class="pic (p\d+-\d+)"', articles[number])
        assert len(shown) == len(example.item.frame_ids) + len(example.images)
        if example.frames is not None:
            assert f">{example.item.budget} frames<" in articles[number]
            assert [int(name.split("-")[1]) for name in shown] == list(example.item.frame_ids)
            for time in example.frames.times:
                assert f"{time:.2f} s" in articles[number]
        assert all(f".{name} {{ aspect-ratio" in page for name in shown)
    assert not re.search(r"(src|href)=", page), "the page must not need another file"
    assert preview(packed, tmp_path / "one.html", limit=1) == 1
    with pytest.raises(UsageError, match="--limit"):
        preview(packed, tmp_path / "p.html", limit=0)


def test_hostile_text_stays_text(tmp_path: Path) -> None:
    evil = "\"></p></style><script>alert(1)</script>{{ 7 * 7 }}' onload=x"
    name = "<img src=x onerror=alert(2)>.mp4"
    write_clip(tmp_path / name)
    row = {
        "video": name, "id": evil, "source": evil, "licence": evil, "ability": evil, "category": evil,
        "conversations": chat(f"<video>{evil}", evil), "options": [evil, "b"], "answer": evil,
    }  # fmt: skip
    out = tmp_path / "out"
    corpus = read_jsonl(write_rows(tmp_path / "rows.jsonl", [row]))
    pack(corpus.samples, out, settings=replace(SETTINGS, name=evil, store=None))
    assert doctor(out) == []
    preview(out, tmp_path / "p.html")
    page = (tmp_path / "p.html").read_text()
    assert "<script" not in page
    assert "<img" not in page
    assert "49" not in re.sub(r"url\([^)]*\)", "", page)
    assert page.count("</style>") == 1
    assert page.count(html.escape("<script>alert(1)</script>")) >= 8
    (key,) = {row["key"] for row in PackedDataset(out).rows.to_pylist()}
    assert re.fullmatch(r"[a-z0-9-]+", key)


def test_stats_count_tokens_and_licences(packed: Path) -> None:
    facts = stats(packed)
    # 96x64 is 3 x 2 squares of 28 pixels, one token per square and pair of frames.
    frames = [
        n
        for n, kind in zip(*(PackedDataset(packed).column(c) for c in ("n_frames", "kind")), strict=True)
        if kind == "video"
    ]
    assert facts["tokens_total"] == sum(6 * -(-n // 2) for n in frames) + 1 + 2
    assert sum(facts["tokens"].values()) == 9
    assert facts["licences"] == {
        "CC0-1.0, may be passed on": 3,
        "unknown, not known whether it may be passed on": 3,
    }
    assert "samples per licence" in as_text(facts)
    card = (packed / "README.md").read_text()
    assert "## Statistics" in card
    assert "| videos per duration | &lt; 2 s | &lt; 5 s |" in card or "| videos per duration | < 2 s | < 5 s |" in card
    assert f"packed {facts['frames_used']['packed']:.2f}" in card


def test_the_picture_of_the_statistics(packed: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["stats", str(packed), "--png", str(tmp_path / "a.png")]) == 0
    assert "tiny (train)" in capsys.readouterr().out
    with Image.open(tmp_path / "a.png") as picture:
        assert picture.format == "PNG"
        assert min(picture.size) > 300
        assert len(picture.convert("L").getcolors(256) or []) > 10, "nothing is drawn"
    facts = stats(packed)
    hostile = {**facts, "name": "$x$ <b>", "sources": {f"$s{n}$": n + 1 for n in range(30)}}
    draw(hostile, tmp_path / "b.png")
    draw(facts, tmp_path / "c.png")
    assert (tmp_path / "c.png").read_bytes() == (tmp_path / "a.png").read_bytes()


def test_the_preview_says_when_and_why(packed: Path, tmp_path: Path) -> None:
    preview(packed, tmp_path / "p.html")
    page = (tmp_path / "p.html").read_text()
    articles = page.split("<article>")[1:]
    limit = read_manifest(packed).params["eps"]
    for number, example in enumerate(PackedDataset(packed)):
        ticks = re.findall(r'<i( class="on")? style="left: ([\d.]+)%"></i>', articles[number])
        if example.frames is None:
            assert not ticks
            continue
        sample = PackedDataset(packed).sample(number)
        assert sample.video is not None
        assert len(ticks) == len(sample.video.frame_times)
        chosen = [float(percent) for on, percent in ticks if on]
        expected = [100 * time / sample.video.duration for time in example.frames.times]
        assert chosen == pytest.approx(expected, abs=1e-3)
        assert f"the limit that gives the mean asked for is {limit:.4f}" in articles[number]
        assert f"the question asks about time to {example.item.demand:.2f}" in articles[number]
    assert "fixed:4: every video item gets 4 frames" in why_of(packed, tmp_path, "fixed:4")
    assert "random: drawn" in why_of(packed, tmp_path, "random")


def why_of(packed: Path, folder: Path, strategy: str) -> str:
    out = folder / strategy.replace(":", "")
    reallocate(packed, out, strategy=strategy)
    preview(out, folder / "other.html")
    return (folder / "other.html").read_text()


def scenes(folder: Path) -> Path:
    """Clips of noise that looks like nothing else, two of them the same film at other sizes and rates."""
    rows = []
    for name, seed, size, fps, n in (
        ("a", 1, (96, 64), 10, 40),
        ("a-small", 1, (64, 48), 5, 20),
        ("b", 2, (96, 64), 10, 40),
        ("b-start", 2, (96, 64), 10, 12),
        ("c", 3, (96, 64), 10, 40),
        ("black", None, (96, 64), 10, 20),
        ("dark", None, (64, 64), 10, 20),
    ):
        path = folder / f"{name}.mp4"
        with av.open(str(path), "w") as container:
            stream = container.add_stream("libx264", rate=fps, options={"crf": "23", "preset": "ultrafast"})
            stream.width, stream.height, stream.pix_fmt = *size, "yuv420p"
            for i in range(n):
                step = int(i / fps)  # a new scene every second
                noise = np.random.default_rng([seed or 0, step]).integers(0, 255, (5, 6, 3), dtype=np.uint8)
                picture = Image.fromarray(noise if seed else noise * 0).resize(size, Image.Resampling.BICUBIC)
                container.mux(stream.encode(av.VideoFrame.from_ndarray(np.asarray(picture), format="rgb24")))
            container.mux(stream.encode(None))
        rows.append({"video": path.name, "conversations": chat(f"What is in {name}?")})
    photo = Image.fromarray(np.random.default_rng(9).integers(0, 255, (8, 8, 3), dtype=np.uint8)).resize((80, 60))
    photo.save(folder / "p.png")
    photo.resize((50, 40)).save(folder / "p.jpg", quality=70)
    rows += [{"image": name, "conversations": chat("What?")} for name in ("p.png", "p.jpg")]
    rows.append({"image": "p.png", "source": "another", "conversations": chat("What?")})
    return write_rows(folder / "rows.jsonl", rows)


def test_media_that_look_alike_are_reported(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    pack(
        read_jsonl(scenes(tmp_path)).samples,
        tmp_path / "out",
        settings=replace(SETTINGS, strategy="fixed:8", store=None),
    )
    found = near_duplicates(tmp_path / "out")
    assert found.unreadable == ()
    assert [(group.samples, group.exact) for group in found.groups] == [
        (("a.mp4", "a-small.mp4"), False),
        (("p.png", "p.jpg", "p.png#2"), False),
    ], "the beginning of a film is another film, and two black ones are no pair"
    assert main(["duplicates", str(tmp_path / "out")]) == 0
    assert "alike: a.mp4, a-small.mp4" in capsys.readouterr().out
    assert main(["duplicates", str(tmp_path / "out"), "--json", "--distance", "0"]) == 0
    (only,) = json.loads(capsys.readouterr().out)
    assert only == {"samples": ["p.png", "p.png#2"], "exact": True}
    assert main(["duplicates", str(tmp_path / "out"), "--distance", "99"]) == 2


def looks_of(chance: np.random.Generator, n: int) -> list[list[np.ndarray | None]]:
    """Media of 1 to 8 pictures that are more or less like those of one of three; some have too little contrast."""
    bases = chance.integers(0, 2, (3, 8, 256))
    found = []
    for _ in range(n):
        bits = bases[chance.integers(3)] ^ (chance.random((8, 256)) < chance.random((8, 1)) * 0.15)
        hashes = np.packbits(bits.astype(np.uint8), axis=1).view(np.uint64)
        some = int(chance.choice([1, 3, 8, 8, 8]))
        found.append([None if chance.random() < 0.2 else one for one in hashes[:some]])
    return found


def alike(a: list[np.ndarray | None], b: list[np.ndarray | None], distance: int) -> bool:
    """As the page of the command says it: the middle pictures are, and at least half of all."""

    def near(x: np.ndarray | None, y: np.ndarray | None) -> bool:
        return x is not None and y is not None and int(np.bitwise_count(x ^ y).sum()) <= distance

    middle = len(a) // 2
    return len(a) == len(b) and near(a[middle], b[middle]) and 2 * sum(map(near, a, b)) >= len(a)


@given(seed=st.integers(0, 10**6), distance=st.integers(0, 64), n=st.integers(0, 40), block=st.integers(1, 99))
@settings(max_examples=60, deadline=None)
def test_groups_are_those_of_comparing_every_pair(seed: int, distance: int, n: int, block: int) -> None:
    looks = looks_of(np.random.default_rng(seed), n)
    groups = [{number} for number in range(n)]
    for a in range(n):
        for b in range(a):
            if alike(looks[a], looks[b], distance) and groups[a] is not groups[b]:
                groups[a] |= groups[b]
                for member in groups[b]:
                    groups[member] = groups[a]
    leader = np.arange(n)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(looks_module, "_BLOCK", block)
        duplicates._join(leader, looks, distance)
    assert leader.tolist() == [min(group) for group in groups]


@given(seed=st.integers(0, 10**6), distance=st.integers(0, 64), n=st.integers(0, 60))
@settings(max_examples=40, deadline=None)
def test_no_plan_overlooks_a_pair(seed: int, distance: int, n: int) -> None:
    chance = np.random.default_rng(seed)
    bits = chance.integers(0, 2, 256) ^ (chance.random((n, 256)) < chance.random((n, 1)) * 0.25)
    keys = np.packbits(bits.astype(np.uint8), axis=1).view(np.uint64)
    pairs = {(a, b) for b in range(n) for a in range(b) if (bits[a] != bits[b]).sum() <= distance}
    first = int(chance.integers(1, n + 1)) if n else 0
    for plan in looks_module.plans(distance):
        found = [pair for block in looks_module.near(keys, distance, plan=plan) for pair in block.T.tolist()]
        assert {(min(pair), max(pair)) for pair in found} == pairs
        if first:
            across = [p for block in looks_module.near(keys, distance, of=first, plan=plan) for p in block.T.tolist()]
            assert {tuple(pair) for pair in across} == {(a, b) for a, b in pairs if a < first <= b}
