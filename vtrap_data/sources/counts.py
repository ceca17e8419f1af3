"""Are there as many rows as there should be? One verdict, and one way to say it, for corpora and benchmarks."""

from __future__ import annotations

import json
import shlex
import sys
from collections.abc import Iterable, Sequence
from dataclasses import asdict
from typing import Any, Literal

from vtrap_data.errors import printable

Known = Literal["card", "viewer", "table", "code", "memory", "unverified"]
"""How a fact is known: see KNOWN_FROM."""

KNOWN_FROM: dict[Known, str] = {
    "card": "the data set's card says so",
    "viewer": "the Hub's viewer showed it, in three digits",
    "table": "others who use the data have published it",
    "code": "public code that reads the data does so",
    "memory": "from memory, so it may be wrong",
    "unverified": "nobody has looked",
}

ROUNDING = 0.005
"""What the viewer shows has three digits: a count within this share of it agrees."""

ACCEPT = "--accept-count"


def agrees(found: int, expected: int | None, known: Known) -> bool | None:
    """Whether that many rows are as expected; None when no count is known.

    Example:
        >>> agrees(66_249, 66_200, "viewer"), agrees(66_249, 66_200, "card"), agrees(5, None, "unverified")
        (True, False, None)
    """
    if expected is None:
        return None
    return abs(found - expected) <= (ROUNDING * expected if known == "viewer" else 0)


def verdict(found: int, expected: int | None, known: Known, *, agreed: bool | None) -> str:
    """What is said of a count.

    Args:
        found: Rows there are.
        expected: Rows there should be.
        known: How that is known.
        agreed: What `agrees` said; None with an expected count: only some rows were asked for.
    """
    if expected is None:
        return "no count is known that they could be held against"
    if agreed is None:
        return f"of {expected} expected, as far as asked for"
    about = "about " if known == "viewer" else ""
    if agreed:
        return f"as expected ({about}{expected})"
    return f"{about}{expected} expected ({KNOWN_FROM[known]}), a difference of {found - expected:+d}"


def marked(said: str, *, agreed: bool | None, accepted: bool) -> str:
    """A line about a count, marked where it is a fault, or one that the caller accepts."""
    if agreed is not False:
        return said
    return f"{'accepted' if accepted else 'fault'}: {said}"


def finish(
    said: Iterable[str],
    *,
    wrote: str,
    done: Any,
    wrong: int,
    of: int,
    pack: Sequence[str],
    accepted: bool,
    as_json: bool,
) -> int:
    """What a command that has read a source prints at its end. Returns the exit code: 1 for counts that are a fault.

    Args:
        said: Lines about what came of it.
        wrote: Which file, and how much is in it.
        done: What came of it, a dataclass.
        wrong: Counts that are not the expected ones.
        of: So many counts.
        pack: Arguments of the command that packs it.
        accepted: The caller takes counts that differ.
        as_json: Print `done` instead of words.
    """
    for line in said:
        print(printable(line), file=sys.stderr)
    print(json.dumps(asdict(done), indent=1) if as_json else wrote)
    if wrong and not accepted:
        print(
            f"row counts that are not the expected ones: {wrong} of {of}. Is the copy whole, and the right version? "
            f"If these rows are wanted, run the command again with {ACCEPT}",
            file=sys.stderr,
        )
        return 1
    if not as_json:
        print(f"next: {shlex.join(['python', '-m', 'vtrap_data', 'pack', *pack])}")
    return 0
