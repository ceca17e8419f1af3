"""What is in a repository on the Hub, and what can be done to it?"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Literal, NamedTuple, TypeVar

import huggingface_hub
from huggingface_hub import HfApi, RepoFile
from huggingface_hub.errors import EntryNotFoundError

from hub_cards.errors import Failed
from hub_cards.retrying import retrying, to_stderr
from hub_cards.scratch import scratch

T = TypeVar("T")
RepoType = Literal["dataset", "model", "space"]


class PullRequest(NamedTuple):
    """One that is open; drafts are."""

    number: int
    title: str


class Repository:
    """One repository, as it is at the moment of each call.

    Calls are tried again while the Hub or the network fails, except those named `..._once`, which are parts of a step
    that is tried again as a whole. Every call may raise `Refused` (the repository does not exist, or the token does
    not allow it) and `Failed` (the Hub does not answer).

    Attributes:
        api: The client, for what is done to the repository.
        id: `owner/name`.
        type: "dataset", "model" or "space".
    """

    def __init__(
        self, repo_id: str, repo_type: RepoType, *, say: Callable[[str], None] = to_stderr, pause: float = 1.0
    ) -> None:
        self.api = HfApi()
        self.id, self.type = repo_id, repo_type
        self._say, self._pause = say, pause

    @property
    def url(self) -> str:
        """The address to look at."""
        return f"{self.api.endpoint}/{'' if self.type == 'model' else f'{self.type}s/'}{self.id}"

    def retry(self, step: Callable[[], T], what: str) -> T:
        """Carry out a step that may be repeated; `what` it does, for messages."""
        return retrying(step, what, pause=self._pause, say=self._say, repo_id=self.id)

    # -- content

    def files(self, revision: str = "main") -> dict[str, RepoFile]:
        """Path to file."""
        return self.retry(lambda: self.files_once(revision), f"list the files of {self.id}")

    def files_once(self, revision: str) -> dict[str, RepoFile]:
        """Path to file."""
        listed = self.api.list_repo_tree(self.id, repo_type=self.type, revision=revision, recursive=True)
        return {entry.path: entry for entry in listed if isinstance(entry, RepoFile)}

    def read_text(self, path: str, *, revision: str = "main") -> str | None:
        """A small text file; None when it is not there."""

        def load() -> str | None:
            with scratch("hub") as cache:
                try:
                    found = huggingface_hub.hf_hub_download(
                        self.id, path, repo_type=self.type, revision=revision, cache_dir=cache
                    )
                except EntryNotFoundError:
                    return None
                return Path(found).read_text(encoding="utf-8")

        return self.retry(load, f"read {path} of {self.id}")

    def download(self, folder: Path) -> None:
        """Download the default branch into a folder."""
        self.retry(
            lambda: huggingface_hub.snapshot_download(self.id, repo_type=self.type, local_dir=folder),
            f"download {self.id}",
        )

    # -- branches and tags

    def head(self) -> str:
        """Commit of the default branch."""
        return self.commit("main")

    def commit(self, name: str) -> str:
        """Commit of a branch, or of a reference by its long name (`refs/pr/1`)."""
        refs = self.retry(self.refs_once, "list the references")
        if name not in refs:
            raise Failed(f"{self.id} has no {name} any more")
        return refs[name]

    def tags(self) -> dict[str, str]:
        """Tag to commit."""
        refs = self.retry(self.refs_once, "list the references")
        return {n.removeprefix("refs/tags/"): sha for n, sha in refs.items() if n.startswith("refs/tags/")}

    def refs_once(self) -> dict[str, str]:
        """Commits of the branches, by name, and of tags and pull requests, by their long names."""
        refs = self.api.list_repo_refs(self.id, repo_type=self.type, include_pull_requests=True)
        found = {ref.name: ref.target_commit for ref in refs.branches}
        return found | {ref.ref: ref.target_commit for ref in (*(refs.pull_requests or ()), *refs.tags)}

    def add_tag(self, tag: str, commit: str) -> None:
        """Name a commit, unless the name is in use."""
        self.retry(
            lambda: self.api.create_tag(self.id, tag=tag, revision=commit, repo_type=self.type, exist_ok=True), "tag"
        )

    def commits(self) -> int:
        """How many commits the default branch has."""
        return len(self.retry(lambda: self.api.list_repo_commits(self.id, repo_type=self.type), "read the history"))

    # -- pull requests

    def pull_requests(self, author: str) -> list[PullRequest]:
        """The open ones of an author."""
        return self.retry(lambda: self.pull_requests_once(author), f"list the pull requests of {self.id}")

    def pull_requests_once(self, author: str) -> list[PullRequest]:
        """The open ones of an author."""
        found = self.api.get_repo_discussions(
            self.id, repo_type=self.type, author=author, discussion_type="pull_request", discussion_status="open"
        )
        # Filtered here too: what a server makes of its parameters is not ours to rely on.
        return [PullRequest(d.num, d.title) for d in found if d.author == author and d.status in ("open", "draft")]

    def status_once(self, number: int) -> str:
        """Of a pull request: draft, open, closed or merged."""
        return str(self.api.get_discussion_details(self.id, number, repo_type=self.type).status)

    def set_status_once(self, number: int, status: Literal["open", "closed"]) -> None:
        """Publish a draft, or close a pull request."""
        self.api.change_discussion_status(self.id, number, status, repo_type=self.type)
