"""Is a file here the same as the one on the Hub?"""

from __future__ import annotations

import hashlib
import json
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import NamedTuple

from huggingface_hub import RepoFile
from tqdm import tqdm

Content = Path | bytes
REGULAR_BYTES = 10 * 2**20
"""Larger files are never stored as plain git blobs, so their git hash is not needed."""


class Fingerprint(NamedTuple):
    """What identifies a file on either side. `git` is None for files that are too large to be plain git blobs."""

    size: int
    sha256: str
    git: str | None


def fingerprints(files: Mapping[str, Content]) -> dict[str, Fingerprint]:
    """Size and hashes of each file, sorted by path."""
    total = sum(f.stat().st_size for f in files.values() if isinstance(f, Path))
    found = {}
    with tqdm(total=total, unit="B", unit_scale=True, desc="hash", file=sys.stderr, disable=None) as bar:
        for path in sorted(files):
            content = files[path]
            size = content.stat().st_size if isinstance(content, Path) else len(content)
            sha256 = hashlib.sha256()
            git = hashlib.sha1(b"blob %d\0" % size, usedforsecurity=False) if size <= REGULAR_BYTES else None
            for part in _parts(content):
                sha256.update(part)
                if git is not None:
                    git.update(part)
                bar.update(len(part))
            found[path] = Fingerprint(size, sha256.hexdigest(), git.hexdigest() if git is not None else None)
    return found


def content_hash(prints: Mapping[str, Fingerprint]) -> str:
    """Hex digest of all paths and contents."""
    return hashlib.sha256(json.dumps([[path, f.sha256] for path, f in prints.items()]).encode()).hexdigest()


def same(mine: Fingerprint, theirs: RepoFile | None) -> bool:
    """Whether the file on the Hub, if there is one, has this content."""
    if theirs is None or theirs.size != mine.size:
        return False
    return theirs.lfs.sha256 == mine.sha256 if theirs.lfs is not None else theirs.blob_id == mine.git


def _parts(content: Content) -> Iterator[bytes]:
    if isinstance(content, bytes):
        yield content
        return
    with content.open("rb") as file:
        while part := file.read(2**20):
            yield part
