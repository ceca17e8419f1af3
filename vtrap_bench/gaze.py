"""Where does a model look when it begins to answer? Attention from the answer position to the vision tokens.

The answer position is the last token of the prompt: what it attends to is what the first token of the answer is made
from. Weights are averaged over heads, and over the layers of a group (early, middle and late thirds). Attention is not
proof of use (Jain and Wallace 2019); compared before and after training, on the same items, it shows what changed.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray

from vtrap_data.encoding import ModelRef, collate, encode, load_model, load_processor
from vtrap_data.errors import UsageError
from vtrap_data.samples import Example

Floats = NDArray[np.float64]
GROUPS = ("early", "middle", "late")
_LAYER = re.compile(r"(?:^|\.)layers\.(\d+)\.self_attn$")


class Box(NamedTuple):
    """A rectangle in a picture, as shares of its width and height."""

    left: float
    top: float
    right: float
    bottom: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Look:
    """One item, looked at by one model.

    Attributes:
        pictures: For each picture, or each step in time of a video, the attention to each of its cells: float64
            [groups, rows, columns]. Over all pictures a group adds up to its `mass`.
        mass: float64 [groups]: share of all attention that goes to vision tokens.
    """

    pictures: tuple[Floats, ...]
    mass: Floats

    def entropy(self) -> Floats:
        """How evenly the attention to vision tokens is spread: float64 [groups], 0 (one cell) to 1 (all alike)."""
        shares = self._shares()
        cells = shares.shape[1]
        if cells < 2:
            return np.zeros(len(shares))
        safe = np.where(shares > 0, shares, 1.0)
        return np.asarray(-(shares * np.log(safe)).sum(1) / np.log(cells))

    def on(self, boxes: Sequence[Sequence[Box]]) -> tuple[Floats, float]:
        """Attention on boxes: how much of that to vision tokens falls on them, and how much of the cells they cover.

        Args:
            boxes: For each picture its boxes.

        Returns:
            float64 [groups] with shares 0 to 1, and the share that even attention would have.
        """
        covered = np.concatenate(
            [cover(some, *picture.shape[1:]).ravel() for some, picture in zip(boxes, self.pictures, strict=True)]
        )
        return self._shares() @ covered, float(covered.mean())

    def _shares(self) -> Floats:
        flat = np.concatenate([picture.reshape(len(picture), -1) for picture in self.pictures], axis=1)
        return np.asarray(flat / flat.sum(1, keepdims=True))


def cover(boxes: Sequence[Box], rows: int, columns: int) -> Floats:
    """Which part of each cell of a grid boxes cover: float64 [rows, columns], 0 to 1.

    >>> cover([Box(0.0, 0.0, 0.75, 0.5)], 2, 2)
    array([[1. , 0.5],
           [0. , 0. ]])
    """
    fine = 16  # per cell and axis, so that boxes that overlap are counted once
    ys = (np.arange(rows * fine) + 0.5) / (rows * fine)
    xs = (np.arange(columns * fine) + 0.5) / (columns * fine)
    inside = np.zeros((len(ys), len(xs)), dtype=bool)
    for box in boxes:
        inside |= ((ys >= box.top) & (ys < box.bottom))[:, None] & ((xs >= box.left) & (xs < box.right))
    return np.asarray(inside.reshape(rows, fine, columns, fine).mean((1, 3)))


class Gazer:
    """A model whose attention can be read.

    Args:
        ref: Which, its path a local directory.
        dtype: Of the weights.
        device: As torch names it.

    Raises:
        UsageError: Its family lays out no grid of vision tokens.
    """

    def __init__(self, ref: ModelRef, *, dtype: str, device: str) -> None:
        self.processor: Any = load_processor(ref)
        self.merge = int(getattr(getattr(self.processor, "image_processor", None), "merge_size", 0))
        if self.merge < 1:
            raise UsageError(f"attention: models of the family {ref.family} lay out no grid of vision tokens")
        # Eager attention is the only kind that gives its weights.
        self.model: Any = load_model(ref, dtype=getattr(torch, dtype), attn_implementation="eager")
        self.model.to(device).eval()
        self.device = device
        self._rows: dict[int, torch.Tensor] = {}
        for name, module in self.model.named_modules():
            found = _LAYER.search(name)
            if found and "visual" not in name and "vision" not in name:
                module.register_forward_hook(self._hook(int(found[1])))

    def look(self, example: Example) -> Look:
        """Read the attention of one item.

        Raises:
            SampleError: It cannot be encoded.
            UsageError: It has no picture.
        """
        encoded = encode(example, self.processor, train=False)
        batch = collate([encoded], self.processor, pad="left")
        del batch["labels"]
        grids = [
            g for name in ("image_grid_thw", "video_grid_thw") for g in batch.get(name, torch.zeros(0, 3)).tolist()
        ]
        if not grids:
            raise UsageError(f"attention: {encoded.id} has no picture that the model could look at")
        self._rows.clear()
        with torch.inference_mode():
            self.model(**{k: v.to(self.device) for k, v in batch.items()}, use_cache=False, logits_to_keep=1)
        layers = torch.stack([self._rows[i] for i in sorted(self._rows)]).double().numpy()
        thirds = [part.mean(0) for part in np.array_split(layers, len(GROUPS)) if len(part)]
        while len(thirds) < len(GROUPS):
            thirds.append(thirds[-1])
        groups = np.stack(thirds)
        seen = groups[:, encoded.token_types.numpy() > 0]
        pictures: list[Floats] = []
        at = 0
        for steps, rows, columns in grids:
            shape = (int(rows) // self.merge, int(columns) // self.merge)
            for _ in range(int(steps)):
                size = shape[0] * shape[1]
                pictures.append(seen[:, at : at + size].reshape(len(groups), *shape))
                at += size
        if at != seen.shape[1]:
            raise UsageError(f"attention: {encoded.id} has {seen.shape[1]} vision tokens where the grids have {at}")
        return Look(pictures=tuple(pictures), mass=seen.sum(1))

    def _hook(self, layer: int) -> Any:
        def keep(_module: Any, _inputs: Any, output: Any) -> Any:
            weights = output[1]  # [1, heads, length, length]
            self._rows[layer] = weights[0, :, -1].float().mean(0).cpu()
            return (output[0], None, *output[2:])  # a long video's weights of all layers would fill the memory

        return keep
