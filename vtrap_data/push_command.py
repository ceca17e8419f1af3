"""What do the commands that publish have in common: arguments, errors as ours, and the last line?"""

from __future__ import annotations

import argparse
import re
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

from vtrap_data.errors import UsageError, VtrapError
from vtrap_data.interruption import terminable

if TYPE_CHECKING:
    from hub_cards.publishing import Publication

T = TypeVar("T")

_TAG = re.compile(r"(?!.*(?:\.\.|//|\.lock$|[./]$))\w[\w./-]*", re.ASCII)


def add_push_arguments(parser: argparse.ArgumentParser, *, description: str, examples: str, folder: str) -> None:
    """Add the arguments of any `push DIR ID`.

    Args:
        parser: Gets description and examples, too.
        description: A sentence.
        examples: Shown below the arguments as they are.
        folder: What DIR is.
    """
    parser.description = description
    parser.epilog = examples
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.add_argument("dir", type=Path, metavar="DIR", help=folder)
    parser.add_argument("id", metavar="ID", help="owner/name on the Hub")
    parser.add_argument("--dry-run", type=Path, metavar="OUT", help="render into this folder, send nothing")
    parser.add_argument("--tag", type=_tag, help="name of this version (default: made from the content)")
    parser.add_argument("--private", action="store_true", help="if the repository has to be made, make it private")


def _tag(text: str) -> str:
    """What git takes as a name: the tag comes last, when all else has been published."""
    if not _TAG.fullmatch(text):
        raise argparse.ArgumentTypeError(f"must be letters, digits, dots and dashes, such as v1.0, not {text!r}")
    return text


def say_rendered(folder: Path, *, what: str, blocked: Sequence[str]) -> int:
    """Say where a dry run can be looked at, and what would be refused, which is no fault of it. Returns the exit code.

    Args:
        folder: Of the dry run.
        what: What is done if it is none, such as "publishing a/b".
        blocked: Why it would be refused.
    """
    for reason in blocked:
        print(f"would be refused: {reason}", file=sys.stderr)
    print(f"{folder / 'index.html'}: what {what} would send")
    return 0


def send(publication: Publication) -> int:
    """Publish, and print where it is. Returns the exit code; raises as `explained`."""
    from hub_cards.publishing import publish

    done = explained(lambda: publish(publication))
    print(f"{done.url}: {'published' if done.changed else 'nothing to do, already published'} as {done.tag}")
    return 0


def explained(step: Callable[[], T]) -> T:
    """Call what talks to the Hub, with its errors as ours; also where it is told to end, nothing is left behind.

    Raises:
        UsageError: The Hub refuses it, or the content cannot be published.
        VtrapError: It did not get through.
    """
    from hub_cards.errors import Failed, Refused

    try:
        with terminable():
            return step()
    except Refused as error:
        raise UsageError(str(error)) from error
    except Failed as error:
        raise VtrapError(str(error)) from error
