from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from shards_media import write_corpus

from vtrap_data.__main__ import main
from vtrap_data.budgets.allocate import Need, allocate
from vtrap_data.errors import UsageError
from vtrap_data.loading.dataset import PackedDataset
from vtrap_data.shards.doctor import doctor
from vtrap_data.shards.manifest import PackSettings, read_manifest
from vtrap_data.shards.pack import pack
from vtrap_data.shards.reallocate import Judge, reallocate
from vtrap_data.sources.jsonl import read_jsonl

BUDGETS = (2, 4, 8, 16)
SETTINGS = PackSettings(name="tiny", budgets=BUDGETS, slots=16, mean_frames=6, store=16)
four = st.tuples(*[st.floats(0, 9)] * 4)


@pytest.fixture(scope="module")
def packed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("judged")
    pack(read_jsonl(write_corpus(folder / "source")).samples, folder / "corpus", settings=SETTINGS)
    return folder / "corpus"


@given(st.lists(four, min_size=1, max_size=9), st.floats(0, 2))
def test_loss_takes_the_smallest_budget_that_is_good_enough(losses: list[tuple[float, ...]], delta: float) -> None:
    needs = [Need(demand=None, residuals=(), distinct=16, scores=one) for one in losses]
    found = allocate("loss", needs, budgets=BUDGETS, mean_frames=0, seed=0, delta=delta)
    for one, budget in zip(losses, found.budgets, strict=True):
        assert one[BUDGETS.index(budget)] <= min(one) + delta
        assert all(loss > min(one) + delta for loss in one[: BUDGETS.index(budget)])
    stricter = allocate("loss", needs, budgets=BUDGETS, mean_frames=0, seed=0, delta=delta / 2).budgets
    assert all(a >= b for a, b in zip(stricter, found.budgets, strict=True))


@given(st.lists(four, min_size=1, max_size=9))
def test_vlm_takes_what_is_preferred(scores: list[tuple[float, ...]]) -> None:
    needs = [Need(demand=None, residuals=(), distinct=16, scores=one) for one in scores]
    found = allocate("vlm", needs, budgets=BUDGETS, mean_frames=0, seed=0)
    assert [one[BUDGETS.index(b)] for one, b in zip(scores, found.budgets, strict=True)] == [max(s) for s in scores]


def judge_by(table: dict[str, tuple[float, ...]], asked: list[tuple[str, int, int]]) -> Judge:
    def scores(at: Any, budgets: Any) -> list[float]:
        for budget in budgets:
            example = at(budget)
            asked.append((example.item.id, budget, len(example.frames)))
        return list(table.get(example.item.id, (3.0, 2.0, 1.0, 0.99)))

    def opened(corpus: Path, budget: int) -> Any:
        return PackedDataset(corpus, frames=budget).__getitem__

    return Judge(scores=scores, looks_at=lambda budgets: budgets, opened=opened, facts={"model": "a table"})


def test_the_judge_sees_the_frames_of_every_budget_and_its_word_is_stored(packed: Path, tmp_path: Path) -> None:
    asked: list[tuple[str, int, int]] = []
    table = {"q0-colour": (0.5, 0.5, 0.5, 0.5), "q1-colour": (0.0, 1.0, 1.0, 1.0)}
    manifest = reallocate(packed, tmp_path / "new", strategy="loss", judge=judge_by(table, asked), delta=0.02)
    assert doctor(tmp_path / "new") == []
    data = PackedDataset(tmp_path / "new")
    budgets = dict(zip(data.column("item_id"), data.column("budget"), strict=True))
    assert (budgets["q0-colour"], budgets["q1-colour"], budgets["q0-order"]) == (2, 2, 8)
    assert manifest.params["model"] == "a table" and manifest.params["delta"] == 0.02
    assert manifest.settings.strategy == "loss"
    place = data.column("item_id").index("q1-colour")
    assert data[place].item.scores == (0.0, 1.0, 1.0, 1.0) and data[place].item.demand is None
    assert len(asked) == 7 * 4 and {(b, n) for i, b, n in asked if i.startswith("q0")} == {(b, b) for b in BUDGETS}
    assert [path.name for path in tmp_path.iterdir()] == ["new"]
    reallocate(tmp_path / "new", tmp_path / "back", strategy="hybrid")
    assert PackedDataset(tmp_path / "back")[place].item.scores == ()


def test_a_killed_run_asks_only_what_it_has_not_heard(packed: Path, tmp_path: Path) -> None:
    asked: list[tuple[str, int, int]] = []
    patient = judge_by({}, asked)

    def tire(at: Any, budgets: Any) -> Any:
        if len(asked) >= 3 * 4:
            raise KeyboardInterrupt
        return patient.scores(at, budgets)

    with pytest.raises(KeyboardInterrupt):
        reallocate(packed, tmp_path / "new", strategy="loss", judge=replace(patient, scores=tire))
    (notes,) = tmp_path.iterdir()
    notes.write_text(notes.read_text() + '["q2-ord')  # a kill in the middle of a line
    reallocate(packed, tmp_path / "new", strategy="loss", judge=patient)
    assert len(asked) == 7 * 4
    with pytest.raises(KeyboardInterrupt):
        asked.clear()
        reallocate(packed, tmp_path / "next", strategy="loss", judge=replace(patient, scores=tire))
    other = replace(patient, facts={"model": "another table"})
    asked.clear()
    reallocate(packed, tmp_path / "next", strategy="loss", judge=other)
    assert len(asked) == 7 * 4, "what another model said does not count"


@pytest.mark.parametrize("strategy", ["loss", "vlm"])
def test_a_real_model_decides(packed: Path, tmp_path: Path, strategy: str) -> None:
    words = ["budget", str(packed), "--out", str(tmp_path / "new"), "--strategy", strategy, "--model", "toy-vl"]
    assert main(words) == 0
    assert doctor(tmp_path / "new") == []
    params = read_manifest(tmp_path / "new").params
    assert params["model"] == "toy-vl" and len(str(params["sha256 of model.safetensors"])) == 64
    data = PackedDataset(tmp_path / "new")
    for number in range(7):
        item = data[number].item
        assert len(item.scores) == 4 and len(set(item.scores)) > 1
        if strategy == "loss":
            assert item.scores[BUDGETS.index(item.budget)] <= min(item.scores) + 0.05
        else:
            assert item.scores[BUDGETS.index(item.budget)] == max(item.scores) <= 0
    assert all(data[number].item.scores == () for number in range(7, 10))
    # The loss is the one that the model itself gives.
    if strategy == "loss":
        from vtrap_data.encoding import collate, encode, load_model, load_processor, resolve

        ref = resolve("toy-vl")
        processor, model = load_processor(ref), load_model(ref)
        batch = collate([encode(PackedDataset(packed, frames=8)[0], processor, train=True)], processor)
        assert float(model.eval()(**batch).loss) == pytest.approx(data[0].item.scores[2], abs=1e-5)


def test_wrong_use_is_refused(packed: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(UsageError, match=r"pack with --strategy hybrid --store 16 first"):
        pack(
            read_jsonl(packed.parent / "source/rows.jsonl").samples,
            tmp_path / "c",
            settings=replace(SETTINGS, strategy="vlm"),
        )
    for words in (
        ["--strategy", "loss"],
        ["--strategy", "hybrid", "--model", "toy-vl"],
        ["--strategy", "vlm", "--delta", "1"],
    ):
        assert main(["budget", str(packed), "--out", str(tmp_path / "new"), *words]) == 2
        assert "loss and vlm need --model" in capsys.readouterr().err
    small = tmp_path / "small"
    pack(
        read_jsonl(packed.parent / "source/rows.jsonl").samples,
        small,
        settings=replace(SETTINGS, strategy="fixed:2", store=None),
    )
    ids = tmp_path / "ids.txt"
    with pytest.raises(UsageError, match=r"7 items .*--store .*ids.txt"):
        reallocate(small, tmp_path / "new", strategy="loss", judge=judge_by({}, []), missing=ids)
    assert ids.read_text().split() == PackedDataset(small).column("item_id")[:7]
    with pytest.raises(UsageError, match="what a model says about every item"):
        allocate("loss", [Need(demand=None, residuals=(), distinct=1)], budgets=BUDGETS, mean_frames=0, seed=0)
    with pytest.raises(UsageError, match="--delta"):
        allocate("loss", [], budgets=BUDGETS, mean_frames=0, seed=0, delta=-1)
    assert json.loads((packed / "manifest.json").read_text())["settings"]["strategy"] == "hybrid"
