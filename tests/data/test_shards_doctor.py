from __future__ import annotations

import io
import json
import re
import tarfile
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
from shards_media import tree, write_corpus

from vtrap_data.__main__ import main
from vtrap_data.errors import UsageError
from vtrap_data.files import sha256_file
from vtrap_data.shards.allocation import compare_strategies
from vtrap_data.shards.doctor import FaultKind, doctor
from vtrap_data.shards.index import count_rows, frame_counts, read_index
from vtrap_data.shards.manifest import PackSettings, read_manifest, write_manifest
from vtrap_data.shards.members import pack_list, unpack_list
from vtrap_data.shards.pack import pack
from vtrap_data.shards.reallocate import reallocate
from vtrap_data.sources.jsonl import read_jsonl

SETTINGS = PackSettings(name="tiny", budgets=(2, 4, 8, 16), slots=16, mean_frames=6)


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


def kinds(root: Path, *, quick: bool = False) -> set[FaultKind]:
    return {fault.kind for fault in doctor(root, quick=quick)}


def rewrite(
    root: Path, change: Callable[[list[tuple[str, bytes]]], list[tuple[str, bytes]]], *, shard: int = 0
) -> None:
    """Change the members of a shard and make the manifest agree, so that only deeper checks can notice."""
    manifest = read_manifest(root)
    path = root / manifest.shards[shard].path
    with tarfile.open(path) as tar:
        members = [(info.name, tar.extractfile(info).read()) for info in tar]  # type: ignore[union-attr]
    with tarfile.open(path, "w", format=tarfile.USTAR_FORMAT) as tar:
        for name, data in change(members):
            info = tarfile.TarInfo(name)
            info.size = len(data)
            tar.addfile(info, io.BytesIO(data))
    shards = list(manifest.shards)
    shards[shard] = replace(shards[shard], bytes=path.stat().st_size, sha256=sha256_file(path))
    counts = {**manifest.counts, "bytes": sum(one.bytes for one in shards)}
    write_manifest(root, replace(manifest, shards=tuple(shards), counts=counts))


def edit_json(root: Path, edit: Callable[[dict[str, Any]], object]) -> None:
    """Edit the JSON of the first sample; the JSON keeps its length, so that the index still points at everything."""

    def change(members: list[tuple[str, bytes]]) -> list[tuple[str, bytes]]:
        name, data = members[0]
        value = json.loads(data)
        edit(value)
        new = json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=False).encode()
        return [(name, new.ljust(len(data))), *members[1:]]

    rewrite(root, change)


def test_a_fresh_corpus_is_sound(corpus: Path) -> None:
    assert doctor(corpus) == []
    rewrite(corpus, lambda members: members)
    assert doctor(corpus) == [], "the helper of these tests changes something by itself"


def test_flipped_bytes_are_found(corpus: Path) -> None:
    path = corpus / "data/train-00000.tar"
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 0xFF
    path.write_bytes(data)
    assert FaultKind.SHARD_HASH in kinds(corpus, quick=True)


def test_missing_truncated_and_extra_shards(corpus: Path) -> None:
    path = corpus / "data/train-00000.tar"
    data = path.read_bytes()
    (corpus / "data/train-00001.tar").write_bytes(data)
    assert kinds(corpus) == {FaultKind.EXTRA_SHARD}
    (corpus / "data/train-00001.tar").unlink()
    path.write_bytes(data[:3000])
    assert kinds(corpus) >= {FaultKind.SHARD_HASH, FaultKind.TAR}
    path.unlink()
    assert kinds(corpus) == {FaultKind.MISSING_SHARD}


def test_a_broken_jpeg_is_found_unless_quick(corpus: Path) -> None:
    def change(members: list[tuple[str, bytes]]) -> list[tuple[str, bytes]]:
        name, data = members[1]
        jpegs = unpack_list(data)
        jpegs[0] = jpegs[0][:100] + bytes(len(jpegs[0]) - 100)
        return [members[0], (name, pack_list(jpegs).data), *members[2:]]

    rewrite(corpus, change)
    assert kinds(corpus) == {FaultKind.FRAMES}
    assert kinds(corpus, quick=True) == set()


def test_half_a_character_is_found_and_refused(corpus: Path, tmp_path: Path) -> None:
    """JSON may hold one; no file, no tokenizer and no table takes it."""
    rewrite(corpus, lambda members: [(name, data.replace(b"things", b"\\ud800")) for name, data in members])
    assert FaultKind.SAMPLE in kinds(corpus)
    with pytest.raises(UsageError, match=r"a sample is damaged \(.*surrogates not allowed\): run `doctor`"):
        reallocate(corpus, tmp_path / "new", strategy="fixed:2")


@pytest.mark.parametrize(
    ("edit", "kind"),
    [
        (lambda s: s["video"]["frame_times"].reverse(), FaultKind.FRAMES),
        (lambda s: s["video"]["frame_bytes"].__setitem__(1, s["video"]["frame_bytes"][1] + 1), FaultKind.FRAMES),
        (lambda s: s["video"]["pool"].__setitem__(0, 9), FaultKind.FRAMES),
        (lambda s: s["items"][0]["frame_ids"].__setitem__(-1, 99), FaultKind.BUDGET),
        (lambda s: s["items"][0]["frame_ids"].pop(), FaultKind.BUDGET),
        (lambda s: s["items"][0].update(budget=3), FaultKind.BUDGET),
        (lambda s: s["items"][0].update(demand=2), FaultKind.BUDGET),
        (lambda s: s["items"][0].update(needs=1.5), FaultKind.SAMPLE),
        (lambda s: s["items"][0].pop("ability"), FaultKind.SAMPLE),
        (lambda s: s.update(kind="text"), FaultKind.SAMPLE),
        (lambda s: s.update(format=9), FaultKind.SAMPLE),
        (lambda s: s.update(id="x"), FaultKind.INDEX),
        (lambda s: s["items"][0]["messages"][0].update(content="no mark"), FaultKind.TEXT),
    ],
)
def test_a_wrong_fact_is_found(corpus: Path, edit: Callable[[dict[str, Any]], object], kind: FaultKind) -> None:
    edit_json(corpus, edit)
    assert kind in kinds(corpus)


@pytest.mark.parametrize(
    ("residuals", "said"),
    [
        ([1, 2, 0, 0], "residuals must|residuals that are not from 0 to 1"),
        ([0, 0, 1, 0], "residuals must not increase|residuals that rise with the budget"),
        ([0], "residuals must have 4 numbers|1 residuals for 4 candidate budgets"),
    ],
)
def test_residuals_that_no_video_has_are_found_and_refused(corpus: Path, residuals: list[float], said: str) -> None:
    edit_json(corpus, lambda s: s["video"].update(residuals=residuals))
    assert any(fault.kind is FaultKind.BUDGET and re.search(said, fault.detail) for fault in doctor(corpus))
    with pytest.raises(UsageError, match=f"(?:{said}).*run `doctor` on it"):
        reallocate(corpus, corpus / "new", strategy="hybrid")
    hybrid, *_, fixed = compare_strategies(corpus)
    assert re.search(said, hybrid.error or "") and fixed.error is None


@pytest.mark.parametrize("damage", ["fewer frames than times", "no times", "a broken frame", "no JSON"])
def test_duplicates_goes_on_past_damage(corpus: Path, damage: str, capsys: pytest.CaptureFixture[str]) -> None:
    def change(members: list[tuple[str, bytes]]) -> list[tuple[str, bytes]]:
        (name, data), (frames, jpegs), *others = members
        kept = unpack_list(jpegs)
        if damage == "fewer frames than times":
            kept = kept[:1]
        elif damage == "a broken frame":
            kept = [b"\xff\xd8", *kept[1:]]
        elif damage == "no times":
            data = re.sub(rb'("frame_times":\[)[^]]*', rb"\1", data)
        else:
            data = b"{"
        while lacking := len(jpegs) - len(pack_list(kept).data):  # offsets in the index stay right
            kept[-1] = (kept[-1] + bytes(max(lacking, 0)))[: len(kept[-1]) + lacking]
        return [(name, data.ljust(len(members[0][1]))), (frames, pack_list(kept).data), *others]

    assert main(["duplicates", str(corpus)]) == 0
    assert "could not be read" not in capsys.readouterr().err
    rewrite(corpus, change)
    assert main(["duplicates", str(corpus)]) == 0
    assert "1 media could not be read and were compared by their files only" in capsys.readouterr().err


def test_wrong_images_are_found(corpus: Path) -> None:
    def change(members: list[tuple[str, bytes]]) -> list[tuple[str, bytes]]:
        return [(n, pack_list(unpack_list(d)[::-1]).data if n.endswith("images.mp") else d) for n, d in members]

    rewrite(corpus, change)
    assert kinds(corpus) == {FaultKind.IMAGES}


def test_separated_and_lost_members_are_found(corpus: Path) -> None:
    rewrite(corpus, lambda members: [*members[1:], members[0]])
    assert kinds(corpus) >= {FaultKind.TAR, FaultKind.SAMPLE}
    rewrite(corpus, lambda members: members[2:-1])
    assert kinds(corpus) >= {FaultKind.TAR, FaultKind.INDEX}


def test_an_index_of_another_corpus_is_found(corpus: Path) -> None:
    table = pq.read_table(corpus / "index.parquet")
    pq.write_table(table.slice(1), corpus / "index.parquet")
    assert kinds(corpus) == {FaultKind.INDEX, FaultKind.COUNTS}
    (corpus / "index.parquet").write_bytes(b"PAR1 no")
    assert kinds(corpus) == {FaultKind.INDEX}


def with_path(text: str, new: str) -> str:
    """A card with other data files."""
    changed, n = re.subn(r"(?m)path: .*train-\*\.tar['\"]?$", f"path: {new}", text)
    assert n == 1
    return changed


def test_a_card_may_list_several_patterns(corpus: Path) -> None:
    path = corpus / "README.md"
    path.write_text(with_path(path.read_text(), '["data/more-*.tar", "data/train-*.tar"]'))
    assert doctor(corpus) == []


def test_a_name_may_end_as_front_matter_does(corpus: Path) -> None:
    path = corpus / "README.md"
    text, n = re.subn(r"(?m)^pretty_name: .*$", "pretty_name: My corpus ---", path.read_text())
    path.write_text(text)
    assert n == 1 and doctor(corpus) == []


@pytest.mark.parametrize(
    "change",
    [
        lambda text: "# no front matter",
        lambda text: text.replace("float64", "int32"),
        lambda text: text.replace("data/train-*.tar", "data/test-*.tar"),
        lambda text: text.replace("dataset_info", "other"),
        lambda text: text.replace("---\n", "---\n{", 1),
        *(lambda text, new=new: with_path(text, new) for new in ("5", '""', "[]", "[5]", "null", "{a: b}", ".")),
    ],
)
def test_a_card_that_would_lose_data_is_found(corpus: Path, change: Callable[[str], str]) -> None:
    path = corpus / "README.md"
    path.write_text(change(path.read_text()))
    assert kinds(corpus) == {FaultKind.CARD}
    path.unlink()
    assert kinds(corpus) == {FaultKind.CARD}


@pytest.mark.parametrize("path", ["../secret.tar", "/etc/passwd", "data/../../secret.tar", "data/.tar"])
def test_a_manifest_cannot_make_us_read_other_files(corpus: Path, path: str) -> None:
    data = json.loads((corpus / "manifest.json").read_text())
    data["shards"][0]["path"] = path
    (corpus / "manifest.json").write_text(json.dumps(data))
    with pytest.raises(UsageError, match="is no tar in data/"):
        doctor(corpus)


def test_an_index_without_its_columns_is_found(corpus: Path) -> None:
    table = pq.read_table(corpus / "index.parquet")
    pq.write_table(table.drop_columns(["version"]), corpus / "index.parquet")
    assert FaultKind.INDEX in kinds(corpus)


def test_counts_follow_from_the_index(corpus: Path) -> None:
    """Against a count row by row."""
    index = read_index(corpus)
    rows = index.to_pylist()
    firsts = [row for row in rows if row["item_index"] == 0]
    hashes = [sha for row in firsts for sha in row["media_sha256"]]
    assert count_rows(index) == {
        "samples": 6,
        "items": 10,
        "samples_video": 3,
        "samples_images": 2,
        "samples_text": 1,
        "items_video": 7,
        "frames_stored": sum(len({slot for slot in row["pool"] if slot >= 0}) for row in firsts),
        "frames_used": sum(row["n_frames"] for row in rows),
        "duplicate_media": len(hashes) - len(set(hashes)),
    }
    nothing = count_rows(index.slice(0, 0))
    assert set(nothing.values()) == {0}
    assert nothing.keys() == count_rows(index).keys()
    assert frame_counts(index, 2, smallest=2).tolist() == [2] * 7 + [0] * 3
    given = np.array([row["budget"] for row in rows])
    assert frame_counts(index, given, smallest=2).tolist() == [row["n_frames"] for row in rows]
