from __future__ import annotations

import multiprocessing
import os
import pickle
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from shards_media import write_corpus

from vtrap_data.errors import UsageError, VtrapError
from vtrap_data.loading.dataset import PackedDataset, _Cells, _Row
from vtrap_data.media import jpeg
from vtrap_data.media.select import frame_ids
from vtrap_data.parsing import parse_exact, parse_json, typed
from vtrap_data.samples import PackedSample
from vtrap_data.shards.manifest import PackSettings
from vtrap_data.shards.members import Span
from vtrap_data.shards.pack import pack
from vtrap_data.sources.jsonl import read_jsonl

SETTINGS = PackSettings(name="tiny", budgets=(2, 4, 8, 16), slots=16, mean_frames=6, samples_per_shard=2)


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_corpus(tmp_path_factory.mktemp("source"))


@pytest.fixture(scope="module")
def packed(source: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Hybrid budgets; at least 8 frames of every video stored."""
    out = tmp_path_factory.mktemp("packed") / "corpus"
    pack(read_jsonl(source).samples, out, settings=replace(SETTINGS, store=8))
    return out


def pixels(dataset: PackedDataset, number: int) -> list[bytes]:
    example = dataset[number]
    return [i.tobytes() for i in (*(example.frames.images if example.frames else ()), *example.images)]


def test_an_item_comes_with_the_frames_of_its_budget(packed: Path) -> None:
    dataset = PackedDataset(packed)
    assert len(dataset) == 10
    assert [e.kind for e in dataset] == ["video"] * 7 + ["images"] * 2 + ["text"]
    for number, example in enumerate(dataset):
        if example.frames is None:
            continue
        video = dataset.sample(number).video
        assert video is not None
        assert example.frames.times == tuple(video.frame_times[i] for i in example.item.frame_ids)
        assert len(example.frames) == dataset.column("n_frames")[number] <= example.item.budget
        stored = dataset.frame_bytes(number, example.item.frame_ids)
        for image, data in zip(example.frames.images, stored, strict=True):
            assert np.array_equal(np.asarray(image), np.asarray(jpeg.decode(data)))
    assert [len(e.images) for e in dataset] == [0] * 7 + [1, 2, 0]
    assert dataset[8].images[1].size == (30, 50)
    assert dataset[-1].item.id == "text"
    with pytest.raises(IndexError):
        dataset[10]


def test_several_questions_about_the_same_media_may_decode_them_once(packed: Path, monkeypatch: Any) -> None:
    plain, keeping = PackedDataset(packed, frames=4), PackedDataset(packed, frames=4, keep_last=True)
    wanted = [pixels(plain, n) for n in range(len(plain))]
    assert [pixels(keeping, n) for n in range(len(plain))] == wanted
    keys = plain.column("key")
    pairs = [(n, n + 1) for n in range(len(keys) - 1)]
    again = {n for _, n in pairs if keys[n] == keys[n - 1] and keeping[n - 1].frames is keeping[n].frames is not None}
    assert again == {n for _, n in pairs if keys[n] == keys[n - 1]} != set()
    assert plain[0].frames is not plain[0].frames
    reads: list[bytes] = []
    decode = jpeg.decode_all
    monkeypatch.setattr(jpeg, "decode_all", lambda found, *, name: reads.extend(found) or decode(found, name=name))
    for number in range(7):
        _ = keeping[number]
    assert len(reads) == sum(plain.column("n_frames")[n] for n in range(7) if n not in again)
    assert len(pickle.dumps(keeping)) == len(pickle.dumps(PackedDataset(packed, frames=4, keep_last=True)))


def test_a_fixed_budget_reads_its_subset(packed: Path) -> None:
    hybrid, two = PackedDataset(packed), PackedDataset(packed, frames=2)
    assert two.column("budget") == [2] * 7 + [0] * 3
    assert two.column("n_frames") == [2] * 7 + [0] * 3
    for number in range(7):
        video = hybrid.sample(number).video
        assert video is not None
        ids = frame_ids(video.pool, 2, smallest=2)
        example = two[number]
        assert example.item.budget == 2
        assert example.item.frame_ids == ids
        assert example.frames is not None
        assert example.frames.times == tuple(video.frame_times[i] for i in ids)
    assert PackedDataset(packed, frames=8).column("n_frames") == [8] * 5 + [5] * 2 + [0] * 3


def test_only_the_bytes_of_the_wanted_frames_are_read(packed: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    dataset = PackedDataset(packed, frames=2)
    read: list[int] = []
    pread = os.pread

    def counting(descriptor: int, length: int, offset: int) -> bytes:
        read.append(length)
        return pread(descriptor, length, offset)

    monkeypatch.setattr(os, "pread", counting)
    row = dataset.rows.slice(0, 1).to_pylist()[0]
    _ = dataset[0]
    assert len(read) == 3  # the JSON and two frames
    assert sum(read[1:]) < row["frames_size"] / 2


def test_rows_are_those_of_the_index(packed: Path) -> None:
    table = PackedDataset(packed).rows
    ids = pa.array(["", "é", "\U0001f600" * 9, *map(str, range(7))])
    table = table.set_column(table.schema.get_field_index("item_id"), "item_id", ids)
    whole, pieces = table.combine_chunks(), pa.concat_tables([table.slice(0, 3), table.slice(3)])
    for index in (whole, pieces, whole.slice(4), whole.slice(0, 0)):
        cells, rows = _Cells(index), index.select(_Row._fields).to_pylist()
        assert [cells[number]._asdict() for number in range(len(index))] == rows


def test_all_that_pack_writes_is_read_the_short_way(packed: Path) -> None:
    data = PackedDataset(packed)
    for number, row in enumerate(data.rows.to_pylist()):
        (text,) = data._reader.read(row["shard"], [Span(row["json_offset"], row["json_size"])])
        assert repr(parse_exact(PackedSample, text)) == repr(typed(PackedSample, parse_json(text)))
        assert data.sample(number) == PackedSample.from_json(parse_json(text))


def test_a_read_that_comes_in_pieces_is_put_together(packed: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    dataset = PackedDataset(packed, frames=2)
    expected, pread = pixels(dataset, 0), os.pread
    monkeypatch.setattr(os, "pread", lambda descriptor, length, at: pread(descriptor, min(length, 100), at))
    assert pixels(dataset, 0) == expected
    monkeypatch.setattr(os, "pread", lambda descriptor, length, at: b"" if length < 50 else pread(descriptor, 9, at))
    with pytest.raises(VtrapError, match=r"ends before byte \d+: run `doctor`"):  # cut off while it is read
        pixels(dataset, 0)


def test_frames_that_are_not_stored_are_asked_for_by_name(source: Path, tmp_path: Path) -> None:
    pack(read_jsonl(source).samples, tmp_path / "c", settings=replace(SETTINGS, strategy="fixed:4"))
    with pytest.raises(UsageError, match=r"8 frames for 7 of its items \(the first: q0-order\).*--store 8"):
        PackedDataset(tmp_path / "c", frames=8)
    assert PackedDataset(tmp_path / "c", frames=2)[0].frames is not None
    with pytest.raises(UsageError, match="a budget of 3 frames does not fit"):
        PackedDataset(tmp_path / "c", frames=3)
    for odd in ("hybird", "8", 8.0, True, None):
        with pytest.raises(UsageError, match=f"frames is {odd!r}; allowed are 'hybrid'"):
            PackedDataset(tmp_path / "c", frames=odd)
    with pytest.raises(UsageError, match="does not exist"):
        PackedDataset(tmp_path / "nowhere")


def _read_in_child(dataset: PackedDataset, queue: Any) -> None:
    queue.put([pixels(dataset, number) for number in range(len(dataset))])


@pytest.mark.parametrize("method", ["fork", "spawn"])
def test_it_works_in_worker_processes(packed: Path, method: str) -> None:
    dataset = PackedDataset(packed)
    expected = [pixels(dataset, number) for number in range(len(dataset))]  # opens files before the fork
    context: Any = multiprocessing.get_context(method)
    queue = context.Queue()
    child = context.Process(target=_read_in_child, args=(dataset, queue))
    child.start()
    assert queue.get(timeout=60) == expected
    child.join()
    assert [pixels(dataset, number) for number in range(len(dataset))] == expected


def test_pickles_small_and_reads_from_threads_with_few_open_files(packed: Path) -> None:
    dataset: PackedDataset = pickle.loads(pickle.dumps(PackedDataset(packed)))
    expected = [pixels(dataset, number) for number in range(len(dataset))]
    dataset._reader.keep_open = 1
    before = len(list(Path("/proc/self/fd").iterdir()))
    with ThreadPoolExecutor(4) as pool:
        assert list(pool.map(lambda n: pixels(dataset, n % 10), range(40))) == expected * 4
    assert len(list(Path("/proc/self/fd").iterdir())) <= before + 1


def test_a_truncated_shard_says_so(source: Path, tmp_path: Path) -> None:
    out = tmp_path / "c"
    pack(read_jsonl(source).samples, out, settings=SETTINGS)
    shard = out / "data/train-00000.tar"
    shard.write_bytes(shard.read_bytes()[:2000])
    dataset = PackedDataset(out)
    with pytest.raises(VtrapError, match="doctor"):
        for number in range(len(dataset)):
            _ = dataset[number]
    shard.unlink()
    with pytest.raises(UsageError, match="doctor"):
        _ = PackedDataset(out)[0]
