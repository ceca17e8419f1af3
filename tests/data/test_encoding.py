"""Encoding equals the family's own processor, labels only the assistant's words, numbers positions as trained."""

from __future__ import annotations

import copy
import random
from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from vtrap_data.encoding import Size, collate, encode, install_positions, shown, token_cost
from vtrap_data.encoding.manifest import differences, preprocessing
from vtrap_data.encoding.models import resolve
from vtrap_data.encoding.patches import image_patches, numbers, video_patches
from vtrap_data.encoding.positions import position_ids
from vtrap_data.encoding.qwen2_vl import image_grid, video_grid
from vtrap_data.encoding.tokens import IGNORE
from vtrap_data.errors import Reason, SampleError, UsageError
from vtrap_data.samples import Example, Frames, Message, PackedItem


def picture(seed: int, size: tuple[int, int] = (64, 64)) -> Image.Image:
    pixels = np.random.default_rng(seed).integers(0, 255, (size[1], size[0], 3), dtype=np.uint8)
    return Image.fromarray(pixels)


def example(
    *turns: tuple[str, str], frames: int = 0, images: int = 0, spacing: float = 0.5, size=(64, 64), name: str = "s"
) -> Example:
    messages = tuple(Message(role=role, content=content) for role, content in turns)
    return Example(
        item=PackedItem(id=name, messages=messages),
        key=name,
        source="test",
        kind="video" if frames else "images" if images else "text",
        frames=Frames.of([picture(i, size) for i in range(frames)], times=[1 + spacing * i for i in range(frames)])
        if frames
        else None,
        images=tuple(picture(100 + i, size) for i in range(images)),
    )


VIDEO = [("user", "<video>Which way does the ring move?"), ("assistant", "left")]
IMAGE = [("user", "<image>What colour is the square?"), ("assistant", "red")]
TEXT = [("user", "How many shapes are there?"), ("assistant", "3")]
TWO_TURNS = [
    ("system", "Be short."),
    ("user", "<video>Which digit is shown?"),
    ("assistant", "7"),
    ("user", "Where is the cross?"),
    ("assistant", "top left"),
]


@pytest.mark.parametrize("frames", [1, 2, 5, 8])
def test_video_equals_the_processor_of_the_family(toy_processor, frames):
    sample = example(*VIDEO, frames=frames)
    ours = collate([encode(sample, toy_processor, train=False)], toy_processor)
    text = toy_processor.apply_chat_template(
        [{"role": "user", "content": [{"type": "video"}, {"type": "text", "text": "Which way does the ring move?"}]}],
        tokenize=False,
        add_generation_prompt=True,
    )
    stack = torch.stack([torch.from_numpy(np.array(i)).permute(2, 0, 1) for i in sample.frames.images])
    metadata = {"fps": 2.0, "total_num_frames": frames, "frames_indices": list(range(frames))}
    theirs = toy_processor(
        text=[text],
        videos=[stack],
        return_tensors="pt",
        videos_kwargs={"do_sample_frames": False, "video_metadata": [metadata]},
    )
    for name in ("input_ids", "attention_mask", "pixel_values_videos", "video_grid_thw", "mm_token_type_ids"):
        assert torch.equal(ours[name], theirs[name]), name
    if frames > 1:
        assert ours["second_per_grid_ts"].tolist() == pytest.approx([float(s) for s in theirs["second_per_grid_ts"]])


def test_patches_of_several_videos_are_those_of_the_processor_to_the_bit(toy_processor):
    videos = [
        torch.from_numpy(np.random.default_rng(seed).integers(0, 255, shape, dtype=np.uint8))
        for seed, shape in enumerate([(3, 3, 200, 100), (8, 3, 30, 90), (3, 3, 200, 100)])
    ]
    theirs = toy_processor.video_processor(videos=videos, return_tensors="pt", do_sample_frames=False)
    ours = video_patches(videos, toy_processor.video_processor)
    assert ours.values.dtype == torch.uint8
    assert torch.equal(numbers(ours.values, toy_processor.video_processor), theirs["pixel_values_videos"])
    assert torch.equal(ours.grid, theirs["video_grid_thw"])


@settings(max_examples=40, deadline=None)
@given(
    sizes=st.lists(st.tuples(st.integers(8, 300), st.integers(8, 300)), min_size=1, max_size=3),
    most=st.sampled_from([1 << 12, 1 << 14]),
    side_by_side=st.booleans(),
)
def test_patches_of_images_are_those_of_the_processor_to_the_bit(toy_processor, sizes, most, side_by_side):
    p = copy.deepcopy(toy_processor.image_processor)
    p.size = {"shortest_edge": 1 << 12, "longest_edge": most}
    rng = np.random.default_rng(len(sizes))
    images = [torch.from_numpy(rng.integers(0, 255, (3, *size), dtype=np.uint8)) for size in sizes]
    given = [i.permute(1, 2, 0).contiguous().permute(2, 0, 1) for i in images] if side_by_side else images
    theirs = p(images=images, return_tensors="pt")
    ours = image_patches(given, p)
    assert torch.equal(numbers(ours.values, p), theirs["pixel_values"])
    assert torch.equal(ours.grid, theirs["image_grid_thw"])


@pytest.mark.parametrize("size", [(64, 64), (200, 100), (30, 90)])
def test_images_equal_the_processor_of_the_family(toy_processor, size):
    sample = example(("user", "<image>a<image>b"), ("assistant", "x"), images=2, size=size)
    ours = collate([encode(sample, toy_processor, train=False)], toy_processor)
    content = [{"type": "image"}, {"type": "text", "text": "a"}, {"type": "image"}, {"type": "text", "text": "b"}]
    text = toy_processor.apply_chat_template(
        [{"role": "user", "content": content}], tokenize=False, add_generation_prompt=True
    )
    theirs = toy_processor(text=[text], images=list(sample.images), return_tensors="pt")
    for name in ("input_ids", "pixel_values", "image_grid_thw", "mm_token_type_ids"):
        assert torch.equal(ours[name], theirs[name]), name


@pytest.mark.parametrize("turns", [VIDEO, TWO_TURNS, IMAGE, TEXT])
def test_labels_are_exactly_the_assistant_turns(toy_processor, turns):
    marks = "".join(c for _, c in turns)
    sample = example(*turns, frames=4 * ("<video>" in marks), images=int("<image>" in marks))
    encoded = encode(sample, toy_processor, train=True)
    learned = toy_processor.tokenizer.decode(encoded.labels[encoded.labels != IGNORE])
    assert learned == "".join(f"{content}<|im_end|>\n" for role, content in turns if role == "assistant")
    assert torch.equal(encoded.labels[encoded.labels != IGNORE], encoded.input_ids[encoded.labels != IGNORE])


@pytest.mark.parametrize("answer", [">", "|>", "im_end|>", "<", "a > b >"])
def test_an_answer_that_stands_in_the_end_mark_is_learned_once(toy_processor, answer):
    sample = example(("user", "Which sign?"), ("assistant", answer))
    labels = encode(sample, toy_processor, train=True).labels
    assert toy_processor.tokenizer.decode(labels[labels != IGNORE]).replace(" ", "") == (
        answer.replace(" ", "") + "<|im_end|>\n"
    )


def test_prompt_stops_where_the_assistant_begins(toy_processor):
    encoded = encode(example(*TWO_TURNS, frames=2), toy_processor, train=False)
    assert toy_processor.tokenizer.decode(encoded.input_ids).endswith(
        "Where is the cross?<|im_end|>\n<|im_start|>assistant\n"
    )
    assert (encoded.labels == IGNORE).all()


def test_errors_name_the_sample_and_the_remedy(toy_processor):
    with pytest.raises(SampleError, match=r"clip-9.*too-long.*64 of them visual.*--frames") as error:
        encode(example(*VIDEO, frames=8, name="clip-9"), toy_processor, train=True, max_length=20)
    assert error.value.reason is Reason.TOO_LONG
    with pytest.raises(SampleError, match="more media marks"):
        encode(example(("user", "<image><image>x"), ("assistant", "y"), images=1), toy_processor, train=True)
    with pytest.raises(SampleError, match="fewer media marks"):
        encode(example(("user", "<image>x"), ("assistant", "y"), images=2), toy_processor, train=True)
    with pytest.raises(SampleError, match="no assistant text"):
        encode(example(("user", "<image>x"), images=1), toy_processor, train=True)
    none = Frames(pixels=np.zeros((0, 0, 0, 3), np.uint8), times=())
    empty = replace(example(*TEXT, name="clip-9"), kind="video", frames=none)
    with pytest.raises(SampleError, match="clip-9: bad-row: a video of which no frame is shown"):
        encode(empty, toy_processor, train=True)
    with pytest.raises(UsageError, match=r"Did you mean 'qwen2.5-vl-7b'"):
        resolve("qwen2.5-vl-7")


def test_sizes_alone_tell_the_cost(toy_processor):
    for frames, size in ((1, (64, 64)), (7, (64, 48)), (16, (160, 90))):
        encoded = encode(example(*VIDEO, frames=frames, size=size), toy_processor, train=True)
        assert encoded.visual_tokens == video_grid(frames, Size(*size), toy_processor).tokens(2)
    assert image_grid(Size(640, 480), toy_processor).tokens(2) <= 16


# --- positions: every family and shape is in test_encoding_positions ---------------------------------------------


def test_text_after_a_sparse_video_comes_after_it():
    """The case that newer transformers number differently: 32 grids of 1 s, so the video ends at 65."""
    types = torch.tensor([[0] * 3 + [2] * (32 * 5 * 9) + [0]])
    found = position_ids(
        types,
        types,
        image_grids=None,
        video_grids=torch.tensor([[32, 10, 18]]),
        seconds_per_grid=torch.tensor([1.0]),
        attention_mask=torch.ones_like(types),
        merge_size=2,
        tokens_per_second=2,
    )
    assert found.ids[0, 0, -2].item() == 65
    assert found.ids[:, 0, -1].tolist() == [66, 66, 66]


def test_images_are_numbered_as_transformers_does(toy_processor, random_toy):
    from transformers import Qwen2_5_VLForConditionalGeneration

    batch = collate([encode(example(*IMAGE, images=1), toy_processor, train=True)], toy_processor)
    stock = Qwen2_5_VLForConditionalGeneration(random_toy.config)
    arguments = {k: batch[k] for k in ("input_ids", "mm_token_type_ids", "image_grid_thw", "attention_mask")}
    ours, theirs = random_toy.model.get_rope_index(**arguments), stock.model.get_rope_index(**arguments)
    assert torch.equal(ours[0], theirs[0])
    assert torch.equal(ours[1].flatten(), theirs[1].flatten())


@pytest.mark.parametrize("train", [True, False], ids=["train", "ask"])
def test_settings_that_a_tokenizer_was_saved_with_change_nothing(toy_processor, train):
    changed = copy.deepcopy(toy_processor)
    inner = changed.tokenizer.backend_tokenizer
    inner.enable_truncation(max_length=4)
    inner.enable_padding(length=999)
    inner.encode_special_tokens = True
    one = example(*IMAGE, images=1)
    expected, found = (encode(one, p, train=train) for p in (toy_processor, changed))
    assert torch.equal(found.input_ids, expected.input_ids) and torch.equal(found.labels, expected.labels)


def mixed(toy_processor, *, train: bool):
    samples = [example(*VIDEO, frames=6), example(*IMAGE, images=1), example(*TEXT), example(*TWO_TURNS, frames=2)]
    return [encode(s, toy_processor, train=train) for s in samples]


def test_training_and_generation_see_the_same_positions(toy_processor, random_toy):
    """The first generated token comes from the same logits as a plain forward pass over the prompt."""
    batch = collate(mixed(toy_processor, train=False), toy_processor, pad="left")
    batch.pop("labels")
    with torch.no_grad():
        plain = random_toy(**batch).logits[:, -1]
        generated = random_toy.generate(
            **batch, max_new_tokens=3, do_sample=False, output_logits=True, return_dict_in_generate=True
        )
    assert torch.allclose(plain, generated.logits[0], atol=1e-5)
    # ... and the later ones from the same logits as a forward pass over prompt and answer.
    grown = dict(batch)
    extra = generated.sequences[:, batch["input_ids"].shape[1] :][:, :2]
    grown["input_ids"] = torch.cat([batch["input_ids"], extra], dim=1)
    grown["attention_mask"] = torch.cat([batch["attention_mask"], torch.ones_like(extra)], dim=1)
    grown["mm_token_type_ids"] = torch.cat([batch["mm_token_type_ids"], torch.zeros_like(extra)], dim=1)
    with torch.no_grad():
        again = random_toy(**grown).logits[:, -1]
    unfinished = (extra != toy_processor.tokenizer.eos_token_id).all(dim=1)
    assert unfinished.any()
    assert torch.allclose(again[unfinished], generated.logits[2][unfinished], atol=1e-5)


@pytest.mark.parametrize("pad", ["left", "right"])
def test_a_batch_gives_what_its_samples_give_alone(toy_processor, random_toy, pad):
    encoded = mixed(toy_processor, train=True)
    batch = collate(encoded, toy_processor, pad=pad)
    with torch.no_grad():
        together = random_toy(**batch).logits
        for row, one in enumerate(encoded):
            alone = random_toy(**collate([one], toy_processor)).logits[0]
            assert torch.allclose(together[row, batch["attention_mask"][row].bool()], alone, atol=1e-4)


@pytest.mark.parametrize("turns", [TEXT, IMAGE, VIDEO])
def test_a_dummy_for_a_missing_modality_changes_nothing(toy_processor, random_toy, turns):
    one = encode(example(*turns, frames=4 * (turns is VIDEO), images=int(turns is IMAGE)), toy_processor, train=True)
    losses, gradients = [], []
    for always in ((), ("image", "video")):
        batch = collate([one, one], toy_processor, always=always)
        if always:
            assert {"pixel_values", "pixel_values_videos"} <= batch.keys()
        random_toy.zero_grad()
        loss = random_toy(**batch).loss
        loss.backward()
        losses.append(loss.item())
        gradients.append({n: p.grad.clone() for n, p in random_toy.named_parameters() if p.grad is not None})
    assert losses[0] == pytest.approx(losses[1], abs=1e-6)
    for name, gradient in gradients[1].items():
        assert torch.allclose(gradient, gradients[0].get(name, torch.zeros_like(gradient)), rtol=0, atol=5e-6), name


def test_spacing_of_the_frames_reaches_the_model(toy_processor, random_toy):
    def logits(spacing: float):
        batch = collate([encode(example(*VIDEO, frames=4, spacing=spacing), toy_processor, train=True)], toy_processor)
        with torch.no_grad():
            return random_toy(**batch).logits

    assert not torch.allclose(logits(0.5), logits(4.0))


def test_manifest_names_what_differs(toy_processor):
    ref = resolve("toy-vl")
    a = preprocessing(ref, toy_processor)
    b = {**a, "position_rule": 0, "video_processor": {**a["video_processor"], "patch_size": 14}}
    assert differences(a, a) == []
    assert differences(a, b) == ["position_rule: 2 != 0", "video_processor.patch_size: 8 != 14"]


def test_installing_twice_is_harmless(toy_processor, random_toy):
    install_positions(random_toy)
    batch = collate(
        [encode(example(*VIDEO, frames=random.Random(0).choice([3, 4])), toy_processor, train=True)], toy_processor
    )
    assert torch.isfinite(random_toy(**batch).loss)


@pytest.mark.parametrize("size", [(3000, 10), (2, 900)])
def test_a_picture_that_the_model_does_not_take_is_told_of_its_sample(toy_processor, size):
    for narrow in (
        example(*IMAGE, images=1, size=size, name="strip"),
        example(*VIDEO, frames=2, size=size, name="strip"),
    ):
        with pytest.raises(SampleError, match="200") as caught:
            encode(narrow, toy_processor, train=True)
        assert caught.value.sample == "strip" and caught.value.reason is Reason.BAD_ROW
        with pytest.raises(SampleError):
            token_cost(narrow.item.messages, shown(narrow), toy_processor)
