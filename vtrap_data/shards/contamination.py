"""Does a corpus hold what a benchmark asks about? Media by hash and by look, questions by their words.

Equal files are found by their sha256. Files that were encoded, scaled or cut anew are found by how their pictures look
(`looks`). Questions are compared as words, without case, punctuation and media marks.
"""

from __future__ import annotations

import argparse
import json
import re
import unicodedata
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass
from itertools import islice
from pathlib import Path
from typing import Literal, NamedTuple

import numpy as np
from PIL import Image
from tqdm import tqdm

from vtrap_data.errors import VtrapError, printable
from vtrap_data.media import images, jpeg
from vtrap_data.samples import IMAGE_MARK, VIDEO_MARK, Item
from vtrap_data.shards.looks import DISTANCE, Numbers, Words, bits_apart, check_distance, near, picture_hash
from vtrap_data.shards.manifest import read_manifest
from vtrap_data.shards.members import FRAMES, IMAGES
from vtrap_data.shards.stored import StoredSample, Unread, read_what_can_be

FRAMES_SEEN = 8
"""Stored frames looked at per video, evenly spread."""
SHARE = 0.5
"""Share of a benchmark medium's pictures that must be found in one medium of the corpus."""
MIN_WORDS = 6
"""Words of a question (`count_words`) below which many people would have written the same one."""
_UNSPACED = (
    "\u0e00-\u0eff\u1000-\u109f\u1780-\u17ff"  # Thai, Lao; Burmese; Khmer
    "\u3005-\u3007\u3040-\u30ff\u31f0-\u31ff"  # kana, and signs that stand for characters
    "\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff\U00020000-\U0003ffff"  # Han
    "\uac00-\ud7a3"  # Hangul, which has spaces, but not between all words
)
_WORD = re.compile(rf"[{_UNSPACED}]|[^\W{_UNSPACED}]+")

_HELD = 1 << 20
"""Alike pictures that are held before those that count are picked out."""
_NO_PICTURES: Words = np.zeros((0, 4), np.uint64)

EXAMPLES = """\
examples:
  python -m vtrap_data contamination corpus packed/videomme packed/mmstar
  python -m vtrap_data contamination corpus packed/videomme --json > shared.json
exit code 1 if the corpus holds media of a benchmark, or questions of at least six words
"""


@dataclass(frozen=True, slots=True, kw_only=True)
class Shared:
    """One thing that corpus and benchmark share.

    Attributes:
        kind: "file": equal bytes; "look": pictures that are alike; "question": the same words.
        benchmark: Folder of the benchmark.
        item: Media item of the benchmark; for questions the item id.
        corpus_item: Where in the corpus: the first of them.
        detail: The file's hash, how many pictures are alike and how far apart, or the question.
    """

    kind: Literal["file", "look", "question"]
    benchmark: str
    item: str
    corpus_item: str
    detail: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Contamination:
    """What a corpus shares with one benchmark.

    Attributes:
        benchmark: Folder of the benchmark.
        media: Media items it has.
        media_shared: Those whose file, or whose look, is in the corpus.
        items: Questions it has.
        items_on_shared_media: Questions about shared media: the share of the score that is in doubt.
        questions_shared: Questions whose words are in the corpus.
        short_questions_shared: Those of them with fewer than MIN_WORDS words, which mean little.
        unreadable: Media whose pictures could not be read: compared by their files only. Where a shard is cut off, the
            questions of the samples behind the cut are not compared either.
        shared: Each of them.
    """

    benchmark: str
    media: int
    media_shared: int
    items: int
    items_on_shared_media: int
    questions_shared: int
    short_questions_shared: int
    unreadable: int
    shared: tuple[Shared, ...]

    @property
    def found(self) -> bool:
        """Whether there is reason to worry."""
        return self.media_shared > 0 or self.questions_shared > self.short_questions_shared


class _Asked(NamedTuple):
    """An item: its id, and the words of what is asked in it: the bare question first, then each user turn."""

    id: str
    texts: tuple[str, ...]


class _Medium(NamedTuple):
    """One media item: its id, its items, its files' hashes, and the hashes of its pictures; None: not readable."""

    id: str
    items: tuple[_Asked, ...]
    files: tuple[str, ...]
    pictures: Words | None


class _Corpus(NamedTuple):
    """What is compared: files, pictures (each with the number of its medium) and questions."""

    names: list[str]
    files: dict[str, str]
    pictures: Words
    owners: Numbers
    questions: dict[str, str]


class _Look(NamedTuple):
    """The medium of the corpus that a medium looks like, and how many of its pictures do, how many bits apart."""

    where: str
    alike: int
    least: int
    most: int


def contamination(corpus: Path, benchmarks: Sequence[Path], *, distance: int = DISTANCE) -> list[Contamination]:
    """Compare a packed corpus with packed benchmarks.

    Args:
        corpus: Folder of the corpus.
        benchmarks: Folders of benchmarks.
        distance: Bits of 256 that may differ between pictures that are alike; 0 to 64.

    Raises:
        UsageError: A folder holds no packed corpus, or the distance is out of range.
    """
    check_distance(distance)
    for root in (corpus, *benchmarks):
        read_manifest(root)  # a folder that is none of ours is said so before hours of looking
    known = _known(list(_media(corpus)))
    asked = [list(_media(root)) for root in benchmarks]
    # All benchmarks at once: what it takes is mostly the corpus.
    looks = iter(_same_looks(known, [medium for media in asked for medium in media], distance))
    return [
        _compare(known, str(root), list(zip(media, islice(looks, len(media)), strict=True)))
        for root, media in zip(benchmarks, asked, strict=True)
    ]


def plain_question(text: str) -> str:
    """A question as words: no case, punctuation or media marks.

    >>> plain_question("<video>What  is red, here?")
    'what is red here'
    """
    for mark in (VIDEO_MARK, IMAGE_MARK):
        text = text.replace(mark, " ")
    return " ".join(re.findall(r"\w+", unicodedata.normalize("NFKC", text).casefold()))


def count_words(plain: str) -> int:
    """Words of a plain question. In scripts that set no spaces between words every letter or syllable counts as one.

    >>> count_words("what is red here"), count_words("\u7ea2\u8272\u7684 tv")
    (4, 4)
    """
    return len(_WORD.findall(plain))


def as_text(found: Iterable[Contamination]) -> str:
    """A paragraph per benchmark, with the first few of what is shared."""
    lines = []
    for one in found:
        lines.append(
            f"{one.benchmark}: {one.media_shared} of {one.media} media are in the corpus, with "
            f"{one.items_on_shared_media} of {one.items} questions; {one.questions_shared} questions are asked there "
            f"in the same words ({one.short_questions_shared} of them too short to mean much)"
        )
        if one.unreadable:
            lines.append(f"  {one.unreadable} media could not be read and were compared by their files only")
        lines += ["  " + printable(f"{s.kind}: {s.item} is {s.corpus_item} ({s.detail})") for s in one.shared[:10]]
        if len(one.shared) > 10:
            lines.append(f"  ... and {len(one.shared) - 10} more (--json lists all)")
    return "\n".join(lines)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Arguments of `python -m vtrap_data contamination`."""
    parser.description = "Find media and questions of packed benchmarks in a packed corpus."
    parser.epilog = EXAMPLES
    parser.add_argument("corpus", type=Path, metavar="CORPUS", help="folder of a packed corpus")
    parser.add_argument("benchmarks", type=Path, nargs="+", metavar="BENCH", help="folder of a packed benchmark")
    parser.add_argument(
        "--distance",
        type=int,
        default=DISTANCE,
        metavar="BITS",
        help="bits of 256 by which alike pictures may differ (default: %(default)s)",
    )
    parser.add_argument("--json", action="store_true", help="everything that is shared, as JSON")


def run(args: argparse.Namespace) -> int:
    """Run the command: exit code 1 if something is shared, otherwise 0."""
    found = contamination(args.corpus, args.benchmarks, distance=args.distance)
    print(json.dumps([asdict(one) for one in found], indent=1) if args.json else as_text(found))
    return int(any(one.found for one in found))


def _known(media: Sequence[_Medium]) -> _Corpus:
    """The media of a corpus, to be compared with."""
    files: dict[str, str] = {}
    questions: dict[str, str] = {}
    for medium in media:
        for file in medium.files:
            files.setdefault(file, medium.id)
        for item in medium.items:
            for text in item.texts:
                questions.setdefault(text, item.id)
    pictures = [_NO_PICTURES if medium.pictures is None else medium.pictures for medium in media]
    return _Corpus(
        names=[medium.id for medium in media],
        files=files,
        pictures=np.concatenate([_NO_PICTURES, *pictures]),
        owners=np.repeat(np.arange(len(media)), [len(found) for found in pictures]),
        questions=questions,
    )


def _compare(corpus: _Corpus, name: str, media: Sequence[tuple[_Medium, _Look | None]]) -> Contamination:
    """What is shared with one benchmark, whose media look like these of the corpus."""
    shared: list[Shared] = []
    on_shared = media_shared = asked = short = 0
    for medium, look in media:
        match = _match(corpus, medium, name, look)
        if match is not None:
            shared.append(match)
            media_shared += 1
            on_shared += len(medium.items)
        for item in medium.items:
            for text in item.texts[:1]:
                if text in corpus.questions:
                    asked += 1
                    short += count_words(text) < MIN_WORDS
                    known = corpus.questions[text]
                    found = Shared(kind="question", benchmark=name, item=item.id, corpus_item=known, detail=text)
                    shared.append(found)
    return Contamination(
        benchmark=name,
        media=len(media),
        media_shared=media_shared,
        items=sum(len(medium.items) for medium, _ in media),
        items_on_shared_media=on_shared,
        questions_shared=asked,
        short_questions_shared=short,
        unreadable=sum(medium.pictures is None for medium, _ in media),
        shared=tuple(shared),
    )


def _match(corpus: _Corpus, medium: _Medium, name: str, look: _Look | None) -> Shared | None:
    for file in medium.files:
        if file in corpus.files:
            where = corpus.files[file]
            return Shared(kind="file", benchmark=name, item=medium.id, corpus_item=where, detail=f"sha256 {file[:16]}")
    if look is None or medium.pictures is None:
        return None
    detail = f"{look.alike} of {len(medium.pictures)} pictures alike, {look.least} to {look.most} bits apart"
    return Shared(kind="look", benchmark=name, item=medium.id, corpus_item=look.where, detail=detail)


def _same_looks(corpus: _Corpus, media: Sequence[_Medium], distance: int) -> list[_Look | None]:
    """Of each medium the one of the corpus that shows most of its pictures, and enough; the first of several."""
    pictures = [_NO_PICTURES if medium.pictures is None else medium.pictures for medium in media]
    counts = np.array([len(some) for some in pictures], np.int64)
    looks: list[_Look | None] = [None] * len(media)
    n, names = len(corpus.pictures), len(corpus.names)
    if not n or not counts.any():
        return looks
    keys = np.concatenate([corpus.pictures, *pictures])
    # Of each picture and each medium of the corpus the nearest picture: both in one number, and bits apart.
    found = np.zeros((2, 0), np.int64)
    more: list[Numbers] = []
    for a, b in near(keys, distance, of=n):
        more.append(np.stack([(b - n) * names + corpus.owners[a], bits_apart(keys[a], keys[b])]))
        if sum(one.shape[1] for one in more) > max(_HELD, found.shape[1]):
            found, more = _nearest(found, *more), []
    both, apart = _nearest(found, *more)
    owners = np.repeat(np.arange(len(media)), counts)
    pair = owners[both // names] * names + both % names
    order = np.argsort(pair, kind="stable")
    pair, apart = pair[order], apart[order]
    starts = np.flatnonzero(np.diff(pair, prepend=-1))
    alike = np.diff(starts, append=len(pair))
    for start, number in sorted(zip(starts.tolist(), alike.tolist(), strict=True), key=lambda one: -one[1]):
        medium, where = divmod(int(pair[start]), names)
        if looks[medium] is None and number >= max(1.0, SHARE * counts[medium]):
            some = apart[start : start + number]
            looks[medium] = _Look(corpus.names[where], number, int(some.min()), int(some.max()))
    return looks


def _nearest(*found: Numbers) -> Numbers:
    """Of each number in the first row the smallest in the second, int64 [2, found]."""
    both, apart = np.concatenate(found, axis=1)
    order = np.lexsort((apart, both))
    order = order[np.diff(both[order], prepend=-1) > 0]
    return np.stack([both[order], apart[order]])


def _media(root: Path) -> Iterator[_Medium]:
    total = read_manifest(root).counts["samples"]
    found = read_what_can_be(root)
    for one in tqdm(found, f"looking at {root.name}", total, unit="media", delay=2, disable=None):
        if isinstance(one, Unread):
            yield _Medium(one.id, tuple(_Asked(name, ()) for name in one.items), one.media, None)
            continue
        sample = one.sample
        items = tuple(_Asked(item.id, _questions(item)) for item in sample.items)
        yield _Medium(sample.id, items, sample.media, _looks(one))


def _looks(stored: StoredSample) -> Words | None:
    """Hashes of a medium's pictures, those with too little contrast left out; None if one cannot be read."""
    try:
        hashes = [picture_hash(image) for image in _pictures(stored)]
    except (VtrapError, ValueError, IndexError):
        return None
    return np.array([one for one in hashes if one is not None], np.uint64).reshape(-1, 4)


def _pictures(stored: StoredSample) -> Iterator[Image.Image]:
    sample = stored.sample
    if sample.images:
        for found in stored.blobs(IMAGES):
            yield images.load_image(found, name=sample.key)
    if sample.video is not None:
        frames = stored.blobs(FRAMES)
        for number in sorted({round(k * (len(frames) - 1) / (FRAMES_SEEN - 1)) for k in range(FRAMES_SEEN)}):
            yield jpeg.decode(frames[number], name=sample.key)


def _questions(item: Item) -> tuple[str, ...]:
    texts = [item.question, *(m.content for m in item.messages if m.role == "user")]
    return tuple(text for text in dict.fromkeys(plain_question(t) for t in texts) if text)
