"""Who are we on the Hub, and where may we write?"""

from __future__ import annotations

from typing import NamedTuple

from huggingface_hub import HfApi

from hub_cards.errors import Refused
from hub_cards.retrying import retrying


class Account(NamedTuple):
    """Who the token belongs to."""

    name: str
    organisations: frozenset[str]
    role: str


def account(*, pause: float = 1.0) -> Account:
    """Who is logged in.

    Raises:
        Refused: Nobody, or the token is not valid.
        Failed: The Hub does not answer.
    """

    def ask() -> Account:
        found = HfApi().whoami()
        token = (found.get("auth") or {}).get("accessToken") or {}
        return Account(
            name=str(found["name"]),
            organisations=frozenset(str(org["name"]) for org in found.get("orgs") or ()),
            role=str(token.get("role", "")),
        )

    return retrying(ask, "ask who you are", pause=pause)


def may_write(who: Account, repo_id: str, *, member: bool = True) -> None:
    """Check what can be known before anything is sent. `member`: more than to propose something.

    Raises:
        Refused: The token only reads, or the account has no part in that owner.
    """
    owner = repo_id.split("/")[0]
    if who.role == "read":
        raise Refused(
            f"the token of {who.name} can only read: make one that may write to {owner} in the Hub's settings, then "
            "`hf auth login` or HF_TOKEN"
        )
    if member and owner != who.name and owner not in who.organisations:
        others = ", ".join(sorted(who.organisations)) or "none"
        raise Refused(
            f"{who.name} is no member of {owner} on the Hub (organisations: {others}): choose another owner, or ask "
            "for membership; if it does not exist, make it on the Hub first"
        )
