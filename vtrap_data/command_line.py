"""What is said about a wrong command line? One line, not the whole usage, which argparse would print first."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from typing import Any, NoReturn

from vtrap_data.errors import nearest


def unrecognized(words: Sequence[str], parser: argparse.ArgumentParser) -> str:
    """What argparse says of words that `parser` does not know, with the flag that the first may be meant for."""
    hint = nearest(words[0].split("=")[0], parser._option_string_actions)
    return f"unrecognized arguments: {' '.join(words)}{hint}"


class OneLineParser(argparse.ArgumentParser):
    """Says what is wrong, and where to look, in a line."""

    def parse_known_args(self, args: Any = None, namespace: Any = None) -> Any:
        """As argparse calls it for a command, too: what that does not know is told with that command's own help."""
        found, unknown = super().parse_known_args(args, namespace)
        if unknown:
            self.error(unrecognized(unknown, self))
        return found, unknown

    def error(self, message: str) -> NoReturn:
        """As argparse calls it. Ends with exit code 2."""
        self.exit(2, f"{self.prog}: {message} (see {self.prog} --help)\n")
