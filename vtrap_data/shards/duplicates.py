"""Which media of a corpus look alike, although their files differ? Found by looks, reported, never removed.

Equal files of one source are stored once when they are packed. This finds the rest: the same film encoded or scaled
anew. Each medium has up to eight pictures at fixed shares of its length; two media are alike when the middle ones are,
and at least half of all (`looks` says what a picture looks like).
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from tqdm import tqdm

from vtrap_data.errors import VtrapError
from vtrap_data.media import images, jpeg
from vtrap_data.shards.looks import DISTANCE, Numbers, Words, bits_apart, check_distance, near, picture_hash
from vtrap_data.shards.manifest import read_manifest
from vtrap_data.shards.members import FRAMES, IMAGES
from vtrap_data.shards.stored import StoredSample, Unread, read_what_can_be

PICTURES = 8
"""Pictures looked at per medium."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Alike:
    """Media that look alike.

    Attributes:
        samples: Their ids, in the order of the corpus.
        exact: All of them are the same files (of several sources, or the corpus was packed before such were joined).
    """

    samples: tuple[str, ...]
    exact: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class NearDuplicates:
    """What was found.

    Attributes:
        groups: Media that look alike, in the order of the corpus.
        unreadable: Ids of media whose pictures cannot be read: they are compared by their files only.
    """

    groups: tuple[Alike, ...]
    unreadable: tuple[str, ...]


def near_duplicates(root: Path, *, distance: int = DISTANCE) -> NearDuplicates:
    """Find media that look alike. Damage ends nothing.

    Args:
        root: A packed corpus.
        distance: Bits of 256 that may differ between pictures that are alike; 0 to 64.

    Raises:
        UsageError: No packed corpus, or a distance out of range.
    """
    check_distance(distance)
    total = read_manifest(root).counts["samples"]
    names: list[str] = []
    files: list[tuple[str, ...]] = []
    looks: list[list[Words | None]] = []
    unreadable: list[str] = []
    for one in tqdm(read_what_can_be(root), "look", total, unit="sample", disable=None):
        name, media = (one.id, one.media) if isinstance(one, Unread) else (one.sample.id, one.sample.media)
        if not media:  # text
            continue
        seen = None if isinstance(one, Unread) else _looks(one)
        if seen is None:
            unreadable.append(name)
        names.append(name)
        files.append(media)
        looks.append(seen or [])
    first: dict[tuple[str, ...], int] = {}
    leader = np.array([first.setdefault(file, number) for number, file in enumerate(files)], np.int64)
    _join(leader, looks, distance)
    groups: dict[int, list[int]] = defaultdict(list)
    for number, lead in enumerate(leader.tolist()):
        groups[lead].append(number)
    alike = [
        Alike(samples=tuple(names[n] for n in group), exact=len({files[n] for n in group}) == 1)
        for group in sorted(groups.values())
        if len(group) > 1
    ]
    return NearDuplicates(groups=tuple(alike), unreadable=tuple(unreadable))


def _looks(stored: StoredSample) -> list[Words | None] | None:
    """Hashes of a medium's pictures, each None where it has too little contrast; None where one cannot be read."""
    try:
        return _hashes(stored)
    except (VtrapError, ValueError, IndexError):  # also more times than frames, or none
        return None


def _hashes(stored: StoredSample) -> list[Words | None]:
    video = stored.sample.video
    if video is None:
        return [picture_hash(images.load_image(data)) for data in stored.blobs(IMAGES)[:PICTURES]]
    frames = stored.blobs(FRAMES)
    times = np.asarray(video.frame_times)
    # By time: copies of one film may be stored with different numbers of frames.
    wanted = (np.arange(PICTURES) + 0.5) / PICTURES * video.duration
    nearest = np.abs(times[None, :] - wanted[:, None]).argmin(axis=1)
    seen = {number: picture_hash(jpeg.decode(frames[number])) for number in set(nearest.tolist())}
    return [seen[number] for number in nearest.tolist()]


def _join(leader: Numbers, looks: Sequence[Sequence[Words | None]], distance: int) -> None:
    """Give media that look alike one leader.

    Args:
        leader: int64 [media]: of each medium one of its group, and of that one itself; is changed.
        looks: What `_looks` says of each.
        distance: Bits that may differ.
    """
    counts = np.array([len(one) for one in looks], np.int64)
    known = np.zeros((len(looks), PICTURES), bool)
    hashes = np.zeros((len(looks), PICTURES, 4), np.uint64)
    for number, one in enumerate(looks):
        for place, look in enumerate(one):
            if look is not None:
                known[number, place], hashes[number, place] = True, look
    everyone = np.arange(len(looks))
    numbers = everyone[known[everyone, counts // 2]]
    for pair in near(hashes[numbers, counts[numbers] // 2], distance):
        a, b = numbers[pair]
        todo = (leader[a] != leader[b]) & (counts[a] == counts[b])
        a, b = a[todo], b[todo]
        close = bits_apart(hashes[a], hashes[b]) <= distance
        alike = 2 * (close & known[a] & known[b]).sum(axis=1) >= counts[a]
        for x, y in zip(leader[a[alike]].tolist(), leader[b[alike]].tolist(), strict=True):
            while leader[x] != x:
                x = int(leader[x])
            while leader[y] != y:
                y = int(leader[y])
            leader[max(x, y)] = min(x, y)
        while alike.any() and (leader[leader] != leader).any():
            leader[:] = leader[leader]
