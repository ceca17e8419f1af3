"""How does a packed corpus get other budgets without touching video? Frames are copied, budgets written anew."""

from __future__ import annotations

import fcntl
import json
import math
import os
import shutil
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor, as_completed
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from pathlib import Path
from threading import Event

import numpy as np
from tqdm import tqdm

from hub_cards.scratch import locked
from vtrap_data.budgets.allocate import DELTA, JUDGED
from vtrap_data.budgets.demand import Scorer
from vtrap_data.errors import UsageError, VtrapError
from vtrap_data.files import sha256_file, sync_directory, write_bytes
from vtrap_data.media.select import frame_ids
from vtrap_data.parsing import parse_json
from vtrap_data.samples import Example
from vtrap_data.shards.allocation import allocate_again, asked_items, check_again
from vtrap_data.shards.asked import Asked, demand_scores
from vtrap_data.shards.card import write_card
from vtrap_data.shards.index import count_rows, frame_counts, read_index, write_index
from vtrap_data.shards.manifest import INDEX, Manifest, PackSettings, check_folder, read_manifest, write_manifest
from vtrap_data.shards.pack import packed_item, scorer_versions, shard_limits
from vtrap_data.shards.stored import StoredSample, read_stored
from vtrap_data.shards.write import write_shards


@dataclass(frozen=True, slots=True, kw_only=True)
class Judge:
    """A model that is asked about every item.

    Attributes:
        scores: Given a function from a budget to the item with the frames of that budget, and the candidate budgets,
            a number for each: the answer loss for the strategy `loss`, its preference for `vlm`.
        looks_at: Budgets whose frames it will ask for, of the candidates.
        opened: Given a corpus and a budget, a function from the number of an item to the item with its frames.
        facts: Which model, which prompt: recorded in the manifest. Scores are only reused under the same facts.
        at_once: Items that may be asked about at the same time, in as many threads.
    """

    scores: Callable[[Callable[[int], Example], Sequence[int]], Sequence[float]]
    looks_at: Callable[[Sequence[int]], Sequence[int]]
    opened: Callable[[Path, int], Callable[[int], Example]]
    facts: Mapping[str, str | int | float]
    at_once: int = 1


def reallocate(
    source: Path,
    out: Path,
    *,
    strategy: str,
    mean_frames: float | None = None,
    scorer: Scorer | None = None,
    seed: int | None = None,
    name: str | None = None,
    judge: Judge | None = None,
    delta: float = DELTA,
    missing: Path | None = None,
) -> Manifest:
    """Write a corpus with the media of `source` and other budgets. Every stored frame is kept.

    Args:
        source: A packed corpus.
        out: Folder of the new one; new or empty.
        strategy: "fixed:N", "instruction", "coverage", "hybrid", "random"; or, with a judge, "loss" or "vlm".
        mean_frames: Mean budget to hit; None: as `source`.
        scorer: What reads the questions; None: as `source`.
        seed: Of "random"; None: as `source`.
        name: Name of the new corpus; None: as `source`.
        judge: For "loss" and "vlm". What it says is kept item by item, so that a killed run goes on.
        delta: For "loss".
        missing: File for the ids, one a line, of all items that need frames which are not stored, if there are any.

    Returns:
        The manifest of the new corpus.

    Raises:
        UsageError: `out` is not empty or another process writes it, the strategy needs what was not measured, or needs
            frames that are not stored.
        VtrapError: The judge gives an item a score that is NaN or infinite.
    """
    old = read_manifest(source)
    settings = replace(
        old.settings,
        strategy=strategy,
        mean_frames=old.settings.mean_frames if mean_frames is None else mean_frames,
        scorer=scorer or old.settings.scorer,
        seed=old.settings.seed if seed is None else seed,
        name=name or old.settings.name,
    )
    check_folder(out)
    _check_empty(out)
    out = out.resolve()  # `.` has no name to which neighbours could be called alike
    if (strategy in JUDGED) != (judge is not None):
        raise UsageError(
            f"--model goes with --strategy {' and '.join(JUDGED)}, and they with it, not with {strategy!r}"
        )
    check_again(settings, delta=delta)
    asked = asked_items(source)
    if judge is not None:
        most = max(judge.looks_at(settings.budgets))  # what is told has to do for all of them
        _check_stored(source, dict.fromkeys((one.id for one in asked), most), settings, missing)
    with _unfinished(out) as half:
        notes = out.with_name(f".{out.name}.scores.jsonl")
        if judge is not None:
            asked = _ask(source, asked, judge, settings, notes=notes)
        scores = demand_scores(asked, settings)
        allocation = allocate_again(asked, scores, settings, delta=delta) if asked else None
        granted = dict(zip((one.id for one in asked), allocation.budgets if allocation else (), strict=True))
        _check_stored(source, granted, settings, missing)
        said = {one.id: one.scores for one in asked}
        demand = {one.id: score for one, score in zip(asked, scores, strict=True)}
        rewritten = _rewritten(source, granted, demand, said, settings)
        stored = tqdm(rewritten, "write", old.counts["samples"], unit="sample", disable=None)
        written = write_shards(half, stored, split=settings.split, limits=shard_limits(settings))
        write_index(half, written.index)
        manifest = replace(
            old,
            settings=settings,
            params={**(allocation.params if allocation else {}), **(judge.facts if judge else {})},
            counts={**count_rows(written.index), "bytes": sum(shard.bytes for shard in written.shards)},
            shards=written.shards,
            index_sha256=sha256_file(half / INDEX),
            versions={name: v for name, v in old.versions.items() if name != "embedding"} | scorer_versions(settings),
        )
        write_card(half, manifest, written.index)
        write_manifest(half, manifest)
        half.replace(out)
        sync_directory(out.parent)  # before the answers go, which took hours or money
        notes.unlink(missing_ok=True)
    return manifest


def _check_empty(out: Path) -> None:
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise UsageError(f"--out {out} is not an empty folder: choose another")


@contextmanager
def _unfinished(out: Path) -> Iterator[Path]:
    """An empty folder beside `out`, for this process alone, to be renamed to it.

    What is written has another name until it is whole: a kill leaves no half corpus at `out` that would block the next
    attempt.
    """
    half = out.with_name(f".{out.name}.unfinished")
    half.mkdir(parents=True, exist_ok=True)
    try:
        lock = locked(half, fcntl.LOCK_NB)
    except (BlockingIOError, FileNotFoundError):
        raise UsageError(f"another process is giving {out} its budgets right now") from None
    try:
        _check_empty(out)  # again: that other process may just have ended, and `half` be what is now `out`
        for left in half.iterdir():
            shutil.rmtree(left) if left.is_dir() else left.unlink()
        yield half
    finally:
        with suppress(OSError):  # it holds something, or is `out` by now
            half.rmdir()
        os.close(lock)


def _ask(source: Path, asked: Sequence[Asked], judge: Judge, settings: PackSettings, *, notes: Path) -> list[Asked]:
    """Let the judge look at every item. Answers are noted as they come, whatever becomes of the other questions."""
    at_budget = {budget: judge.opened(source, budget) for budget in judge.looks_at(settings.budgets)}
    place = {name: row for row, name in enumerate(read_index(source, ("item_id",))["item_id"].to_pylist())}
    head = {"corpus": read_manifest(source).index_sha256, "budgets": list(settings.budgets), **judge.facts}
    known = _noted(notes, head)
    with notes.open("a", encoding="utf-8") as file:
        if not known:
            file.truncate(0)
            file.write(json.dumps(head))
        # Of its own whatever stands before it: a kill may have cut off the last line.
        file.write("\n")

        todo = [one for one in asked if one.id not in known]
        bar = tqdm(total=len(asked), desc="ask", initial=len(asked) - len(todo), unit="item", disable=None)
        pool = ThreadPoolExecutor(judge.at_once)

        failed = Event()

        def scores(one: Asked) -> tuple[float, ...] | None:
            if failed.is_set():
                return None  # questions cost time, and some cost money
            try:
                said = judge.scores(lambda budget: at_budget[budget](place[one.id]), settings.budgets)
                return _finite(one.id, said, settings.budgets)
            except BaseException:
                failed.set()
                raise

        def note(answer: Future[tuple[float, ...] | None]) -> None:
            name = questions.pop(answer)
            if (said := answer.result()) is None:
                return
            known[name] = said
            file.write(json.dumps([name, said]) + "\n")
            file.flush()
            bar.update()

        questions = {pool.submit(scores, one): one.id for one in todo}
        try:
            for answer in as_completed(list(questions)):
                note(answer)
        finally:
            pool.shutdown(cancel_futures=True)
            for answer in [one for one in questions if not one.cancelled() and one.exception() is None]:
                note(answer)
            bar.close()
    return [one._replace(scores=known[one.id]) for one in asked]


def _finite(name: str, said: Sequence[float], budgets: Sequence[int]) -> tuple[float, ...]:
    """What a judge says of an item, which is kept for ever: refused where it cannot be compared."""
    scores = tuple(float(score) for score in said)
    for budget, score in zip(budgets, scores, strict=True):
        if not math.isfinite(score):
            raise VtrapError(
                f"{name}: the model says {score} of {budget} frames, which cannot be compared: look at the item and "
                "at what number type the model computes in, or choose another --model"
            )
    return scores


def _noted(notes: Path, head: Mapping[str, object]) -> dict[str, tuple[float, ...]]:
    """What an earlier attempt with the same judge has left; a line that a kill cut off is asked again."""
    lines = notes.read_text(encoding="utf-8").splitlines() if notes.exists() else []
    try:
        if not lines or parse_json(lines[0]) != head:
            return {}
    except ValueError:
        return {}
    known = {}
    for line in lines[1:]:
        try:
            name, scores = parse_json(line, nan=False)
            known[name] = tuple(scores)
        except (ValueError, TypeError):
            continue
    return known


def _check_stored(source: Path, granted: dict[str, int], settings: PackSettings, missing: Path | None) -> None:
    """Find items whose new budget needs frames that the corpus lacks, before anything is written."""
    index = read_index(source, ("item_id", "kind", "pool"))
    names = index["item_id"].to_pylist()
    budgets = np.array([granted.get(name, 0) for name in names], dtype=np.int64)
    lacking = np.flatnonzero(frame_counts(index, budgets, smallest=settings.smallest) < 0).tolist()
    if lacking:
        if missing is not None:
            write_bytes(missing, "".join(f"{names[i]}\n" for i in lacking).encode())
        listed = ", ".join(names[i] for i in lacking[:3])
        listed += f" and {len(lacking) - 3} more" if len(lacking) > 3 else ""
        raise UsageError(
            f"{source} does not store the frames that {settings.strategy} needs for {len(lacking)} items ({listed}): "
            f"pack the media again with --store {max(int(budgets[i]) for i in lacking)}"
            + ("" if missing is None else f"; all of them are in {missing}")
        )


def _rewritten(
    source: Path,
    granted: dict[str, int],
    demand: dict[str, float | None],
    said: dict[str, tuple[float, ...]],
    settings: PackSettings,
) -> Iterator[StoredSample]:
    for stored in read_stored(source, members=True):
        video = stored.sample.video
        items = []
        for item in stored.sample.items:
            budget = granted.get(item.id, 0)
            ids = frame_ids(video.pool, budget, smallest=settings.smallest) if video else ()
            packed = packed_item(item, budget=budget, ids=ids, demand=demand.get(item.id))
            items.append(replace(packed, scores=said.get(item.id, ())))
        yield stored._replace(sample=replace(stored.sample, items=tuple(items)))
