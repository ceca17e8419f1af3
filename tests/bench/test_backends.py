"""Backends: tokens beside answers, prompts for engines, and a server on loopback that fails in every usual way."""

import base64
import importlib.util
import io
import json
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import numpy as np
import pytest
import torch
from data.encoding_families import NAMES, build
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from vtrap_bench.backends import BACKENDS, BackendSettings, Serving, Step, UnfinishedError
from vtrap_bench.backends.openai_backend import OpenAIBackend
from vtrap_bench.backends.prompts import folded, same_prompt, video_of
from vtrap_bench.backends.tokens import TokenFile, read_tokens
from vtrap_bench.backends.transformers_backend import TransformersBackend
from vtrap_data import chat_server
from vtrap_data.encoding import encode, resolve
from vtrap_data.encoding.positions import rounded_up
from vtrap_data.encoding.tokens import Encoded
from vtrap_data.errors import UsageError, VtrapError
from vtrap_data.samples import Example, Frames, Message, PackedItem


def example(name, *, images=0, frames=0, spacing=0.5, size=(56, 64), question="What colour is it?", seed=0):
    """`size`: height and width of its frames, and of its first picture; those that follow are 14 pixels wider each."""
    draw = np.random.default_rng([seed, images, frames])
    high, wide = size
    widths = [*(wide + 14 * i for i in range(images)), *([wide] * frames)]
    pictures = [Image.fromarray(draw.integers(0, 256, (high, w, 3), dtype=np.uint8)) for w in widths]
    marks = "<image>" * images + "<video>" * (frames > 0)
    item = PackedItem(id=name, messages=(Message(role="user", content=f"{marks}{question}"),), answer="red")
    shown = Frames.of(pictures[images:], times=[spacing * i for i in range(frames)]) if frames else None
    kind = "video" if frames else "images" if images else "text"
    return Example(item=item, key=name, source="test", kind=kind, frames=shown, images=tuple(pictures[:images]))


DIFFERENT = [
    *({}, {"images": 1}, {"images": 3}, {"frames": 5}),
    {"question": "How many?"},
    {"images": 1, "size": (84, 56), "question": "Which way does the ring move?"},
    {"images": 2, "size": (70, 98), "question": "How many shapes are there? one two three"},
    {"frames": 2, "size": (84, 84), "question": "first then"},
    {"question": "Which way does the ring move? left right up down"},
    {"images": 1, "size": (112, 42), "question": "What colour is the square?"},
    {"images": 2, "size": (45, 61)},
    {"frames": 8, "size": (56, 70), "question": "Which way?", "spacing": 1.0},
    {"question": "What colour is the square? red green blue " * 3},
    {"images": 1, "size": (57, 113)},
    {"frames": 3, "size": (98, 56), "question": "What colour is the square? red green blue", "spacing": 0.25},
    {"frames": 1, "size": (63, 63), "question": "How many shapes are there?"},
]
EXAMPLES = [example(f"e{i}", **what, seed=i) for i, what in enumerate(DIFFERENT)]


@pytest.fixture(scope="module")
def backend(tmp_path_factory, toy_processor):
    from vtrap_data.toy_vl.build import build_model

    out = tmp_path_factory.mktemp("backend") / "tiny"
    build_model(toy_processor.tokenizer, seed=1).save_pretrained(out)
    toy_processor.save_pretrained(out)
    return TransformersBackend(BackendSettings(model=resolve(str(out)), dtype="float32", device="cpu"))


@pytest.mark.parametrize("name", NAMES)
def test_the_batch_changes_neither_text_nor_tokens(tmp_path, name):
    """With a tiny model of every family: 16 different ones, of many sizes, lengths and questions, mixed."""
    content = [
        (e.item.messages, *(p.tobytes() for p in (*e.images, *(e.frames.images if e.frames else ()))))
        for e in EXAMPLES
    ]
    assert len(set(content)) == len(EXAMPLES) == 16
    build(name, tmp_path)
    backend = TransformersBackend(BackendSettings(model=resolve(str(tmp_path)), dtype="float32", device="cpu"))
    found = {}
    for size in (1, 4, 16):
        parts = [EXAMPLES[i : i + size] for i in range(0, len(EXAMPLES), size)]
        found[size] = [g for part in parts for g in backend.generate(part, max_new_tokens=6)]
    assert len({one.text for one in found[1]}) > 1
    assert len({one.n_prompt_tokens for one in found[1]}) >= 12 and len({one.visual_tokens for one in found[1]}) >= 4
    for size in (4, 16):
        for one, other in zip(found[1], found[size], strict=True):
            assert (one.text, one.visual_tokens, one.n_prompt_tokens) == (
                other.text,
                other.visual_tokens,
                other.n_prompt_tokens,
            )
            assert [s.token for s in one.steps] == [s.token for s in other.steps]
            assert np.allclose([s.logprob for s in one.steps], [s.logprob for s in other.steps], atol=1e-5)


def test_log_probabilities_are_the_models_own(backend):
    """Against a plain forward pass over prompt and answer."""
    from dataclasses import replace

    from vtrap_data.encoding import collate

    for one in EXAMPLES[:4]:
        (answer,) = backend.generate([one], max_new_tokens=5)
        encoded = encode(one, backend.processor, train=False)
        tail = torch.tensor([s.token for s in answer.steps])
        longer = replace(
            encoded,
            input_ids=torch.cat([encoded.input_ids, tail]),
            labels=torch.cat([encoded.labels, tail]),
            token_types=torch.cat([encoded.token_types, torch.zeros_like(tail)]),
        )
        batch = collate([longer], backend.processor)
        del batch["labels"]
        with torch.inference_mode():
            likely = backend.model(**batch).logits[0].log_softmax(-1)[len(encoded.input_ids) - 1 : -1]
        for step, row in zip(answer.steps, likely, strict=True):
            assert step.logprob == pytest.approx(float(row[step.token]), abs=1e-5)
            values, ids = row.topk(2)
            assert [step.token, step.runner_up] == ids.tolist()
            assert step.runner_up_logprob == pytest.approx(float(values[1]), abs=1e-5)


def test_tokens_survive_a_torn_line(tmp_path):
    path = tmp_path / "tokens.jsonl"
    one, two = (Step(3, -0.5, 4, -1.25),), (Step(5, 0.0, -1, float("-inf")),)
    with TokenFile(path) as tokens:
        tokens.append({"a": one})
        tokens.append({"none": ()})
    with path.open("ab") as file:
        file.write(b'{"key": "b", "ste')
    with TokenFile(path) as tokens:
        tokens.append({"c": two})
        tokens.append({"a": two})
    assert read_tokens(path) == {"a": two, "c": two} and read_tokens(tmp_path / "no") == {}


def test_without_vllm_its_backend_says_where_to_get_it():
    spec = importlib.util.find_spec("vllm")
    if spec is not None and spec.origin is not None:
        pytest.skip("vLLM is installed here")
    settings = BackendSettings(model=resolve("toy-vl"), dtype="float32", device="cpu")
    with pytest.raises(UsageError, match=r"vLLM cannot be imported here.*environment of its own"):
        BACKENDS["vllm"](settings)


# --- prompts ------------------------------------------------------------------------------------------------


def test_prompts_are_folded_and_held_against_the_engines(toy_processor):
    for one in EXAMPLES[:4]:
        encoded = encode(one, toy_processor, train=False)
        short = folded(encoded)
        media = len(one.images) + (one.frames is not None)
        assert len(short) == len(encoded.input_ids) - encoded.visual_tokens + media
        same_prompt(encoded, encoded.input_ids.tolist(), engine="x")
        wrong = encoded.input_ids.tolist()
        wrong[3] += 1
        with pytest.raises(VtrapError, match=f"{one.item.id}: x made another prompt.*first difference at 3"):
            same_prompt(encoded, wrong, engine="x")
        with pytest.raises(VtrapError, match="tokens instead of"):
            same_prompt(encoded, short[:-1], engine="x")


def video(seconds, frames):
    none = torch.zeros(0, dtype=torch.long)
    return Encoded(
        id="v",
        source="",
        kind="video",
        input_ids=none,
        labels=none,
        token_types=none,
        images=(),
        video=torch.zeros(frames, 1),
        seconds_per_grid=seconds,
        visual_tokens=0,
    )


@given(
    seconds=st.one_of(st.floats(0.01, 500), st.integers(1, 5000).map(lambda n: n / 100)).map(rounded_up),
    frames=st.integers(1, 64),
)
def test_an_engine_numbers_frames_by_the_same_seconds(seconds, frames):
    """It has them from the rate that it is told, in single precision. What it makes of them: tests/vllm."""
    found = video_of(video(seconds, frames), temporal_patch_size=2)
    assert torch.tensor([2 / found.fps]).item() == seconds
    assert len(found.metadata()["frames_indices"]) == frames


# --- a server -----------------------------------------------------------------------------------------------


class Server(ThreadingHTTPServer):
    """Speaks the protocol as far as it goes; `behave(n, body)` gives (status, content, headers) for request n."""

    def __init__(self, behave, *, owner="someone"):
        self.behave, self.owner, self.seen, self.lock = behave, owner, [], threading.Lock()
        super().__init__(("127.0.0.1", 0), Handler)
        threading.Thread(target=self.serve_forever, daemon=True).start()

    @property
    def url(self):
        return f"http://127.0.0.1:{self.server_address[1]}/v1"


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def log_message(self, *_):
        pass

    def reply(self, status, content, headers):
        data = content if isinstance(content, bytes) else json.dumps(content).encode()
        self.send_response(status)
        for name, value in {"Content-Length": str(len(data)), **headers}.items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(data)

    def do_GET(self):
        self.reply(200, {"data": [{"id": "tiny", "owned_by": self.server.owner}]}, {})

    def do_POST(self):
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        with self.server.lock:
            self.server.seen.append((body, dict(self.headers)))
            number = len(self.server.seen)
        self.reply(*self.server.behave(number, body))


def said(text):
    return {"choices": [{"message": {"content": text}}], "usage": {"prompt_tokens": 7}}


@pytest.fixture
def serve():
    servers = []

    def start(behave, **kwargs):
        servers.append(Server(behave, **kwargs))
        return servers[-1]

    yield start
    for server in servers:
        server.shutdown()
        server.server_close()


@pytest.fixture
def asked(monkeypatch, backend):
    monkeypatch.setattr(chat_server.time, "sleep", lambda seconds: waits.append(seconds))
    waits = []

    def connect(server, **kwargs):
        serving = Serving(base_url=server.url, **{"concurrency": 4, "timeout": 30, "videos": "images", **kwargs})
        model = resolve(backend.model.name_or_path)
        return OpenAIBackend(BackendSettings(model=model, dtype="float32", device="cpu", serving=serving))

    connect.waits = waits
    return connect


def test_pictures_arrive_without_loss_and_in_place(serve, asked):
    server = serve(lambda n, body: (200, said(" red"), {}))
    found = asked(server).generate([EXAMPLES[2]], max_new_tokens=9)
    assert found[0].text == " red" and found[0].n_prompt_tokens == 7
    body = server.seen[0][0]
    assert (body["model"], body["temperature"], body["max_tokens"]) == ("tiny", 0, 9)
    *pictures, words = body["messages"][0]["content"]
    assert words == {"type": "text", "text": "What colour is it?"} and "logprobs" not in body
    for part, image in zip(pictures, EXAMPLES[2].images, strict=True):
        data = base64.b64decode(part["image_url"]["url"].removeprefix("data:image/png;base64,"))
        assert np.array_equal(np.asarray(Image.open(io.BytesIO(data))), np.asarray(image))


def test_a_busy_server_is_asked_again(serve, asked):
    replies = {1: (503, b"starting", {}), 2: (429, {"error": {"message": "slow down"}}, {"Retry-After": "7"})}
    server = serve(lambda n, body: replies.get(n, (200, said("ok"), {})))
    assert asked(server).generate([EXAMPLES[0]], max_new_tokens=2)[0].text == "ok"
    assert len(server.seen) == 3 and asked.waits[1] == 7 and 0.25 <= asked.waits[0] <= 0.5


def test_an_interruption_asks_nothing_more(serve, asked, monkeypatch):
    backend = asked(serve(lambda n, body: (200, said("x"), {})))
    begun = []

    def answer(example, max_new_tokens):
        begun.append(example)
        if len(begun) == 1:
            raise KeyboardInterrupt
        threading.Event().wait(0.2)

    monkeypatch.setattr(backend, "_answer", answer)
    with pytest.raises(KeyboardInterrupt):
        backend.generate([EXAMPLES[0]] * 60, max_new_tokens=1)
    threading.Event().wait(0.6)
    assert len(begun) <= 12


def test_what_a_server_refuses_is_said_without_the_key(serve, asked, monkeypatch):
    monkeypatch.setenv("VTRAP_API_KEY", "sk-very-secret")
    server = serve(lambda n, body: (401, {"error": {"message": "wrong key: sk-very-secret"}}, {}))
    with pytest.raises(UnfinishedError, match=r"e0: .*HTTP 401: wrong key: \*\*\*: put the key into") as caught:
        asked(server).generate([EXAMPLES[0]], max_new_tokens=2)
    assert "secret" not in str(caught.value) and len(server.seen) == 1
    assert server.seen[0][1]["Authorization"] == "Bearer sk-very-secret"


def test_what_was_answered_before_a_failure_is_kept(serve, asked):
    def behave(number, body):
        return (400, {"error": {"message": "no"}}, {}) if "e3" in json.dumps(body) else (200, said("fine"), {})

    names = [example(f"e{i}") for i in range(12)]
    for i, one in enumerate(names):
        object.__setattr__(one.item, "messages", (Message(role="user", content=f"e{i}?"),))
    with pytest.raises(UnfinishedError, match=r"e3: .*HTTP 400: no") as caught:
        asked(serve(behave), concurrency=2).generate(names, max_new_tokens=2)
    assert {0, 1, 2} <= caught.value.done.keys() and 3 not in caught.value.done


def test_a_question_that_cannot_be_encoded_does_not_cost_the_answers_to_others(serve, asked):
    names = [example(f"e{i}") for i in range(6)]
    object.__setattr__(names[5].item, "messages", (Message(role="user", content="<image>What?"),))  # it has no image
    server = serve(lambda n, body: (200, said("fine"), {}))
    with pytest.raises(UnfinishedError, match="e5: ") as caught:
        asked(server, concurrency=2).generate(names, max_new_tokens=2)
    assert caught.value.done.keys() == {0, 1, 2, 3, 4}


@pytest.mark.parametrize(
    ("behave", "says"),
    [
        (lambda n, body: (200, b"<html>", {}), "no JSON object; tried 6 times"),
        (lambda n, body: (200, {"choices": []}, {}), "sent no answer in OpenAI's form"),
        (lambda n, body: (500, b"", {}), "HTTP 500: no reason given; tried 6 times"),
        (lambda n, body: (302, b"", {"Location": "http://127.0.0.1:1/"}), "HTTP 302"),
        (lambda n, body: (404, b"", {}), "does --base-url end in /v1"),
    ],
)
def test_servers_that_fail(serve, asked, behave, says):
    with pytest.raises(VtrapError, match=says):
        asked(serve(behave)).generate([EXAMPLES[0]], max_new_tokens=2)


def test_a_server_that_is_not_there_or_serves_something_else(serve, asked, monkeypatch):
    server = serve(lambda n, body: (200, said("x"), {}))
    with pytest.raises(UsageError, match="serves tiny: say which with --served-name"):
        asked(server, served_name="big")
    gone = type("Gone", (), {"url": "http://127.0.0.1:9/v1"})
    with pytest.raises(VtrapError, match=r"the server at 127.0.0.1:9, it cannot be reached .*; tried 6 times"):
        asked(gone)
    for url, says in (("ftp://x", "must begin with http"), ("http://a:b@x/v1", "must not hold a password")):
        with pytest.raises(UsageError, match=says):
            asked(type("Bad", (), {"url": url}))
    with pytest.raises(UnfinishedError, match="only vLLM can be sent one frame by frame"):
        asked(server, videos="video").generate([EXAMPLES[3]], max_new_tokens=2)
