"""How is pass 1 of packing spread over several machines? As Ray tasks: one sample each, in the cluster's processes.

The spool is the only thing that travels besides small facts, so the folder of the corpus and the media must lie on
storage that all machines see under the same path, and vtrap must be installed on each.
"""

from __future__ import annotations

import os
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from itertools import islice
from pathlib import Path
from typing import Any

from vtrap_data.errors import Reason, SampleError, UnreachableError, UsageError
from vtrap_data.media.limits import took_longer
from vtrap_data.samples import SourceSample
from vtrap_data.shards.measure import MeasureOptions, limit_memory, measure_in_worker
from vtrap_data.shards.spool import is_spooled, spool_name

PATIENCE = 60.0
"""Seconds until a file that another machine has written must be seen here: network storage remembers for so long that
there was none."""
_TRIES = 3

Outcome = tuple[SourceSample, SampleError | None]


def check_ray() -> None:
    """Raise UsageError when Ray is not installed: before anything is measured."""
    from importlib.util import find_spec

    if find_spec("ray") is None:
        raise UsageError('--executor ray needs Ray: pip install "vtrap[ray]"')


def measure_on_ray(
    samples: Sequence[SourceSample], options: MeasureOptions, *, workers: int, address: str | None
) -> Iterator[Outcome]:
    """Measure samples on a Ray cluster; yields each with its outcome, in whatever order they finish.

    A task whose process or machine is gone is run again, alone: a machine that was lost costs no sample, and a file
    that kills its decoder is set aside.

    Args:
        samples: What to measure.
        options: As for `measure_all`.
        workers: Tasks at a time; 0: as many as the cluster has cores.
        address: Of the cluster. None: that of RAY_ADDRESS, else a cluster of this machine for as long as it takes.

    Raises:
        UsageError: There is no such cluster, or its machines do not share the folder of the corpus, or the media.
        UnreachableError: Machines go away again and again.
    """
    import ray

    cluster: Any = ray  # its annotations are incomplete
    with _connected(address):
        at_once = workers or max(1, int(cluster.cluster_resources().get("CPU", 1)))
        # max_retries: Ray would run the killer of one process again in others.
        task = ray.remote(num_cpus=1, max_retries=0)(_measure)
        todo = iter(samples)
        running: dict[Any, SourceSample] = {}
        suspects: list[SourceSample] = []
        while True:
            for sample in islice(todo, 2 * at_once - len(running)):
                running[task.remote(sample, options)] = sample
            if not running:
                break
            (done,), _ = ray.wait(list(running), num_returns=1)
            sample = running.pop(done)
            try:
                outcome = ray.get(done)
            except _lost():
                suspects.append(sample)
                continue
            yield sample, _checked(outcome, sample, options)
        for sample in suspects:
            yield sample, _alone(task, sample, options)


def _lost() -> tuple[type[Exception], ...]:
    """What Ray raises for a task whose process, or whose machine, is gone."""
    from ray import exceptions

    return exceptions.WorkerCrashedError, exceptions.NodeDiedError, exceptions.OutOfMemoryError


def _alone(task: Any, sample: SourceSample, options: MeasureOptions) -> SampleError | None:
    """Run a task that was lost again, with no other beside it: who is to blame now?"""
    import ray

    for _ in range(_TRIES):
        try:
            return _checked(ray.get(task.remote(sample, options)), sample, options)
        except ray.exceptions.NodeDiedError:
            continue
        except ray.exceptions.OutOfMemoryError:
            detail = "its machine ran out of memory, with no other of our files beside it"
            return SampleError(sample.id, Reason.TOO_LARGE, detail)
        except ray.exceptions.WorkerCrashedError:
            if _seconds_since_start(sample, options) > options.hard_timeout:
                return SampleError(sample.id, Reason.TIMEOUT, took_longer(options.file_timeout))
            return SampleError(sample.id, Reason.CORRUPT, "the decoder crashed on it")
    raise UnreachableError(
        f"machines of the cluster went away {_TRIES} times while they measured {sample.id}: the same command goes on"
    )


def _measure(sample: SourceSample, options: MeasureOptions) -> SampleError | None:
    """Runs in a process of the cluster."""
    if not options.spool.is_dir():
        return None  # a machine without the shared storage: `_checked` says so
    # By this the other side can tell a decoder that hangs from a process that was slow to start.
    _start_mark(sample, options).touch()
    limit_memory(options.worker_memory)
    return measure_in_worker(sample, options)


def _start_mark(sample: SourceSample, options: MeasureOptions) -> Path:
    return options.spool / f"{spool_name(sample)}.started"


def _seconds_since_start(sample: SourceSample, options: MeasureOptions) -> float:
    try:
        return time.time() - _start_mark(sample, options).stat().st_mtime
    except OSError:  # it never began
        return 0.0


def _checked(outcome: SampleError | None, sample: SourceSample, options: MeasureOptions) -> SampleError | None:
    if outcome is not None and outcome.reason is Reason.MISSING and all(path.exists() for path in sample.paths):
        raise UsageError(
            f"a machine of the cluster does not see the media of {sample.id}, which are here: they must lie on "
            "storage that all machines share, under the same path"
        )
    given_up = time.monotonic() + PATIENCE
    while outcome is None and not is_spooled(options.spool, sample):
        if time.monotonic() > given_up:
            raise UsageError(
                f"a machine of the cluster has measured {sample.id}, but its result is not in {options.spool}: "
                "--out must lie on storage that all machines share"
            )
        time.sleep(0.5)
    return outcome


@contextmanager
def _connected(address: str | None) -> Iterator[None]:
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")  # Ray would report its use to its makers
    import ray

    if ray.is_initialized():
        yield
        return
    options: dict[str, Any] = {"log_to_driver": False, "logging_level": "ERROR", "configure_logging": False}
    if address is None and not os.environ.get("RAY_ADDRESS"):
        options["include_dashboard"] = False
        address = "local"
    try:
        ray.init(address=address, runtime_env={"env_vars": {"OMP_NUM_THREADS": "1"}}, **options)
    except (ConnectionError, ValueError, RuntimeError) as error:
        raise UsageError(f"--ray-address {address or os.environ.get('RAY_ADDRESS')}: {error}") from None
    try:
        yield
    finally:
        ray.shutdown()
