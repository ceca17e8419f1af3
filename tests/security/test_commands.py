"""Every command: help with examples, one line for wrong use, a line for Ctrl-C that says how to go on."""

from __future__ import annotations

import argparse
import importlib
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from vtrap_bench.__main__ import COMMANDS
from vtrap_bench.__main__ import main as bench
from vtrap_data.__main__ import _parser
from vtrap_data.__main__ import main as data
from vtrap_train.__main__ import main as train

ROOT = Path(__file__).parents[2]
(DATA,) = (action for action in _parser(())._actions if isinstance(action, argparse._SubParsersAction))
ALL = [
    *((data, name) for name in DATA.choices),
    *((bench, name) for name in COMMANDS),
    *((train, name) for name in ("", "push")),
]
NAMES = [f"{main.__module__.split('.')[0]} {name}" for main, name in ALL]


def call(main: Callable[[list[str]], int], *words: str) -> int:
    try:
        return main([word for word in words if word])
    except SystemExit as stop:
        return int(stop.code or 0)


@pytest.mark.parametrize(("main", "name"), ALL, ids=NAMES)
def test_help_has_examples(main: Any, name: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert call(main, name, "--help") == 0
    said = capsys.readouterr().out
    package = main.__module__.split(".")[0]
    assert "examples:" in said
    assert f"python -m {package} {name}".rstrip() in said.partition("examples:")[2]


@pytest.mark.parametrize(("main", "name"), ALL, ids=NAMES)
def test_wrong_use_is_one_line(main: Any, name: str, capsys: pytest.CaptureFixture[str]) -> None:
    needed = ["--model", "toy-vl"] if (main, name) == (train, "") else []
    assert call(main, name, *needed, "--no-such-option") == 2
    said = capsys.readouterr()
    assert len(said.err.strip().splitlines()) == 1, said.err
    assert "--help" in said.err or "no-such-option" in said.err
    assert not said.out


@pytest.mark.parametrize("main", [data, bench, train])
def test_a_command_that_does_not_exist(main: Any, capsys: pytest.CaptureFixture[str]) -> None:
    assert call(main, "fly") == 2
    assert len(capsys.readouterr().err.strip().splitlines()) == 1


def test_the_demo_script() -> None:
    for words, code, said in ((["--help"], 0, "scripts/demo --full"), (["--fly"], 2, "--fly is not an option")):
        done = subprocess.run([ROOT / "scripts/demo", *words], capture_output=True, text=True, check=False)
        assert done.returncode == code
        assert said in done.stdout + done.stderr
        assert code == 0 or len(done.stderr.strip().splitlines()) == 1


LONG = [(data, "pack"), (data, "push"), (bench, "run"), (bench, "study"), (train, ""), (train, "push")]


@pytest.mark.parametrize(("main", "name"), LONG, ids=[f"{m.__module__.split('.')[0]} {n}" for m, n in LONG])
def test_ctrl_c_says_how_to_go_on(
    main: Any, name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """That it does go on is shown where each is killed: tests/data/test_cli.py, bench/test_run.py and test_study.py,
    train/test_processes.py, hub/test_interruptions.py."""
    place, words = {
        (data, "pack"): ("vtrap_data.sources.jsonl.read_jsonl", ["r.jsonl", "--out", "o"]),
        (data, "push"): ("vtrap_data.push.read_manifest", ["c", "a/b"]),
        (bench, "run"): ("vtrap_bench.run.score_model", ["--model", "toy-vl", "--tasks", "toy-image", "--out", "o"]),
        (bench, "study"): ("vtrap_bench.study.read_study", ["s.yaml", "--out", "o"]),
        (train, ""): ("vtrap_train.config.parse", ["--model", "toy-vl"]),
        (train, "push"): ("vtrap_train.push.model_facts", ["r", "a/b"]),
    }[main, name]

    def interrupted(*_: Any, **__: Any) -> None:
        raise KeyboardInterrupt

    module, _, attribute = place.rpartition(".")
    monkeypatch.setattr(importlib.import_module(module), attribute, interrupted)
    if (main, name) == (bench, "run"):
        monkeypatch.setattr("vtrap_bench.run.present", lambda *_, **__: None, raising=True)
    monkeypatch.chdir(tmp_path)
    assert call(main, name, *words) == 130
    (line,) = capsys.readouterr().err.strip().splitlines()
    assert "same command" in line


@pytest.mark.parametrize("main", [data, bench])
def test_a_folder_that_cannot_be_written_is_one_line(
    main: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """/proc takes no folders, not even of root."""
    if main is data:
        words = ["toyworld", "images", "--count", "1", "--out", "/proc/vtrap"]
    else:
        words = ["study", str(tmp_path / "s.yaml"), "--out", "/proc/vtrap"]
        text = "model: toy-vl\ncorpus: c\ntasks: [toy-image]\ncommon_frames: 8\nsettings: [{name: a, frames: 8}]\n"
        (tmp_path / "s.yaml").write_text(text)
    assert call(main, *words) == 2
    (line,) = capsys.readouterr().err.strip().splitlines()
    assert "/proc/vtrap" in line
