"""How do many files get into a pull request, in commits that the Hub takes and in little memory?"""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

from huggingface_hub import CommitOperationAdd, CommitOperationDelete, RepoFile
from tqdm import tqdm

from hub_cards.errors import Failed
from hub_cards.fingerprints import Content, Fingerprint, same
from hub_cards.repository import Repository

BATCH_FILES = 50
"""The Hub asks for 50 to 100 files in a commit at most, and ends one that takes longer than a minute."""
BATCH_BYTES = 20 * 10**9
XET_LIMITS = {
    "HF_XET_CLIENT_AC_INITIAL_UPLOAD_CONCURRENCY": "4",
    "HF_XET_CLIENT_AC_MAX_UPLOAD_CONCURRENCY": "4",
    "HF_XET_DATA_MAX_CONCURRENT_FILE_INGESTION": "2",
}
"""Each upload and each file being read holds pieces of 64 MB; by itself the Xet client has up to 64 uploads."""


def upload(
    repository: Repository,
    revision: str,
    files: Mapping[str, Content],
    prints: Mapping[str, Fingerprint],
    *,
    stale: Callable[[Mapping[str, RepoFile]], Sequence[str]],
) -> bool:
    """Commit what a revision lacks, batch by batch, and remove what is stale.

    Args:
        repository: Where.
        revision: `refs/pr/N`.
        files: Path to content.
        prints: Of the files.
        stale: Which files of a tree are to be removed.

    Returns:
        Whether it lacked anything.

    Raises:
        Refused: The token does not allow it.
        Failed: It did not get through, or a file changed meanwhile.
    """
    if "HF_XET_HIGH_PERFORMANCE" not in os.environ:  # by which the user says that memory does not matter
        for setting, value in XET_LIMITS.items():
            os.environ.setdefault(setting, value)

    def send() -> tuple[list[str], list[str]]:
        """Commit one batch of what is missing; with the last, remove what is stale. Returns both, from before."""
        # A fresh look at each attempt: a commit whose answer was lost may have gone through.
        tree = repository.files_once(revision)
        missing = [path for path, mine in prints.items() if not same(mine, tree.get(path))]
        left_over = list(stale(tree))
        batch = list(_batch(missing, prints))
        operations: list[Any] = [_addition(path, files[path], prints[path]) for path in batch]
        if len(batch) == len(missing):
            operations += [CommitOperationDelete(path_in_repo=path) for path in left_over]
        if operations:
            repository.api.create_commit(
                repository.id,
                operations,
                commit_message=f"vtrap: {len(batch)} files, {len(operations) - len(batch)} removed",
                repo_type=repository.type,
                revision=revision,
            )
        return missing, left_over

    before = None
    total = sum(f.size for f in prints.values())
    with tqdm(total=total, unit="B", unit_scale=True, desc="upload", file=sys.stderr, disable=None) as bar:
        while True:
            missing, left_over = repository.retry(send, "upload")
            bar.update(max(0, total - sum(prints[path].size for path in missing) - bar.n))
            if not missing and not left_over:
                return before is not None
            if (missing, left_over) == before:
                raise Failed(
                    f"{(missing or left_over)[0]} on the Hub stays other than here: did the file change during the "
                    "upload? Run the same command again"
                )
            before = (missing, left_over)


def _addition(path: str, content: Content, print_: Fingerprint) -> CommitOperationAdd:
    operation = CommitOperationAdd(path_in_repo=path, path_or_fileobj=content)
    operation.upload_info.sha256 = bytes.fromhex(print_.sha256)  # or the client reads the file again
    return operation


def _batch(paths: Sequence[str], prints: Mapping[str, Fingerprint]) -> Iterator[str]:
    size = 0
    for number, path in enumerate(paths):
        size += prints[path].size
        if number and (number >= BATCH_FILES or size > BATCH_BYTES):
            return
        yield path
