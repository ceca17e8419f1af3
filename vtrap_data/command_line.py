"""What is said about a wrong command line? One line, not the whole usage, which argparse would print first."""

from __future__ import annotations

import argparse
from collections.abc import Iterable
from difflib import get_close_matches
from typing import Any, NoReturn


def nearest(name: str, known: Iterable[str]) -> str:
    """What a name that is not known may have been meant for, to end a message with; nothing where none is near.

    Example:
        >>> nearest("--mean_frames", ["--mean-frames", "--out"])
        '; did you mean --mean-frames?'
    """
    near = get_close_matches(name, list(known), n=1)
    return f"; did you mean {near[0]}?" if near else ""


class OneLineParser(argparse.ArgumentParser):
    """Says what is wrong, and where to look, in a line."""

    def parse_known_args(self, args: Any = None, namespace: Any = None) -> Any:
        """As argparse calls it for a command, too: what that does not know is told with that command's own help."""
        found, unknown = super().parse_known_args(args, namespace)
        if unknown:
            hint = nearest(unknown[0].split("=")[0], self._option_string_actions)
            self.error(f"unrecognized arguments: {' '.join(unknown)}{hint}")
        return found, unknown

    def error(self, message: str) -> NoReturn:
        """As argparse calls it. Ends with exit code 2."""
        self.exit(2, f"{self.prog}: {message} (see {self.prog} --help)\n")
