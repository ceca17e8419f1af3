"""Positions of the Qwen families against an independent account of their rules, token by token, on the real models."""

from __future__ import annotations

from fractions import Fraction
from itertools import groupby
from math import floor
from typing import Any

import pytest
import torch
from encoding_families import Kit, build, example
from qwen_positions import FAMILIES, SAMPLES, TOKENS_PER_SECOND, given, reference

from vtrap_data.encoding import collate, encode
from vtrap_data.encoding.positions import install_positions, rounded_up


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


def test_steps_get_the_number_of_their_true_time():
    """Of 64 frames, spaced by hundredths of a second or spread over a video at 30 frames a second; in both precisions.

    The nearest number of single precision to 0.7 is a bit less, and with it the step at 7 s would be one too low: in
    double precision always, in single precision now and then.
    """
    hundredths = [Fraction(2 * n, 100) for n in range(1, 1001)]
    too_low = 0
    for seconds in [*hundredths, *(Fraction(2 * n, 30 * 63) for n in range(1, 1001))]:
        true = [floor(step * seconds * TOKENS_PER_SECOND) for step in range(32)]
        factor, nearest = rounded_up(float(seconds)), torch.tensor(float(seconds)).item()
        assert 0 <= Fraction(factor) - seconds < seconds / 2**23
        for dtype in (torch.float32, torch.float64):
            assert (torch.arange(32, dtype=dtype) * factor * TOKENS_PER_SECOND).long().tolist() == true, seconds
        too_low += seconds in hundredths and (torch.arange(32) * nearest * TOKENS_PER_SECOND).long().tolist() != true
    assert too_low == 62


CONTENTS: dict[str, tuple[str, dict[str, Any]]] = {
    "text": ("How many?", {}),
    "image": ("<image>\nWhat?", {"images": 1}),
    "images": ("<image>a<image> or <image>?", {"images": 3}),
    "video": ("<video>\nWhich?", {"frames": 7}),
    "thirds": ("<video>\nWhich?", {"frames": 20, "spacing": Fraction(1, 3)}),
    "0.4 s": ("<video>\nWhich?", {"frames": 12, "spacing": Fraction("0.4")}),
    "0.35 s": ("<video>\nWhich?", {"frames": 40, "spacing": Fraction("0.35")}),
    "NTSC": ("<video>\nWhich?", {"frames": 9, "spacing": Fraction(1001, 30000)}),
    "mixed": ("<image>a<video>b<image>", {"images": 2, "frames": 6, "spacing": 2.5}),
}


@pytest.mark.parametrize("pad", ["right", "left"])
def test_positions_follow_from_the_times_of_the_frames(kit, pad):
    """Through `encode` and `collate`, everything in one batch."""
    samples = [example(("user", words), **shown) for words, shown in CONTENTS.values()]
    batch = collate([encode(s, kit.processor, train=False) for s in samples], kit.processor, pad=pad)
    facts = {name: values for name, values in batch.items() if name != "labels" and not name.startswith("pixel")}
    ids, _ = kit.model.model.get_rope_index(**facts)
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
    batch = given(kit.name, [SAMPLES["sparse video"], SAMPLES["text"]], left=True)
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
