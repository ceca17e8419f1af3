"""Videos that break off, wherever: set aside, unless what can be read of them is asked for."""

from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hostile_files import FAST, FRAGMENTS, clip
from shards_media import chat, write_rows

from vtrap_data.errors import FatalSampleError
from vtrap_data.shards import pack
from vtrap_data.shards.doctor import doctor
from vtrap_data.shards.manifest import Manifest, PackSettings
from vtrap_data.sources.jsonl import read_jsonl

SETTINGS = PackSettings(name="cut", strategy="fixed:8", budgets=(8,), slots=8, workers=2)
FORMS: dict[str, dict[str, Any]] = {
    "end.mp4": {},
    "front.mp4": {"container": FAST},
    "fragments.mp4": {"container": FRAGMENTS},
    "a.mkv": {},
    "a.webm": {"codec": "libvpx-vp9", "options": {"cpu-used": "8", "deadline": "realtime"}},
    "a.avi": {"codec": "mpeg4"},
    "a.gif": {"codec": "gif", "pixels": "rgb8"},
    "a.ts": {"codec": "mpeg2video"},
}


def pack_all(folder: Path, **changes: Any) -> Manifest:
    videos = sorted(p.name for p in folder.iterdir() if p.suffix[1:] in ("mp4", "mkv", "webm", "avi", "gif", "ts"))
    rows = [{"video": name, "conversations": chat("q")} for name in videos]
    samples = read_jsonl(write_rows(folder / "rows.jsonl", rows)).samples
    return pack.pack(samples, folder / "out", settings=replace(SETTINGS, **changes))


@pytest.mark.parametrize("name", FORMS)
def test_set_aside_wherever_it_breaks_off(tmp_path: Path, name: str) -> None:
    whole = clip(tmp_path / name, n=40, **FORMS[name])
    last, between = len(whole), set()
    if name == "fragments.mp4":
        last = whole.rindex(b"mfra") - 4  # a list of the fragments: all frames are before it
        between = {m.start() - 4 for m in re.finditer(b"moof", whole)}  # here nothing tells
    if name == "a.avi":
        last -= 8  # by as much the writers of AVI differ
    if name == "a.ts":
        between = set(range(0, last, 188))  # packets
    ends = {int(end) for end in np.random.default_rng(0).integers(1, last, 25)} | {last - 1, last - 7}
    for end in ends - between:
        (tmp_path / f"{end}-{name}").write_bytes(whole[:end])
    manifest = pack_all(tmp_path, max_quarantine_rate=1)
    reasons = {entry.sample: entry.reason for entry in manifest.quarantine}
    assert sorted(reasons) == sorted(f"{end}-{name}" for end in ends - between)
    assert set(reasons.values()) <= {"truncated", "corrupt", "not-media", "no-video"}
    if name != "end.mp4":  # of which nothing can be read without its index
        assert list(reasons.values()).count("truncated") > len(ends) / 2
    assert manifest.counts["samples"] == 1


def test_what_can_be_read_is_packed_where_that_is_asked_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """An unfinished pack goes on with what it measured, whether or not that was asked for before."""
    cut = []
    for name, form in FORMS.items():
        if name != "end.mp4":
            whole = clip(tmp_path / name, n=200, **form)
            (tmp_path / f"cut-{name}").write_bytes(whole[: len(whole) // 2 + 1])
            cut.append(f"cut-{name}")

    def stop(*_: object, **__: object) -> None:
        raise InterruptedError

    def spooled() -> dict[str, int]:
        return {path.name: path.stat().st_mtime_ns for path in (tmp_path / "out/.work").glob("*.frames")}

    with pytest.raises(FatalSampleError, match=r"7 of 14 samples are bad \(7 truncated\).*--keep-truncated"):
        pack_all(tmp_path)
    first = spooled()
    assert len(first) == len(cut)
    with monkeypatch.context() as patch, pytest.raises(InterruptedError):
        patch.setattr(pack, "write_shards", stop)
        pack_all(tmp_path, keep_truncated=True)
    second = spooled()
    assert len(second) == 2 * len(cut) and first.items() <= second.items()
    with pytest.raises(FatalSampleError, match="7 truncated"):
        pack_all(tmp_path)
    assert spooled() == second
    manifest = pack_all(tmp_path, keep_truncated=True)
    assert [note.sample for note in manifest.notes] == sorted(cut)
    told = re.compile(r"\S+ breaks off: \d+ bytes? or more missing, [\d.]+ s can be read")
    assert all(told.fullmatch(note.detail) for note in manifest.notes)
    assert manifest.quarantine == () and manifest.counts["samples"] == 2 * len(cut)
    assert manifest.settings.keep_truncated
    assert doctor(tmp_path / "out") == []
