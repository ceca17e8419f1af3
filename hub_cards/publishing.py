"""How does something get onto the Hub so that no reader ever sees half of it?

    validate the card -> upload to a pull request -> load that back with stock clients -> merge -> tag

Only the merge touches the default branch, and it is one commit. A publication under a revision of its own (an
intermediate checkpoint) leaves that branch alone: its pull request is tagged and closed. Where a publication stands is
read from the Hub (an open pull request of ours with a title made from the content and from the commit it is based on),
so that the same call goes on after a kill at any point, from any machine, and does nothing once everything is there.
"""

from __future__ import annotations

import fnmatch
import re
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

from huggingface_hub import DatasetCard, ModelCard, RepoCard, RepoFile, SpaceCard
from huggingface_hub.utils.tqdm import disable_progress_bars

from hub_cards.account import account, may_write
from hub_cards.errors import Failed, Moved, Refused, one_line
from hub_cards.fingerprints import Content, content_hash, fingerprints, same
from hub_cards.model_card import HUB_ID
from hub_cards.repository import Repository, RepoType
from hub_cards.retrying import to_stderr
from hub_cards.uploading import upload
from hub_cards.verifying import ReadBack, check_there, read_here

TITLE = "vtrap publish"
GIT_FILE = ".gitattributes"
"""The Hub puts it into every repository and keeps it right by itself."""
STARTERS = frozenset({"index.html", "style.css"})
"""What a new static Space holds."""
_CARDS: dict[RepoType, type[RepoCard]] = {"dataset": DatasetCard, "model": ModelCard, "space": SpaceCard}


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


def publish(publication: Publication, *, say: Callable[[str], None] | None = None, pause: float = 1.0) -> Published:
    """Publish, or go on with it, or find that it is done.

    Args:
        publication: What.
        say: Told each step in a line. None: stderr.
        pause: Seconds before the first retry of a failed request; doubled each time, up to a minute.

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
    return _Publisher(publication, say=say or to_stderr, pause=pause).run()


class _Publisher:
    """One publication on its way."""

    def __init__(self, publication: Publication, *, say: Callable[[str], None], pause: float) -> None:
        self.publication = publication
        self.repository = Repository(publication.repo_id, publication.repo_type, say=say, pause=pause)
        self.say, self.pause = say, pause

    def run(self) -> Published:
        wanted, repository = self.publication, self.repository
        self.account = account(pause=self.pause)
        may_write(self.account, repository.id, member=wanted.merge)
        self._validate_card()
        self.prints = fingerprints(wanted.files)
        self.content = content_hash(self.prints)[:12]
        name = f"vtrap-{self.content}" if wanted.tag is None else wanted.tag
        self.tag = name if name and wanted.merge else None
        self._prepare_repository()
        if wanted.aside:
            return self._set_aside()
        base, tree = repository.head(), repository.files()
        self._check_marker(tree)
        self._check_tag()
        if self._done(tree):
            self.say(f"{repository.id} already holds all {len(self.prints)} files")
            self._close_others(None)
            self._put_tag(base)
            return Published(commit=base, tag=self.tag, url=repository.url, changed=False)
        title = wanted.title or f"{TITLE} {self.content} on {base[:12]}"
        number, commit, changed = self._propose(title)
        self._publish_draft(number)
        if not wanted.merge:
            url = f"{repository.url}/discussions/{number}"
            return Published(commit=commit, tag=None, url=url, changed=changed)
        merged = self._merge(number, base=base, commit=commit)
        self._put_tag(merged)
        return Published(commit=merged, tag=self.tag, url=repository.url, changed=True)

    def _set_aside(self) -> Published:
        """Publish under a tag alone: whoever asks for the tag finds nothing, or all of it."""
        repository = self.repository
        assert self.tag is not None, "what is set aside needs a tag"
        self._check_marker(repository.files())
        self._check_tag()
        commit = repository.tags().get(self.tag)
        if changed := commit is None:
            _, commit, _ = self._propose(f"{TITLE} {self.tag} {self.content}")
            self._put_tag(commit)
        else:
            self.say(f"{repository.id} already holds {self.tag}")
        self._close_others(None)
        return Published(commit=str(commit), tag=self.tag, url=f"{repository.url}/tree/{self.tag}", changed=changed)

    def _propose(self, title: str) -> tuple[int, str, bool]:
        """A pull request that holds everything and was loaded back: number, commit, whether anything was new."""
        wanted, repository = self.publication, self.repository
        expected = read_here(wanted.read_back, repository)
        if wanted.merge:
            self._close_others(title)
        number, created = self._pull_request(title)
        revision = f"refs/pr/{number}"
        sent = upload(repository, revision, wanted.files, self.prints, stale=self._stale)
        commit = repository.commit(revision)
        if wanted.merge or sent or created:
            self.say(f"loading {commit[:12]} back with stock clients")
            check_there(wanted.read_back, repository, commit, expected=expected, prints=self.prints)
        return number, commit, sent or created

    # -- before anything is sent

    def _validate_card(self) -> None:
        card = self.publication.files.get("README.md")
        if card is None:
            return
        text = card.read_text(encoding="utf-8") if isinstance(card, Path) else card.decode()
        make = _CARDS[self.repository.type]

        def validate() -> None:
            try:
                make(text).validate(repo_type=self.repository.type)
            except ValueError as error:
                raise Refused(f"the Hub does not take the card: {one_line(error)}") from error

        self.repository.retry(validate, "validate the card")

    def _prepare_repository(self) -> None:
        id_, type_ = self.repository.id, self.repository.type

        def prepare() -> None:
            if self.repository.api.repo_exists(id_, repo_type=type_):
                return
            if not self.publication.merge:
                raise Refused(f"{type_} {id_} does not exist on the Hub: publish it first")
            self.say(f"making {type_} {id_}")
            self.repository.api.create_repo(
                id_,
                repo_type=type_,
                private=self.publication.private,
                exist_ok=True,
                space_sdk="static" if type_ == "space" else None,
            )

        self.repository.retry(prepare, f"make {id_}")

    def _check_marker(self, tree: Mapping[str, RepoFile]) -> None:
        marker = self.publication.marker
        others = {path for path in tree if path not in (GIT_FILE, "README.md")}
        if not self.publication.merge or marker is None or not others or marker in others:
            return
        if self.repository.type == "space" and others <= STARTERS and self.repository.commits() == 1:
            return  # nothing but what the Hub puts into a new one
        raise Refused(
            f"the name {self.repository.id} is taken: the repository holds {min(others)} and no {marker}, so vtrap "
            "did not make it; choose another name"
        )

    def _check_tag(self) -> None:
        if self.tag is None or self.tag != self.publication.tag:
            return
        commit = self.repository.tags().get(self.tag)
        if commit is not None and not self._done(self.repository.files(commit)):
            remedy = "publish to another repository" if self.publication.aside else "choose another --tag"
            raise Refused(
                f"tag {self.tag} of {self.repository.id} stands for other content: {remedy}, or remove the tag"
            )

    # -- the pull request

    def _pull_request(self, title: str) -> tuple[int, bool]:
        """Number of ours with this title, and whether it had to be made."""
        repository = self.repository
        made = False

        def find_or_make() -> int:
            # Looked for again at each attempt: the answer to a request that made one may have been lost.
            nonlocal made
            found = [pull.number for pull in repository.pull_requests_once(self.account.name) if pull.title == title]
            if found:
                return min(found)
            made = True
            return repository.api.create_pull_request(
                repository.id, title, repo_type=repository.type, description=_DESCRIPTION
            ).num

        number = repository.retry(find_or_make, "open a pull request")
        self.say(f"{'opened' if made else 'going on with'} pull request {number} of {repository.id}")
        return number, made

    def _close_others(self, title: str | None) -> None:
        """Close what earlier calls left open: other content, or based on a commit that is no longer the head."""
        if not self.publication.merge:
            return
        # Only those that were to go where this one goes: an interrupted checkpoint waits for its own turn.
        ours = re.escape(str(self.tag)) + " [0-9a-f]{12}" if self.publication.aside else "[0-9a-f]{12} on [0-9a-f]{12}"

        def close() -> None:
            for pull in self.repository.pull_requests_once(self.account.name):
                if re.fullmatch(f"{TITLE} {ours}", pull.title) and pull.title != title:
                    self.say(f"closing pull request {pull.number}, which is no longer needed")
                    self.repository.set_status_once(pull.number, "closed")

        self.repository.retry(close, "close earlier pull requests")

    def _publish_draft(self, number: int) -> None:
        def publish_draft() -> None:
            status = self.repository.status_once(number)
            if status == "draft":
                self.repository.set_status_once(number, "open")
            elif status == "closed":
                raise Failed(
                    f"someone closed pull request {number} of {self.repository.id}: run the same command again"
                )

        self.repository.retry(publish_draft, "publish the pull request")

    # -- the default branch

    def _merge(self, number: int, *, base: str, commit: str) -> str:
        repository = self.repository
        if repository.commit(f"refs/pr/{number}") != commit:
            raise Failed(f"someone else has pushed to pull request {number} of {repository.id}; nothing was merged")

        def merge() -> None:
            if repository.status_once(number) == "merged":
                return
            head = repository.refs_once()["main"]
            if head != base:
                raise Moved(
                    f"{repository.id} has moved from {base[:12]} to {head[:12]} in the meantime; nothing was merged. "
                    "Run the same command again to publish on top of it"
                )
            repository.api.merge_pull_request(repository.id, number, repo_type=repository.type)

        repository.retry(merge, "merge")
        head = repository.head()
        if not self._done(repository.files(head)):
            raise Failed(
                f"{repository.id} at {head[:12]} is not what was checked: someone else committed at the same moment. "
                "Look at its history, then run the same command again"
            )
        self.say(f"merged into {repository.id} as {head[:12]}")
        return head

    def _put_tag(self, commit: str) -> None:
        if self.tag is not None and self.tag not in self.repository.tags():
            self.repository.add_tag(self.tag, commit)
            self.say(f"tagged {self.tag}")

    # -- what is there

    def _done(self, tree: Mapping[str, RepoFile]) -> bool:
        return all(same(mine, tree.get(path)) for path, mine in self.prints.items()) and not self._stale(tree)

    def _stale(self, tree: Mapping[str, RepoFile]) -> list[str]:
        owned = ("*",) if self.publication.aside else self.publication.owned
        others = [path for path in tree if path not in self.prints and path != GIT_FILE]
        return [path for path in others if any(fnmatch.fnmatchcase(path, glob) for glob in owned)]


_DESCRIPTION = (
    "Opened by vtrap. The files here are loaded back and compared before they are merged; a pull request that stays "
    "open belongs to a publication that was interrupted, and running the same command again goes on with it."
)
