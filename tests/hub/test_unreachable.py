"""Where no Hub can be reached: is it told soon, with what to do, and does what is on this machine go on working?"""

from __future__ import annotations

import sys
import threading
import time
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from subprocess import PIPE, Popen
from types import SimpleNamespace

import pytest
from huggingface_hub import constants
from huggingface_hub.utils import _http
from standin.running import Repository, running, serve

from hub_cards import reachable
from hub_cards.reachable import unreachable

NOWHERE = "http://127.0.0.1:9"


@pytest.fixture
def waits(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[float]]:
    """A client that is not offline but has nobody to talk to; and how long it would have waited."""
    waited: list[float] = []
    monkeypatch.setattr(_http, "time", SimpleNamespace(sleep=waited.append, time=time.time, monotonic=time.monotonic))
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(constants, "ENDPOINT", NOWHERE)
    reachable._answers.clear()
    yield waited
    reachable._answers.clear()


def test_offline_is_a_reason_of_its_own() -> None:
    assert unreachable() == "HF_HUB_OFFLINE is set"


def test_a_name_fails_after_seconds_and_says_what_to_do(
    waits: list[float], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    from vtrap_bench.__main__ import main as bench
    from vtrap_data.__main__ import main as data
    from vtrap_train.__main__ import main as train

    model = ["--model", "qwen2.5-vl-7b"]
    row = '{"messages": [{"role": "user", "content": "?"}], "answer": "a"}'
    (tmp_path / "rows.jsonl").write_text(row)
    for main, words, ways in (
        (train, [*model, "--data", "x", "--plan"], ("hf download Qwen/Qwen2.5-VL-7B-Instruct --revision cc5948",)),
        (train, ["--model", "toy-vl", "--data", "no/such", "--plan"], ("check the name, the network",)),
        (train, ["--model", "toy-vl", "--data", "no/such", "--plan", "--streaming"], ("check the name, the network",)),
        (bench, ["run", *model, "--tasks", "toy-image", "--out", "o"], ("name a folder that holds it", "hf download")),
        (data, ["pack", "rows.jsonl", "--fit", "qwen2.5-vl-7b", "--out", "o"], ("name a folder", "hf download")),
        (
            data,
            ["benchmark", "pope", "--rows", "lmms-lab/POPE", "--out", "o"],
            ("name a folder that holds its files",),
        ),
    ):
        with pytest.MonkeyPatch.context() as patch:
            patch.chdir(tmp_path)
            assert main(words) == 2
        said = capsys.readouterr().err.splitlines()[-1]
        assert f"{NOWHERE} cannot be reached: [Errno 111] Connection refused" in said
        assert all(way in said for way in ways), said
    assert set(waits) == {2, 4}, "only whether anybody is there was asked again"


def test_an_answer_counts_for_a_minute_from_when_it_was_given(
    waits: list[float], monkeypatch: pytest.MonkeyPatch
) -> None:
    clock = SimpleNamespace()
    monkeypatch.setattr(reachable, "time", SimpleNamespace(monotonic=lambda: clock.now))
    for clock.now, asked in ((59.0, 1), (61.0, 1), (118.0, 1), (120.0, 2)):
        assert unreachable() is not None
        assert waits == [2, 4] * asked


def test_whoever_answers_can_be_reached(waits: list[float], monkeypatch: pytest.MonkeyPatch) -> None:
    class Busy(BaseHTTPRequestHandler):
        def do_HEAD(self) -> None:
            if self.server.drops:  # type: ignore[attr-defined]
                self.connection.close()
            else:
                self.send_error(503)

        def log_message(self, *_: object) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Busy) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        monkeypatch.setattr(constants, "ENDPOINT", f"http://127.0.0.1:{server.server_address[1]}")
        for server.drops in (False, True):  # type: ignore[attr-defined]
            reachable._answers.clear()
            assert unreachable() is None
        server.shutdown()


LOAD = """
import sys
from hub_cards import reachable
from vtrap_data.encoding.models import load_config, load_model, load_processor, resolve

reachable._FRESH = 1e9  # however long a busy machine takes
for _ in range(2):
    ref = resolve("ann/toy")
    load_config(ref), load_processor(ref), load_model(ref)
    print("loaded", flush=True)
    sys.stdin.readline()
    reachable._answers.clear()
"""


def test_a_model_that_is_here_is_loaded_when_the_hub_goes_away(tmp_path: Path) -> None:
    from vtrap_data.encoding.models import TOY_VL

    with running(tmp_path / "hub") as hub:
        serve(hub, tmp_path / "up", Repository(TOY_VL, "ann/toy"))
        child = Popen(
            [sys.executable, "-c", LOAD],
            env=hub.environment(tmp_path / "home"),
            stdin=PIPE,
            stdout=PIPE,
            stderr=PIPE,
            text=True,
        )
        assert child.stdout is not None and child.stdout.readline() == "loaded\n"
    out, said = child.communicate("\n\n", timeout=120)
    assert (out, child.returncode) == ("loaded\n", 0), said
    assert said.count("Retrying in") == 2, "of the one question whether the Hub is there"
