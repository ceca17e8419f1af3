"""How is a corpus read at random from an address, without downloading it first: http, the Hub, a bucket?

Its index and manifest are small and come at once. A shard comes whole when the first sample of it is asked for, is
checked against the manifest, lies on the disk while it is in use and makes room for later ones. With an order that
stays inside a few shards at a time (`order.stream_rows`) every shard is fetched once an epoch by a machine, whatever
the number of processes, and any position of any epoch can be gone on from at once.
"""

from __future__ import annotations

import fcntl
import hashlib
import os
import re
import shutil
import socket
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

from hub_cards.errors import one_line, redact
from hub_cards.reachable import unreachable
from vtrap_data.errors import UnreachableError, UsageError, storage_full
from vtrap_data.files import sha256_file, sync_directory, write_bytes
from vtrap_data.shards.manifest import DATA, INDEX, MANIFEST, Manifest, parse_manifest

PATIENCE = 600.0
"""Seconds for which a shard that does not come is asked for again. Below the half hour after which ranks that wait for
each other give up."""
FIRST_PATIENCE = 60.0
"""Seconds for the files that a corpus begins with: fewer, because the address may be wrong."""
NOBODY_PATIENCE = 8.0
"""Seconds for them where there is no such host, or nothing on it listens."""

Result = TypeVar("Result")


class _OtherError(OSError):
    """A shard came whole and is another one: asking again does not help."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Remote:
    """A corpus at an address. Picklable; safe to use from many processes of a machine at once.

    Attributes:
        address: Without a slash at its end.
        root: The local folder with its manifest, its index and the shards in use.
        manifest: What it says about itself.
        keep: How many shards may lie in the folder.
    """

    address: str
    root: Path
    manifest: Manifest
    keep: int

    def fetch(self, shard: str) -> None:
        """Make `root / shard` exist, and note that it is in use.

        Raises:
            UnreachableError: It could not be fetched within `PATIENCE`, is not what the manifest says, or there is no
                room for it.
        """
        path = self.root / shard
        path.parent.mkdir(parents=True, exist_ok=True)
        # Many processes want the same shard at the same time: one fetches it. A lock goes away with its process.
        with path.with_name(f".{path.name}.lock").open("w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            try:
                os.utime(path)
            except FileNotFoundError:
                _persist(lambda: self._download(shard, path), what=f"{redact(self.address)}/{shard}")
                self._make_room()

    def _download(self, shard: str, path: Path) -> None:
        temporary = path.with_name(f".{path.name}.part")  # of whoever holds the lock: a crash leaves one, not many
        expected = next((s for s in self.manifest.shards if s.path == shard), None)
        if expected is None:
            raise _OtherError(f"its {INDEX} names a shard that its {MANIFEST} does not")
        _get(f"{self.address}/{shard}", temporary)
        if (size := temporary.stat().st_size) != expected.bytes:
            raise OSError(f"{size} bytes came of {expected.bytes}")
        if sha256_file(temporary) != expected.sha256:
            raise _OtherError(f"what came is not the shard that {MANIFEST} names: damaged there, or packed anew")
        with temporary.open("rb") as file:
            os.fsync(file.fileno())
        temporary.replace(path)
        sync_directory(path.parent)

    def _make_room(self) -> None:
        """Delete what was used longest ago. Whoever has it open goes on reading."""
        found = []
        for path in (self.root / DATA).glob("*.tar"):  # not all shards of the manifest, each time one of them comes
            with suppress(FileNotFoundError):
                found.append((path.stat().st_mtime_ns, path))
        for _, path in sorted(found)[: -self.keep]:
            path.unlink(missing_ok=True)


def open_remote(address: str, *, cache: Path, keep: int) -> Remote:
    """Fetch the manifest and the index of a corpus.

    Args:
        address: One that fsspec knows: `https://...`, `hf://datasets/owner/name[@revision]`, `s3://...`.
        cache: Folder for the index and the shards in use. Corpora lie apart in it, by the hash of their index.
        keep: How many shards of the corpus may lie there.

    Raises:
        UsageError: `keep` is below 1, no packed corpus is there, or it could not be reached within `FIRST_PATIENCE`.
        OSError: `cache` cannot be written.
    """
    if keep < 1:  # the shard that was fetched must lie somewhere
        raise UsageError(f"keep is {keep}; it must be 1 or more shards")
    address = address.rstrip("/")
    said = read_small(f"{address}/{MANIFEST}")
    manifest = parse_manifest(said, where=f"{redact(address)}/{MANIFEST}")
    root = cache / manifest.index_sha256[:32]
    if not (root / MANIFEST).is_file():
        index = read_small(f"{address}/{INDEX}")
        if hashlib.sha256(index).hexdigest() != manifest.index_sha256:
            raise UsageError(f"{redact(address)}/{INDEX} is not the one that its {MANIFEST} names: run `doctor` on it")
        write_bytes(root / INDEX, index)
    write_bytes(root / MANIFEST, said)  # of equal indices, but maybe not of equal settings: the one there counts
    return Remote(address=address, root=root, manifest=manifest, keep=keep)


def read_small(url: str, options: Mapping[str, Any] | None = None) -> bytes:
    """One of the files that a corpus begins with, asked for again while that may help.

    Args:
        url: Of the file, or its path.
        options: For the file system of fsspec.

    Raises:
        UsageError: It is not there, or could not be had within `FIRST_PATIENCE`, or within `NOBODY_PATIENCE` where
            nobody answers.
    """
    import fsspec  # type: ignore[import-untyped]

    try:
        system, name = fsspec.core.url_to_fs(url, **(options or {}))  # an address that is none is no reason to wait
        if url.startswith("hf://") and (away := unreachable()) is not None:
            raise ConnectionError(away)
        read: Callable[[], bytes] = partial(system.cat_file, name)
        return _persist(read, what=url, patience=min(PATIENCE, FIRST_PATIENCE), nobody=NOBODY_PATIENCE)
    except Exception as error:  # every file system raises errors of its own
        cause = error.__cause__ if isinstance(error, UnreachableError) else error
        raise UsageError(
            f"{redact(url)} cannot be read ({_told(cause or error)}): is a packed corpus there, and may you read it?"
        ) from cause


def _get(url: str, path: Path) -> None:
    import fsspec

    # Anew each time: connections do not survive a fork, and fsspec keeps those of this process.
    system, name = fsspec.core.url_to_fs(url)
    if "local" in getattr(system, "protocol", ()):
        shutil.copyfile(name, path)
    else:
        system.get_file(name, str(path))


def _persist(
    get: Callable[[], Result], *, what: str, patience: float | None = None, nobody: float | None = None
) -> Result:
    """Call again what fails, less and less often, until it is hopeless or the patience (`PATIENCE`) is at its end.

    `nobody`: the patience with an address where nobody answers.
    """
    patience = PATIENCE if patience is None else patience
    began, wait = time.monotonic(), 1.0
    while True:
        try:
            return get()
        except Exception as error:  # every file system raises errors of its own
            most = patience if nobody is None or not _nobody_there(error) else min(patience, nobody)
            if _hopeless(error) or time.monotonic() - began + wait > most:
                raise UnreachableError(f"{what} could not be fetched ({_told(error)})") from error
        time.sleep(wait)
        wait = min(2 * wait, 60.0)


def _hopeless(error: Exception) -> bool:
    response = getattr(error, "response", None)
    status: Any = getattr(error, "status", getattr(response, "status_code", None))
    return (
        storage_full(error)
        or status in (401, 403, 404)
        or isinstance(error, (FileNotFoundError, PermissionError, ImportError, _OtherError))
        or type(error).__name__ == "NoCredentialsError"  # of botocore, which need not be there
    )


def _nobody_there(error: BaseException | None) -> bool:
    """Whether there is no such host, or nothing on it listens: rather a wrong address than a fault that passes."""
    while error is not None:
        if isinstance(error, (socket.gaierror, ConnectionRefusedError)):
            return True
        if re.search("connect.*timeout", type(error).__name__, re.IGNORECASE):  # of aiohttp, httpx, botocore
            return True
        error = error.__cause__ or error.__context__
    return False


def _told(error: BaseException) -> str:
    return f"{type(error).__name__}: {one_line(error)}"
