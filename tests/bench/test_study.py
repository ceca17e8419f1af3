"""The study: its YAML, its expansion into commands, and the step runner with real (small) commands."""

from __future__ import annotations

import argparse
import fcntl
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import yaml

from vtrap_bench import steps, study, study_file
from vtrap_bench.steps import Step
from vtrap_bench.study_check import check_trainings
from vtrap_bench.tasks import TASKS
from vtrap_data.errors import UsageError

GOOD = """
model: toy-vl
corpus: packed/train
benchmarks: packed/bench
tasks: [toy-image, toy-video]
common_frames: 16
seeds: [0, 1]
train: {max_steps: 300, learning_rate: 3e-4, bf16: false, target_modules: [q, v]}
settings:
  - {name: fixed-2, frames: 2}
  - {name: fixed-16, frames: 16, train: {max_steps: 200}}
  - {name: hybrid, frames: hybrid}
  - {name: random, frames: hybrid, strategy: random}
  - {name: coverage, frames: hybrid, strategy: coverage, mean_frames: 6}
  - {name: replay, frames: hybrid, replay: {data: packed/images, percent: 12.5}}
score: {limit: 50, batch_size: 8}
curve: {frames: [2, 4, 16], settings: [hybrid]}
"""


def write(path: Path, text: str) -> Path:
    path.write_text(text, "utf-8")
    return path


@pytest.fixture
def good(tmp_path: Path) -> study_file.Study:
    return study_file.read_study(write(tmp_path / "study.yaml", GOOD))


def test_yaml_becomes_typed_values(good: study_file.Study) -> None:
    assert good.tasks == ("toy-image", "toy-video")
    assert good.settings[0] == study_file.Setting(name="fixed-2", frames=2)
    assert good.settings[4].mean_frames == 6.0
    assert good.curve == study_file.Curve(frames=(2, 4, 16), settings=("hybrid",))
    assert good.train["target_modules"] == ("q", "v")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"setings": []}, "unknown key 'setings'.*did you mean 'settings'"),
        ({"model": None}, "model is None"),
        ({"model": "--help"}, "must not start with a dash"),
        ({"common_frames": True}, "common_frames is True"),
        ({"common_frames": 0}, "whole number, 1 or more"),
        ({"seeds": []}, "seeds is empty"),
        ({"seeds": [1, 1]}, "seed 1 twice"),
        ({"seeds": [-1]}, r"seeds\[0\] is -1"),
        ({"tasks": ["toy-vidoe"]}, "'toy-vidoe', which is none"),
        ({"tasks": []}, "tasks is empty"),
        ({"tasks": [["x"]]}, "tasks names"),
        ({"settings": []}, "settings is empty"),
        ({"settings": [{"frames": 2}]}, r"settings\[0\] lacks the key 'name'"),
        ({"settings": [{"name": "../x", "frames": 2}]}, r"settings\[0\].name"),
        ({"settings": [{"name": "base", "frames": 2}]}, "not 'base'"),
        ({"settings": [{"name": "a-s1", "frames": 2}]}, "ending like a seed"),
        ({"settings": [{"name": "a", "frames": 2}, {"name": "a", "frames": 4}]}, "name 'a' twice"),
        ({"settings": [{"name": "a", "frames": "hybird"}]}, "number of frames, or hybrid"),
        ({"settings": [{"name": "a", "frames": 2.5}]}, "frames is 2.5"),
        ({"settings": [{"name": "a", "frames": 2, "strategy": "random"}]}, "its frames must be hybrid"),
        ({"settings": [{"name": "a", "frames": "hybrid", "strategy": "randm"}]}, "did you mean 'random'"),
        ({"settings": [{"name": "a", "frames": "hybrid", "mean_frames": 4}]}, "needs a strategy"),
        ({"settings": [{"name": "a", "frames": 2, "replay": {"data": "d"}}]}, "replay lacks the key 'percent'"),
        ({"settings": [{"name": "a", "frames": 2, "replay": {"data": "d", "percent": 100}}]}, "less than 100"),
        ({"train": {"--max_steps": 3}}, "without dashes"),
        ({"train": {"seed": 3}}, "train.seed is set by the study itself"),
        ({"train": {"x": {"y": 1}}}, "train.x is"),
        ({"train": {"x": "--overwrite"}}, "train.x is"),
        ({"score": {"out": "x"}}, "score.out is set by the study itself"),
        ({"score": {"limits": 3}}, "score has the unknown key 'limits'; allowed: limit, .*did you mean 'limit'"),
        ({"curve": {"frames": [2], "settings": ["fixed"]}}, "'fixed', which is no setting.*'fixed-2'"),
        ({"curve": {"settings": ["hybrid"]}}, "without curve.frames"),
    ],
)
def test_wrong_yaml_is_one_clear_line(tmp_path: Path, change: dict[str, object], message: str) -> None:
    data = (
        {**yaml.safe_load(GOOD), "curve": {}, **change} if "settings" in change else {**yaml.safe_load(GOOD), **change}
    )
    with pytest.raises(UsageError, match=message) as caught:
        study_file.read_study(write(tmp_path / "study.yaml", yaml.safe_dump(data)))
    assert "study.yaml" in str(caught.value) and "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("a: [", "not valid YAML"),
        ("model: a\nmodel: b", "'model' is given twice, line 2"),
        ("- a", "the study is"),
        ("model: !!python/object/apply:os.getcwd []", "not valid YAML"),
        ("model: a", "lacks the key 'corpus'"),
    ],
)
def test_other_files_are_refused(tmp_path: Path, text: str, message: str) -> None:
    with pytest.raises(UsageError, match=message) as caught:
        study_file.read_study(write(tmp_path / "study.yaml", text))
    assert "\n" not in str(caught.value)
    with pytest.raises(UsageError, match="does not exist"):
        study_file.read_study(tmp_path / "none.yaml")


def test_expansion(good: study_file.Study) -> None:
    out = Path("runs/a b")
    made = study.expand(good, out=out)
    by_name = {s.name: s for s in made.steps}
    assert len(by_name) == len(made.steps)
    for i, step in enumerate(made.steps):
        assert set(step.after) <= {s.name for s in made.steps[:i]}
    # Each random seed has a shuffle of its own; coverage has one corpus.
    budgets = [s.name for s in made.steps if s.kind == "budget"]
    assert budgets == ["budget-random-s0", "budget-coverage", "budget-random-s1"]
    assert by_name["budget-coverage"].command == (
        "python -m vtrap_data budget packed/train --out 'runs/a b/corpora/coverage' --strategy coverage --seed 0 "
        "--mean-frames 6"
    )
    assert by_name["train-fixed-16-s1"].command == (
        "python -m vtrap_train --model toy-vl --data packed/train --frames 16 --seed 1 "
        "--output_dir 'runs/a b/models/fixed-16-s1' --max_steps 200 --learning_rate 3e-4 --bf16 false "
        "--target_modules q v"
    )
    assert "--data 'runs/a b/corpora/random-s1' --frames hybrid" in by_name["train-random-s1"].command
    assert by_name["train-random-s1"].after == ("budget-random-s1",)
    # Pictures beside the videos: the trainer's own way to say it, and a change of theirs repeats the training.
    replay = by_name["train-replay-s0"]
    assert "--data packed/train:87.5%,packed/images:12.5% --frames hybrid" in replay.command
    assert replay.inputs[-1] == Path("packed/images")
    # As trained, then the common setting, then the curve; each number of frames once.
    assert by_name["score-hybrid-s0"].command == (
        "python -m vtrap_bench run --model 'runs/a b/models/hybrid-s0' --tasks toy-image,toy-video "
        "--frames budget,16,2,4 --out 'runs/a b/scores/hybrid-s0' --benchmarks packed/bench --limit 50 --batch-size 8"
    )
    assert "--frames budget,16 " in by_name["score-hybrid-s1"].command
    assert "--frames 16 --out 'runs/a b/scores/fixed-16-s0/frames-16'" in by_name["score-fixed-16-s0"].command
    assert made.checkpoints[2].runs == {"16": out / "scores/fixed-16-s0/frames-16"}
    # The base is scored wherever a checkpoint is: changes are measured at equal frames.
    shown = {f for c in made.checkpoints for f in c.runs}
    assert set(made.checkpoints[0].runs) == shown
    # The first seed of everything comes before the second of anything.
    trained = [s.name for s in made.steps if s.kind == "train"]
    assert [n[-1] for n in trained] == ["0"] * 6 + ["1"] * 6


def test_record_names_folders_relative_to_the_study(good: study_file.Study, tmp_path: Path) -> None:
    record = study.record(good, study.expand(good, out=tmp_path), out=tmp_path)
    last = record["checkpoints"][-1]
    assert last["model"] == "models/replay-s1" and last["runs"]["budget"] == "scores/replay-s1/frames-budget"
    assert record["checkpoints"][0]["evaluated"] == "16"
    json.dumps(record)


def python(out: Path, name: str, code: str, **more: object) -> Step:
    """A step that runs some Python with `target`, its own folder, at hand."""
    target = out / "made" / name
    head = f"import os, sys, time, pathlib; target = pathlib.Path({str(target)!r})\n"
    head += "target.mkdir(parents=True, exist_ok=True)\n"
    tail = "\n(target / 'done').write_text('yes')"
    argv = ("python", "-c", head + code + tail)
    return Step(name=name, kind="test", argv=argv, output=target, proof=target / "done", **more)  # type: ignore[arg-type]


def counter(out: Path, name: str, **more: object) -> Step:
    """A step that counts how often it ran, outside of its output."""
    tally = str(out / f"{name}.count")
    return python(out, name, f"with open({tally!r}, 'a') as f: f.write('x')", **more)


def ran(out: Path, name: str) -> int:
    path = out / f"{name}.count"
    return len(path.read_text()) if path.exists() else 0


def test_finished_steps_are_not_repeated(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    two = [counter(tmp_path, "a"), counter(tmp_path, "b", after=("a",))]
    assert steps.run_steps(two, out=tmp_path) == 0
    assert two[0].command in capsys.readouterr().out
    assert steps.run_steps(two, out=tmp_path) == 0
    assert (ran(tmp_path, "a"), ran(tmp_path, "b")) == (1, 1)
    (two[1].proof).unlink()
    assert steps.run_steps(two, out=tmp_path) == 0
    assert (ran(tmp_path, "a"), ran(tmp_path, "b")) == (1, 2)
    assert "1 of 2 steps are done already" in capsys.readouterr().out


def test_changed_command_or_input_repeats_it_and_what_follows(tmp_path: Path) -> None:
    source = write(tmp_path / "input.txt", "1")

    def made(code: str) -> list[Step]:
        first = counter(tmp_path, "a", inputs=(source,))
        first = Step(**{**{f: getattr(first, f) for f in Step.__slots__}, "argv": (*first.argv, code)})
        return [first, counter(tmp_path, "b", after=("a",)), counter(tmp_path, "c")]

    assert steps.run_steps(made("1"), out=tmp_path) == 0
    write(made("1")[0].output / "checkpoint", "of the old settings")
    assert steps.run_steps(made("2"), out=tmp_path) == 0
    assert [ran(tmp_path, n) for n in "abc"] == [2, 2, 1]
    # A trainer would resume from it, with other settings.
    assert not (made("1")[0].output / "checkpoint").exists()
    write(source, "2")
    assert steps.run_steps(made("2"), out=tmp_path) == 0
    assert [ran(tmp_path, n) for n in "abc"] == [3, 3, 1]


def test_moved_folder_keeps_its_finished_steps(tmp_path: Path) -> None:
    def made(out: Path) -> list[Step]:
        argv = ("python", "-c", "import sys, pathlib; pathlib.Path(sys.argv[1]).mkdir()", str(out / "x"))
        return [Step(name="x", kind="test", argv=argv, output=out / "x", proof=out / "x")]

    assert steps.run_steps(made(tmp_path / "one"), out=tmp_path / "one") == 0
    (tmp_path / "one").rename(tmp_path / "two")
    assert [p.state for p in steps.plan(made(tmp_path / "two"), out=tmp_path / "two")] == ["done"]


@pytest.mark.parametrize("jobs", [1, 2])
def test_failure_is_explained_and_resumed(tmp_path: Path, capsys: pytest.CaptureFixture[str], jobs: int) -> None:
    flag = tmp_path / "flag"
    code = "(target / 'half').write_text('kept')\n"
    code += f"if not os.path.exists({str(flag)!r}): sys.exit('the disk is \\x1b[31mfull')"
    three = [counter(tmp_path, "a"), python(tmp_path, "b", code), counter(tmp_path, "c", after=("b",))]
    assert steps.run_steps(three, out=tmp_path, jobs=jobs) == 1
    error = capsys.readouterr().err
    assert "step b ended with exit code 1" in error and "the disk is" in error and "\x1b[31m" not in error
    assert str(tmp_path / "logs" / "b.log") in error
    assert (ran(tmp_path, "a"), ran(tmp_path, "c")) == (1, 0)
    flag.touch()
    assert (three[1].output / "half").exists()  # its own resume takes it up
    assert steps.run_steps(three, out=tmp_path, jobs=jobs) == 0
    assert (ran(tmp_path, "a"), ran(tmp_path, "c")) == (1, 1)


def test_a_step_that_cannot_resume_starts_from_nothing(tmp_path: Path) -> None:
    code = "if (target / 'half').exists(): (target / 'resumed').touch()\n"
    code += "elif KIND: (target / 'half').touch(); sys.exit(1)"
    for name, resumes in (("a", True), ("b", False)):
        step = python(tmp_path, name, code.replace("KIND", "not os.environ.get('AGAIN')"), resumes=resumes)
        assert steps.run_steps([step], out=tmp_path) == 1
        assert (step.output / "half").exists()
        os.environ["AGAIN"] = "1"
        try:
            assert steps.run_steps([step], out=tmp_path) == 0
        finally:
            del os.environ["AGAIN"]
        assert (step.output / "resumed").exists() == resumes


def test_a_step_that_makes_nothing_has_failed(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    step = Step(name="a", kind="t", argv=("python", "-c", "pass"), output=tmp_path / "x", proof=tmp_path / "x" / "y")
    assert steps.run_steps([step], out=tmp_path) == 1
    assert "did not make" in capsys.readouterr().err


def test_jobs_run_side_by_side_in_one_thread_each(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    # Each waits for the other, so this ends only if both run at once.
    wait = "\nother = target.parent / 'OTHER' / 'here'\nfor _ in range(1000):\n    if other.exists(): break\n"
    wait += "    time.sleep(0.02)\nelse: sys.exit('alone')"
    code = "(target / 'here').write_text(os.environ.get('OMP_NUM_THREADS', 'unset'))"
    pair = [python(tmp_path, n, code + wait.replace("OTHER", o)) for n, o in (("a", "b"), ("b", "a"))]
    assert steps.run_steps(pair, out=tmp_path, jobs=2) == 0
    assert (pair[0].output / "here").read_text() == "1"
    monkeypatch.setenv("OMP_NUM_THREADS", "3")
    again = [python(tmp_path, "c", code)]
    assert steps.run_steps(again, out=tmp_path, jobs=2) == 0
    assert (again[0].output / "here").read_text() == "3"


def test_nothing_outside_the_folder_is_removed(tmp_path: Path) -> None:
    outside = tmp_path / "mine"
    outside.mkdir()
    out = tmp_path / "out"

    def made(code: str) -> list[Step]:
        argv = ("python", "-c", code, str(outside))
        return [Step(name="a", kind="t", argv=argv, output=outside, proof=outside)]

    assert steps.run_steps(made("1"), out=out) == 0
    with pytest.raises(UsageError, match="is outside"):
        steps.run_steps(made("2"), out=out)
    assert outside.exists()


def test_two_at_once_and_missing_input_are_wrong_use(tmp_path: Path) -> None:
    (tmp_path / ".lock").touch()
    with (tmp_path / ".lock").open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yaml = write(tmp_path / "study.yaml", GOOD)
        args = argparse.Namespace(study=yaml, out=tmp_path, plan=False, dry_run=False, jobs=1)
        with pytest.raises(UsageError, match="another study is running"):
            study.run(args)
        assert not (tmp_path / "study.json").exists()  # the report of the one that runs is made of its own
    with pytest.raises(UsageError, match="none does not exist"):
        steps.run_steps([counter(tmp_path, "a", inputs=(tmp_path / "none",))], out=tmp_path)
    with pytest.raises(UsageError, match="cannot start"):
        argv = (str(tmp_path / "no-such-program"),)
        steps.run_steps(
            [Step(name="a", kind="t", argv=argv, output=tmp_path / "x", proof=tmp_path / "x")], out=tmp_path
        )


def test_terminated_study_leaves_no_step_running(tmp_path: Path) -> None:
    code = "(target / 'pid').write_text(str(os.getpid()))\ntime.sleep(60)"
    step = python(tmp_path, "a", code)
    driver = (
        "from pathlib import Path\nfrom vtrap_bench.steps import Step, run_steps\n"
        f"out = Path({str(tmp_path)!r})\n"
        f"step = Step(name='a', kind='t', argv={step.argv!r}, output=out / 'made/a', proof=out / 'made/a/done')\n"
        "raise SystemExit(run_steps([step], out=out))"
    )
    process = subprocess.Popen([sys.executable, "-c", driver], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    pid = step.output / "pid"
    deadline = time.monotonic() + 60
    while not (pid.exists() and pid.read_text()) and time.monotonic() < deadline:
        time.sleep(0.05)
    process.send_signal(signal.SIGTERM)
    assert process.wait(timeout=30) == 128 + signal.SIGTERM
    with pytest.raises(ProcessLookupError):
        os.kill(int(pid.read_text()), 0)
    assert steps.plan([step], out=tmp_path)[0].state == "started"


def test_last_line_of_a_log(tmp_path: Path) -> None:
    log = tmp_path / "log"
    log.write_bytes(b"one\n 10%|#  |\r 20%|## \x1b[A|\n\n")
    assert steps.last_line(log) == "20%|## [A|"
    log.write_bytes(b"")
    assert steps.last_line(log) == ""


STUDIES = sorted((Path(__file__).parents[2] / "scripts" / "studies").glob("*.yaml"))


@pytest.mark.parametrize("path", STUDIES, ids=lambda p: p.stem)
def test_the_studies_of_the_four_dimensions_can_be_planned(path: Path, tmp_path: Path) -> None:
    """Each is read strictly, expands into commands that exist, and names a model that vtrap knows."""
    from vtrap_data.encoding.models import NAMED

    found = study_file.read_study(path)
    assert found.model in NAMED and {"image", "video"} == {TASKS[t].modality for t in found.tasks}
    expanded = study.expand(found, out=tmp_path)
    assert len(expanded.checkpoints) == 1 + len(found.settings) * len(found.seeds)
    assert all(s.command.startswith("python -m vtrap_") for s in expanded.steps)


@pytest.mark.parametrize("path", sorted(STUDIES[0].parents[1].glob("*study*.yaml")), ids=lambda p: p.stem)
def test_the_other_studies_that_ship_can_be_planned(path: Path, tmp_path: Path) -> None:
    found = study_file.read_study(path)
    assert len(study.expand(found, out=tmp_path).checkpoints) == 1 + len(found.settings) * len(found.seeds)


def test_the_studies_cover_the_four_dimensions() -> None:
    names = {p.stem for p in STUDIES}
    architectures = ("llava-1.5", "llava-next-video", "llava-onevision", "qwen2-vl", "qwen2.5-vl", "qwen3-vl")
    for name in architectures:
        assert any(n.startswith(f"architecture-{name}-") for n in names), name
    assert {f"scale-qwen2.5-vl-{size}" for size in ("3b", "7b", "32b", "72b")} | {"frames", "hybrid"} <= names
    for path in STUDIES:  # a file is about the model that it is named after
        assert path.stem in ("frames", "hybrid") or path.stem.partition("-")[2] == study_file.read_study(path).model
    hybrid = study_file.read_study(next(p for p in STUDIES if p.stem == "hybrid"))
    strategies = {s.strategy for s in hybrid.settings}
    assert {None, "random", "coverage", "instruction"} <= strategies  # the controls


@pytest.fixture(scope="module")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Eight questions about four videos."""
    from vtrap_data.__main__ import main as data

    folder = tmp_path_factory.mktemp("corpus")
    source, packed = folder / "source", folder / "packed"
    assert data(["toyworld", "videos", "--purpose", "train", "--count", "4", "--out", str(source)]) == 0
    pack = ["pack", str(source / "train.jsonl"), "--out", str(packed), "--workers", "0", "--store", "16"]
    assert data([*pack, "--budgets", "2,4,8,16", "--slots", "16", "--mean-frames", "6", "--scorer", "lexical"]) == 0
    return packed


def test_plan_says_steps_and_cost_first(corpus: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "study.yaml"
    settings = "[{name: two, frames: 2}, {name: most, frames: 16}, {name: hybrid, frames: hybrid}, "
    settings += "{name: random, frames: hybrid, strategy: random}, "
    settings += "{name: seen, frames: hybrid, strategy: coverage}]"
    path.write_text(
        f"model: toy-vl\ncorpus: {corpus}\ntasks: [toy-image, toy-video]\nbenchmarks: {tmp_path}\n"
        f"common_frames: 16\nseeds: [0, 1]\nscore: {{limit: 5}}\nsettings: {settings}\n"
    )
    (tmp_path / "none").mkdir()
    (tmp_path / "toy-video").symlink_to(corpus)  # with 8 questions
    args = argparse.Namespace(study=path, out=tmp_path / "out", plan=True, dry_run=False, jobs=1)
    assert study.run(args) == 0
    shown = capsys.readouterr().out.splitlines()
    assert shown[0] == "24 steps: 11 scorings, 10 trainings, 3 re-allocations; 0 done"
    assert shown[1] == "5 settings x 2 seeds of toy-vl"
    table = {line.split()[0]: line.split()[1:] for line in shown[3:8]}
    assert table["two"] == ["2.0", "12", "%"] and table["most"] == ["16.0", "100", "%"]
    assert table["hybrid"] == table["random"] and table["seen"][0] == "-"
    assert any("not packed yet" in line for line in shown) and any("time: not known" in line for line in shown)
    assert "  toy-video: 5 questions" in shown
    assert sum(line.startswith("to do") for line in shown) == 24
    assert not (tmp_path / "out").exists()


def test_options_of_a_training_are_checked_before_the_base_is_scored(
    corpus: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    yaml = (
        f"model: toy-vl\ncorpus: {corpus}\ntasks: [toy-video]\nbenchmarks: {corpus.parent}\ncommon_frames: 4\n"
        "train: {max_steps: 2}\n"
        "settings: [{name: two, frames: 2}, {name: again, frames: hybrid, strategy: random}"
    )
    args = argparse.Namespace(study=tmp_path / "study.yaml", out=tmp_path / "out", plan=False, dry_run=False, jobs=1)
    args.study.write_text(f"{yaml}, {{name: typo, frames: 4, train: {{max_stepz: 3}}}}]\n")
    with pytest.raises(
        UsageError, match=r"step train-typo-s0 would fail: .*--max_stepz 3; did you mean '--max_steps'"
    ):
        study.run(args)
    assert not (args.out / "scores").exists() and not (args.out / "models").exists()

    args.study.write_text(f"{yaml}]\n")
    ran = []
    stock = subprocess.run
    monkeypatch.setattr(subprocess, "run", lambda argv, **how: ran.append(argv) or stock(argv, **how))
    planned = steps.plan(study.expand(study_file.read_study(args.study), out=args.out).steps, out=args.out)
    check_trainings(planned, corpus=corpus)
    assert len(ran) == 1, "both settings have the same options, and the frames are no option of theirs"
    check_trainings([p._replace(state="done") for p in planned], corpus=corpus)
    assert len(ran) == 1


def test_dry_run_writes_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    for folder in ("packed/train", "packed/images", "packed/more", "packed/bench/toy-video"):
        Path(folder).mkdir(parents=True)
        Path(folder, "manifest.json").write_text("{}")
    path = write(tmp_path / "study.yaml", GOOD)
    args = argparse.Namespace(study=path, out=Path("runs/x"), plan=False, dry_run=True, jobs=1)
    before = sorted(tmp_path.rglob("*"))
    assert study.run(args) == 0
    assert sorted(tmp_path.rglob("*")) == before
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == len(study.expand(study_file.read_study(path), out=Path("runs/x")).steps)
    assert all(line.startswith("to do  python -m vtrap_") for line in lines)
    with pytest.raises(UsageError, match="--jobs is 0"):
        study.run(argparse.Namespace(**{**vars(args), "jobs": 0}))
    with pytest.raises(UsageError, match="is a file"):
        study.run(argparse.Namespace(**{**vars(args), "out": path}))
