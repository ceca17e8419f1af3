"""Who is at work in this folder, and on what? Processes share a run through files, on one machine or on several.

Every process has a folder of its own, which only it writes to. What it takes in hand it claims by making a symbolic
link that names it: that is atomic on local disks and on shared ones, and only one process can succeed. Whether the
owner of a claim still lives is seen in two ways. On the same machine its folder holds a locked file, and the system
drops the lock when the process ends, however it ends. From another machine the file's content is watched: a living
process changes it every few seconds (no clocks are compared). A claim of a dead owner is taken over by making the next
one, `NAME.1` after `NAME.0`; only one process can make that one either, so no claim is ever removed while others may
look at it.

A claim is a further name of one link in its owner's folder: that takes a tenth of the time of a link of its own, for
which the disk has to find a place.

An owner that was silent too long and comes back has been taken for dead: then work is done twice, and nothing worse.
"""

from __future__ import annotations

import fcntl
import os
import platform
import secrets
import shutil
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Literal, NamedTuple

from vtrap_data.errors import UsageError

ALIVE = "alive"
CLAIMS = "claims"
LOCK = "lock"
_OWNER = "owner"
_WAIT = 0.05
_SIGN = 64  # bytes of a sign of life, at most


class _Sign(NamedTuple):
    """What was last seen in the file of a process, since when, and whether it ever changed."""

    content: bytes
    since: float
    moves: bool


class Worker:
    """This process among those that share a folder. Use it in a `with` block.

    Attributes:
        name: Unlike that of any other process: machine, start of the machine, process.
        folder: Its own.
    """

    def __init__(self, root: Path, *, beat: float = 5.0, lease: float = 60.0) -> None:
        """Nothing is written before the `with` block begins.

        Args:
            root: The shared folder; made if it is not there.
            beat: Seconds between two signs of life.
            lease: After so many seconds without one, a process of another machine counts as dead.
        """
        self.root = root
        self.name = f"{socket.gethostname()}.{_machine()}.{os.getpid()}.{secrets.token_hex(3)}"
        self.folder = root / self.name
        self._owner = f"{self.folder}/{_OWNER}"
        self._beat, self._lease = beat, lease
        self._seen: dict[str, _Sign] = {}
        self._held: set[str] = set()
        self._ended = threading.Event()

    def __enter__(self) -> Worker:
        unseen = self.root / f".{self.name}"
        _make(unseen)
        (unseen / _OWNER).symlink_to(self.name)
        self._file = (unseen / ALIVE).open("wb", buffering=0)
        with suppress(OSError):  # a file system without locks: others watch the content
            fcntl.flock(self._file, fcntl.LOCK_EX)
        unseen.rename(self.folder)  # from here on whoever sees it sees it locked
        self._thread = threading.Thread(target=self._signs_of_life, daemon=True)
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._ended.set()
        self._thread.join()
        _leave(self.folder)
        self._file.close()
        # Only what is empty goes: answers that are not in the run's records yet stay.
        with suppress(OSError):
            self.folder.rmdir()
            if not self._folders():
                for link in self.root.glob(f"{LOCK}.*"):  # of a process that was killed while it held it
                    if not self.lives(str(link.readlink())):
                        link.unlink()
            self.root.rmdir()

    def lives(self, name: str, *, sure: bool = False) -> bool:
        """Whether the process of that name is still there.

        Args:
            name: Of the process.
            sure: Wait until it is certain. Otherwise a process of another machine counts as living until it has been
                watched, over several calls, for as long as the lease.
        """
        while (found := self._lives(name)) is None and sure:
            time.sleep(_WAIT)
        return found is not False

    def _lives(self, name: str) -> bool | None:
        """None: it cannot be told yet."""
        parts = name.split(".")
        if len(parts) < 4 or "/" in name:  # no process that we name: a link that somebody else has put there
            return False
        here = parts[-3] == self.name.split(".")[-3]
        try:
            # Not to be waited for: somebody may have put a FIFO there.
            with open(self.root / name / ALIVE, "rb", opener=_at_once) as file:
                locked = _locked(file.fileno()) if here else None
                sign = file.read(_SIGN)
        except (FileNotFoundError, NotADirectoryError):
            return False
        except OSError as error:
            raise UsageError(f"{self.root / name / ALIVE} cannot be read ({error.strerror}): remove it") from None
        if locked is False:
            return False
        now = time.monotonic()
        seen = self._seen.setdefault(name, _Sign(sign, now, moves=False))
        if seen.content != sign:
            self._seen[name] = seen = _Sign(sign, now, moves=True)
        if now - seen.since > self._lease:
            return False  # even if locked: a child of a dead process may have inherited its lock
        return True if locked or seen.moves else None

    def claim(self, what: str) -> Literal["new", "left behind"] | None:
        """Take in hand what nobody had, or only a process that died. None: this or another living process has it."""
        path = self._take(f"{CLAIMS}/{what}")
        if path is None:
            return None
        return "new" if path.endswith(".0") else "left behind"

    @contextmanager
    def lock(self) -> Iterator[None]:
        """Keep all other processes out of the block."""
        while (path := self._take(LOCK)) is None:
            time.sleep(_WAIT)
        try:
            yield
        finally:
            self._held.discard(path)
            Path(path).unlink(missing_ok=True)

    def forget_claims(self) -> None:
        """Remove all claims: for whoever holds the lock while nobody else is at work, or nothing is left to do."""
        shutil.rmtree(self.root / CLAIMS, ignore_errors=True)

    def bury(self) -> None:
        """Remove what dead processes left that holds nothing any more."""
        for folder in self._folders():
            if folder != self.folder and not self.lives(folder.name):
                _leave(folder)
                with suppress(OSError):
                    folder.rmdir()

    def _folders(self) -> list[Path]:
        """Of processes. Names that begin with a dot are still being made."""
        found = (p for p in self.root.iterdir() if not p.name.startswith((".", f"{LOCK}.")))
        return [p for p in found if p.name != CLAIMS]

    def _take(self, what: str) -> str | None:
        number = 0
        while True:
            path = f"{self.root}/{what}.{number}"
            try:
                self._link(path)
            except FileNotFoundError:
                _make(Path(path).parent)
                continue
            except FileExistsError:
                try:
                    owner = str(Path(path).readlink())
                except FileNotFoundError:  # given back just now
                    continue
                except OSError:
                    raise UsageError(f"{path} is no claim of a process (a link): remove it, then run again") from None
                if owner == self.name and path not in self._held:
                    pass  # made, but over a network the answer got lost, and the second try found the first one's link
                elif owner == self.name or self.lives(owner):
                    return None
                else:
                    number += 1
                    continue
            self._held.add(path)
            return path

    def _link(self, path: str) -> None:
        try:
            os.link(self._owner, path, follow_symlinks=False)
        except FileExistsError:
            raise
        except OSError:  # the file system has no such names, or no more of them
            Path(path).symlink_to(self.name)

    def _signs_of_life(self) -> None:
        count = 0
        while True:
            with suppress(OSError):  # a full disk must not kill it: then it looks dead, no more
                os.pwrite(self._file.fileno(), b"%d\n" % count, 0)
                os.fsync(self._file.fileno())
            count += 1
            if self._ended.wait(self._beat):
                return


def _leave(folder: Path) -> None:
    for name in (ALIVE, _OWNER):
        (folder / name).unlink(missing_ok=True)


def _make(folder: Path) -> None:
    while not folder.is_dir():
        with suppress(FileNotFoundError):  # another process has just removed the one above it, which was empty
            folder.mkdir(parents=True, exist_ok=True)


def _at_once(path: str, flags: int) -> int:
    return os.open(path, flags | os.O_NONBLOCK)


def _locked(descriptor: int) -> bool | None:
    """Whether somebody holds the lock; None if that cannot be told."""
    try:
        fcntl.flock(descriptor, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    except OSError:
        return None
    fcntl.flock(descriptor, fcntl.LOCK_UN)
    return False


def _machine() -> str:
    """What processes share that see each other's locks: one start of one system."""
    with suppress(OSError):
        return Path("/proc/sys/kernel/random/boot_id").read_text().strip().replace("-", "")[:12]
    return platform.node().replace(".", "-") or "unknown"
