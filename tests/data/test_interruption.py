"""Ctrl-C is told as one, whatever a library that it met makes of it."""

from __future__ import annotations

import signal
from collections.abc import Iterator
from typing import Any

import pytest

from vtrap_bench.__main__ import main as bench
from vtrap_data.interruption import interruption_told


@pytest.fixture(autouse=True)
def _as_in_a_terminal() -> Iterator[None]:
    """What a script starts in the background ignores Ctrl-C."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


def swallowed(*_: object) -> Any:
    """What NumPy does with a Ctrl-C while it is imported."""
    try:
        signal.raise_signal(signal.SIGINT)
    except KeyboardInterrupt:
        raise ImportError("PyCapsule_Import could not import module") from None


def test_an_error_after_ctrl_c_is_the_interruption() -> None:
    with pytest.raises(KeyboardInterrupt) as caught, interruption_told():
        swallowed()
    assert isinstance(caught.value.__cause__, ImportError)
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler


def test_other_errors_are_what_they_are() -> None:
    with pytest.raises(ImportError, match="no such"), interruption_told():
        raise ImportError("no such")
    with pytest.raises(KeyboardInterrupt), interruption_told():
        signal.raise_signal(signal.SIGINT)


def test_somebody_elses_handler_is_left_alone() -> None:
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        with interruption_told():
            assert signal.getsignal(signal.SIGINT) is signal.SIG_IGN
        assert signal.getsignal(signal.SIGINT) is signal.SIG_IGN
    finally:
        signal.signal(signal.SIGINT, before)


def test_a_command_met_while_it_loads(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr("importlib.import_module", swallowed)
    assert bench(["run", "--model", "toy-vl", "--out", "x"]) == 130
    assert capsys.readouterr().err == "\nvtrap_bench run: stopped; the same command goes on from here\n"
