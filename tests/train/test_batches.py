"""Batches by tokens: the same samples in every step, less padding, the same result, and exact resume."""

import json
from itertools import chain

import numpy as np
import pytest
from alike import LOSS, WEIGHTS, assert_alike, log, same
from hypothesis import given
from hypothesis import strategies as st
from safetensors.torch import load_file
from transformers import TrainerCallback

from vtrap_data.encoding import encode, load_processor, resolve
from vtrap_train.__main__ import main
from vtrap_train.batches import StepSampler, padding, split
from vtrap_train.collate import VideoCollator
from vtrap_train.config import parse
from vtrap_train.data import Mixture, Part
from vtrap_train.lengths import lengths
from vtrap_train.run import run


@given(
    sizes=st.lists(st.integers(1, 500), min_size=1, max_size=40),
    tokens=st.integers(1, 2000),
    world_size=st.integers(1, 9),
    packed=st.booleans(),
)
def test_split_gives_every_row_once_within_the_budget_and_as_many_batches_to_every_rank(
    sizes, tokens, world_size, packed
):
    def cost(batch):
        found = [int(sizes[r - 100]) for r in batch]
        return sum(found) if packed else len(found) * max(found, default=0)

    sizes = np.asarray(sizes)
    rows = np.arange(len(sizes)) + 100
    ranks = split(rows, sizes, tokens=tokens, world_size=world_size, packed=packed)
    assert len(ranks) == world_size and len({len(batches) for batches in ranks}) == 1
    batches = [b for rank in ranks for b in rank]
    assert sorted(r for b in batches for r in b) == rows.tolist()
    for b in batches:
        assert len(b) <= 1 or cost(b) <= tokens
    if not all(batches):
        assert all(len(b) <= 1 for b in batches)  # empty ones only where nothing is left to split
    costs = [[cost(b) for b in rank] for rank in ranks]
    for place in range(len(costs[0]) - 1):  # no rank is behind by more than what comes in the next place
        assert min(rank[place] for rank in costs) >= max(rank[place + 1] for rank in costs)


@given(rows=st.integers(1, 60), per_step=st.integers(1, 20), seed=st.integers(0, 9), world_size=st.integers(1, 4))
def test_an_epoch_holds_every_row_once_whatever_the_number_of_ranks(rows, per_step, seed, world_size):
    sizes = np.random.default_rng(seed).integers(1, 99, rows)

    def steps(world, rank, epoch):
        sampler = StepSampler(sizes, per_step=per_step, tokens=120, seed=seed, world_size=world, rank=rank)
        sampler.set_epoch(epoch)
        found = list(sampler)
        assert len(found) == len(sampler)
        return [sorted(r for b in step for r in b) for step in found]

    alone = steps(1, 0, 0)
    together = [
        sorted(chain(*parts)) for parts in zip(*(steps(world_size, r, 0) for r in range(world_size)), strict=True)
    ]
    assert alone == together
    assert sorted(chain(*alone)) == list(range(rows))
    assert steps(1, 0, 3) == steps(1, 0, 3)


def argv(model, data, out, *more):
    fixed = (
        "--per_device_train_batch_size 8 --learning_rate 1e-3 --logging_steps 1 --save_steps 2 --num_train_epochs 2"
    )
    return [str(w) for w in ["--model", model, "--data", data, "--output_dir", out, *fixed.split(), *more]]


class Seen(TrainerCallback):
    """Which rows the collator was asked for, step by step; and where to stop."""

    def __init__(self, monkeypatch, kill_at=None):
        self.steps, self.kill_at = [], kill_at
        stock = VideoCollator.__call__

        def noting(collator, rows):
            self.steps.append(list(rows))
            return stock(collator, rows)

        monkeypatch.setattr(VideoCollator, "__call__", noting)

    def on_step_begin(self, args, state, control, **_):
        if state.global_step == self.kill_at:
            raise KeyboardInterrupt


@pytest.fixture(scope="module")
def straight(model_dir, packed, tmp_path_factory):
    out = tmp_path_factory.mktemp("straight") / "out"
    with pytest.MonkeyPatch.context() as patch:
        seen = Seen(patch)
        summary = run(parse(argv(model_dir, packed, out, "--tokens_per_batch", 200)), callbacks=[seen])
    return out, summary, seen.steps


def test_lengths_are_those_of_encoding(model_dir, packed):
    processor = load_processor(resolve(str(model_dir)))
    mixture = Mixture([Part(location=str(packed), weight=1.5)], frames="hybrid", seed=0)
    found = lengths(mixture, processor)
    real = [encode(mixture[row], processor, train=True) for row in range(len(mixture))]
    assert found.exact and found.tokens.tolist() == [len(e.input_ids) for e in real]
    assert found.visual.tolist() == [e.visual_tokens for e in real]


def test_the_steps_hold_the_same_samples_and_give_the_same_weights(
    straight, model_dir, packed, tmp_path, monkeypatch, capsys
):
    grouped, summary, batches = straight
    seen = Seen(monkeypatch)
    plain_summary = run(parse(argv(model_dir, packed, tmp_path / "out")), callbacks=[seen])
    at = 0
    for rows in seen.steps:  # 8, 8 and 4 rows, twice
        mine = []
        while len(mine) < len(rows):
            mine += batches[at]
            at += 1
        assert sorted(mine) == sorted(rows)
    assert at == len(batches) > len(seen.steps)
    one, other = log(grouped), log(tmp_path / "out")
    assert [a["loss"] for a in one] == pytest.approx([b["loss"] for b in other], rel=LOSS)
    assert [a["visual_tokens"] for a in one] == [b["visual_tokens"] for b in other]
    assert summary["padding"] < plain_summary["padding"]
    words = argv(model_dir, packed, tmp_path / "plan", "--plan", "--json")
    for more, done in (((), plain_summary), (("--tokens_per_batch", "200"), summary)):
        assert main([*words, *more]) == 0
        plan = json.loads(capsys.readouterr().out)
        assert (plan["steps"], plan["samples"]) == (done["steps"], done["samples"]) == (6, 40)
    weights, reference = load_file(grouped / "model.safetensors"), load_file(tmp_path / "out" / "model.safetensors")
    assert_alike(weights, reference, load_file(model_dir / "model.safetensors"), way=WEIGHTS, each=5e-4)


def test_the_padding_that_is_logged_is_the_one_that_was_planned(straight, model_dir, packed):
    out, summary, _ = straight
    processor = load_processor(resolve(str(model_dir)))
    sizes = lengths(Mixture([Part(location=str(packed))], frames="hybrid", seed=42), processor).tokens
    sampler = StepSampler(sizes, per_step=8, tokens=200, seed=42)
    planned = [padding(sampler, epoch=e) for e in (0, 1)]
    share = 1 - sum(p.tokens for p in planned) / sum(p.computed for p in planned)
    assert summary["padding"] == pytest.approx(share)
    eights = [sampler.lengths[rows] for rows in np.array_split(sampler.order(0), range(8, len(sizes), 8))]
    assert planned[0].share < 1 - sum(sizes) / sum(len(e) * e.max() for e in eights)
    assert all(0 <= line["padding"] < 1 for line in log(out))


@pytest.mark.parametrize("at", [1, 2, 3, 5])  # inside and at the end of an epoch, before and after a checkpoint
def test_a_killed_run_goes_on_exactly_and_opens_nothing_twice(at, straight, model_dir, packed, tmp_path, monkeypatch):
    whole, _, batches = straight
    words = argv(model_dir, packed, tmp_path / "out", "--tokens_per_batch", 200)
    with pytest.raises(KeyboardInterrupt):
        run(parse(words), callbacks=[Seen(monkeypatch, kill_at=at)])
    seen = Seen(monkeypatch)
    run(parse(words), callbacks=[seen])
    assert log(tmp_path / "out") == log(whole)
    assert seen.steps == batches[len(batches) - len(seen.steps) :]  # what was consumed is not opened again
    assert same(whole, tmp_path / "out")


def test_joined_turns_make_one_conversation_of_every_medium(model_dir, packed, tmp_path):
    processor = load_processor(resolve(str(model_dir)))
    mixture = Mixture([Part(location=str(packed))], frames="hybrid", seed=0, turns="joined")
    single = Mixture([Part(location=str(packed))], frames="hybrid", seed=0)
    assert len(mixture) == 14 < len(single) == 20  # 6 clips with two questions each, 6 pictures, 2 texts
    found = lengths(mixture, processor)
    real = [encode(mixture[row], processor, train=True) for row in range(len(mixture))]
    assert found.tokens.tolist() == [len(e.input_ids) for e in real]
    answers = [sum(m.role == "assistant" for m in mixture.outline(row).messages) for row in range(len(mixture))]
    assert sorted(answers) == [1] * 8 + [2] * 6
    assert mixture.column("n_frames").sum() <= single.column("n_frames").sum()
    summary = run(parse(argv(model_dir, packed, tmp_path / "out", "--turns", "joined", "--max_steps", 2)))
    assert summary["samples"] == 14 and summary["skipped"] == 0
