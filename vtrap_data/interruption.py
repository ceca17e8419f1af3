"""What may Ctrl-C not cut in two?"""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager


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
