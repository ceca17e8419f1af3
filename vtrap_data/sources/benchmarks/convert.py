"""How does a benchmark become something that `pack` reads? Rows in, `bench.jsonl` and the images of the rows out."""

from __future__ import annotations

import base64
import json
from collections import Counter
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from tqdm import tqdm

from vtrap_data.errors import FatalSampleError, SampleError, UsageError
from vtrap_data.files import atomic_file, write_bytes
from vtrap_data.media.tars import MediaRoot, marks
from vtrap_data.samples import IMAGE_MARK, VIDEO_MARK
from vtrap_data.sources.benchmarks.rows import read_rows
from vtrap_data.sources.benchmarks.spec import Benchmark, Question, lettered, write_facts
from vtrap_data.sources.counts import Known, agrees, marked, verdict
from vtrap_data.sources.store import ending, store_image, unique

BENCH = "bench.jsonl"
REPORT = "benchmark.json"
CONVERSION_VERSION = 4
"""A change that alters what is written bumps it (CHANGELOG label FORMAT)."""
MOST_BAD = 0.1


@dataclass(frozen=True, slots=True, kw_only=True)
class Bad:
    """A row that could not be used."""

    row: str
    detail: str


@dataclass(frozen=True, slots=True, kw_only=True)
class PartCount:
    """Rows of one part.

    Attributes:
        config: Of the part.
        split: Of the part.
        read: Rows there are.
        rows: Of those, the ones that do not belong to another task.
        questions: Rows that became questions.
        expected: How many `rows` there should be.
        known: How that is known.
        agrees: Whether they are as many; None where only some were asked for.
    """

    config: str
    split: str
    read: int
    rows: int
    questions: int
    expected: int
    known: Known
    agrees: bool | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Converted:
    """What came of it: the content of `benchmark.json`, but for the version.

    Attributes:
        name: Of the benchmark.
        source: Folder name or Hub id of the rows.
        revision: Commit, if from the Hub.
        parts: Rows per part.
        bad: Rows set aside.
        unknown_categories: Categories that the ability map does not have, with their rows.
        missing_videos: Video files that are not in the media folder.
    """

    name: str
    source: str
    revision: str | None
    parts: tuple[PartCount, ...]
    bad: tuple[Bad, ...]
    unknown_categories: Mapping[str, int]
    missing_videos: tuple[str, ...]

    @property
    def questions(self) -> int:
        """Questions written."""
        return sum(part.questions for part in self.parts)

    @property
    def wrong_counts(self) -> int:
        """Parts that have not as many rows as expected: a fault, unless the caller accepts it."""
        return sum(part.agrees is False for part in self.parts)


def convert(
    benchmark: Benchmark,
    *,
    rows: str,
    out: Path,
    media: Path | None = None,
    revision: str | None = None,
    limit: int | None = None,
    circular: bool = False,
) -> Converted:
    """Write `bench.jsonl`, `benchmark.json` and, for images inside the rows, `media/`. Run again, it starts over, but
    writes no image twice.

    Args:
        benchmark: Which.
        rows: Folder of the rows, or an id on the Hub.
        out: Folder to write.
        media: Folder or tar of the video files; paths in `bench.jsonl` start there. Image benchmarks need none.
        revision: Commit on the Hub.
        limit: At most this many rows per part, the first ones; for a look.
        circular: Ask every multiple-choice question once per rotation of its options, unless the rows do so already.

    Raises:
        UsageError: Rows or media cannot be read, or columns are missing.
        FatalSampleError: More than a tenth of the rows are bad.
    """
    if benchmark.media == "video" and media is None:
        raise UsageError(f"{benchmark.name} is about video files: give their folder or tar with --media")
    root = MediaRoot(media, setting="--media") if benchmark.media == "video" and media is not None else None
    counts, bad = [], []
    ids: dict[str, int] = {}
    unknown: Counter[str] = Counter()
    missing: dict[str, None] = {}
    with atomic_file(out / BENCH) as file:
        for part in benchmark.parts:
            read = others = questions = 0
            found = read_rows(benchmark, part, source=rows, revision=revision)
            for number, row in enumerate(tqdm(found, desc=f"{benchmark.name} {part.config}", unit="row", delay=2)):
                if number == limit:
                    break
                read += 1
                try:
                    question = benchmark.read(row, part)
                    if question is None:
                        others += 1
                        continue
                    names = [_image(value, out, Path(rows)) for value in question.images]
                    video = _video(question, root, missing)
                    name = unique(f"{benchmark.name}/{question.id or f'{part.config}/{number:06d}'}", ids)
                    copies = rotations(question, name) if circular else [(name, question)]
                    data = b"".join(_line(benchmark, one, names, id=i, video=video) for i, one in copies)
                except (ValueError, KeyError, TypeError, OverflowError, SampleError) as error:
                    bad.append(Bad(row=f"{part.config}/{part.split}[{number}]", detail=str(error)))
                    continue
                file.write(data)
                questions += 1
                if question.category not in benchmark.abilities:
                    unknown[question.category] += 1
            counts.append(
                PartCount(
                    config=part.config,
                    split=part.split,
                    read=read,
                    rows=read - others,
                    questions=questions,
                    expected=part.rows,
                    known=part.known,
                    agrees=None if limit is not None else agrees(read - others, part.rows, part.known),
                )
            )
        total = sum(count.read for count in counts)
        if not total:
            raise UsageError(f"--rows {rows} has no rows of {benchmark.name}")
        if len(bad) > MOST_BAD * total:
            first = f"the first, {bad[0].row}: {bad[0].detail}"
            raise FatalSampleError(f"{benchmark.name}: {len(bad)} of {total} rows cannot be used; {first}")
    done = Converted(
        name=benchmark.name,
        source=Path(rows).name if Path(rows).is_dir() else rows,
        revision=None if Path(rows).is_dir() else revision or benchmark.pinned(rows),
        parts=tuple(counts),
        bad=tuple(bad),
        unknown_categories=dict(sorted(unknown.items())),
        missing_videos=tuple(missing),
    )
    content = {"version": CONVERSION_VERSION, "limit": limit, "circular": circular, **asdict(done)}
    write_bytes(out / REPORT, (json.dumps(content, indent=1, ensure_ascii=False) + "\n").encode())
    return done


def summary(done: Converted, *, accepted: bool = False) -> list[str]:
    """Sentences about what came of it: row counts beside the expected ones first.

    Args:
        done: What came of it.
        accepted: The caller takes counts that differ.
    """
    lines = []
    for part in done.parts:
        others = f", {part.read - part.rows} rows of other tasks" if part.read > part.rows else ""
        said = verdict(part.rows, part.expected, part.known, agreed=part.agrees)
        said = f"{part.config}/{part.split}: {part.rows} rows, {part.questions} questions{others}; {said}"
        lines.append(marked(said, agreed=part.agrees, accepted=accepted))
    for name, rows in done.unknown_categories.items():
        lines.append(f'category {name!r} of {rows} rows is not in the ability map: they count as "other"')
    lines += [f"set aside: {bad.row}: {bad.detail}" for bad in done.bad[:20]]
    if len(done.bad) > 20:
        lines.append(f"... and {len(done.bad) - 20} more, see {REPORT}")
    if done.missing_videos:
        shown = ", ".join(done.missing_videos[:3])
        lines.append(f"{len(done.missing_videos)} video files are not there, such as {shown}: pack sets them aside")
    return lines


def rotations(question: Question, name: str) -> list[tuple[str, Question]]:
    """A multiple-choice question with its options in every rotation, each copy with its id; other questions alone.

    Copy k shows option k first. Its facts say which question (`base`) and which rotation it is; the question as its
    authors wrote it (`asked`), which shows the options in their own order, is dropped.
    """
    if question.right is None or question.labelled or "rotation" in question.facts:
        return [(name, question)]
    kept = {key: value for key, value in question.facts.items() if key != "asked"}
    count = len(question.options)
    copies = []
    for k in range(count):
        turned = replace(
            question,
            options=question.options[k:] + question.options[:k],
            right=(question.right - k) % count,
            facts={**kept, "base": name, "rotation": str(k)},
        )
        copies.append((name if k == 0 else f"{name}@{k}", turned))
    return copies


def _line(benchmark: Benchmark, question: Question, names: list[str], *, id: str, video: str | None) -> bytes:
    """One row of `bench.jsonl`. The turn shows question and options; a prompt profile of the task replaces it."""
    if question.right is not None and len(question.options) < 2:
        raise ValueError(f"it has {len(question.options)} options")
    marks = VIDEO_MARK if video is not None else IMAGE_MARK * len(names)
    if not marks:
        raise ValueError("it has no image")
    answer = question.answer if question.right is None else question.options[question.right]
    if not answer:
        raise ValueError("it has no answer")
    shown = "\n".join(part for part in (question.question, lettered(question.options)) if part)
    row = {
        "id": id,
        **({"video": video} if video is not None else {"images": names}),
        "messages": [{"role": "user", "content": f"{marks}\n{shown}"}],
        "question": question.question,
        "options": list(question.options),
        "answer": answer,
        "ability": benchmark.ability(question.category),
        "category": write_facts(question.facts),
        "source": benchmark.name,
        "licence": benchmark.licence,
        "redistributable": benchmark.redistributable,
    }
    return json.dumps(row, ensure_ascii=False, allow_nan=False).encode() + b"\n"


def _image(value: Any, out: Path, rows: Path) -> str:
    """Store one image.

    Args:
        value: `{"bytes", "path"}` as `datasets` gives it; the path of a file beside the rows; or its bytes in base64,
            as tables of text hold them.
        out: Folder of `media/`.
        rows: Folder of the rows.
    """
    path = value.get("path") if isinstance(value, Mapping) else value
    data = value.get("bytes") if isinstance(value, Mapping) else None
    if data is None:
        if not isinstance(path, str) or not path:
            raise ValueError("it has no image")
        data = _beside(path, rows) or _in_base64(path)
        if data is None:
            raise ValueError(f"its image {path[:80]!r} is no file in the folder of the rows, nor a picture in base64")
    return store_image(data, out, "media")


def _beside(path: str, rows: Path) -> bytes | None:
    try:
        file = (rows / path).resolve()
        return file.read_bytes() if file.is_relative_to(rows.resolve()) and file.is_file() else None
    except (OSError, RuntimeError, ValueError):  # a name that is too long, a circle of links, a NUL
        return None


def _in_base64(cell: str) -> bytes | None:
    try:
        data = base64.b64decode("".join(cell.rpartition("base64,")[2].split()), validate=True)
    except ValueError:
        return None
    return data if ending(data) else None


def _video(question: Question, root: MediaRoot | None, missing: dict[str, None]) -> str | None:
    """The first of the names the video may have that is there; the first of all if none is."""
    if not question.video:
        return None
    assert root is not None
    for name in question.video:
        if marks(root.locate(name)) is not None:
            return name
    missing[question.video[0]] = None
    return question.video[0]
