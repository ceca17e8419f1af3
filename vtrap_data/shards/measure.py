"""Pass 1 of packing: open each medium once, take its frames, and keep them in the spool, in worker processes."""

from __future__ import annotations

import multiprocessing
import os
import resource
import signal
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass, replace
from functools import partial
from itertools import islice
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from PIL.Image import Image

from vtrap_data.budgets.allocate import fixed_budget, reads_videos
from vtrap_data.budgets.coverage import residuals
from vtrap_data.errors import Reason, SampleError
from vtrap_data.interruption import no_interruption
from vtrap_data.media import images, jpeg
from vtrap_data.media.decode import decode_each, luma
from vtrap_data.media.limits import check_time, time_limit, took_longer
from vtrap_data.media.probe import VideoInfo, probe
from vtrap_data.media.select import pool_frames, subset_slots
from vtrap_data.media.size import Fit
from vtrap_data.media.tars import as_files
from vtrap_data.samples import Kind, PackedImage, SourceSample
from vtrap_data.shards.manifest import PackSettings
from vtrap_data.shards.members import pack_list
from vtrap_data.shards.spool import Measured, VideoFacts, read_facts, read_spool, write_spool


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
        fit: Of `PackSettings`.
        keep_truncated: Of `PackSettings`.
        file_timeout: Seconds that one sample's media may take.
        worker_memory: GiB that a worker process may use.
    """

    spool: Path
    slots: int
    budgets: tuple[int, ...]
    smallest: int
    wanted: tuple[int, ...]
    coverage: bool
    short_side: int
    fit: Fit | None
    keep_truncated: bool
    file_timeout: float
    worker_memory: float

    @property
    def hard_timeout(self) -> float:
        """Seconds after which the system ends a worker that does not come back from its decoder."""
        return 1.25 * self.file_timeout + 1


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
        fit=settings.fit,
        keep_truncated=settings.keep_truncated,
        file_timeout=settings.file_timeout,
        worker_memory=settings.worker_memory,
    )


def measure(sample: SourceSample, options: MeasureOptions) -> SampleError | None:
    """Open one sample's media and put what it needs into the spool.

    Returns:
        None, or why the sample has to be set aside: an error is a value here, because it is expected and has to come
        back from a worker.
    """
    paths = sample.paths
    try:
        with time_limit(options.file_timeout), as_files(sample.paths, options.spool) as paths:
            opened = _OPEN[sample.kind](replace(sample, paths=paths), options)
    except SampleError as error:
        return _anonymous(sample, error.reason, error.detail, paths)
    except MemoryError:
        detail = f"needs more memory than a worker has, {options.worker_memory:g} GiB (--worker-memory)"
        return SampleError(sample.id, Reason.TOO_LARGE, detail)
    except Exception as error:  # hostile bytes make decoders raise nearly anything, and one file must not end a pack
        return _anonymous(sample, Reason.CORRUPT, f"cannot be read ({type(error).__name__}: {error})", paths)
    write_spool(options.spool, sample, opened.measured, opened.member)
    return None


def _anonymous(sample: SourceSample, reason: Reason, detail: str, opened: Sequence[Path]) -> SampleError:
    """The error for the manifest, which is published: it names files, not folders of this machine."""
    for path in (*opened, *sample.paths):
        detail = detail.replace(str(path), path.name)
    return SampleError(sample.id, reason, detail)


def is_measured(sample: SourceSample, options: MeasureOptions) -> bool:
    """Whether the spool holds the sample, whole and up to date, and `options` would not set it aside."""
    facts = read_facts(options.spool, sample)
    if facts is None or (facts.truncated and not options.keep_truncated):
        return False
    return read_spool(options.spool, sample) is not None


def measure_all(
    samples: Sequence[SourceSample], options: MeasureOptions, *, workers: int
) -> Iterator[tuple[SourceSample, SampleError | None]]:
    """Measure samples; yields each with its outcome, in whatever order they finish.

    A decoder that crashes the whole worker process (a broken file can do that), or never comes back, sets its own
    sample aside and no other. Without workers nothing can protect this process from that.
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
            began = time.monotonic()
            yield from _run_pool(iter([sample]), options, workers=1, suspects=crashed)
            if crashed and time.monotonic() - began > options.hard_timeout:
                yield sample, SampleError(sample.id, Reason.TIMEOUT, took_longer(options.file_timeout))
            elif crashed:
                yield sample, SampleError(sample.id, Reason.CORRUPT, "the decoder crashed on it")


def _run_pool(
    todo: Iterator[SourceSample], options: MeasureOptions, *, workers: int, suspects: list[SourceSample]
) -> Iterator[tuple[SourceSample, SampleError | None]]:
    """Run until `todo` is empty or the pool breaks; then `suspects` holds what was under way."""
    running: dict[Future[SampleError | None], SourceSample] = {}
    # spawn: a forked copy of a process with running threads (BLAS, arrow, progress bars) may hang.
    context = multiprocessing.get_context("spawn")
    pool = ProcessPoolExecutor(
        max_workers=workers, mp_context=context, initializer=_start_worker, initargs=(options.worker_memory,)
    )
    try:
        # Few at a time: a million futures at once would hold a million samples, and a crash would suspect them all.
        with no_interruption():
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
            with no_interruption():
                _submit(pool, running, islice(todo, len(done)), options)
    finally:
        pool.shutdown(cancel_futures=True)


def _start_worker(memory: float) -> None:
    signal.signal(signal.SIGINT, signal.SIG_DFL)  # Ctrl-C: end at once and without a traceback
    limit_memory(memory)
    _end_with_parent()


def limit_memory(memory: float) -> None:
    """Let this process allocate at most so many GiB."""
    _, most = resource.getrlimit(resource.RLIMIT_DATA)
    wanted = int(memory * (1 << 30))
    limit = wanted if most == resource.RLIM_INFINITY else min(wanted, most)
    resource.setrlimit(resource.RLIMIT_DATA, (limit, most))


def measure_in_worker(
    sample: SourceSample,
    options: MeasureOptions,
    function: Callable[[SourceSample, MeasureOptions], SampleError | None] = measure,
) -> SampleError | None:
    """`measure`, in a process that the system ends when it does not come back in time."""
    signal.signal(signal.SIGALRM, signal.SIG_DFL)  # whatever the decoder is in the middle of
    signal.setitimer(signal.ITIMER_REAL, options.hard_timeout)
    try:
        return function(sample, options)
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)


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
            # `measure` by name, so that a test's stand-in reaches the worker.
            running[pool.submit(measure_in_worker, sample, options, measure)] = sample
        except BrokenProcessPool as error:
            failed: Future[SampleError | None] = Future()
            failed.set_exception(error)
            running[failed] = sample


class _Opened(NamedTuple):
    """What goes into the spool: the facts, and the msgpack list of frames or images."""

    measured: Measured
    member: bytes


class _Frame(NamedTuple):
    """What stays of a frame: images of a whole video would take 90 MB. `light` is empty where nobody asks for it."""

    jpeg: bytes
    light: NDArray[np.uint8]
    width: int
    height: int


def _frame(image: Image, *, light: bool) -> _Frame:
    return _Frame(jpeg.encode(image), luma(image) if light else np.empty(0, np.uint8), image.width, image.height)


def _open_video(sample: SourceSample, options: MeasureOptions) -> _Opened:
    info = probe(sample.paths[0])
    breaks_off = _breaks_off(info)
    if breaks_off and not options.keep_truncated:
        detail = f"{breaks_off} (--keep-truncated packs what can be read)"
        raise SampleError(sample.id, Reason.TRUNCATED, detail)
    pool = pool_frames(info.pts, info.duration, slots=options.slots)
    indices = sorted({int(pool[slot]) for slot in options.wanted})
    make = partial(_frame, light=options.coverage)
    frames = decode_each(info, indices, short_side=options.short_side, fit=options.fit, make=make)
    loss: tuple[float, ...] = ()
    if options.coverage:
        place = {index: number for number, index in enumerate(indices)}
        light = np.stack([frames[place[int(index)]].light for index in pool])
        loss = residuals(light, budgets=options.budgets, smallest=options.smallest)
    member = pack_list([frame.jpeg for frame in frames]).data
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
        frame_width=frames[0].width,
        frame_height=frames[0].height,
        residuals=tuple(float(r) for r in loss),
    )
    notes = (breaks_off,) if breaks_off else ()
    return _Opened(Measured(video=facts, notes=notes, truncated=bool(breaks_off)), member)


def _breaks_off(info: VideoInfo) -> str:
    """How a video is shorter than its container says; empty where it is not. Two frames more or less are common."""
    if info.missing:
        bytes_ = f"{info.missing} byte{'s' if info.missing > 1 else ''} or more"
        return f"{info.path.name} breaks off: {bytes_} missing, {info.duration:.2f} s can be read"
    if info.duration >= 0.95 * info.stated or info.stated - info.duration <= 2 / info.fps:
        return ""
    return f"{info.path.name} breaks off: {info.duration:.2f} of the {info.stated:.2f} s that it states can be read"


def _open_images(sample: SourceSample, _: MeasureOptions) -> _Opened:
    opened = []
    for path in sample.paths:
        check_time(path.name)
        opened.append(images.open_image(path))
    facts = tuple(
        PackedImage(name=path.name, sha256=image.sha256, width=image.width, height=image.height)
        for path, image in zip(sample.paths, opened, strict=True)
    )
    notes = tuple(
        f"{path.name} is an animation of {image.frames} pictures: the first is used"
        for path, image in zip(sample.paths, opened, strict=True)
        if image.frames > 1
    )
    return _Opened(Measured(images=facts, notes=notes), pack_list([image.data for image in opened]).data)


_OPEN: dict[Kind, Callable[[SourceSample, MeasureOptions], _Opened]] = {
    "video": _open_video,
    "images": _open_images,
    "text": lambda sample, options: _Opened(Measured(), b""),
}
