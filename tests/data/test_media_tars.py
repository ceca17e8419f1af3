"""Media in tars: packed in place, with the same bytes as from a folder."""

from __future__ import annotations

import io
import tarfile
from dataclasses import replace
from pathlib import Path

import pytest
from shards_media import chat, tree, write_clip, write_corpus, write_photo, write_rows

from vtrap_data.errors import Reason, SampleError, UsageError
from vtrap_data.media import tars
from vtrap_data.media.tars import MediaRoot, as_files, in_tar, marks, tar_names
from vtrap_data.shards.manifest import PackSettings
from vtrap_data.shards.pack import pack
from vtrap_data.sources.jsonl import read_jsonl

SETTINGS = PackSettings(name="tiny", budgets=(2, 4, 8, 16), slots=16, mean_frames=6)


def write_tar(path: Path, folder: Path, *, prefix: str = "") -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    with tarfile.open(path, "w") as tar:
        for file in sorted(folder.rglob("*")):
            if file.is_file():
                tar.add(file, arcname=prefix + file.relative_to(folder).as_posix())
    return path


def test_a_folder_its_tars_and_one_tar_give_the_same_corpus(tmp_path: Path) -> None:
    source = write_corpus(tmp_path / "source")
    pack(read_jsonl(source).samples, tmp_path / "plain", settings=SETTINGS)
    rows = source.rename(tmp_path / "rows.jsonl")
    # One tar beside its folder's name, one deeper down, names with "./" in front.
    root = tmp_path / "tars"
    write_tar(root / "part0.tar", tmp_path / "source/clips", prefix="./clips/")
    write_tar(root / "photos/p.tar", tmp_path / "source/photos")
    whole = write_tar(tmp_path / "whole.tar", tmp_path / "source")
    for name, media_root, workers in (("in_tars", root, 2), ("in_one", whole, 0)):
        corpus = read_jsonl(rows, media_root=media_root)
        assert not corpus.rejected
        pack(corpus.samples, tmp_path / name, settings=replace(SETTINGS, workers=workers))
        assert tree(tmp_path / name) == tree(tmp_path / "plain")


def test_files_come_before_tars_and_later_members_replace_earlier_ones(tmp_path: Path) -> None:
    write_photo(tmp_path / "a.png", seed=1)
    write_tar(tmp_path / "x.tar", tmp_path)
    root = MediaRoot(tmp_path)
    assert root.locate("a.png") == tmp_path / "a.png"
    (tmp_path / "a.png").unlink()
    assert root.locate("a.png") == tmp_path / "x.tar/a.png"
    assert root.relative(tmp_path / "x.tar/a.png") == "a.png"
    assert root.locate("b.png") == tmp_path / "b.png"  # nowhere: pack says that it is missing
    with tarfile.open(tmp_path / "y.tar", "w") as tar:
        for data in (b"old", b"newer"):
            info = tarfile.TarInfo("a.txt")
            info.size = len(data)
            tar.addfile(info, io.BytesIO(data))
    with as_files([tmp_path / "y.tar/a.txt"], tmp_path) as (file,):
        assert file.read_bytes() == b"newer"
        assert file.name == "a.txt"
    assert not file.exists()


def test_only_regular_members_inside_the_root_count(tmp_path: Path) -> None:
    root = tmp_path / "root"
    root.mkdir()
    (tmp_path / "secret.mp4").write_bytes(b"secret")
    with tarfile.open(root / "a.tar", "w") as tar:
        for name, kind in (
            ("link.mp4", tarfile.SYMTYPE),
            ("pipe.mp4", tarfile.FIFOTYPE),
            ("dir.mp4", tarfile.DIRTYPE),
        ):
            info = tarfile.TarInfo(name)
            info.type, info.linkname = kind, "../secret.mp4"
            tar.addfile(info)
        info = tarfile.TarInfo("../up.mp4")
        info.size = 1
        tar.addfile(info, io.BytesIO(b"x"))
    assert set(tar_names(root / "a.tar")) == {"../up.mp4"}
    (root / "b.tar").symlink_to(write_tar(tmp_path / "outside.tar", tmp_path / "root"))
    rows = [
        {"video": name, "conversations": chat("q")}
        for name in ("link.mp4", "pipe.mp4", "dir.mp4", "a.tar/../../up.mp4")
    ]
    corpus = read_jsonl(write_rows(tmp_path / "rows.jsonl", rows), media_root=root)
    assert [error.reason for error in corpus.rejected] == [Reason.OUTSIDE_ROOT]
    assert [marks(sample.paths[0]) for sample in corpus.samples] == [None] * 3
    assert MediaRoot(root).locate("a.tar") == root / "a.tar"  # not through the link to a tar outside
    with pytest.raises(SampleError, match=r"no such member in a.tar") as caught:
        in_tar(root / "a.tar/nothing.mp4")
    assert caught.value.reason is Reason.MISSING


def test_what_cannot_be_read_in_place_says_what_to_do(tmp_path: Path) -> None:
    write_photo(tmp_path / "m/a.png")
    with tarfile.open(tmp_path / "m.tar.gz", "w:gz") as tar:
        tar.add(tmp_path / "m/a.png", arcname="a.png")
    whole = write_tar(tmp_path / "m.tar", tmp_path / "m").read_bytes()
    (tmp_path / "cut.tar").write_bytes(whole[:700])
    for name, said in (("m.tar.gz", "uncompress it first"), ("cut.tar", "plain tar"), ("nowhere", "nor a tar")):
        with pytest.raises(UsageError, match=said):
            MediaRoot(tmp_path / name)


def test_a_tar_that_is_cut_while_it_is_read_costs_its_samples(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_clip(tmp_path / "m/a.mp4")
    write_clip(tmp_path / "m/b.mp4", seed=1)
    tar = write_tar(tmp_path / "m.tar", tmp_path / "m")
    rows = [{"video": name, "conversations": chat("q")} for name in ("a.mp4", "b.mp4")]
    corpus = read_jsonl(write_rows(tmp_path / "rows.jsonl", rows), media_root=tar)
    known = tar_names(tar)
    monkeypatch.setattr(tars, "tar_names", lambda _: known)
    data = tar.read_bytes()
    tar.write_bytes(data[: known["b.mp4"].offset + 10])
    manifest = pack(corpus.samples, tmp_path / "out", settings=replace(SETTINGS, max_quarantine_rate=0.5))
    (entry,) = manifest.quarantine
    assert (entry.sample, entry.reason) == ("b.mp4", "corrupt")
    assert str(tmp_path) not in (tmp_path / "out/manifest.json").read_text()


def test_copies_that_a_kill_left_behind_are_removed(tmp_path: Path) -> None:
    write_photo(tmp_path / "a.png")
    rows = write_rows(tmp_path / "rows.jsonl", [{"image": "a.png", "conversations": chat("q")}])
    left = tmp_path / "out/.work/media-x/0"
    left.mkdir(parents=True)
    (left / "a.mp4").write_bytes(b"half")
    pack(read_jsonl(rows).samples, tmp_path / "out", settings=SETTINGS)
    assert not (tmp_path / "out/.work").exists()
