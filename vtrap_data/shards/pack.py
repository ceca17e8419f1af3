"""How does a source become a packed corpus? Three passes, of which only the first opens media.

1. measure   every medium, in worker processes, into a spool that survives a kill       shards/measure.py
2. allocate  a budget for every item, looking at the whole corpus                       budgets/
3. write     the tars, the index, the card and, last, the manifest                      shards/write.py
"""

from __future__ import annotations

import fcntl
import hashlib
import math
import shutil
import time
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any, NamedTuple

from tqdm import tqdm

from vtrap_data.budgets.allocate import check_strategy, reads_questions
from vtrap_data.budgets.demand import check_scorer
from vtrap_data.budgets.demand import versions as demand_versions
from vtrap_data.errors import FatalSampleError, SampleError, UsageError, VtrapError
from vtrap_data.files import canonical_json, sha256_file, write_bytes
from vtrap_data.media import decode, jpeg
from vtrap_data.media.select import FRAMES_VERSION, frame_ids, subset_slots
from vtrap_data.media.tars import COPIES, marks
from vtrap_data.parsing import parse_json
from vtrap_data.samples import (
    FORMAT_VERSION,
    Item,
    PackedItem,
    PackedSample,
    PackedVideo,
    SourceSample,
)
from vtrap_data.shards.asked import Asked, allocated, demand_scores
from vtrap_data.shards.card import write_card
from vtrap_data.shards.cluster import check_ray, measure_on_ray
from vtrap_data.shards.index import INDEX_VERSION, FrameFacts, count_rows, write_index
from vtrap_data.shards.manifest import (
    DATA,
    INDEX,
    MANIFEST,
    Duplicate,
    Manifest,
    Note,
    PackSettings,
    Quarantined,
    check_folder,
    read_manifest,
    write_manifest,
)
from vtrap_data.shards.measure import MeasureOptions, is_measured, measure_all, measure_options
from vtrap_data.shards.members import FRAMES, IMAGES, pack_list
from vtrap_data.shards.spool import VideoFacts, read_facts, read_spool
from vtrap_data.shards.stored import StoredSample
from vtrap_data.shards.write import ShardLimits, remove_other_shards, sample_key, write_shards

WORK = ".work"
PLAN = "plan.json"
_CHANGEABLE = ("max_quarantine_rate", "keep_truncated")
"""Settings with which the spool of an unfinished pack may be gone on with, were they others at its start."""


class Job(NamedTuple):
    """A sample that pass 1 could open, with what pass 2 reads of it. The rest waits on the disk until pass 3.

    Attributes:
        key: Under which it will be stored.
        sample: What the source said.
        residuals: Of its video; empty when not measured.
        distinct: Distinct frames in the pool of its video; 0 without a video.
        media: SHA-256 of its media, in order.
        notes: What to know about them.
    """

    key: str
    sample: SourceSample
    residuals: tuple[float, ...]
    distinct: int
    media: tuple[str, ...]
    notes: tuple[str, ...]


def pack(
    samples: Iterable[SourceSample], out: Path, *, settings: PackSettings, rejected: Sequence[SampleError] = ()
) -> Manifest:
    """Pack a source into `out`. A killed pack goes on where it stopped when it is run again.

    With `settings.workers` above 0 a script that calls this needs the usual `if __name__ == "__main__":` guard:
    workers import the script again.

    Args:
        samples: What to pack, in the order in which it is to be stored.
        out: Folder of the corpus: new, empty, or left by the same pack.
        settings: See `PackSettings`.
        rejected: Rows that the source could not read; they go to the quarantine list with the rest.

    Returns:
        The manifest. When `out` already holds this very corpus nothing is done.

    Raises:
        UsageError: Settings that do not fit each other, something else in `out`, or an id that is used twice.
        FatalSampleError: More samples are bad than `settings.max_quarantine_rate` allows, or nothing is left.
        VtrapError: Media changed, or spooled frames were damaged, while it was packing.
    """
    todo = list(samples)
    check_settings(settings)
    _check_ids(todo)
    source = source_hash(todo, rejected)
    if (out / MANIFEST).exists():
        return _finished(out, settings, source)
    with _work_folder(out, settings) as spool:
        measured, quarantine = _measure(todo, rejected, spool, settings)
        jobs, duplicates = merge_duplicates(measured)
        budgets, demand, params = _allocate(jobs, settings)
        stored = tqdm(_stored(jobs, budgets, demand, spool, settings), "write", len(jobs), unit="sample", disable=None)
        written = write_shards(out, stored, split=settings.split, limits=shard_limits(settings))
        remove_other_shards(out, written.shards)
        write_index(out, written.index)
        manifest = Manifest(
            settings=settings,
            params=params,
            counts={**count_rows(written.index), "bytes": sum(shard.bytes for shard in written.shards)},
            shards=written.shards,
            index_sha256=sha256_file(out / INDEX),
            source_sha256=source,
            versions=versions(settings),
            quarantine=tuple(Quarantined.of(error) for error in quarantine),
            duplicates=duplicates,
            notes=tuple(Note(sample=job.sample.id, detail=note) for job in jobs for note in job.notes),
        )
        write_card(out, manifest, written.index)
        write_manifest(out, manifest)
    shutil.rmtree(out / WORK)
    return manifest


def check_settings(settings: PackSettings) -> None:
    """Find settings that cannot work before any medium is opened.

    Raises:
        UsageError: With the setting to change.
    """
    check_strategy(settings.strategy, budgets=settings.budgets, mean_frames=settings.mean_frames)
    try:
        settings.check()
    except ValueError as error:
        raise UsageError(str(error)) from None
    check_scorer(settings.scorer, needed=reads_questions(settings.strategy))
    if settings.split == "all":
        raise UsageError("--split all is what `datasets` calls all splits together: give another name")
    for budget in settings.budgets:
        subset_slots(settings.slots, budget, smallest=settings.smallest)
    if settings.store is not None:
        subset_slots(settings.slots, settings.store, smallest=settings.smallest)
    for name in ("short_side", "samples_per_shard", "shard_bytes", "shard_tokens"):
        if (value := getattr(settings, name)) is not None and value < 1:
            raise UsageError(f"--{name.replace('_', '-')} must be at least 1, not {getattr(settings, name)}")
    if not math.isfinite(settings.mean_frames):
        raise UsageError(f"--mean-frames must be a number, not {settings.mean_frames}")
    if settings.seed < 0:
        raise UsageError(f"--seed must be 0 or more, not {settings.seed}")
    if settings.workers < 0:
        raise UsageError(f"--workers must be 0 (this process) or more, not {settings.workers}")
    for name in ("file_timeout", "worker_memory"):
        if not (math.isfinite(getattr(settings, name)) and getattr(settings, name) > 0):
            raise UsageError(f"--{name.replace('_', '-')} must be above 0, not {getattr(settings, name)}")
    if not 0 <= settings.max_quarantine_rate <= 1:
        raise UsageError(f"--max-quarantine-rate must lie in [0, 1], not {settings.max_quarantine_rate}")
    if settings.executor not in ("processes", "ray"):
        raise UsageError(f"--executor must be processes or ray, not {settings.executor!r}")
    if settings.executor == "ray":
        check_ray()
    elif settings.ray_address is not None:
        raise UsageError("--ray-address needs --executor ray")


def source_hash(samples: Sequence[SourceSample], rejected: Sequence[SampleError] = ()) -> str:
    """Hash of everything a source says: rows, file names and file sizes. Folders above the files do not count."""
    digest = hashlib.sha256()
    for sample in tqdm(samples, "look", unit="sample", delay=2, leave=False, disable=None):
        sizes = [mark.size if (mark := marks(path)) else None for path in sample.paths]
        facts = {**asdict(sample), "paths": [path.name for path in sample.paths], "sizes": sizes}
        digest.update(canonical_json(facts) + b"\n")
    for error in rejected:
        digest.update(canonical_json([error.sample, error.reason.value, error.detail]) + b"\n")
    return digest.hexdigest()


def shard_limits(settings: PackSettings) -> ShardLimits:
    """When a tar is full under these settings."""
    return ShardLimits(settings.samples_per_shard, settings.shard_bytes, settings.shard_tokens)


def merge_duplicates(jobs: Sequence[Job]) -> tuple[list[Job], tuple[Duplicate, ...]]:
    """Let samples whose media are the same bytes share one place: the items of later ones join the first.

    Only within one source: a sample has one licence. Text samples stay as they are.
    """
    kept: list[Job] = []
    joined: dict[int, list[Item]] = {}
    place: dict[tuple[object, ...], int] = {}
    duplicates = []
    for job in jobs:
        sample = job.sample
        origin = (sample.kind, job.media, sample.source, sample.licence, sample.redistributable)
        first = place.setdefault(origin, len(kept)) if job.media else len(kept)
        if first == len(kept):
            kept.append(job)
        else:
            joined.setdefault(first, []).extend(sample.items)
            duplicates.append(Duplicate(sample=sample.id, of=kept[first].sample.id))
    for number, items in joined.items():
        sample = kept[number].sample
        kept[number] = kept[number]._replace(sample=replace(sample, items=(*sample.items, *items)))
    return kept, tuple(duplicates)


def versions(settings: PackSettings) -> dict[str, str | int]:
    """Of everything that may change the bytes of a corpus packed with these settings."""
    from importlib.metadata import version

    return {
        "vtrap": version("vtrap"),
        "frames": FRAMES_VERSION,
        **scorer_versions(settings),
        "index": INDEX_VERSION,
        "decoder": decode.version(),
        "jpeg": jpeg.version(),
        "pillow": version("pillow"),
    }


def scorer_versions(settings: PackSettings) -> dict[str, str | int]:
    """Of what reads the questions under these settings."""
    return demand_versions(settings.scorer if reads_questions(settings.strategy) else "lexical")


def packed_item(item: Item, *, budget: int, ids: tuple[int, ...], demand: float | None) -> PackedItem:
    """An item with its budget. Fields of a `PackedItem` that already has one are replaced."""
    plain = {name: getattr(item, name) for name in Item.__dataclass_fields__}
    return PackedItem(**plain, budget=budget, frame_ids=ids, demand=demand)


def _check_ids(samples: Sequence[SourceSample]) -> None:
    for what, ids in (
        ("samples", Counter(sample.id for sample in samples)),
        ("items", Counter(item.id for sample in samples for item in sample.items)),
    ):
        double = [name for name, n in ids.items() if n > 1]
        if double:
            raise UsageError(
                f"{len(double)} ids belong to several {what}, the first is {double[0]!r}: make them unique"
            )


def _finished(out: Path, settings: PackSettings, source: str) -> Manifest:
    manifest = read_manifest(out)
    if different := _different(manifest.settings.to_json(), settings.to_json()):
        raise UsageError(
            f"{out} already holds a corpus packed with other settings ({different}): "
            "choose another --out, or remove it first"
        )
    if manifest.source_sha256 != source:
        raise UsageError(
            f"{out} already holds a corpus of another source (rows or media files differ): "
            "choose another --out, or remove it first"
        )
    shutil.rmtree(out / WORK, ignore_errors=True)
    return manifest


def _different(old: dict[str, Any], new: dict[str, Any]) -> str:
    """Settings that are others now; for the scorer, which nobody need have set, how to get the old one."""
    named = [
        f"{name}, which was {old.get(name)!r}: --scorer {old.get(name)} goes on" if name == "scorer" else name
        for name, value in new.items()
        if old.get(name) != value
    ]
    return ", ".join(named)


@contextmanager
def _work_folder(out: Path, settings: PackSettings) -> Iterator[Path]:
    """`out/.work`, for this process alone, with a note of the settings that its contents were made with."""
    check_folder(out)
    if out.exists() and not out.is_dir():
        raise UsageError(f"--out {out} is a file: give a folder")
    work = out / WORK
    if out.is_dir() and any(out.iterdir()) and not work.is_dir():
        raise UsageError(f"--out {out} is not empty and holds no pack to go on with: choose another folder")
    work.mkdir(parents=True, exist_ok=True)
    with (work / "lock").open("w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            raise UsageError(f"another process is packing into {out} right now") from None
        # What a pack that found too many bad samples asks to be changed: it goes on with what it measured.
        decided = {name: value for name, value in settings.to_json().items() if name not in _CHANGEABLE}
        plan: dict[str, Any] = {"settings": decided, "format": FORMAT_VERSION, "versions": versions(settings)}
        try:
            old = parse_json((work / PLAN).read_bytes())
        except (OSError, ValueError):
            old = None
        begun = old.get("settings") if isinstance(old, dict) else None
        if isinstance(begun, dict) and begun != plan["settings"]:
            different = _different(begun, plan["settings"])
            raise UsageError(
                f"{out} holds an unfinished pack with other settings ({different}): finish it, remove it, or choose "
                "another --out"
            )
        for copies in work.glob(f"{COPIES}*"):  # of media in tars, left by a kill
            shutil.rmtree(copies)
        if old != plan:  # none yet, or of another version of vtrap or of a decoder: its frames may differ
            for path in work.iterdir():
                if path.name != "lock":
                    path.unlink()
            write_bytes(work / PLAN, canonical_json(plan))
        for stale in (*out.glob(".*.tmp*"), *(out / DATA).glob(".*.tmp*")):  # what a kill left half written
            stale.unlink()
        yield work


def _measure(
    samples: Sequence[SourceSample], rejected: Sequence[SampleError], spool: Path, settings: PackSettings
) -> tuple[list[Job], list[SampleError]]:
    options = measure_options(settings, spool)
    bad: dict[str, SampleError] = {}
    with tqdm(desc="measure", total=len(samples), unit="medium", disable=None) as bar:
        missing, read = [], 0
        for sample in samples:  # hashes what an earlier attempt has left: fast, but not at once
            if is_measured(sample, options):
                bar.update()
            else:
                missing.append(sample)
        began = time.monotonic()
        for sample, error in _outcomes(missing, options, settings):
            if error is not None:
                bad[sample.id] = error
            read += sum(mark.size for path in sample.paths if (mark := marks(path)))
            bar.set_postfix_str(f"{read / 1e6 / (time.monotonic() - began + 1e-9):.1f} MB/s", refresh=False)
            bar.update()
    quarantine = [*rejected, *(bad[sample.id] for sample in samples if sample.id in bad)]
    total = len(samples) + len(rejected)
    if len(quarantine) > settings.max_quarantine_rate * total or len(bad) == len(samples):
        reasons = Counter(error.reason.value for error in quarantine)
        listed = ", ".join(f"{n} {reason}" for reason, n in reasons.most_common())
        raise FatalSampleError(
            f"{len(quarantine)} of {total} samples are bad ({listed}); "
            f"{settings.max_quarantine_rate:.0%} are allowed (--max-quarantine-rate). "
            + (f"The first: {quarantine[0]}" if quarantine else "There is nothing to pack."),
            bad=quarantine,
        )
    jobs = []
    for number, sample in enumerate(samples):
        if sample.id in bad:
            continue
        measured = read_facts(spool, sample)
        if measured is None:
            raise VtrapError(f"media of {sample.id} changed while it was being packed: run pack again")
        video = measured.video
        facts = (video.residuals, video.distinct) if video else ((), 0)
        jobs.append(Job(sample_key(number, sample.id), sample, *facts, measured.media, measured.notes))
    return jobs, quarantine


def _outcomes(
    samples: Sequence[SourceSample], options: MeasureOptions, settings: PackSettings
) -> Iterator[tuple[SourceSample, SampleError | None]]:
    if settings.executor == "ray" and samples:
        return measure_on_ray(samples, options, workers=settings.workers, address=settings.ray_address)
    return measure_all(samples, options, workers=settings.workers)


def _allocate(
    jobs: Sequence[Job], settings: PackSettings
) -> tuple[dict[str, int], dict[str, float], dict[str, float | int | str]]:
    """Budget of every video item and, where the strategy looked, its demand; and the solved parameters."""
    items = [
        Asked.of(item, residuals=job.residuals, distinct=job.distinct)
        for job in jobs
        if job.sample.kind == "video"
        for item in job.sample.items
    ]
    if not items:
        return {}, {}, {}
    scores = demand_scores(items, settings)
    allocation = allocated(items, scores, settings)
    budgets = {item.id: budget for item, budget in zip(items, allocation.budgets, strict=True)}
    demand = {item.id: float(s) for item, s in zip(items, scores, strict=True) if s is not None}
    return budgets, demand, dict(allocation.params)


def _stored(
    jobs: Sequence[Job], budgets: dict[str, int], demand: dict[str, float], spool: Path, settings: PackSettings
) -> Iterator[StoredSample]:
    for job in jobs:
        spooled = read_spool(spool, job.sample)
        if spooled is None:
            raise VtrapError(f"the spooled frames of {job.sample.id} are damaged: run pack again")
        measured, blobs = spooled
        video, members, facts = None, {}, None
        if measured.video is not None:
            granted = {budgets[item.id] for item in job.sample.items}
            video, members[FRAMES] = _store_video(measured.video, granted, blobs, settings)
            seen = measured.video
            facts = FrameFacts(width=seen.frame_width, height=seen.frame_height, distinct=seen.distinct)
        elif measured.images:
            members[IMAGES] = pack_list(blobs).data
        items = []
        for item in job.sample.items:
            budget = budgets.get(item.id, 0)
            ids = frame_ids(video.pool, budget, smallest=settings.smallest) if video else ()
            items.append(packed_item(item, budget=budget, ids=ids, demand=demand.get(item.id)))
        sample = PackedSample(
            key=job.key,
            id=job.sample.id,
            kind=job.sample.kind,
            source=job.sample.source,
            licence=job.sample.licence,
            redistributable=job.sample.redistributable,
            items=tuple(items),
            video=video,
            images=measured.images,
        )
        yield StoredSample(sample, members, facts)


def _store_video(
    seen: VideoFacts, granted: set[int], blobs: list[bytes], settings: PackSettings
) -> tuple[PackedVideo, bytes]:
    """Keep the frames that some item uses (and those of `store`), in time order."""
    kept_budgets = granted | ({settings.store} if settings.store is not None else set())
    slots = {int(s) for b in kept_budgets for s in subset_slots(settings.slots, b, smallest=settings.smallest)}
    kept = sorted({seen.pool[slot] for slot in slots})
    place = {number: position for position, number in enumerate(seen.decoded)}
    member = pack_list([blobs[place[number]] for number in kept])
    stored = {number: position for position, number in enumerate(kept)}
    video = PackedVideo(
        name=seen.name,
        sha256=seen.sha256,
        duration=seen.duration,
        fps=seen.fps,
        width=seen.width,
        height=seen.height,
        frame_times=tuple(seen.times[place[number]] for number in kept),
        frame_bytes=member.offsets,
        pool=tuple(stored.get(number, -1) for number in seen.pool),
        residuals=seen.residuals,
    )
    return video, member.data
