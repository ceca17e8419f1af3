"""Where do the pixels of a batch lie? In memory that those of an earlier one have left.

Fresh memory comes from the system page by page, each of which it clears first: that takes longer than filling it with
pixels. The C library keeps the end of its memory for the next request, but not two blocks of some MB in turn, as when
a batch is made while the one before is still held; what is larger than 32 MB it gives back at once.
"""

from __future__ import annotations

import math
import os
import threading
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import DTypeLike, NDArray

SMALL = 1 << 20
"""Bytes below which the C library does it by itself."""
KEPT = 4
"""Blocks that wait for the next request, at most."""

_waiting: list[NDArray[np.uint8]] = []
_taking = threading.Lock()


class _Lease:
    """A block while somebody holds an array in it."""

    def __init__(self, block: NDArray[np.uint8]) -> None:
        self._block = block

    @property
    def __array_interface__(self) -> dict[str, Any]:
        return self._block.__array_interface__

    def __del__(self, waiting: list[NDArray[np.uint8]] = _waiting, kept: int = KEPT) -> None:
        # Without the lock: this may happen at any moment, also when the module is being taken down. Two at once may
        # leave one block more than is kept.
        if len(waiting) < kept:
            waiting.append(self._block)


def empty(shape: Sequence[int], dtype: DTypeLike) -> NDArray[Any]:
    """As `numpy.empty`, in a block that was used before where one of about the size waits.

    The block waits again once the array, its views and the tensors made of it (`torch.from_numpy`) are gone.
    """
    kind = np.dtype(dtype)
    size = math.prod(shape) * kind.itemsize
    if size < SMALL:
        return np.empty(shape, kind)
    with _taking:
        fitting = [number for number, block in enumerate(_waiting) if size <= block.nbytes <= 2 * size]
        block = _waiting.pop(fitting[0]) if fitting else np.empty(size, np.uint8)
        if not fitting and len(_waiting) >= KEPT:
            del _waiting[0]  # sizes have changed: the oldest makes room for this one
    return np.asarray(_Lease(block))[:size].view(kind).reshape(shape)


def _new_lock() -> None:
    global _taking
    _taking = threading.Lock()  # another thread of the parent may have held the old one when it forked


os.register_at_fork(after_in_child=_new_lock)
