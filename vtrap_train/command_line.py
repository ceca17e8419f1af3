"""What is said about a wrong command line? One line, not the usage of 200 flags, which argparse would print first."""

from __future__ import annotations

import argparse
import contextlib
from collections.abc import Iterator
from typing import Any, NoReturn

from vtrap_data.command_line import unrecognized
from vtrap_data.errors import UsageError


class Parser(argparse.ArgumentParser):
    """Raises UsageError for a command line that is wrong."""

    def parse_args(self, args: Any = None, namespace: Any = None) -> Any:
        """As argparse does it, with the flag that an unknown one may have been meant for."""
        found, unknown = self.parse_known_args(args, namespace)
        if unknown:
            self.error(unrecognized(unknown, self))
        return found

    def error(self, message: str) -> NoReturn:
        """As argparse calls it."""
        raise UsageError(f"{message} (see --help)")


@contextlib.contextmanager
def refused_by_library() -> Iterator[None]:
    """What a library says against settings before it begins is wrong use, too: raises UsageError."""
    try:
        yield
    except (ImportError, TypeError, ValueError) as error:
        raise UsageError(" ".join(str(error).split())) from error
