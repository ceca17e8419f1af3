"""attention: the numbers are the model's attention, boxes are where things are drawn, and the page is safe."""

from __future__ import annotations

import json
import re
import shutil
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from test_report import CHROMIUM, Trap
from test_run import benchmarks, model_dir  # noqa: F401 - fixtures

from vtrap_bench import gaze
from vtrap_bench.__main__ import main
from vtrap_bench.attention import page
from vtrap_bench.boxes import read_boxes, toy_boxes
from vtrap_bench.gaze import Box, Gazer, Look, cover
from vtrap_bench.statistics import paired_difference
from vtrap_data.encoding import collate, encode, load_model
from vtrap_data.encoding.models import ModelRef, resolve
from vtrap_data.errors import UsageError
from vtrap_data.loading.dataset import PackedDataset
from vtrap_data.samples import VIDEO_MARK, Example, Frames, Message, PackedItem
from vtrap_data.sources.toyworld.generate import Recipe
from vtrap_data.sources.toyworld.scene import COLOURS, SIDE, Scene

# ruff: noqa: F811


@pytest.fixture(scope="module")
def gazer(model_dir):
    torch.set_num_threads(1)
    return Gazer(resolve(str(model_dir)), dtype="float32", device="cpu")


def test_a_family_without_a_grid_is_refused_before_its_weights_are_read(monkeypatch):
    llava = SimpleNamespace(image_processor=SimpleNamespace(patch_size=14))
    monkeypatch.setattr(gaze, "load_processor", lambda ref: llava)
    monkeypatch.setattr(gaze, "load_model", lambda *_, **__: pytest.fail("14 GB for nothing"))
    with pytest.raises(UsageError, match="the family llava lay out no grid"):
        Gazer(ModelRef(name="x", path="x", family="llava"), dtype="float32", device="cpu")


@pytest.mark.parametrize(("task", "frames"), [("toy-image", "hybrid"), ("toy-video", 8), ("toy-video", 2)])
def test_attention_is_the_model_s_own(gazer, benchmarks, model_dir, task, frames):
    example = PackedDataset(benchmarks / task, frames=frames)[1]
    look = gazer.look(example)
    encoded = encode(example, gazer.processor, train=False)
    batch = collate([encoded], gazer.processor)
    del batch["labels"]
    # Another copy of the model, whose weights transformers itself hands out.
    plain = load_model(resolve(str(model_dir)), dtype=torch.float32, attn_implementation="eager").eval()
    with torch.inference_mode():
        attentions = plain(**batch, use_cache=False, output_attentions=True).attentions
    layers = torch.stack([weights[0, :, -1].mean(0) for weights in attentions]).double().numpy()
    assert layers.sum(1) == pytest.approx(1, abs=1e-5)  # a softmax: whatever is not on pictures is on words
    visual = encoded.token_types.numpy() > 0
    groups = [part.mean(0) for part in np.array_split(layers, 3)]
    found = np.concatenate([p.reshape(3, -1) for p in look.pictures], axis=1)
    for group, row in enumerate(groups):
        assert found[group] == pytest.approx(row[visual], abs=1e-6)
    assert found.shape[1] == encoded.visual_tokens == sum(p[0].size for p in look.pictures)
    assert len(look.pictures) == (1 if task == "toy-image" else int(frames) // 2)
    assert found.sum(1) == pytest.approx(look.mass) and (look.mass > 0).all() and (look.mass < 1).all()
    assert (look.entropy() > 0).all() and (look.entropy() <= 1 + 1e-12).all()


def test_eager_attention_answers_as_the_fast_one_does(gazer, benchmarks, model_dir):
    example = PackedDataset(benchmarks / "toy-video", frames=8)[0]
    batch = collate([encode(example, gazer.processor, train=False)], gazer.processor)
    del batch["labels"]
    fast = load_model(resolve(str(model_dir)), dtype=torch.float32).eval()
    with torch.inference_mode():
        a, b = (m(**batch, use_cache=False).logits[0, -1] for m in (gazer.model, fast))
    assert torch.allclose(a, b, atol=1e-4)


def test_measures_by_hand():
    even = Look(pictures=(np.full((1, 2, 2), 0.1),), mass=np.array([0.4]))
    assert even.entropy() == pytest.approx([1.0])
    on, area = even.on([[Box(0, 0, 0.5, 1)]])
    assert on == pytest.approx([0.5]) and area == 0.5
    one = Look(pictures=(np.array([[[0.3, 0.0], [0.0, 0.0]]]), np.zeros((1, 2, 2))), mass=np.array([0.3]))
    assert one.entropy() == pytest.approx([0.0])
    on, area = one.on([[Box(0, 0, 0.5, 0.5)], []])
    assert on == pytest.approx([1.0]) and area == pytest.approx(1 / 8)
    assert cover([Box(0, 0, 0.5, 0.5), Box(0, 0, 0.5, 0.5)], 1, 1)[0, 0] == pytest.approx(0.25)  # once, not twice


def test_toy_boxes_hold_what_is_asked_about(benchmarks):
    """Inside the box of a coloured thing its colour is what is there: checked on the pixels of the packed pictures."""
    checked = 0
    for example in PackedDataset(benchmarks / "toy-image"):
        boxes = toy_boxes(example, steps=1)
        assert boxes is not None and len(boxes) == 1
        asked = [c for c in (example.item.answer, *example.item.question.replace("?", "").split()) if c in COLOURS]
        if example.item.ability in ("colour", "shape") and len(boxes[0]) == 1:
            box, image = boxes[0][0], example.images[0].convert("RGB")
            w, h = image.size
            inside = np.asarray(image.crop((box.left * w, box.top * h, box.right * w, box.bottom * h)), float)
            near = np.abs(inside - np.array(COLOURS[asked[0]])).max(-1) < 70
            assert near.mean() > 0.12
            checked += 1
    assert checked >= 4


@pytest.mark.parametrize("slots", [16, 64])
def test_toy_boxes_follow_what_moves(slots):
    def boxes_of(index: int, number: int, question: str, scene: Scene):
        times = tuple(int((i + 0.5) / slots * scene.frames) / scene.fps for i in range(slots))
        item = PackedItem(
            id=recipe.item_id(index, number),
            question=question,
            messages=(Message(role="user", content=VIDEO_MARK + question),),
        )
        blank = Frames(pixels=np.zeros((slots, SIDE, SIDE, 3), np.uint8), times=times)
        return toy_boxes(
            Example(item=item, key="x", source="toyworld", kind="video", frames=blank, images=()), steps=8
        )

    moved = 0
    for index in range(120):
        recipe = Recipe(kind="videos", purpose="bench", count=index + 1, seed=0, slots=slots)
        scene, questions = recipe.scene(index)
        goers = {word for thing in scene.things if thing.motion for word in (thing.shape, thing.colour)}
        for number, question in enumerate(questions):
            boxes = boxes_of(index, number, question.text, scene)
            assert boxes is not None and len(boxes) == 8
            assert all(0 <= b.left < b.right <= 1 and 0 <= b.top < b.bottom <= 1 for some in boxes for b in some)
            if question.ability == "static" and goers & set(question.text.rstrip("?").split()):
                assert boxes[0][0] != boxes[-1][-1], (scene, question)
                moved += 1
    assert moved >= 10


def test_command_before_and_after(benchmarks, model_dir, tmp_path, capsys):
    out = tmp_path / "gaze"
    arguments = ["attention", str(model_dir), str(model_dir), "--task", "toy-image", "--limit", "6"]
    assert main([*arguments, "--benchmarks", str(benchmarks), "--out", str(out)]) == 0
    assert "even attention would put" in capsys.readouterr().out
    found = json.loads((out / "attention.json").read_text())
    assert found["items_with_box"] == len(found["items"]) == 6 and 0 < found["area"] < 1
    for groups in found["summary"].values():
        for group in groups:  # the same model twice: nothing changed, and nothing is claimed to be certain
            assert group["before"] == group["after"] and group["change"] == 0 and group["ci"] is None
    text = (out / "attention.html").read_text()
    assert "<script" not in text and "default-src 'none'" in text
    assert len(list((out / "overlays").glob("*.png"))) == 6
    for wrong, says in (
        (["attention", "a", "b", "c", "--task", "toy-image"], "give one, or two"),
        (["attention", "a", "--task", "nosuch"], "is no task"),
        (["attention", "a", "--task", "toy-image", "--limit", "0"], "at least 1"),
        (["attention", "a", "--task", "toy-image", "--profile", "x"], "--profile"),
    ):
        assert main([*wrong, "--out", str(out), "--benchmarks", str(benchmarks)]) == 2
        assert says in capsys.readouterr().err


def test_a_model_that_looks_everywhere_alike_afterwards(benchmarks, model_dir, tmp_path, capsys):
    """Without queries attention is even: its entropy is 1, and its share on the box the share of the area."""
    even = tmp_path / "even"
    shutil.copytree(model_dir, even)
    weights = load_file(even / "model.safetensors")
    for name, tensor in weights.items():
        if ".self_attn.q_proj." in name:
            tensor.zero_()
    save_file(weights, even / "model.safetensors", metadata={"format": "pt"})
    out = tmp_path / "gaze"
    arguments = ["attention", str(model_dir), str(even), "--task", "toy-image", "--limit", "12"]
    assert main([*arguments, "--benchmarks", str(benchmarks), "--out", str(out)]) == 0
    printed = capsys.readouterr().out
    found = json.loads((out / "attention.json").read_text())
    rows = found["items"]
    for row in rows:
        assert row["after"]["entropy"] == pytest.approx([1, 1, 1], abs=1e-6)
        assert row["after"]["on box"] == pytest.approx([row["area"]] * 3, abs=1e-6)
        assert row["after"]["mass"] == pytest.approx([row["after"]["mass"][0]] * 3, abs=1e-6)
    clusters = [row["cluster"] for row in rows]
    for what, groups in found["summary"].items():
        for number, group in enumerate(groups):
            before, after = ([row[name][what][number] for row in rows] for name in ("before", "after"))
            assert group["change"] == pytest.approx(np.mean(after) - np.mean(before))
            expected = paired_difference(before, after, clusters)
            assert group["ci"] == pytest.approx(list(expected.interval))
            assert group["ci"][0] < group["change"] < group["ci"][1]
            assert f"{group['change']:+9.3f}  {group['ci'][0]:+.3f} to {group['ci'][1]:+.3f}" in printed
    assert all(group["change"] > 0 and group["ci"][0] > 0 for group in found["summary"]["entropy"])
    assert f"{found['summary']['entropy'][0]['change']:+.3f}" in (out / "attention.html").read_text()


@pytest.mark.skipif(CHROMIUM is None, reason="no Chromium to open the page with")
def test_hostile_strings_do_nothing_in_a_browser(benchmarks, model_dir, tmp_path):
    """Questions, ids, names of models: nothing in `attention.html` runs or is requested, even without its policy."""
    out = tmp_path / "gaze"
    arguments = ["attention", str(model_dir), "--task", "toy-image", "--limit", "2", "--out", str(out)]
    assert main([*arguments, "--benchmarks", str(benchmarks)]) == 0
    found = json.loads((out / "attention.json").read_text())
    trap = Trap()
    try:
        text = "".join(trap.attacks)
        found["models"] = {"before": text}
        for row in found["items"]:
            row |= {"question": text, "item_id": text, "cluster": text, "ability": text}
        overlays = {path.stem: path.read_bytes() for path in (out / "overlays").glob("*.png")}
        whole = page({"json": found, "overlays": overlays})
        assert whole.count("onerror=") == 5 and whole.count("<img ") == 2  # as text: the model, two questions, two ids
        for version in (whole, re.sub("<meta http-equiv[^>]*>", "", whole)):
            (tmp_path / "page.html").write_text(version, "utf-8")
            shown = trap.browse(tmp_path / "page.html")
            assert "data-ran" not in shown.split(">", 2)[1] and '<html lang="en">' in shown
            assert not trap.asked, trap.asked
    finally:
        trap.server.shutdown()


def test_boxes_from_a_file(tmp_path):
    path = tmp_path / "boxes.jsonl"
    path.write_text('{"item_id": "a", "boxes": [[0.1, 0.2, 0.3, 0.4]]}\n')
    assert read_boxes(path) == {"a": [Box(0.1, 0.2, 0.3, 0.4)]}
    for bad in (
        '{"item_id": "a"}',
        '{"item_id": "a", "boxes": []}',
        '{"item_id": "a", "boxes": [[0.5, 0, 0.1, 1]]}',
        "[]",
        "x",
    ):
        path.write_text(bad + "\n")
        with pytest.raises(UsageError, match="line 1 holds no boxes"):
            read_boxes(path)


def test_boxes_of_other_items_are_told(benchmarks, model_dir, tmp_path, capsys):
    (tmp_path / "boxes.jsonl").write_text('{"item_id": "other", "boxes": [[0.1, 0.2, 0.3, 0.4]]}\n')
    words = ["attention", str(model_dir), "--task", "toy-image", "--limit", "2", "--out", str(tmp_path / "gaze")]
    assert main([*words, "--benchmarks", str(benchmarks), "--boxes", str(tmp_path / "boxes.jsonl")]) == 2
    assert "has none of the 2 items that would be looked at (toy-images-" in capsys.readouterr().err
    assert not (tmp_path / "gaze").exists()


def test_a_sweep_of_pictures_is_refused(benchmarks, model_dir, tmp_path, capsys):
    words = [
        "sweep",
        "--model",
        str(model_dir),
        "--tasks",
        "toy-image",
        "--frames",
        "2,4",
        "--out",
        str(tmp_path / "s"),
    ]
    assert main([*words, "--benchmarks", str(benchmarks)]) == 2
    assert "--tasks toy-image: a sweep over frames needs a video task" in capsys.readouterr().err
    assert not (tmp_path / "s").exists()


def test_sweep_compares_neighbours(benchmarks, model_dir, tmp_path, capsys):
    out = tmp_path / "sweep"
    arguments = ["sweep", "--model", str(model_dir), "--tasks", "toy-video", "--benchmarks", str(benchmarks)]
    assert main([*arguments, "--frames", "2,4,8", "--out", str(out)]) == 0
    shown = capsys.readouterr().out
    assert "2 to 4 frames" in shown and "4 to 8 frames" in shown
    found = json.loads((out / "sweep.json").read_text())
    assert [p["frames"] for p in found["tasks"]["toy-video"]] == ["2", "4", "8"]
    scores = [p["score"] for p in found["tasks"]["toy-video"]]
    assert [s["difference"] for s in found["steps"]] == pytest.approx([scores[1] - scores[0], scores[2] - scores[1]])
    assert main([*arguments, "--frames", "2,4,8", "--out", str(out), "--json"]) == 0  # nothing is made again
    assert json.loads(capsys.readouterr().out) == found
    assert main([*arguments, "--frames", "8", "--out", str(out)]) == 2
    assert "at least two" in capsys.readouterr().err
