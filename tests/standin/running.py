"""Start the stand-in in a process of its own, steer it, and run real clients against it in processes of theirs."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import urllib.request
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

TESTS = Path(__file__).parent.parent
ROOT = TESTS.parent

WRITE, READ, EXPIRED, STRANGER = "hf_writeSECRET01", "hf_readSECRET02", "hf_expiredSECRET03", "hf_strangerSECRET04"
ACCOUNTS = {
    "users": {"ann": {"orgs": ["vtrap", "Qwen"]}, "bob": {"orgs": []}},
    "tokens": {
        WRITE: {"name": "ann", "role": "write"},
        READ: {"name": "ann", "role": "read"},
        EXPIRED: {"name": "ann", "role": "expired"},
        STRANGER: {"name": "bob", "role": "write"},
    },
}


class Running:
    """A stand-in that runs.

    Attributes:
        url: Its address.
        folder: What it serves.
    """

    def __init__(self, url: str, folder: Path) -> None:
        self.url = url
        self.folder = folder

    def control(self, verb: str, body: Any = None) -> dict[str, Any]:
        data = None if body is None else json.dumps(body).encode()
        request = urllib.request.Request(f"{self.url}/_control/{verb}", data=data)
        with urllib.request.urlopen(request, timeout=30) as answer:
            return json.load(answer)

    def faults(self, *rules: Mapping[str, Any]) -> None:
        self.control("faults", list(rules))

    def repo(self, name: str) -> dict[str, Any]:
        """State of `datasets/owner/name` or `models/owner/name`."""
        return self.control("state")["repos"][name]

    def main_tree(self, name: str) -> dict[str, Any]:
        """What a reader of the default branch finds: path to entry."""
        repo = self.control("state")["repos"].get(name)
        return {} if repo is None else repo["commits"][repo["branches"]["main"]]["tree"]

    def environment(self, home: Path, *, token: str | None = WRITE, xet: bool = False) -> dict[str, str]:
        """Of a client process: this endpoint, a home of its own, one thread."""
        kept = {k: v for k, v in os.environ.items() if not k.startswith(("HF_", "HUGGING", "PYTEST"))}
        kept |= {"HF_ENDPOINT": self.url, "HF_HOME": str(home), "OMP_NUM_THREADS": "1"}
        kept |= {"HF_HUB_DISABLE_TELEMETRY": "1", "HF_HUB_DISABLE_UPDATE_CHECK": "1", "PYTHONPATH": str(ROOT)}
        kept |= {} if token is None else {"HF_TOKEN": token}
        return kept | ({} if xet else {"HF_HUB_DISABLE_XET": "1"})


def run(
    words: Sequence[str | Path], environment: Mapping[str, str], **options: Any
) -> subprocess.CompletedProcess[str]:
    """Run `python WORDS` to its end."""
    return subprocess.run(
        [sys.executable, *map(str, words)],
        env=dict(environment),
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
        **options,
    )


@contextmanager
def running(folder: Path, *, xet: bool = True) -> Iterator[Running]:
    """Serve `folder` until the block ends, with the accounts of the tests."""
    words = [sys.executable, "-m", "standin", str(folder), *([] if xet else ["--no-xet"])]
    environment = {**os.environ, "PYTHONPATH": str(TESTS)}
    server = subprocess.Popen(words, env=environment, stdout=subprocess.PIPE, text=True)
    try:
        assert server.stdout is not None
        url = server.stdout.readline().strip()
        assert url, "the stand-in did not start"
        found = Running(url, folder)
        found.control("accounts", ACCOUNTS)
        yield found
    finally:
        server.kill()
        server.wait(timeout=10)
