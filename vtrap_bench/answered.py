"""Which items of a run are answered, by whichever process? `records.jsonl`, and what is still to be put into it.

Each process appends to a file of its own, with a hash chain of its own. They are put together into `records.jsonl`
when a run begins again or is complete: the chain of each file is checked, and every item is taken once.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Iterable, Mapping
from pathlib import Path

from tqdm import tqdm

from vtrap_bench.backends import Step
from vtrap_bench.backends.tokens import TOKENS, TokenFile, read_tokens
from vtrap_bench.claims import Worker
from vtrap_bench.records import RECORDS, Record, RecordFile, parse_records, read_chained

WORK = "work"
"""Folder inside a run's, there only while it is unfinished: one folder per process."""


class Answered:
    """The records of a run, kept up to date with what all processes write.

    Attributes:
        records: By key.
    """

    def __init__(self, out: Path) -> None:
        self.out = out
        self.records: dict[str, Record] = {}
        self._own: Path | None = None
        self._read: dict[Path, int] = {}
        self._looked = 0.0
        self.refresh()

    def refresh(self, *, older_than: float = 0.0) -> None:
        """Read what was added since, if the last look was more than so many seconds ago."""
        if time.monotonic() - self._looked < older_than:
            return
        self._looked = time.monotonic()
        # The processes' files first: what leaves them is in `records.jsonl` by then.
        for path in (*self.parts(), self.out / RECORDS):
            if path == self._own:
                continue
            try:
                with path.open("rb") as file:
                    file.seek(self._read.get(path, 0))
                    data = file.read()
            except FileNotFoundError:
                continue
            whole = data.rfind(b"\n") + 1
            self._read[path] = self._read.get(path, 0) + whole
            for record in parse_records(data[:whole], path):
                self.records.setdefault(record.key, record)

    def add(self, records: Iterable[Record], *, written_to: Path) -> None:
        """Take up what this process has written to its own file, which need not be read again then."""
        self._own = written_to
        for record in records:
            self.records.setdefault(record.key, record)

    def parts(self) -> list[Path]:
        """Files of records that are not in `records.jsonl` yet, or not all of them."""
        # Who holds the lock is a link to a folder.
        return sorted(p for p in (self.out / WORK).glob(f"*/{RECORDS}") if not p.parent.is_symlink())

    def at_work(self, me: Worker, *, sure: bool) -> bool:
        """Whether another living process answers items of this run. `sure` as in `Worker.lives`."""
        return any(p.parent != me.folder and me.lives(p.parent.name, sure=sure) for p in self.parts())

    def fold(
        self, me: Worker, *, more: Iterable[Record] = (), tokens: Mapping[str, Iterable[Step]] | None = None
    ) -> None:
        """Put everything into `records.jsonl`: only with the lock held, and nobody in the middle of an item.

        Args:
            me: This process.
            more: Records from elsewhere.
            tokens: Theirs.

        Raises:
            UsageError: A file was changed by hand, or a process that knows no locks is writing.
        """
        with RecordFile(self.out / RECORDS) as base, TokenFile(self.out / TOKENS) as written:
            if base.dropped_bytes:
                _note(base.path)
            known = {r.key for r in base.records}

            def add(records: Iterable[Record], steps: Mapping[str, Iterable[Step]]) -> None:
                new = {r.key: r for r in records if r.key not in known}
                if new:
                    written.append({k: steps[k] for k in new if k in steps})
                    base.append(new.values())
                    known.update(new)

            for part in self.parts():
                try:
                    torn, rows = _torn(part), read_chained(part)
                except FileNotFoundError:  # its process had nothing to answer, and has just removed it
                    continue
                if torn:
                    _note(part)
                add(map(Record.from_json, rows), read_tokens(part.parent / TOKENS))
                part.unlink(missing_ok=True)
                (part.parent / TOKENS).unlink(missing_ok=True)
            add(more, tokens or {})
        me.bury()
        self.refresh()


def _torn(path: Path) -> bool:
    data = path.read_bytes()
    return bool(data) and not data.endswith(b"\n")


def _note(path: Path) -> None:
    text = f"{path}: the last line was cut short when the run was stopped; its item is answered again"
    tqdm.write(text, file=sys.stderr)
