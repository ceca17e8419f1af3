r"""What samples does a JSONL file (or a JSON array) hold? Reads the two dialects that video instruction data comes in.

LLaVA / ShareGPT:

    {"id": "1", "video": "a.mp4", "conversations": [{"from": "human", "value": "<video>\nWhat ...?"},
                                                    {"from": "gpt", "value": "A cat."}]}

OpenAI / TRL messages, whose content is text with marks or a list of typed parts:

    {"images": ["a.jpg"], "messages": [{"role": "user", "content": "<image>What ...?"},
                                       {"role": "assistant", "content": "A cat."}]}

Optional in both: id, question, options, answer, ability, category, needs, source, licence, redistributable.
Nothing is opened here but the file itself.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path, PurePosixPath
from typing import Any, Literal, NamedTuple

from tqdm import tqdm

from vtrap_data.errors import Reason, SampleError, UsageError, cut
from vtrap_data.files import is_unicode
from vtrap_data.media.tars import MediaRoot
from vtrap_data.parsing import parse_json
from vtrap_data.samples import IMAGE_MARK, VIDEO_MARK, Item, Kind, Message, Role, SourceSample
from vtrap_data.sources.store import unique

_ROLES: dict[str, Role] = {
    "human": "user",
    "user": "user",
    "gpt": "assistant",
    "assistant": "assistant",
    "system": "system",
}
_COMPRESSED = (b"\x1f\x8b", b"\x28\xb5\x2f\xfd", b"BZh", b"\xfd7zXZ\0")
"""How files of gzip, Zstandard, bzip2 and xz begin."""
_URL = re.compile(r"[a-zA-Z][a-zA-Z0-9+.-]+://")


@dataclass(frozen=True, slots=True, kw_only=True)
class SourceFile:
    """What a source file holds.

    Attributes:
        samples: Media items in order of first appearance, each with every item about it.
        rejected: Rows that cannot be used, for the quarantine list.
    """

    samples: tuple[SourceSample, ...]
    rejected: tuple[SampleError, ...] = ()


class _Line(NamedTuple):
    place: str
    row: Any


class _Origin(NamedTuple):
    """Rows that agree in all of this are about one media item."""

    kind: Kind
    paths: tuple[Path, ...]
    source: str
    licence: str
    redistributable: bool | None


class _Row(NamedTuple):
    origin: _Origin
    item: Item


def read_jsonl(path: Path, *, media_root: Path | None = None, name: str | None = None) -> SourceFile:
    """Read a JSONL file, or a JSON file that holds one array of rows.

    Args:
        path: The file.
        media_root: Folder that media paths start from and may not leave, links included; what is not there as a file
            is looked for in the tars of the folders on its way. Or one tar. None: the file's own folder.
        name: Source of rows that name none. None: the file's name without suffix.

    Returns:
        The samples and the rejected rows. Rows about the same medium become one sample with several items.

    Raises:
        UsageError: There is no such file or folder, its name is no text, or the file is compressed or holds no row.
    """
    if not path.is_file():
        raise UsageError(f"{path} is not a file: give a JSONL file")
    if not is_unicode(path.name):  # rows are called after it
        raise UsageError(f"the name of {path} holds bytes that are no UTF-8: rename it")
    with path.open("rb") as file:
        if file.read(6).startswith(_COMPRESSED):
            raise UsageError(f"{path} is compressed: uncompress it first (gunzip, unzstd, bunzip2, unxz)")
    root = MediaRoot(path.parent if media_root is None else media_root)
    groups: dict[Any, list[_Row]] = {}
    rejected: list[SampleError] = []
    used: dict[str, int] = {}
    for place, row in tqdm(_lines(path, rejected), "read", unit="row", delay=2, leave=False, disable=None):
        try:
            read = _read_row(row, place=place, root=root, source=name or path.stem)
        except SampleError as error:
            rejected.append(error)
            continue
        read = read._replace(item=replace(read.item, id=unique(read.item.id, used)))
        # Text rows have no medium in common: each stays a sample of its own.
        groups.setdefault(read.origin if read.origin.paths else read.item.id, []).append(read)
    if not groups and not rejected:
        raise UsageError(f"{path} holds no rows")
    ids: dict[str, int] = {}
    samples = [_sample(rows, root, ids) for rows in groups.values()]
    return SourceFile(samples=tuple(samples), rejected=tuple(rejected))


def _lines(path: Path, rejected: list[SampleError]) -> Iterator[_Line]:
    """The rows with their place in the file; lines that are no JSON go to `rejected`."""
    if path.suffix.lower() == ".json":
        try:
            rows = parse_json(path.read_text(encoding="utf-8-sig"), nan=False)
        except ValueError as error:
            raise UsageError(f"{path} is no JSON: {error}") from None
        if not isinstance(rows, list):
            raise UsageError(f"{path} holds a {type(rows).__name__}: a .json file must hold one array of rows")
        yield from (_Line(f"{path.name}[{number}]", row) for number, row in enumerate(rows))
        return
    with path.open("rb") as file:
        for number, line in enumerate(file, start=1):
            if number == 1:
                line = line.removeprefix(b"\xef\xbb\xbf")
            if not line.strip():
                continue
            place = f"{path.name}:{number}"
            try:
                row = parse_json(line.rstrip().decode("utf-8"), nan=False)
            except ValueError as error:
                # Not its "line 2 column 1": that would be of this line, and begins with 1 in each.
                what = (
                    f"{error.msg} at character {error.pos + 1}" if isinstance(error, json.JSONDecodeError) else error
                )
                rejected.append(SampleError(place, Reason.BAD_ROW, f"line {number} is no JSON: {what}"))
            else:
                yield _Line(place, row)


def _read_row(row: Any, *, place: str, root: MediaRoot, source: str) -> _Row:
    def bad(detail: str, reason: Reason = Reason.BAD_ROW) -> SampleError:
        return SampleError(place, reason, detail)

    if not isinstance(row, dict):
        raise bad(f"a row must be an object, not {type(row).__name__}")
    try:
        # JSON may hold halves of surrogate pairs, which no file and no tokenizer takes.
        json.dumps(row, ensure_ascii=False).encode()
        turns, inline = _turns(row)
        media = {kind: _media(row, kind, inline[kind]) for kind in ("image", "video")}
        if media["image"] and media["video"]:
            raise ValueError("it has images and a video: one row is about one of them")
        if len(media["video"]) > 1:
            raise ValueError(f"it has {len(media['video'])} videos: one row is about one video")
        kind: Kind = "video" if media["video"] else "images" if media["image"] else "text"
        names = media["video"] or media["image"]
        turns = _with_marks(turns, kind, len(names))
        item = _item(row, turns, default_id=place)
        source = _text(row, "source") or source
        licence = _text(row, "licence") or _text(row, "license") or "unknown"
        free = row.get("redistributable")
        if free is not None and not isinstance(free, bool):
            raise ValueError(f"redistributable must be true, false or null, not {free!r}")
    except (ValueError, RecursionError) as error:  # of dumps: it may give up where loads did not
        raise bad(str(error)) from None
    paths = []
    for name in names:
        if _URL.match(name):
            raise bad(f"{name[:80]!r} is a URL: download it and give its path")
        try:
            paths.append(root.locate(name))
        except ValueError as error:
            raise bad(str(error)) from None
        except SampleError as error:
            raise bad(error.detail, error.reason) from None
    return _Row(_Origin(kind, tuple(paths), source, licence, free), item)


def _turns(row: Mapping[str, Any]) -> tuple[list[Message], dict[str, list[str]]]:
    """The turns of a row, and media that typed parts name."""
    inline: dict[str, list[str]] = {"image": [], "video": []}
    if row.get("conversations") is not None:  # a table of both dialects has the column of the other one, too
        key, who, what = "conversations", "from", "value"
    elif row.get("messages") is not None:
        key, who, what = "messages", "role", "content"
    else:
        raise ValueError("it has neither conversations nor messages")
    if not isinstance(row[key], list) or not row[key]:
        raise ValueError(f"{key} must be a list of turns")
    turns = []
    for number, turn in enumerate(row[key]):
        if not isinstance(turn, dict) or not isinstance(turn.get(who), str) or what not in turn:
            raise ValueError(f"turn {number} of {key} must be an object with {who} and {what}")
        role = _ROLES.get(turn[who])
        if role is None:
            raise ValueError(f"turn {number} is from {turn[who]!r}; there are {', '.join(_ROLES)}")
        turns.append(Message(role=role, content=_content(turn[what], number, inline)))
    spoken = [turn.role for turn in turns if turn.role != "system"]
    if "user" not in spoken:
        raise ValueError("it has no user turn")
    if spoken[0] != "user":
        raise ValueError("the assistant speaks before the user")
    if "assistant" not in spoken and row.get("answer") is None:
        raise ValueError("it has no assistant turn and no answer")
    return turns, inline


def _content(content: Any, number: int, inline: dict[str, list[str]]) -> str:
    """Text of one turn, with a mark for each typed part that is a medium."""
    if isinstance(content, str):
        return content
    if not isinstance(content, list):
        raise ValueError(f"the content of turn {number} must be text or a list of parts, not {type(content).__name__}")
    pieces = []
    for part in content:
        kind = part.get("type") if isinstance(part, dict) else None
        if kind == "text" and isinstance(part.get("text"), str):
            pieces.append(part["text"])
        elif kind in ("image", "video"):
            pieces.append(VIDEO_MARK if kind == "video" else IMAGE_MARK)
            name = part.get(kind, part.get("path", part.get("url")))
            if isinstance(name, str) and name:
                inline[kind].append(name)
        else:
            raise ValueError(f"turn {number} has a part of type {kind!r}; there are text, image and video")
    return "".join(pieces)


def _media(row: Mapping[str, Any], kind: Literal["image", "video"], inline: list[str]) -> list[str]:
    """Media paths of a row: of `image`, of `images` (text or list) or of its typed parts.

    Where several are given they must agree: which of two lists goes with the marks nobody can say.
    """
    given: dict[str, list[str]] = {}
    for key in (kind, f"{kind}s"):
        value = row.get(key)
        names = value if isinstance(value, list) else [] if value is None else [value]
        for name in names:
            if not isinstance(name, str) or not name:
                raise ValueError(f"{key} must be a path or a list of paths, not {str(value)[:80]!r}")
        given[key] = names
    given["the content"] = inline
    (first, names), *others = [(where, names) for where, names in given.items() if names] or [("", [])]
    for where, more in others:
        if [*map(PurePosixPath, more)] != [*map(PurePosixPath, names)]:
            raise ValueError(
                f"{first} names {cut(str(names))} and {where} {cut(str(more))}: "
                f"name the same {kind}s in the same order, or all in one place"
            )
    return names


def _with_marks(turns: list[Message], kind: Kind, media: int) -> list[Message]:
    """The same turns with exactly one mark per medium, all in user turns."""
    if any(VIDEO_MARK in turn.content or IMAGE_MARK in turn.content for turn in turns if turn.role != "user"):
        raise ValueError("a mark stands outside the user's turns")
    text = "".join(turn.content for turn in turns)
    videos, images = text.count(VIDEO_MARK), text.count(IMAGE_MARK)
    if kind == "video" and videos == 0 and images == media:
        # LLaVA-style video corpora mark a video with <image>.
        turns = [replace(turn, content=turn.content.replace(IMAGE_MARK, VIDEO_MARK)) for turn in turns]
        videos, images = images, 0
    mine, others = (videos, images) if kind == "video" else (images, videos)
    if others or mine > media:
        of = (
            f"for {media} media of kind {kind}"
            if media
            else "for 0 media: none of image, images, video, videos names one"
        )
        raise ValueError(f"it has {videos} {VIDEO_MARK} and {images} {IMAGE_MARK} marks {of}")
    if mine == media:
        return turns
    if mine:
        raise ValueError(f"it has {mine} marks for {media} media: nobody can say which one lacks its mark")
    first = next(number for number, turn in enumerate(turns) if turn.role == "user")
    mark = VIDEO_MARK if kind == "video" else IMAGE_MARK
    front = replace(turns[first], content=mark * media + "\n" + turns[first].content)
    return [*turns[:first], front, *turns[first + 1 :]]


def _item(row: Mapping[str, Any], turns: Sequence[Message], *, default_id: str) -> Item:
    options = row.get("options") or []
    if not isinstance(options, list) or not all(isinstance(option, str) for option in options):
        raise ValueError("options must be a list of texts")
    answer = row.get("answer")
    if isinstance(answer, (int, float)) and not isinstance(answer, bool):
        answer = str(answer)
    if answer is not None and not isinstance(answer, str):
        raise ValueError(f"answer must be text, not {type(answer).__name__}")
    if options and answer is not None and answer not in options:
        letter = ord(answer.strip("(). ")) - ord("A") if len(answer.strip("(). ")) == 1 else -1
        if not 0 <= letter < len(options):
            raise ValueError(f"the answer {answer[:80]!r} is none of the {len(options)} options, nor a letter for one")
        answer = options[letter]
    needs = row.get("needs")
    if needs is not None and (isinstance(needs, bool) or not isinstance(needs, int) or not 0 <= needs < 1 << 31):
        raise ValueError(f"needs must be a number of frames, not {needs!r}")
    name = row.get("id")
    question = _text(row, "question")
    if question is None:
        question = "\n".join(turn.content for turn in turns if turn.role == "user")
        question = question.replace(VIDEO_MARK, " ").replace(IMAGE_MARK, " ").strip()
    return Item(
        id=default_id if name is None or name == "" else str(name),
        messages=tuple(turns),
        question=question,
        options=tuple(options),
        answer=answer,
        ability=_text(row, "ability"),
        category=_text(row, "category"),
        needs=needs,
    )


def _text(row: Mapping[str, Any], key: str) -> str | None:
    value = row.get(key)
    if value is not None and not isinstance(value, str):
        raise ValueError(f"{key} must be text, not {type(value).__name__}")
    return value or None


def _sample(rows: Sequence[_Row], root: MediaRoot, ids: dict[str, int]) -> SourceSample:
    origin = rows[0].origin
    names = [root.relative(path) for path in origin.paths]
    if not names:
        name = rows[0].item.id
    elif len(names) == 1:
        name = names[0]
    else:
        # Several images: the first name, and a hash of all of them that does not depend on the order of the rows.
        name = f"{names[0]}+{len(names) - 1}-{hashlib.sha256('|'.join(names).encode()).hexdigest()[:8]}"
    return SourceSample(
        id=unique(name, ids),
        kind=origin.kind,
        paths=origin.paths,
        items=tuple(row.item for row in rows),
        source=origin.source,
        licence=origin.licence,
        redistributable=origin.redistributable,
    )
