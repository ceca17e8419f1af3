"""How does a named corpus become something that `pack` reads? Rows in, `questions.jsonl` (and images) out.

Three shapes of rows:

- conversations: LLaVA's, as they are
- captions: captions of one video, of which that of the whole video answers the corpus' question
- qa: questions and answers about one video become the turns of one conversation, its instruction first
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path, PurePosixPath
from typing import Any

from tqdm import tqdm

from vtrap_data.errors import FatalSampleError, SampleError, UsageError
from vtrap_data.files import atomic_file, write_bytes
from vtrap_data.media.tars import MediaRoot, marks
from vtrap_data.samples import VIDEO_MARK
from vtrap_data.sources.benchmarks.spec import plain
from vtrap_data.sources.corpora.rows import find_files, read_rows
from vtrap_data.sources.corpora.table import NamedCorpus, Shape, Subset
from vtrap_data.sources.counts import Known, agrees, marked, verdict
from vtrap_data.sources.store import store_image

QUESTIONS = "questions.jsonl"
REPORT = "corpus.json"
IMAGES = "images"
MOST_BAD = 0.1
_WHOLE = "-1"
"""`idx` of the caption of a whole video."""

Turns = list[dict[str, str]]


@dataclass(frozen=True, slots=True, kw_only=True)
class SubsetCount:
    """Rows of one subset.

    Attributes:
        subset: Its name.
        files: Its annotation files.
        read: Rows there are (or were asked for with a limit).
        written: Rows that can be packed.
        expected: How many there should be; None: no count is known.
        known: How that is known.
        agrees: Whether the count is as expected; None where it cannot be said: no count is known, or only some rows
            were asked for.
    """

    subset: str
    files: tuple[str, ...]
    read: int
    written: int
    expected: int | None
    known: Known
    agrees: bool | None


@dataclass(frozen=True, slots=True, kw_only=True)
class ConvertedCorpus:
    """What came of it: the content of `corpus.json`.

    Attributes:
        name: Of the corpus.
        source: Folder name or Hub id of the rows.
        revision: What was asked for, if from the Hub.
        unpinned: Why the same command may give other rows another time; None where it may not.
        licence: As the rows carry it.
        redistributable: As the rows carry it.
        subsets: Rows per subset.
        bad: Rows set aside: which one, and why.
        missing_media: Media that are not in the media folder, by the name the row gives.
        other_columns: Columns that nobody had told us of.
    """

    name: str
    source: str
    revision: str | None
    unpinned: str | None
    licence: str
    redistributable: bool
    subsets: tuple[SubsetCount, ...]
    bad: tuple[tuple[str, str], ...]
    missing_media: tuple[str, ...]
    other_columns: tuple[str, ...]

    @property
    def rows(self) -> int:
        """Rows written."""
        return sum(subset.written for subset in self.subsets)

    @property
    def wrong_counts(self) -> int:
        """Subsets that have not as many rows as expected: a fault, unless the caller accepts it."""
        return sum(subset.agrees is False for subset in self.subsets)


def convert(
    corpus: NamedCorpus,
    *,
    rows: str,
    out: Path,
    subsets: Sequence[str] = (),
    media: Path | None = None,
    revision: str | None = None,
    limit: int | None = None,
) -> ConvertedCorpus:
    """Write `questions.jsonl`, `corpus.json` and, for images inside the rows, `images/`.

    Args:
        corpus: Which.
        rows: Folder of the annotation files, or an id on the Hub.
        out: Folder to write.
        subsets: Which parts; none: all.
        media: Folder or tar of the video files; paths in `questions.jsonl` start there.
        revision: Commit on the Hub.
        limit: At most this many rows of each subset, the first ones.

    Raises:
        UsageError: Rows or media cannot be read, columns are missing, or there is no such subset.
        FatalSampleError: More than a tenth of the rows cannot be used.
    """
    if unknown := [name for name in subsets if name not in corpus.subsets]:
        raise UsageError(f"{corpus.name} has no subset {unknown[0]!r}; there are {', '.join(corpus.subsets)}")
    if corpus.media == "video" and media is None:
        raise UsageError(f"{corpus.name} is about video files: give their folder or tar with --media")
    root = MediaRoot(media, setting="--media") if corpus.media == "video" and media is not None else None
    counts = []
    bad: list[tuple[str, str]] = []
    missing: dict[str, None] = {}
    others: dict[str, None] = {}
    with atomic_file(out / QUESTIONS) as file:
        for name in dict.fromkeys(subsets) or corpus.subsets:
            subset = corpus.subsets[name]
            paths = find_files(corpus, subset, source=rows, revision=revision)
            read = written = 0
            for path in paths:
                for row in tqdm(read_rows(path), f"{corpus.name} {path.name}", unit="row", delay=2, leave=False):
                    if read == limit:
                        break
                    if read == 0:
                        _check_columns(corpus, subset, row)
                    place, read = f"{name}/{path.name}[{read}]", read + 1
                    try:
                        line = _line(corpus, subset, row, place=place, root=root, out=out, missing=missing)
                    except (ValueError, KeyError, TypeError, AttributeError, SampleError) as error:
                        said = "it lacks" if isinstance(error, KeyError) else f"{type(error).__name__}:"
                        bad.append((place, f"{said} {error}"[:300]))
                        continue
                    others.update(dict.fromkeys(set(row) - {*corpus.columns, *corpus.optional}))
                    file.write(line)
                    written += 1
            counts.append(
                SubsetCount(
                    subset=name,
                    files=tuple(path.name for path in paths),
                    read=read,
                    written=written,
                    expected=subset.rows,
                    known=subset.known,
                    agrees=None if limit is not None else agrees(read, subset.rows, subset.known),
                )
            )
        total = sum(count.read for count in counts)
        if not total:
            raise UsageError(f"--rows {rows}: the files of {corpus.name} hold no rows")
        if len(bad) > MOST_BAD * total:
            first = ": ".join(bad[0])
            raise FatalSampleError(f"{corpus.name}: {len(bad)} of {total} rows cannot be used; the first is {first}")
    asked = None if Path(rows).is_dir() else revision or corpus.pinned(rows)
    done = ConvertedCorpus(
        name=corpus.name,
        source=Path(rows).name if Path(rows).is_dir() else rows,
        revision=asked,
        unpinned=_unpinned(corpus, rows, asked),
        licence=corpus.licence,
        redistributable=corpus.redistributable,
        subsets=tuple(counts),
        bad=tuple(bad),
        missing_media=tuple(missing),
        other_columns=tuple(sorted(others)),
    )
    write_bytes(out / REPORT, (json.dumps(asdict(done), indent=1, ensure_ascii=False) + "\n").encode())
    return done


def summary(done: ConvertedCorpus, *, accepted: bool = False) -> list[str]:
    """Sentences about what came of it: row counts beside the expected ones first.

    Args:
        done: What came of it.
        accepted: The caller takes counts that differ.
    """
    lines = []
    for count in done.subsets:
        said = verdict(count.read, count.expected, count.known, agreed=count.agrees)
        said = f"{count.subset}: {count.read} rows, {count.written} to pack; {said}"
        lines.append(marked(said, agreed=count.agrees, accepted=accepted))
    if done.unpinned is not None:
        lines.append(f"warning: {done.unpinned}")
    if done.other_columns:
        lines.append(f"columns that are not used: {', '.join(done.other_columns)}")
    lines += [f"set aside: {place}: {why}" for place, why in done.bad[:20]]
    if len(done.bad) > 20:
        lines.append(f"... and {len(done.bad) - 20} more, see {REPORT}")
    if done.missing_media:
        shown = ", ".join(done.missing_media[:3])
        lines.append(f"{len(done.missing_media)} media files are not there, such as {shown}: pack sets them aside")
    if not done.redistributable:
        lines.append(f"licence {done.licence}, and it is not said that the media may be passed on: push will refuse")
    return lines


def _unpinned(corpus: NamedCorpus, rows: str, revision: str | None) -> str | None:
    if revision is not None and re.fullmatch("[0-9a-f]{40}", revision) is None:
        return (
            f"--revision {revision} is a name that its authors can move, so that other rows come under it: give the "
            "commit, 40 hexadecimal digits"
        )
    if revision is None and corpus.revision is None:
        return (
            f"no commit of {corpus.ids[0]} is known here, so nobody can tell which of its versions this folder holds: "
            "download it with `hf download --repo-type dataset --revision COMMIT`, or give its id as --rows and the "
            "commit as --revision"
        )
    return None


def _check_columns(corpus: NamedCorpus, subset: Subset, row: Any) -> None:
    has = sorted(row) if isinstance(row, Mapping) else [type(row).__name__]
    if lacking := [column for column in corpus.columns if column not in has]:
        raise UsageError(
            f"{corpus.name}, {subset.name}: the rows lack the columns {', '.join(lacking)}; they have {', '.join(has)}"
        )


def _line(
    corpus: NamedCorpus,
    subset: Subset,
    row: Mapping[str, Any],
    *,
    place: str,
    root: MediaRoot | None,
    out: Path,
    missing: dict[str, None],
) -> bytes:
    """One row of `questions.jsonl`."""
    name, turns = _SHAPES[corpus.shape](corpus, row)
    medium: dict[str, str] = {}
    if corpus.media == "images":
        if row["image"] is not None:  # some rows are about text alone
            medium = {"image": _image(row["image"], out)}
    else:
        assert root is not None
        medium = {"video": _video(corpus, subset, name, root, missing, source=row.get("data_source"))}
    identity = row.get("id", row.get("video_id"))
    data = {
        "id": f"{corpus.name}/{subset.name}/{identity if identity not in (None, '') else place}",
        **medium,
        "conversations": turns,
        "category": subset.name,
        "source": f"{corpus.name}/{subset.name}",
        "licence": corpus.licence,
        "redistributable": corpus.redistributable,
    }
    return json.dumps(data, ensure_ascii=False, allow_nan=False).encode() + b"\n"


def _conversations(corpus: NamedCorpus, row: Mapping[str, Any]) -> tuple[str, Turns]:
    turns = [{"from": str(turn["from"]), "value": str(turn["value"])} for turn in row["conversations"]]
    if not turns:
        raise ValueError("it has no turns")
    return _name(row["video"]) if corpus.media == "video" else "", turns


def _captions(corpus: NamedCorpus, row: Mapping[str, Any]) -> tuple[str, Turns]:
    whole = [caption["content"] for caption in row["captions"] if str(caption["idx"]) == _WHOLE]
    if len(whole) != 1 or not isinstance(whole[0], str) or not whole[0].strip():
        raise ValueError(f"it has {len(whole)} captions of the whole video")
    return _name(row["video_path"]), _turns([(corpus.question, plain(whole[0]))])


def _qa(corpus: NamedCorpus, row: Mapping[str, Any]) -> tuple[str, Turns]:
    if row.get("start") is not None and row.get("end") is not None:
        raise ValueError(
            f"it is about seconds {row['start']} to {row['end']} of its video, but pack takes whole files: cut it"
        )
    pairs = [(plain(pair.get("q")), plain(pair["a"])) for pair in row["QA"]]
    if not pairs:
        raise ValueError("it has no questions")
    instruction = plain(row["QA"][0].get("i"))
    asked = "\n".join(part for part in (instruction, pairs[0][0]) if part)
    pairs[0] = (asked, pairs[0][1])
    if not all(question and answer for question, answer in pairs):
        raise ValueError("a question or an answer is empty")
    return _name(row["video"]), _turns(pairs)


_SHAPES: dict[Shape, Callable[[NamedCorpus, Mapping[str, Any]], tuple[str, Turns]]] = {
    "conversations": _conversations,
    "captions": _captions,
    "qa": _qa,
}


def _turns(pairs: Sequence[tuple[str, str]]) -> Turns:
    turns = []
    for number, (question, answer) in enumerate(pairs):
        turns.append({"from": "human", "value": f"{VIDEO_MARK}\n{question}" if number == 0 else question})
        turns.append({"from": "gpt", "value": answer})
    return turns


def _name(value: Any) -> str:
    if not isinstance(value, str) or not value:
        raise ValueError(f"its medium is {str(value)[:80]!r}, no path")
    return value


def _video(
    corpus: NamedCorpus, subset: Subset, name: str, root: MediaRoot, missing: dict[str, None], *, source: object
) -> str:
    """The path of a row's file below the media folder: where it is, or where it should be."""
    names = {"subset": subset.name, "name": subset.name.rpartition("/")[2]}
    names["source"] = source if isinstance(source, str) else ""
    places = [f"{layout.format(**names)}/{name}".removeprefix("/") for layout in corpus.layout]
    # VideoChat2-IT's rows leave the ending out in places, and mean MP4.
    endings = ("",) if PurePosixPath(name).suffix else (".mp4", "")
    for place in (f"{place}{ending}" for ending in endings for place in places):
        if marks(root.locate(place)) is not None:
            return place
    missing[name] = None
    return places[0]


def _image(value: Any, out: Path) -> str:
    data = value.get("bytes") if isinstance(value, Mapping) else None
    if not isinstance(data, bytes) or not data:
        raise ValueError("its image has no bytes")
    return store_image(data, out, IMAGES, spread=True)
