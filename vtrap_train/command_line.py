"""What is said about a wrong command line? One line, not the usage of 200 flags, which argparse would print first."""

from __future__ import annotations

import argparse
from typing import NoReturn

from vtrap_data.errors import UsageError


class Parser(argparse.ArgumentParser):
    """Raises UsageError for a command line that is wrong."""

    def error(self, message: str) -> NoReturn:
        """As argparse calls it."""
        raise UsageError(f"{message} (see --help)")
