"""Is a step on the Hub worth another attempt?"""

from __future__ import annotations

import re
import sys
import time
from collections.abc import Callable
from typing import TypeVar

from huggingface_hub.errors import LocalTokenNotFoundError, OfflineModeIsEnabled

from hub_cards.errors import Failed, Refused, bare, explain, hub_error, one_line, status_of

T = TypeVar("T")

ATTEMPTS = 6
LONGEST_PAUSE = 60.0
_TRANSIENT = frozenset({408, 425, 429, 500, 502, 503, 504})


class Again(Exception):
    """Worth another attempt."""


def retrying(
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
            cause = hub_error(error)
            if not _transient(cause):
                raise explain(cause, what, repo_id) from bare(error)
            if attempt == ATTEMPTS:
                raise Failed(
                    f"could not {what}: {one_line(cause)} ({ATTEMPTS} attempts); run the same command again to go on"
                ) from bare(error)
            wait = min(LONGEST_PAUSE, max(pause * 2 ** (attempt - 1), _asked_to_wait(cause)))
            (say or to_stderr)(f"could not {what} ({one_line(cause)}): trying again in {wait:.0f} s")
            time.sleep(wait)
    raise AssertionError("unreachable")


def _transient(error: BaseException) -> bool:
    if isinstance(error, OfflineModeIsEnabled | LocalTokenNotFoundError):
        return False
    if (status := status_of(error)) is not None:
        return status in _TRANSIENT
    # httpx's errors of transport have no common built-in base.
    network = any(kind.__name__ == "TransportError" for kind in type(error).__mro__)
    return network or isinstance(error, ConnectionError | TimeoutError | Again)


def _asked_to_wait(error: BaseException) -> float:
    response = getattr(error, "response", None)
    after = response.headers.get("Retry-After", "") if response is not None else ""
    return float(after) if re.fullmatch(r"\d{1,4}", after) else 0.0


def to_stderr(text: str) -> None:
    """Tell the user."""
    print(text, file=sys.stderr, flush=True)
