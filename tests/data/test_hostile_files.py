"""Every file of the table ends as the table says, and none harms its neighbours."""

from __future__ import annotations

import json
import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hostile_files import CASES, DENIED, Case, clip, render
from shards_media import chat, write_rows

from vtrap_data.__main__ import main
from vtrap_data.errors import Reason, SampleError
from vtrap_data.media.probe import probe
from vtrap_data.shards.doctor import doctor
from vtrap_data.shards.manifest import Manifest, PackSettings, read_manifest
from vtrap_data.shards.pack import pack
from vtrap_data.shards.stored import StoredSample, read_stored
from vtrap_data.sources.jsonl import SourceFile, read_jsonl

SETTINGS = PackSettings(
    name="hostile", strategy="fixed:16", budgets=(16,), slots=16, max_quarantine_rate=1, workers=2, file_timeout=60
)
EVERY = 8
"""A sound clip stands before every eighth file."""


class Outcome:
    """What packing has made of the files."""

    def __init__(self, ids: list[str], corpus: SourceFile, manifest: Manifest, stored: list[StoredSample]) -> None:
        self.stored = {item.id: one for one in stored for item in one.sample.items}
        reasons = {entry.sample: entry.reason for entry in manifest.quarantine}
        # A row that is no good is named by its line, a medium that is not by its sample.
        places = {f"rows.jsonl:{line}": name for line, name in enumerate(ids, start=1)}
        self.reasons = {places[sample]: reason for sample, reason in reasons.items() if sample in places}
        for sample in corpus.samples:
            self.reasons |= {item.id: reasons[sample.id] for item in sample.items if sample.id in reasons}
        self.noted = {note.sample for note in manifest.notes}

    def of(self, case: Case) -> tuple[str, str]:
        one = self.stored.get(f"about {case.name}")
        if one is None:
            return self.reasons[f"about {case.name}"], ""
        if one.sample.video is not None:
            n = len(one.sample.video.frame_times)
            stored = f"{n} frame{'s' if n > 1 else ''}"
        else:
            (image,) = one.sample.images
            stored = f"{image.width}x{image.height}"
        return "packed", f"{stored}{', noted' if one.sample.id in self.noted else ''}"


@pytest.fixture(scope="module")
def sound(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    folder = tmp_path_factory.mktemp("sound")
    for number in range(-(-len(CASES) // EVERY)):
        clip(folder / f"sound{number}.mp4", n=20 + number, gop=6)
    return sorted(folder.iterdir())


@pytest.fixture(scope="module")
def packed(sound: list[Path], tmp_path_factory: pytest.TempPathFactory) -> Outcome:
    base = tmp_path_factory.mktemp("hostile")
    root = base / "inner/media"
    root.mkdir(parents=True)
    clip(base / "inner/outside.mp4")
    clip(base / "outside.mp4")
    rows: list[dict[str, Any]] = []
    for number, case in enumerate(CASES):
        if number % EVERY == 0:
            shutil.copy(sound[number // EVERY], root)
            name = sound[number // EVERY].name
            rows.append({"id": name, "video": name, "conversations": chat("What?")})
        if case.make is not None:
            case.make(root / case.name)
        rows.append({"id": f"about {case.name}", case.kind: case.name, "conversations": chat("What?")})
    corpus = read_jsonl(write_rows(base / "rows.jsonl", rows), media_root=root)
    manifest = pack(corpus.samples, base / "out", settings=SETTINGS, rejected=corpus.rejected)
    assert doctor(base / "out") == []
    assert str(base) not in json.dumps(manifest.to_json()), "a folder of this machine is in the manifest"
    return Outcome([row["id"] for row in rows], corpus, manifest, list(read_stored(base / "out", members=True)))


@pytest.mark.parametrize("case", CASES, ids=lambda case: ascii(case.name)[1:40])
def test_it_ends_as_the_table_says(packed: Outcome, case: Case) -> None:
    assert packed.of(case) == (case.outcome, case.detail)


def test_the_table_is_long_enough_and_fair() -> None:
    assert len(CASES) >= 60
    assert len({case.name for case in CASES}) == len(CASES)
    assert sum(case.outcome == "packed" for case in CASES) >= 20, "odd files must not be thrown away"
    played = {Reason.TIMEOUT, Reason.TOO_LONG}  # by stand-ins, and by the encoder
    assert {case.outcome for case in (*CASES, DENIED)} == {"packed", *(set(Reason) - played)}


def test_neighbours_keep_their_frames(packed: Outcome, sound: list[Path], tmp_path: Path) -> None:
    for path in sound:
        shutil.copy(path, tmp_path)
    rows = write_rows(
        tmp_path / "rows.jsonl", [{"id": p.name, "video": p.name, "conversations": chat("What?")} for p in sound]
    )
    pack(read_jsonl(rows).samples, tmp_path / "out", settings=replace(SETTINGS, workers=0))
    alone = {one.sample.items[0].id: one for one in read_stored(tmp_path / "out", members=True)}
    assert len(alone) == len(sound)
    for name, one in alone.items():
        assert packed.stored[name].members == one.members
        assert packed.stored[name].sample.video == one.sample.video


@contextmanager
def as_nobody() -> Iterator[Path]:
    """A folder in which we are not root for the time of the block."""
    folder = Path(tempfile.mkdtemp())
    root = os.geteuid() == 0
    try:
        clip(folder / DENIED.name)
        (folder / DENIED.name).chmod(0)
        clip(folder / "readable.mp4")
        folder.chmod(0o777)
        if root:
            os.seteuid(65534)
        yield folder
    finally:
        if root:
            os.seteuid(0)
        shutil.rmtree(folder)


def test_a_file_that_may_not_be_read() -> None:
    """By `pack`, in one process: another user's workers may not be able to read the installation."""
    with as_nobody() as folder:
        with pytest.raises(SampleError) as caught:
            probe(folder / DENIED.name)
        names = [DENIED.name, "readable.mp4"]
        rows = [{"id": name, DENIED.kind: name, "conversations": chat("What?")} for name in names]
        corpus = read_jsonl(write_rows(folder / "rows.jsonl", rows))
        manifest = pack(corpus.samples, folder / "out", settings=replace(SETTINGS, workers=0))
        stored = [one.sample.id for one in read_stored(folder / "out", members=False)]
    assert caught.value.reason == DENIED.outcome
    assert [(entry.sample, entry.reason) for entry in manifest.quarantine] == [(DENIED.name, DENIED.outcome)]
    assert "cannot be opened: Permission denied" in manifest.quarantine[0].detail
    assert stored == ["readable.mp4"]


def test_a_wider_media_root_lets_in_what_left_the_narrow_one(tmp_path: Path) -> None:
    """A link, a path with dots, an absolute path: refused below `inner`, packed where the root is the folder above."""
    (tmp_path / "inner").mkdir()
    for frames, name in enumerate(("linked", "dotted", "absolute"), start=5):
        clip(tmp_path / f"{name}.mp4", n=frames)
    (tmp_path / "inner/link.mp4").symlink_to("../linked.mp4")
    narrow = ["link.mp4", "../dotted.mp4", str(tmp_path / "absolute.mp4")]
    wide = ["inner/link.mp4", "inner/../dotted.mp4", str(tmp_path / "absolute.mp4")]

    def packed(names: list[str], root: str, out: str) -> tuple[int, list[str], int]:
        rows = [{"id": str(n), "video": name, "conversations": chat("What?")} for n, name in enumerate(names)]
        path = write_rows(tmp_path / "rows.jsonl", rows)
        words = ["--strategy", "fixed:2", "--budgets", "2", "--slots", "2", "--workers", "0"]
        code = main(["pack", str(path), "--media-root", str(tmp_path / root), "--out", str(tmp_path / out), *words])
        if code:
            return code, [error.reason.value for error in read_jsonl(path, media_root=tmp_path / root).rejected], 0
        return (
            code,
            [entry.reason for entry in read_manifest(tmp_path / out).quarantine],
            len(list(read_stored(tmp_path / out, members=False))),
        )

    assert packed(narrow, "inner", "narrow") == (1, ["outside-root"] * 3, 0)
    assert packed(wide, ".", "wide") == (0, [], 3)


def test_the_page_is_the_table() -> None:
    page = Path(__file__).parents[2] / "docs/hostile_files.md"
    assert page.read_text(encoding="utf-8") == render(), (
        "run: python tests/data/hostile_files.py > docs/hostile_files.md"
    )
