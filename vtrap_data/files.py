"""How does a file get onto the disk so that a kill at any moment leaves the old one or the whole new one?"""

from __future__ import annotations

import errno
import hashlib
import json
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, BinaryIO

from vtrap_data.errors import UsageError


def home() -> Path:
    """Where vtrap keeps what can be had again: `$VTRAP_HOME`, or ~/.cache/vtrap.

    Raises:
        UsageError: The first is not set, and the system knows no home of this user, as in some containers.
    """
    try:
        return Path(os.environ.get("VTRAP_HOME") or Path.home() / ".cache" / "vtrap")
    except RuntimeError as error:
        raise UsageError(f"{error} Set VTRAP_HOME to a folder for what can be had again") from None


@contextmanager
def atomic_file(path: Path, *, sync: bool = True) -> Iterator[BinaryIO]:
    """Open a temporary neighbour of `path` for writing; rename it to `path` when the block ends without an error.

    Args:
        path: The final name. Folders above it are made.
        sync: Wait until the bytes are on the disk. Leave it on for everything that is not checked by a hash when it is
            read back.
    """
    if not path.name:  # `.` and `/`
        raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR), str(path))
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.tmp{os.getpid()}")
    try:
        temporary.unlink(missing_ok=True)
        with temporary.open("x+b") as file:  # x: not through a link that somebody put there
            yield file
            file.flush()
            if sync:
                os.fsync(file.fileno())
        temporary.replace(path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise
    if sync:
        sync_directory(path.parent)


def write_bytes(path: Path, data: bytes, *, sync: bool = True) -> None:
    """Write a small file whole or not at all."""
    with atomic_file(path, sync=sync) as file:
        file.write(data)


def sync_directory(path: Path) -> None:
    """Make a rename inside `path` survive a power cut."""
    descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def sha256_file(path: Path) -> str:
    """Hex digest of a file, read in pieces."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def canonical_json(value: Any) -> bytes:
    """JSON with sorted keys and no spaces: equal values give equal bytes."""
    return json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=False, allow_nan=False).encode()


def is_unicode(text: str) -> bool:
    """Whether text can be written: file names and arguments, which may be any bytes, hold half surrogate pairs."""
    return text.isascii() or not any("\ud800" <= one <= "\udfff" for one in text)
