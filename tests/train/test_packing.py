"""Packed rows: the losses and gradients of the padded batch, through the model and through the real command."""

import json

import pytest
import torch
from alike import LOSS, WEIGHTS, assert_alike
from data.encoding_families import TEXT, build, example, mix
from safetensors.torch import load_file

from vtrap_data.encoding import ModelRef, collate, encode, load_model, load_processor, resolve
from vtrap_data.errors import UsageError
from vtrap_data.loading.dataset import PackedDataset
from vtrap_train.config import parse
from vtrap_train.packing import PROVEN, packer
from vtrap_train.run import run
from vtrap_train.trainer import per_row


@pytest.fixture(scope="module", params=PROVEN)
def kit(request, tmp_path_factory):
    return build(request.param, tmp_path_factory.mktemp(request.param) / "base")


@pytest.mark.parametrize("attention", ["sdpa", "eager"])
@pytest.mark.parametrize("always", [(), ("image", "video")])
def test_a_packed_row_has_the_loss_and_the_gradients_of_the_padded_batch(attention, always, kit):
    ref = resolve(str(kit.folder))
    model = load_model(ref, attn_implementation=attention).train()
    pack = packer(ref, model.config, attn_implementation=attention)
    picks = [example(*TEXT), example(*TEXT)] if always else mix()  # with words only, both dummies are added
    padded = collate([encode(e, kit.processor, train=True) for e in picks], kit.processor, always=always)
    assert not padded["attention_mask"].all() and "pixel_values" in padded and "pixel_values_videos" in padded
    found = []
    for batch in (padded, pack(padded)):
        model.zero_grad()
        out = model(**batch, use_cache=False)
        out.loss.backward()
        grads = {n: torch.zeros_like(p) if p.grad is None else p.grad.clone() for n, p in model.named_parameters()}
        found.append((out.loss.item(), grads))
    (loss, gradients), (packed_loss, packed_gradients) = found
    assert packed_loss == pytest.approx(loss, rel=1e-5)
    largest = max(float(g.abs().max()) for g in gradients.values())
    for name, gradient in gradients.items():
        torch.testing.assert_close(packed_gradients[name], gradient, rtol=1e-3, atol=1e-5 * largest, msg=name)


def test_a_packed_sample_does_not_see_its_neighbours(model_dir, packed_by_kind):
    ref = resolve(str(model_dir))
    processor, model = load_processor(ref), load_model(ref).eval()
    pack = packer(ref, model.config, attn_implementation="sdpa")
    data = PackedDataset(packed_by_kind["video"])
    first, second, other = (encode(data[i], processor, train=True) for i in (0, 1, 5))
    rows = []
    for neighbour in (first, other):
        row = pack(collate([neighbour, second], processor))
        rows.append(model(**row, use_cache=False).logits[0])
    tail = len(second.input_ids)
    torch.testing.assert_close(rows[0][-tail:], rows[1][-tail:], rtol=1e-4, atol=1e-4)


def test_sums_per_sample_of_a_packed_row_are_those_of_the_rows():
    values = torch.tensor([[0.0, 1.0, 2.0, 0.0, 3.0, 0.0, 0.0]])  # of the tokens 1.. of two samples and a dummy of two
    assert per_row(values, [4, 2]).tolist() == [3.0, 3.0]
    assert per_row(values, None).tolist() == [6.0]


def test_other_families_are_refused_with_the_reason(model_dir):
    llava = ModelRef(name="llava-1.5-7b", path="x", family="llava")
    with pytest.raises(UsageError, match=r"qwen2_5_vl, qwen3_vl only, and llava-1\.5-7b is of the family llava"):
        packer(llava, None, attn_implementation="sdpa")
    with pytest.raises(UsageError, match="flex_attention"):
        packer(resolve(str(model_dir)), None, attn_implementation="flex_attention")


def test_packed_and_unpacked_training_agree(kit, packed, tmp_path):
    outs = {}
    for name, more in (("padded", []), ("packed", ["--tokens_per_batch", 300, "--pack"])):
        out = tmp_path / name
        words = ["--model", kit.folder, "--data", packed, "--output_dir", out, "--per_device_train_batch_size", 8]
        words += ["--max_steps", 3, "--learning_rate", 1e-3, "--logging_steps", 1, "--save_strategy", "no", *more]
        summary = run(parse([str(w) for w in words]))
        lines = [json.loads(line) for line in (out / "loss.jsonl").read_text().splitlines()]
        outs[name] = (summary, lines, load_file(out / "model.safetensors"))
    (one, lines, weights), (other, packed_lines, packed_weights) = outs["padded"], outs["packed"]
    assert other["padding"] == 0 < one["padding"]
    for line, packed_line in zip(lines, packed_lines, strict=True):
        assert packed_line["num_tokens"] == line["num_tokens"]
        keys = [k for k in line if k.startswith("loss")]
        assert {k: packed_line[k] for k in keys} == pytest.approx({k: line[k] for k in keys}, rel=LOSS)
    assert_alike(packed_weights, weights, load_file(kit.folder / "model.safetensors"), way=WEIGHTS, each=1e-3)
