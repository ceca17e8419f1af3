"""WHICH FRAMES ARE TAKEN? This file, and no other, decides it. By time, never by frame number.

1. `pool_frames`: cut [0, duration) into equal bins; the frame on screen at each bin's centre fills that bin's slot.

       frame   0   1     2   3   4       5         6       time ->
               |   |     |   |   |       |         |      |
       slots   [   0   ][   1   ][   2   ][   3   ]...        '.' = centre of the bin
                   .        .        .        .
       taken       1        2        4        5

2. `subset_slots`: a budget of F frames uses every (slots/F)-th slot, so each budget is evenly spaced and holds all
   smaller ones. With 16 slots and 2 as the smallest budget:

       slot     0 1 2 3 4 5 6 7 8 9 ...         15
       F = 2            x               x                 {8i + 4}: the middle of each half
       F = 4    x       x       x       x                 {4i}
       F = 8    x   x   x   x   x   x   x   x             {2i}
       F = 16   all

3. `frame_ids`: the same, in stored frames. Fewer than F when several slots show the same frame.

A change here changes every result: bump `FRAMES_VERSION` and say so in CHANGELOG under the label FRAMES.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from numbers import Integral

import numpy as np
from numpy.typing import ArrayLike, NDArray

from vtrap_data.errors import UsageError

FRAMES_VERSION = 2
"""Version of the selection rule and of the resize that follows it: swscale, bicubic, 8-bit 4:2:0 video before its
conversion to RGB. A change of either bumps it (CHANGELOG label FRAMES)."""


class FramesNotStoredError(UsageError, LookupError):
    """A budget needs frames that the pack does not hold."""


def pool_frames(pts: ArrayLike, duration: float, *, slots: int) -> NDArray[np.int64]:
    """The frame on screen at the centre of each of `slots` equal bins of [0, duration).

    Args:
        pts: float64 [n], n >= 1: when each frame appears, in seconds, ascending. It stays until the next one appears.
        duration: Length of the video in seconds, above 0.
        slots: How many bins, at least 1.

    Returns:
        int64 [slots], ascending indices into `pts`. An index repeats when the video has fewer frames than slots.

    Raises:
        ValueError: No frames, a duration that is not above 0, or no slots.
    """
    times = np.asarray(pts, dtype=np.float64)
    if times.ndim != 1 or times.size == 0:
        raise ValueError(f"pts must be a list of at least one time, not an array of shape {times.shape}")
    if not (np.isfinite(duration) and duration > 0):
        raise ValueError(f"duration must be finite and above 0 seconds, not {duration}")
    if slots < 1:
        raise ValueError(f"slots must be at least 1, not {slots}")
    centres = (np.arange(slots) + 0.5) / slots * duration
    on_screen = np.searchsorted(times, centres, side="right") - 1
    return np.clip(on_screen, 0, times.size - 1).astype(np.int64)


def subset_slots(slots: int, frames: int, *, smallest: int) -> NDArray[np.int64]:
    """The slots that a budget of `frames` uses.

    Args:
        slots: Size of the pool.
        frames: The budget; a divisor of `slots`.
        smallest: The smallest candidate budget; a divisor of `frames`. Its slots sit in the middle of their bins, and
            the subset of F is inside that of G whenever F divides G.

    Returns:
        int64 [frames], ascending, evenly spaced.

    Raises:
        UsageError: The three numbers do not divide each other.
    """
    if min(slots, frames, smallest) < 1 or slots % frames or frames % smallest:
        raise UsageError(
            f"a budget of {frames} frames does not fit: it must divide the {slots} slots of the pool and be a multiple"
            f" of the smallest budget, {smallest} (settings: budgets, slots)"
        )
    step = slots // frames
    middle = (slots // smallest) // 2
    return np.arange(middle % step, slots, step, dtype=np.int64)


def check_frames(frames: object) -> None:
    """What a reader may ask for: the packed budgets, or a number of frames for every video.

    Raises:
        UsageError: `frames` is neither "hybrid" nor a whole number.
    """
    if frames != "hybrid" and (not isinstance(frames, Integral) or isinstance(frames, bool)):
        raise UsageError(f"frames is {frames!r}; allowed are 'hybrid' (the packed budgets) and a number such as 16")


def frame_ids(pool: Sequence[int], frames: int, *, smallest: int) -> tuple[int, ...]:
    """The stored frames that a budget selects.

    Args:
        pool: For each slot the index of its stored frame, or -1 when that frame is not stored (`PackedVideo.pool`).
        frames: The budget.
        smallest: The smallest candidate budget of the pack.

    Returns:
        Indices into the stored frames, unique, ascending; at most `frames` of them.

    Raises:
        FramesNotStoredError: A slot of this budget is not stored.
        UsageError: The budget does not fit the pool.
    """
    return _frame_ids(tuple(pool), frames, smallest)


@lru_cache(maxsize=1024)  # most pools are alike
def _frame_ids(pool: tuple[int, ...], frames: int, smallest: int) -> tuple[int, ...]:
    wanted = subset_slots(len(pool), frames, smallest=smallest)
    chosen = [int(pool[slot]) for slot in wanted]
    missing = chosen.count(-1)
    if missing:
        raise FramesNotStoredError(
            f"{missing} of the {frames} slots of a {frames}-frame budget are not stored: pack again with a larger"
            f" budget kept for every video (--store {frames})"
        )
    return tuple(sorted(set(chosen)))
