from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import tarfile
from collections.abc import Callable
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from shards_media import chat, tree, write_clip, write_corpus, write_photo, write_rows

from vtrap_data.errors import FatalSampleError, SampleError, UsageError
from vtrap_data.media import decode, jpeg
from vtrap_data.media.probe import probe
from vtrap_data.media.select import frame_ids, pool_frames
from vtrap_data.samples import PackedSample, SourceSample
from vtrap_data.shards import measure, pack
from vtrap_data.shards.doctor import doctor
from vtrap_data.shards.index import read_index
from vtrap_data.shards.manifest import Manifest, PackSettings, read_manifest
from vtrap_data.shards.measure import MeasureOptions
from vtrap_data.shards.members import pack_list, spans, unpack_list
from vtrap_data.shards.write import sample_key
from vtrap_data.sources.jsonl import read_jsonl

SETTINGS = PackSettings(name="tiny", budgets=(2, 4, 8, 16), slots=16, mean_frames=6, samples_per_shard=3)


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_corpus(tmp_path_factory.mktemp("source"))


@pytest.fixture(scope="module")
def packed(source: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("packed") / "corpus"
    pack.pack(read_jsonl(source).samples, out, settings=SETTINGS)
    return out


def pack_rows(folder: Path, rows: list[Any], **changes: Any) -> tuple[Path, Manifest]:
    corpus = read_jsonl(write_rows(folder / "rows.jsonl", rows))
    out = folder / "out"
    return out, pack.pack(corpus.samples, out, settings=replace(SETTINGS, **changes), rejected=corpus.rejected)


def samples(root: Path) -> list[tuple[PackedSample, dict[str, list[bytes]]]]:
    """Read the tars with tarfile and json alone, not with our reader."""
    found: list[tuple[PackedSample, dict[str, list[bytes]]]] = []
    for path in sorted((root / "data").glob("*.tar")):
        with tarfile.open(path) as tar:
            for info in tar:
                file = tar.extractfile(info)
                assert file is not None
                data = file.read()
                if info.name.endswith(".json"):
                    found.append((PackedSample.from_json(json.loads(data)), {}))
                else:
                    found[-1][1][info.name.split(".", 1)[1]] = unpack_list(data)
    return found


def test_stock_datasets_reads_it_without_vtrap(packed: Path, tmp_path: Path) -> None:
    script = """
import sys, json
class Wall:
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0].startswith(("vtrap", "hub_cards")):
            raise ImportError("vtrap is not installed here")
sys.meta_path.insert(0, Wall())
from datasets import load_dataset
from PIL.Image import Image
out = []
for streaming in (True, False):
    rows = list(load_dataset(sys.argv[1], split="train", streaming=streaming))
    for row in rows:
        video, frames = row["json"]["video"], row["frames.mp"]
        if video is not None:
            assert all(isinstance(f, Image) and f.size == (96, 64) for f in frames)
            assert len(frames) == len(video["frame_times"])
            for item in row["json"]["items"]:
                assert [frames[i] for i in item["frame_ids"]] and item["messages"][0]["role"] == "user"
        else:
            assert frames is None
        assert all(isinstance(i, Image) for i in row["images.mp"] or [])
    out.append([[r["__key__"], r["json"]["video"] and r["json"]["video"]["frame_times"], len(r["images.mp"] or []),
                 [[i["id"], i["messages"][0]["content"], i["budget"], i["answer"]] for i in r["json"]["items"]]]
                for r in rows])
print(json.dumps(out))
"""
    env = {**os.environ, "HF_HOME": str(tmp_path), "HF_HUB_OFFLINE": "1"}
    done = subprocess.run(
        [sys.executable, "-c", script, str(packed)], capture_output=True, text=True, env=env, cwd=tmp_path, check=False
    )
    assert done.returncode == 0, done.stderr
    streamed, plain = json.loads(done.stdout.splitlines()[-1])
    assert streamed == plain
    assert [row[0] for row in plain] == [s.key for s, _ in samples(packed)]
    assert plain[0][1] == list(samples(packed)[0][0].video.frame_times)  # type: ignore[union-attr]
    assert [row[2] for row in plain] == [0, 0, 0, 1, 2, 0]
    assert plain[0][3][-1][3] == "right"


def test_what_is_stored_is_what_the_source_says(packed: Path, source: Path) -> None:
    found = samples(packed)
    assert [s.kind for s, _ in found] == ["video", "video", "video", "images", "images", "text"]
    for sample, members in found:
        if sample.video is None:
            continue
        info = probe(source.parent / "clips" / sample.video.name)
        pool = [int(i) for i in pool_frames(info.pts, info.duration, slots=16)]
        # Every stored frame is the frame of its slots, decoded again from the original, and has its time.
        for slot, place in enumerate(sample.video.pool):
            if place < 0:
                continue
            (image,) = decode.decode(info, [pool[slot]], short_side=448).images
            assert members["frames.mp"][place] == jpeg.encode(image)
            assert sample.video.frame_times[place] == info.pts[pool[slot]]
        used = {i for item in sample.items for i in item.frame_ids}
        assert used == set(range(len(sample.video.frame_times))), "frames that nobody uses are stored"
        for item in sample.items:
            assert item.frame_ids == frame_ids(sample.video.pool, item.budget, smallest=2)
            assert item.demand is not None
    short = found[2][0]
    assert short.video is not None
    assert len(short.video.frame_times) == 5
    assert max(item.budget for item in short.items) > 5 or max(len(i.frame_ids) for i in short.items) <= 5
    photo = (source.parent / "photos/b.jpg").read_bytes()
    assert found[4][1]["images.mp"][1] == photo
    assert found[4][0].images[1].name == "b.jpg"


def test_tars_are_plain_and_anonymous(packed: Path) -> None:
    for path in sorted((packed / "data").glob("*.tar")):
        with tarfile.open(path) as tar:
            for info in tar:
                assert (info.mtime, info.uid, info.gid, info.uname, info.gname) == (0, 0, 0, "", "")
                assert info.name.count(".") == (1 if info.name.endswith(".json") else 2)
                assert not info.pax_headers
    assert not (packed / ".work").exists()
    text = (packed / "manifest.json").read_text() + (packed / "README.md").read_text()
    assert str(packed.parent) not in text


def test_the_index_points_at_the_bytes(packed: Path) -> None:
    rows = read_index(packed).to_pylist()
    assert len(rows) == sum(len(s.items) for s, _ in samples(packed)) == read_manifest(packed).counts["items"]
    for row in rows:
        with (packed / row["shard"]).open("rb") as file:
            file.seek(row["json_offset"])
            sample = PackedSample.from_json(json.loads(file.read(row["json_size"])))
            assert sample.items[row["item_index"]].id == row["item_id"]
            if sample.video is not None:
                for span, number in zip(spans(sample.video.frame_bytes), range(99), strict=False):
                    file.seek(row["frames_offset"] + span.start)
                    data = file.read(span.length)
                    assert data[:2] == b"\xff\xd8", number
                    assert data[-2:] == b"\xff\xd9", number
                assert (row["width"], row["height"]) == (96, 64)
    assert [r["benchmark"] for r in rows if r["item_id"] == "bench"] == [True]


def test_any_number_of_workers_gives_the_same_bytes(packed: Path, source: Path, tmp_path: Path) -> None:
    pack.pack(read_jsonl(source).samples, tmp_path / "two", settings=replace(SETTINGS, workers=2))
    assert tree(tmp_path / "two") == tree(packed)


KILLER = """
import os, signal, sys
from pathlib import Path
from dataclasses import replace
from vtrap_data.shards import measure, pack, write
from vtrap_data.sources.jsonl import read_jsonl
from test_shards_pack import SETTINGS
where, after = sys.argv[3], int(sys.argv[4])
def killing(function):
    calls = 0
    def killed(*args, **kwargs):
        nonlocal calls
        calls += 1
        if calls > after:
            os.kill(os.getpid(), signal.SIGKILL)
        return function(*args, **kwargs)
    return killed
if where == "measure":
    measure.write_spool = killing(measure.write_spool)
elif where == "tar":
    write._Hashed.write = killing(write._Hashed.write)
else:
    write.tar_members = killing(write.tar_members)
pack.pack(read_jsonl(Path(sys.argv[1])).samples, Path(sys.argv[2]), settings=SETTINGS)
"""


@pytest.mark.parametrize(("where", "after"), [("measure", 2), ("tar", 0), ("write", 1)])
def test_a_killed_pack_goes_on_and_ends_with_the_same_bytes(
    packed: Path, source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, where: str, after: int
) -> None:
    out = tmp_path / "out"
    env = {**os.environ, "PYTHONPATH": str(Path(__file__).parent)}
    command = [sys.executable, "-c", KILLER, str(source), str(out), where, str(after)]
    assert subprocess.run(command, env=env, capture_output=True, check=False).returncode == -signal.SIGKILL
    assert not (out / "manifest.json").exists()
    with pytest.raises(UsageError, match="not finished"):
        read_manifest(out)
    with pytest.raises(UsageError, match="unfinished pack with other settings"):
        pack.pack(read_jsonl(source).samples, out, settings=replace(SETTINGS, seed=1))
    opened: list[str] = []
    monkeypatch.setattr(measure, "measure", _recording(measure.measure, opened))
    pack.pack(read_jsonl(source).samples, out, settings=SETTINGS)
    assert len(opened) == (6 - after if where == "measure" else 0), "media were opened again"
    assert tree(out) == tree(packed)


def _recording(
    function: Callable[[SourceSample, MeasureOptions], SampleError | None], log: list[str]
) -> Callable[[SourceSample, MeasureOptions], SampleError | None]:
    def recorded(sample: SourceSample, options: MeasureOptions) -> SampleError | None:
        log.append(sample.id)
        return function(sample, options)

    return recorded


def test_torn_spool_files_are_made_again(packed: Path, source: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    env = {**os.environ, "PYTHONPATH": str(Path(__file__).parent)}
    subprocess.run([sys.executable, "-c", KILLER, str(source), str(out), "measure", "3"], env=env, check=False)
    torn = sorted((out / ".work").glob("*.frames"))
    torn[0].write_bytes(torn[0].read_bytes()[:100])
    next((out / ".work").glob(f"{torn[1].stem}.json")).write_bytes(b'{"sam')
    pack.pack(read_jsonl(source).samples, out, settings=SETTINGS)
    assert tree(out) == tree(packed)


def test_a_finished_pack_is_left_alone(packed: Path, source: Path) -> None:
    before = {path: path.stat().st_mtime_ns for path in packed.rglob("*")}
    manifest = pack.pack(read_jsonl(source).samples, packed, settings=replace(SETTINGS, workers=2))
    assert manifest == read_manifest(packed)
    assert before == {path: path.stat().st_mtime_ns for path in packed.rglob("*")}
    with pytest.raises(UsageError, match="other settings \\(short_side\\)"):
        pack.pack(read_jsonl(source).samples, packed, settings=replace(SETTINGS, short_side=32))
    with pytest.raises(UsageError, match="another source"):
        pack.pack(read_jsonl(source).samples[1:], packed, settings=SETTINGS)


def test_a_folder_with_other_things_is_not_touched(source: Path, tmp_path: Path) -> None:
    (tmp_path / "thesis.tex").write_text("years of work")
    with pytest.raises(UsageError, match="not empty"):
        pack.pack(read_jsonl(source).samples, tmp_path, settings=SETTINGS)
    assert tree(tmp_path) == {"thesis.tex": b"years of work"}


def test_a_fixed_budget_decodes_its_own_frames_only(
    source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[int] = []
    original = measure.decode_each

    def counted(info: Any, indices: Any, **options: Any) -> Any:
        asked.append(len(indices))
        return original(info, indices, **options)

    monkeypatch.setattr(measure, "decode_each", counted)
    clips = [s for s in read_jsonl(source).samples if s.kind == "video"][:2]
    pack.pack(clips, tmp_path / "four", settings=replace(SETTINGS, strategy="fixed:4"))
    pack.pack(clips, tmp_path / "eight", settings=replace(SETTINGS, strategy="fixed:2", store=8))
    assert asked == [4, 4, 8, 8]
    for sample, members in samples(tmp_path / "eight"):
        assert sample.video is not None
        assert len(members["frames.mp"]) == 8
        assert [(i.budget, len(i.frame_ids), i.demand) for i in sample.items] == [(2, 2, None)] * len(sample.items)
        assert sample.video.residuals == ()


def test_bad_media_are_set_aside_and_named_without_folders(tmp_path: Path) -> None:
    write_clip(tmp_path / "good.mp4")
    (tmp_path / "empty.mp4").touch()
    (tmp_path / "noise.mp4").write_bytes(os.urandom(3000))
    (tmp_path / "folder.mp4").mkdir()
    names = ["good.mp4", "empty.mp4", "noise.mp4", "folder.mp4", "missing.mp4"]
    rows = [{"id": name, "video": name, "conversations": chat("What?")} for name in names] + [{"broken": True}]
    out, manifest = pack_rows(tmp_path, rows, max_quarantine_rate=0.9, workers=2)
    assert [(q.sample, q.reason) for q in manifest.quarantine] == [
        ("rows.jsonl:6", "bad-row"),
        ("empty.mp4", "empty"),
        ("noise.mp4", "not-media"),
        ("folder.mp4", "unreadable"),
        ("missing.mp4", "missing"),
    ]
    assert str(tmp_path) not in (out / "manifest.json").read_text()
    assert manifest.counts["samples"] == 1


def test_too_many_bad_samples_stop_the_pack(tmp_path: Path) -> None:
    write_photo(tmp_path / "a.png")
    rows = [{"image": "a.png", "conversations": chat("q")}, {"image": "b.png", "conversations": chat("q")}]
    with pytest.raises(FatalSampleError, match=r"1 of 2 samples are bad \(1 missing\).*--max-quarantine-rate"):
        pack_rows(tmp_path, rows)
    (tmp_path / "all").mkdir()
    with pytest.raises(FatalSampleError, match="--max-quarantine-rate"):
        pack_rows(tmp_path / "all", [{"image": "b.png", "conversations": chat("q")}], max_quarantine_rate=1)


def crash(sample: SourceSample, options: MeasureOptions) -> SampleError | None:
    """Stands for a decoder that takes the process with it; runs in a worker."""
    if "bad" in sample.id:
        os.kill(os.getpid(), signal.SIGSEGV)
    return ORIGINAL(sample, options)


ORIGINAL = measure.measure


def test_a_crash_of_the_decoder_costs_one_sample(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    names = ["a.png", "b.png", "bad.png", "c.png"]
    for number, name in enumerate(names):
        write_photo(tmp_path / name, seed=number)
    monkeypatch.setattr(measure, "measure", crash)
    rows = [{"image": name, "conversations": chat("q")} for name in names]
    _, manifest = pack_rows(tmp_path, rows, workers=2, max_quarantine_rate=0.5)
    assert [(q.sample, q.reason) for q in manifest.quarantine] == [("bad.png", "corrupt")]
    assert manifest.counts["samples"] == 3


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"budgets": (4, 2)}, "--budgets"),
        ({"budgets": (3, 6)}, "16 slots"),
        ({"store": 5}, "5 frames"),
        ({"strategy": "magic"}, "magic"),
        ({"budgets": ()}, "--budgets must be different, ascending and at least 1"),
        ({"budgets": (0, 4)}, "--budgets must be different, ascending and at least 1"),
        ({"strategy": "fixed:3"}, "fixed:3"),
        ({"mean_frames": 40}, "--mean-frames"),
        ({"workers": -1}, "--workers"),
        ({"split": "../up"}, "--split"),
        ({"max_quarantine_rate": 2}, "--max-quarantine-rate"),
        ({"short_side": 0}, "--short-side"),
        ({"seed": -1}, "--seed"),
        ({"strategy": "fixed:4", "mean_frames": float("nan")}, "--mean-frames"),
        ({"scorer": "vibes"}, "--scorer"),
    ],
)
def test_settings_that_cannot_work(tmp_path: Path, changes: dict[str, Any], said: str) -> None:
    with pytest.raises(UsageError, match=said):
        pack.pack([], tmp_path / "out", settings=replace(SETTINGS, **changes))
    assert not (tmp_path / "out").exists()


def test_a_scorer_that_is_not_installed_is_noticed_before_hours_of_decoding(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("vtrap_data.budgets.demand._MODULE", "not_a_module_at_all")
    with pytest.raises(UsageError, match="--scorer embedding needs the package"):
        pack.pack([], tmp_path / "out", settings=replace(SETTINGS, scorer="embedding"))
    with pytest.raises(FatalSampleError, match="nothing to pack"):  # and not asked for where nobody reads questions
        pack.pack([], tmp_path / "out", settings=replace(SETTINGS, scorer="embedding", strategy="fixed:4"))


def test_errors_nobody_foresaw_cost_one_sample(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    original = measure.probe

    def odd(path: Path) -> Any:
        if "bad" in path.name:
            raise AssertionError(f"boom in {path}")
        return original(path)

    monkeypatch.setattr(measure, "probe", odd)
    for name in ("good.mp4", "bad.mp4"):
        write_clip(tmp_path / name)
    rows = [{"video": name, "conversations": chat("q")} for name in ("good.mp4", "bad.mp4")]
    out, manifest = pack_rows(tmp_path, rows, max_quarantine_rate=0.5)
    (entry,) = manifest.quarantine
    assert (entry.sample, entry.reason) == ("bad.mp4", "corrupt")
    assert "AssertionError: boom in bad.mp4" in entry.detail
    assert str(tmp_path) not in (out / "manifest.json").read_text()


def test_ids_must_be_unique(source: Path, tmp_path: Path) -> None:
    sample = read_jsonl(source).samples[0]
    with pytest.raises(UsageError, match="samples"):
        pack.pack([sample, sample], tmp_path / "out", settings=SETTINGS)
    with pytest.raises(UsageError, match="items"):
        pack.pack([sample, replace(sample, id="other")], tmp_path / "out", settings=SETTINGS)


def test_two_packs_into_one_folder_do_not_mix(source: Path, tmp_path: Path) -> None:
    with (
        pack._work_folder(tmp_path / "out", SETTINGS),
        pytest.raises(UsageError, match="another process"),
    ):
        pack.pack(read_jsonl(source).samples, tmp_path / "out", settings=SETTINGS)


@given(st.lists(st.integers(0, 70_000), max_size=20))
@settings(max_examples=60, deadline=None)
def test_spans_find_every_blob(sizes: list[int]) -> None:
    blobs = [bytes([n % 251]) * size for n, size in enumerate(sizes)]
    packed_list = pack_list(blobs)
    assert unpack_list(packed_list.data) == blobs
    assert [packed_list.data[s.start : s.start + s.length] for s in spans(packed_list.offsets)] == blobs


@given(st.integers(0, 10**8 - 1), st.text(max_size=200))
def test_keys_are_safe_names(number: int, name: str) -> None:
    key = sample_key(number, name)
    assert len(key) < 80
    assert set(key) <= set("abcdefghijklmnopqrstuvwxyz0123456789-")


def test_the_same_file_under_two_names_is_stored_once(tmp_path: Path) -> None:
    write_clip(tmp_path / "a.mp4")
    (tmp_path / "copy.mp4").write_bytes((tmp_path / "a.mp4").read_bytes())
    write_clip(tmp_path / "other.mp4", seed=1)
    write_photo(tmp_path / "p.png")
    write_photo(tmp_path / "q.png")
    rows = [
        {"id": "1", "video": "a.mp4", "conversations": chat("What colour is it?")},
        {"id": "2", "video": "other.mp4", "conversations": chat("What colour is it?")},
        {"id": "3", "video": "copy.mp4", "conversations": chat("In which order do things happen?")},
        {"id": "4", "video": "copy.mp4", "source": "another", "conversations": chat("What?")},
        {"id": "5", "image": "p.png", "conversations": chat("What is this?")},
        {"id": "6", "images": ["p.png", "q.png"], "conversations": chat("Which?")},
        {"id": "7", "image": "q.png", "conversations": chat("And this?")},
    ]
    out, manifest = pack_rows(tmp_path, rows)
    found = samples(out)
    assert [[item.id for item in sample.items] for sample, _ in found] == [["1", "3"], ["2"], ["4"], ["5", "7"], ["6"]]
    assert [(d.sample, d.of) for d in manifest.duplicates] == [("copy.mp4", "a.mp4"), ("q.png", "p.png")]
    # Another source has a licence of its own, and other images beside it make another medium.
    assert manifest.counts["duplicate_media"] == 3
    assert [sample.source for sample, _ in found] == ["rows", "rows", "another", "rows", "rows"]
    assert doctor(out) == []
    assert read_manifest(out) == manifest


def test_animations_are_said_to_be_animations(tmp_path: Path) -> None:
    pictures = [Image.new("RGB", (30, 20), colour) for colour in ("red", "lime", "blue")]
    pictures[0].save(tmp_path / "moving.gif", save_all=True, append_images=pictures[1:])
    write_photo(tmp_path / "still.png")
    rows = [{"image": name, "conversations": chat("What?")} for name in ("moving.gif", "still.png")]
    out, manifest = pack_rows(tmp_path, rows)
    (note,) = manifest.notes
    assert (note.sample, note.detail) == ("moving.gif", "moving.gif is an animation of 3 pictures: the first is used")
    assert read_manifest(out).notes == manifest.notes


@pytest.mark.parametrize(
    ("limit", "expected"),
    [
        ({}, [3, 3]),
        ({"samples_per_shard": 100, "shard_bytes": 1}, [1] * 6),
        ({"samples_per_shard": 100, "shard_tokens": 1}, [1] * 5 + [1]),
        ({"samples_per_shard": 100, "shard_bytes": 10**9, "shard_tokens": 10**9}, [6]),
    ],
)
def test_when_a_tar_is_full(source: Path, tmp_path: Path, limit: dict[str, int], expected: list[int]) -> None:
    manifest = pack.pack(read_jsonl(source).samples, tmp_path / "out", settings=replace(SETTINGS, **limit))
    assert [shard.samples for shard in manifest.shards] == expected
    assert doctor(tmp_path / "out") == []


def test_limits_of_a_tar_hold_and_are_used_up(source: Path, tmp_path: Path) -> None:
    """Each tar is within the limit, and the first sample of the next would not have fitted."""
    corpus = read_jsonl(source).samples
    for name, limit in (("shard_bytes", 14_000), ("shard_tokens", 110)):
        out = tmp_path / name
        manifest = pack.pack(corpus, out, settings=replace(SETTINGS, samples_per_shard=100, **{name: limit}))
        assert 1 < len(manifest.shards) < 6
        sizes = []
        for shard in manifest.shards:
            with tarfile.open(out / shard.path) as tar:
                members = [(info.name.split(".")[0], info.size) for info in tar]
            if name == "shard_bytes":
                by_key = [
                    sum(size for key, size in members if key == one) for one in dict.fromkeys(k for k, _ in members)
                ]
            else:
                rows = [row for row in read_index(out).to_pylist() if row["shard"] == shard.path]
                by_key = [
                    sum(tokens(row) for row in rows if row["key"] == key)
                    for key in dict.fromkeys(k for k, _ in members)
                ]
            sizes.append(by_key)
        assert all(sum(tar) <= limit or len(tar) == 1 for tar in sizes)
        assert all(sum(tar) + following[0] > limit for tar, following in pairwise(sizes))


def tokens(row: dict[str, Any]) -> int:
    """Visual tokens of an item, worked out by hand for the media of `write_corpus`."""
    if row["kind"] == "video":
        return 3 * 2 * -(-row["n_frames"] // 2)  # 96x64 is 3 x 2 squares of 28 pixels
    return {0: 0, 1: 1, 2: 1 + 2}[row["n_images"]]  # 40x30 is 1 x 1, 30x50 is 1 x 2
