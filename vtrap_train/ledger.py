"""Which samples were left out of training, why, and is it too many?

A sample that cannot be used is skipped and written down; nothing is put in its place. One line of JSON a skip:
{"step", "sample", "source", "shard", "reason", "detail"}. `Lines` is also what the loss log is written with.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, TypedDict

from vtrap_data.errors import FatalSampleError
from vtrap_data.files import write_bytes
from vtrap_data.parsing import parse_json


class Skip(TypedDict):
    """One sample that was left out. Plain values: it travels from the loader's workers inside the batch."""

    sample: str
    source: str
    shard: str
    reason: str
    detail: str


class Lines:
    """Append-only JSONL with a `step` in every line."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def append(self, records: Iterable[Mapping[str, Any]]) -> None:
        """Write records, each as one line and in one call, so that lines of several processes do not mix."""
        lines = [json.dumps(dict(r), ensure_ascii=False) + "\n" for r in records]
        if lines:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            with self.path.open("a", encoding="utf-8", errors="replace") as file:
                file.write("".join(lines))

    def read(self) -> list[dict[str, Any]]:
        """All whole lines; a last line that a crash cut short is ignored."""
        if not self.path.is_file():
            return []
        records = []
        # Not splitlines: JSON may hold U+2028 and the like, which are no line ends here.
        for line in self.path.read_bytes().split(b"\n")[:-1]:
            try:
                record = parse_json(line)
                if not isinstance(record["step"], int):
                    break
            except (ValueError, TypeError, KeyError):
                break
            records.append(record)
        return records

    def rewind(self, step: int) -> None:
        """Forget what happened after `step`: training goes on from there and will write it again."""
        if self.path.is_file():
            keep = [r for r in self.read() if r["step"] <= step]
            text = "".join(json.dumps(r, ensure_ascii=False) + "\n" for r in keep)
            write_text(self.path, text)


def allowance(planned: int, rate: float) -> int:
    """How many of `planned` samples may be skipped.

    >>> allowance(1000, 0.01), allowance(30, 0.01)
    (10, 0)
    """
    return int(planned * rate + 1e-9)


def enforce(skipped: int, *, planned: int, rate: float, last: Skip | None) -> None:
    """Raise FatalSampleError as soon as more samples were skipped than the whole run may skip."""
    if skipped > allowance(planned, rate):
        example = ""
        if last:
            example = f" The last one: {last['sample']} in {last['shard']} ({last['reason']}: {last['detail']})."
        raise FatalSampleError(
            f"{skipped} samples were skipped, more than --max_skip_rate {rate} of the {planned} planned.{example} "
            "All are listed in skipped.jsonl; mend the data, or raise --max_skip_rate."
        )


def write_text(path: Path, text: str) -> None:
    """Write a file so that a crash leaves the old one or the new one, never half of it.

    Half a character, which the name of a sample may hold, becomes a question mark.
    """
    write_bytes(path, text.encode(errors="replace"))
