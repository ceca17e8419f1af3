"""How are a few bytes read out of a tar, from any process, without reading the rest?"""

from __future__ import annotations

import os
import threading
from collections import OrderedDict
from collections.abc import Callable, Sequence
from pathlib import Path, PurePath
from typing import Any

from vtrap_data.errors import UsageError, VtrapError
from vtrap_data.shards.members import Span


class ShardReader:
    """Reads spans of bytes by position, keeping a few shards open.

    Safe to pickle and to use after fork or spawn (each process opens its own files) and from several threads.

    Args:
        root: Folder that shard paths are relative to.
        keep_open: How many shards stay open.
        fetch: Called with the name of a shard before it is opened: makes one that lies elsewhere lie here.
    """

    def __init__(self, root: Path, *, keep_open: int = 16, fetch: Callable[[str], None] | None = None) -> None:
        self.root = root
        self.keep_open = keep_open
        self.fetch = fetch
        self._start()

    def _start(self) -> None:
        self._pid = os.getpid()
        self._lock = threading.Lock()
        self._open: OrderedDict[str, int] = OrderedDict()

    def read(self, shard: str, spans: Sequence[Span]) -> list[bytes]:
        """The bytes of each span of a shard.

        Raises:
            UsageError: The shard cannot be opened.
            VtrapError: It is shorter than the index says.
        """
        if self._pid != os.getpid():
            self._start()  # after a fork: the parent's lock may be held for ever, and its files are its own
        with self._lock:
            descriptor = self._descriptor(shard)
            size = os.fstat(descriptor).st_size
            return [self._pread(descriptor, shard, span, size) for span in spans]

    def close(self) -> None:
        """Close what is open. Reading again opens it again."""
        if self._pid == os.getpid():
            for descriptor in self._open.values():
                os.close(descriptor)
        self._start()

    def _descriptor(self, shard: str) -> int:
        if shard in self._open:
            self._open.move_to_end(shard)
            return self._open[shard]
        path = self.root / shard
        # By its name, not by where a link leads: in the cache of the Hub's client every file links to another folder.
        if PurePath(shard).is_absolute() or ".." in PurePath(shard).parts:
            raise UsageError(f"the index names the shard {shard!r}, which lies outside {self.root}")
        try:
            descriptor = self._opened(path, shard)
        except (OSError, ValueError) as error:  # ValueError: a NUL in the name
            why = getattr(error, "strerror", None) or error
            raise UsageError(f"{path} cannot be opened: {why}. Run `doctor` on {self.root}") from None
        self._open[shard] = descriptor
        if len(self._open) > self.keep_open:
            os.close(self._open.popitem(last=False)[1])
        return descriptor

    def _opened(self, path: Path, shard: str) -> int:
        while self.fetch is not None:
            self.fetch(shard)
            try:
                return os.open(path, os.O_RDONLY | os.O_CLOEXEC)
            except FileNotFoundError:
                continue  # another process has made room in between
        return os.open(path, os.O_RDONLY | os.O_CLOEXEC)

    def _pread(self, descriptor: int, shard: str, span: Span, size: int) -> bytes:
        start, length = span
        end = start + length
        # Before memory is asked for: an index may say anything.
        if start < 0 or length < 0 or end > size:
            raise VtrapError(f"{self.root / shard} ends before byte {end}: run `doctor` on it")
        data = b""  # adding to nothing copies nothing, and nearly every read comes in one piece
        while len(data) < length:
            more = os.pread(descriptor, length - len(data), start + len(data))
            if not more:
                raise VtrapError(f"{self.root / shard} ends before byte {end}: run `doctor` on it")
            data += more
        return data

    def __getstate__(self) -> dict[str, Any]:
        return {"root": self.root, "keep_open": self.keep_open, "fetch": self.fetch}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.root, self.keep_open, self.fetch = state["root"], state["keep_open"], state["fetch"]
        self._start()

    def __del__(self) -> None:
        try:
            if getattr(self, "_pid", None) == os.getpid():
                for descriptor in self._open.values():
                    os.close(descriptor)
        except (AttributeError, TypeError):
            pass  # the interpreter is going down, and `os` has gone already
