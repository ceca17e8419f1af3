"""Temporary folders: gone at the end, however a process ends, at the latest when the next one comes."""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Iterator
from pathlib import Path
from subprocess import PIPE, Popen

import pytest

HELD = """
import signal
import sys
from hub_cards.scratch import scratch
from vtrap_data.push_command import explained

def step():
    with scratch("test") as folder:
        (folder / "file").touch()
        print(folder, flush=True)
        sys.stdin.readline()

signal.signal(signal.SIGINT, signal.default_int_handler)  # also where what runs the tests ignores it
explained(step)
"""


@pytest.fixture
def start(tmp_path: Path) -> Iterator[object]:
    """Starts a process that holds a folder below `tmp_path` until it is told a line; gives both."""
    processes: list[Popen[str]] = []

    def begin() -> tuple[Popen[str], Path]:
        process = Popen(
            [sys.executable, "-c", HELD],
            env={**os.environ, "TMPDIR": str(tmp_path)},
            stdin=PIPE,
            stdout=PIPE,
            text=True,
        )
        processes.append(process)
        assert process.stdout is not None
        return process, Path(process.stdout.readline().strip())

    yield begin
    for process in processes:
        process.kill()
        process.wait()


@pytest.mark.parametrize("how", [None, signal.SIGINT, signal.SIGTERM])
def test_the_end_of_a_process_removes_its_folder(how: signal.Signals | None, start, tmp_path: Path) -> None:
    process, folder = start()
    assert (folder / "file").exists() and folder.parent == tmp_path
    if how is not None:
        process.send_signal(how)
    process.communicate("\n", timeout=60)
    assert process.returncode == {None: 0, signal.SIGINT: -signal.SIGINT, signal.SIGTERM: 143}[how]
    assert not list(tmp_path.iterdir())


def test_what_a_kill_leaves_the_next_process_removes_and_nothing_else(start, tmp_path: Path) -> None:
    killed, left = start()
    running, used = start()
    killed.kill()
    killed.wait()
    for other in ("vtrap-scratch-other-1", "somebody's"):
        (tmp_path / other).mkdir()
    (tmp_path / "vtrap-scratch-test-link").symlink_to(tmp_path / "somebody's")
    assert left.exists() and used.exists()
    _, new = start()
    assert not left.exists() and used.exists() and new.exists()
    assert {"vtrap-scratch-other-1", "somebody's"} <= {path.name for path in tmp_path.iterdir()}
    running.communicate("\n", timeout=60)
    assert not used.exists() and new.exists()
