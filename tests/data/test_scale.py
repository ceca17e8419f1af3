"""Nothing is quadratic, and no table of a million rows becomes a million Python objects: counted, never timed."""

from __future__ import annotations

import tracemalloc
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pytest
from shards_media import chat, write_rows

from vtrap_data.loading.remote import Remote
from vtrap_data.shards import doctor as doctor_module
from vtrap_data.shards import index as index_module
from vtrap_data.shards.doctor import doctor
from vtrap_data.shards.index import count_rows, index_table, read_index, write_index
from vtrap_data.shards.manifest import MANIFEST, Manifest, PackSettings, read_manifest
from vtrap_data.shards.pack import pack
from vtrap_data.shards.stats import describe
from vtrap_data.sources.jsonl import read_jsonl

SLOTS = 16


class Watched:
    """`pyarrow.compute`, with a note of how long the first argument and the result of every call were."""

    def __init__(self) -> None:
        self.calls: list[tuple[str, int, int]] = []

    def __getattr__(self, name: str) -> Callable[..., Any]:
        function = getattr(pc, name)

        def call(*given: Any, **named: Any) -> Any:
            result = function(*given, **named)
            lengths = [len(one) if hasattr(one, "__len__") else 0 for one in (given[0], result)]
            self.calls.append((name, *lengths))
            return result

        return call

    @property
    def looked_at(self) -> int:
        return sum(length for _, length, _ in self.calls)


def texts(folder: Path, count: int) -> Path:
    """A corpus of `count` texts, each in a shard of its own."""
    rows = [{"id": f"t{number}", "conversations": chat(f"What is {number} + 2?", "?")} for number in range(count)]
    folder.mkdir()
    source = write_rows(folder / "rows.jsonl", rows)
    pack(read_jsonl(source).samples, folder / "packed", settings=PackSettings(name="texts", samples_per_shard=1))
    return folder / "packed"


def videos(count: int) -> pa.Table:
    """An index of `count` videos, each with two items and a stored frame for every second slot."""
    facts = {
        **dict.fromkeys(("key", "sample_id", "split", "kind", "source", "licence"), "video"),
        **dict.fromkeys(("json_offset", "json_size", "frames_offset", "frames_size", "images_offset"), 7),
        **{"images_size": 0, "n_images": 0, "text_chars": 10, "version": 1, "benchmark": False, "shard": "a.tar"},
        **{"budget": 8, "n_frames": 8, "distinct": SLOTS, "duration": 2.0, "width": 56, "height": 56},
        "pool": [slot // 2 for slot in range(SLOTS)],
    }
    return index_table(
        [
            {**facts, "item_id": f"{number}-{place}", "item_index": place, "media_sha256": [f"{number:064x}"]}
            for number in range(count)
            for place in range(2)
        ]
    )


def test_doctor_looks_at_each_row_as_often_in_many_shards_as_in_few(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    looked_at = []
    for shards in (6, 24):
        root = texts(tmp_path / str(shards), shards)
        watched = Watched()
        monkeypatch.setattr(doctor_module, "pc", watched)
        assert doctor(root) == []
        monkeypatch.undo()
        looked_at.append(watched.looked_at / shards)
    assert 0 < looked_at[1] <= looked_at[0]


def test_rows_of_a_shard_need_not_be_side_by_side(tmp_path: Path) -> None:
    root = texts(tmp_path / "texts", 6)
    index = read_index(root)
    mixed = index.take([3, 0, 5, 1, 4, 2])
    write_index(root, mixed.append_column("version", pa.array([1] * 6, pa.int32())))
    assert [fault.detail for fault in doctor(root)] == ["its bytes are not those of the manifest"]


def test_statistics_do_not_make_an_object_of_every_row(tmp_path: Path) -> None:
    manifest, peaks = read_manifest(texts(tmp_path / "texts", 2)), []
    for count in (500, 5000):
        index = videos(count)
        describe(manifest, index)
        tracemalloc.start()
        facts = describe(manifest, index)
        peaks.append(tracemalloc.get_traced_memory()[1])
        tracemalloc.stop()
        assert facts["kinds"] == {"video": 2 * count} and facts["tokens_total"] == 2 * count * 4 * 4
        assert facts["durations"] == {"< 5 s": count} and facts["frames_used"]["fixed:32"] == SLOTS
    assert peaks[1] - peaks[0] < 4500 * 2 * 8  # bytes: a row as a dict takes a thousand times as many


def test_stored_frames_are_counted_piece_by_piece(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(index_module, "_PIECE", 100)
    watched = Watched()
    monkeypatch.setattr(index_module, "pc", watched)
    assert count_rows(videos(1000))["frames_stored"] == 1000 * SLOTS // 2
    assert max(length for name, _, length in watched.calls if name == "list_parent_indices") == 100 * SLOTS


def test_making_room_asks_only_after_what_is_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    root = texts(tmp_path / "texts", 12)
    manifest: Manifest = read_manifest(root)
    for shard in manifest.shards[3:]:
        (root / shard.path).unlink()
    asked: list[str] = []
    stat = Path.stat
    monkeypatch.setattr(Path, "stat", lambda self, **how: (asked.append(self.name), stat(self, **how))[1])
    Remote(address="", root=root, manifest=manifest, keep=2)._make_room()
    monkeypatch.undo()
    assert len([name for name in asked if name.endswith(".tar")]) == 3
    assert len(list((root / "data").glob("*.tar"))) == 2 and (root / MANIFEST).is_file()
