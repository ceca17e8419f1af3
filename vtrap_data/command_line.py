"""What is said about a wrong command line? One line, not the whole usage, which argparse would print first."""

from __future__ import annotations

import argparse
from typing import NoReturn


class OneLineParser(argparse.ArgumentParser):
    """Says what is wrong, and where to look, in a line."""

    def error(self, message: str) -> NoReturn:
        """As argparse calls it. Ends with exit code 2."""
        self.exit(2, f"{self.prog}: {message} (see {self.prog} --help)\n")
