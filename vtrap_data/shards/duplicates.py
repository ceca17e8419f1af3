"""Which media of a corpus look alike, although their files differ? Found by looks, reported, never removed.

Equal files of one source are stored once when they are packed. This finds the rest: the same film encoded or scaled
anew. Each medium has up to eight pictures at fixed shares of its length; two media are alike when the middle ones are,
and at least half of all (`contamination.picture_hash` says what a picture looks like).

Not every pair is compared: of two hashes that differ in at most d bits, at least one of d + 1 pieces is equal.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from tqdm import tqdm

from vtrap_data.errors import SampleError, UsageError
from vtrap_data.media import images, jpeg
from vtrap_data.shards.contamination import DISTANCE, picture_hash
from vtrap_data.shards.manifest import read_manifest
from vtrap_data.shards.members import FRAMES, IMAGES, unpack_list
from vtrap_data.shards.stored import StoredSample, read_stored

PICTURES = 8
"""Pictures looked at per medium."""

Words = NDArray[np.uint64]


@dataclass(frozen=True, slots=True, kw_only=True)
class Alike:
    """Media that look alike.

    Attributes:
        samples: Their ids, in the order of the corpus.
        exact: All of them are the same files (of several sources, or the corpus was packed before such were joined).
    """

    samples: tuple[str, ...]
    exact: bool


def near_duplicates(root: Path, *, distance: int = DISTANCE) -> list[Alike]:
    """Groups of media that look alike, in the order of the corpus.

    Args:
        root: A packed corpus.
        distance: Bits of 256 that may differ between pictures that are alike; 0 to 64.

    Raises:
        UsageError: No packed corpus, or a distance out of range.
    """
    if not 0 <= distance <= 64:
        raise UsageError(f"--distance {distance} must be between 0 and 64 (of 256 bits)")
    total = read_manifest(root).counts["samples"]
    names: list[str] = []
    files: list[tuple[str, ...]] = []
    looks: list[list[Words | None]] = []
    for stored in tqdm(read_stored(root, members=True), "look", total, unit="sample", disable=None):
        sample = stored.sample
        if sample.kind == "text":
            continue
        names.append(sample.id)
        files.append((sample.video.sha256,) if sample.video else tuple(image.sha256 for image in sample.images))
        looks.append(_looks(stored))
    leader = list(range(len(names)))

    def lead(number: int) -> int:
        while leader[number] != number:
            leader[number] = leader[leader[number]]
            number = leader[number]
        return number

    same: dict[tuple[str, ...], int] = {}
    for number, file in enumerate(files):
        leader[lead(number)] = lead(same.setdefault(file, number))
    for a, b in _candidates([one[len(one) // 2] for one in looks], distance):
        if _alike(looks[a], looks[b], distance):
            low, high = sorted((lead(a), lead(b)))
            leader[high] = low
    groups: dict[int, list[int]] = defaultdict(list)
    for number in range(len(names)):
        groups[lead(number)].append(number)
    return [
        Alike(samples=tuple(names[n] for n in group), exact=len({files[n] for n in group}) == 1)
        for group in sorted(groups.values())
        if len(group) > 1
    ]


def _looks(stored: StoredSample) -> list[Words | None]:
    """Hashes of a medium's pictures; None for one with too little contrast or that cannot be read."""
    video = stored.sample.video
    if video is None:
        return [_look(data, images.load_image) for data in unpack_list(stored.members[IMAGES])[:PICTURES]]
    frames = unpack_list(stored.members[FRAMES])
    times = np.asarray(video.frame_times)
    # By time: copies of one film may be stored with different numbers of frames.
    wanted = (np.arange(PICTURES) + 0.5) / PICTURES * video.duration
    nearest = np.abs(times[None, :] - wanted[:, None]).argmin(axis=1)
    seen = {number: _look(frames[number], jpeg.decode) for number in set(nearest.tolist())}
    return [seen[number] for number in nearest.tolist()]


def _look(data: bytes, decode: Callable[[bytes], Image.Image]) -> Words | None:
    try:
        return picture_hash(decode(data))
    except SampleError:
        return None


def _alike(a: list[Words | None], b: list[Words | None], distance: int) -> bool:
    if len(a) != len(b):
        return False
    known = [(x, y) for x, y in zip(a, b, strict=True) if x is not None and y is not None]
    near = sum(int(np.bitwise_count(x ^ y).sum()) <= distance for x, y in known)
    return near * 2 >= len(a)


def _candidates(keys: list[Words | None], distance: int) -> list[tuple[int, int]]:
    """Pairs of keys that differ in at most `distance` bits."""
    numbers = np.array([n for n, key in enumerate(keys) if key is not None], dtype=np.int64)
    if numbers.size < 2:
        return []
    hashes = np.stack([key for key in keys if key is not None])
    bits = np.unpackbits(hashes.view(np.uint8), axis=1)
    found: set[tuple[int, int]] = set()
    for piece in np.array_split(np.arange(bits.shape[1]), distance + 1):
        buckets: dict[bytes, list[int]] = defaultdict(list)
        for place, value in enumerate(np.packbits(bits[:, piece], axis=1)):
            buckets[value.tobytes()].append(place)
        for places in buckets.values():
            for first, place in enumerate(places[:-1]):
                others = np.array(places[first + 1 :])
                apart = np.bitwise_count(hashes[others] ^ hashes[place]).sum(axis=1)
                found |= {(int(numbers[place]), int(numbers[other])) for other in others[apart <= distance]}
    return sorted(found)
