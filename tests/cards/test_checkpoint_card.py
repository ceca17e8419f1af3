"""What of a training may others see? Where base and data came from, which files are sent, what they do not say."""

import argparse
import json
from pathlib import Path

import pytest

from hub_cards.model_card import model_card
from vtrap_data.errors import UsageError
from vtrap_train import push
from vtrap_train.card_facts import model_facts, published

PART = {"data": "toy/train", "weight": 1.0}
HUB = {"id": "ann/clips", "revision": "c" * 40}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    write(tmp_path / "run", model="toy-vl", model_on_hub=None, data=[PART | {"on_hub": None}])
    return tmp_path / "run"


def write(folder: Path, *, evaluations: object = None, **facts: object) -> None:
    folder.mkdir(exist_ok=True)
    summary = {"frames": "2", "steps": 1, "evaluations": evaluations or {}, **facts}
    (folder / "training_summary.json").write_text(json.dumps(summary))
    (folder / "settings.json").write_text(json.dumps({"seed": 0, "model": facts["model"], "data": [PART]}))
    (folder / "preprocessing.json").write_text("{}")


@pytest.mark.parametrize("noted", [{"model_on_hub": None}, {}], ids=["noted", "of an earlier version"])
def test_a_local_folder_is_not_taken_for_what_somebody_has_on_the_hub(noted, folder, monkeypatch):
    monkeypatch.setattr("hub_cards.repository.Repository", None)  # the Hub is not asked
    write(folder, model="runs/sft", **noted, data=[PART | ({"on_hub": None} if noted else {})])
    facts = model_facts(folder, "me/mine", licence="unknown")
    assert (facts.base_model, facts.base_revision, facts.data, facts.licence) == ("sft", None, ("train",), "unknown")
    card = model_card(facts)
    assert "base_model:" not in card and "datasets:" not in card
    assert "runs/sft" not in card and "toy/train" not in card
    shown = json.dumps(published(folder))
    assert "runs/sft" not in shown and "toy/train" not in shown


def test_a_folder_that_is_called_like_the_toy_is_not_the_toy(folder):
    write(folder, model="runs/toy-vl", model_on_hub=None, data=[])
    facts = model_facts(folder, "me/mine", licence="unknown")
    assert facts.licence == "unknown" and not facts.synthetic
    write(folder, model="toy-vl", model_on_hub=None, data=[])
    facts = model_facts(folder, "me/mine", licence="unknown")
    assert facts.licence == "apache-2.0" and facts.synthetic


def test_what_came_from_the_hub_is_linked_with_its_commit(folder):
    base = {"id": "ann/base", "revision": "b" * 40}
    write(folder, model="ann/base@main", model_on_hub=base, data=[{"data": "ann/clips@v1", "on_hub": HUB}])
    facts = model_facts(folder, "me/mine", licence="mit")
    assert (facts.base_model, facts.base_revision, facts.data) == ("ann/base", "b" * 40, ("ann/clips",))
    card = model_card(facts)
    assert "base_model: ann/base" in card and "- ann/clips" in card


def test_only_what_belongs_to_the_model_is_sent_and_the_rest_is_named(folder, capsys):
    model = "config.json generation_config.json model-00001-of-00002.safetensors model.safetensors.index.json"
    model += " processor_config.json preprocessor_config.json video_preprocessor_config.json tokenizer.json merges.txt"
    model += " chat_template.jinja adapter/adapter_config.json adapter/adapter_model.safetensors LICENSE"
    others = "train.log nohup.out notes/plan.txt my.safetensors adapter/README.md eval/step-0.log optimizer.pt"
    for name in [*model.split(), *others.split()]:
        (folder / name).parent.mkdir(exist_ok=True)
        (folder / name).write_text("{}")
    parser = argparse.ArgumentParser()
    push.add_arguments(parser)
    out = folder.parent / "hub"
    assert push.run(parser.parse_args([str(folder), "me/mine", "--dry-run", str(out)])) == 0
    sent = {name for name, _ in json.loads((out / "plan.json").read_text())["parts"]["model"]["uploads"]}
    assert sent == {*model.split(), "training_summary.json", "settings.json"}
    assert "not sent, as it is no part of the model: my.safetensors, nohup.out, notes, train.log\n" in (
        capsys.readouterr().err
    )


def test_what_is_published_names_no_place_of_this_machine(folder):
    asked = {"tasks": "image", "arguments": ["--benchmarks=/home/me/secret", "--judge", "x"]}
    scored = {
        "0": {"asked": asked, "image": 50.0},
        "2": {"asked": asked, "error": "what it said: /home/me/step-2.log"},
    }
    data = [{"data": "file:///home/me/corpus", "on_hub": None}]
    write(folder, model="/home/me/base", model_on_hub=None, data=data, evaluations=scored)
    (folder / "adapter").mkdir()
    (folder / "adapter/adapter_config.json").write_text(
        json.dumps({"base_model_name_or_path": "/home/me/base", "r": 4})
    )
    found = published(folder)
    assert "home" not in json.dumps(found) and "secret" not in json.dumps(found)
    assert found["training_summary.json"]["evaluations"] == {"0": {"image": 50.0}, "2": {}}
    assert found["training_summary.json"]["data"][0]["data"] == "corpus"
    assert found["adapter/adapter_config.json"] == {"base_model_name_or_path": "base", "r": 4}


def test_without_a_known_licence_nothing_is_published(folder):
    write(folder, model="runs/sft", model_on_hub=None, data=[])
    parser = argparse.ArgumentParser()
    push.add_arguments(parser)
    with pytest.raises(UsageError, match="say it with --licence"):
        push.run(parser.parse_args([str(folder), "me/mine"]))
