"""Bytes reach the vision tower as the numbers of the processor, to the bit, whichever way they go; or not at all."""

from __future__ import annotations

import copy

import pytest
import torch
from encoding_families import IMAGE, TEXT, VIDEO, Kit, build, example, mix

from vtrap_data.encoding import accept_bytes, collate, encode, load_model, resolve

PIXELS = ("pixel_values", "pixel_values_videos")
BOTH = ("image", "video")
SAMPLES = {
    "everything": mix,
    "odd frames": lambda: [example(*VIDEO, frames=n, size=(61, 47), seed=n) for n in (3, 7)],
    "an image": lambda: [example(*IMAGE, images=1, size=(130, 70))],
    "text": lambda: [example(*TEXT)],
}


@pytest.fixture(scope="module", params=("qwen2_vl", "qwen2_5_vl", "qwen3_vl"))
def kit(request, tmp_path_factory) -> Kit:
    return build(request.param, tmp_path_factory.mktemp(request.param))


def model(kit: Kit, *, ready: bool, dtype: torch.dtype = torch.float32):
    """A model that takes bytes, or one that has not been told."""
    found = load_model(resolve(str(kit.folder)), dtype=dtype).eval()
    if ready:
        accept_bytes(found, kit.processor)
    return found


def stock(encoded, kit: Kit) -> list[torch.Tensor]:
    """What the processor itself makes of the pixels of these samples."""
    images = [image for one in encoded for image in one.images]
    videos = [one.video for one in encoded if one.video is not None]
    found = []
    if images:
        found.append(kit.processor.image_processor(images=images, return_tensors="pt")["pixel_values"])
    if videos:
        done = kit.processor.video_processor(videos=videos, return_tensors="pt", do_sample_frames=False)
        found.append(done["pixel_values_videos"])
    return found


def watched(tower: torch.nn.Module) -> list[torch.Tensor]:
    """A list that fills with what the vision tower is given."""
    seen: list[torch.Tensor] = []
    tower.register_forward_pre_hook(lambda _module, args: seen.append(args[0].clone()))
    return seen


@pytest.mark.parametrize("samples", SAMPLES)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_the_tower_sees_the_numbers_of_the_processor(kit, samples, dtype):
    encoded = [encode(s, kit.processor, train=False) for s in SAMPLES[samples]()]
    batch = collate(encoded, kit.processor, pad="left", as_bytes=True)
    labels = batch.pop("labels")
    assert all(batch[name].dtype == torch.uint8 for name in PIXELS if name in batch)
    ready = model(kit, ready=True, dtype=dtype)
    seen = watched(ready.model.visual)
    expected = [values.to(dtype) for values in stock(encoded, kit)]
    with torch.no_grad():
        logits = ready(**batch).logits
        said = ready.generate(**batch, max_new_tokens=3, do_sample=False)
        if "pixel_values" in batch:
            ready.get_image_features(batch["pixel_values"], batch["image_grid_thw"])
            ready.model.get_image_features(pixel_values=batch["pixel_values"], image_grid_thw=batch["image_grid_thw"])
            expected = [*expected, *expected, expected[0], expected[0]]
        else:
            expected *= 2
    assert len(seen) == len(expected)
    assert all(torch.equal(one, other) for one, other in zip(seen, expected, strict=True))

    as_before = model(kit, ready=False, dtype=dtype)
    given = collate(encoded, kit.processor, pad="left")
    assert torch.equal(given.pop("labels"), labels)
    with torch.no_grad():
        assert torch.equal(logits, as_before(**given).logits)
        assert torch.equal(logits, ready(**given).logits)  # numbers are taken as they are
        assert torch.equal(said, as_before.generate(**given, max_new_tokens=3, do_sample=False))


def gradients(found, batch) -> list[torch.Tensor]:
    """The loss, and every gradient."""
    loss = found(**batch, use_cache=False).loss
    loss.backward()
    return [loss.detach(), *(p.grad for p in found.parameters() if p.grad is not None)]


@pytest.mark.parametrize("samples", ["everything", "text"])
@pytest.mark.parametrize("lora", [False, True])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_step_has_the_same_loss_and_gradients(kit, samples, lora, dtype):
    """With dummies for what is not there, with gradient checkpointing, and with adapters in the tower, too."""
    encoded = [encode(s, kit.processor, train=True) for s in SAMPLES[samples]()]
    found = []
    for ready in (False, True):
        built = model(kit, ready=ready, dtype=dtype).train()
        built.gradient_checkpointing_enable()
        built.enable_input_require_grads()
        if lora:
            from peft import LoraConfig, get_peft_model

            torch.manual_seed(0)
            built = get_peft_model(built, LoraConfig(r=4, target_modules="all-linear", init_lora_weights=False))
        found.append(gradients(built, collate(encoded, kit.processor, always=BOTH, as_bytes=ready)))
    before, now = found
    assert len(before) == len(now) > 10
    assert all(torch.equal(one, other) for one, other in zip(before, now, strict=True))


def test_a_model_that_was_not_told_takes_no_bytes(kit):
    untold = model(kit, ready=False)
    for sample in (example(*IMAGE, images=1), example(*VIDEO, frames=4)):
        batch = collate([encode(sample, kit.processor, train=False)], kit.processor, as_bytes=True)
        del batch["labels"]
        for use in (untold, untold.generate):
            with pytest.raises(ValueError, match=r"accept_bytes\(model, processor\), or collate without as_bytes"):
                use(**batch)


def test_nothing_of_it_is_saved(kit, tmp_path):
    untold, told = model(kit, ready=False), model(kit, ready=True)
    assert told.config.to_dict() == untold.config.to_dict()
    assert told.state_dict().keys() == untold.state_dict().keys()
    for name, one in (("untold", untold), ("told", told)):
        one.save_pretrained(tmp_path / name)
    for file in (tmp_path / "untold").iterdir():
        assert file.read_bytes() == (tmp_path / "told" / file.name).read_bytes(), file.name
    batch = collate([encode(mix()[0], kit.processor, train=True)], kit.processor, as_bytes=True)
    assert torch.equal(copy.deepcopy(told)(**batch).loss, told(**batch).loss)


def test_a_processor_of_other_steps_makes_the_numbers_itself(kit):
    processor = copy.deepcopy(kit.processor)
    encoded = [encode(s, kit.processor, train=False) for s in SAMPLES["everything"]()]
    processor.image_processor.do_rescale = processor.video_processor.do_rescale = False
    batch = collate(encoded, processor, as_bytes=True)
    images, videos = stock(encoded, kit._replace(processor=processor))
    assert torch.equal(batch["pixel_values"], images) and torch.equal(batch["pixel_values_videos"], videos)
    told = model(kit, ready=False)
    accept_bytes(told, processor)
    seen = watched(told.model.visual)
    told(**batch)
    assert torch.equal(seen[0], images) and torch.equal(seen[1], videos)


def test_each_kind_of_pixels_has_its_own_mean(kit):
    processor = copy.deepcopy(kit.processor)
    processor.image_processor.image_mean, processor.video_processor.image_std = [0.1, 0.2, 0.3], [0.9, 0.8, 0.7]
    encoded = [encode(s, processor, train=False) for s in SAMPLES["everything"]()]
    told = model(kit, ready=False)
    accept_bytes(told, processor)
    seen = watched(told.model.visual)
    told(**collate(encoded, processor, as_bytes=True))
    expected = stock(encoded, kit._replace(processor=processor))
    assert len(expected) == 2 and all(torch.equal(*pair) for pair in zip(seen, expected, strict=True))
