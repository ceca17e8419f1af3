"""What may a signal not cut in two, or leave running?"""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType


@contextmanager
def no_interruption() -> Iterator[None]:
    """Keep a Ctrl-C until the block is done: a process pool that is left half started cannot be shut down.

    Raises:
        KeyboardInterrupt: At the end of the block, for a Ctrl-C that came within it.
    """
    if threading.current_thread() is not threading.main_thread():  # signals are handled in that one alone
        yield
        return
    kept: list[int] = []
    before = signal.signal(signal.SIGINT, lambda number, _: kept.append(number))
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)
        if kept:
            signal.raise_signal(signal.SIGINT)


@contextmanager
def interruption_told() -> Iterator[None]:
    """Tell a Ctrl-C as one, whatever a library makes of it: NumPy, met while it is imported, makes an ImportError.

    Raises:
        KeyboardInterrupt: For any error in the block after a Ctrl-C.
    """
    usual = signal.getsignal(signal.SIGINT) is signal.default_int_handler
    if threading.current_thread() is not threading.main_thread() or not usual:
        yield
        return
    came = False

    def note(number: int, frame: FrameType | None) -> None:
        nonlocal came
        came = True
        signal.default_int_handler(number, frame)

    signal.signal(signal.SIGINT, note)
    try:
        yield
    except Exception as error:
        if came:
            raise KeyboardInterrupt from error
        raise
    finally:
        signal.signal(signal.SIGINT, signal.default_int_handler)


@contextmanager
def terminable() -> Iterator[None]:
    """Turn SIGTERM into SystemExit, so that `finally` blocks end the children."""

    def leave(number: int, _frame: object) -> None:
        raise SystemExit(128 + number)

    try:
        before = signal.signal(signal.SIGTERM, leave)
    except ValueError:  # Not in the main thread: nothing to install.
        yield
        return
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)
