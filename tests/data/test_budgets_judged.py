from __future__ import annotations

import base64
import io
import json
import re
import threading
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image
from shards_media import tree, write_corpus

from vtrap_data.__main__ import main
from vtrap_data.budgets.allocate import Need, allocate
from vtrap_data.encoding.judge import how_many
from vtrap_data.errors import UsageError, VtrapError
from vtrap_data.loading.dataset import PackedDataset
from vtrap_data.samples import Example, Message, PackedItem
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

    def later(at: Any, budgets: Any) -> Any:
        if len(asked) >= 4 * 4:
            raise KeyboardInterrupt
        return patient.scores(at, budgets)

    with pytest.raises(KeyboardInterrupt):
        reallocate(packed, tmp_path / "new", strategy="loss", judge=replace(patient, scores=tire))
    (notes,) = tmp_path.iterdir()
    notes.write_text(notes.read_text() + '["q2-ord')  # a kill in the middle of a line
    with pytest.raises(KeyboardInterrupt):
        reallocate(packed, tmp_path / "new", strategy="loss", judge=replace(patient, scores=later))
    assert len(asked) == 4 * 4
    reallocate(packed, tmp_path / "new", strategy="loss", judge=patient)
    assert len(asked) == 7 * 4
    with pytest.raises(KeyboardInterrupt):
        asked.clear()
        reallocate(packed, tmp_path / "next", strategy="loss", judge=replace(patient, scores=tire))
    other = replace(patient, facts={"model": "another table"})
    asked.clear()
    reallocate(packed, tmp_path / "next", strategy="loss", judge=other)
    assert len(asked) == 7 * 4, "what another model said does not count"


def test_what_was_heard_behind_a_failed_item_is_kept(packed: Path, tmp_path: Path) -> None:
    asked: list[tuple[str, int, int]] = []
    patient = judge_by({}, asked)
    heard: list[str] = []
    fourth = threading.Event()

    def stall(at: Any, budgets: Any) -> Any:
        """The first item fails when three others have been answered and the fourth is under way."""
        name = at(budgets[0]).item.id
        if name == "q0-order":
            assert fourth.wait(20)
            raise VtrapError("the server stalled")
        heard.append(name)
        if len(heard) == 4:
            fourth.set()
            time.sleep(0.2)
        return patient.scores(at, budgets)

    with pytest.raises(VtrapError, match="the server stalled"):
        reallocate(packed, tmp_path / "new", strategy="loss", judge=replace(patient, scores=stall, at_once=2))
    (notes,) = tmp_path.iterdir()
    assert [json.loads(line)[0] for line in notes.read_text().splitlines()[1:]] == heard and len(heard) >= 4
    asked.clear()
    reallocate(packed, tmp_path / "new", strategy="loss", judge=patient)
    assert len(asked) == (7 - len(heard)) * 4
    reallocate(packed, tmp_path / "plain", strategy="loss", judge=patient)
    assert tree(tmp_path / "new") == tree(tmp_path / "plain"), "the order in which answers came is not to be seen"


def test_a_question_that_fails_while_others_are_being_asked_is_told(
    packed: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Slow(ThreadPoolExecutor):
        def submit(self, *args: Any, **kwargs: Any) -> Any:
            found = super().submit(*args, **kwargs)
            time.sleep(0.05)
            return found

    def fail(at: Any, budgets: Any) -> Any:
        asked.append(at(budgets[0]).item.id)
        raise VtrapError("the server has gone")

    asked: list[str] = []
    monkeypatch.setattr("vtrap_data.shards.reallocate.ThreadPoolExecutor", Slow)
    judge = replace(judge_by({}, []), scores=fail, at_once=2)
    with pytest.raises(VtrapError, match="the server has gone"):
        reallocate(packed, tmp_path / "new", strategy="loss", judge=judge)
    assert len(asked) == 1


@pytest.mark.parametrize("strategy", ["loss", "vlm"])
def test_what_is_no_number_is_refused_and_not_kept(packed: Path, tmp_path: Path, strategy: str) -> None:
    for wrong in (float("nan"), float("inf")):
        judge = judge_by({"q1-order": (1.0, wrong, 1.0, 1.0)}, [])
        with pytest.raises(VtrapError, match=rf"^q1-order: the model says {wrong} of 4 frames.*another --model"):
            reallocate(packed, tmp_path / "new", strategy=strategy, judge=judge)
        notes = tmp_path / ".new.scores.jsonl"
        assert "q0-order" in notes.read_text() and f'["q1-order", [1.0, {json.dumps(wrong)}' not in notes.read_text()
        notes.write_text(notes.read_text() + '["q1-order", [1.0, NaN, 1.0, 1.0]]\n')  # as an earlier version left it
    reallocate(packed, tmp_path / "new", strategy=strategy, judge=judge_by({}, []))
    assert doctor(tmp_path / "new") == []


def test_the_new_corpus_may_lie_anywhere(packed: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    reallocate(packed, tmp_path / "not/yet/there", strategy="loss", judge=judge_by({}, []))
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    reallocate(packed, Path(), strategy="fixed:2")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["here", "not"]
    assert {read_manifest(tmp_path / place).settings.strategy for place in ("here", "not/yet/there")} == {
        "fixed:2",
        "loss",
    }


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


# --- a model behind a server --------------------------------------------------------------------------------


class Served:
    """toy-vl behind OpenAI's protocol. `behave(n, body)` may give another (status, content) for request n.

    toy-vl was never told to answer with letters and ends its turn instead, so letters are made likelier: by how much
    is the same for all of them.
    """

    def __init__(self) -> None:
        from vtrap_data.encoding import load_model, load_processor, resolve

        ref = resolve("toy-vl")
        self.processor, self.model = load_processor(ref), load_model(ref).eval()
        self.seen: list[tuple[dict[str, Any], Any]] = []
        self.behave: Any = lambda number, body: None
        self.lock = threading.Lock()

    def likely(self, pictures: Sequence[Image.Image], words: str) -> list[tuple[str, float]]:
        """The likeliest first tokens of an answer to pictures and words."""
        from vtrap_data.encoding import collate, encode

        item = PackedItem(id="x", messages=(Message(role="user", content="<image>" * len(pictures) + words),))
        one = Example(item=item, key="x", source="x", kind="images", frames=None, images=tuple(pictures))
        batch = collate([encode(one, self.processor, train=False)], self.processor)
        batch.pop("labels")
        with torch.inference_mode():
            logits = self.model(**batch).logits[0, -1].clone()
            logits[self.processor.tokenizer.convert_tokens_to_ids(list("ABCDEFGH"))] += 30
            values, ids = logits.log_softmax(-1).topk(20)
        return [(self.processor.tokenizer.decode([i]), float(v)) for i, v in zip(ids, values, strict=True)]

    def answer(self, body: dict[str, Any], headers: Any) -> tuple[int, object]:
        with self.lock:
            self.seen.append((body, headers))
            other = self.behave(len(self.seen), body)
            if other is not None:
                return other
            *parts, words = body["messages"][0]["content"]
            data = [
                base64.b64decode(part["image_url"]["url"].removeprefix("data:image/png;base64,")) for part in parts
            ]
            tokens = self.likely([Image.open(io.BytesIO(one)) for one in data], words["text"])
        told = [{"token": token, "logprob": value} for token, value in tokens[: body["top_logprobs"]]]
        first = {**told[0], "top_logprobs": told}
        return 200, {"choices": [{"message": {"content": tokens[0][0]}, "logprobs": {"content": [first]}}]}


@pytest.fixture(scope="module")
def toy() -> Served:
    torch.set_num_threads(1)
    return Served()


@pytest.fixture
def served(toy: Served) -> Iterator[tuple[Served, str]]:
    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def log_message(self, *_: object) -> None:
            pass

        def reply(self, status: int, content: object) -> None:
            data = json.dumps(content).encode()
            self.send_response(status)
            self.send_header("Content-Length", str(len(data)))
            self.end_headers()
            self.wfile.write(data)

        def do_GET(self) -> None:
            self.reply(200, {"data": [{"id": "toy", "owned_by": "tests"}]})

        def do_POST(self) -> None:
            body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            self.reply(*toy.answer(body, self.headers))

    toy.seen, toy.behave = [], lambda number, body: None
    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield toy, f"http://127.0.0.1:{server.server_address[1]}/v1"
    server.shutdown()
    server.server_close()


def ask(packed: Path, out: Path, url: str, *more: str) -> int:
    return main(["budget", str(packed), "--out", str(out), "--strategy", "vlm", "--base-url", url, *more])


def test_a_model_behind_a_server_decides(
    packed: Path, tmp_path: Path, served: tuple[Served, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    toy, url = served
    monkeypatch.setenv("VTRAP_API_KEY", "sk-secret")
    assert ask(packed, tmp_path / "new", url, "--concurrency", "3") == 0
    assert doctor(tmp_path / "new") == []
    assert len(toy.seen) == 7 and all(headers["Authorization"] == "Bearer sk-secret" for _, headers in toy.seen)
    assert b"sk-secret" not in (tmp_path / "new/manifest.json").read_bytes()
    params = read_manifest(tmp_path / "new").params
    assert (params["model"], params["prompt"]) == ("toy", "1, frames as single pictures")
    small, data = PackedDataset(packed, frames=2), PackedDataset(tmp_path / "new")
    for number in range(7):
        seen, item = small[number], data[number].item
        likely = toy.likely(seen.frames.images, how_many(seen, BUDGETS))
        told = [next((v for t, v in likely if t == letter), likely[-1][1]) for letter in "ABCD"]
        assert item.scores == pytest.approx(told, abs=1e-5) and len(set(told)) > 1
        assert item.scores[BUDGETS.index(item.budget)] == max(item.scores)


def test_what_a_server_refuses_ends_the_run_and_what_it_said_is_kept(
    packed: Path, tmp_path: Path, served: tuple[Served, str], capsys: pytest.CaptureFixture[str]
) -> None:
    toy, url = served
    toy.behave = lambda n, body: (400, {"error": {"message": "too many pictures"}}) if n == 5 else None
    assert ask(packed, tmp_path / "new", url, "--concurrency", "1") == 1
    assert re.search(r"q\d-\w+: the server at 127.* refused it, HTTP 400: too many pictures", capsys.readouterr().err)
    assert not (tmp_path / "new").exists()
    toy.seen, toy.behave = [], lambda n, body: None
    assert ask(packed, tmp_path / "new", url, "--concurrency", "1") == 0
    assert len(toy.seen) == 3, "four had been heard"


def test_a_server_without_probabilities_is_taken_by_its_word(
    packed: Path, tmp_path: Path, served: tuple[Served, str], capsys: pytest.CaptureFixture[str]
) -> None:
    toy, url = served
    says = {"text": " **C**. 8"}
    toy.behave = lambda n, body: (200, {"choices": [{"message": {"content": says["text"]}}]})
    assert ask(packed, tmp_path / "new", url) == 0
    item = PackedDataset(tmp_path / "new")[0].item
    assert item.budget == 8 and item.scores == (0.0, 0.0, 1.0, 0.0)
    for text in ("Eight, I think", "", "E"):
        says["text"] = text
        assert ask(packed, tmp_path / "other", url) == 1
        assert "where one of ABCD was asked for: choose a model" in capsys.readouterr().err
    toy.behave = lambda n, body: (200, {"choices": []})
    assert ask(packed, tmp_path / "other", url) == 1
    assert "sent no answer in OpenAI's form" in capsys.readouterr().err


def test_wrong_use_of_a_server_is_refused(
    packed: Path, tmp_path: Path, served: tuple[Served, str], capsys: pytest.CaptureFixture[str]
) -> None:
    _, url = served
    words = ["budget", str(packed), "--out", str(tmp_path / "new"), "--strategy"]
    for more, said in (
        (["loss", "--base-url", url], "--base-url is for --strategy vlm, not for loss"),
        (["vlm", "--base-url", "ftp://x"], "must begin with http"),
        (["vlm", "--base-url", "http://a:b@x/v1"], "must not hold a password"),
        (["vlm", "--base-url", url, "--model", "big"], "serves toy: say which with --model"),
        (["vlm", "--base-url", url, "--concurrency", "0"], "--concurrency must be 1 or more"),
        (["vlm", "--model", "toy-vl", "--timeout", "3"], "give its --base-url"),
    ):
        assert main([*words, *more]) == 2
        assert said in capsys.readouterr().err
    assert not (tmp_path / "new").exists()


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
    with pytest.raises(UsageError, match=rf"7 items .*--store {max(BUDGETS)}; .*ids.txt"):
        reallocate(small, tmp_path / "new", strategy="loss", judge=judge_by({}, []), missing=ids)
    assert ids.read_text().split() == PackedDataset(small).column("item_id")[:7]
    asked: list[tuple[str, int, int]] = []
    for wrong in (-1.0, float("nan")):
        with pytest.raises(UsageError, match="--delta must be 0 or more"):
            reallocate(packed, tmp_path / "new", strategy="loss", judge=judge_by({}, asked), delta=wrong)
    assert not asked, "an hour of answers would be for nothing"
    reallocate(packed, tmp_path / "new", strategy="loss", judge=judge_by({}, asked), mean_frames=99)  # it has no use
    with pytest.raises(UsageError, match="what a model says about every item"):
        allocate("loss", [Need(demand=None, residuals=(), distinct=1)], budgets=BUDGETS, mean_frames=0, seed=0)
    with pytest.raises(UsageError, match="--delta"):
        allocate("loss", [], budgets=BUDGETS, mean_frames=0, seed=0, delta=-1)
    assert json.loads((packed / "manifest.json").read_text())["settings"]["strategy"] == "hybrid"
