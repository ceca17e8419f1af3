"""How is a run made, gone on with, and shared among processes?

Any number of processes may be given one `--out`. Each takes the next batch that nobody has in hand, and writes to a
file of its own; whoever finds everything answered puts the records together and computes the scores. A process that
ends, however it ends, leaves its batch to the others. So one process is only the simplest case, and a run that was
killed is one whose other processes are all dead.
"""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

from tqdm import tqdm

from vtrap_bench import scores as scoring
from vtrap_bench.ahead import Ahead
from vtrap_bench.answer import ask
from vtrap_bench.answered import WORK, Answered
from vtrap_bench.backends import Backend, BackendSettings, OpenBackend
from vtrap_bench.backends.tokens import TOKENS, TokenFile, read_tokens
from vtrap_bench.claims import Worker
from vtrap_bench.jobs import Bench, Job, all_tasks, batches, open_bench
from vtrap_bench.models import LocalModel
from vtrap_bench.records import RECORDS, RUN, Record, RecordFile, read_records
from vtrap_bench.run_file import (
    describe,
    note,
    read_info,
    refuse_other,
    same_preprocessing,
    same_server,
    what_decides,
    write_json,
)
from vtrap_bench.run_settings import RunSettings, loading
from vtrap_data.encoding.manifest import differences
from vtrap_data.errors import UsageError
from vtrap_data.parsing import parse_json, typed

_LOOK = 0.2
"""Seconds between two looks at what other processes have finished, for one that has nothing else to do."""
_GLANCE = 1.0
"""The same for one that is at work."""
_SHARED = ("label", "frames", "tasks", "batch_size", "bootstrap")
"""What processes of one run must agree on, beside what decides the answers."""


class _Plan(NamedTuple):
    """What is to be done. `before` is the `run.json` it was made from."""

    before: dict[str, Any] | None
    loading: BackendSettings
    info: dict[str, Any]
    benches: dict[str, Bench]

    @property
    def jobs(self) -> list[Job]:
        return [job for bench in self.benches.values() for job in bench.jobs]


def score_model(
    settings: RunSettings, *, model: LocalModel, open_backend: OpenBackend, reuse: Sequence[Path] = ()
) -> dict[str, Any]:
    """Make a run, or go on with it, or help with it, or do nothing if it is finished.

    Tasks are added to those the folder already has, and more items to those it already has; nothing is answered twice.

    Args:
        settings: Of the run.
        model: From `local_model(settings.model)`.
        open_backend: Called only if something is left to answer.
        reuse: Folders of other runs of the model: answers that cannot differ (pictures do not depend on the number of
            video frames) are copied from there.

    Returns:
        The content of `scores.json`.

    Raises:
        UsageError: The folder holds a run with other settings, or other processes are at work there with other ones.
    """
    plan = _plan(settings, model)
    if (scores := _finished(settings, plan, Answered(settings.out))) is not None:
        if (settings.out / WORK).is_dir():
            with suppress(OSError, UsageError):  # it is not needed: the folder may be read-only by now, or in use
                _tidy(settings, plan)
        return scores
    with Worker(settings.out / WORK) as me:
        with me.lock():
            if read_info(settings.out) != plan.before:
                plan = _plan(settings, model)
            answered = Answered(settings.out)
            if (scores := _finished(settings, plan, answered)) is not None:
                return scores
            pending = _begin(settings, plan, answered, me, reuse)
            part = RecordFile(me.folder / RECORDS)
        try:
            with part:
                _work(settings, plan, pending, answered, part, me, model=model, open_backend=open_backend)
        finally:
            if not part.records:  # its tokens may have been written before the disk was full
                _remove_parts(me)
        with me.lock():
            answered.refresh()
            if other := _differences(read_info(settings.out), plan):
                note(f"{settings.out}: another process has begun to add to it ({'; '.join(other)}), and will score it")
                return _scores(settings, plan, answered)
            if (scores := _finished(settings, plan, answered)) is None:
                answered.fold(me)
                _remove_torn(settings.out)
                scores = _scores(settings, plan, answered)
                write_json(settings.out / scoring.SCORES, scores)
            me.forget_claims()
            _remove_parts(me)
    return scores


def _tidy(settings: RunSettings, plan: _Plan) -> None:
    """Remove what a process left that was killed when all was done but for that."""
    with Worker(settings.out / WORK) as me, me.lock():
        answered = Answered(settings.out)
        if _finished(settings, plan, answered) is not None:
            answered.fold(me)
            me.forget_claims()


def _plan(settings: RunSettings, model: LocalModel) -> _Plan:
    before = read_info(settings.out)
    load_as = loading(settings, model)
    decides = what_decides(settings, model, load_as)
    if before is not None:
        refuse_other(before, decides, settings)
        same_server(before["backend"], settings.serving.served_name, settings)
    benches = [open_bench(task, settings, decides, before) for task in all_tasks(settings.tasks, before)]
    info = describe(settings, model, load_as, decides, benches, before)
    return _Plan(before, load_as, info, {b.task.name: b for b in benches})


def _finished(settings: RunSettings, plan: _Plan, answered: Answered) -> dict[str, Any] | None:
    """The scores that are there, if they are of everything that is asked for and of these settings."""
    wanted = {job.key for job in plan.jobs}
    if stray := [r for r in answered.records.values() if r.key not in wanted]:
        raise UsageError(
            f"{settings.out / RECORDS} holds {len(stray)} records of other settings or items (the first: "
            f"{stray[0].item_id}): choose another --out"
        )
    try:
        scores: dict[str, Any] = parse_json((settings.out / scoring.SCORES).read_bytes())
        typed(scoring.Scores, scores, known_only=True)
    except (OSError, ValueError):  # not there, or damaged: they are computed again
        return None
    now = read_info(settings.out) or {}
    same = all(now.get(k) == plan.info[k] for k in ("label", "bootstrap", "tasks"))
    same = same and scores.get("model") == plan.info["model"]["name"] and wanted <= answered.records.keys()
    current = same and scores.get("records_sha256") == scoring.digest(answered.records.values())
    return scores if current else None


def _scores(settings: RunSettings, plan: _Plan, answered: Answered) -> dict[str, Any]:
    head = {"model": settings.model, "label": plan.info["label"], "frames": str(settings.frames)}
    records = [answered.records[job.key] for job in plan.jobs]
    return scoring.compute([b.task for b in plan.benches.values()], records, head=head, seed=settings.seed)


def _differences(now: Mapping[str, Any] | None, plan: _Plan) -> list[str]:
    """What processes of one run must agree on, and do not."""
    return list(differences({k: (now or {}).get(k) for k in _SHARED}, {k: plan.info[k] for k in _SHARED}))


def _begin(settings: RunSettings, plan: _Plan, answered: Answered, me: Worker, reuse: Sequence[Path]) -> list[Job]:
    """Join those who are at work, or tidy up and begin. The items to be answered, the same for all who are at work."""
    other = _differences(plan.before, plan)
    if answered.at_work(me, sure=bool(other)):
        if other:
            raise UsageError(
                f"--out {settings.out}: another process is at work there with other settings ({'; '.join(other)}): "
                "give the same ones to help it, or wait for it"
            )
    else:
        # scores.json says "finished", so it goes before anything else changes and comes back last.
        (settings.out / scoring.SCORES).unlink(missing_ok=True)
        _remove_torn(settings.out)
        write_json(settings.out / RUN, plan.info)
        left = {job.key for job in plan.jobs} - answered.records.keys()
        copies = [r for folder in reuse for r in _records(folder) if r.key in left]
        tokens = {k: steps for folder in reuse if copies for k, steps in read_tokens(folder / TOKENS).items()}
        answered.fold(me, more=copies, tokens=tokens)
        me.forget_claims()
        if done := len(answered.records):
            note(f"{settings.out}: {done} items are answered already, {len(plan.jobs) - done} to go")
    # Not what others have answered since they began: the batches must be cut alike.
    settled = {r.key for r in read_records(settings.out / RECORDS)}
    return [job for job in plan.jobs if job.key not in settled]


def _work(
    settings: RunSettings,
    plan: _Plan,
    pending: Sequence[Job],
    answered: Answered,
    part: RecordFile,
    me: Worker,
    *,
    model: LocalModel,
    open_backend: OpenBackend,
) -> None:
    """Answer until everything is answered, by this process or another."""
    total = len(plan.jobs)

    @cache
    def backend() -> Backend:
        opened = open_backend(plan.loading)
        _write_down(opened, settings, plan, me, model)
        return opened

    bar = tqdm(total=total, initial=len(answered.records), desc=settings.out.name, unit="item", mininterval=0.5)
    ahead = Ahead(
        batches(pending, settings.batch_size), answered, me, benches=plan.benches, backend=backend, settings=settings
    )
    with bar, TokenFile(me.folder / TOKENS) as tokens, ahead:
        while True:
            if (one := ahead.next()) is not None:
                found = ask(backend(), one.batch, one.ready.result(), plan.benches[one.batch[0].task], settings)
                tokens.append(found.tokens)
                answered.add(part.append(found.records), written_to=part.path)
                if found.failure is not None:
                    # What was answered before the failure is recorded; then the run ends with it.
                    raise found.failure
                answered.refresh(older_than=_GLANCE)
            elif len(answered.records) < total:
                time.sleep(_LOOK)
                answered.refresh()
            else:
                break
            bar.update(len(answered.records) - bar.n)


def _write_down(backend: Backend, settings: RunSettings, plan: _Plan, me: Worker, model: LocalModel) -> None:
    """Put into `run.json` what is known only once the model is loaded; refuse what differs from the others'."""
    with me.lock():
        info = read_info(settings.out) or plan.info
        preprocessing = same_preprocessing(info["preprocessing"], backend.preprocessing, settings, model)
        facts = dict(getattr(backend, "facts", {}))
        same_server(info["backend"], facts.get("served_name"), settings)
        write_json(settings.out / RUN, {**info, "preprocessing": preprocessing, "backend": facts})


def _remove_parts(me: Worker) -> None:
    """Remove what this process has written for itself, which is in the run's files, or is nothing."""
    for mine in (RECORDS, TOKENS):
        (me.folder / mine).unlink(missing_ok=True)


def _remove_torn(out: Path) -> None:
    """Remove files that a killed process had not finished writing; with the lock held, nobody writes one."""
    for path in out.glob(".*.json.tmp*"):
        path.unlink(missing_ok=True)


def _records(folder: Path) -> list[Record]:
    path = folder / RECORDS
    return read_records(path) if path.is_file() else []
