"""How long may one media file keep us busy? The clock is looked at between packets, wherever files are read.

A decoder that does not come back from a single packet cannot be stopped from here: worker processes have a second,
hard limit for that (shards/measure.py).
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import NamedTuple

from vtrap_data.errors import Reason, SampleError


class _Limit(NamedTuple):
    seconds: float
    end: float


_limit: ContextVar[_Limit | None] = ContextVar("limit", default=None)


@contextmanager
def time_limit(seconds: float) -> Iterator[None]:
    """Let the reading of media inside the block take this long, all files together.

    Args:
        seconds: Above 0; counted by the clock on the wall, since a slow disk keeps us busy too.
    """
    token = _limit.set(_Limit(seconds, time.monotonic() + seconds))
    try:
        yield
    finally:
        _limit.reset(token)


def check_time(name: str) -> None:
    """Raise SampleError TIMEOUT, with `name` as the sample, when the time of the block around has run out."""
    limit = _limit.get()
    if limit is not None and time.monotonic() > limit.end:
        raise SampleError(name, Reason.TIMEOUT, took_longer(limit.seconds))


def took_longer(seconds: float) -> str:
    """What a sample is told that ran into the limit."""
    return f"reading it took longer than {seconds:g} s (--file-timeout)"
