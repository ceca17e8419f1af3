"""Multiple choice by likelihood: the numbers are the model's own, and the choice follows from them."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest
import torch
from test_run import Fake, benchmarks, model_dir, score, settings  # noqa: F401 - fixtures

from vtrap_bench.answer import choices
from vtrap_bench.backends import BackendSettings
from vtrap_bench.backends.transformers_backend import TransformersBackend
from vtrap_bench.records import RECORDS, read_records
from vtrap_data.encoding import collate, encode
from vtrap_data.encoding.models import resolve
from vtrap_data.errors import UsageError, VtrapError
from vtrap_data.loading.dataset import PackedDataset
from vtrap_data.samples import Item
from vtrap_data.sources.benchmarks.spec import write_facts

# ruff: noqa: F811


@pytest.fixture(scope="module")
def backend(model_dir):
    torch.set_num_threads(1)
    return TransformersBackend(BackendSettings(model=resolve(str(model_dir)), dtype="float32", device="cpu"))


@pytest.fixture(scope="module")
def examples(benchmarks):
    pictures, clips = PackedDataset(benchmarks / "toy-image"), PackedDataset(benchmarks / "toy-video", frames=4)
    return [pictures[0], pictures[1], clips[0], clips[1]]


def by_hand(backend, example, text):
    """Token after token, each with a forward pass of its own."""
    prompt = encode(example, backend.processor, train=False)
    ids = [*backend.processor.tokenizer(text)["input_ids"], backend.processor.tokenizer.eos_token_id]
    total, grown = 0.0, prompt
    for token in ids:
        batch = collate([grown], backend.processor)
        del batch["labels"]
        with torch.inference_mode():
            logits = backend.model(**batch, use_cache=False).logits[0, -1].double()
        total += float(torch.log_softmax(logits, -1)[token])
        one = torch.tensor([token])
        grown = replace(
            grown,
            input_ids=torch.cat([grown.input_ids, one]),
            labels=torch.cat([grown.labels, one]),
            token_types=torch.cat([grown.token_types, torch.zeros_like(one)]),
        )
    return total


def test_rows_that_are_too_many_for_the_device_are_split(backend, examples, monkeypatch):
    words = [e.item.options for e in examples]
    whole = backend.score_options(examples, words)
    inner, room = backend._log_probabilities, 1

    def limited(rows):
        if len(rows) > room:
            raise torch.OutOfMemoryError("full")
        return inner(rows)

    monkeypatch.setattr(backend, "_log_probabilities", limited)
    for split, one in zip(backend.score_options(examples, words), whole, strict=True):
        assert split.likelihoods == pytest.approx(one.likelihoods, abs=1e-4)
    room = 0
    with pytest.raises(VtrapError, match=f"{examples[0].item.id}: too little memory on cpu"):
        backend.score_options(examples, words)


def test_likelihoods_are_those_of_the_model_token_by_token(backend, examples):
    words = [e.item.options for e in examples]
    together = backend.score_options(examples, words)
    assert [len(c.likelihoods) for c in together] == [len(w) for w in words]
    for example, texts, found in zip(examples, words, together, strict=True):
        for text, value in zip(texts[:2], found.likelihoods, strict=False):
            assert value == pytest.approx(by_hand(backend, example, text), abs=2e-4)
        (alone,) = backend.score_options([example], [texts])
        assert alone.likelihoods == pytest.approx(found.likelihoods, abs=2e-4)
        (generated,) = backend.generate([example], max_new_tokens=1)
        assert (found.visual_tokens, found.n_prompt_tokens) == generated[1:3]
    assert sum(map(len, words)) > 8 and all(v < 0 for c in together for v in c.likelihoods)


def test_a_run_by_likelihood_takes_the_likeliest_option(settings, backend):
    settings = replace(settings, answers="likelihood", limit=4)

    class Model(Fake):
        def generate(self, examples, *, max_new_tokens):
            raise AssertionError("nothing is written")

        def score_options(self, examples, candidates):
            return backend.score_options(examples, candidates)

    scores, _ = score(settings, Model())
    records = read_records(settings.out / RECORDS)
    assert len(records) == 8 and all(t["unparsed"] == t["empty"] == 0 for t in scores["tasks"].values())
    for r in records:
        assert r.response == r.options[r.likelihoods.index(max(r.likelihoods))] == r.extracted
        assert r.correct == (r.response == r.answer) and r.visual_tokens > 0
    assert json.loads((settings.out / "run.json").read_text())["decides"]["answers"] == "likelihood"
    with pytest.raises(UsageError, match="answers"):
        score(replace(settings, answers="generate"))
    with pytest.raises(UsageError, match="gives no log-probabilities"):
        score(replace(settings, out=settings.out.with_name("other")))


def test_equally_likely_options_are_no_answer(settings):
    class Even(Fake):
        def score_options(self, examples, candidates):
            from vtrap_bench.backends import Choice

            return [Choice((-1.0,) * len(texts), 4, 8) for texts in candidates]

    scores, _ = score(replace(settings, answers="likelihood", limit=3), Even())
    assert all(t["empty"] == 1 and t["score"] == 0 for t in scores["tasks"].values())


def test_what_may_be_answered():
    def item(*options, answer=""):
        return Item(id="x", messages=(), options=options, answer=answer)

    assert choices(item("red", "blue"), form="letter") == ("A", "B")
    assert choices(item("red", "blue"), form="option") == ("red", "blue")
    assert choices(item(answer="yes"), form="yes-no") == choices(item(answer="no"), form="letter") == ("Yes", "No")
    captions = replace(item("Option 1: a", "Option 2: b"), category=write_facts({"task": "caption_matching"}))
    assert choices(captions, form="letter") == ("Option 1", "Option 2")
    # Ratios look like labelled options, and are shown with letters as all others are.
    assert choices(item("1: 2", "2: 1"), form="letter") == ("A", "B")
    assert choices(item("1: 2", "2: 1"), form="option") == ("1: 2", "2: 1")
    assert choices(item(answer="42"), form="letter") == ()
