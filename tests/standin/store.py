"""What does a repository hold? Repositories, commits, pull requests and blobs in a folder, each file written whole.

Everything about a repository is one JSON file; a commit holds its whole tree. That is slow for large histories and
easy to look at, which suits tests.
"""

from __future__ import annotations

import hashlib
import json
import os
import time
from pathlib import Path
from typing import Any, NamedTuple

Json = dict[str, Any]


class Entry(NamedTuple):
    """A file in a tree: git oid, size, sha256 of a large file, its Xet hash."""

    oid: str
    size: int
    lfs: str | None = None
    xet: str | None = None


class Conflict(Exception):
    """Both sides of a merge changed the same path."""


def git_oid(data: bytes) -> str:
    return hashlib.sha1(b"blob %d\0" % len(data) + data).hexdigest()


def now() -> str:
    return time.strftime("%Y-%m-%dT%H:%M:%S.000Z", time.gmtime())


def write_whole(path: Path, data: bytes) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f"{path.name}.{os.getpid()}.tmp")
    temporary.write_bytes(data)
    temporary.replace(path)


class Repo:
    """One repository. `save` after every change."""

    def __init__(self, path: Path, data: Json) -> None:
        self.path = path
        self.data = data

    @classmethod
    def new(cls, path: Path, tree: dict[str, Entry], *, kind: str, name: str, private: bool) -> Repo:
        data = {"type": kind, "id": name, "private": private, "gated": False, "created": now()}
        data |= {"commits": {}, "branches": {}, "prs": {}, "tags": {}, "discussions": []}
        repo = cls(path, data)
        repo.data["branches"]["main"] = repo.commit(None, tree, title="initial commit", author="hub")
        return repo

    def save(self) -> None:
        write_whole(self.path, json.dumps(self.data).encode())

    def resolve(self, revision: str) -> str | None:
        """The commit that a branch, a tag, refs/pr/N, refs/heads/X or a (short) oid stands for."""
        data = self.data
        if revision.startswith("refs/pr/"):
            return data["prs"].get(revision.removeprefix("refs/pr/"))
        name = revision.removeprefix("refs/heads/")
        if name in data["branches"]:
            return data["branches"][name]
        if revision in data["tags"]:
            return data["tags"][revision]
        if len(revision) >= 7:
            return next((sha for sha in data["commits"] if sha.startswith(revision)), None)
        return None

    def tree(self, sha: str) -> dict[str, Entry]:
        return {path: Entry(*entry) for path, entry in self.data["commits"][sha]["tree"].items()}

    def commit(self, parent: str | None, tree: dict[str, Entry], *, title: str, author: str, message: str = "") -> str:
        """Add a commit; no ref moves."""
        facts = {"parent": parent, "title": title, "message": message, "author": author, "date": now()}
        facts["tree"] = {path: list(entry) for path, entry in sorted(tree.items())}
        salt = str(len(self.data["commits"]))
        sha = hashlib.sha1((salt + json.dumps(facts, sort_keys=True)).encode()).hexdigest()
        self.data["commits"][sha] = facts
        return sha

    def history(self, sha: str) -> list[tuple[str, Json]]:
        found = []
        at: str | None = sha
        while at is not None:
            found.append((at, self.data["commits"][at]))
            at = self.data["commits"][at]["parent"]
        return found

    def open_discussion(self, *, title: str, description: str, author: str, pull: bool, status: str) -> Json:
        base = self.data["branches"]["main"]
        num = len(self.data["discussions"]) + 1
        discussion = {"num": num, "title": title, "description": description, "author": author, "base": base}
        discussion |= {"createdAt": now(), "status": status, "isPullRequest": pull, "merge": None}
        self.data["discussions"].append(discussion)
        if pull:
            self.data["prs"][str(num)] = base
        return discussion

    def merge(self, discussion: Json, *, author: str) -> str:
        """Three-way by path, one commit on main."""
        head = self.data["branches"]["main"]
        base, ours = self.tree(discussion["base"]), self.tree(head)
        theirs = self.tree(self.data["prs"][str(discussion["num"])])
        for path in sorted(base.keys() | theirs.keys() | ours.keys()):
            if theirs.get(path) == base.get(path):
                continue
            if ours.get(path) not in (base.get(path), theirs.get(path)):
                raise Conflict(path)
            if path in theirs:
                ours[path] = theirs[path]
            else:
                ours.pop(path, None)
        sha = self.commit(head, ours, title=f"{discussion['title']} (#{discussion['num']})", author=author)
        self.data["branches"]["main"] = sha
        discussion |= {"status": "merged", "merge": sha}
        return sha


class Store:
    """All repositories and blobs of one folder, and who may do what."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.repos: dict[tuple[str, str], Repo] = {}
        for path in sorted((root / "repos").glob("*.json")):
            repo = Repo(path, json.loads(path.read_bytes()))
            self.repos[repo.data["type"], repo.data["id"]] = repo
        accounts = root / "accounts.json"
        self.accounts: Json = (
            json.loads(accounts.read_bytes()) if accounts.exists() else {"users": {}, "orgs": [], "tokens": {}}
        )

    def save_accounts(self) -> None:
        write_whole(self.root / "accounts.json", json.dumps(self.accounts, indent=1).encode())

    def create(self, kind: str, name: str, *, private: bool) -> Repo:
        path = self.root / "repos" / f"{kind}--{name.replace('/', '--')}.json"
        files = {".gitattributes": self.put(b"*.tar filter=lfs diff=lfs merge=lfs -text\n")}
        if kind == "space":
            files |= {name: self.put(b"starter\n") for name in ("README.md", "index.html", "style.css")}
        repo = Repo.new(path, files, kind=kind, name=name, private=private)
        self.repos[kind, name] = repo
        repo.save()
        return repo

    def delete(self, kind: str, name: str) -> None:
        self.repos.pop((kind, name)).path.unlink()

    def blob(self, name: str) -> Path:
        """Where a blob lies: by git oid (regular files) or sha256 (large files)."""
        return self.root / "blobs" / name[:2] / name

    def put(self, data: bytes) -> Entry:
        entry = Entry(git_oid(data), len(data))
        write_whole(self.blob(entry.oid), data)
        return entry

    def large(self, sha256: str, size: int, xet: str | None) -> Entry:
        pointer = f"version https://git-lfs.github.com/spec/v1\noid sha256:{sha256}\nsize {size}\n".encode()
        return Entry(git_oid(pointer), size, sha256, xet)

    def content(self, entry: Entry) -> Path:
        return self.blob(entry.lfs or entry.oid)
