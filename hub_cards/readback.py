"""What does a stranger get from the Hub? Loads a publication with stock clients and prints what came, as JSON.

    python -m hub_cards.readback dataset DIR_OR_ID [REVISION]           every row of every split
    python -m hub_cards.readback records PATH DIR_OR_ID [REVISION]      the rows of one JSON Lines file
    python -m hub_cards.readback files TYPE PATH,PATH ID REVISION       the bytes of files

Run in a process of its own with empty caches. Prints {"error": ...} when it cannot be loaded.
"""

from __future__ import annotations

import hashlib
import json
import sys
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from tqdm import tqdm


def dataset(where: str, revision: str | None = None) -> dict[str, Any]:
    """Rows, items, pictures and a hash over all of it, per split, as `load_dataset` streams them.

    Args:
        where: A folder, or `owner/name`.
        revision: Of the repository.
    """
    from datasets import load_dataset

    found: dict[str, Any] = {}
    splits = load_dataset(where, revision=revision, streaming=True)
    for split, rows in splits.items():
        first = next(iter(rows))
        picture = next(iter([*(first["frames.mp"] or []), *(first["images.mp"] or [])]), None)
        facts: dict[str, Any] = {"rows": 0, "items": 0, "pictures": 0}
        digest = hashlib.sha256()
        for row in tqdm(rows.decode(False), desc=f"{split}, read back", unit=" rows", file=sys.stderr, disable=None):
            pictures = [_bytes(p) for name in ("frames.mp", "images.mp") for p in row[name] or []]
            facts["rows"] += 1
            facts["items"] += len(row["json"]["items"])
            facts["pictures"] += len(pictures)
            hashes = [hashlib.sha256(data).hexdigest() for data in pictures]
            digest.update(json.dumps([row["__key__"], row["json"], hashes], sort_keys=True).encode())
        found[split] = {**facts, "first": getattr(picture, "size", None), "sha256": digest.hexdigest()}
    return json.loads(json.dumps({"splits": found}))  # type: ignore[no-any-return]


def records(path: str, where: str, revision: str | None = None) -> dict[str, Any]:
    """Count of the rows of one JSON Lines file, and a hash over answers and hash chain."""
    from datasets import load_dataset

    return count_records(
        load_dataset(where, revision=revision, data_files={"train": path}, split="train", streaming=True)
    )


def count_records(rows: Iterable[Mapping[str, Any]]) -> dict[str, Any]:
    """What `records` prints, of records from anywhere."""
    digest, count = hashlib.sha256(), 0
    for row in rows:
        digest.update(json.dumps([row["key"], row["response"], row["correct"], row["chain"]]).encode())
        count += 1
    return {"rows": count, "sha256": digest.hexdigest()}


def files(repo_type: str, paths: str, repo_id: str, revision: str) -> dict[str, Any]:
    """Hashes of downloaded files."""
    from huggingface_hub import hf_hub_download

    found = {}
    for path in paths.split(","):
        local = hf_hub_download(repo_id, path, repo_type=repo_type, revision=revision)
        found[path] = file_sha256(Path(local))
    return {"files": found}


def file_sha256(path: Path) -> str:
    """Hash of a file, read in pieces."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def answer(reader: Any, words: Sequence[str]) -> int:
    """Call a reader and print what it found, or the error, on the last line of stdout. Returns the exit code."""
    try:
        found = reader(*words)
    except Exception as error:
        found = {"error": f"{type(error).__name__}: {' '.join(str(error).split())[:300]}"}
    print(json.dumps(found), flush=True)
    return 1 if "error" in found else 0


def _bytes(picture: Any) -> bytes:
    data: bytes = picture["bytes"]
    return data


READERS = {"dataset": dataset, "records": records, "files": files}


def main(words: Sequence[str]) -> int:
    """Run one reader. Returns the exit code."""
    return answer(READERS[words[0]], words[1:])


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
