"""Is this packed corpus sound? Compares everything that is written down twice, and decodes everything that decodes.

Whether a model is shown what the index promises is asked later on: `encoding.check`.
"""

from __future__ import annotations

import re
import tarfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from itertools import pairwise
from pathlib import Path, PurePath
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
from tqdm import tqdm

from hub_cards.dataset_card import features
from vtrap_data.errors import SampleError, UsageError, cut
from vtrap_data.files import sha256_file
from vtrap_data.media import images, jpeg
from vtrap_data.media.select import FramesNotStoredError, frame_ids
from vtrap_data.media.tars import Member, tar_members
from vtrap_data.parsing import parse_json, parse_yaml
from vtrap_data.samples import IMAGE_MARK, VIDEO_MARK, PackedItem, PackedSample
from vtrap_data.shards.index import FrameFacts, count_rows, index_rows, read_index
from vtrap_data.shards.manifest import DATA, INDEX, README, Manifest, Shard, read_manifest
from vtrap_data.shards.members import FRAMES, IMAGES, Span, spans, unpack_list


class FaultKind(StrEnum):
    """What is wrong. A closed set, so that scripts can tell faults apart."""

    MISSING_SHARD = "missing-shard"
    EXTRA_SHARD = "extra-shard"
    SHARD_HASH = "shard-hash"
    TAR = "tar"
    INDEX = "index"
    SAMPLE = "sample"
    FRAMES = "frames"
    IMAGES = "images"
    BUDGET = "budget"
    TEXT = "text"
    CARD = "card"
    COUNTS = "counts"
    TOKENS = "tokens"


@dataclass(frozen=True, slots=True, kw_only=True)
class Fault:
    """One fault: its kind, where it is (a file, or a sample's key), and a sentence."""

    kind: FaultKind
    where: str
    detail: str


def doctor(root: Path, *, quick: bool = False) -> list[Fault]:
    """Check a packed corpus.

    Args:
        root: Its folder.
        quick: Do not decode frames and images; everything else is still checked.

    Returns:
        The faults, in the order in which they were found; empty when the corpus is sound.

    Raises:
        UsageError: `root` is no packed corpus at all.
    """
    manifest = read_manifest(root)
    faults = [*_check_card(root, manifest), *_check_files(root, manifest)]
    try:
        index = read_index(root)
    except UsageError as error:
        return [*faults, Fault(kind=FaultKind.INDEX, where=INDEX, detail=str(error))]
    counts = {**count_rows(index), "bytes": sum(shard.bytes for shard in manifest.shards)}
    for name, value in counts.items():
        if manifest.counts.get(name) != value:
            detail = f"{name} is {manifest.counts.get(name)} in the manifest, {value} in the index"
            faults.append(Fault(kind=FaultKind.COUNTS, where=INDEX, detail=detail))
    ids = index["item_id"].value_counts()
    double = ids.filter(pc.greater(ids.field("counts"), 1)).field("values").to_pylist()
    if double:
        detail = f"{len(double)} item ids are used twice, the first is {double[0]!r}"
        faults.append(Fault(kind=FaultKind.INDEX, where=INDEX, detail=detail))
    places = _places(index)
    for shard in tqdm(manifest.shards, "doctor", unit="shard", disable=None):
        if (root / shard.path).is_file():
            rows = _rows_of(index, places.get(shard.path, ()))
            faults += _check_shard(root, shard, manifest, rows, quick=quick)
    for name in sorted(places.keys() - {shard.path for shard in manifest.shards}):
        faults.append(Fault(kind=FaultKind.INDEX, where=INDEX, detail=f"names {name}, which is not in the manifest"))
    return faults


def _places(index: pa.Table) -> dict[str, list[Span]]:
    """Where the rows of each shard lie: looking through the whole index for every shard would be quadratic."""
    runs = pc.run_end_encode(index["shard"].combine_chunks())
    places: dict[str, list[Span]] = {}
    start = 0
    for name, end in zip(runs.values.to_pylist(), runs.run_ends.to_pylist(), strict=True):
        places.setdefault(name, []).append(Span(start, end - start))
        start = end
    return places


def _rows_of(index: pa.Table, places: Sequence[Span]) -> dict[str, list[dict[str, Any]]]:
    """The index rows of one shard by key: as Python objects those of all shards would take gigabytes."""
    rows: dict[str, list[dict[str, Any]]] = {}
    for place in places:
        for row in index.slice(*place).to_pylist():
            rows.setdefault(row["key"], []).append(row)
    return rows


def _check_files(root: Path, manifest: Manifest) -> Iterator[Fault]:
    for shard in tqdm(manifest.shards, "hash", unit="shard", disable=None):
        path = root / shard.path
        if not path.is_file():
            yield Fault(
                kind=FaultKind.MISSING_SHARD, where=shard.path, detail="is in the manifest but not in the folder"
            )
        elif path.stat().st_size != shard.bytes:
            detail = f"has {path.stat().st_size} bytes, the manifest says {shard.bytes}"
            yield Fault(kind=FaultKind.SHARD_HASH, where=shard.path, detail=detail)
        elif sha256_file(path) != shard.sha256:
            yield Fault(kind=FaultKind.SHARD_HASH, where=shard.path, detail="its bytes are not those of the manifest")
    known = {shard.path for shard in manifest.shards}
    for path in sorted((root / DATA).glob("*.tar")):
        name = path.relative_to(root).as_posix()
        if name not in known:
            yield Fault(kind=FaultKind.EXTRA_SHARD, where=name, detail="is in the folder but not in the manifest")
    if (root / INDEX).is_file() and sha256_file(root / INDEX) != manifest.index_sha256:
        yield Fault(kind=FaultKind.INDEX, where=INDEX, detail="its bytes are not those of the manifest")


def _check_card(root: Path, manifest: Manifest) -> Iterator[Fault]:
    def fault(detail: str) -> Fault:
        return Fault(kind=FaultKind.CARD, where=README, detail=detail)

    try:
        text = (root / README).read_text(encoding="utf-8")
    except (OSError, ValueError) as error:
        yield fault(f"cannot be read ({error}): without it load_dataset guesses the features and drops data")
        return
    front_matter = re.match(r"---\n(.*?\n)---\n", text, re.DOTALL)
    try:
        front: Any = parse_yaml(front_matter[1]) if front_matter else None
        infos, configs = front["dataset_info"], front["configs"]
        declared = (infos if isinstance(infos, list) else [infos])[0]["features"]
        globs = {entry["split"]: _patterns(entry["path"]) for entry in configs[0]["data_files"]}
    except (ValueError, TypeError, KeyError, IndexError) as error:
        yield fault(f"its front matter has no features and data files ({type(error).__name__}: {error})")
        return
    if declared != features():
        yield fault("the features it declares are not those of this format: load_dataset would drop or change data")
    for shard in manifest.shards:
        if not any(Path(shard.path).match(pattern) for pattern in globs.get(manifest.settings.split, ())):
            yield fault(f"{shard.path} is not among its data files of split {manifest.settings.split!r}")


def _patterns(path: Any) -> list[str]:
    """What a card names as data files: a pattern or a list of them."""
    patterns = path if isinstance(path, list) else [path]
    if not all(isinstance(pattern, str) and PurePath(pattern).parts for pattern in patterns):
        raise TypeError(f"path is {cut(repr(path))}, not a file name or a list of them")
    return patterns


def _check_shard(
    root: Path, shard: Shard, manifest: Manifest, index: Mapping[str, Sequence[dict[str, Any]]], *, quick: bool
) -> Iterator[Fault]:
    seen: set[str] = set()
    path = root / shard.path
    try:
        found = list(tar_members(path, strict=True))
        members = dict(found)
        for key, parts in _samples(path, found):
            if key in seen:
                yield Fault(kind=FaultKind.TAR, where=key, detail="its members are not side by side")
            seen.add(key)
            rows = index.get(key)
            if rows is None:
                yield Fault(kind=FaultKind.INDEX, where=key, detail=f"is in {shard.path} but not in the index")
                continue
            try:
                raw = parse_json(parts["json"])
                sample = PackedSample.parse(parts["json"])
                yield from _check_sample(key, sample, raw, parts, manifest, quick=quick)
                facts = FrameFacts(rows[0]["width"], rows[0]["height"], rows[0]["distinct"]) if sample.video else None
                split = manifest.settings.split
                expected = index_rows(sample, shard=shard.path, split=split, members=members, frames=facts)
            except (ValueError, KeyError) as error:
                detail = f"its JSON cannot be read ({type(error).__name__}: {error})"
                yield Fault(kind=FaultKind.SAMPLE, where=key, detail=detail)
                continue
            for row in expected:
                del row["version"]
            if expected != list(rows):
                wrong = sorted({k for a, b in zip(expected, rows, strict=False) for k in a if a[k] != b[k]})
                detail = f"the index differs from the shard in {', '.join(wrong) or 'the number of items'}"
                yield Fault(kind=FaultKind.INDEX, where=key, detail=detail)
    except (tarfile.TarError, OSError, EOFError) as error:
        yield Fault(kind=FaultKind.TAR, where=shard.path, detail=f"cannot be read to its end: {error}")
        return
    if len(seen) != shard.samples:
        detail = f"holds {len(seen)} samples, the manifest says {shard.samples}"
        yield Fault(kind=FaultKind.TAR, where=shard.path, detail=detail)
    for key in sorted(index.keys() - seen):
        yield Fault(kind=FaultKind.INDEX, where=key, detail=f"the index places it in {shard.path}, which lacks it")


def _samples(path: Path, members: Sequence[tuple[str, Member]]) -> Iterator[tuple[str, dict[str, bytes]]]:
    """Runs of members with one key, as a streaming reader sees them."""
    key, parts = "", dict[str, bytes]()
    with path.open("rb") as file:
        for member, (offset, size) in members:
            name, _, extension = member.partition(".")
            if parts and name != key:
                yield key, parts
                parts = {}
            file.seek(offset)
            key, parts[extension] = name, file.read(size)
    if parts:
        yield key, parts


def _check_sample(
    key: str, sample: PackedSample, raw: Any, parts: Mapping[str, bytes], manifest: Manifest, *, quick: bool
) -> Iterator[Fault]:
    wrong = list(_unlike(raw, features()[0], "json"))
    if wrong:
        yield Fault(kind=FaultKind.SAMPLE, where=key, detail=f"does not fit the declared features: {wrong[0]}")
    if sample.key != key:
        yield Fault(kind=FaultKind.SAMPLE, where=key, detail=f"calls itself {sample.key!r}")
    kind = "video" if sample.video else "images" if sample.images else "text"
    if kind != sample.kind:
        yield Fault(kind=FaultKind.SAMPLE, where=key, detail=f"says it is {sample.kind} and holds {kind}")
    for member, present in ((FRAMES, sample.video is not None), (IMAGES, bool(sample.images))):
        if (member in parts) != present:
            yield Fault(
                kind=FaultKind.SAMPLE, where=key, detail=f"{member} is {'missing' if present else 'unexpected'}"
            )
    if sample.video is not None and FRAMES in parts:
        yield from _check_frames(key, sample, parts[FRAMES], quick=quick)
    if sample.images and IMAGES in parts:
        yield from _check_images(key, sample, parts[IMAGES], quick=quick)
    if sample.video is not None:
        yield from _check_residuals(key, sample.video.residuals, manifest.settings.budgets)
    for item in sample.items:
        yield from _check_budget(key, item, sample, manifest)
        marks = "".join(message.content for message in item.messages)
        want = (int(sample.kind == "video"), len(sample.images))
        if (marks.count(VIDEO_MARK), marks.count(IMAGE_MARK)) != want:
            detail = f"item {item.id} has marks for other media than the sample holds"
            yield Fault(kind=FaultKind.TEXT, where=key, detail=detail)


def _check_frames(key: str, sample: PackedSample, member: bytes, *, quick: bool) -> Iterator[Fault]:
    def fault(detail: str) -> Fault:
        return Fault(kind=FaultKind.FRAMES, where=key, detail=detail)

    video = sample.video
    assert video is not None
    times = video.frame_times
    if any(a >= b for a, b in pairwise(times)):
        yield fault("frame times do not ascend")
    if times and (times[0] < 0 or times[-1] > video.duration):
        yield fault(f"frame times {times[0]:.3f} to {times[-1]:.3f} s leave the video of {video.duration:.3f} s")
    stored = [place for place in video.pool if place >= 0]
    if sorted(set(stored)) != list(range(len(times))) or stored != sorted(stored) or min(video.pool, default=0) < -1:
        yield fault(f"the pool does not point at the {len(times)} stored frames in order")
    try:
        jpegs = unpack_list(member)
        cut = [member[start : start + length] for start, length in spans(video.frame_bytes)]
    except ValueError as error:
        yield fault(str(error))
        return
    if len(jpegs) != len(times) or jpegs != cut:
        yield fault(f"{len(jpegs)} frames are stored for {len(times)} times, or their offsets point elsewhere")
    sizes = set()
    for number, data in enumerate(() if quick else jpegs):
        try:
            sizes.add(jpeg.decode(data, name=key).size)
        except SampleError as error:
            yield fault(f"frame {number}: {error.detail}")
    if len(sizes) > 1:
        yield fault(f"frames have different sizes: {sorted(sizes)}")


def _check_images(key: str, sample: PackedSample, member: bytes, *, quick: bool) -> Iterator[Fault]:
    def fault(detail: str) -> Fault:
        return Fault(kind=FaultKind.IMAGES, where=key, detail=detail)

    try:
        blobs = unpack_list(member)
    except ValueError as error:
        yield fault(str(error))
        return
    if len(blobs) != len(sample.images):
        yield fault(f"{len(blobs)} images are stored, {len(sample.images)} are described")
    for facts, data in zip(sample.images, blobs, strict=False):
        if quick:
            continue
        try:
            size = images.load_image(data, name=key).size
        except SampleError as error:
            yield fault(f"{facts.name}: {error.detail}")
            continue
        if size != (facts.width, facts.height):
            yield fault(f"{facts.name} is {size[0]}x{size[1]}, described as {facts.width}x{facts.height}")


def _check_residuals(key: str, residuals: Sequence[float], budgets: Sequence[int]) -> Iterator[Fault]:
    """What `budget` will take, see `allocate.Need`."""

    def fault(detail: str) -> Fault:
        return Fault(kind=FaultKind.BUDGET, where=key, detail=detail)

    if residuals and len(residuals) != len(budgets):
        yield fault(f"has {len(residuals)} residuals for {len(budgets)} candidate budgets")
    if not all(0 <= one <= 1 for one in residuals):
        yield fault("has residuals that are not from 0 to 1")
    if any(a < b for a, b in pairwise(residuals)):
        yield fault("has residuals that rise with the budget")


def _check_budget(key: str, item: PackedItem, sample: PackedSample, manifest: Manifest) -> Iterator[Fault]:
    def fault(detail: str) -> Fault:
        return Fault(kind=FaultKind.BUDGET, where=key, detail=f"item {item.id} {detail}")

    if item.demand is not None and not 0 <= item.demand <= 1:
        yield fault(f"has a demand of {item.demand:g}: it must be from 0 to 1")
    if sample.video is None:
        if item.budget or item.frame_ids:
            yield fault(f"has a budget of {item.budget} frames and no video")
        return
    if item.budget not in manifest.settings.budgets:
        yield fault(f"has a budget of {item.budget}, which is no candidate")
        return
    if any(not 0 <= i < len(sample.video.frame_times) for i in item.frame_ids):
        yield fault(f"names frames beyond the {len(sample.video.frame_times)} stored ones")
        return
    try:
        chosen = frame_ids(sample.video.pool, item.budget, smallest=manifest.settings.smallest)
    except (FramesNotStoredError, UsageError) as error:
        yield fault(str(error))
        return
    if chosen != item.frame_ids:
        yield fault(f"names other frames than its budget of {item.budget} selects")


_TYPES: dict[str, tuple[type, ...]] = {"string": (str,), "int64": (int,), "float64": (float,), "bool": (bool,)}


def _unlike(value: Any, feature: Mapping[str, Any], where: str) -> Iterator[str]:
    """Where a JSON value does not fit a declared feature (`datasets` would drop or change it without a word)."""
    if value is None:
        return
    if "struct" in feature or isinstance(feature.get("list"), list):
        fields = {field["name"]: field for field in feature.get("struct", feature.get("list", []))}
        many = "list" in feature
        if not isinstance(value, list if many else dict):
            yield f"{where} is a {type(value).__name__}"
            return
        for number, entry in enumerate(value if many else [value]):
            place = f"{where}[{number}]" if many else where
            if not isinstance(entry, dict) or set(entry) != set(fields):
                yield f"{place} has other keys than declared"
                continue
            for name, field in fields.items():
                yield from _unlike(entry[name], field, f"{place}.{name}")
    elif "list" in feature:
        if not isinstance(value, list):
            yield f"{where} is a {type(value).__name__}"
            return
        for number, entry in enumerate(value):
            yield from _unlike(entry, {"dtype": feature["list"]}, f"{where}[{number}]")
    elif not isinstance(value, _TYPES[feature["dtype"]]) or (isinstance(value, bool) and feature["dtype"] != "bool"):
        yield f"{where} is a {type(value).__name__}, not {feature['dtype']}"
