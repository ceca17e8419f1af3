"""Named corpora: rows with their exact columns become what `pack` reads, and counts are held against the expected."""

from __future__ import annotations

import json
import re
import shutil
from pathlib import Path
from typing import Any, get_args

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from shards_media import write_clip, write_photo
from test_media_tars import write_tar

from vtrap_data.__main__ import main
from vtrap_data.errors import FatalSampleError, UsageError
from vtrap_data.shards.doctor import doctor
from vtrap_data.shards.manifest import PackSettings
from vtrap_data.shards.pack import pack
from vtrap_data.sources.corpora import rows as rows_module
from vtrap_data.sources.corpora.convert import QUESTIONS, REPORT, convert, summary
from vtrap_data.sources.corpora.rows import read_rows
from vtrap_data.sources.corpora.table import CORPORA, read_table
from vtrap_data.sources.counts import Known, agrees
from vtrap_data.sources.jsonl import SourceFile, read_jsonl

FIXTURES = Path(__file__).parents[1] / "fixtures/corpora"
SETTINGS = PackSettings(name="tiny", budgets=(2, 4), slots=4, mean_frames=3)
FILES = {
    "llava-video-178k": ["0_30_s_nextqa/NextQA/1202/3264.mp4", "0_30_s_nextqa/NextQA/1/7.mp4"],
    "sharegpt4video": ["pexels/a1.mp4", "videos/panda/b2.mp4"],
    "videochat2-it": ["next_qa/1202/3264.mp4", "reasoning/next_qa/1/7.mp4"],
}
SUBSETS = {"llava-video-178k": ["0_30_s_nextqa"], "videochat2-it": ["reasoning/next_qa"], "sharegpt4video": []}


def write_media(folder: Path, name: str) -> Path:
    for number, file in enumerate(FILES[name]):
        write_clip(folder / file, frames=8, seed=number)
    return folder


def write_parquet(folder: Path) -> Path:
    """Rows as LLaVA-OneVision-Data has them: images inside, one row about text alone."""
    photo = write_photo(folder / "p.png").read_bytes()
    talk = [{"from": "human", "value": "<image>\nWhat is it?"}, {"from": "gpt", "value": "A picture."}]
    plain = [{"from": "human", "value": "What is 2 + 2?"}, {"from": "gpt", "value": "4"}]
    rows = [
        {"id": "1", "image": {"bytes": photo, "path": "1.png"}, "conversations": talk, "data_source": "llavar"},
        {"id": "2", "image": {"bytes": photo, "path": "2.png"}, "conversations": talk, "data_source": "llavar"},
        {"id": "3", "image": None, "conversations": plain, "data_source": "llavar"},
    ]
    path = folder / "rows/llavar_gpt4_20k/train-00000-of-00001.parquet"
    path.parent.mkdir(parents=True)
    pq.write_table(pa.Table.from_pylist(rows), path)
    return folder / "rows"


def source_rows(out: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (out / QUESTIONS).read_text().splitlines()]


def packed(out: Path, media: Path | None, folder: Path) -> SourceFile:
    corpus = read_jsonl(out / QUESTIONS, media_root=media)
    pack(corpus.samples, folder, settings=SETTINGS, rejected=corpus.rejected)
    assert doctor(folder) == []
    return corpus


@pytest.mark.parametrize("name", FILES)
@pytest.mark.parametrize("in_tar", [False, True])
def test_rows_with_their_columns_can_be_packed(tmp_path: Path, name: str, in_tar: bool) -> None:
    media = write_media(tmp_path / "media", name)
    if in_tar:
        media = write_tar(tmp_path / "media.tar", media)
    done = convert(CORPORA[name], rows=str(FIXTURES / name), out=tmp_path / "out", subsets=SUBSETS[name], media=media)
    assert not done.bad
    assert not done.missing_media
    assert not done.other_columns
    corpus = packed(tmp_path / "out", media, tmp_path / "packed")
    assert not corpus.rejected
    assert sum(len(sample.items) for sample in corpus.samples) == done.rows == (3 if "llava" in name else 2)
    assert {sample.licence for sample in corpus.samples} == {CORPORA[name].licence}
    assert {sample.redistributable for sample in corpus.samples} == {CORPORA[name].redistributable}
    assert all(sample.source.startswith(f"{name}/") for sample in corpus.samples)


def test_llava_rows_keep_their_turns(tmp_path: Path) -> None:
    media = write_media(tmp_path / "media", "llava-video-178k")
    corpus = CORPORA["llava-video-178k"]
    convert(corpus, rows=str(FIXTURES / corpus.name), out=tmp_path / "out", subsets=["0_30_s_nextqa"], media=media)
    (mc, dog, *_) = samples = [
        item for s in read_jsonl(tmp_path / "out" / QUESTIONS, media_root=media).samples for item in s.items
    ]
    assert [m.content for m in dog.messages] == [
        "<video>\nWhat does the dog do?",
        "It jumps.",
        "And then?",
        "It sleeps.",
    ]
    assert [m.content for m in mc.messages] == ["<video>\nWhich one?\nA. red\nB. blue", "B."]
    assert len({item.id for item in samples}) == 3, "ids that repeat in the rows are told apart"


def test_captions_and_questions_become_turns(tmp_path: Path) -> None:
    shares, chats = CORPORA["sharegpt4video"], CORPORA["videochat2-it"]
    convert(shares, rows=str(FIXTURES / shares.name), out=tmp_path / "s", media=tmp_path)
    turns = [[turn["value"] for turn in row["conversations"]] for row in source_rows(tmp_path / "s")]
    assert turns[0] == ["<video>\nDescribe this video in detail.", "The sun sets behind a hill."]
    assert turns[1][1] == "A cook cuts an onion, and says (video) by accident."
    subsets = ["reasoning/next_qa", "caption/textvr"]
    done = convert(chats, rows=str(FIXTURES / chats.name), out=tmp_path / "c", media=tmp_path, subsets=subsets)
    turns = [[turn["value"] for turn in row["conversations"]] for row in source_rows(tmp_path / "c")]
    assert turns[0] == [
        "<video>\nAnswer the question about the clip.\n"
        "Question: Why does the dog jump?\nOptions:\n(A) for joy\n(B) in fear",
        "Answer: (A) for joy",
        "How many dogs are there?",
        "One.",
    ]
    assert turns[2] == ["<video>\nDescribe the clip and the text in it.", "A sign says OPEN."]
    assert done.missing_media == ("1202/3264.mp4", "1/7.mp4", "x.mp4")


def test_images_inside_rows_are_written_once(tmp_path: Path) -> None:
    corpus = CORPORA["llava-onevision-images"]
    rows = write_parquet(tmp_path)
    done = convert(corpus, rows=str(rows), out=tmp_path / "out", subsets=["llavar_gpt4_20k"])
    assert done.rows == 3
    assert len(list((tmp_path / "out/images").rglob("*.png"))) == 1
    found = packed(tmp_path / "out", None, tmp_path / "packed")
    assert [(sample.kind, len(sample.items)) for sample in found.samples] == [("images", 2), ("text", 1)]
    assert any("19790 expected (the data set's card says so), a difference of -19787" in s for s in summary(done))
    # Again: the same rows, and no image twice.
    assert convert(corpus, rows=str(rows), out=tmp_path / "out", subsets=["llavar_gpt4_20k"]) == done


def test_counts_are_held_against_the_expected(tmp_path: Path) -> None:
    assert agrees(66_249, 66_200, "viewer") is True, "the viewer rounds to three digits"
    assert agrees(67_000, 66_200, "viewer") is False
    assert (agrees(19_790, 19_790, "card"), agrees(19_791, 19_790, "card")) == (True, False)
    assert agrees(5, None, "unverified") is None
    corpus = CORPORA["llava-video-178k"]
    media = write_media(tmp_path / "media", corpus.name)
    rows = str(FIXTURES / corpus.name)
    done = convert(corpus, rows=rows, out=tmp_path / "out", subsets=["0_30_s_nextqa"], media=media)
    assert summary(done)[0] == (
        "fault: 0_30_s_nextqa: 3 rows, 3 to pack; about 11000 expected (the Hub's viewer showed it, in three digits), "
        "a difference of -10997"
    )
    assert done.wrong_counts == 1
    some = convert(corpus, rows=rows, out=tmp_path / "out", subsets=["0_30_s_nextqa"], media=media, limit=2)
    assert (some.subsets[0].read, some.subsets[0].agrees) == (2, None)
    assert "push will refuse" in summary(done)[-1]


def test_other_columns_are_an_error_or_are_said(tmp_path: Path) -> None:
    corpus = CORPORA["llava-video-178k"]
    folder = tmp_path / "rows/0_30_s_nextqa"
    folder.mkdir(parents=True)
    row = {
        "id": "1",
        "conversations": [{"from": "human", "value": "q"}, {"from": "gpt", "value": "a"}],
        "video": "a.mp4",
    }
    (folder / "x.json").write_text(json.dumps([{**row, "extra": 1}]))
    options = {
        "rows": str(tmp_path / "rows"),
        "out": tmp_path / "out",
        "subsets": ["0_30_s_nextqa"],
        "media": tmp_path,
    }
    assert convert(corpus, **options).other_columns == ("extra",)
    del row["video"]
    (folder / "x.json").write_text(json.dumps([row]))
    with pytest.raises(UsageError, match="lack the columns video; they have conversations, id"):
        convert(corpus, **options)
    assert (tmp_path / "out" / QUESTIONS).is_file(), "an attempt that fails leaves the last good one"


def test_bad_rows_are_counted_and_too_many_are_an_error(tmp_path: Path) -> None:
    corpus = CORPORA["videochat2-it"]
    folder = tmp_path / "video/reasoning/next_qa"
    folder.mkdir(parents=True)
    good = {"video": "a.mp4", "QA": [{"i": "i", "q": "q", "a": "a"}]}
    bad = [{"video": "../../a.mp4", "QA": good["QA"]}, {"video": "a.mp4", "QA": []}, {"video": 3, "QA": good["QA"]}]
    bad.append({"QA": good["QA"]})
    options = {"rows": str(tmp_path), "out": tmp_path / "out", "subsets": ["reasoning/next_qa"], "media": folder}
    (folder / "train.json").write_text(json.dumps([good] * 40 + bad))
    done = convert(corpus, **options)
    assert [place for place, _ in done.bad] == [f"reasoning/next_qa/train.json[{n}]" for n in (40, 41, 42, 43)]
    assert "leaves the media root" in done.bad[0][1] and done.bad[3][1] == "it lacks 'video'"
    (folder / "train.json").write_text(json.dumps([good, *bad]))
    with pytest.raises(FatalSampleError, match=r"4 of 5 rows cannot be used; the first is reasoning.*\[1\]: "):
        convert(corpus, **options)


def test_a_commit_is_pinned_for_the_ids_of_a_corpus_alone() -> None:
    pinned = {name for name, corpus in CORPORA.items() if corpus.revision}
    assert pinned == {"llava-video-178k", "llava-onevision-images"}
    for corpus in CORPORA.values():
        assert corpus.revision is None or re.fullmatch("[0-9a-f]{40}", corpus.revision)
        assert [corpus.pinned(name) for name in corpus.ids] == [corpus.revision] * len(corpus.ids)
        assert corpus.pinned("some/set") is None


@pytest.mark.parametrize("name", ["sharegpt4video", "videochat2-it"])
def test_where_no_commit_is_known_it_is_said(
    tmp_path: Path, name: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    media = write_media(tmp_path / "media", name)
    parts = [word for subset in SUBSETS[name] for word in ("--subset", subset)]
    arguments = ["corpus", name, *parts, "--media", str(media), "--out", str(tmp_path / "out"), "--accept-count"]
    assert main([*arguments, "--rows", str(FIXTURES / name)]) == 0
    assert "warning: no commit of" in (said := capsys.readouterr().err) and "--revision" in said
    assert main([*arguments, "--rows", CORPORA[name].ids[0]]) == 2
    assert "others tomorrow: give --revision, a commit" in capsys.readouterr().err
    monkeypatch.setattr("huggingface_hub.snapshot_download", lambda *_, **__: str(FIXTURES / name))
    for revision, warned in (("main", True), ("0" * 40, False)):
        assert main([*arguments, "--rows", CORPORA[name].ids[0], "--revision", revision]) == 0
        assert ("--revision main is a name that its authors can move" in capsys.readouterr().err) is warned
        report = json.loads((tmp_path / "out" / REPORT).read_text())
        assert report["revision"] == revision and (report["unpinned"] is not None) is warned


def test_wrong_use(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    corpus = CORPORA["llava-video-178k"]
    for options, said in (
        ({"subsets": ["nothing"]}, "no subset 'nothing'"),
        ({"media": None}, "--media"),
        ({"rows": str(tmp_path)}, "no 0_30_s_nextqa/"),
        ({"rows": "some/set"}, "--revision"),
        ({"rows": "a/b/c"}, "nor an id on the Hub"),
    ):
        given_ = {"rows": str(FIXTURES / corpus.name), "subsets": ["0_30_s_nextqa"], "media": tmp_path, **options}
        with pytest.raises(UsageError, match=said):
            convert(corpus, out=tmp_path / "out", **given_)  # type: ignore[arg-type]
    assert main(["corpus", "llava-video-178k", "--out", str(tmp_path)]) == 2
    assert "--rows" in capsys.readouterr().err


def test_the_command(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    media = write_media(tmp_path / "media", "sharegpt4video")
    assert main(["corpus", "--list"]) == 0
    listed = capsys.readouterr().out
    assert all(name in listed for name in CORPORA)
    assert "about 66200 rows [viewer]" in listed
    arguments = ["corpus", "sharegpt4video", "--rows", str(FIXTURES / "sharegpt4video"), "--media", str(media)]
    assert main([*arguments, "--out", str(tmp_path / "out")]) == 1
    said = capsys.readouterr()
    assert "2 rows" in said.out and "next:" not in said.out
    assert "about 40000 expected" in said.err
    assert main([*arguments, "--out", str(tmp_path / "out"), "--json", "--accept-count"]) == 0
    assert json.loads(capsys.readouterr().out)["subsets"][0]["expected"] == 40000


@pytest.mark.parametrize("words", [["corpus", "llava-onevision-images"], ["benchmark", "mme"]])
def test_rows_that_are_a_file_are_no_id_on_the_hub(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], words: list[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "rows").mkdir()
    (tmp_path / "rows/all.parquet").touch()
    assert main([*words, "--rows", "rows/all.parquet", "--out", "out"]) == 2
    assert "--rows rows/all.parquet is a file: give the folder that holds it" in capsys.readouterr().err


def test_a_subset_that_is_named_twice_is_read_once(tmp_path: Path) -> None:
    media = write_media(tmp_path / "media", "sharegpt4video")
    corpus, rows = CORPORA["sharegpt4video"], str(FIXTURES / "sharegpt4video")
    (subset,) = corpus.subsets
    done = convert(corpus, rows=rows, out=tmp_path / "out", media=media, subsets=[subset, subset])
    assert done == convert(corpus, rows=rows, out=tmp_path / "out", media=media)


def test_every_claim_says_how_it_is_known() -> None:
    assert set(CORPORA) == {"llava-video-178k", "sharegpt4video", "videochat2-it", "llava-onevision-images"}
    for corpus in CORPORA.values():
        for subset in corpus.subsets.values():
            assert (subset.rows is None) == (subset.known == "unverified")
            assert subset.known in get_args(Known)
        assert corpus.licence_known == "card"
    assert len(CORPORA["llava-video-178k"].subsets) == 19
    text = (Path(rows_module.__file__).parent / "corpora.yaml").read_text()
    with pytest.raises(ValueError, match="no way to know"):
        read_table(text.replace("known: viewer", "known: surely", 1))


@given(
    rows=st.lists(
        st.recursive(
            st.none() | st.booleans() | st.integers() | st.text(max_size=8),
            lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=4), inner, max_size=4),
            max_leaves=8,
        ),
        max_size=8,
    ),
    indent=st.sampled_from([None, 1]),
    chunk=st.integers(1, 40),
)
@settings(max_examples=150, deadline=None)
def test_arrays_are_read_in_pieces_of_any_size(
    tmp_path_factory: pytest.TempPathFactory, rows: list[Any], indent: int | None, chunk: int
) -> None:
    path = tmp_path_factory.getbasetemp() / "rows.json"
    path.write_text(json.dumps(rows, indent=indent, ensure_ascii=False), encoding="utf-8")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(rows_module, "_CHUNK", chunk)
        assert list(read_rows(path)) == rows


@pytest.mark.parametrize("text", ["{}", "", '[{"a": 1}, {"b"', "[1, 2", '["a" oops]'])
def test_what_is_no_array_is_an_error(tmp_path: Path, text: str) -> None:
    (tmp_path / "rows.json").write_text(text)
    with pytest.raises(UsageError, match="cannot be read"):
        list(read_rows(tmp_path / "rows.json"))


def test_files_of_one_subset_alone_are_found_too(tmp_path: Path) -> None:
    """Whoever has downloaded one subset need not rebuild the folders around it."""
    source = FIXTURES / "videochat2-it/video/reasoning/next_qa/train.json"
    shutil.copy(source, tmp_path / "train.json")
    corpus = CORPORA["videochat2-it"]
    done = convert(corpus, rows=str(tmp_path), out=tmp_path / "out", subsets=["reasoning/next_qa"], media=tmp_path)
    assert done.rows == 2
