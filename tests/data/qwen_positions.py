"""What positions the Qwen families were trained with, told apart from the code: samples, and where their tokens are.

What goes in is what the models are given: token ids and types, grids, seconds and an attention mask. `reference` knows
none of the implementations: it walks over the description of a sample and keeps a list of positions. The real models
are held to it in tests/data/test_encoding_positions.py, and vLLM's own functions in tests/vllm.
"""

from __future__ import annotations

from fractions import Fraction
from math import floor
from typing import Any

import torch

from vtrap_data.encoding.positions import rounded_up

FAMILIES = ("qwen2_vl", "qwen2_5_vl", "qwen3_vl")
TOKENS_PER_SECOND = 2

# A sample is a list of ("text", tokens), ("image", rows, columns) and ("video", steps, rows, columns, seconds per
# step), in merged patches. The seconds are exact: where a binary number cannot hold them, a fraction does.
SAMPLES: dict[str, list[tuple[Any, ...]]] = {
    "text": [("text", 5)],
    "image": [("text", 3), ("image", 2, 3), ("text", 4)],
    "images": [("text", 2), ("image", 1, 1), ("text", 2), ("image", 3, 2), ("text", 1)],
    "adjacent images": [("text", 2), ("image", 1, 4), ("image", 3, 2), ("text", 1)],
    "video": [("text", 4), ("video", 8, 4, 4, 1.0), ("text", 6)],
    "dense video": [("text", 4), ("video", 12, 2, 3, Fraction("0.3")), ("text", 6)],
    "sparse video": [("text", 2), ("video", 5, 2, 2, 8.0), ("text", 3)],
    # Spacings that binary numbers cannot hold: frames 1/3 s and 0.4 s apart, every one and every 15th of NTSC.
    "thirds": [("text", 3), ("video", 19, 1, 2, Fraction(2, 3)), ("text", 2)],
    "0.4 s": [("text", 1), ("video", 11, 2, 1, Fraction("0.8")), ("text", 4)],
    "every frame": [("text", 2), ("video", 32, 1, 1, Fraction(2002, 30000)), ("text", 2)],
    "NTSC": [("text", 2), ("video", 9, 2, 2, 15 * Fraction(2002, 30000)), ("text", 2)],
    "0.35 s": [("text", 2), ("video", 25, 1, 2, Fraction("0.7")), ("text", 2)],
    "1.05 s": [("text", 2), ("video", 32, 1, 1, Fraction("2.1")), ("text", 2)],
    "one step": [("text", 2), ("video", 1, 3, 5, 4.0), ("text", 3)],
    "long video": [("text", 3), ("video", 32, 1, 2, 1.0), ("text", 2)],
    "videos": [("text", 1), ("video", 3, 2, 2, 8.0), ("text", 2), ("video", 2, 1, 4, 0.25), ("text", 3)],
    "odd videos": [
        ("video", 12, 1, 1, Fraction("0.7")),
        ("text", 2),
        ("video", 7, 1, 2, Fraction(2, 3)),
        ("text", 1),
        ("video", 5, 1, 1, Fraction("1.4")),
    ],
    "mixed": [
        ("video", 4, 2, 2, Fraction("0.3")),
        ("text", 1),
        ("image", 2, 2),
        ("text", 2),
        ("video", 2, 2, 2, 5.0),
        ("text", 1),
    ],
}
STAMP = 3
"""Tokens of a Qwen3-VL time stamp with the marks around a picture: stamp and start before it, end after it."""
WORD, START, END, IMAGE, VIDEO = 9, 3, 4, 5, 6
"""Token ids; those of marks and pads as in the tokenizers of encoding_families."""


def reference(family: str, sample: list[tuple[Any, ...]]) -> list[tuple[int, int, int]]:
    """(time, row, column) of each token."""
    out: list[tuple[int, int, int]] = []

    def start() -> int:
        return max((max(p) for p in out), default=-1) + 1

    def text(count: int) -> None:
        for _ in range(count):
            out.append((start(),) * 3)

    def picture(rows: int, columns: int) -> None:
        at = start()
        out.extend((at, at + r, at + c) for r in range(rows) for c in range(columns))

    for piece in sample:
        match piece:
            case ("text", count):
                text(count)
            case ("image", rows, columns):
                picture(rows, columns)
            case ("video", steps, rows, columns, _) if family == "qwen3_vl":
                for _ in range(steps):
                    text(STAMP - 1)
                    picture(rows, columns)
                    text(1)
            case ("video", steps, rows, columns, seconds):
                at = start()
                for step in range(steps):
                    time = step if family == "qwen2_vl" else floor(step * seconds * TOKENS_PER_SECOND)
                    out.extend((at + time, at + r, at + c) for r in range(rows) for c in range(columns))
    return out


def given(family: str, samples: list[list[tuple[Any, ...]]], *, left: bool) -> dict[str, torch.Tensor]:
    """What the model's `get_rope_index` is given for a padded batch of samples."""
    rows, images, videos, seconds = [], [], [], []
    for sample in samples:
        row: list[int] = []
        for piece in sample:
            match piece:
                case ("text", count):
                    row += [WORD] * count
                case ("image", height, width):
                    row += [IMAGE] * height * width
                    images.append((1, 2 * height, 2 * width))
                case ("video", steps, height, width, every):
                    step = [VIDEO] * height * width
                    row += (
                        ([WORD] * (STAMP - 2) + [START, *step, END]) * steps if family == "qwen3_vl" else step * steps
                    )
                    videos.append((steps, 2 * height, 2 * width))
                    seconds.append(rounded_up(float(every)))
        rows.append(row)
    length = max(map(len, rows)) + 2
    ids = torch.full((len(rows), length), WORD)
    mask = torch.zeros(len(rows), length, dtype=torch.long)
    for i, row in enumerate(rows):
        here = slice(length - len(row), length) if left else slice(0, len(row))
        ids[i, here] = torch.tensor(row)
        mask[i, here] = 1
    out = {"input_ids": ids, "mm_token_type_ids": (ids == IMAGE) + 2 * (ids == VIDEO), "attention_mask": mask}
    if images:
        out["image_grid_thw"] = torch.tensor(images)
    if videos:
        out["video_grid_thw"] = torch.tensor(videos)
        if family == "qwen2_5_vl":
            out["second_per_grid_ts"] = torch.tensor(seconds)
    return out
