"""Every subset of every corpus, by name: rows with its exact columns and types, read, counted and licensed."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from bench.benchmark_rows import fixture as benchmark_rows
from bench.benchmark_rows import png
from bench.benchmark_rows import write_rows as write_benchmark

from vtrap_data.__main__ import main
from vtrap_data.sources import counts
from vtrap_data.sources.benchmarks import BENCHMARKS
from vtrap_data.sources.corpora import CORPORA
from vtrap_data.sources.corpora.convert import QUESTIONS, REPORT, convert
from vtrap_data.sources.corpora.table import read_table
from vtrap_data.sources.jsonl import read_jsonl

FIXTURES = Path(__file__).parents[1] / "fixtures/corpora/columns"
SUBSETS = [(corpus.name, subset) for corpus in CORPORA.values() for subset in corpus.subsets]


def fixture(name: str) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (FIXTURES / f"{name}.jsonl").read_text(encoding="utf-8").splitlines()]


def fits(value: Any, kind: Any) -> bool:
    """Whether a value is of a type of corpora.yaml: every key of an object, and no other."""
    if isinstance(kind, list):
        return isinstance(value, list) and all(fits(one, kind[0]) for one in value)
    if isinstance(kind, dict):
        return isinstance(value, dict) and value.keys() == kind.keys() and all(fits(value[k], kind[k]) for k in kind)
    if kind == "image":  # a colour stands for one; a row about text alone has none
        return value is None or isinstance(value, str)
    return type(value) is {"string": str, "int": int, "float": float}[kind]


@pytest.mark.parametrize("name", CORPORA)
def test_the_rows_have_the_columns_that_the_table_says(name: str) -> None:
    corpus = CORPORA[name]
    rows = fixture(name)
    optional = corpus.optional.keys() - {"start", "end"}  # of parts of a video: a test of their own
    for row in rows:
        assert row.keys() == corpus.columns.keys() | optional
        for column, kind in (corpus.columns | corpus.optional).items():
            assert column not in row or fits(row[column], kind), (column, row[column])
    assert corpus.columns_from and corpus.counts_from
    # The check itself: it tells a wrong type and a wrong key.
    assert not fits([{"from": "human"}], [{"from": "string", "value": "string"}]) and not fits(1, "string")


def write_rows(name: str, subset: str, folder: Path) -> Path:
    """The fixture's rows as a file of one subset, where its globs find it and in the form that it has there."""
    glob = CORPORA[name].subsets[subset].files[0]
    rows = [json.loads(json.dumps(row).replace("{folder}", glob.partition("/")[0])) for row in fixture(name)]
    path = folder / glob.replace("*", "rows")
    path.parent.mkdir(parents=True, exist_ok=True)
    if path.suffix == ".parquet":
        write_parquet(rows, path)
    elif path.suffix == ".json":
        path.write_text(json.dumps(rows, indent=1))
    else:
        path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return folder


def write_parquet(rows: list[dict[str, Any]], path: Path) -> None:
    """As `datasets` writes them to the Hub, with the features that the card declares."""
    from datasets import Dataset, Features, Image, List, Value

    text = Value("string")
    features = Features(id=text, image=Image(), conversations=List({"from": text, "value": text}), data_source=text)
    cells = [{**row, "image": row["image"] and {"bytes": png(row["image"]), "path": None}} for row in rows]
    Dataset.from_list(cells, features=features).to_parquet(str(path))


@pytest.mark.parametrize(("name", "subset"), SUBSETS)
def test_every_subset_is_read_counted_and_licensed(
    tmp_path: Path, name: str, subset: str, capsys: pytest.CaptureFixture[str]
) -> None:
    corpus, expected = CORPORA[name], CORPORA[name].subsets[subset].rows
    rows = write_rows(name, subset, tmp_path / "rows")
    arguments = ["corpus", name, "--rows", str(rows), "--subset", subset, "--out", str(tmp_path / "out")]
    arguments += ["--media", str(rows)] if corpus.media == "video" else []
    assert main(arguments) == (0 if expected is None else 1)
    said = capsys.readouterr().err
    found = len(fixture(name))
    if expected is None:
        assert f"{subset}: {found} rows, {found} to pack; no count is known" in said
    else:
        about = "about " if CORPORA[name].subsets[subset].known == "viewer" else ""
        assert f"fault: {subset}: {found} rows, {found} to pack; {about}{expected} expected" in said
        assert f"a difference of {found - expected:+d}" in said and "--accept-count" in said
    done = json.loads((tmp_path / "out" / REPORT).read_text())
    assert done["bad"] == done["other_columns"] == []
    read = read_jsonl(tmp_path / "out" / QUESTIONS, media_root=rows if corpus.media == "video" else None)
    assert not read.rejected and sum(len(sample.items) for sample in read.samples) == found
    assert {(s.source, s.licence, s.redistributable) for s in read.samples} == {
        (f"{name}/{subset}", corpus.licence, corpus.redistributable)
    }


def test_the_count_is_taken_when_it_is_the_one_or_is_accepted(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    name, subset = "llava-video-178k", "0_30_s_nextqa"
    rows = write_rows(name, subset, tmp_path / "rows")
    arguments = ["corpus", name, "--rows", str(rows), "--media", str(rows), "--subset", subset]
    arguments += ["--out", str(tmp_path / "out")]
    assert main([*arguments, "--accept-count"]) == 0
    said = capsys.readouterr()
    assert (
        "accepted: 0_30_s_nextqa: 3 rows, 3 to pack; about 11000 expected" in said.err and "next: python" in said.out
    )
    assert main([*arguments, "--limit", "2"]) == 0, "a part that was asked for is no fault"
    assert "2 rows, 2 to pack; of 11000 expected, as far as asked for" in capsys.readouterr().err
    assert main([*arguments, "--json"]) == 1
    assert json.loads(capsys.readouterr().out)["subsets"][0]["agrees"] is False
    corpus = CORPORA[name]
    exact = replace(corpus, subsets={subset: replace(corpus.subsets[subset], rows=3)})
    monkeypatch.setitem(CORPORA, name, exact)
    assert main(arguments) == 0
    assert "0_30_s_nextqa: 3 rows, 3 to pack; as expected (about 3)" in capsys.readouterr().err


def test_the_activitynet_subsets_are_found_under_both_names(tmp_path: Path) -> None:
    """The card names one folder, the data set has the other; media are in the folder that the rows name."""
    corpus = CORPORA["llava-video-178k"]
    rows = write_rows(corpus.name, "0_30_s_activitynet", tmp_path / "rows")
    assert (rows / "0_30_s_activitynetqa").is_dir()
    video = rows / "0_30_s_activitynetqa/NextQA/1202/3264.mp4"
    video.parent.mkdir(parents=True)
    video.touch()
    done = convert(corpus, rows=str(rows), media=rows, subsets=["0_30_s_activitynet"], out=tmp_path / "out")
    assert done.missing_media == ("academic_source/Charades/RW587.mp4",)
    lines = [json.loads(line) for line in (tmp_path / "out" / QUESTIONS).read_text().splitlines()]
    assert lines[1]["video"] == "0_30_s_activitynetqa/NextQA/1202/3264.mp4"
    (rows / "0_30_s_activitynetqa").rename(rows / "0_30_s_activitynet")
    assert convert(corpus, rows=str(rows), media=rows, subsets=["0_30_s_activitynet"], out=tmp_path / "out").rows == 3


def test_parts_of_videos_are_set_aside_and_missing_endings_are_mp4(tmp_path: Path) -> None:
    corpus, subset = CORPORA["videochat2-it"], "caption/youcook2"
    good = {"video": "no_ending", "QA": [{"q": "What is it?", "a": "A pan."}]}  # `i` may be absent
    path = tmp_path / "video/caption/youcook2/train.json"
    path.parent.mkdir(parents=True)
    part = {**good, "start": 1.5, "end": 4.0}
    assert {"start", "end"} <= corpus.optional.keys() and fits(part["start"], corpus.optional["start"])
    path.write_text(json.dumps([good] * 10 + [part]))
    options = {"rows": str(tmp_path), "media": tmp_path, "subsets": [subset], "out": tmp_path / "out"}
    done = convert(corpus, **options)
    assert (done.rows, len(done.bad)) == (10, 1) and "seconds 1.5 to 4.0 of its video" in done.bad[0][1]
    assert done.missing_media == ("no_ending",) and done.other_columns == ()
    (tmp_path / "youcook2").mkdir()
    (tmp_path / "youcook2/no_ending.mp4").touch()
    assert convert(corpus, **options).missing_media == ()
    lines = (tmp_path / "out" / QUESTIONS).read_text().splitlines()
    assert {json.loads(line)["video"] for line in lines} == {"youcook2/no_ending.mp4"}


# --- benchmarks -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", BENCHMARKS)
def test_every_benchmark_has_rows_with_its_columns(name: str) -> None:
    one = BENCHMARKS[name]
    for row in benchmark_rows(name):
        assert set(one.columns) <= row.keys()
    assert one.counts_from and one.licence and one.licence_stated


def test_counts_of_a_benchmark_are_asserted_too(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    rows = tmp_path / "rows"
    write_benchmark("tempcompass", rows)
    arguments = ["benchmark", "tempcompass", "--rows", str(rows), "--media", str(rows), "--out", str(tmp_path / "out")]
    assert main(arguments) == 1
    said = capsys.readouterr()
    assert (
        said.err.count("fault: ") == 3 and "1580 expected (the data set's card says so), a difference of -" in said.err
    )
    assert "row counts that are not the expected ones: 3 of 3" in said.err and "--accept-count" in said.err
    assert "next:" not in said.out and (tmp_path / "out/bench.jsonl").is_file()
    assert main([*arguments, "--accept-count"]) == 0
    said = capsys.readouterr()
    assert said.err.count("accepted: ") == 3 and "next: python" in said.out
    assert main([*arguments, "--limit", "1"]) == 0
    assert "of 1580 expected, as far as asked for" in capsys.readouterr().err


def test_rows_of_other_tasks_and_bad_rows_do_not_count_as_missing(tmp_path: Path) -> None:
    from vtrap_data.sources.benchmarks.convert import convert as convert_benchmark

    known = write_benchmark("seed_image", tmp_path / "rows")
    done = convert_benchmark(known, rows=str(tmp_path / "rows"), out=tmp_path / "out")
    (part,) = done.parts
    assert part.read > part.rows == part.questions, "it has rows about videos, too"
    exact = replace(known, parts=(replace(known.parts[0], rows=part.rows),))
    assert convert_benchmark(exact, rows=str(tmp_path / "rows"), out=tmp_path / "out").wrong_counts == 0


# --- what the table and the pages say ---------------------------------------------------------------------------


def everything() -> Iterator[tuple[str, str, bool, str]]:
    for corpus in CORPORA.values():
        yield corpus.name, corpus.licence, corpus.redistributable, corpus.licence_note
    for one in BENCHMARKS.values():
        yield one.name, one.licence, one.redistributable, one.licence_stated


def test_every_source_says_its_licence_and_whether_it_may_be_passed_on() -> None:
    for name, licence, redistributable, note in everything():
        assert licence not in ("", "unknown") and note, name
        assert redistributable is (name == "perceptiontest"), "filmed for it, under a licence that allows it"
        if licence == "unstated":
            assert not redistributable


def test_a_table_that_leaves_it_open_is_refused() -> None:
    text = (Path(counts.__file__).parent / "corpora/corpora.yaml").read_text(encoding="utf-8")
    with pytest.raises(ValueError, match="redistributable is None, not true or false"):
        read_table(text.replace("redistributable: false", "redistributable: null", 1))
    assert "rows: null" not in text and text.count("rows: unknown, known: unverified") == 4


def test_the_pages_show_the_tables(monkeypatch: pytest.MonkeyPatch) -> None:
    root = Path(__file__).parents[2]
    monkeypatch.syspath_prepend(str(root / "scripts"))
    import make_sources_page

    for page in make_sources_page.PAGES:
        text = (root / "docs" / page).read_text(encoding="utf-8")
        assert make_sources_page.rewritten(page, text) == text, "run python scripts/make_sources_page.py"
    with pytest.raises(ValueError, match="no marks <!-- all -->"):
        make_sources_page.rewritten("sources.md", "")
    for row in make_sources_page.all_sources():
        path = row.split("|")[-2].strip().strip("`")
        assert not path.startswith("tests/") or (root / path).is_file()
