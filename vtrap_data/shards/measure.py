"""Pass 1 of packing: open each medium once, take its frames, and keep them in the spool, in worker processes."""

from __future__ import annotations

import multiprocessing
import os
import threading
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass
from itertools import islice
from pathlib import Path

from vtrap_data.budgets.allocate import fixed_budget, reads_videos
from vtrap_data.budgets.coverage import residuals
from vtrap_data.errors import Reason, SampleError
from vtrap_data.media import images, jpeg
from vtrap_data.media.decode import decode, luma
from vtrap_data.media.probe import probe
from vtrap_data.media.select import pool_frames, subset_slots
from vtrap_data.samples import PackedImage, SourceSample
from vtrap_data.shards.manifest import PackSettings
from vtrap_data.shards.members import pack_list
from vtrap_data.shards.spool import Measured, VideoFacts, read_facts, read_member, write_spool


@dataclass(frozen=True, slots=True, kw_only=True)
class MeasureOptions:
    """What pass 1 has to know.

    Attributes:
        spool: Folder of the spool.
        slots: Size of the pool.
        budgets: Candidate budgets.
        smallest: Where nesting begins.
        wanted: Slots to decode. All of them when `coverage` is on.
        coverage: Measure residuals.
        short_side: Of the encoded frames, in pixels.
    """

    spool: Path
    slots: int
    budgets: tuple[int, ...]
    smallest: int
    wanted: tuple[int, ...]
    coverage: bool
    short_side: int


def measure_options(settings: PackSettings, spool: Path) -> MeasureOptions:
    """What pass 1 has to do under `settings`: a fixed budget needs its own frames only, the others the whole pool."""
    wanted = set(range(settings.slots))
    fixed = fixed_budget(settings.strategy)
    if fixed is not None:
        wanted = {int(s) for s in subset_slots(settings.slots, fixed, smallest=settings.smallest)}
        if settings.store is not None:
            wanted |= {int(s) for s in subset_slots(settings.slots, settings.store, smallest=settings.smallest)}
    return MeasureOptions(
        spool=spool,
        slots=settings.slots,
        budgets=settings.budgets,
        smallest=settings.smallest,
        wanted=tuple(sorted(wanted)),
        coverage=reads_videos(settings.strategy),
        short_side=settings.short_side,
    )


def measure(sample: SourceSample, options: MeasureOptions) -> SampleError | None:
    """Open one sample's media and put what it needs into the spool.

    Returns:
        None, or why the sample has to be set aside: an error is a value here, because it is expected and has to come
        back from a worker.
    """
    try:
        if sample.kind == "video":
            _measure_video(sample, options)
        elif sample.kind == "images":
            _measure_images(sample, options)
        else:
            write_spool(options.spool, sample, Measured(), b"")
    except SampleError as error:
        detail = error.detail
        for path in sample.paths:  # the manifest is published: it names files, not folders of this machine
            detail = detail.replace(str(path), path.name)
        return SampleError(sample.id, error.reason, detail)
    return None


def is_measured(sample: SourceSample, options: MeasureOptions) -> bool:
    """Whether the spool holds the sample, whole and up to date."""
    return read_facts(options.spool, sample) is not None and read_member(options.spool, sample) is not None


def measure_all(
    samples: Sequence[SourceSample], options: MeasureOptions, *, workers: int
) -> Iterator[tuple[SourceSample, SampleError | None]]:
    """Measure samples; yields each with its outcome, in whatever order they finish.

    A decoder that crashes the whole worker process (a broken file can do that) sets its own sample aside and no other.
    """
    workers = min(workers, len(samples))
    if workers == 0:
        for sample in samples:
            yield sample, measure(sample, options)
        return
    todo = iter(samples)
    while True:
        suspects: list[SourceSample] = []
        yield from _run_pool(todo, options, workers=workers, suspects=suspects)
        if not suspects:
            return
        # Some of these killed the pool: alone in a process, only the guilty one can do it again.
        for sample in suspects:
            crashed: list[SourceSample] = []
            yield from _run_pool(iter([sample]), options, workers=1, suspects=crashed)
            if crashed:
                yield sample, SampleError(sample.id, Reason.CORRUPT, "the decoder crashed on it")


def _run_pool(
    todo: Iterator[SourceSample], options: MeasureOptions, *, workers: int, suspects: list[SourceSample]
) -> Iterator[tuple[SourceSample, SampleError | None]]:
    """Run until `todo` is empty or the pool breaks; then `suspects` holds what was under way."""
    running: dict[Future[SampleError | None], SourceSample] = {}
    # spawn: a forked copy of a process with running threads (BLAS, arrow, progress bars) may hang.
    context = multiprocessing.get_context("spawn")
    pool = ProcessPoolExecutor(max_workers=workers, mp_context=context, initializer=_end_with_parent)
    try:
        # Few at a time: a million futures at once would hold a million samples, and a crash would suspect them all.
        _submit(pool, running, islice(todo, 2 * workers), options)
        while running:
            done, _ = wait(running, return_when=FIRST_COMPLETED)
            for future in done:
                sample = running.pop(future)
                try:
                    outcome = future.result()
                except BrokenProcessPool:
                    suspects.append(sample)
                    continue
                yield sample, outcome
            if suspects:
                suspects.extend(running.values())
                return
            _submit(pool, running, islice(todo, len(done)), options)
    finally:
        pool.shutdown(cancel_futures=True)


def _end_with_parent() -> None:
    """Without this, workers of a killed pack would wait for work for ever."""

    def watch() -> None:
        parent = multiprocessing.parent_process()
        if parent is not None:
            parent.join()
        os._exit(1)

    threading.Thread(target=watch, daemon=True).start()


def _submit(
    pool: ProcessPoolExecutor,
    running: dict[Future[SampleError | None], SourceSample],
    samples: Iterable[SourceSample],
    options: MeasureOptions,
) -> None:
    for sample in samples:
        try:
            running[pool.submit(measure, sample, options)] = sample
        except BrokenProcessPool as error:
            failed: Future[SampleError | None] = Future()
            failed.set_exception(error)
            running[failed] = sample


def _measure_video(sample: SourceSample, options: MeasureOptions) -> None:
    info = probe(sample.paths[0])
    pool = pool_frames(info.pts, info.duration, slots=options.slots)
    indices = sorted({int(pool[slot]) for slot in options.wanted})
    frames = decode(info, indices, short_side=options.short_side)
    if len(frames) != len(indices):
        raise SampleError(sample.id, Reason.CORRUPT, f"{len(frames)} of {len(indices)} frames could be decoded")
    loss: tuple[float, ...] = ()
    if options.coverage:
        place = {index: number for number, index in enumerate(indices)}
        loss = residuals(
            luma(frames)[[place[int(index)] for index in pool]], budgets=options.budgets, smallest=options.smallest
        )
    member = pack_list([jpeg.encode(image) for image in frames.images]).data
    facts = VideoFacts(
        name=sample.paths[0].name,
        sha256=info.sha256,
        duration=float(info.duration),
        fps=float(info.fps),
        width=info.width,
        height=info.height,
        pool=tuple(int(index) for index in pool),
        decoded=tuple(indices),
        times=tuple(float(info.pts[index]) for index in indices),
        frame_width=frames.images[0].width,
        frame_height=frames.images[0].height,
        residuals=tuple(float(r) for r in loss),
    )
    write_spool(options.spool, sample, Measured(video=facts), member)


def _measure_images(sample: SourceSample, options: MeasureOptions) -> None:
    opened = [images.open_image(path) for path in sample.paths]
    facts = tuple(
        PackedImage(name=path.name, sha256=image.sha256, width=image.width, height=image.height)
        for path, image in zip(sample.paths, opened, strict=True)
    )
    write_spool(options.spool, sample, Measured(images=facts), pack_list([image.data for image in opened]).data)
