"""What did the model say to each item? `records.jsonl`: one JSON object per line, appended as items finish.

A record's key is a digest of everything that decides its response, so a run that was killed goes on where it stopped
and a changed setting never reuses an old response. Each line carries a hash over itself and the line before, so that a
record that was changed, removed or put in by hand is found out when results are submitted.
"""

from __future__ import annotations

import fcntl
import hashlib
import json
import os
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, fields
from pathlib import Path
from typing import IO, Any

from vtrap_data.errors import UsageError, VtrapError
from vtrap_data.files import canonical_json, sync_directory
from vtrap_data.parsing import parse_json, typed

RECORDS = "records.jsonl"
RUN = "run.json"
"""What made the records."""
KEY_VERSION = 1
CHAIN = "chain"
PRIVATE = ("question", "options", "answer", "facts")
"""Not covered by the chain: they belong to a benchmark, follow from the item, and are not published."""
_OPTIONAL = frozenset({"facts", "credit", "likelihoods"})


@dataclass(frozen=True, slots=True, kw_only=True)
class Record:
    """One item, answered and scored.

    Attributes:
        key: Digest of everything that decides the response (`record_key`).
        task: Name of the task.
        item_id: Of the item, unique in its task.
        ability: What it tests.
        cluster: What it shares with items that are not independent of it.
        question: The bare question.
        options: Possible answers, in the order shown.
        answer: The right one.
        response: What the model wrote, unchanged.
        extracted: What was read out of it; None if nothing could be.
        stage: How (`extract.Stage`).
        correct: Whether `extracted` is `answer`.
        frame_times: Seconds; of the frames that were shown.
        n_frames: How many were; 0 for pictures.
        visual_tokens: Tokens that stood for pixels.
        prompt_tokens: All tokens of the prompt, the visual ones included.
        facts: Sub-tasks and whatever else the measures of the task read: JSON, as packed; "" where it has none.
        credit: What the answer earns, 0 to 1, where that is more than right or wrong; otherwise None.
        likelihoods: Log-probability of each option as the whole answer, where the answer was chosen by them.
    """

    key: str
    task: str
    item_id: str
    ability: str
    cluster: str
    question: str
    options: tuple[str, ...]
    answer: str
    response: str
    extracted: str | None
    stage: str
    correct: bool
    frame_times: tuple[float, ...]
    n_frames: int
    visual_tokens: int
    prompt_tokens: int
    facts: str = ""
    credit: float | None = None
    likelihoods: tuple[float, ...] = ()

    @property
    def score(self) -> float:
        """What the answer earns: 0 to 1."""
        return float(self.correct) if self.credit is None else self.credit

    def to_json(self) -> dict[str, Any]:
        """The JSON form: a line of `records.jsonl`. What most tasks do not have is left out where it is not there."""
        data = {name: getattr(self, name) for name in self.__slots__}
        return {k: v for k, v in data.items() if not (k in _OPTIONAL and v in ("", None, ()))}

    @classmethod
    def from_json(cls, data: Any) -> Record:
        """Read it back. Unknown keys are ignored, so that older versions read newer files.

        Raises:
            ValueError: A field is missing or of another type.
        """
        known = {f.name for f in fields(cls)}
        return typed(cls, {k: v for k, v in data.items() if k in known} if isinstance(data, dict) else data)


def record_key(**parts: Any) -> str:
    """Key of a record: 32 hex digits, from everything that decides the response. Values must be JSON."""
    return hashlib.sha256(canonical_json({"version": KEY_VERSION, **parts})).hexdigest()[:32]


def read_records(path: Path) -> list[Record]:
    """Every complete record of a file; a last line without its end (the writer was killed) is left out.

    Raises:
        UsageError: There is no such file.
        VtrapError: A line in the middle is not a record.
    """
    try:
        data = path.read_bytes()
    except FileNotFoundError:
        raise UsageError(f"{path} does not exist: no run has been made here") from None
    return parse_records(data[: data.rfind(b"\n") + 1], path)


class RecordFile:
    """`records.jsonl`, open for appending by this process alone.

    Opening it cuts off a torn last line. `dropped_bytes` says how long that was.
    """

    def __init__(self, path: Path) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        self.path = path
        self._file: IO[bytes] = path.open("a+b")
        try:
            fcntl.flock(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            self._file.close()
            raise UsageError(f"another process is writing {path}: wait for it, or choose another --out") from None
        try:
            self._file.seek(0)
            data = self._file.read()
            whole = data.rfind(b"\n") + 1
            self.dropped_bytes = len(data) - whole
            self.records = parse_records(data[:whole], path)
            self.chain = _last_link(data[:whole])
            if self.dropped_bytes:
                self._file.truncate(whole)
                self._file.flush()
                os.fsync(self._file.fileno())
            sync_directory(path.parent)
        except BaseException:
            self._file.close()
            raise

    def __enter__(self) -> RecordFile:
        return self

    def __exit__(self, *_: object) -> None:
        self._file.close()

    def append(self, records: Iterable[Record]) -> list[Record]:
        """Add records and wait until they are on the disk. Returns them as they will be read."""
        new: list[Record] = []
        lines = []
        chain = self.chain
        for record in records:
            row = record.to_json()
            text = json.dumps(row, ensure_ascii=False, allow_nan=False)
            try:
                line = text.encode()
            except UnicodeEncodeError:  # replaced before it is hashed: the row is hashed as it will be read
                line = text.encode(errors="replace")
                row = json.loads(line)
                record = Record.from_json(row)  # so must what is counted and hashed in memory be
            new.append(record)
            chain = next_link(chain, row)
            lines.append(line[:-1] + f', "{CHAIN}": "{chain}"}}\n'.encode())
        self._file.write(b"".join(lines))
        self._file.flush()
        os.fsync(self._file.fileno())
        self.records.extend(new)
        self.chain = chain
        return new


def next_link(chain: str, row: Mapping[str, Any]) -> str:
    """The link of a line of `records.jsonl`: 64 hex digits.

    Args:
        chain: Link of the line before; "" for the first.
        row: The line.
    """
    covered = {k: v for k, v in row.items() if v is not None and k not in (CHAIN, *PRIVATE)}
    # A link that holds what cannot be encoded is not one of ours, and is refused where links are compared.
    return hashlib.sha256(chain.encode(errors="replace") + canonical_json(covered)).hexdigest()


def read_chained(path: Path) -> list[dict[str, Any]]:
    """The lines of a `records.jsonl` that nobody has touched.

    Raises:
        UsageError: A link does not follow from the line and the one before it.
    """
    chain, rows = "", []
    for number, line in enumerate(path.read_bytes().split(b"\n")[:-1], 1):
        try:
            row = parse_json(line)
            chain = next_link(chain, row)
        except (ValueError, AttributeError, RecursionError):
            row = {CHAIN: ""}  # no line of ours: not as it was written
        if row.get(CHAIN) != chain:
            what = "carries no hash (an older vtrap wrote it)" if CHAIN not in row else "is not as it was written"
            raise UsageError(
                f"{path}, line {number} {what}: records are submitted as they were made; score the run again in "
                "another --out"
            )
        rows.append(row)
    return rows


def _last_link(data: bytes) -> str:
    last = data[data.rfind(b"\n", 0, -1) + 1 :]
    return str(parse_json(last).get(CHAIN, "")) if last.strip() else ""


def parse_records(data: bytes, path: Path) -> list[Record]:
    """The records in whole lines of a file.

    Raises:
        VtrapError: A line is no record.
    """
    # Not splitlines: JSON may hold U+2028 and the like, which are no line ends here.
    return records_of(data.split(b"\n")[:-1], path)


def records_of(lines: Iterable[bytes | dict[str, Any]], path: Path) -> list[Record]:
    """The records in the lines of a file, read as JSON already or not.

    Raises:
        VtrapError: A line is no record.
    """
    records = []
    for number, line in enumerate(lines, 1):
        try:
            records.append(Record.from_json(parse_json(line) if isinstance(line, bytes) else line))
        except ValueError as error:
            raise VtrapError(
                f"{path}, line {number} is no record ({type(error).__name__}: {error}): the file was changed or "
                "damaged; remove that line and run again to make its item anew"
            ) from error
    return records
