"""Every kind of fault is found: 36 of them, put one at a time into a sound corpus, and none in the sound one."""

from __future__ import annotations

import io
import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from encoding_families import build
from PIL import Image
from shards_media import tree, write_corpus
from test_shards_doctor import SETTINGS, edit_json, rewrite

from vtrap_data.__main__ import main
from vtrap_data.encoding import check, load_processor, resolve
from vtrap_data.encoding.check import check_tokens
from vtrap_data.files import sha256_file
from vtrap_data.media import jpeg
from vtrap_data.media.images import load_image
from vtrap_data.shards.doctor import FaultKind, doctor
from vtrap_data.shards.index import read_index
from vtrap_data.shards.manifest import read_manifest, write_manifest
from vtrap_data.shards.members import pack_list, unpack_list
from vtrap_data.shards.pack import pack
from vtrap_data.sources.jsonl import read_jsonl

TAR = "data/train-00000.tar"
Members = list[tuple[str, bytes]]


@pytest.fixture(scope="module")
def original(tmp_path_factory: pytest.TempPathFactory) -> dict[str, bytes]:
    source = write_corpus(tmp_path_factory.mktemp("source"))
    out = tmp_path_factory.mktemp("packed") / "corpus"
    pack(read_jsonl(source).samples, out, settings=SETTINGS)
    return tree(out)


@pytest.fixture
def corpus(original: dict[str, bytes], tmp_path: Path) -> Path:
    for name, data in original.items():
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_bytes(data)
    return tmp_path


# --- ways to break it: each takes the folder -------------------------------------------------------------------------


def flip(root: Path) -> None:
    data = bytearray((root / TAR).read_bytes())
    data[5000] ^= 1
    (root / TAR).write_bytes(data)


def cut(root: Path) -> None:
    (root / TAR).write_bytes((root / TAR).read_bytes()[:4000])


def remove(name: str) -> Callable[[Path], None]:
    return lambda root: (root / name).unlink()


def more(root: Path) -> None:
    (root / "data/train-00001.tar").write_bytes((root / TAR).read_bytes())


def sample(edit: Callable[[dict[str, Any]], object]) -> Callable[[Path], None]:
    """Edit the JSON of the first sample, and make the manifest agree."""
    return lambda root: edit_json(root, edit)


def members(change: Callable[[Members], Members]) -> Callable[[Path], None]:
    """Change the members of the tar, and make the manifest agree."""
    return lambda root: rewrite(root, change)


def frames(change: Callable[[list[bytes]], list[bytes]]) -> Callable[[Path], None]:
    def edit(found: Members) -> Members:
        at = next(n for n, (name, _) in enumerate(found) if name.endswith("frames.mp"))
        found[at] = (found[at][0], pack_list(change(unpack_list(found[at][1]))).data)
        return found

    return members(edit)


def other_size(jpegs: list[bytes]) -> list[bytes]:
    """A frame of another size whose JPEG has just as many bytes, so that every offset still fits."""
    small = jpeg.encode(Image.new("RGB", (16, 16)))
    return [small[:-2] + bytes(len(jpegs[0]) - len(small)) + small[-2:], *jpegs[1:]]


def index(change: Callable[[list[dict[str, Any]]], object]) -> Callable[[Path], None]:
    """Change rows of the index, and make the manifest agree with its bytes."""

    def edit(root: Path) -> None:
        table = pq.read_table(root / "index.parquet")
        rows = table.to_pylist()
        change(rows)
        pq.write_table(pa.Table.from_pylist(rows, schema=table.schema), root / "index.parquet")
        write_manifest(root, replace(read_manifest(root), index_sha256=sha256_file(root / "index.parquet")))

    return edit


def counts(**changes: int) -> Callable[[Path], None]:
    def edit(root: Path) -> None:
        manifest = read_manifest(root)
        write_manifest(root, replace(manifest, counts={**manifest.counts, **changes}))

    return edit


def card(old: str, new: str) -> Callable[[Path], None]:
    def edit(root: Path) -> None:
        text = (root / "README.md").read_text()
        assert old in text
        (root / "README.md").write_text(text.replace(old, new, 1))

    return edit


def images(change: Callable[[list[bytes]], list[bytes]]) -> Callable[[Path], None]:
    def edit(found: Members) -> Members:
        return [(n, pack_list(change(unpack_list(d))).data if n.endswith("images.mp") else d) for n, d in found]

    return members(edit)


def duplicated(found: Members) -> Members:
    """The first sample a second time, at the end, under its own key."""
    return [*found, *found[:2]]


def with_images(found: Members) -> Members:
    """The first video has images besides."""
    return [*found[:2], (found[0][0].removesuffix("json") + "images.mp", found[1][1]), *found[2:]]


def first_item(**changes: Any) -> Callable[[Path], None]:
    return sample(lambda s: s["items"][0].update(changes))


FAULTS: dict[str, tuple[Callable[[Path], None], FaultKind]] = {
    # files
    "a flipped bit": (flip, FaultKind.SHARD_HASH),
    "a shard cut off": (cut, FaultKind.SHARD_HASH),
    "a shard missing": (remove(TAR), FaultKind.MISSING_SHARD),
    "a shard too many": (more, FaultKind.EXTRA_SHARD),
    "no index": (remove("index.parquet"), FaultKind.INDEX),
    "no card": (remove("README.md"), FaultKind.CARD),
    # the tar
    "a sample lost": (members(lambda found: found[2:]), FaultKind.TAR),
    "a sample twice": (members(duplicated), FaultKind.TAR),
    "members apart": (members(lambda found: [*found[1:], found[0]]), FaultKind.TAR),
    "frames lost": (members(lambda found: [found[0], *found[2:]]), FaultKind.SAMPLE),
    "a member too many": (
        members(lambda f: [*f[:2], (f[0][0][:-4] + "images.mp", f[1][1]), *f[2:]]),
        FaultKind.SAMPLE,
    ),
    # frames
    "a JPEG broken": (frames(lambda j: [j[0][:200] + bytes(len(j[0]) - 200), *j[1:]]), FaultKind.FRAMES),
    "a frame lost": (frames(lambda j: j[1:]), FaultKind.FRAMES),
    "frames swapped": (sample(lambda s: s["video"]["frame_times"].reverse()), FaultKind.FRAMES),
    "a frame after the end": (sample(lambda s: s["video"].update(duration=0.5)), FaultKind.FRAMES),
    "an offset off by one": (sample(lambda s: s["video"]["frame_bytes"].__setitem__(1, 9)), FaultKind.FRAMES),
    "a pool that points elsewhere": (sample(lambda s: s["video"]["pool"].__setitem__(0, 9)), FaultKind.FRAMES),
    "a frame of another size": (frames(other_size), FaultKind.FRAMES),
    "no msgpack": (members(lambda f: [f[0], (f[1][0], b"\xc1" + f[1][1][1:]), *f[2:]]), FaultKind.FRAMES),
    # images
    "images swapped": (images(lambda blobs: blobs[::-1]), FaultKind.IMAGES),
    "an image broken": (images(lambda blobs: [blob[:-40] + bytes(40) for blob in blobs]), FaultKind.IMAGES),
    "an image lost": (images(lambda blobs: blobs[1:]), FaultKind.IMAGES),
    # budgets
    "a budget that is no candidate": (first_item(budget=3), FaultKind.BUDGET),
    "a frame that is not stored": (sample(lambda s: s["items"][0]["frame_ids"].__setitem__(-1, 99)), FaultKind.BUDGET),
    "fewer frames than the budget selects": (sample(lambda s: s["items"][0]["frame_ids"].pop()), FaultKind.BUDGET),
    # schema
    "a fraction for an integer": (first_item(needs=1.5), FaultKind.SAMPLE),
    "a key lost": (sample(lambda s: s["items"][0].pop("ability")), FaultKind.SAMPLE),
    "a key that is not declared": (first_item(colour="red"), FaultKind.SAMPLE),
    "another kind": (sample(lambda s: s.update(kind="text")), FaultKind.SAMPLE),
    "another format": (sample(lambda s: s.update(format=9)), FaultKind.SAMPLE),
    "another key": (sample(lambda s: s.update(key="other")), FaultKind.SAMPLE),
    # text
    "a mark lost": (sample(lambda s: s["items"][0]["messages"][0].update(content="no mark")), FaultKind.TEXT),
    # index
    "a row lost": (index(lambda rows: rows.pop(3)), FaultKind.INDEX),
    "a wrong place": (index(lambda rows: rows[0].update(frames_offset=7)), FaultKind.INDEX),
    "an item id twice": (index(lambda rows: rows[1].update(item_id=rows[0]["item_id"])), FaultKind.INDEX),
    "a shard nobody knows": (index(lambda rows: rows[0].update(shard="data/other.tar")), FaultKind.INDEX),
    # manifest and card
    "a wrong count": (counts(items=4), FaultKind.COUNTS),
    "a feature declared otherwise": (card("float64", "int32"), FaultKind.CARD),
    "a glob that misses the shards": (card("data/train-*.tar", "data/test-*.tar"), FaultKind.CARD),
}


@pytest.mark.parametrize("name", FAULTS)
def test_a_fault_is_found(corpus: Path, name: str, capsys: pytest.CaptureFixture[str]) -> None:
    inject, kind = FAULTS[name]
    inject(corpus)
    assert kind in {fault.kind for fault in doctor(corpus)}
    capsys.readouterr()
    assert main(["doctor", str(corpus), "--json"]) == 1
    found = json.loads(capsys.readouterr().out)["faults"]
    assert all(set(fault) == {"kind", "where", "detail"} and "\n" not in fault["detail"] for fault in found)


def test_there_are_enough_faults_and_none_where_there_is_none(corpus: Path) -> None:
    assert len(FAULTS) >= 25
    assert {kind for _, kind in FAULTS.values()} == set(FaultKind) - {FaultKind.TOKENS}
    assert doctor(corpus) == []
    rewrite(corpus, lambda found: found)
    index(lambda rows: None)(corpus)
    assert doctor(corpus) == [], "the helpers of these tests change something by themselves"


# --- where it is, and how it is said ---------------------------------------------------------------------------------

SECOND = "data/train-00001.tar"


@pytest.fixture(scope="module")
def in_shards(tmp_path_factory: pytest.TempPathFactory) -> dict[str, bytes]:
    """The same corpus with two samples in a shard: of the second, the first is a video and the second images."""
    source = write_corpus(tmp_path_factory.mktemp("source"))
    out = tmp_path_factory.mktemp("packed") / "corpus"
    pack(read_jsonl(source).samples, out, settings=replace(SETTINGS, samples_per_shard=2))
    assert len(read_manifest(out).shards) == 3
    return tree(out)


def within(change: Callable[[Members], Members]) -> Callable[[Path], None]:
    return lambda root: rewrite(root, change, shard=1)


def last_json(edit: Callable[[dict[str, Any]], object]) -> Callable[[Path], None]:
    """Edit the JSON of the second sample of the second shard; its length stays."""

    def change(found: Members) -> Members:
        at = [n for n, (name, _) in enumerate(found) if name.endswith(".json")][1]
        value = json.loads(found[at][1])
        edit(value)
        new = json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=False).encode()
        found[at] = (found[at][0], new.ljust(len(found[at][1])))
        return found

    return within(change)


def flip_second(root: Path) -> None:
    data = bytearray((root / SECOND).read_bytes())
    data[-3000] ^= 1
    (root / SECOND).write_bytes(data)


def broken(ending: str) -> Callable[[Path], None]:
    """The last frame, or image, of the second shard is broken."""

    def change(found: Members) -> Members:
        at = [n for n, (name, _) in enumerate(found) if name.endswith(ending)][-1]
        blobs = unpack_list(found[at][1])
        blobs[-1] = blobs[-1][:200] + bytes(len(blobs[-1]) - 200)
        found[at] = (found[at][0], pack_list(blobs).data)
        return found

    return within(change)


ELSEWHERE: dict[str, tuple[Callable[[Path], None], FaultKind]] = {
    "a flipped bit": (flip_second, FaultKind.SHARD_HASH),
    "a shard missing": (remove(SECOND), FaultKind.MISSING_SHARD),
    "the last sample lost": (within(lambda found: found[:-2]), FaultKind.TAR),
    "its first sample twice": (within(lambda found: [*found, *found[:2]]), FaultKind.TAR),
    "its last sample twice in a row": (within(lambda found: [*found, *found[-2:]]), FaultKind.INDEX),
    "images lost": (within(lambda found: found[:-1]), FaultKind.SAMPLE),
    "a frame broken": (broken("frames.mp"), FaultKind.FRAMES),
    "an image broken": (broken("images.mp"), FaultKind.IMAGES),
    "another kind": (last_json(lambda s: s.update(kind="text")), FaultKind.SAMPLE),
    "a mark lost": (last_json(lambda s: s["items"][0]["messages"][0].update(content="no mark")), FaultKind.TEXT),
    "a budget without a video": (last_json(lambda s: s["items"][0].update(budget=2)), FaultKind.BUDGET),
    "a wrong place": (
        index(lambda rows: next(r for r in rows if r["shard"] == SECOND).update(json_offset=7)),
        FaultKind.INDEX,
    ),
    "a row of the last shard lost": (index(lambda rows: rows.pop()), FaultKind.INDEX),
}


@pytest.mark.parametrize("name", ELSEWHERE)
def test_a_fault_is_found_in_any_shard_and_sample(
    in_shards: dict[str, bytes], tmp_path: Path, name: str, capsys: pytest.CaptureFixture[str]
) -> None:
    for path, data in in_shards.items():
        (tmp_path / path).parent.mkdir(exist_ok=True)
        (tmp_path / path).write_bytes(data)
    inject, kind = ELSEWHERE[name]
    inject(tmp_path)
    faults = doctor(tmp_path)
    assert kind in {fault.kind for fault in faults}
    first = next(iter(sample["key"] for sample in read_index(tmp_path).to_pylist()))
    assert first not in {fault.where for fault in faults}, "blames a sample of a shard that is whole"
    capsys.readouterr()
    assert main(["doctor", str(tmp_path)]) == 1
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == len(faults) + 1, "not one line per fault"
    for fault, line in zip(faults, lines, strict=False):
        assert line.startswith(f"{fault.kind.value}: {fault.where}: ")
    assert lines[-1] == f"{tmp_path}: {len(faults)} faults"


def test_a_fault_stays_one_line_whatever_the_corpus_says(corpus: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Ids are anybody's text: a line break or an escape in one makes neither a second line nor a blank terminal."""
    index(lambda rows: [row.update(item_id="a\nsound\x1b[2J") for row in rows[:2]])(corpus)
    faults = doctor(corpus)
    assert any("\n" in fault.detail or "\\n" in fault.detail for fault in faults)
    assert main(["doctor", str(corpus)]) == 1
    said = capsys.readouterr().out
    assert len(said.splitlines()) == len(faults) + 1
    assert "\x1b" not in said


# --- with a model ----------------------------------------------------------------------------------------------------


def test_deep_counts_tokens_in_three_ways(corpus: Path, toy_processor: Any) -> None:
    assert list(check_tokens(corpus, toy_processor)) == []


def resized(root: Path) -> None:
    """Frames of another size in every sample, with index and offsets made to fit: only tokens tell."""

    def change(found: Members) -> Members:
        return [(n, pack_list(larger(unpack_list(d))).data if n.endswith("frames.mp") else d) for n, d in found]

    def larger(jpegs: list[bytes]) -> list[bytes]:
        blobs = []
        for data in jpegs:
            image = jpeg.decode(data)
            new = jpeg.encode(image.crop((0, 0, image.width // 2, image.height // 2)))
            spare = len(data) - len(new) - 2  # as a comment: zeros among the pixels are damage
            blobs.append(new[:2] + b"\xff\xfe" + spare.to_bytes(2, "big") + bytes(spare - 2) + new[2:])
        return blobs

    rewrite(root, change)


def test_deep_finds_frames_that_are_not_as_the_index_says(corpus: Path, toy_processor: Any) -> None:
    resized(corpus)
    assert doctor(corpus) == [], "nothing but the tokens is wrong"
    faults = list(check_tokens(corpus, toy_processor))
    assert {fault.kind for fault in faults} == {FaultKind.TOKENS}
    assert len(faults) == 7
    assert "visual tokens follow from the index" in faults[0].detail


def test_deep_notices_pixels_that_do_not_fit_the_text(
    corpus: Path, toy_processor: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(check, "_given_tokens", lambda batch, claimed, processor: claimed + 1)
    assert {fault.kind for fault in check_tokens(corpus, toy_processor)} == {FaultKind.TOKENS}


def test_deep_tells_a_processor_that_does_not_make_what_was_counted(corpus: Path) -> None:
    """A model's folder may say that pictures are taken at their own size, whatever that is."""
    processor: Any = load_processor(resolve("toy-vl"))
    processor.image_processor.do_resize = processor.video_processor.do_resize = False
    faults = list(check_tokens(corpus, processor))
    assert faults and {fault.kind for fault in faults} == {FaultKind.TOKENS}


def narrowed(root: Path) -> None:
    """Images a quarter as wide, in files of the same length."""

    def narrower(data: bytes) -> bytes:
        image, new = load_image(data), io.BytesIO()
        image.crop((0, 0, image.width // 4, image.height)).save(new, "PNG")
        return new.getvalue().ljust(len(data), b"\0")

    images(lambda blobs: [narrower(blob) for blob in blobs])(root)


@pytest.mark.parametrize(
    ("family", "spoil", "items"),
    # Of many frames, Qwen3-VL makes as few tokens whatever their size; LLaVA-OneVision as many of each of two images.
    [("qwen3_vl", resized, 3), ("llava_onevision", narrowed, 1)],
)
def test_deep_with_other_families(
    corpus: Path, tmp_path_factory: pytest.TempPathFactory, family: str, spoil: Callable[[Path], None], items: int
) -> None:
    """One writes times between the frames; the other makes all frames one size, and tiles of an image."""
    processor = build(family, tmp_path_factory.mktemp(family)).processor
    assert list(check_tokens(corpus, processor)) == []
    spoil(corpus)
    faults = list(check_tokens(corpus, processor))
    assert {fault.kind for fault in faults} == {FaultKind.TOKENS}
    assert len(faults) == items


def test_deep_waits_until_the_rest_is_sound(corpus: Path, capsys: pytest.CaptureFixture[str]) -> None:
    flip(corpus)
    assert main(["doctor", str(corpus), "--deep", "toy-vl"]) == 1
    assert "tokens: index.parquet: not counted" in capsys.readouterr().out


def test_the_deep_command(corpus: Path, toy_processor: Any, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["doctor", str(corpus), "--deep", "toy-vl"]) == 0
    assert "sound" in capsys.readouterr().out
    assert main(["doctor", str(corpus), "--deep", "toy-vl", "--quick"]) == 2
    assert main(["doctor", str(corpus), "--deep", "no-such-model"]) == 2
