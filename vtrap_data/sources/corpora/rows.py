"""What rows do these files hold? JSON arrays, JSONL and parquet, read a few rows at a time."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any

from vtrap_data.errors import UsageError
from vtrap_data.parsing import parse_json
from vtrap_data.sources.corpora.table import NamedCorpus, Subset

Row = Mapping[str, Any]

_CHUNK = 1 << 22


def find_files(corpus: NamedCorpus, subset: Subset, *, source: str, revision: str | None) -> list[Path]:
    """The annotation files of a subset, sorted, in a folder or out of the Hub's cache.

    A folder may be a copy of the whole data set or hold the files of one subset alone.

    Raises:
        UsageError: There are none, or the Hub's have no pinned revision.
    """
    folder = Path(source)
    if not folder.is_dir():
        folder = _download(corpus, subset, source, revision)
    # Compared as names, not as globs of the file system: names of subsets hold brackets and dots.
    paths = sorted(path for path in folder.rglob("*") if path.is_file())
    below = [(path, path.relative_to(folder).as_posix()) for path in paths]
    found = [path for path, name in below if any(_matches(name, glob) for glob in subset.files)]
    found = found or [p for p, name in below if any(_matches(name, glob.rpartition("/")[2]) for glob in subset.files)]
    if not found:
        raise UsageError(f"--rows {source}: no {' or '.join(subset.files)} below it ({corpus.name}, {subset.name})")
    return found


def _matches(name: str, glob: str) -> bool:
    return name.count("/") == glob.count("/") and fnmatchcase(name, glob.replace("[", "[[]"))


def read_rows(path: Path) -> Iterator[Any]:
    """The rows of one file.

    Raises:
        UsageError: It cannot be read to its end.
    """
    try:
        yield from _READERS[path.suffix](path)
    except (OSError, ValueError, KeyError) as error:
        raise UsageError(f"{path} cannot be read: {error}") from error


def _jsonl(path: Path) -> Iterator[Any]:
    with path.open(encoding="utf-8-sig") as file:
        for line in file:
            if line.strip():
                yield parse_json(line)


def _json(path: Path) -> Iterator[Any]:
    """The entries of one array, without ever holding all of it: such files have gigabytes."""
    decoder = json.JSONDecoder()
    with path.open(encoding="utf-8-sig") as file:
        text, at = file.read(_CHUNK).lstrip(), 1
        if not text.startswith("["):
            raise ValueError("it holds no array of rows")
        while True:
            while at < len(text) and text[at] in " \t\r\n,":
                at += 1
            if at < len(text) and text[at] == "]":
                return
            try:
                row, end = decoder.raw_decode(text, at)
                if end == len(text):  # a number may go on in the next piece
                    raise ValueError("cut")
            except RecursionError:
                raise ValueError("it is nested too deeply") from None
            except ValueError:
                more = file.read(max(_CHUNK, len(text) - at))  # at least as much again: linear in the longest row
                if not more:
                    raise
                text, at = text[at:] + more, 0
                continue
            yield row
            at = end


def _parquet(path: Path) -> Iterator[Any]:
    import pyarrow.parquet as pq

    with pq.ParquetFile(path) as file:
        for batch in file.iter_batches(batch_size=64):
            yield from batch.to_pylist()


_READERS = {".jsonl": _jsonl, ".json": _json, ".parquet": _parquet}


def _download(corpus: NamedCorpus, subset: Subset, source: str, revision: str | None) -> Path:
    from hub_cards.errors import Failed
    from hub_cards.reachable import snapshot

    if Path(source).exists():
        raise UsageError(f"--rows {source} is a file: give the folder that holds it")
    if source.count("/") != 1 or source.startswith((".", "/")):
        raise UsageError(f"--rows {source}: no such folder, nor an id on the Hub ({', '.join(corpus.ids)})")
    pinned = revision or corpus.pinned(source)
    if pinned is None:
        raise UsageError(
            f"--rows {source}: no commit of it is known here, and without one its rows may be others tomorrow: "
            "give --revision, a commit of it"
        )
    patterns = [glob.replace("[", "[[]") for glob in subset.files]
    try:
        return snapshot(source, repo_type="dataset", revision=pinned, patterns=patterns)
    except Failed as error:
        raise UsageError(f"--rows {source}, revision {pinned}: {error}") from error
