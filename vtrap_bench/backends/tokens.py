"""Which tokens was each answer made of, and how likely was each? `tokens.jsonl`, beside `records.jsonl`.

It decides nothing and is never scored, so it is kept apart from the records: log-probabilities differ in the last
digits from batch to batch where the answers do not. `parity` reads it.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import IO

from vtrap_bench.backends import Step
from vtrap_data.parsing import parse_json

TOKENS = "tokens.jsonl"


def read_tokens(path: Path) -> dict[str, tuple[Step, ...]]:
    """Tokens by the key of the record; {} if there is no such file. Torn and damaged lines are left out."""
    found: dict[str, tuple[Step, ...]] = {}
    if not path.is_file():
        return found
    for line in path.read_bytes().split(b"\n"):
        try:
            row = parse_json(line)
            found[row["key"]] = tuple(Step(*step) for step in row["steps"])
        except (ValueError, KeyError, TypeError):
            continue
    return found


class TokenFile:
    """`tokens.jsonl`, open for appending from the first tokens on. Use it in a `with` block."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._file: IO[bytes] | None = None

    def __enter__(self) -> TokenFile:
        return self

    def __exit__(self, *_: object) -> None:
        if self._file is not None:
            self._file.close()

    def append(self, rows: Mapping[str, Iterable[Step]]) -> None:
        """Add rows; answers without tokens are left out. A later row of a key stands for an earlier one."""
        lines = [
            json.dumps({"key": key, "steps": [[s[0], round(s[1], 6), s[2], round(s[3], 6)] for s in steps]})
            for key, steps in ((key, list(steps)) for key, steps in rows.items())
            if steps
        ]
        if not lines:
            return
        if self._file is None:
            self._file = self.path.open("ab+")
            # A line that a kill cut short ends here, so that it does not swallow the next one.
            if self._file.tell():
                self._file.seek(-1, os.SEEK_END)
                if self._file.read(1) != b"\n":
                    self._file.write(b"\n")
        self._file.write("".join(line + "\n" for line in lines).encode())
        self._file.flush()
