"""How does something get onto the Hub so that no reader ever sees half of it?

    validate the card -> upload to a pull request -> load that back with stock clients -> merge -> tag

Only the merge touches the default branch, and it is one commit. A publication under a revision of its own (an
intermediate checkpoint) leaves that branch alone: its pull request is tagged and closed. Where a publication stands is
read from the Hub (an open pull request of ours with a title made from the content and from the commit it is based on),
so that the same call goes on after a kill at any point, from any machine, and does nothing once everything is there.
"""

from __future__ import annotations

import fnmatch
import hashlib
import json
import os
import re
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, NamedTuple, TypeVar

import huggingface_hub
from huggingface_hub import (
    CommitOperationAdd,
    CommitOperationDelete,
    DatasetCard,
    HfApi,
    ModelCard,
    RepoCard,
    RepoFile,
    SpaceCard,
)
from huggingface_hub.errors import (
    EntryNotFoundError,
    GatedRepoError,
    HfHubHTTPError,
    LocalTokenNotFoundError,
    OfflineModeIsEnabled,
    RepositoryNotFoundError,
)
from huggingface_hub.utils.tqdm import disable_progress_bars
from tqdm import tqdm

from hub_cards.model_card import HUB_ID

T = TypeVar("T")
RepoType = Literal["dataset", "model", "space"]
Content = Path | bytes

TITLE = "vtrap publish"
GIT_FILE = ".gitattributes"
"""The Hub puts it into every repository and keeps it right by itself."""
STARTERS = frozenset({"index.html", "style.css"})
"""What a new static Space holds."""
ATTEMPTS = 6
LONGEST_PAUSE = 60.0
BATCH_FILES = 50
"""The Hub asks for 50 to 100 files in a commit at most, and ends one that takes longer than a minute."""
BATCH_BYTES = 20 * 10**9
REGULAR_BYTES = 10 * 2**20
"""Larger files are never stored as plain git blobs, so their git hash is not needed."""
XET_LIMITS = {
    "HF_XET_CLIENT_AC_INITIAL_UPLOAD_CONCURRENCY": "4",
    "HF_XET_CLIENT_AC_MAX_UPLOAD_CONCURRENCY": "4",
    "HF_XET_DATA_MAX_CONCURRENT_FILE_INGESTION": "2",
}
"""Each upload and each file being read holds pieces of 64 MB; by itself the Xet client has up to 64 uploads."""
_CARDS: dict[RepoType, type[RepoCard]] = {"dataset": DatasetCard, "model": ModelCard, "space": SpaceCard}
_TRANSIENT = frozenset({408, 425, 429, 500, 502, 503, 504})


class Refused(ValueError):
    """The caller has to change something: the token, the name, the content."""


class Failed(RuntimeError):
    """It did not work this time: the network, another writer, or something came back other than it was sent."""


class Moved(Failed):
    """The default branch moved meanwhile, and nothing was merged."""


class Fingerprint(NamedTuple):
    """What identifies a file on either side. `git` is None for files that are too large to be plain git blobs."""

    size: int
    sha256: str
    git: str | None


class ReadBack(NamedTuple):
    """How to load what was published: `python -m MODULE ARGUMENTS... WHERE [REVISION]`.

    It prints a JSON object, in which entries under "files" (path to sha256) are compared with what was sent. The rest
    must equal `expected`, or what the same command prints for the folder `local`.
    """

    module: str
    arguments: tuple[str, ...]
    local: Path | None = None
    expected: Mapping[str, Any] | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Publication:
    """What is to be on the Hub.

    Attributes:
        repo_id: `owner/name`.
        repo_type: "dataset", "model" or "space" (a static one).
        files: Path in the repository to a local file or bytes.
        owned: Glob patterns of files that belong to us: those on the Hub that are not in `files` are removed.
        marker: A file by which a repository of ours is known; one that holds other things is not touched.
        read_back: How to load it back.
        tag: Name for the result. None: made from the content. "": none.
        aside: The tag is all that shows it; the default branch stays as it is. `files` are then all files there are.
        private: Whether a repository that is made is private.
        merge: Merge and tag. Otherwise the pull request stays open for the owner of the repository to decide.
        title: Of that open pull request; a later call adds to it.
    """

    repo_id: str
    repo_type: RepoType
    files: Mapping[str, Content]
    read_back: ReadBack
    owned: tuple[str, ...] = ()
    marker: str | None = None
    tag: str | None = None
    aside: bool = False
    private: bool = False
    merge: bool = True
    title: str | None = None


class Published(NamedTuple):
    """The outcome: the commit that holds it, the tag, the address to look at, and whether anything was changed."""

    commit: str
    tag: str | None
    url: str
    changed: bool


class Account(NamedTuple):
    """Who the token belongs to."""

    name: str
    organisations: frozenset[str]
    role: str


def publish(publication: Publication, *, say: Callable[[str], None] | None = None, pause: float = 1.0) -> Published:
    """Publish, or go on with it, or find that it is done.

    Args:
        publication: What.
        say: Told each step in a line. None: stderr.
        pause: Seconds before the first retry of a failed request; doubled each time.

    Raises:
        Refused: The token, the name or the content does not allow it. Nothing on the default branch has changed.
        Failed: Requests kept failing, the default branch moved meanwhile, or what came back is not what was sent. The
            same call goes on.
    """
    if not HUB_ID.fullmatch(publication.repo_id):
        raise Refused(f"{publication.repo_id!r} must be owner/name, such as vtrap/video-sft-hybrid")
    if not publication.files:
        raise Refused("there is nothing to publish")
    if not sys.stderr.isatty():
        disable_progress_bars()
    if "HF_XET_HIGH_PERFORMANCE" not in os.environ:  # by which the user says that memory does not matter
        for setting, value in XET_LIMITS.items():
            os.environ.setdefault(setting, value)
    return _Publisher(publication, say=say or _to_stderr, pause=pause).run()


def account(*, pause: float = 1.0) -> Account:
    """Who is logged in.

    Raises:
        Refused: Nobody, or the token is not valid.
        Failed: The Hub does not answer.
    """
    return _account(HfApi(), pause=pause)


def may_write(who: Account, repo_id: str, *, member: bool = True) -> None:
    """Check what can be known before anything is sent. `member`: more than to propose something.

    Raises:
        Refused: The token only reads, or the account has no part in that owner.
    """
    owner = repo_id.split("/")[0]
    if who.role == "read":
        raise Refused(
            f"the token of {who.name} can only read: make one that may write to {owner} in the Hub's settings, then "
            "`hf auth login` or HF_TOKEN"
        )
    if member and owner != who.name and owner not in who.organisations:
        others = ", ".join(sorted(who.organisations)) or "none"
        raise Refused(
            f"{who.name} is no member of {owner} on the Hub (organisations: {others}): choose another owner, or ask "
            "for membership; if it does not exist, make it on the Hub first"
        )


def read_text(repo_id: str, path: str, *, repo_type: RepoType, revision: str, pause: float = 1.0) -> str | None:
    """A small text file of a repository; None when it is not there.

    Raises:
        Refused: The repository does not exist or may not be read.
        Failed: The Hub does not answer.
    """

    def load() -> str | None:
        with tempfile.TemporaryDirectory(prefix="vtrap-hub-") as cache:
            try:
                found = huggingface_hub.hf_hub_download(
                    repo_id, path, repo_type=repo_type, revision=revision, cache_dir=cache
                )
            except EntryNotFoundError:
                return None
            return Path(found).read_text(encoding="utf-8")

    return _retrying(load, f"read {path} of {repo_id}", pause=pause, repo_id=repo_id)


def download(repo_id: str, folder: Path, *, repo_type: RepoType, pause: float = 1.0) -> None:
    """Download the default branch of a repository into a folder.

    Raises:
        Refused: The repository does not exist or may not be read.
        Failed: The Hub does not answer.
    """

    def load() -> None:
        huggingface_hub.snapshot_download(repo_id, repo_type=repo_type, local_dir=folder)

    _retrying(load, f"download {repo_id}", pause=pause, repo_id=repo_id)


def large_files(repo_id: str, *, repo_type: RepoType, pause: float = 1.0) -> dict[str, str]:
    """Path to sha256 of the large files on the default branch.

    Raises:
        Refused: The repository does not exist or may not be read.
        Failed: The Hub does not answer.
    """

    def ask() -> dict[str, str]:
        listed = HfApi().list_repo_tree(repo_id, repo_type=repo_type, recursive=True)
        return {f.path: f.lfs.sha256 for f in listed if isinstance(f, RepoFile) and f.lfs is not None}

    return _retrying(ask, f"list the files of {repo_id}", pause=pause, repo_id=repo_id)


def open_proposal(repo_id: str, title: str, *, repo_type: RepoType, author: str, pause: float = 1.0) -> int | None:
    """Number of an open pull request of ours with that title.

    Raises:
        Refused: The repository does not exist or may not be read.
        Failed: The Hub does not answer.
    """

    def find() -> int | None:
        found = _pulls(HfApi(), repo_id, repo_type, author)
        return min((number for number, name in found if name == title), default=None)

    return _retrying(find, f"list the pull requests of {repo_id}", pause=pause, repo_id=repo_id)


class _Publisher:
    """One publication on its way."""

    def __init__(self, publication: Publication, *, say: Callable[[str], None], pause: float) -> None:
        self.publication = publication
        self.repo_id: str = publication.repo_id
        self.repo_type: RepoType = publication.repo_type
        self.api = HfApi()
        self.say = say
        self.pause = pause

    def run(self) -> Published:
        wanted = self.publication
        self.account = _account(self.api, pause=self.pause)
        may_write(self.account, self.repo_id, member=self.publication.merge)
        self._validate_card()
        self.prints = fingerprints(wanted.files)
        self.content = _content_hash(self.prints)[:12]
        name = f"vtrap-{self.content}" if wanted.tag is None else wanted.tag
        self.tag = name if name and wanted.merge else None
        self._prepare_repository()
        if wanted.aside:
            return self._set_aside()
        base, tree = self._head(), self._tree("main")
        self._check_marker(tree)
        self._check_tag()
        if self._done(tree):
            self.say(f"{self.repo_id} already holds all {len(self.prints)} files")
            self._close_others(None)
            self._put_tag(base)
            return Published(commit=base, tag=self.tag, url=self._url(), changed=False)
        title = wanted.title or f"{TITLE} {self.content} on {base[:12]}"
        number, commit, changed = self._propose(title)
        self._publish_draft(number)
        if not wanted.merge:
            return Published(commit=commit, tag=None, url=f"{self._url()}/discussions/{number}", changed=changed)
        merged = self._merge(number, base=base, commit=commit)
        self._put_tag(merged)
        return Published(commit=merged, tag=self.tag, url=self._url(), changed=True)

    def _set_aside(self) -> Published:
        """Publish under a tag alone: whoever asks for the tag finds nothing, or all of it."""
        assert self.tag is not None, "what is set aside needs a tag"
        self._check_marker(self._tree("main"))
        self._check_tag()
        commit = self._tags().get(self.tag)
        if changed := commit is None:
            _, commit, _ = self._propose(f"{TITLE} {self.tag} {self.content}")
            self._put_tag(commit)
        else:
            self.say(f"{self.repo_id} already holds {self.tag}")
        self._close_others(None)
        return Published(commit=str(commit), tag=self.tag, url=f"{self._url()}/tree/{self.tag}", changed=changed)

    def _propose(self, title: str) -> tuple[int, str, bool]:
        """A pull request that holds everything and was loaded back: number, commit, whether anything was new."""
        expected = self._read_local()
        if self.publication.merge:
            self._close_others(title)
        number, created = self._pull_request(title)
        revision = f"refs/pr/{number}"
        sent = self._upload(revision)
        commit = self._resolve(revision)
        if self.publication.merge or sent or created:
            self._load_back(commit, expected)
        return number, commit, sent or created

    # -- before anything is sent

    def _validate_card(self) -> None:
        card = self.publication.files.get("README.md")
        if card is None:
            return
        text = card.read_text(encoding="utf-8") if isinstance(card, Path) else card.decode()
        make = _CARDS[self.repo_type]

        def validate() -> None:
            try:
                make(text).validate(repo_type=self.repo_type)
            except ValueError as error:
                raise Refused(f"the Hub does not take the card: {_line(error)}") from error

        self._retry(validate, "validate the card")

    def _prepare_repository(self) -> None:
        def prepare() -> None:
            if self.api.repo_exists(self.repo_id, repo_type=self.repo_type):
                return
            if not self.publication.merge:
                raise Refused(f"{self.repo_type} {self.repo_id} does not exist on the Hub: publish it first")
            self.say(f"making {self.repo_type} {self.repo_id}")
            self.api.create_repo(
                self.repo_id,
                repo_type=self.repo_type,
                private=self.publication.private,
                exist_ok=True,
                space_sdk="static" if self.repo_type == "space" else None,
            )

        self._retry(prepare, f"make {self.repo_id}")

    def _check_marker(self, tree: Mapping[str, RepoFile]) -> None:
        marker = self.publication.marker
        others = [path for path in tree if path not in (GIT_FILE, "README.md")]
        if self.publication.merge and marker is not None and others and marker not in tree and not self._new(others):
            raise Refused(
                f"the name {self.repo_id} is taken: the repository holds {others[0]} and no {marker}, so vtrap did "
                "not make it; choose another name"
            )

    def _new(self, paths: Sequence[str]) -> bool:
        """Whether a Space holds nothing but what the Hub puts into a new one."""
        if self.repo_type != "space" or not set(paths) <= STARTERS:
            return False
        history = self._retry(
            lambda: self.api.list_repo_commits(self.repo_id, repo_type=self.repo_type), "read the history"
        )
        return len(history) == 1

    def _check_tag(self) -> None:
        if self.tag is None or self.tag != self.publication.tag:
            return
        commit = self._tags().get(self.tag)
        if commit is not None and not self._done(self._tree(commit)):
            remedy = "publish to another repository" if self.publication.aside else "choose another --tag"
            raise Refused(f"tag {self.tag} of {self.repo_id} stands for other content: {remedy}, or remove the tag")

    # -- the pull request

    def _pull_request(self, title: str) -> tuple[int, bool]:
        made = False

        def find_or_make() -> int:
            # Looked for again at each attempt: the answer to a request that made one may have been lost.
            nonlocal made
            pulls = _pulls(self.api, self.repo_id, self.repo_type, self.account.name)
            found = [number for number, name in pulls if name == title]
            if found:
                return min(found)
            made = True
            return self.api.create_pull_request(
                self.repo_id, title, repo_type=self.repo_type, description=_DESCRIPTION
            ).num

        number = self._retry(find_or_make, "open a pull request")
        self.say(f"{'opened' if made else 'going on with'} pull request {number} of {self.repo_id}")
        return number, made

    def _close_others(self, title: str | None) -> None:
        """Close what earlier calls left open: other content, or based on a commit that is no longer the head."""
        if not self.publication.merge:
            return
        # Only those that were to go where this one goes: an interrupted checkpoint waits for its own turn.
        ours = re.escape(str(self.tag)) + " [0-9a-f]{12}" if self.publication.aside else "[0-9a-f]{12} on [0-9a-f]{12}"

        def close() -> None:
            for number, name in _pulls(self.api, self.repo_id, self.repo_type, self.account.name):
                if re.fullmatch(f"{TITLE} {ours}", name) and name != title:
                    self.say(f"closing pull request {number}, which is no longer needed")
                    self.api.change_discussion_status(self.repo_id, number, "closed", repo_type=self.repo_type)

        self._retry(close, "close earlier pull requests")

    def _upload(self, revision: str) -> bool:
        """Commit what the pull request lacks, batch by batch. Returns whether it lacked anything."""
        before = None
        total = sum(f.size for f in self.prints.values())
        with tqdm(total=total, unit="B", unit_scale=True, desc="upload", file=sys.stderr, disable=None) as bar:
            while True:
                # A fresh look at each attempt: a commit whose answer was lost may have gone through.
                missing, stale = self._retry(lambda: self._send(revision), "upload")
                left = sum(self.prints[path].size for path in missing)
                bar.update(max(0, total - left - bar.n))
                if not missing and not stale:
                    return before is not None
                if (missing, stale) == before:
                    raise Failed(
                        f"{missing[0] if missing else stale[0]} on the Hub stays other than here: did the file change "
                        "during the upload? Run the same command again"
                    )
                before = (missing, stale)

    def _send(self, revision: str) -> tuple[list[str], list[str]]:
        """Commit one batch of what is missing; with the last, remove what is stale. Returns both, from before."""
        tree = self._tree_once(revision)
        missing = [path for path, mine in self.prints.items() if not _same(mine, tree.get(path))]
        stale = self._stale(tree)
        batch = list(_batch(missing, self.prints))
        operations: list[Any] = [self._addition(path) for path in batch]
        if len(batch) == len(missing):
            operations += [CommitOperationDelete(path_in_repo=path) for path in stale]
        if operations:
            self.api.create_commit(
                self.repo_id,
                operations,
                commit_message=f"vtrap: {len(batch)} files, {len(operations) - len(batch)} removed",
                repo_type=self.repo_type,
                revision=revision,
            )
        return missing, stale

    def _addition(self, path: str) -> CommitOperationAdd:
        operation = CommitOperationAdd(path_in_repo=path, path_or_fileobj=self.publication.files[path])
        operation.upload_info.sha256 = bytes.fromhex(self.prints[path].sha256)  # or the client reads the file again
        return operation

    def _read_local(self) -> dict[str, Any]:
        """What loading it back has to give. Found out first: what cannot be loaded here need not be sent."""
        back = self.publication.read_back
        if back.local is None:
            return dict(back.expected or {})
        found = self._retry(lambda: self._run_reader(back, str(Path(str(back.local)).resolve()), None), "read it here")
        found.pop("files", None)
        return found

    def _load_back(self, commit: str, expected: Mapping[str, Any]) -> None:
        self.say(f"loading {commit[:12]} back with stock clients")
        back = self.publication.read_back
        found = self._retry(lambda: self._run_reader(back, self.repo_id, commit), "load it back")
        files = found.pop("files", {})
        if expected != found:
            wrong = sorted(k for k in expected.keys() | found.keys() if expected.get(k) != found.get(k))
            shown = ", ".join(f"{k} {expected.get(k)} here, {found.get(k)} there" for k in wrong[:3])
            raise Failed(f"what was loaded back from {self.repo_id} differs ({shown}); nothing was merged")
        for path, sha256 in files.items():
            if path in self.prints and self.prints[path].sha256 != sha256:
                raise Failed(f"{path} loaded back from {self.repo_id} has another hash; nothing was merged")

    def _run_reader(self, back: ReadBack, where: str, commit: str | None) -> dict[str, Any]:
        """Run the reader in a process of its own with empty caches, as a stranger would."""
        with tempfile.TemporaryDirectory(prefix="vtrap-read-back-") as cache:
            # Not HF_HOME: the token lies there, and so no secret has to be handed over.
            fresh = {f"HF_{name}_CACHE": f"{cache}/{name.lower()}" for name in ("HUB", "DATASETS", "XET", "MODULES")}
            quiet = {"HF_HUB_DISABLE_PROGRESS_BARS": "1", "HF_HUB_VERBOSITY": "error", "DATASETS_VERBOSITY": "error"}
            here = str(Path(__file__).parent.parent)
            path = {"PYTHONPATH": os.pathsep.join(p for p in (here, os.environ.get("PYTHONPATH")) if p)}
            words = [sys.executable, "-m", back.module, *back.arguments, where, *([commit] if commit else [])]
            # In an empty folder: a local one of the same name would be read instead of the repository.
            done = subprocess.run(
                words,
                env={**os.environ, **fresh, **quiet, **path},
                cwd=cache,
                stdout=subprocess.PIPE,
                text=True,
                check=False,
            )
        lines = done.stdout.splitlines()
        try:
            answer: dict[str, Any] = json.loads(lines[-1])
        except (IndexError, ValueError):
            raise _Again(f"the reader ended with exit code {done.returncode}") from None
        if "error" in answer:
            if commit is None:
                raise Refused(f"{where} cannot be read here: {answer['error']}")
            raise _Again(str(answer["error"]))
        return answer

    # -- the default branch

    def _publish_draft(self, number: int) -> None:
        def publish_draft() -> None:
            details = self.api.get_discussion_details(self.repo_id, number, repo_type=self.repo_type)
            if details.status == "draft":
                self.api.change_discussion_status(self.repo_id, number, "open", repo_type=self.repo_type)
            elif details.status == "closed":
                raise Failed(f"someone closed pull request {number} of {self.repo_id}: run the same command again")

        self._retry(publish_draft, "publish the pull request")

    def _merge(self, number: int, *, base: str, commit: str) -> str:
        if self._resolve(f"refs/pr/{number}") != commit:
            raise Failed(f"someone else has pushed to pull request {number} of {self.repo_id}; nothing was merged")

        def merge() -> None:
            if self.api.get_discussion_details(self.repo_id, number, repo_type=self.repo_type).status == "merged":
                return
            head = self._refs_once()["main"]
            if head != base:
                raise Moved(
                    f"{self.repo_id} has moved from {base[:12]} to {head[:12]} in the meantime; nothing was merged. "
                    "Run the same command again to publish on top of it"
                )
            self.api.merge_pull_request(self.repo_id, number, repo_type=self.repo_type)

        self._retry(merge, "merge")
        head = self._head()
        if not self._done(self._tree(head)):
            raise Failed(
                f"{self.repo_id} at {head[:12]} is not what was checked: someone else committed at the same moment. "
                "Look at its history, then run the same command again"
            )
        self.say(f"merged into {self.repo_id} as {head[:12]}")
        return head

    def _put_tag(self, commit: str) -> None:
        tag = self.tag
        if tag is not None and tag not in self._tags():
            self._retry(
                lambda: self.api.create_tag(
                    self.repo_id, tag=tag, revision=commit, repo_type=self.repo_type, exist_ok=True
                ),
                "tag",
            )
            self.say(f"tagged {tag}")

    # -- what is there

    def _done(self, tree: Mapping[str, RepoFile]) -> bool:
        return all(_same(mine, tree.get(path)) for path, mine in self.prints.items()) and not self._stale(tree)

    def _stale(self, tree: Mapping[str, RepoFile]) -> list[str]:
        owned = ("*",) if self.publication.aside else self.publication.owned
        others = [path for path in tree if path not in self.prints and path != GIT_FILE]
        return [path for path in others if any(fnmatch.fnmatchcase(path, glob) for glob in owned)]

    def _tree(self, revision: str) -> dict[str, RepoFile]:
        return self._retry(lambda: self._tree_once(revision), "list the files")

    def _tree_once(self, revision: str) -> dict[str, RepoFile]:
        listed = self.api.list_repo_tree(self.repo_id, repo_type=self.repo_type, revision=revision, recursive=True)
        return {entry.path: entry for entry in listed if isinstance(entry, RepoFile)}

    def _refs_once(self) -> dict[str, str]:
        refs = self.api.list_repo_refs(self.repo_id, repo_type=self.repo_type, include_pull_requests=True)
        found = {ref.name: ref.target_commit for ref in refs.branches}
        return found | {ref.ref: ref.target_commit for ref in (*(refs.pull_requests or ()), *refs.tags)}

    def _head(self) -> str:
        return self._resolve("main")

    def _resolve(self, name: str) -> str:
        refs = self._retry(self._refs_once, "list the references")
        if name not in refs:
            raise Failed(f"{self.repo_id} has no {name} any more")
        return refs[name]

    def _tags(self) -> dict[str, str]:
        refs = self._retry(self._refs_once, "list the references")
        return {n.removeprefix("refs/tags/"): sha for n, sha in refs.items() if n.startswith("refs/tags/")}

    def _url(self) -> str:
        prefix = "" if self.repo_type == "model" else f"{self.repo_type}s/"
        return f"{self.api.endpoint}/{prefix}{self.repo_id}"

    def _retry(self, step: Callable[[], T], what: str) -> T:
        return _retrying(step, what, pause=self.pause, say=self.say, repo_id=self.repo_id)


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


def _parts(content: Content) -> Iterator[bytes]:
    if isinstance(content, bytes):
        yield content
        return
    with content.open("rb") as file:
        while part := file.read(2**20):
            yield part


def _content_hash(prints: Mapping[str, Fingerprint]) -> str:
    return hashlib.sha256(json.dumps([[path, f.sha256] for path, f in prints.items()]).encode()).hexdigest()


def _same(mine: Fingerprint, theirs: RepoFile | None) -> bool:
    if theirs is None or theirs.size != mine.size:
        return False
    return theirs.lfs.sha256 == mine.sha256 if theirs.lfs is not None else theirs.blob_id == mine.git


def _batch(paths: Sequence[str], prints: Mapping[str, Fingerprint]) -> Iterator[str]:
    size = 0
    for number, path in enumerate(paths):
        size += prints[path].size
        if number and (number >= BATCH_FILES or size > BATCH_BYTES):
            return
        yield path


def _pulls(api: HfApi, repo_id: str, repo_type: RepoType, author: str) -> list[tuple[int, str]]:
    """Number and title of the open pull requests of one author, drafts included."""
    found = api.get_repo_discussions(
        repo_id, repo_type=repo_type, author=author, discussion_type="pull_request", discussion_status="open"
    )
    # Filtered here too: what a server makes of its parameters is not ours to rely on.
    return [(d.num, d.title) for d in found if d.author == author and d.status in ("open", "draft")]


def _account(api: HfApi, *, pause: float) -> Account:
    def ask() -> Account:
        found = api.whoami()
        token = (found.get("auth") or {}).get("accessToken") or {}
        return Account(
            name=str(found["name"]),
            organisations=frozenset(str(org["name"]) for org in found.get("orgs") or ()),
            role=str(token.get("role", "")),
        )

    return _retrying(ask, "ask who you are", pause=pause)


class _Again(Exception):
    """Worth another attempt."""


def _retrying(
    step: Callable[[], T],
    what: str,
    *,
    pause: float,
    say: Callable[[str], None] | None = None,
    repo_id: str = "the Hub",
) -> T:
    """Run a step that may be repeated, again and again with growing pauses while the Hub or the network fails."""
    for attempt in range(1, ATTEMPTS + 1):
        try:
            return step()
        except (Refused, Failed):
            raise
        except Exception as error:
            cause = _hub_error(error)
            if not _transient(cause):
                raise _explain(cause, what, repo_id) from _bare(error)
            if attempt == ATTEMPTS:
                raise Failed(
                    f"could not {what}: {_line(cause)} ({ATTEMPTS} attempts); run the same command again to go on"
                ) from _bare(error)
            wait = min(LONGEST_PAUSE, max(pause * 2 ** (attempt - 1), _asked_to_wait(cause)))
            (say or _to_stderr)(f"could not {what} ({_line(cause)}): trying again in {wait:.0f} s")
            time.sleep(wait)
    raise AssertionError("unreachable")


def _hub_error(error: BaseException) -> BaseException:
    """What the Hub or the network said, which the client may have wrapped ("Error while uploading ...")."""
    at: BaseException | None = error
    while at is not None:
        if isinstance(at, HfHubHTTPError):
            return at
        at = at.__cause__
    inner = error.__cause__
    return inner if isinstance(error, RuntimeError) and inner is not None else error


def _transient(error: BaseException) -> bool:
    if isinstance(error, OfflineModeIsEnabled | LocalTokenNotFoundError):
        return False
    if isinstance(error, HfHubHTTPError):
        return error.response.status_code in _TRANSIENT
    # Xet reports every refusal as ConnectionError; httpx's errors of transport have no common built-in base.
    network = any(kind.__name__ == "TransportError" for kind in type(error).__mro__)
    return network or isinstance(error, ConnectionError | TimeoutError | _Again)


def _asked_to_wait(error: BaseException) -> float:
    response = getattr(error, "response", None)
    after = response.headers.get("Retry-After", "") if response is not None else ""
    return float(after) if re.fullmatch(r"\d{1,4}", after) else 0.0


def _explain(error: BaseException, what: str, repo_id: str) -> Refused | Failed:
    """An error of the client in words that say what to do."""
    status = error.response.status_code if isinstance(error, HfHubHTTPError) else None
    said = getattr(error, "server_message", None) or ""
    said = f" ({_line(said)})" if said else ""
    if isinstance(error, LocalTokenNotFoundError):
        return Refused("nobody is logged in to the Hub: run `hf auth login`, or set HF_TOKEN")
    if isinstance(error, OfflineModeIsEnabled):
        return Refused(f"could not {what}: HF_HUB_OFFLINE is set")
    if isinstance(error, GatedRepoError):
        return Refused(f"{repo_id} is gated: ask for access on its page on the Hub, then run this again")
    if status == 401 and not isinstance(error, RepositoryNotFoundError):
        return Refused(
            f"the Hub does not accept the token{said}: it has expired or was revoked; `hf auth login`, or set HF_TOKEN"
        )
    if status == 403:
        return Refused(
            f"the Hub does not allow this token to {what} in {repo_id}{said}: check the token's permissions"
        )
    if isinstance(error, RepositoryNotFoundError):
        return Refused(f"{repo_id} does not exist on the Hub, or this account may not see it")
    if status == 409:
        return Failed(f"could not {what}: {repo_id} holds something that is in the way{said}")
    if status is not None:
        return Failed(f"could not {what}: the Hub answered {status}{said}")
    return Failed(f"could not {what}: {type(error).__name__}: {_line(error)}")


def _line(value: object) -> str:
    """Text of an error on one line, without secrets."""
    return redact(" ".join(str(value).split()))[:300]


def redact(text: str) -> str:
    """Replace tokens: the one in use, and whatever looks like one."""
    token = huggingface_hub.get_token()
    if token:
        text = text.replace(token, "hf_***")
    return re.sub(r"(hf|api_org)_[A-Za-z0-9]{8,}", "hf_***", text)


def _bare(error: BaseException) -> BaseException | None:
    """The cause of an error as it may be shown: none when its text holds a token."""
    return error if redact(str(error)) == str(error) else None


def _to_stderr(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


_DESCRIPTION = (
    "Opened by vtrap. The files here are loaded back and compared before they are merged; a pull request that stays "
    "open belongs to a publication that was interrupted, and running the same command again goes on with it."
)
