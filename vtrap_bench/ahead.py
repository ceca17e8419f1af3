"""Which batch is asked next, and is it ready? Batches are claimed, read and prepared while the model works on others.

Several small ones are prepared one right after the other: the code and the data for it are in the processor's cache
then, out of which each pass through the model drives them. That costs half of what it costs one by one.
"""

from __future__ import annotations

import hashlib
from collections import deque
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from typing import NamedTuple

from vtrap_bench.answer import Ready, prepare
from vtrap_bench.answered import Answered
from vtrap_bench.backends import Backend
from vtrap_bench.claims import Worker
from vtrap_bench.jobs import Bench, Job
from vtrap_bench.run_settings import RunSettings

ITEMS = 8
"""After so many, preparing pauses until they are needed."""
PIXELS = 16_000_000
"""After so many, too: 50 MB of bytes."""
_SHARE = 4
"""No process takes more than one in so many of the batches that are left at once, if others may want some."""


class Next(NamedTuple):
    """A batch in hand: claimed, and soon ready."""

    batch: list[Job]
    ready: Future[Ready]


class Ahead:
    """The batches of this process, in order. Use it in a `with` block."""

    def __init__(
        self,
        todo: Iterable[list[Job]],
        answered: Answered,
        me: Worker,
        *,
        benches: Mapping[str, Bench],
        backend: Callable[[], Backend],
        settings: RunSettings,
    ) -> None:
        """Nothing is claimed before `next`.

        Args:
            todo: All batches of the run, cut alike by all processes.
            answered: Items that need not be asked any more.
            me: This process.
            benches: By task.
            backend: Opens the model, or gives the one that is open. Called only if there is something to ask.
            settings: Of the run.
        """
        self._todo = list(todo)
        self._answered, self._me = answered, me
        self._benches, self._backend, self._settings = benches, backend, settings
        self._waiting: deque[Next] = deque()
        self._thread = ThreadPoolExecutor(1)

    def __enter__(self) -> Ahead:
        return self

    def __exit__(self, *_: object) -> None:
        self._thread.shutdown(cancel_futures=True)

    def next(self) -> Next | None:
        """The next batch, and those after it begin to be prepared; None if there is none now."""
        items = pixels = taken = 0
        while len(self._waiting) < 2 or (items and items < ITEMS and pixels < PIXELS):
            if len(self._waiting) > 1 and taken >= len(self._todo) // _SHARE:
                break
            if not (batch := self._take()):
                break
            backend = self._backend()
            ready = self._thread.submit(prepare, batch, self._benches[batch[0].task], backend, self._settings)
            self._waiting.append(Next(batch, ready))
            taken += 1
            items += len(batch)
            pixels += sum(job.pixels for job in batch)
        return self._waiting.popleft() if self._waiting else None

    def _take(self) -> list[Job]:
        """The next batch that nobody has in hand, without what is answered; [] if there is none now.

        Batches that are done, or are taken, leave `todo`; those of others stay until they are done.
        """
        at = 0
        while at < len(self._todo):
            batch = self._todo[at]
            if any(job.key not in self._answered.records for job in batch):
                if (claim := self._me.claim(_name(batch))) is None:
                    at += 1
                    continue
                if claim == "left behind":
                    self._answered.refresh()  # its last owner may have got that far
            del self._todo[at]
            if left := [job for job in batch if job.key not in self._answered.records]:
                return left
        return []


def _name(batch: Sequence[Job]) -> str:
    return hashlib.sha256(" ".join(job.key for job in batch).encode()).hexdigest()[:24]
