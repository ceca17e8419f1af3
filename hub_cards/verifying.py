"""Does what was sent load, and is it what was sent?

It is loaded by a process of its own with empty caches, as a stranger would: `hub_cards.readback` and others like it.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

from hub_cards.errors import Failed, Refused
from hub_cards.fingerprints import Fingerprint
from hub_cards.repository import Repository
from hub_cards.retrying import Again
from hub_cards.scratch import scratch


class ReadBack(NamedTuple):
    """How to load what was published: `python -m MODULE ARGUMENTS... WHERE [REVISION]`.

    It prints a JSON object, in which entries under "files" (path to sha256) are compared with what was sent. The rest
    must equal `expected`, or what the same command prints for the folder `local`.
    """

    module: str
    arguments: tuple[str, ...]
    local: Path | None = None
    expected: Mapping[str, Any] | None = None


def read_here(back: ReadBack, repository: Repository) -> dict[str, Any]:
    """What loading it back has to give. Found out first: what cannot be loaded here need not be sent.

    Raises:
        Refused: It cannot be loaded.
    """
    if back.local is None:
        return dict(back.expected or {})
    where = str(back.local.resolve())
    found = repository.retry(lambda: _read(back, where), "read it here")
    if "error" in found:
        raise Refused(f"{where} cannot be read here: {found['error']}")
    found.pop("files", None)
    return found


def check_there(
    back: ReadBack,
    repository: Repository,
    commit: str,
    *,
    expected: Mapping[str, Any],
    prints: Mapping[str, Fingerprint],
) -> None:
    """Load a commit back and compare.

    Args:
        back: How.
        repository: Where.
        commit: Which.
        expected: From `read_here`.
        prints: What was sent.

    Raises:
        Failed: It cannot be loaded, or is not what was sent.
    """

    def load() -> dict[str, Any]:
        found = _read(back, repository.id, commit)
        if "error" in found:
            raise Again(str(found["error"]))
        return found

    found = repository.retry(load, "load it back")
    files = found.pop("files", {})
    if expected != found:
        wrong = sorted(k for k in expected.keys() | found.keys() if expected.get(k) != found.get(k))
        shown = ", ".join(f"{k} {expected.get(k)} here, {found.get(k)} there" for k in wrong[:3])
        raise Failed(f"what was loaded back from {repository.id} differs ({shown}); nothing was merged")
    for path, sha256 in files.items():
        if path in prints and prints[path].sha256 != sha256:
            raise Failed(f"{path} loaded back from {repository.id} has another hash; nothing was merged")


def _read(back: ReadBack, where: str, *revision: str) -> dict[str, Any]:
    with scratch("read-back") as cache:
        # Not HF_HOME: the token lies there, and so no secret has to be handed over.
        fresh = {f"HF_{name}_CACHE": f"{cache}/{name.lower()}" for name in ("HUB", "DATASETS", "XET", "MODULES")}
        quiet = {"HF_HUB_DISABLE_PROGRESS_BARS": "1", "HF_HUB_VERBOSITY": "error", "DATASETS_VERBOSITY": "error"}
        here = str(Path(__file__).parent.parent)
        path = {"PYTHONPATH": os.pathsep.join(p for p in (here, os.environ.get("PYTHONPATH")) if p)}
        # In an empty folder: a local one of the same name would be read instead of the repository.
        done = subprocess.run(
            [sys.executable, "-m", back.module, *back.arguments, where, *revision],
            env={**os.environ, **fresh, **quiet, **path},
            cwd=cache,
            stdout=subprocess.PIPE,
            text=True,
            check=False,
        )
    try:
        answer: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    except (IndexError, ValueError):
        raise Again(f"the reader ended with exit code {done.returncode}") from None
    return answer
