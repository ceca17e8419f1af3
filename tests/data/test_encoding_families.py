"""Every family: equal to its own processor, batched as alone, generated as trained, labelled as released."""

from __future__ import annotations

import json
import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from encoding_families import IMAGE, IMAGES, NAMES, TEXT, TURNS, VIDEO, Kit, build, example, mix
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from vtrap_data.encoding import collate, encode, preprocessing, resolve, shown, token_cost, visual_tokens
from vtrap_data.encoding.conversation import chat, write
from vtrap_data.encoding.families import FAMILIES, family_of
from vtrap_data.encoding.llava import tile
from vtrap_data.encoding.manifest import differences
from vtrap_data.encoding.tokens import IGNORE, blank
from vtrap_data.errors import Reason, SampleError
from vtrap_data.samples import Frames, Message

QWEN = ("qwen2_vl", "qwen2_5_vl", "qwen3_vl")


@pytest.fixture(scope="module", params=NAMES)
def kit(request, tmp_path_factory) -> Kit:
    return build(request.param, tmp_path_factory.mktemp(request.param))


def stock(kit: Kit, sample) -> dict[str, torch.Tensor]:
    """What the family's own processor makes of the sample's prompt."""
    processor = kit.processor
    pictures = [np.array(i) for i in sample.images]
    video = None if sample.frames is None else np.stack([np.array(i) for i in sample.frames.images])
    (turn,) = [m for m in sample.item.messages if m.role == "user"]
    words = turn.content.replace("<video>", "").replace("<image>", "")
    if video is not None and kit.name == "llava":
        tiles = tile(torch.from_numpy(video).permute(0, 3, 1, 2), 28)
        pictures, video = [t.permute(1, 2, 0).numpy() for t in tiles], None
    parts = [{"type": "image"}] * len(pictures) + [{"type": "video"}] * (video is not None)
    if kit.name.startswith("llava"):
        words = words.strip("\n")
    parts.append({"type": "text", "text": words})
    text = processor.apply_chat_template([{"role": "user", "content": parts}], add_generation_prompt=True)
    options: dict = {}
    if pictures:
        # OneVision tells one image from several by how they are nested.
        options["images"] = [pictures] if kit.name == "llava_onevision" else pictures
    if video is not None:
        options["videos"] = [video]
        options["videos_kwargs"] = {"do_sample_frames": False}
        if kit.name in QWEN:
            ids = [round(60 * t) for t in sample.frames.times]
            # It takes the frames to be spread over the whole of the file, from which it infers their spacing.
            total = len(ids) * (ids[1] - ids[0]) if len(ids) > 1 else 1
            facts = {"fps": 60.0, "total_num_frames": total, "frames_indices": ids}
            options["videos_kwargs"]["video_metadata"] = [facts]
    return dict(processor(text=[text], return_tensors="pt", **options))


def without_outer_marks(ids: torch.Tensor, processor) -> list[int]:
    """The ids without the pair of marks that newer transformers leaves around a whole Qwen3-VL video."""
    start, end = processor.vision_start_token_id, processor.vision_end_token_id
    shown = (processor.image_token_id, processor.video_token_id)
    out = ids.tolist()
    begins = [i for i, token in enumerate(out) if token == start and out[i + 1] not in shown]
    ends = [i for i, token in enumerate(out) if token == end and out[i - 1] not in shown]
    assert len(begins) == len(ends) == 1, "stock no longer leaves them: drop this"
    del out[ends[0]], out[begins[0]]
    return out


CASES = {
    "1 frame": (VIDEO, {"frames": 1}),
    "2 frames": (VIDEO, {"frames": 2, "size": (30, 90)}),
    "5 frames": (VIDEO, {"frames": 5, "spacing": 1.5}),
    "20 frames": (VIDEO, {"frames": 20, "size": (64, 36), "spacing": 3.0}),
    "image": (IMAGE, {"images": 1, "size": (130, 70)}),
    "tall image": (IMAGE, {"images": 1, "size": (20, 110)}),
    "2 images": (IMAGES, {"images": 2, "size": (60, 33)}),
    "text": (TEXT, {}),
    "image and video": ([("user", "<image><video>\nWhich?")], {"images": 1, "frames": 7, "spacing": 1 / 3}),
    "images and video": ([("user", "<image><image><video>\nWhich?")], {"images": 2, "frames": 4, "size": (90, 50)}),
}


@pytest.mark.parametrize("case", CASES)
def test_equals_the_processor_of_the_family(kit, case):
    turns, settings_ = CASES[case]
    if kit.name == "qwen3_vl" and case == "1 frame":
        settings_ = {"frames": 2}  # the stock processor refuses one; test_a_single_frame_is_shown_twice
    sample = example(*turns[:1], **settings_)
    if kit.name == "llava" and case.endswith("and video"):
        with pytest.raises(SampleError, match="a video and images in one sample"):
            encode(sample, kit.processor, train=False)
        return
    ours = collate([encode(sample, kit.processor, train=False)], kit.processor)
    theirs = stock(kit, sample)
    ids = theirs["input_ids"][0].tolist()
    if kit.name == "qwen3_vl" and "frames" in settings_:
        ids = without_outer_marks(theirs["input_ids"][0], kit.processor)
    assert ours["input_ids"][0].tolist() == ids
    pixels = theirs.keys() - {"input_ids", "attention_mask", "mm_token_type_ids", "second_per_grid_ts"}
    assert pixels == ours.keys() - {
        *("input_ids", "attention_mask", "labels", "mm_token_type_ids", "second_per_grid_ts"),
    }
    for name in pixels:
        assert torch.equal(ours[name], torch.as_tensor(theirs[name])), name
    if kit.name in QWEN and kit.name != "qwen3_vl":
        assert torch.equal(ours["mm_token_type_ids"], theirs["mm_token_type_ids"])
    if kit.name == "qwen2_5_vl" and settings_.get("frames", 1) > 1:
        assert ours["second_per_grid_ts"].tolist() == pytest.approx([float(s) for s in theirs["second_per_grid_ts"]])


def test_a_batch_gives_what_its_samples_give_alone(kit):
    """Of any lengths: stock LLaVA-OneVision and LLaVA-NeXT-Video refuse videos of different lengths."""
    encoded = [encode(s, kit.processor, train=True) for s in mix()]
    for pad in ("left", "right"):
        batch = collate(encoded, kit.processor, pad=pad)
        with torch.no_grad():
            together = kit.model(**batch)
            assert torch.isfinite(together.loss)
            for row, one in enumerate(encoded):
                alone = kit.model(**collate([one], kit.processor)).logits[0]
                found = together.logits[row, batch["attention_mask"][row].bool()]
                assert torch.allclose(found, alone, atol=2e-4), (pad, one.id)


def test_a_single_frame_is_shown_twice(tmp_path):
    kit = build("qwen3_vl", tmp_path)
    one = collate([encode(example(*VIDEO, frames=1), kit.processor, train=False)], kit.processor)
    sample = example(*VIDEO, frames=2)
    twice = replace(sample, frames=Frames(pixels=sample.frames.pixels[[0, 0]], times=(1.0, 1.0)))
    two = collate([encode(twice, kit.processor, train=False)], kit.processor)
    assert one.keys() == two.keys() and all(torch.equal(one[k], two[k]) for k in one)


def test_greedy_text_does_not_depend_on_the_batch(kit):
    samples = [
        example(
            *turns[:1], frames=f * (turns is VIDEO), images=n, seed=17 * i, name=str(i), size=(40 + 8 * (i % 3), 40)
        )
        for i, (turns, f, n) in enumerate(
            (turns, frames, {"<image>": 1, "<image><image>": 2}.get(turns[0][1].split("\n")[0], 0))
            for turns, frames in zip(
                (VIDEO, IMAGE, VIDEO, TEXT, VIDEO, IMAGES, VIDEO, IMAGE) * 2, range(1, 17), strict=True
            )
        )
    ]
    assert len(samples) == 16
    encoded = [encode(s, kit.processor, train=False) for s in samples]
    texts = {
        size: [text for at in range(0, 16, size) for text in _answers(kit, encoded[at : at + size])]
        for size in (1, 4, 16)
    }
    assert texts[1] == texts[4] == texts[16]
    assert len(set(texts[1])) > 3  # the pixels and words do matter


def _answers(kit: Kit, encoded) -> list[str]:
    batch = collate(encoded, kit.processor, pad="left")
    del batch["labels"]
    with torch.inference_mode():
        out = kit.model.generate(**batch, max_new_tokens=4, do_sample=False)
    return [str(row) for row in out[:, batch["input_ids"].shape[1] :].tolist()]


def test_generation_goes_on_from_what_training_sees(kit):
    """Each generated token comes from the logits of a plain forward pass over prompt and answer so far."""
    encoded = [encode(s, kit.processor, train=False) for s in mix()]
    batch = collate(encoded, kit.processor, pad="left")
    del batch["labels"]
    with torch.no_grad():
        made = kit.model.generate(
            **batch, max_new_tokens=3, do_sample=False, output_logits=True, return_dict_in_generate=True
        )
        said = made.sequences[:, batch["input_ids"].shape[1] :]
        for steps in range(said.shape[1]):
            grown = dict(batch)
            more = said[:, :steps]
            grown["input_ids"] = torch.cat([batch["input_ids"], more], dim=1)
            grown["attention_mask"] = torch.cat([batch["attention_mask"], torch.ones_like(more)], dim=1)
            if "mm_token_type_ids" in batch:
                grown["mm_token_type_ids"] = torch.cat([batch["mm_token_type_ids"], torch.zeros_like(more)], dim=1)
            logits = kit.model(**grown).logits[:, -1]
            going = (more != kit.processor.tokenizer.eos_token_id).all(dim=1)
            assert torch.allclose(logits[going], made.logits[steps][going], atol=2e-4)


# Parameters that a forward pass over video, images and text never touches.
UNTOUCHED = {
    "llava": ("vision_tower.encoder.layers.2.", "post_layernorm"),
    "llava_next_video": ("vision_tower.encoder.layers.2.", "post_layernorm"),
    "llava_onevision": ("post_layernorm",),
}


def test_gradients_reach_every_parameter(kit):
    kit.model.zero_grad()
    batch = collate([encode(s, kit.processor, train=True) for s in mix()], kit.processor)
    kit.model(**batch).loss.backward()
    missing = {n for n, p in kit.model.named_parameters() if p.grad is None or not p.grad.abs().sum() > 0}
    expected = {n for n, _ in kit.model.named_parameters() if any(part in n for part in UNTOUCHED.get(kit.name, ()))}
    # The bias of a key adds the same to all scores of a query, so its gradient is zero but for rounding.
    assert {n for n in missing ^ expected if "k_proj.bias" not in n} == set()
    kit.model.zero_grad()


@pytest.mark.parametrize("turns", [TEXT, IMAGE, VIDEO])
def test_a_dummy_for_a_missing_modality_changes_nothing(kit, turns):
    one = encode(example(*turns, frames=4 * (turns is VIDEO), images=int(turns is IMAGE)), kit.processor, train=True)
    losses = []
    for always in ((), ("image", "video")):
        batch = collate([one, one], kit.processor, always=always)
        with torch.no_grad():
            losses.append(kit.model(**batch).loss.item())
        if always:
            wanted = {"pixel_values"} | ({"pixel_values_videos"} if kit.name != "llava" else set())
            assert wanted <= batch.keys()
    assert losses[0] == pytest.approx(losses[1], abs=1e-5)


def test_a_blank_has_no_loss(kit):
    batch = collate([blank(kit.processor)], kit.processor, always=("image", "video"))
    assert (batch["labels"] == IGNORE).all()
    with torch.no_grad():
        assert torch.isfinite(kit.model(**batch).logits[batch["attention_mask"].bool()]).all()


# --- words and labels -----------------------------------------------------------------------------------------------

SYSTEM = "<|im_start|>system\nYou are a helpful assistant.<|im_end|>\n"
PAD = "<|vision_start|><|video_pad|><|vision_end|>"
CHATML = (
    "<|im_start|>user\nVIDEO\nWhich way does the ring move?<|im_end|>\n<|im_start|>assistant\nleft<|im_end|>\n"
    "<|im_start|>user\nWhat colour is the square?<|im_end|>\n<|im_start|>assistant\ngreen<|im_end|>\n"
)
# The text of two turns about a video of three frames at 1.0, 1.5 and 2.0 s, and what is learned of it.
GOLDEN = {
    "qwen2_vl": (SYSTEM + CHATML.replace("VIDEO", PAD), ["left<|im_end|>\n", "green<|im_end|>\n"]),
    "qwen2_5_vl": (SYSTEM + CHATML.replace("VIDEO", PAD), ["left<|im_end|>\n", "green<|im_end|>\n"]),
    "qwen3_vl": (
        CHATML.replace("VIDEO", f"<1.2 seconds>{PAD}<2.0 seconds>{PAD}"),
        ["left<|im_end|>\n", "green<|im_end|>\n"],
    ),
    "llava": (
        "USER: <image>\nWhich way does the ring move? ASSISTANT: left</s>"
        "USER: What colour is the square? ASSISTANT: green</s>",
        [" left</s>", " green</s>"],
    ),
    "llava_next_video": (
        "USER: <video>\nWhich way does the ring move? ASSISTANT: left</s>"
        "USER: What colour is the square? ASSISTANT: green</s>",
        [" left</s>", " green</s>"],
    ),
    "llava_onevision": (
        "<|im_start|>user <video>\nWhich way does the ring move?<|im_end|><|im_start|>assistant\nleft<|im_end|>"
        "<|im_start|>user \nWhat colour is the square?<|im_end|><|im_start|>assistant\ngreen<|im_end|>",
        ["left<|im_end|>", "green<|im_end|>"],
    ),
}


def script(kit: Kit, sample, *, train: bool):
    family, media = family_of(kit.processor), shown(sample)
    messages = sample.item.messages if train else sample.item.messages[:-1]
    return write(
        chat(messages, video_parts=family.video_parts(media), marks_first=family.marks_first),
        kit.processor,
        spell=lambda text: family.spell(text, media, kit.processor),
        prompt=not train,
        sample="s",
    )


def test_words_and_labels_are_those_of_the_released_template(kit):
    sample = example(*TURNS, frames=3)
    text, learned = GOLDEN[kit.name]
    found = script(kit, sample, train=True)
    assert found.text == text
    assert [found.text[a:b] for a, b in found.spans] == learned
    # A prompt is the same text, up to where the model goes on.
    prompt = script(kit, sample, train=False)
    assert text == prompt.text + learned[-1]

    tokenizer = kit.processor.tokenizer
    encoded = encode(sample, kit.processor, train=True)
    labels = encoded.labels[encoded.labels != IGNORE].tolist()
    assert torch.equal(encoded.labels[encoded.labels != IGNORE], encoded.input_ids[encoded.labels != IGNORE])
    assert "".join(tokenizer.decode(labels).split()) == "".join("".join(learned).split())
    assert labels.count(tokenizer.eos_token_id) == 2
    asked = encode(sample, kit.processor, train=False)
    assert (asked.labels == IGNORE).all()
    assert torch.equal(asked.input_ids, encoded.input_ids[: len(asked.input_ids)])
    bos = tokenizer.bos_token_id
    assert encoded.input_ids.tolist().count(bos) == (bos is not None)


def test_a_template_that_rewrites_earlier_turns_is_refused(kit):
    processor = kit.processor
    kept = processor.chat_template
    processor.chat_template = "{{ messages | length }}" + kept
    try:
        with pytest.raises(SampleError, match="rewrites earlier turns"):
            encode(example(*TURNS, frames=2), processor, train=True)
    finally:
        processor.chat_template = kept


def test_marks_must_match_the_media(kit):
    for turns, media, message in (
        ([("user", "<image><image>x"), ("assistant", "y")], {"images": 1}, "more media marks"),
        ([("user", "<image>x"), ("assistant", "y")], {"images": 2}, "fewer media marks"),
        ([("user", "x"), ("assistant", "y")], {"frames": 2}, "fewer media marks"),
        ([("user", "<video>x")], {"frames": 2}, "no assistant text"),
        ([("user", "<video>x"), ("assistant", " ")], {"frames": 2}, "without words"),
    ):
        with pytest.raises(SampleError, match=message) as error:
            encode(example(*turns, **media), kit.processor, train=True)
        assert error.value.reason is Reason.BAD_ROW


# --- cost, ceiling, manifest ----------------------------------------------------------------------------------------


def test_vision_tokens_are_never_truncated(kit):
    sample = example(*VIDEO, frames=8, name="clip-9")
    whole = encode(sample, kit.processor, train=True)
    length = len(whole.input_ids)
    assert whole.visual_tokens == visual_tokens(shown(sample), kit.processor) > 0
    assert torch.equal(encode(sample, kit.processor, train=True, max_length=length).input_ids, whole.input_ids)
    with pytest.raises(SampleError, match=rf"clip-9.*too-long: {length} tokens .{whole.visual_tokens} of them visual"):
        encode(sample, kit.processor, train=True, max_length=length - 1)


words = st.text(st.characters(codec="ascii", min_codepoint=32, exclude_characters="<>|"), max_size=30)


@settings(max_examples=10, deadline=None, suppress_health_check=list(HealthCheck), derandomize=True)
@given(
    kind=st.sampled_from(["video", "image", "images", "text"]),
    count=st.integers(1, 9),
    size=st.tuples(st.integers(17, 130), st.integers(17, 130)),
    spacing=st.floats(0.25, 40).map(lambda s: round(2 * s) / 2 + 0.5),
    words=words,
)
def test_cost_is_the_length_the_stock_processor_gives(kit, kind, count, size, spacing, words):
    """From sizes alone, against the family's own processor, which works on pixels."""
    mark = {"video": "<video>", "image": "<image>", "images": "<image>" * count, "text": ""}[kind]
    frames = max(2, count) if kind == "video" else 0
    images = {"image": 1, "images": count}.get(kind, 0)
    sample = example(("user", f"{mark}x{words}y"), frames=frames, images=images, size=size, spacing=spacing)
    cost = token_cost(sample.item.messages, shown(sample), kit.processor, train=False)
    encoded = encode(sample, kit.processor, train=False)
    assert (cost.tokens, cost.visual) == (len(encoded.input_ids), encoded.visual_tokens)
    extra = 2 if kit.name == "qwen3_vl" and frames else 0  # the outer marks
    assert cost.tokens == stock(kit, sample)["input_ids"].shape[1] - extra


def test_manifest_holds_what_can_change_a_result(kit):
    ref = resolve(str(kit.folder))
    found = preprocessing(ref, kit.processor)
    assert json.loads(json.dumps(found)) == found
    assert found["family"] == kit.name
    assert FAMILIES[kit.name].rules.items() <= found.items()
    part = kit.processor.image_processor
    kept = part.image_mean
    part.image_mean = [0.1, 0.2, 0.3]
    try:
        (line,) = differences(found, preprocessing(ref, kit.processor))
    finally:
        part.image_mean = kept
    assert line.startswith("image_processor.image_mean: ")


# --- LLaVA-1.5: videos as tiles -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("frames", "pictures", "across"), [(1, 1, 1), (2, 1, 2), (4, 1, 2), (8, 1, 3), (16, 1, 4), (17, 2, 4), (64, 4, 4)]
)
def test_frames_are_tiled_in_reading_order(frames, pictures, across):
    """Frame i is one grey level, so each tile tells which frame it is."""
    video = (torch.arange(frames, dtype=torch.uint8) + 50).view(-1, 1, 1, 1).expand(-1, 3, 60, 60).contiguous()
    tiled = tile(video, 336 if across > 1 else 60)
    assert len(tiled) == pictures
    seen = []
    for picture in tiled:
        assert picture.shape[1] == picture.shape[2]
        cell = picture.shape[1] // across
        centres = picture[0, cell // 2 :: cell, cell // 2 :: cell][:across, :across].flatten().tolist()
        filled = [c for c in centres if c]
        assert centres[: len(filled)] == filled  # blanks come last
        seen += filled
    assert seen == list(range(50, 50 + frames))
    per_picture = [math.ceil(frames / pictures), frames // pictures]
    assert per_picture[0] - per_picture[1] <= 1


def test_tiles_keep_the_shape_of_the_frames():
    (picture,) = tile(torch.full((4, 3, 45, 80), 200, dtype=torch.uint8), 336)
    rows = (picture[0].amax(dim=1) > 0).nonzero().flatten()
    assert picture[0].amax(dim=0).gt(0).all()  # as wide as the tiles
    assert len(rows) == 2 * round(168 * 45 / 80)  # as high as the frames are


def test_a_video_beside_images_is_refused_where_it_cannot_be_told(tmp_path):
    kit = build("llava", tmp_path)
    sample = example(("user", "<image><video>x"), ("assistant", "y"), frames=2, images=1)
    with pytest.raises(SampleError, match="a video and images in one sample"):
        encode(sample, kit.processor, train=True)
    cost = token_cost([Message(role="user", content="hi")], shown(example(*TEXT)), kit.processor)
    assert cost.visual == 0
