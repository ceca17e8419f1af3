"""Can the Hub be reached at all? Else the many small files of a model are retried for minutes before one is missed."""

from __future__ import annotations

import time
from functools import lru_cache

from huggingface_hub import constants, is_offline_mode
from huggingface_hub.utils import http_backoff  # type: ignore[attr-defined]

from hub_cards.errors import one_line

_FRESH = 60
"""Seconds for which an answer counts."""
_NOBODY = frozenset({"ConnectError", "ConnectTimeout", "ProxyError"})


def unreachable() -> str | None:
    """Why only what lies on this machine can be used, in a few words; None where something answers, whatever it says.

    Where nothing does, that takes 6 seconds if connections are refused or the name is not known, 15 if nothing comes
    back. What is then downloaded is retried as `huggingface_hub` does it.
    """
    if is_offline_mode():
        return "HF_HUB_OFFLINE is set"
    return _asked(constants.ENDPOINT, int(time.monotonic() // _FRESH))


@lru_cache(maxsize=1)
def _asked(endpoint: str, _now: int) -> str | None:
    try:
        http_backoff("HEAD", endpoint, timeout=3, max_retries=2, base_wait_time=2, retry_on_status_codes=())
    except Exception as error:
        # By name: which httpx it is depends on the version of huggingface_hub. Anything else came from somebody.
        if _NOBODY.isdisjoint(kind.__name__ for kind in type(error).__mro__):
            return None
        return f"{endpoint} cannot be reached: {one_line(error)}"
    return None
