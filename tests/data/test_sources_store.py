"""Benchmarks from files as they come: pictures inside rows and beside them, in text or not, videos in tars."""

from __future__ import annotations

import base64
import csv
import io
import json
from pathlib import Path
from typing import Any

import pytest
from bench.benchmark_rows import fixture, png, write_rows
from PIL import Image
from shards_media import write_clip
from test_media_tars import write_tar

from vtrap_data.errors import FatalSampleError
from vtrap_data.media.tars import marks
from vtrap_data.sources.benchmarks import BENCHMARKS
from vtrap_data.sources.benchmarks.convert import BENCH, convert
from vtrap_data.sources.benchmarks.spec import sequence
from vtrap_data.sources.jsonl import read_jsonl
from vtrap_data.sources.store import store_image, unique


@pytest.mark.parametrize("spread", [False, True])
def test_a_picture_that_a_power_cut_tore_is_written_again(tmp_path: Path, spread: bool) -> None:
    name = store_image(png("red"), tmp_path, "media", spread=spread)
    assert name.count("/") == 1 + spread and name.endswith(".png")
    for torn in (b"", png("red")[:40]):
        (tmp_path / name).write_bytes(torn)
        assert store_image(png("red"), tmp_path, "media", spread=spread) == name
        assert (tmp_path / name).read_bytes() == png("red")
    before = (tmp_path / name).stat().st_mtime_ns
    store_image(png("red"), tmp_path, "media", spread=spread)
    assert (tmp_path / name).stat().st_mtime_ns == before


def test_names_that_are_taken_get_a_number() -> None:
    used: dict[str, int] = {}
    assert [unique(name, used) for name in ("a", "a", "a#2", "a", "b")] == ["a", "a#2", "a#2#2", "a#3", "b"]


def written(out: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (out / BENCH).read_text("utf-8").splitlines()]


def test_a_table_of_text_holds_its_pictures_in_base64(tmp_path: Path) -> None:
    """MMBench's own files: long cells, and one row in eleven whose picture is no picture."""
    rows = [row for row in fixture("mmbench_en") for _ in range(6)][:11]
    pictures = [png(row["image"]) for row in rows]
    Image.effect_noise((40, 30), 60).save(noise := io.BytesIO(), "PNG")
    pictures[2] = noise.getvalue()
    cells = [base64.b64encode(picture).decode() for picture in pictures]
    cells[1] = "data:image/png;base64," + cells[1]
    cells[3] = "A" * 400  # more than a file's name can have
    path = tmp_path / "rows" / "en" / "dev.tsv"
    path.parent.mkdir(parents=True)
    with path.open("w", encoding="utf-8", newline="") as file:
        table = csv.DictWriter(file, fieldnames=list(rows[0]), delimiter="\t")
        table.writeheader()
        table.writerows({**row, "image": cell} for row, cell in zip(rows, cells, strict=True))
    done = convert(BENCHMARKS["mmbench_en"], rows=str(tmp_path / "rows"), out=tmp_path / "out")
    assert done.questions == 10
    assert [bad.row for bad in done.bad] == ["en/dev[3]"] and "nor a picture in base64" in done.bad[0].detail
    del pictures[3]
    for picture, line in zip(pictures, written(tmp_path / "out"), strict=True):
        assert (tmp_path / "out" / line["images"][0]).read_bytes() == picture


def write_table(path: Path, rows: list[dict[str, Any]]) -> None:
    """As pandas writes it, from a machine with other line ends and a mark at the beginning."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w", encoding="utf-8-sig", newline="") as file:
        table = csv.DictWriter(file, fieldnames=list(rows[0]), delimiter="\t" if path.suffix == ".tsv" else ",")
        table.writeheader()
        table.writerows({**row, "image": base64.b64encode(png(row["image"])).decode()} for row in rows)


@pytest.mark.parametrize("name", ["dev.tsv", "dev.csv"])
def test_the_cells_of_a_table_stay_as_they_are_written(tmp_path: Path, name: str) -> None:
    row = fixture("mmbench_en")[0]
    options = [
        ("1.50", "007", "1e5", "10"),
        ("None", "NA", "null", "TRUE"),
        ("red", "NULL", "", ""),
        ("1", "2", "3", ""),
    ]
    rows = [{**row, "index": i, **dict(zip("ABCD", cells, strict=True))} for i, cells in enumerate(options)]
    for table in (rows, rows[:1]):  # alone, all cells of a column are numbers
        write_table(tmp_path / f"{len(table)}/en" / name, table)
        done = convert(BENCHMARKS["mmbench_en"], rows=str(tmp_path / str(len(table))), out=tmp_path / "out")
        assert done.bad == ()
        found = [line["options"] for line in written(tmp_path / "out")]
        assert found == [[o for o in cells if o] for cells in options[: len(table)]]


def test_options_in_columns_are_put_as_those_in_the_question(tmp_path: Path) -> None:
    """MMStar: the table asks what the data set of the Hub asks."""
    benchmark = write_rows("mmstar", tmp_path / "rows")
    convert(benchmark, rows=str(tmp_path / "rows"), out=tmp_path / "out")
    expected = written(tmp_path / "out")
    rows = []
    for row, line in zip(fixture("mmstar"), expected, strict=True):
        cells = dict(zip("ABCD", [*line["options"], "", ""], strict=False))
        rows.append({**{k: v for k, v in row.items() if k != "meta_info"}, "question": line["question"], **cells})
    write_table(tmp_path / "table/MMStar.tsv", rows)
    done = convert(BENCHMARKS["mmstar"], rows=str(tmp_path / "table"), out=tmp_path / "out")
    assert done.bad == () and written(tmp_path / "out") == expected
    write_table(tmp_path / "table/MMStar.tsv", [{**row, "A": "", "B": "", "C": "", "D": ""} for row in rows])
    with pytest.raises(FatalSampleError, match="no options in"):
        convert(BENCHMARKS["mmstar"], rows=str(tmp_path / "table"), out=tmp_path / "out")


def test_several_references_in_a_cell_of_a_table(tmp_path: Path) -> None:
    benchmark = write_rows("ocrbench", tmp_path / "rows")
    convert(benchmark, rows=str(tmp_path / "rows"), out=tmp_path / "out")
    expected = [line["answer"] for line in written(tmp_path / "out")]
    rows = fixture("ocrbench")
    rows[0]["answer"] = rows[0]["answer"][0]
    write_table(tmp_path / "table/OCRBench.tsv", [{"index": i, **row} for i, row in enumerate(rows)])
    convert(BENCHMARKS["ocrbench"], rows=str(tmp_path / "table"), out=tmp_path / "out")
    assert [line["answer"] for line in written(tmp_path / "out")] == expected


@pytest.mark.parametrize(
    ("cell", "expected"),
    [
        (r'["km\/h", "b"]', ["km/h", "b"]),
        (r'["\ud83d\ude00"]', ["\U0001f600"]),
        ("['it', \"it's\"]", ["it", "it's"]),
        ("('a', 'b')", ["a", "b"]),
        ("null", []),
        (None, []),
        *((bad, None) for bad in ("-" * 100_000 + "1", "[" * 10_000, "{'a': 1}", "1" * 5000, "\0", "red")),
    ],
)
def test_a_cell_that_holds_a_list(cell: str | None, expected: list[str] | None) -> None:
    if expected is None:
        with pytest.raises(ValueError, match="is no list"):
            sequence(cell)
    else:
        assert sequence(cell) == expected


@pytest.mark.parametrize("place", ["media", "media/NExTVideo", "."])
def test_videos_are_found_in_tars_as_pack_finds_them(tmp_path: Path, place: str) -> None:
    benchmark = write_rows("nextqa", tmp_path / "rows")
    for name in ("10", "11"):
        write_clip(tmp_path / f"files/NExTVideo/{name}.mp4", frames=4)
    (tmp_path / place).mkdir(exist_ok=True, parents=True)
    tar = write_tar(tmp_path / place / "videos.tar", tmp_path / "files" / ("NExTVideo" if "/" in place else ""))
    media = tar if place == "." else tmp_path / "media"
    done = convert(benchmark, rows=str(tmp_path / "rows"), out=tmp_path / "out", media=media)
    assert done.missing_videos == () and done.bad == ()
    assert {row["video"] for row in written(tmp_path / "out")} == {"NExTVideo/10.mp4", "NExTVideo/11.mp4"}
    found = read_jsonl(tmp_path / "out" / BENCH, media_root=media)
    assert all(marks(path) for sample in found.samples for path in sample.paths) and not found.rejected
