"""Holes that were found and closed, and promises of docs/security.md that no other test holds."""

from __future__ import annotations

import json
import os
import re
import tarfile
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from bench.benchmark_rows import fixture as benchmark_rows
from targets import INDEX, MANIFEST, SHARD, unpacked

from hub_cards.dry_run import list_uploads
from hub_cards.errors import redact
from hub_cards.rendering import write_text
from vtrap_bench.__main__ import main as bench
from vtrap_bench.claims import Worker
from vtrap_data.__main__ import main
from vtrap_data.encoding.models import load_model, resolve
from vtrap_data.errors import UnreachableError, UsageError, VtrapError, printable
from vtrap_data.files import write_bytes
from vtrap_data.loading import remote
from vtrap_data.loading.dataset import PackedDataset
from vtrap_data.media.tars import tar_members, tar_names
from vtrap_data.shards.contamination import Contamination, Shared, as_text
from vtrap_data.shards.index import read_index
from vtrap_data.shards.manifest import read_manifest
from vtrap_data.shards.members import Span
from vtrap_data.shards.reader import ShardReader
from vtrap_train import data
from vtrap_train.__main__ import main as train
from vtrap_train.config import parse

ROOT = Path(__file__).parents[2]
PACKAGES = ("hub_cards", "vtrap_data", "vtrap_bench", "vtrap_train")


@pytest.fixture
def packed(tmp_path: Path) -> Path:
    return unpacked(tmp_path / "packed")


def edit_manifest(root: Path, **change: Any) -> None:
    manifest = json.loads((root / MANIFEST).read_bytes())
    for name, value in change.items():
        place = manifest
        *way, last = name.split("__")
        for step in way:
            place = place[int(step) if step.isdecimal() else step]
        place[last] = value
    (root / MANIFEST).write_text(json.dumps(manifest))


# --- a corpus from anywhere ------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "change",
    [
        {"index_sha256": "../../../../victim"},  # the cache of a stream is called after it
        {"index_sha256": "/" + "x" * 63},
        {"settings__split": "../../../victim"},  # `budget` calls its tars after it
        {"shards__0__path": "data/../../victim.tar"},
        {"shards__0__path": "/etc/passwd"},
        {"settings__slots": 1 << 60},
        {"settings__budgets": []},
        {"counts__items": "many"},
        {"shards": {"0": "a"}},
    ],
)
def test_a_manifest_that_lies_is_refused(packed: Path, change: dict[str, Any]) -> None:
    edit_manifest(packed, **change)
    with pytest.raises(UsageError, match="is damaged"):
        read_manifest(packed)


def test_a_stream_overwrites_nothing_outside_its_cache(packed: Path, tmp_path: Path) -> None:
    victim = tmp_path / "victim"
    victim.mkdir()
    (victim / MANIFEST).write_text("mine")
    edit_manifest(packed, index_sha256="../victim")
    with pytest.raises(UsageError, match="is damaged"):
        remote.open_remote(f"file://{packed}", cache=tmp_path / "cache", keep=2)
    assert (victim / MANIFEST).read_text() == "mine"


def test_budget_writes_nothing_outside_its_folder(packed: Path, tmp_path: Path) -> None:
    edit_manifest(packed, settings__split="../../../victim")
    assert main(["budget", str(packed), "--out", str(tmp_path / "a/b/out"), "--strategy", "fixed:8"]) == 2
    assert not list(tmp_path.rglob("victim*"))


def test_a_shard_that_the_manifest_does_not_name_is_no_reason_to_wait(packed: Path, tmp_path: Path) -> None:
    opened = remote.open_remote(f"file://{packed}", cache=tmp_path / "cache", keep=2)
    with pytest.raises(UnreachableError, match="names a shard that its"):
        opened.fetch("data/other.tar")


@pytest.mark.parametrize("span", [(0, 1 << 50), (-5, 10), (10, -5), (1 << 50, 1)])
def test_an_index_cannot_ask_for_bytes_that_are_not_there(packed: Path, span: tuple[int, int]) -> None:
    with pytest.raises(VtrapError, match="ends before byte"):
        ShardReader(packed).read(SHARD, [Span(*span)])


@pytest.mark.parametrize("name", ["../../etc/passwd", "/etc/passwd", "data/\0.tar"])
def test_an_index_cannot_name_other_files(packed: Path, name: str) -> None:
    with pytest.raises(UsageError):
        ShardReader(packed).read(name, [Span(0, 1)])


# --- tars ------------------------------------------------------------------------------------------------------------


def write_tar(path: Path, *infos: tarfile.TarInfo) -> Path:
    with tarfile.open(path, "w", format=tarfile.PAX_FORMAT) as tar:
        for info in infos:
            tar.addfile(info)
    return path


def test_a_sparse_member_is_no_terabyte(tmp_path: Path) -> None:
    info = tarfile.TarInfo("bomb.mp4")
    info.pax_headers = {"GNU.sparse.major": "0", "GNU.sparse.minor": "1", "GNU.sparse.size": str(1 << 40),
                        "GNU.sparse.map": "0,0", "GNU.sparse.name": "bomb.mp4"}  # fmt: skip
    path = write_tar(tmp_path / "a.tar", info)
    with tarfile.open(path) as tar:
        assert next(iter(tar)).size == 1 << 40
    assert not tar_names(path)
    with pytest.raises(tarfile.TarError, match="no regular file"):
        list(tar_members(path, strict=True))


def test_headers_that_lead_back_or_are_no_numbers_end(tmp_path: Path) -> None:
    for size, said in (
        (-1024, r"begins before its end|damaged|invalid"),
        (1 << 40, r"ends in the middle|unexpected end"),
    ):
        info = tarfile.TarInfo("a.mp4")
        info.pax_headers = {"size": str(size)}
        with pytest.raises(UsageError, match=said):
            tar_names(write_tar(tmp_path / f"{size}.tar", info))
    info = tarfile.TarInfo("a.mp4")
    info.pax_headers = {"GNU.sparse.map": "one,two"}
    with pytest.raises(UsageError, match=r"header is damaged|invalid"):
        tar_names(write_tar(tmp_path / "map.tar", info))


def test_a_link_in_a_shard_is_a_fault(packed: Path, capsys: pytest.CaptureFixture[str]) -> None:
    link = tarfile.TarInfo("00000009-x.json")
    link.type, link.linkname = tarfile.SYMTYPE, "/etc/passwd"
    with tarfile.open(packed / SHARD, "a") as tar:
        tar.addfile(link)
    assert main(["doctor", str(packed)]) == 1
    assert "is no regular file" in capsys.readouterr().out


@pytest.mark.parametrize("name", ["item_id", "n_frames", "media_sha256"])
def test_an_index_with_columns_of_other_types_or_with_gaps_is_refused(packed: Path, name: str) -> None:
    index = pq.read_table(packed / INDEX)
    place = index.schema.get_field_index(name)
    gap = pa.array([None, *index[name].to_pylist()[1:]], index.schema.field(name).type)
    for column, said in ((pa.array([1.5] * len(index)), f"column {name} holds double, not"), (gap, "has gaps")):
        pq.write_table(index.set_column(place, name, column), packed / INDEX)
        with pytest.raises(UsageError, match=said):
            read_index(packed)


# --- links -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("write", [lambda path: write_bytes(path, b"new"), lambda path: write_text(path, "new")])
def test_nothing_is_written_through_a_link_of_the_temporary_name(tmp_path: Path, write: Any) -> None:
    (tmp_path / "victim").write_text("mine")
    (tmp_path / f".out.tmp{os.getpid()}").symlink_to(tmp_path / "victim")
    write(tmp_path / "out")
    assert (tmp_path / "victim").read_text() == "mine"
    assert (tmp_path / "out").read_text() == "new"


def test_what_lies_behind_a_link_is_not_published(tmp_path: Path) -> None:
    (tmp_path / "secret").write_text("mine")
    (tmp_path / "run").mkdir()
    (tmp_path / "run/notes.txt").symlink_to(tmp_path / "secret")
    with pytest.raises(ValueError, match="leads out of"):
        list_uploads(tmp_path / "run")


def test_a_claim_that_is_none_stops_nobody_for_ever(tmp_path: Path) -> None:
    (tmp_path / "claims").mkdir()
    (tmp_path / "claims/a.0").symlink_to("../../elsewhere")
    (tmp_path / "claims/b.0").write_text("no link")
    name = "host.0123456789ab.17.a1b2c3"
    (tmp_path / name).mkdir()
    os.mkfifo(tmp_path / name / "alive")
    (tmp_path / "claims/c.0").symlink_to(name)
    with Worker(tmp_path) as me:
        assert me.claim("a")
        with pytest.raises(UsageError, match="is no claim of a process"):
            me.claim("b")
        me.claim("c")  # whichever the answer: there is one, without waiting for whoever writes to a FIFO


# --- secrets, and what is printed ------------------------------------------------------------------------------------


def test_addresses_lose_their_passwords() -> None:
    for address in (
        "https://me:hunter2@host/c",
        "s3://b/c?X-Amz-Signature=hunter2&a=1",
        "https://h/c?access_token=hunter2",
    ):
        assert "hunter2" not in redact(f"{address} cannot be read")
    assert redact("hf://datasets/a/b@1f2e/c?part=3") == "hf://datasets/a/b@1f2e/c?part=3"


def test_an_address_that_cannot_be_read_is_told_without_its_password(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(remote, "FIRST_PATIENCE", 0.0)
    with pytest.raises(UsageError) as caught:
        remote.open_remote("http://me:hunter2@127.0.0.1:9/c", cache=tmp_path, keep=2)
    assert "hunter2" not in str(caught.value)


def test_an_address_is_recorded_without_its_password(packed: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(data, "opened", lambda location, **how: PackedDataset(packed))
    mixture = data.Mixture([data.Part(location="https://me:hunter2@host/c?sig=hunter2")], frames="hybrid", seed=0)
    assert [part["data"] for part in mixture.describe()] == ["https://***@host/c?sig=***"]


@pytest.mark.parametrize("engine", ['{"hf_token": "SECRET"}', '{"trust_remote_code": true}'])
def test_the_engine_takes_no_token_and_no_code_of_others(
    engine: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "out"
    words = ["run", "--model", "toy-vl", "--tasks", "toy-image", "--backend", "vllm", "--out", str(out)]
    assert bench([*words, "--engine", engine]) == 2
    said = capsys.readouterr().err
    assert "--engine: " in said and "SECRET" not in said and not out.exists(), "nothing is written down"


@pytest.mark.parametrize("tail", ["", ":0", ":50%"])
def test_a_password_in_an_address_of_data_is_not_printed(tail: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert train(["--model", "toy-vl", "--data", f"https://me:SECRET@host/c{tail}", "--plan"]) == 2
    said = capsys.readouterr().err
    assert "https://***@host/c" in said and "SECRET" not in said


def test_training_takes_no_token(tmp_path: Path) -> None:
    words = ["--model", "toy-vl", "--data", str(tmp_path), "--output_dir", str(tmp_path / "out")]
    with pytest.raises(UsageError, match="--hub_token is not possible") as caught:
        parse([*words, "--hub_token", "SECRET"])
    assert "SECRET" not in str(caught.value)


def test_file_names_do_not_steer_the_terminal(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    rows = [{"image": "\x1b]0;gone\x07.png", "messages": [{"role": "user", "content": "?"}], "answer": "a"}]
    (tmp_path / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    assert main(["pack", str(tmp_path / "rows.jsonl"), "--out", str(tmp_path / "out"), "--workers", "0"]) == 1
    assert "\x1b" not in (said := capsys.readouterr().err)
    assert "\\x1b]0;gone" in said
    assert printable("a\n\ud800b") == "a \\ud800b"


def test_faults_do_not_either(packed: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (packed / "data/\x1b]0;gone\x07.tar").touch()
    assert main(["doctor", str(packed)]) == 1
    assert "\x1b" not in (said := capsys.readouterr().out)
    assert "extra-shard: data/\\x1b]0;gone" in said


def test_names_in_rows_do_not_either(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    name = "\x1b]0;gone\x07"
    turns = [{"from": "human", "value": "?"}, {"from": "gpt", "value": "a"}]
    corpus = {"id": 1, "video": f"{name}.mp4", "conversations": turns, "data_source": "x"}
    bench = {**benchmark_rows("nextqa")[0], "video": name}
    for command, file, row in (
        ("corpus llava-video-178k --subset 0_30_s_nextqa", "0_30_s_nextqa/rows.json", corpus),
        ("benchmark nextqa", "MC/test.json", bench),
    ):
        path = tmp_path / command.split()[0] / file
        path.parent.mkdir(parents=True)
        path.write_text(json.dumps([row]))
        folders = ["--rows", str(path.parents[1]), "--media", str(tmp_path), "--out", str(tmp_path / "out")]
        assert main([*command.split(), *folders]) == 1  # of other rows than these
        said = capsys.readouterr().err
        assert "\x1b" not in said
        assert "such as " in said and "\\x1b]0;gone" in said
    shared = Shared(kind="file", benchmark="b", item=name, corpus_item=name, detail=name)
    counts = ("media", "media_shared", "items", "items_on_shared_media")
    counts += ("questions_shared", "short_questions_shared", "unreadable")
    told = as_text([Contamination(benchmark="b", **dict.fromkeys(counts, 1), shared=(shared,))])
    assert "\x1b" not in told and told.count("\\x1b]0;gone") == 3


# --- code of others --------------------------------------------------------------------------------------------------


def sources() -> list[Path]:
    return [path for package in PACKAGES for path in (ROOT / package).rglob("*.py")]


def test_nothing_is_unpickled_evaluated_or_given_to_a_shell() -> None:
    forbidden = re.compile(
        r"\b(import (pickle|cPickle|dill|shelve|marshal)|from (pickle|dill|shelve|marshal) import|torch\.load\(|"
        r"(?<![.\w])eval\(|(?<![.\w])exec\(|os\.system\(|shell=True|allow_pickle=True|"
        r"yaml\.(unsafe_|full_)?load\((?!text, Loader)|"
        r"trust_remote_code=True|weights_only=False|extractall\(|unpack_archive\()"
    )
    found = [f"{p.relative_to(ROOT)}: {m[0]}" for p in sources() for m in forbidden.finditer(p.read_text("utf-8"))]
    assert not found


def test_pickled_weights_are_not_loaded(toy_processor: Any, random_toy: Any, tmp_path: Path) -> None:
    """Sound ones, which transformers takes where no safetensors are."""
    toy_processor.save_pretrained(tmp_path)
    random_toy.save_pretrained(tmp_path)
    (tmp_path / "model.safetensors").unlink()
    torch.save(random_toy.state_dict(), tmp_path / "pytorch_model.bin")
    with pytest.raises(UsageError, match=r"no file named model\.safetensors"):
        load_model(resolve(str(tmp_path)))


def test_every_model_is_loaded_without_its_own_code() -> None:
    calls = re.compile(r"\bAuto\w+\.from_pretrained\((?:[^()]|\([^()]*\))*\)")
    kept, seen = [], 0
    for path in sources():
        text = path.read_text("utf-8")
        found = calls.findall(text)
        assert len(found) == len(re.findall(r"\bAuto\w+\.from_pretrained\(", text)), path  # none goes unread
        seen += len(found)
        for call in found:
            safe = "trust_remote_code=False" in call or "**where" in call
            kept += [] if safe else [f"{path.relative_to(ROOT)}: {' '.join(call.split())}"]
    assert not kept and seen > 5


def test_no_spreadsheet_is_written() -> None:
    """A cell that begins with `=` is a formula to a spreadsheet. vtrap writes JSON, Parquet, HTML and Markdown."""
    found = [p for p in sources() if re.search(r"\bimport csv\b|to_csv\(|to_excel\(|\.csv\"\)", p.read_text("utf-8"))]
    assert not found


def test_the_page_names_tests_that_exist() -> None:
    """docs/security.md: every test file in its table is there."""
    named = re.findall(r"`(tests/[\w/.]+\.py)`", (ROOT / "docs/security.md").read_text("utf-8"))
    assert len(named) > 10
    assert not [name for name in named if not (ROOT / name).is_file()]
