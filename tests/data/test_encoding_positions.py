"""Positions of the Qwen families against an independent account of their rules, token by token, on the real models.

What goes in is what the models are given: token types, grids, seconds and an attention mask. What comes out is
compared with `reference`, which knows none of the implementation: it walks over a description of the sample and keeps
a list of positions.
"""

from __future__ import annotations

from itertools import groupby
from typing import Any

import numpy as np
import pytest
import torch
from encoding_families import QWEN_SPECIAL, Kit, build, example

from vtrap_data.encoding import collate, encode
from vtrap_data.encoding.positions import install_positions

FAMILIES = ("qwen2_vl", "qwen2_5_vl", "qwen3_vl")
TOKENS_PER_SECOND = 2

# A sample is a list of ("text", tokens), ("image", rows, columns) and ("video", steps, rows, columns, seconds per
# step), in merged patches.
SAMPLES: dict[str, list[tuple[Any, ...]]] = {
    "text": [("text", 5)],
    "image": [("text", 3), ("image", 2, 3), ("text", 4)],
    "images": [("text", 2), ("image", 1, 1), ("text", 2), ("image", 3, 2), ("text", 1)],
    "adjacent images": [("text", 2), ("image", 1, 4), ("image", 3, 2), ("text", 1)],
    "video": [("text", 4), ("video", 8, 4, 4, 1.0), ("text", 6)],
    "dense video": [("text", 4), ("video", 12, 2, 3, 0.3), ("text", 6)],
    "sparse video": [("text", 2), ("video", 5, 2, 2, 8.0), ("text", 3)],
    # Spacings that binary numbers cannot hold: frames 1/3 s and 0.4 s apart, every one and every 15th of NTSC.
    "thirds": [("text", 3), ("video", 19, 1, 2, 2 / 3), ("text", 2)],
    "0.4 s": [("text", 1), ("video", 11, 2, 1, 0.8), ("text", 4)],
    "every frame": [("text", 2), ("video", 32, 1, 1, 2 * 1001 / 30000), ("text", 2)],
    "NTSC": [("text", 2), ("video", 9, 2, 2, 2 * 15 * 1001 / 30000), ("text", 2)],
    "0.35 s": [("text", 2), ("video", 25, 1, 2, 0.7), ("text", 2)],
    "one step": [("text", 2), ("video", 1, 3, 5, 4.0), ("text", 3)],
    "long video": [("text", 3), ("video", 32, 1, 2, 1.0), ("text", 2)],
    "videos": [("text", 1), ("video", 3, 2, 2, 8.0), ("text", 2), ("video", 2, 1, 4, 0.25), ("text", 3)],
    "odd videos": [
        ("video", 12, 1, 1, 0.7),
        ("text", 2),
        ("video", 7, 1, 2, 2 / 3),
        ("text", 1),
        ("video", 5, 1, 1, 1.4),
    ],
    "mixed": [
        ("video", 4, 2, 2, 0.3),
        ("text", 1),
        ("image", 2, 2),
        ("text", 2),
        ("video", 2, 2, 2, 5.0),
        ("text", 1),
    ],
}
STAMP = 3
"""Tokens of a Qwen3-VL time stamp with the marks around a picture: stamp and start before it, end after it."""


def ticks(step: int, seconds: float) -> int:
    """What the released code of Qwen2.5-VL makes of a step's time: every product in single precision, rounded down."""
    return int(np.float32(step) * np.float32(seconds) * np.float32(TOKENS_PER_SECOND))


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
                    time = step if family == "qwen2_vl" else ticks(step, seconds)
                    out.extend((at + time, at + r, at + c) for r in range(rows) for c in range(columns))
    return out


def given(family: str, samples: list[list[tuple[Any, ...]]], *, left: bool) -> dict[str, torch.Tensor]:
    """What the model's `get_rope_index` is given for a padded batch of samples."""
    rows, images, videos, seconds = [], [], [], []
    for sample in samples:
        types: list[int] = []
        for piece in sample:
            match piece:
                case ("text", count):
                    types += [0] * count
                case ("image", height, width):
                    types += [1] * height * width
                    images.append((1, 2 * height, 2 * width))
                case ("video", steps, height, width, every):
                    step = [2] * height * width
                    types += ([0] * (STAMP - 1) + step + [0]) * steps if family == "qwen3_vl" else step * steps
                    videos.append((steps, 2 * height, 2 * width))
                    seconds.append(every)
        rows.append(types)
    length = max(map(len, rows)) + 2
    types_ = torch.zeros(len(rows), length, dtype=torch.long)
    mask = torch.zeros(len(rows), length, dtype=torch.long)
    for i, row in enumerate(rows):
        here = slice(length - len(row), length) if left else slice(0, len(row))
        types_[i, here] = torch.tensor(row)
        mask[i, here] = 1
    out = {"input_ids": torch.full_like(types_, 9), "mm_token_type_ids": types_, "attention_mask": mask}
    if images:
        out["image_grid_thw"] = torch.tensor(images)
    if videos:
        out["video_grid_thw"] = torch.tensor(videos)
        if family == "qwen2_5_vl":
            out["second_per_grid_ts"] = torch.tensor(seconds)
    return out


@pytest.fixture(scope="module", params=FAMILIES)
def kit(request, tmp_path_factory) -> Kit:
    return build(request.param, tmp_path_factory.mktemp(request.param))


@pytest.mark.parametrize("left", [False, True], ids=["right", "left"])
@pytest.mark.parametrize(
    "names", [*[(name,) for name in SAMPLES], tuple(SAMPLES)], ids=lambda n: n[0] if len(n) == 1 else "all"
)
def test_positions_follow_the_original_rule(kit, names, left):
    samples = [SAMPLES[name] for name in names]
    batch = given(kit.name, samples, left=left)
    ids, deltas = kit.model.model.get_rope_index(**batch)
    for i, sample in enumerate(samples):
        expected = reference(kit.name, sample)
        real = batch["attention_mask"][i].bool()
        assert ids[:, i, real].T.tolist() == [list(p) for p in expected]
        assert (ids[:, i, ~real] == 0).all()
        # Generation goes on from here: the largest position so far plus one.
        assert deltas[i, 0] + len(expected) == max(max(p) for p in expected) + 1


def test_times_are_rounded_down_in_single_precision():
    """Frames 0.35 s apart: by the tenth step 7 s have passed, but 0.7 is a little less as a binary number.

    In single precision the product is rounded to 7, and the position is 14. In double precision it would stay below.
    """
    assert ticks(10, 0.7) == 14
    assert int(10 * float(np.float32(0.7)) * TOKENS_PER_SECOND) == 13


CONTENTS: dict[str, tuple[str, dict[str, Any]]] = {
    "text": ("How many?", {}),
    "image": ("<image>\nWhat?", {"images": 1}),
    "images": ("<image>a<image> or <image>?", {"images": 3}),
    "video": ("<video>\nWhich?", {"frames": 7}),
    "thirds": ("<video>\nWhich?", {"frames": 20, "spacing": 1 / 3}),
    "0.4 s": ("<video>\nWhich?", {"frames": 12, "spacing": 0.4}),
    "0.35 s": ("<video>\nWhich?", {"frames": 40, "spacing": 0.35}),
    "NTSC": ("<video>\nWhich?", {"frames": 9, "spacing": 1001 / 30000}),
    "mixed": ("<image>a<video>b<image>", {"images": 2, "frames": 6, "spacing": 2.5}),
}


@pytest.mark.parametrize("pad", ["right", "left"])
def test_positions_follow_from_the_times_of_the_frames(kit, pad):
    """Through `encode` and `collate`, everything in one batch."""
    samples = [example(("user", words), **shown) for words, shown in CONTENTS.values()]
    batch = collate([encode(s, kit.processor, train=False) for s in samples], kit.processor, pad=pad)
    given = {k: v for k, v in batch.items() if k != "labels" and not k.startswith("pixel")}
    ids, _ = kit.model.model.get_rope_index(**given)
    images, videos = ((batch[f"{kind}_grid_thw"] // torch.tensor([1, 2, 2])).tolist() for kind in ("image", "video"))
    if kit.name == "qwen3_vl":  # each step is a picture of its own, between marks
        videos = [grid for grid in videos for _ in range(grid[0])]
    for i, (name, (_, shown)) in enumerate(CONTENTS.items()):
        real = batch["attention_mask"][i].bool()
        pieces: list[tuple[Any, ...]] = []
        for kind, run in groupby(batch["mm_token_type_ids"][i, real].tolist()):
            if kind == 0:
                pieces.append(("text", len(list(run))))
            elif kind == 1 or kit.name == "qwen3_vl":
                pieces.append(("image", *(images if kind == 1 else videos).pop(0)[1:]))
            else:
                pieces.append(("video", *videos.pop(0), 2 * shown.get("spacing", 0.5)))
        assert ids[:, i, real].T.tolist() == [list(p) for p in reference(kit.name, pieces)], name
    assert not images and not videos


@pytest.mark.parametrize("name", [name for name in SAMPLES if name != "adjacent images"])
def test_where_stock_transformers_differs(kit, name):
    """For a video that reaches further in time than in space it does, in two families; nowhere else.

    Adjacent images it cannot tell apart; chat templates always put a mark between them.
    """
    batch = given(kit.name, [SAMPLES[name]], left=False)
    stock_rule = type(kit.model.model).get_rope_index
    stock = stock_rule(kit.model.model, **batch)[0][:, 0, batch["attention_mask"][0].bool()].T.tolist()
    same = stock == [list(p) for p in reference(kit.name, SAMPLES[name])]
    level = ("text", "image", "images", "one step")
    assert same == (kit.name == "qwen3_vl" or name in level)


def test_the_rule_is_installed_for_training_and_generation(kit):
    """The same ids reach the language model in a forward pass and at the start of `generate`."""
    tokenizer = kit.processor.tokenizer
    batch = given(kit.name, [SAMPLES["sparse video"], SAMPLES["text"]], left=True)
    pad = tokenizer.convert_tokens_to_ids(QWEN_SPECIAL[-1])
    batch["input_ids"][batch["mm_token_type_ids"] == 2] = pad
    patches = int(batch["video_grid_thw"].prod())
    batch["pixel_values_videos"] = torch.randn(patches, 3 * 2 * 8 * 8)
    seen: list[torch.Tensor] = []
    hook = kit.model.model.language_model.register_forward_pre_hook(
        lambda module, args, options: seen.append(options["position_ids"].clone()), with_kwargs=True
    )
    try:
        with torch.no_grad():
            kit.model(**batch)
            kit.model.generate(**batch, max_new_tokens=3, min_new_tokens=3, do_sample=False)
    finally:
        hook.remove()
    trained, asked, first, second = (ids[-3:] for ids in seen)
    real = batch["attention_mask"].bool()
    assert torch.equal(trained[:, real], asked[:, real])
    expected = reference(kit.name, SAMPLES["sparse video"])
    assert trained[:, 0, real[0]].T.tolist() == [list(p) for p in expected]
    after = max(max(p) for p in expected) + 1
    assert first[:, 0].flatten().tolist() == [after] * 3 and second[:, 0].flatten().tolist() == [after + 1] * 3


def test_installing_twice_is_harmless(kit):
    batch = given(kit.name, [SAMPLES["mixed"]], left=False)
    once = kit.model.model.get_rope_index(**batch)
    install_positions(kit.model)
    twice = kit.model.model.get_rope_index(**batch)
    assert torch.equal(once[0], twice[0]) and torch.equal(once[1], twice[1])


def test_token_types_are_asked_for(kit):
    batch = given(kit.name, [SAMPLES["image"]], left=False)
    del batch["mm_token_type_ids"]
    with pytest.raises(ValueError, match=r"vtrap_data\.encoding\.collate"):
        kit.model.model.get_rope_index(**batch)
