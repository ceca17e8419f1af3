"""Start the stand-in in a process of its own, steer it, and run real clients against it in processes of theirs."""

from __future__ import annotations

import json
import os
import ssl
import subprocess
import sys
import urllib.request
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

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
        certificate: What clients have to trust; None: it speaks plain http.
    """

    def __init__(self, url: str, folder: Path, certificate: Path | None = None) -> None:
        self.url = url
        self.folder = folder
        self.certificate = certificate
        self._trust = None if certificate is None else ssl.create_default_context(cafile=certificate)

    def control(self, verb: str, body: Any = None) -> Any:
        data = None if body is None else json.dumps(body).encode()
        request = urllib.request.Request(f"{self.url}/_control/{verb}", data=data)
        with urllib.request.urlopen(request, timeout=30, context=self._trust) as answer:
            return json.load(answer)

    def faults(self, *rules: Mapping[str, Any]) -> None:
        self.control("faults", list(rules))

    def find(self, name: str) -> dict[str, Any] | None:
        """State of `datasets/owner/name`, `models/owner/name` or `spaces/owner/name`; None: there is none."""
        return self.control("repo", name)

    def repo(self, name: str) -> dict[str, Any]:
        """The same of one that is there."""
        found = self.find(name)
        if found is None:
            raise KeyError(name)
        return found

    def main_tree(self, name: str) -> dict[str, Any]:
        """What a reader of the default branch finds: path to entry."""
        repo = self.find(name)
        return {} if repo is None else repo["commits"][repo["branches"]["main"]]["tree"]

    def environment(self, home: Path, *, token: str | None = WRITE, xet: bool = False) -> dict[str, str]:
        """Of a client process: this endpoint, a home of its own, one thread."""
        kept = {k: v for k, v in os.environ.items() if not k.startswith(("HF_", "HUGGING", "PYTEST"))}
        kept |= {"HF_ENDPOINT": self.url, "HF_HOME": str(home), "OMP_NUM_THREADS": "1"}
        kept |= {"HF_HUB_DISABLE_TELEMETRY": "1", "HF_HUB_DISABLE_UPDATE_CHECK": "1", "PYTHONPATH": str(ROOT)}
        kept |= {} if token is None else {"HF_TOKEN": token}
        if self.certificate is not None:  # for the Hub's client, and for the curl that webdataset calls
            kept |= dict.fromkeys(("SSL_CERT_FILE", "CURL_CA_BUNDLE"), str(self.certificate))
        return kept | ({} if xet else {"HF_HUB_DISABLE_XET": "1"})


def run(
    words: Sequence[str | Path], environment: Mapping[str, str], *, python: str | Path = sys.executable, **options: Any
) -> subprocess.CompletedProcess[str]:
    """Run `python WORDS` to its end."""
    return subprocess.run(
        [str(python), *map(str, words)],
        env=dict(environment),
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
        **options,
    )


class Forking:
    """Starts commands as real processes, without the seconds it takes to import everything (`standin.forking`)."""

    def __init__(self, kind: str, hub: Running, home: Path) -> None:
        self.hub, self.home = hub, home
        environment = {**hub.environment(home), "PYTHONPATH": os.pathsep.join((str(ROOT), str(TESTS)))}
        self.process = subprocess.Popen(
            [sys.executable, "-m", "standin.forking", kind],
            env=environment,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        assert self._answer() == {"ready": True}

    def start(self, words: Sequence[str | Path], *, token: str | None = WRITE, xet: bool = False) -> int:
        """Start `python -m WORDS`; returns the process id."""
        environment = self.hub.environment(self.home, token=token, xet=xet)
        order = {"words": [str(word) for word in words], "env": environment, "log": str(self.log)}
        return int(self._order(order)["pid"])

    def wait(self, pid: int) -> int:
        """Exit code of a process that was started, once it has ended."""
        return int(self._order({"wait": pid})["code"])

    def run(self, words: Sequence[str | Path], **options: Any) -> tuple[int, str]:
        """Exit code and output."""
        code = self.wait(self.start(words, **options))
        return code, self.log.read_text()

    @property
    def log(self) -> Path:
        self.home.mkdir(parents=True, exist_ok=True)
        return self.home / "log.txt"

    def _order(self, order: Mapping[str, Any]) -> dict[str, Any]:
        assert self.process.stdin is not None
        self.process.stdin.write(json.dumps(order) + "\n")
        self.process.stdin.flush()
        return self._answer()

    def _answer(self) -> dict[str, Any]:
        assert self.process.stdout is not None
        line = self.process.stdout.readline()
        assert line, "the process that forks has ended"
        return json.loads(line)

    def close(self) -> None:
        self.process.kill()
        self.process.wait(timeout=10)


class Repository(NamedTuple):
    """What `serve` uploads; its commit gets the id `sha`, if the world knows it by one."""

    folder: Path
    id: str
    kind: str = "model"
    sha: str | None = None


def serve(hub: Running, home: Path, *repositories: Repository) -> None:
    """Upload folders as anyone would."""
    code = "import json, sys; from huggingface_hub import HfApi; api = HfApi()\n"
    code += "for folder, name, kind, _ in json.loads(sys.argv[1]):\n"
    code += "    api.create_repo(name, repo_type=kind)\n"
    code += "    api.upload_folder(folder_path=folder, repo_id=name, repo_type=kind)"
    done = run(["-c", code, json.dumps(repositories, default=str)], hub.environment(home))
    assert done.returncode == 0, done.stderr[-3000:]
    for one in repositories:
        if one.sha is not None:
            hub.control("pin", {"type": one.kind, "id": one.id, "sha": one.sha})


def certify(folder: Path) -> Path:
    """Make `cert.pem` and `key.pem` for loopback, signed by themselves. Returns the certificate."""
    folder.mkdir(parents=True, exist_ok=True)
    words = ["openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2", "-subj", "/CN=localhost"]
    words += ["-addext", "subjectAltName=DNS:localhost,IP:127.0.0.1", "-keyout", "key.pem", "-out", "cert.pem"]
    subprocess.run(words, cwd=folder, check=True, capture_output=True)
    return folder / "cert.pem"


@contextmanager
def running(folder: Path, *, xet: bool = True, certificate: Path | None = None) -> Iterator[Running]:
    """Serve `folder` until the block ends, with the accounts of the tests; over https if there is a certificate."""
    words = [sys.executable, "-m", "standin", str(folder), *([] if xet else ["--no-xet"])]
    words += [] if certificate is None else ["--tls", str(certificate.parent)]
    environment = {**os.environ, "PYTHONPATH": str(TESTS)}
    server = subprocess.Popen(words, env=environment, stdout=subprocess.PIPE, text=True)
    try:
        assert server.stdout is not None
        url = server.stdout.readline().strip()
        assert url, "the stand-in did not start"
        found = Running(url, folder, certificate)
        found.control("accounts", ACCOUNTS)
        yield found
    finally:
        server.kill()
        server.wait(timeout=10)
