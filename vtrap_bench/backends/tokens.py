"""Which tokens was each answer made of, and how likely was each? `tokens.jsonl`, beside `records.jsonl`.

It decides nothing and is never scored, so it is kept apart from the records: log-probabilities differ in the last
digits from batch to batch where the answers do not. `parity` reads it.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Mapping
from pathlib import Path

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


def append_tokens(path: Path, rows: Mapping[str, Iterable[Step]]) -> None:
    """Add rows; answers without tokens are left out. A later row of a key stands for an earlier one."""
    lines = [
        json.dumps({"key": key, "steps": [[s[0], round(s[1], 6), s[2], round(s[3], 6)] for s in steps]})
        for key, steps in ((key, list(steps)) for key, steps in rows.items())
        if steps
    ]
    if not lines:
        return
    with path.open("ab+") as file:
        # A line that a kill cut short ends here, so that it does not swallow the next one.
        if file.tell():
            file.seek(-1, os.SEEK_END)
            if file.read(1) != b"\n":
                file.write(b"\n")
        file.write("".join(line + "\n" for line in lines).encode())
