"""What went wrong, in words that say what to do, and without secrets?"""

from __future__ import annotations

import re

import huggingface_hub
from huggingface_hub.errors import (
    GatedRepoError,
    HfHubHTTPError,
    LocalTokenNotFoundError,
    OfflineModeIsEnabled,
    RepositoryNotFoundError,
)

_SECRET = re.compile(r"([?&][\w.-]*(?:token|key|sig|secret|password|credential)[\w.-]*=)[^&\s]+", re.IGNORECASE)


class Refused(ValueError):
    """The caller has to change something: the token, the name, the content."""


class Failed(RuntimeError):
    """It did not work this time: the network, another writer, or something came back other than it was sent."""


class Moved(Failed):
    """The default branch moved meanwhile, and nothing was merged."""


def hub_error(error: BaseException) -> BaseException:
    """What the Hub or the network said, which the client may have wrapped ("Error while uploading ...")."""
    at: BaseException | None = error
    while at is not None:
        if isinstance(at, HfHubHTTPError):
            return at
        at = at.__cause__
    inner = error.__cause__
    return inner if isinstance(error, RuntimeError) and inner is not None else error


def status_of(error: BaseException) -> int | None:
    """The HTTP status that an error is about. The Xet client has it in its text only."""
    if isinstance(error, HfHubHTTPError):
        return error.response.status_code
    found = re.search(r"HTTP status \w+ error \((\d{3})", str(error)) if isinstance(error, ConnectionError) else None
    return int(found[1]) if found else None


def explain(error: BaseException, what: str, repo_id: str) -> Refused | Failed:
    """An error of the client in words that say what to do."""
    status = status_of(error)
    said = getattr(error, "server_message", None) or ""
    said = f" ({one_line(said)})" if said else ""
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
    return Failed(f"could not {what}: {type(error).__name__}: {one_line(error)}")


def one_line(value: object) -> str:
    """Text of an error on one line, without secrets."""
    return redact(" ".join(str(value).split()))[:300]


def redact(text: str) -> str:
    """Replace tokens: the one in use, whatever looks like one, and passwords and signatures inside addresses.

    Example:
        >>> redact("https://me:secret@host/a.tar?part=1&X-Amz-Signature=99")
        'https://***@host/a.tar?part=1&X-Amz-Signature=***'
    """
    token = huggingface_hub.get_token()
    if token:
        text = text.replace(token, "hf_***")
    text = re.sub(r"(hf|api_org)_[A-Za-z0-9]{8,}", "hf_***", text)
    text = re.sub(r"(\w://)[^/@\s]+@", r"\1***@", text)
    return _SECRET.sub(r"\1***", text)


def bare(error: BaseException) -> BaseException | None:
    """The cause of an error as it may be shown: none when its text holds a token."""
    return error if redact(str(error)) == str(error) else None
