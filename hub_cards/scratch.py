"""Where are files that are needed for a moment? In a folder that a killed process leaves to the next one to remove."""

from __future__ import annotations

import fcntl
import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

_OURS = "vtrap-scratch-"


@contextmanager
def scratch(name: str) -> Iterator[Path]:
    """An empty folder of this process for the time of the block. Removes those of its name that nobody uses any more.

    Whoever uses a folder holds a lock on it, which goes away with its process, however that ends.
    """
    prefix = f"{_OURS}{name}-"
    for left in Path(tempfile.gettempdir()).glob(f"{prefix}*"):
        with suppress(OSError):  # in use, of somebody else, or no folder
            lock = locked(left, fcntl.LOCK_NB)
            shutil.rmtree(left, ignore_errors=True)
            os.close(lock)
    while True:
        folder = Path(tempfile.mkdtemp(prefix=prefix))
        held = None
        with suppress(OSError):  # a file system without locks, on which others do not get them either
            held = locked(folder, 0)
        if folder.is_dir():  # between the two lines above another process may have taken it for one left behind
            break
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)
        if held is not None:
            os.close(held)


def locked(folder: Path, how: int) -> int:
    """A descriptor of a folder, with a lock that is held until it is closed; `how`: LOCK_NB, or 0 to wait for it.

    Raises:
        OSError: There is no such folder, or somebody else has it (BlockingIOError).
    """
    found = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW)
    try:
        fcntl.flock(found, fcntl.LOCK_EX | how)
    except OSError:
        os.close(found)
        raise
    return found
