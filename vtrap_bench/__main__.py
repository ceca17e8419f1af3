"""`python -m vtrap_bench`: score models, compare them, report, run a study, submit."""

from __future__ import annotations

import argparse
import importlib
import os
import sys
from typing import Protocol, cast

from vtrap_data.command_line import OneLineParser
from vtrap_data.errors import UsageError, VtrapError, printable, wrong_path
from vtrap_data.interruption import interruption_told


class _Command(Protocol):
    def add_arguments(self, parser: argparse.ArgumentParser) -> None: ...
    def run(self, args: argparse.Namespace) -> int: ...


COMMANDS: dict[str, tuple[str, str]] = {
    "run": ("vtrap_bench.run", "score a model on benchmarks"),
    "compare": ("vtrap_bench.compare", "tell whether two runs differ"),
    "rescore": ("vtrap_bench.rescore", "read the answers of a run by the rules of another harness"),
    "parity": ("vtrap_bench.parity", "tell whether two runs answer alike, token by token"),
    "report": ("vtrap_bench.report", "image change against video change, as HTML, PNG and JSON"),
    "sweep": ("vtrap_bench.sweep", "does a video score grow with the frames shown?"),
    "attention": ("vtrap_bench.attention", "where a model looks, before and after"),
    "study": ("vtrap_bench.study", "a whole experiment from one YAML"),
    "leaderboard": ("vtrap_bench.leaderboard", "render the leaderboard page"),
    "submit": ("vtrap_bench.submit", "publish the results of a run"),
}
"""Name of each command: its module, imported when it is used, and what it is for."""


def main(argv: list[str] | None = None) -> int:
    """Run a command.

    Returns:
        0: done. 1: something was found or failed. 2: wrong use. 130: interrupted.
    """
    arguments = sys.argv[1:] if argv is None else argv
    listed = "\n".join(f"  {name:<12} {summary}" for name, (_, summary) in COMMANDS.items())
    top = OneLineParser(
        prog="python -m vtrap_bench",
        description="Measure image and video ability, before and after.",
        epilog=f"commands:\n{listed}\n\n`python -m vtrap_bench COMMAND --help` has examples.",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    top.add_argument("command", choices=tuple(COMMANDS), metavar="COMMAND")
    name = top.parse_args(arguments[:1]).command
    try:
        with interruption_told():
            command = cast("_Command", importlib.import_module(COMMANDS[name][0]))
            parser = OneLineParser(
                prog=f"python -m vtrap_bench {name}", formatter_class=argparse.RawDescriptionHelpFormatter
            )
            command.add_arguments(parser)
            code = command.run(parser.parse_args(arguments[1:]))
            sys.stdout.flush()
            return code
    except UsageError as error:
        return _fail(name, error, 2)
    except VtrapError as error:
        return _fail(name, error, 1)
    except BrokenPipeError:  # the reader of our output (`head`, `less`) has gone
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    except KeyboardInterrupt:
        print(f"\nvtrap_bench {name}: stopped; the same command goes on from here", file=sys.stderr)
        return 130
    except OSError as error:
        return _fail(name, error, 2 if wrong_path(error) else 1)


def _fail(name: str, error: Exception, code: int) -> int:
    print(f"vtrap_bench {name}: {printable(error)}", file=sys.stderr)
    return code


if __name__ == "__main__":
    sys.exit(main())
