"""Image and video gradients: the statistics against known truth, and the command on a tiny model."""

import json
from dataclasses import replace

import numpy as np
import pytest
import torch
from PIL import Image

from vtrap_data.encoding import collate, encode, load_model, load_processor, resolve
from vtrap_data.loading.dataset import PackedDataset
from vtrap_train import gradients
from vtrap_train.cosines import VARIANTS, draw_weights, measure


def gram_of(images, videos):
    rows = np.concatenate([images, *videos])
    return rows @ rows.T


def test_without_noise_cosines_and_lengths_are_those_of_the_vectors():
    image, shared, temporal = np.array([3.0, 4.0, 0.0]), np.array([3.0, 0.0, 0.0]), np.array([-1.0, 0.0, 1.0])
    shuffled = shared + temporal / 2
    videos = [np.tile(v, (5, 1)) for v in (shared + temporal, shared, shuffled)]
    found = measure(gram_of(np.tile(image, (4, 1)), videos), draw_weights(images=4, videos=5, draws=100, seed=0))

    def cosine(a, b):
        return a @ b / np.linalg.norm(a) / np.linalg.norm(b)

    video = shared + temporal
    for name, vector in (("video", video), ("shared", shared), ("temporal", temporal), ("shuffled", shuffled)):
        for kind in ("cosine", "plain"):
            assert found[f"{kind}/{name}"] == pytest.approx([cosine(image, vector)] * 3)
    assert found["length/temporal"].value == pytest.approx(np.linalg.norm(temporal) / np.linalg.norm(video))
    assert found["length/order"].value == pytest.approx(np.linalg.norm(video - shuffled) / np.linalg.norm(video))
    assert found["plain-length/temporal"] == pytest.approx(found["length/temporal"])
    assert found["length/image"].value == pytest.approx(5 / np.linalg.norm(video))
    assert found["signal/image"].value == found["signal/video"].value == pytest.approx(1)


def test_noise_shrinks_the_plain_cosine_and_not_the_corrected_one():
    rng = np.random.default_rng(0)
    truth, images, videos, size = 0.8, 12, 12, 400
    a = rng.normal(size=size)
    a /= np.linalg.norm(a)
    b = rng.normal(size=size)
    b -= (a @ b) * a
    b = truth * a + np.sqrt(1 - truth**2) * b / np.linalg.norm(b)
    found, plain, inside = [], [], 0
    for trial in range(60):
        noisy = [v + rng.normal(scale=2 / np.sqrt(size), size=(n, size)) for v, n in ((a, images), (b, videos))]
        out = measure(
            gram_of(noisy[0], [noisy[1]] * 3), draw_weights(images=images, videos=videos, draws=200, seed=trial)
        )
        found.append(out["cosine/video"].value)
        plain.append(out["plain/video"].value)
        inside += out["cosine/video"].low <= truth <= out["cosine/video"].high
    assert np.mean(found) == pytest.approx(truth, abs=0.02)
    assert np.mean(plain) < truth - 0.1
    assert inside >= 50  # of 60; a nominal 95 % with a dozen batches


def test_a_gradient_that_is_only_noise_has_no_cosine():
    rng = np.random.default_rng(1)
    rows = [rng.normal(size=(6, 50)) for _ in range(4)]
    rows[0] -= rows[0].mean(axis=0)  # the mean over the image batches is nothing
    found = measure(gram_of(rows[0], rows[1:]), draw_weights(images=6, videos=6, draws=100, seed=0))
    assert found["cosine/video"].value is None


def test_a_sketch_keeps_inner_products():
    generator = torch.Generator().manual_seed(0)
    a, noise = (torch.randn(300_000, generator=generator) for _ in range(2))
    b = a + noise
    one, other = gradients.sketch(a, "layer"), gradients.sketch(b, "layer")
    assert float(one @ other / one.norm() / other.norm()) == pytest.approx(2**-0.5, abs=0.01)
    assert abs(float(one @ gradients.sketch(a, "another layer"))) < 0.01 * float(a @ a)


def test_variants_change_pixels_only(packed_by_kind):
    data = PackedDataset(packed_by_kind["video"], frames=8)
    example = data[0]
    repeated, shuffled = (gradients.alter(example, v, seed=0) for v in VARIANTS[1:])
    assert gradients.alter(example, "video", seed=0) is example
    assert repeated.frames.times == shuffled.frames.times == example.frames.times
    assert len({f.tobytes() for f in repeated.frames.images}) == 1

    def pixels(e):
        return [f.tobytes() for f in e.frames.images]

    assert sorted(pixels(shuffled)) == sorted(pixels(example))
    assert pixels(gradients.alter(example, "shuffled", seed=0)) == pixels(shuffled)
    plain = replace(repeated, frames=None)
    assert gradients.alter(plain, "shuffled", seed=0) is plain


@pytest.fixture(scope="module")
def measured(model_dir, packed_by_kind, tmp_path_factory):
    out = tmp_path_factory.mktemp("gradients") / "out"
    words = ["--model", model_dir, "--images", packed_by_kind["images"], "--videos", packed_by_kind["video"]]
    words += ["--frames", "2,8", "--batches", 3, "--batch-size", 2, "--draws", 200, "--out", out]
    words = [str(w) for w in words]
    assert gradients.main(words) == 0
    return out, words


def test_the_command_writes_json_and_a_figure_and_adds_up(measured, model_dir, packed_by_kind):
    out, _ = measured
    found = json.loads((out / "gradients.json").read_text())
    assert list(found["frames"]) == ["2", "8"]
    for entry in found["frames"].values():
        assert set(entry["groups"]) == {"all", "vision", "projector", "language"}
        for row in entry["groups"].values():
            assert -1 <= row["plain/video"]["value"] <= 1
    with Image.open(out / "gradients.png") as picture:
        assert picture.size[0] > 1000
    gram = {group: np.asarray(rows) for group, rows in json.loads((out / "gram-8.json").read_text())["gram"].items()}
    assert np.allclose(gram["all"], gram["vision"] + gram["projector"] + gram["language"])
    assert gram["all"].shape == (12, 12)
    # The inner product of the first image batch with the first video batch, worked out again by hand.
    ref = resolve(str(model_dir))
    processor, model = load_processor(ref), load_model(ref).eval()
    sides = []
    for kind, data in (("images", packed_by_kind["images"]), ("video", packed_by_kind["video"])):
        dataset = PackedDataset(data, frames=8)
        first = gradients.batches(dataset, kind, count=3, size=2, seed=0, setting="--x")[0]
        model.zero_grad()
        model(**collate([encode(dataset[i], processor, train=True) for i in first], processor)).loss.backward()
        sides.append([p.grad.clone() for p in model.parameters()])
    assert gram["all"][0, 3] == pytest.approx(float(sum((a * b).sum() for a, b in zip(*sides, strict=True))), rel=1e-4)


def test_it_goes_on_where_it_stopped_and_gives_the_same_bytes(measured, monkeypatch):
    out, words = measured
    before = {p.name: p.read_bytes() for p in out.iterdir()}
    (out / "gram-8.json").unlink()
    (out / "gradients.json").unlink()
    counted = []
    stock = gradients._gradient
    monkeypatch.setattr(gradients, "_gradient", lambda *a: counted.append(1) or stock(*a))
    assert gradients.main(words) == 0
    assert len(counted) == 3 + 3 * 3  # the images again, and one frame count
    assert {p.name: p.read_bytes() for p in out.iterdir()} == before
    counted.clear()
    assert gradients.main(words) == 0 and not counted
    other = [*words[:-1], str(out), "--seed", "1"]
    assert gradients.main(other) == 0 and len(counted) == 3 + 2 * 9  # other batches: nothing is taken over


@pytest.mark.parametrize(
    ("change", "says"),
    [
        (["--frames", "0"], "--frames '0'"),
        (["--frames", "5"], "5 frames"),
        (["--batches", "1"], "--batches must be at least 2"),
        (["--batches", "99"], "lower --batches"),
        (["--images", "no/such/place"], "--images 'no/such/place'"),
        (["--seed", "-1"], "--seed -1 is not in 0 to"),
        (["--out", "/dev/null/x"], "'/dev/null/x'"),
        (["--attn-implementation", "flash_attention_3"], "FlashAttention3"),
    ],
)
def test_wrong_use(change, says, measured, capsys):
    _, words = measured
    assert gradients.main([*words, *change]) == 2
    err = capsys.readouterr().err
    assert says in err and err.count("\n") == 1
