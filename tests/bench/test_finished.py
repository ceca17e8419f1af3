"""Runs that were damaged, changed by hand, or do not fit each other: told in a line, and nobody else's fault."""

import json
import shutil
from dataclasses import replace
from pathlib import Path

import pytest
from finished_run import write_info, write_scores

from vtrap_bench import changes, report
from vtrap_bench.__main__ import main
from vtrap_bench.finished import read_run, read_untouched
from vtrap_bench.models import local_model
from vtrap_bench.records import RECORDS, Record, RecordFile, read_records
from vtrap_bench.run_file import read_info
from vtrap_bench.scores import digest
from vtrap_bench.study_file import read_study
from vtrap_bench.submit import task_numbers
from vtrap_bench.submitted import submitted_rows
from vtrap_bench.sweep import sweep, text
from vtrap_data.errors import UsageError

BOTH = ("toy-image", "toy-video")


def records_of(tasks, *, right, frames="4", items=12):
    return [
        Record(
            key=f"{task}-{n}-{frames}",
            task=task,
            item_id=f"{task}-{n}",
            ability="colour" if n % 2 else "shape",
            cluster=f"m{n // 2}",
            question="?",
            options=("x", "y"),
            answer="x",
            response="x" if n < right else "y",
            extracted="x" if n < right else "y",
            stage="exact",
            correct=n < right,
            frame_times=(),
            n_frames=0,
            visual_tokens=1,
            prompt_tokens=2,
        )
        for task in tasks
        for n in range(items)
    ]


def make(folder, *, model="m", right=6, frames="4", tasks=BOTH, **more):
    records = records_of(tasks, right=right, frames=frames)
    with RecordFile(folder / RECORDS) as file:
        file.append(records)
    write_info(folder, records, model=model, frames=frames, **more)
    write_scores(folder, records, model=model, frames=frames)
    return folder


def edit(path, change):
    data = json.loads(path.read_text("utf-8"))
    change(data)
    path.write_text(json.dumps(data), "utf-8")


def places(data, at=()):
    """Every key of a JSON object, at any depth, but inside what is passed on as it is."""
    for key, value in data.items():
        yield (*at, key)
        if isinstance(value, dict) and key not in ("decides", "preprocessing", "backend", "versions"):
            yield from places(value, (*at, key))


def parent(data, place):
    for key in place[:-1]:
        data = data[key]
    return data


FREE = {("bootstrap", "tasks")}
"""The only key that may be missing, as the first runs lack it; abilities and weights are names, not keys."""


@pytest.mark.parametrize("name", ["run.json", "scores.json"])
def test_every_key_that_is_missing_or_of_another_type_is_named(tmp_path, name):
    folder = make(tmp_path / "run", weights={"w": "0" * 64})
    read_run(folder)
    sound = (folder / name).read_text("utf-8")
    found = list(places(json.loads(sound)))
    assert len(found) > 30
    for place in found:
        for wrong in (None, {"a": []}, [[1]], "lost"):
            data = json.loads(sound)
            if wrong == "lost":
                del parent(data, place)[place[-1]]
            else:
                parent(data, place)[place[-1]] = wrong
            if (wrong is None and place[-1] in ("hub_revision", "limit", "preprocessing")) or (
                wrong == {"a": []} and place[-1] in ("decides", "preprocessing", "backend")
            ):
                continue  # these are allowed
            (folder / name).write_text(json.dumps(data), "utf-8")
            if wrong == "lost" and (place in FREE or place[-2:-1] in (("abilities",), ("weights",))):
                read_run(folder)
                continue
            with pytest.raises(UsageError) as error:
                read_run(folder)
            said = str(error.value)
            known = place[-1] if place[-2:-1] not in (("tasks",), ("abilities",), ("weights",)) else ""
            if wrong != "lost" or known:
                assert name in said and known in said, (place, wrong, said)


def test_every_command_takes_damage_in_a_line(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    make(Path("base"), model="b", right=4)
    make(Path("sound"), model="m")
    commands = (
        ["compare", "base", "run"],
        ["parity", "base", "run"],
        ["rescore", "run", "--rules", "lmms"],
        ["submit", "run", "--model", "me/m", "--dry-run", "hub"],
        ["report", "base", "run", "--out", "rep"],
        ["leaderboard", "build", "base", "run", "--out", "board"],
    )
    for name, place in (
        ("run.json", ("tasks", "toy-video", "modality")),
        ("run.json", ("model", "weights")),
        ("run.json", ("decides",)),
        ("scores.json", ("video",)),
        ("scores.json", ("tasks", "toy-image", "abilities", "shape", "ci")),
        ("scores.json", ("tasks", "toy-video")),
    ):
        shutil.rmtree("run", ignore_errors=True)
        shutil.copytree("sound", "run")
        edit(Path("run", name), lambda data, place=place: parent(data, place).pop(place[-1]))
        for command in commands:
            capsys.readouterr()
            assert main(command) == 2, (command, place)
            assert name in capsys.readouterr().err


def test_what_cannot_be_written_again_or_is_of_a_newer_version(tmp_path):
    folder = make(tmp_path / "run")
    edit(folder / "run.json", lambda d: d["model"].update(added=1) or d.update(added=2))
    edit(folder / "scores.json", lambda d: d["tasks"]["toy-image"].update(added=1))
    assert read_run(folder).info.model.name == "m" and read_info(folder)["added"] == 2
    edit(folder / "run.json", lambda d: d.update(label="\ud83d"))
    with pytest.raises(UsageError, match=r"run\.json is damaged"):
        read_run(folder)
    with pytest.raises(UsageError, match=r"run\.json is damaged"):
        read_info(folder)


# --- scores are what the records give --------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "place",
    [
        ("tasks", "toy-video", "score"),
        ("tasks", "toy-video", "ci", 0),
        ("tasks", "toy-image", "abilities", "shape", "score"),
        ("tasks", "toy-image", "unparsed"),
        ("video", "score"),
        ("image", "ci", 1),
    ],
)
def test_scores_changed_by_hand_are_told(tmp_path, place):
    folder = make(tmp_path / "run")
    assert len(read_untouched(folder).rows) == 24

    def raised(data):
        parent(data, place)[place[-1]] += 0.5

    edit(folder / "scores.json", raised)
    where = ".".join(str(key) for key in place if not isinstance(key, int)).replace(".", r"\.")
    with pytest.raises(UsageError, match=rf"{where} is .*its records give"):
        read_untouched(folder)


def test_scores_of_other_records_are_told(tmp_path):
    folder = make(tmp_path / "run")
    edit(folder / "scores.json", lambda d: d.update(records_sha256="0" * 64))
    with pytest.raises(UsageError, match="records_sha256 is of other records"):
        read_untouched(folder)


def test_a_bad_submission_leaves_the_others_on_the_board(tmp_path, capsys):
    for name, right in (("one", 6), ("two", 8), ("three", 5), ("four", 7)):
        at = tmp_path / f"runs/me/{name}/4-0"
        make(at, model=f"me/{name}", right=right, submitted_to=f"me/{name}", date="2026-01-01")
    edit(tmp_path / "runs/me/two/4-0/scores.json", lambda d: d["video"].update(score=99.0))
    edit(tmp_path / "runs/me/three/4-0/scores.json", lambda d: d["tasks"]["toy-image"].pop("modality"))
    edit(tmp_path / "runs/me/four/4-0/run.json", lambda d: d.update(date=7))
    rows = submitted_rows(tmp_path, link="https://hub.example/tree")
    assert [(row.model, row.video.value) for row in rows] == [("me/one", pytest.approx(50))]
    said = capsys.readouterr().err.splitlines()
    assert len(said) == 3 and all("left out runs/me/" in line for line in said)
    assert "modality" in said[1] and "video.score is 99" in said[2] and "date" in said[0]


def test_what_was_asked_otherwise_has_a_row_of_its_own_and_no_base(tmp_path):
    asked = {"likely": {"answers": "likelihood"}, "lmms": {"profile": "lmms"}, "usual": {"profile": "vtrap"}}
    for name, decides in asked.items():
        said = {"submitted_to": "me/m", "base": "me/b", "date": "2026-01-01", "decides": decides}
        make(tmp_path / f"runs/me/m/4-{name}", model="me/m", right=8, **said)
    make(tmp_path / "runs/me/b/4-0", model="me/b", right=6, submitted_to="me/b", date="2026-01-01")
    said = {"submitted_to": "me/m", "base": "me/b", "date": "2026-01-02"}
    make(tmp_path / "runs/me/m/4-few", model="me/m", right=8, **said)
    edit(tmp_path / "runs/me/m/4-few/run.json", lambda d: d["tasks"]["toy-video"].update(limit=12))
    rows = submitted_rows(tmp_path, link="https://hub.example/tree")
    assert {(row.model, row.notes): row.video_change is not None for row in rows} == {
        ("me/m", "only 12 questions: toy-video"): False,
        ("me/m", "answers: likelihood"): False,
        ("me/m", "profile: lmms"): False,
        ("me/m", ""): True,
        ("me/b", ""): False,
    }
    notes = {name: task_numbers(read_run(tmp_path / f"runs/me/m/4-{name}"), owner="o")[0].notes for name in asked}
    assert notes["likely"].endswith(", answers=likelihood") and notes["lmms"].endswith(", profile=lmms")
    assert not notes["usual"].endswith("=vtrap")


# --- only what is equal is compared ----------------------------------------------------------------------------------


def test_no_change_where_the_base_was_not_scored_at_these_frames(tmp_path):
    base = make(tmp_path / "base", model="b", right=4, frames="4")
    tuned = make(tmp_path / "tuned", model="t", right=9, frames="2")
    made = changes.build(changes.read_runs([base, tuned]))
    (row,) = made["summary"]
    assert row["video_change"] is None and row["image_change"] is None and made["flips"] == []
    assert row["video"]["score"] == pytest.approx(75)
    assert all(a["change"] is None for rows in row["abilities"].values() for a in rows.values())
    assert "no change for t: the base has no run at 2 frames" in report.table(made, width=100)
    page = report.render_html(made, drawn={"light": {}, "dark": {}})
    assert "Not compared" in page and "2 frames (t)" in page
    also = make(tmp_path / "also", model="b", right=4, frames="2")
    made = changes.build(changes.read_runs([base, also, tuned]))
    assert made["summary"][0]["video_change"]["value"] == pytest.approx(100 * 5 / 12)
    assert "no change for" not in report.table(made, width=100)
    assert "Not compared" not in report.render_html(made, drawn={"light": {}, "dark": {}})


def test_runs_that_were_asked_otherwise_are_told(tmp_path):
    base = make(tmp_path / "base", model="b", decides={"profile": "vtrap", "dtype": "float32"})
    other = make(
        tmp_path / "other", model="t", decides={"profile": "lmms", "dtype": "float32", "answers": "likelihood"}
    )
    same = make(tmp_path / "same", model="s", decides={"profile": "vtrap", "dtype": "float32"}, device="cuda")
    made = changes.build(changes.read_runs([base, other]))
    assert report.unlike(made) == ["answers (generate or likelihood)", "profile (vtrap or lmms)"]
    assert "warning: runs differ beside the model: profile (vtrap or lmms)" in report.table(made, width=100)
    page = report.render_html(made, drawn={"light": {}, "dark": {}})
    assert "Not alike" in page and "answers (generate or likelihood); profile (vtrap or lmms)" in page
    made = changes.build(changes.read_runs([base, same]))
    assert report.unlike(made) == [] and "differ" not in report.table(made, width=100)
    assert "Not alike" not in report.render_html(made, drawn={"light": {}, "dark": {}})
    size = {"longest_edge": 4096, "shortest_edge": 1024}
    for name, longest in (("base", 4096), ("same", 8192)):
        pixels = {"family": "qwen2_5_vl", "image_processor": {"size": {**size, "longest_edge": longest}}}
        edit(tmp_path / name / "run.json", lambda d, pixels=pixels: d.update(preprocessing=pixels))
    made = changes.build(changes.read_runs([base, same]))
    assert report.unlike(made) == ["preprocessing.image_processor.size.longest_edge (4096 or 8192)"]


def test_a_total_is_over_the_tasks_that_its_change_is_over(tmp_path):
    """Image tasks that lie in two runs of a model: the total of either is not that of both."""
    for name, rights in (("b", (3, 6)), ("t", (6, 12))):
        make(tmp_path / name / "4", model=name, right=rights[0], tasks=BOTH)
        make(tmp_path / name / "8", model=name, right=rights[1], frames="8", tasks=("mme", "toy-video"))
    made = changes.build(changes.read_runs([tmp_path / n / f for n in "bt" for f in "48"]))
    (row,) = made["summary"]
    base, tuned = made["base"]["image"], row["image"]
    assert base["score"] == pytest.approx(100 * (3 + 6) / 24) and tuned["score"] == pytest.approx(75)
    assert tuned["score"] - base["score"] == pytest.approx(row["image_change"]["value"])
    assert tuned["ci"][0] < 75 < tuned["ci"][1]


def test_a_sweep_whose_folders_hold_other_tasks(tmp_path):
    one = make(tmp_path / "2", frames="2", right=3, tasks=("toy-video",))
    two = make(tmp_path / "4", frames="4", tasks=("toy-video", "mvbench"))
    three = make(tmp_path / "8", frames="8", right=9, tasks=("toy-video", "mvbench"))
    found = sweep([one, two, three], names=["2", "4", "8"])
    assert {task: [p["frames"] for p in points] for task, points in found["tasks"].items()} == {
        "toy-video": ["2", "4", "8"],
        "mvbench": ["4", "8"],
    }
    steps = sorted((s["step"], s["task"]) for s in found["steps"])
    assert steps == [("2 to 4", "toy-video"), ("4 to 8", "mvbench"), ("4 to 8", "toy-video")]
    assert "mvbench" in text(found) and json.dumps(found)


# --- what a study, a submission and a model are ----------------------------------------------------------------------


def test_a_group_in_a_study_is_the_benchmarks_at_hand(tmp_path):
    study = tmp_path / "s.yaml"
    study.write_text(
        f"model: toy-vl\ncorpus: c\nbenchmarks: {tmp_path}/packed\ntasks: [image, video]\ncommon_frames: 4\n"
        "settings: [{name: a, frames: 4}]\n"
    )
    assert read_study(study).tasks == BOTH
    (tmp_path / "packed/mvbench").mkdir(parents=True)
    (tmp_path / "packed/mvbench/manifest.json").write_text("{}")
    assert read_study(study).tasks == ("toy-image", "mvbench")


def test_a_folder_that_looks_like_an_id_of_the_hub_may_be_submitted(tmp_path, capsys):
    local = make(tmp_path / "local", model="runs/sft")
    words = ["--model", "me/sft", "--dry-run", str(tmp_path / "hub")]
    assert main(["submit", str(local), *words]) == 0
    assert "refused" not in capsys.readouterr().err
    fetched = make(tmp_path / "fetched", model="runs/sft", hub_revision="c" * 40)
    assert main(["submit", str(fetched), *words]) == 0
    assert "The run scored runs/sft, not me/sft" in capsys.readouterr().err


def test_a_published_checkpoint_has_the_digest_of_the_local_one(tmp_path):
    """`push` writes settings.json anew and leaves progress.json out."""
    (tmp_path / "model.safetensors").write_bytes(b"w")
    (tmp_path / "config.json").write_text('{"model_type": "qwen2_5_vl"}')
    before = local_model(str(tmp_path)).digest
    for name in ("settings.json", "progress.json"):
        (tmp_path / name).write_text("{}")
    assert local_model(str(tmp_path)).digest == before
    (tmp_path / "config.json").write_text('{"model_type": "qwen2_5_vl", "a": 1}')
    assert local_model(str(tmp_path)).digest != before


# --- what the user may get wrong -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (["--device", "banana"], "--device 'banana': there is none such here"),
        (["--device", "cuda:99"], "--device 'cuda:99': there is none such here"),
        (["--device", "meta"], "--device 'meta': there is none such here"),
        (["--label", "a\udcff"], "is not UTF-8"),
        (["--seed", "-1"], "--seed -1 must be 0 or more"),
    ],
)
def test_wrong_options_of_run_are_told_first(tmp_path, capsys, words, says):
    assert main(["run", "--model", "toy-vl", "--tasks", "toy-image", "--out", str(tmp_path / "o"), *words]) == 2
    assert says in capsys.readouterr().err
    assert not (tmp_path / "o").exists()


@pytest.mark.parametrize("frames", ["0", "-3"])
def test_attention_is_not_measured_at_no_frames(tmp_path, capsys, frames):
    words = ["attention", "toy-vl", "--task", "toy-video", f"--frames={frames}", "--out", str(tmp_path)]
    assert main(words) == 2
    assert f"--frames {frames} must be at least 1" in capsys.readouterr().err


def test_half_a_character_is_in_memory_as_it_is_on_the_disk(tmp_path):
    (record,) = records_of(("toy-image",), right=1, items=1)
    with RecordFile(tmp_path / RECORDS) as file:
        (written,) = file.append([replace(record, response="\ud83d")])
        assert file.records == [written]
    assert read_records(tmp_path / RECORDS) == [written] and written.response == "?"
    assert digest([written])
