"""Can the Hub be reached at all? Else the many small files of a model are retried for minutes before one is missed.

And then: what of a repository is on this machine, or can be brought here?
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import huggingface_hub
from huggingface_hub import constants, is_offline_mode
from huggingface_hub.errors import HfHubHTTPError
from huggingface_hub.utils import http_backoff  # type: ignore[attr-defined]

from hub_cards.errors import Failed, one_line

_FRESH = 60
"""Seconds for which an answer counts."""
_NOBODY = frozenset({"ConnectError", "ConnectTimeout", "ProxyError"})


class _Answer(NamedTuple):
    until: float
    """By the monotonic clock: a minute of the wall clock that ends would ask again in the middle of loading."""
    away: str | None


_answers: dict[str, _Answer] = {}


def unreachable() -> str | None:
    """Why only what lies on this machine can be used, in a few words; None where something answers, whatever it says.

    Where nothing does, that takes 6 seconds if connections are refused or the name is not known, 15 if nothing comes
    back. What is then downloaded is retried as `huggingface_hub` does it.
    """
    if is_offline_mode():
        return "HF_HUB_OFFLINE is set"
    endpoint = constants.ENDPOINT
    known = _answers.get(endpoint)
    if known is None or time.monotonic() > known.until:
        away = _asked(endpoint)
        known = _answers[endpoint] = _Answer(time.monotonic() + _FRESH, away)
    return known.away


def snapshot(
    repo_id: str, *, repo_type: str | None = None, revision: str | None = None, patterns: Sequence[str] | None = None
) -> Path:
    """The folder that holds a repository of the Hub on this machine, brought here where the Hub can be reached.

    Args:
        repo_id: `owner/name`.
        repo_type: "dataset"; None: a model.
        revision: None: its default branch.
        patterns: Globs of the files that are wanted; None: all.

    Raises:
        Failed: It cannot be had; the message says why, in a line.
    """
    away = unreachable()
    try:
        found = huggingface_hub.snapshot_download(
            repo_id,
            repo_type=repo_type,
            revision=revision,
            allow_patterns=None if patterns is None else list(patterns),
            local_files_only=away is not None,
        )
    except (HfHubHTTPError, OSError, ValueError) as error:  # among them what is not here when nobody can be asked
        raise Failed(away or one_line(error)) from error
    return Path(found)


def _asked(endpoint: str) -> str | None:
    try:
        http_backoff("HEAD", endpoint, timeout=3, max_retries=2, base_wait_time=2, retry_on_status_codes=())
    except Exception as error:
        # By name: which httpx it is depends on the version of huggingface_hub. Anything else came from somebody.
        if _NOBODY.isdisjoint(kind.__name__ for kind in type(error).__mro__):
            return None
        return f"{endpoint} cannot be reached: {one_line(error)}"
    return None
