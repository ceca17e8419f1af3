"""run: real packed data, a model of the real class with random weights, and real kills."""

import itertools
import json
import os
import signal
import subprocess
import sys
import textwrap
import time
from dataclasses import replace
from pathlib import Path

import pytest
from PIL import Image

from vtrap_bench import ahead
from vtrap_bench import run as running
from vtrap_bench.__main__ import main
from vtrap_bench.answer import read_answer
from vtrap_bench.answered import WORK, Answered
from vtrap_bench.backends import Generation, Serving
from vtrap_bench.extract import Stage
from vtrap_bench.jobs import chosen
from vtrap_bench.metrics import Accuracy
from vtrap_bench.models import local_model
from vtrap_bench.records import RECORDS, RecordFile, read_records
from vtrap_bench.run import parse_frames
from vtrap_bench.run_settings import RunSettings
from vtrap_bench.score_run import score_model
from vtrap_bench.scores import compute
from vtrap_bench.tasks import TASKS, select_tasks
from vtrap_bench.tasks.locate import ensure
from vtrap_data.errors import UsageError, VtrapError
from vtrap_data.loading.dataset import PackedDataset
from vtrap_data.samples import Item
from vtrap_data.shards.manifest import PackSettings
from vtrap_data.shards.pack import pack
from vtrap_data.sources.jsonl import read_jsonl
from vtrap_data.sources.toyworld.generate import Recipe, generate
from vtrap_data.trained import PREPROCESSING

BOTH = select_tasks("image,video")
FIXTURES = Path(__file__).parents[1] / "fixtures" / "benchmarks"


@pytest.fixture(scope="module")
def benchmarks(tmp_path_factory):
    """20 pictures with a question each, 6 clips with two."""
    root = tmp_path_factory.mktemp("bench")
    for task, kind, count in (("toy-image", "images", 20), ("toy-video", "videos", 6)):
        jsonl = generate(Recipe(kind=kind, purpose="bench", count=count), root / "source" / kind)
        samples = read_jsonl(jsonl, media_root=None, name=None).samples
        settings = PackSettings(
            name=task, split="test", budgets=(2, 4, 8, 16), slots=16, store=16, mean_frames=6, short_side=64
        )
        pack(samples, root / "packed" / task, settings=settings)
    return root / "packed"


@pytest.fixture(scope="module")
def model_dir(tmp_path_factory, toy_processor):
    from vtrap_data.toy_vl.build import build_model

    out = tmp_path_factory.mktemp("model") / "tiny"
    build_model(toy_processor.tokenizer, seed=1).save_pretrained(out)
    toy_processor.save_pretrained(out)
    return out


class Fake:
    """A backend that answers right on every second item and counts what it is asked."""

    def __init__(self, *, stop_after=None):
        self.preprocessing = {"family": "fake"}
        self.asked = []
        self.stop_after = stop_after

    def open(self, settings):
        return self

    def prepare(self, examples):
        return examples

    def generate(self, examples, *, max_new_tokens):
        if self.stop_after is not None and len(self.asked) >= self.stop_after:
            raise VtrapError("stopped")
        self.asked += [e.item.id for e in examples]
        return [Generation(answer(e.item), 16, 32) for e in examples]


def answer(item):
    return f"It is {item.answer}." if sum(item.id.encode()) % 2 else "no idea"


@pytest.fixture
def settings(tmp_path, benchmarks, model_dir):
    return RunSettings(
        model=str(model_dir),
        tasks=BOTH,
        frames=4,
        out=tmp_path / "run",
        label=None,
        benchmarks=benchmarks,
        limit=None,
        batch_size=5,
        seed=0,
        backend="transformers",
        dtype="auto",
        device="auto",
        profile="vtrap",
        answers="generate",
        serving=Serving(),
    )


def score(settings, backend=None, **kwargs):
    backend = backend or Fake()
    found = score_model(settings, model=local_model(settings.model), open_backend=backend.open, **kwargs)
    return found, backend


def test_records_and_scores_say_what_happened(settings, benchmarks):
    scores, backend = score(settings)
    records = read_records(settings.out / RECORDS)
    assert json.loads((settings.out / "scores.json").read_text()) == scores
    assert len(records) == len({r.key for r in records}) == len(backend.asked) == 32
    by_id = {r.item_id: r for r in records}
    for name in ("toy-image", "toy-video"):
        data = PackedDataset(benchmarks / name, frames=4 if name == "toy-video" else "hybrid")
        for example in data:
            record, item = by_id[example.item.id], example.item
            right = bool(sum(item.id.encode()) % 2)
            assert (record.correct, record.extracted) == (right, item.answer if right else None)
            assert record.stage == ("only-option" if right else "unparsed")
            assert (record.task, record.cluster, record.ability) == (name, example.key, item.ability)
            assert record.frame_times == (example.frames.times if example.frames else ())
            assert record.n_frames == (4 if name == "toy-video" else 0)
        found, task = scores["tasks"][name], [r for r in records if r.task == name]
        assert found["score"] == pytest.approx(100 * sum(r.correct for r in task) / len(task))
        assert found["ci"][0] <= found["score"] <= found["ci"][1]
        assert (found["n"], found["clusters"]) == (len(task), len({r.cluster for r in task}))
        assert found["unparsed"] == pytest.approx(1 - found["score"] / 100) and found["empty"] == 0
        assert found["visual_tokens"] == 16 * len(task)
        assert sum(a["n"] for a in found["abilities"].values()) == len(task)
    assert scores["image"]["score"] == scores["tasks"]["toy-image"]["score"]
    info = json.loads((settings.out / "run.json").read_text())
    assert info["preprocessing"] == {"family": "fake"} and info["tasks"]["toy-video"]["items"] == 12
    assert str(settings.out.parent) not in json.dumps(info["tasks"])


def test_batches_hold_items_of_one_task_and_similar_length(settings):
    sizes = []

    class Watching(Fake):
        def generate(self, examples, *, max_new_tokens):
            sizes.append([len(e.frames) if e.frames else 0 for e in examples])
            return super().generate(examples, max_new_tokens=max_new_tokens)

    score(replace(settings, frames="budget"), Watching())
    assert all(min(s) > 0 or max(s) == 0 for s in sizes)
    video = [n for s in sizes if max(s) for n in s]
    assert video == sorted(video, reverse=True) and len(set(video)) > 1


def test_questions_about_the_same_clip_follow_each_other(settings, benchmarks):
    """So it is decoded once: they are even given the same frames, not equal ones."""
    asked = []

    class Watching(Fake):
        def generate(self, examples, *, max_new_tokens):
            asked.extend(examples)
            return super().generate(examples, max_new_tokens=max_new_tokens)

    score(replace(settings, tasks=select_tasks("video"), frames=4), Watching())
    clips = [key for key, _ in itertools.groupby(e.key for e in asked)]
    assert len(asked) == 12 and len(clips) == 6 == len(set(clips))
    assert len({id(e.frames) for e in asked}) == 6


def test_a_stopped_run_goes_on_and_asks_nothing_twice(settings):
    first = Fake(stop_after=10)
    with pytest.raises(VtrapError, match="stopped"):
        score(settings, first)
    assert not (settings.out / "scores.json").exists()
    scores, second = score(settings)
    assert len(first.asked) == 10 and sorted(first.asked + second.asked) == sorted(set(first.asked + second.asked))
    whole, _ = score(replace(settings, out=settings.out.with_name("whole")))
    assert scores == whole


def never(_):
    raise AssertionError("a finished run opened a model")


def test_a_finished_run_loads_no_model_and_changes_nothing(settings):
    scores, _ = score(settings)
    before = {p.name: (p.read_bytes(), p.stat().st_mtime_ns) for p in settings.out.iterdir()}

    again = score_model(settings, model=local_model(settings.model), open_backend=never)
    assert again == scores
    assert {p.name: (p.read_bytes(), p.stat().st_mtime_ns) for p in settings.out.iterdir()} == before
    assert before.keys() == {"run.json", "records.jsonl", "scores.json"}


def test_what_was_left_by_a_kill_after_all_was_done_is_removed(settings):
    """Of a process that had written the scores, and not yet removed its part and its sign of life."""
    scores, _ = score(settings)
    before = {p.name: p.read_bytes() for p in settings.out.iterdir()}
    left = (
        "import os, sys\nfrom pathlib import Path\nfrom vtrap_bench.claims import Worker\n"
        "me = Worker(Path(sys.argv[1])).__enter__()\nme.claim('toy-image-0')\n"
        "(me.folder / 'records.jsonl').write_bytes(Path(sys.argv[2]).read_bytes())\nos._exit(9)\n"
    )
    argv = [sys.executable, "-c", left, settings.out / "work", settings.out / RECORDS]
    assert subprocess.run(argv, check=False).returncode == 9
    assert list((settings.out / "work").rglob("alive"))
    assert score_model(settings, model=local_model(settings.model), open_backend=never) == scores
    assert {p.name: p.read_bytes() for p in settings.out.iterdir()} == before


@pytest.mark.parametrize("cut", [1, 40])
def test_a_torn_last_line_is_dropped_with_a_note(settings, capsys, cut):
    score(settings)
    path = settings.out / RECORDS
    whole = path.read_bytes()
    path.write_bytes(whole[:-cut])
    _, backend = score(settings)
    assert len(backend.asked) == 1 and sorted(path.read_bytes().splitlines()) == sorted(whole.splitlines())
    assert "cut short" in capsys.readouterr().err


def test_a_damaged_line_in_the_middle_is_a_fault(settings, tmp_path):
    score(settings)
    path = settings.out / RECORDS
    lines = path.read_bytes().splitlines(keepends=True)
    path.write_bytes(b"".join([lines[0], b'{"key": 1}\n', *lines[2:]]))
    with pytest.raises(VtrapError, match="line 2 is no record"):
        score(settings)


def test_tasks_and_items_can_be_added_and_are_never_lost(settings):
    few = replace(settings, tasks=select_tasks("toy-image"), limit=4)
    _, first = score(few)
    more, second = score(replace(few, limit=9))
    assert (len(first.asked), len(second.asked), more["tasks"]["toy-image"]["n"]) == (4, 5, 9)
    both, third = score(replace(settings, tasks=select_tasks("video")))  # all of it; of the other what was there
    assert (list(both["tasks"]), len(third.asked)) == (["toy-image", "toy-video"], 12)
    less, fourth = score(few)
    assert (less["tasks"]["toy-image"]["n"], fourth.asked) == (9, [])


def test_other_settings_are_refused(settings, benchmarks, model_dir, tmp_path):
    score(replace(settings, limit=2))
    with pytest.raises(UsageError, match=r"frames: '4' != '8'.*choose another --out"):
        score(replace(settings, frames=8))
    other = tmp_path / "other-model"
    other.mkdir()
    for file in model_dir.iterdir():
        (other / file.name).write_bytes(file.read_bytes())
    score(replace(settings, limit=2, model=str(other)))  # the same files elsewhere are the same model
    config = json.loads((other / "generation_config.json").read_text())
    (other / "generation_config.json").write_text(json.dumps({**config, "eos_token_id": 5}))
    with pytest.raises(UsageError, match="other settings \\(model"):
        score(replace(settings, model=str(other)))


def test_another_pack_or_preprocessing_is_refused(settings, tmp_path):
    score(replace(settings, limit=2))
    changed = Fake()
    changed.preprocessing = {"family": "other"}
    with pytest.raises(UsageError, match="other preprocessing"):
        score(replace(settings, limit=3), changed)
    info = json.loads((settings.out / "run.json").read_text())
    info["tasks"]["toy-image"]["data_sha256"] = "0"
    (settings.out / "run.json").write_text(json.dumps(info))
    with pytest.raises(UsageError, match="data_sha256"):
        score(settings)


def test_what_writes_without_claims_is_kept_out(settings):
    with RecordFile(settings.out / RECORDS), pytest.raises(UsageError, match="another process"):
        score(settings)


def test_pictures_are_not_answered_again_for_another_number_of_frames(settings):
    score(settings)
    other = replace(settings, frames=8, out=settings.out.with_name("eight"))
    scores, backend = score(other, reuse=[settings.out])
    assert len(backend.asked) == 12 and scores["tasks"]["toy-video"]["mean_frames"] == 8
    assert scores["tasks"]["toy-image"]["n"] == 20


@pytest.mark.parametrize("name", ["toy-image", "toy-video"])
def test_toy_prompts_are_the_committed_ones(benchmarks, name):
    """Of each ability the first question, in every profile, as the packed data has it."""
    shown, seen = [], set()
    for example in sorted(PackedDataset(benchmarks / name), key=lambda e: e.item.id):
        if example.item.ability in seen:
            continue
        seen.add(example.item.ability)
        for profile, wording in TASKS[name].profiles.items():
            turns = "".join(f"[{m.role}]\n{m.content}\n" for m in wording.messages(example.item))
            shown.append(f"=== {profile}, {example.item.id}\n{turns}")
    assert seen == set(TASKS[name].abilities)
    assert "".join(shown) == (FIXTURES / f"{name}.prompts.txt").read_text("utf-8")


def test_budget_frames_are_those_the_benchmark_was_packed_with(settings, benchmarks):
    """Each record's frames are its item's budget in the packed columns: how many, and when."""
    score(replace(settings, frames="budget"))
    records = {r.item_id: r for r in read_records(settings.out / RECORDS)}
    data = PackedDataset(benchmarks / "toy-video")
    budgets = dict(zip(data.column("item_id"), data.column("n_frames"), strict=True))
    assert {i: r.n_frames for i, r in records.items() if r.task == "toy-video"} == budgets
    assert len(budgets) == 12 and len(set(budgets.values())) > 1 and set(budgets.values()) <= {2, 4, 8, 16}
    assert all(r.n_frames == 0 and not r.frame_times for r in records.values() if r.task == "toy-image")
    times = {e.item.id: e.frames.times for e in PackedDataset(benchmarks / "toy-video")}
    assert {i: r.frame_times for i, r in records.items() if r.task == "toy-video"} == times
    assert all(len(t) == budgets[i] for i, t in times.items())
    scores = json.loads((settings.out / "scores.json").read_text())["tasks"]
    assert scores["toy-video"]["mean_frames"] == pytest.approx(sum(budgets.values()) / 12)


def test_limit_is_nested_and_the_same_every_time():
    ids = [f"item-{i}" for i in range(100)]
    found = [chosen(ids, n) for n in (5, 20, 100, None)]
    assert [len(c) for c in found] == [5, 20, 100, 100]
    assert set(found[0]) < set(found[1]) < set(found[2])


def test_metric_equals_the_records(settings):
    scores, _ = score(settings)
    records = read_records(settings.out / RECORDS)
    metric = Accuracy()
    found = metric.compute(predictions=[r.extracted or "" for r in records], references=[r.answer for r in records])
    assert found["accuracy"] == pytest.approx(100 * sum(r.correct for r in records) / len(records))
    # Two tasks in a group: the mean of their scores, not of their items.
    image = replace(TASKS["toy-video"], modality="image")
    group = compute([TASKS["toy-image"], image], records, head={}, seed=0)["image"]
    parts = [scores["tasks"][n]["score"] for n in ("toy-image", "toy-video")]
    assert group["score"] == pytest.approx(sum(parts) / 2)
    assert group["ci"][0] < group["score"] < group["ci"][1]


def test_a_letter_becomes_its_option():
    item = Item(id="x", messages=(), options=("red", "blue"), answer="blue")
    found, right = read_answer("The answer is (b).", item, "letter")
    assert (found.value, found.stage, right) == ("blue", Stage.STATEMENT, True)
    assert read_answer("A", item, "letter")[1] is False
    assert read_answer("A or B", item, "letter")[0].value is None


@pytest.mark.parametrize("pixels", [None, 1], ids=["small", "large"])
def test_small_batches_are_prepared_several_at_once(settings, monkeypatch, pixels):
    if pixels is not None:
        monkeypatch.setattr(ahead, "PIXELS", pixels)
    in_hand = []

    class Watching(Fake):
        def prepare(self, examples):
            return {"prepared": examples}

        def generate(self, examples, *, max_new_tokens):
            in_hand.append(len(list((settings.out / WORK / "claims").iterdir())) - len(self.asked))
            return super().generate(examples["prepared"], max_new_tokens=max_new_tokens)

    _, backend = score(replace(settings, batch_size=1), Watching())
    assert len(set(backend.asked)) == len(backend.asked) == 32
    # The one that is asked, and those after it; few towards the end, where other processes would have none.
    assert max(in_hand) == (2 if pixels else 6) and max(in_hand[-8:]) <= 2


def test_what_cannot_be_prepared_costs_nothing_that_comes_before(settings):
    prepared = []

    class Choosy(Fake):
        def prepare(self, examples):
            prepared.extend(e.item.id for e in examples)
            if len(prepared) == 5:
                raise VtrapError(f"{prepared[-1]} is too much")
            return examples

    first = Choosy()
    with pytest.raises(VtrapError, match="is too much"):
        score(replace(settings, batch_size=1), first)
    assert {r.item_id for r in Answered(settings.out).records.values()} == set(first.asked) == set(prepared[:4])


def test_kill_9_in_the_middle(settings, capsys):
    script = textwrap.dedent("""
        import sys, time
        from vtrap_bench import backends
        from vtrap_bench.__main__ import main
        class Slow:
            preprocessing = {"family": "fake"}
            def prepare(self, examples):
                return examples
            def generate(self, examples, *, max_new_tokens):
                time.sleep(0.05)
                return [backends.Generation(e.item.answer, 16, 32) for e in examples]
        backends.BACKENDS["transformers"] = lambda settings: Slow()
        sys.exit(main(sys.argv[1:]))
    """)
    arguments = ["run", "--model", settings.model, "--frames", "4", "--out", str(settings.out), "--batch-size", "1"]
    command = [sys.executable, "-c", script, *arguments, "--benchmarks", str(settings.benchmarks)]
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    deadline = time.monotonic() + 60
    while len(Answered(settings.out).records) < 5:
        assert process.poll() is None and time.monotonic() < deadline
        time.sleep(0.01)
    os.kill(process.pid, signal.SIGKILL)
    assert process.wait() == -signal.SIGKILL
    assert not (settings.out / "scores.json").exists()
    (part,) = Answered(settings.out).parts()
    with part.open("ab") as file:  # what a kill in the middle of a write leaves
        file.write(b'{"key": "half')
    done = list(Answered(settings.out).records.values())
    assert 5 <= len(done) < 32
    scores, backend = score(replace(settings, batch_size=1))
    assert "cut short" in capsys.readouterr().err
    assert set(backend.asked).isdisjoint(r.item_id for r in done) and len(backend.asked) == 32 - len(done)
    assert not (settings.out / WORK).exists()
    keys = [r.key for r in read_records(settings.out / RECORDS)]
    assert len(keys) == len(set(keys)) == sum(t["n"] for t in scores["tasks"].values()) == 32


def test_an_engine_that_fails_is_no_success(settings, monkeypatch, capsys):
    class Broken(Fake):
        def generate(self, examples, *, max_new_tokens):
            raise VtrapError("the engine is gone")

    monkeypatch.setitem(running.BACKENDS, "transformers", lambda _: Broken())
    arguments = ["run", "--model", settings.model, "--tasks", "toy-image", "--frames", "4", "--out", str(settings.out)]
    assert main([*arguments, "--benchmarks", str(settings.benchmarks)]) == 1
    assert "the engine is gone" in capsys.readouterr().err
    assert not (settings.out / "scores.json").exists()


def test_the_real_model_does_not_mind_its_batch(settings, model_dir, monkeypatch):
    """Through the command, with the real backend: one by one and in a mixed batch, with the model's own end token."""
    answers = []
    for size in (1, 7):
        out = settings.out.with_name(f"batch-{size}")
        arguments = ["run", "--model", str(model_dir), "--frames", "budget", "--limit", "8", "--out", str(out)]
        assert main([*arguments, "--batch-size", str(size), "--benchmarks", str(settings.benchmarks)]) == 0
        answers.append({r.key: r for r in read_records(out / RECORDS)})
    assert answers[0] == answers[1] and len(answers[0]) == 16
    assert len({r.response for r in answers[0].values()}) > 1
    assert len({r.visual_tokens for r in answers[0].values()}) > 2
    for record in answers[0].values():
        assert record.visual_tokens == 16 * max(1, record.n_frames / 2) < record.prompt_tokens
    info = json.loads((out / "run.json").read_text())
    assert info["preprocessing"]["position_rule"] and info["decides"]["dtype"] == "float32"
    assert info["model"]["weights"].keys() == {"model.safetensors"}


def test_a_batch_too_large_for_the_device_is_split(settings, benchmarks, model_dir, monkeypatch):
    import torch

    from vtrap_bench.backends import BackendSettings
    from vtrap_bench.backends.transformers_backend import TransformersBackend

    loading = BackendSettings(model=local_model(str(model_dir)).ref, dtype="float32", device="cpu")
    backend = TransformersBackend(loading)
    examples = list(PackedDataset(benchmarks / "toy-video", frames=2))[:5]
    whole = backend.generate(examples, max_new_tokens=4)
    generate, room = backend.model.generate, 2

    def limited(**inputs):
        if len(inputs["input_ids"]) > room:
            raise torch.OutOfMemoryError("full")
        return generate(**inputs)

    monkeypatch.setattr(backend.model, "generate", limited)
    # Their log-probabilities may differ in the last digits.
    assert [g[:3] for g in backend.generate(examples, max_new_tokens=4)] == [g[:3] for g in whole]
    room = 0
    with pytest.raises(VtrapError, match=f"{examples[0].item.id}: too little memory on cpu"):
        backend.generate(examples, max_new_tokens=4)


def test_training_with_other_preprocessing_is_said(settings, model_dir, capsys):
    (model_dir / PREPROCESSING).write_text(json.dumps({"family": "fake", "position_rule": 0}))
    try:
        score(replace(settings, limit=2))
        assert "trained with other preprocessing: position_rule" in capsys.readouterr().err
    finally:
        (model_dir / PREPROCESSING).unlink()


@pytest.mark.parametrize(
    ("change", "says"),
    [
        (["--frames", "3"], "budget of 3 frames"),
        (["--frames", "many"], "'many' is neither"),
        (["--frames", "0"], "'0' is neither"),
        (["--tasks", "toy-sound"], "'toy-sound' is no task; there are toy-image, toy-video"),
        (["--tasks", ","], "--tasks is empty"),
        (["--limit", "0"], "--limit 0 must be at least 1"),
        (["--batch-size", "0"], "--batch-size 0"),
        (["--profile", "lmms"], "task toy-image has vtrap"),
        (["--model", "toy-lv"], "Did you mean 'toy-vl'"),
        (["--benchmarks", "nowhere"], "no packed benchmark in nowhere/toy-image"),
        (["--backend", "magic"], "invalid choice: 'magic'"),
        (["--videos", "images"], "--videos is for --backend openai only"),
        (["--served-name", "x"], "--served-name is for --backend openai only"),
        (["--engine", '{"max_model_len": 1}'], "--engine is for --backend vllm only"),
        (["--timeout", "nan"], "--timeout nan must be more than 0 seconds and at most"),
        (["--timeout", "inf"], "--timeout inf must be more than 0 seconds and at most"),
        (["--unknown"], "unrecognized arguments"),
    ],
)
def test_wrong_use_is_one_line_and_exit_code_2(settings, capsys, change, says):
    arguments = [
        "run",
        "--model",
        settings.model,
        "--out",
        str(settings.out),
        "--benchmarks",
        str(settings.benchmarks),
    ]
    try:
        code = main([*arguments, *change])
    except SystemExit as stop:  # argparse
        code = stop.code
    err = capsys.readouterr().err
    assert code == 2 and says in err and err.count("\n") == 1
    assert not (settings.out / "scores.json").exists()


class Served(Fake):
    """A server's model, by the name that the server has for it."""

    def __init__(self, name, **kwargs):
        super().__init__(**kwargs)
        self.facts = {"served_name": name}


def test_answers_of_two_models_of_a_server_are_never_mixed(settings):
    settings = replace(
        settings, backend="openai", serving=Serving(base_url="http://127.0.0.1:9/v1", served_name="one")
    )
    with pytest.raises(VtrapError, match="stopped"):
        score(settings, Served("one", stop_after=5))
    other = replace(settings, serving=replace(settings.serving, served_name="two"))
    again = replace(settings, serving=replace(settings.serving, served_name=None))
    says = "holds answers of what its server calls 'one', now it is 'two': choose another --out"
    with pytest.raises(UsageError, match=says):
        score(other, Served("two"))
    with pytest.raises(UsageError, match=says):  # the only model that the server lists, known once it is asked
        score(again, unasked := Served("two"))
    assert not unasked.asked
    score(again, Served("one"))
    with pytest.raises(UsageError, match=says):  # not even the scores of a finished run
        score(other, Served("two"))


@pytest.mark.parametrize(
    ("row", "says"),
    [
        ({"category": "colour"}, r"item q is no question of mme \(JSONDecodeError.* vtrap_data benchmark mme`"),
        ({"category": "{}"}, r"the items of mme lack the fact 'subtask': make its data with `python -m vtrap_data"),
        ({"task": "toy-image"}, r"item q is no question of toy-image \(ValueError: no options"),
        ({"task": "ai2d"}, r"item q is no question of ai2d \(ValueError: 0 options: .* benchmark ai2d`"),
    ],
)
def test_data_of_another_make_is_told_in_a_line(settings, tmp_path, row, says):
    Image.new("RGB", (56, 56)).save(tmp_path / "q.png")
    question = {"id": "q", "images": ["q.png"], "messages": [{"role": "user", "content": "<image>\nRed?"}]}
    question |= {"question": "Red?", "answer": "yes", **row}
    name = question.pop("task", "mme")
    (tmp_path / "q.jsonl").write_text(json.dumps(question) + "\n")
    samples = read_jsonl(tmp_path / "q.jsonl", media_root=None, name=None).samples
    pack(samples, tmp_path / "packed" / name, settings=PackSettings(name=name, split="test"))
    with pytest.raises(UsageError, match=says):
        score(replace(settings, tasks=[TASKS[name]], benchmarks=tmp_path / "packed"))


def test_names_are_shown_not_obeyed(settings, capsys):
    score(replace(settings, label="a\x1b[31mb", limit=2))
    words = ["run", "--model", settings.model, "--out", str(settings.out), "--benchmarks", str(settings.benchmarks)]
    assert main([*words, "--frames", "4", "--batch-size", "5", "--limit", "2"]) == 0
    out = capsys.readouterr().out
    assert "\x1b" not in out and r"a\x1b[31mb, frames 4" in out


def test_frames():
    assert parse_frames("2,4,budget,2") == [2, 4, "budget"]


def test_benchmarks_are_made_once(tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("VTRAP_HOME", str(tmp_path))

    def build(work):
        made = TASKS["toy-image"].build(work)
        made[0][made[0].index("--count") + 1] = "5"
        return [made[0], [*made[1], "--workers", "0"]]

    task = replace(TASKS["toy-image"], build=build)
    killed = tmp_path / "benchmarks" / ".toy-image-v1.unfinished"
    (killed / "packed").mkdir(parents=True)
    (killed / "packed" / "index.parquet").touch()
    path = ensure(task)
    assert path == tmp_path / "benchmarks" / "toy-image-v1" and len(PackedDataset(path)) == 5
    stamp = path.stat().st_mtime_ns
    assert ensure(task) == path and path.stat().st_mtime_ns == stamp
    assert {p.name for p in path.parent.iterdir()} == {path.name, f".{path.name}.lock"}

    broken = replace(task, version=2, build=lambda work: [["pack", str(work / "nothing.jsonl"), "--out", str(work)]])
    with pytest.raises(VtrapError, match="failed with exit code 2: python -m vtrap_data pack"):
        ensure(broken)
    assert not any("v2" in p.name and p.is_dir() for p in path.parent.iterdir())
    with pytest.raises(UsageError, match="give --benchmarks"):
        ensure(replace(task, version=3, build=None))
