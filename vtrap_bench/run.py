"""How good is a model on these tasks? The command `python -m vtrap_bench run`.

A run is one folder: `run.json` (everything that decides the answers), `records.jsonl` (an answer per line, appended as
they come), `scores.json` (written when every item is answered). It can be killed at any moment; the same command goes
on where it stopped.
"""

from __future__ import annotations

import argparse
import hashlib
import importlib.metadata
import json
import sys
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal, NamedTuple

from tqdm import tqdm

import vtrap_bench
from vtrap_bench import scores as scoring
from vtrap_bench.backends import (
    BACKENDS,
    BATCH_SIZE,
    GENERATION,
    Backend,
    BackendSettings,
    Choice,
    Generation,
    OpenBackend,
    UnfinishedError,
)
from vtrap_bench.backends.tokens import TOKENS, append_tokens, read_tokens
from vtrap_bench.extract import EXTRACTOR_VERSION, AnswerForm, Extraction, extract, is_right
from vtrap_bench.models import LocalModel, local_model, saved_dtype
from vtrap_bench.records import RECORDS, Record, RecordFile, read_records, record_key
from vtrap_bench.statistics import RESAMPLES
from vtrap_bench.tasks import TASKS, Task, select_tasks
from vtrap_bench.tasks.locate import MANIFEST, ensure, present
from vtrap_bench.tasks.task import PROMPTS_VERSION, PromptProfile
from vtrap_data.encoding.manifest import differences
from vtrap_data.errors import UsageError
from vtrap_data.loading.dataset import PackedDataset
from vtrap_data.media.select import FRAMES_VERSION
from vtrap_data.samples import Example, Item
from vtrap_data.shards.files import canonical_json, sha256_file, write_bytes
from vtrap_data.sources.benchmarks.tempcompass import option_parts

RUN = "run.json"
RUN_FORMAT = 1
TRAINING_MANIFEST = "preprocessing.json"
"""Beside a checkpoint that vtrap trained: the preprocessing it was trained with."""

Frames = int | Literal["budget"]

EXAMPLES = """\
examples:
  python -m vtrap_bench run --model toy-vl --tasks toy-image,toy-video --frames 16 --out runs/base
  python -m vtrap_bench run --model runs/sft --tasks image,video --frames budget --out runs/sft-scores
  python -m vtrap_bench run --model qwen2.5-vl-7b --tasks video --frames 8,16,32 --benchmarks packed --out runs/7b
    # three runs: runs/7b/frames-8, runs/7b/frames-16, runs/7b/frames-32
  python -m vtrap_bench run --model toy-vl --tasks image --limit 50 --out runs/quick
"""


@dataclass(frozen=True, slots=True, kw_only=True)
class RunSettings:
    """One run.

    Attributes:
        model: As the user typed it.
        tasks: What to score.
        frames: Frames shown per video: a number, or "budget" for the budgets the benchmark was packed with.
        out: Folder of the run.
        label: What tables call the model.
        benchmarks: Folder of packed benchmarks; None: the cache.
        limit: At most this many items per task: always the same ones, and the more include the fewer.
        batch_size: Items per batch. Does not change the answers.
        seed: Of the bootstrap.
        backend: Key of BACKENDS.
        dtype: "auto": what the checkpoint was saved in on a GPU, float32 on a CPU.
        device: "auto" or as torch names it.
        profile: Prompt profile of every task.
        answers: "generate": the model writes; "likelihood": of the options, the one that it would most likely write.
        engine: For vLLM; this and the rest as in `BackendSettings`.
        base_url: For a server.
        served_name: For a server.
        concurrency: For a server.
        timeout: For a server.
        videos: For a server.
    """

    model: str
    tasks: Sequence[Task]
    frames: Frames
    out: Path
    label: str | None = None
    benchmarks: Path | None = None
    limit: int | None = None
    batch_size: int = 32
    seed: int = 0
    backend: str = "transformers"
    dtype: str = "auto"
    device: str = "auto"
    profile: str = "vtrap"
    answers: Literal["generate", "likelihood"] = "generate"
    engine: str = "{}"
    base_url: str | None = None
    served_name: str | None = None
    concurrency: int = 16
    timeout: float = 600.0
    videos: Literal["video", "images"] = "video"


class _Job(NamedTuple):
    """One item to answer. `cost` orders by length, so that a batch holds items of about one length."""

    key: str
    task: str
    number: int
    cost: tuple[int, int, int]


class _Bench(NamedTuple):
    """A task with its data open and its items chosen."""

    task: Task
    profile: PromptProfile
    data: PackedDataset
    sha256: str
    limit: int | None
    jobs: list[_Job]


# --- the command --------------------------------------------------------------------------------------------


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Arguments of the command."""
    parser.description = (
        "Score a model on image and video benchmarks. Killed at any moment, it goes on when run again."
    )
    parser.epilog = EXAMPLES
    parser.add_argument("--model", required=True, help="a name (toy-vl, qwen2.5-vl-7b, ...), a folder or a Hub id")
    parser.add_argument("--tasks", default="image,video", help="names of tasks or groups (default: %(default)s)")
    parser.add_argument(
        "--frames",
        default="budget",
        help="frames per video: a number, or 'budget' for the packed budgets; a list makes a run for each "
        "(default: %(default)s)",
    )
    parser.add_argument(
        "--out", type=Path, required=True, metavar="DIR", help="folder of the run; with a list, of the runs"
    )
    parser.add_argument(
        "--benchmarks",
        type=Path,
        metavar="DIR",
        help="folder with a packed benchmark per task, named like it (default: $VTRAP_HOME/benchmarks; toy tasks are "
        "made there on first use)",
    )
    parser.add_argument("--limit", type=int, metavar="N", help="at most N items per task")
    parser.add_argument("--label", help="what tables call the model (default: its name)")
    parser.add_argument(
        "--batch-size",
        type=int,
        metavar="N",
        help=f"items per batch (default: {', '.join(f'{name} {size}' for name, size in BATCH_SIZE.items())})",
    )
    parser.add_argument("--backend", choices=tuple(BACKENDS), default="transformers", help="default: %(default)s")
    parser.add_argument(
        "--dtype", choices=("auto", "float32", "bfloat16", "float16"), default="auto", help="of the weights"
    )
    parser.add_argument("--device", default="auto", help="auto, cpu, cuda, cuda:1, ... (default: %(default)s)")
    parser.add_argument("--profile", default="vtrap", help="prompt profile (default: %(default)s)")
    parser.add_argument(
        "--answers",
        choices=("generate", "likelihood"),
        default="generate",
        help="likelihood: multiple choice by the log-probability of each option (default: %(default)s)",
    )
    parser.add_argument(
        "--engine", default="{}", metavar="JSON", help="vllm: arguments of its LLM class, over those of vtrap"
    )
    parser.add_argument("--base-url", metavar="URL", help="openai: of the server, such as http://127.0.0.1:8000/v1")
    parser.add_argument("--served-name", metavar="NAME", help="openai: what the server calls the model")
    parser.add_argument(
        "--concurrency", type=int, default=16, metavar="N", help="openai: questions at a time (default: %(default)s)"
    )
    parser.add_argument(
        "--timeout", type=float, default=600.0, metavar="SECONDS", help="openai: per question (default: %(default)s)"
    )
    parser.add_argument(
        "--videos",
        choices=("video", "images"),
        default="video",
        help="openai: send frames as a video with its times (vLLM with --trust-request-mm-kwargs), or as single "
        "images, which is another prompt (default: %(default)s)",
    )
    parser.add_argument("--seed", type=int, default=0, help="of the bootstrap intervals (default: %(default)s)")
    parser.add_argument("--json", action="store_true", help="print the scores as JSON")


def run(args: argparse.Namespace) -> int:
    """Score; exit code 0."""
    frames = parse_frames(args.frames)
    done: list[dict[str, Any]] = []
    model: LocalModel | None = None
    tasks = select_tasks(args.tasks, present=present(TASKS.values(), benchmarks=args.benchmarks))
    opener = _open_once(BACKENDS[args.backend])
    earlier: list[Path] = []
    for setting in frames:
        out = args.out if len(frames) == 1 else args.out / f"frames-{setting}"
        settings = RunSettings(
            model=args.model,
            tasks=tasks,
            frames=setting,
            out=out,
            label=args.label,
            benchmarks=args.benchmarks,
            limit=args.limit,
            batch_size=BATCH_SIZE[args.backend] if args.batch_size is None else args.batch_size,
            seed=args.seed,
            backend=args.backend,
            dtype=args.dtype,
            device=args.device,
            profile=args.profile,
            answers=args.answers,
            engine=args.engine,
            base_url=args.base_url,
            served_name=args.served_name,
            concurrency=args.concurrency,
            timeout=args.timeout,
            videos=args.videos,
        )
        _check(settings)
        model = model or local_model(args.model)
        scores = score_model(settings, model=model, open_backend=opener, reuse=earlier)
        earlier.append(out)
        done.append(scores)
        if not args.json:
            print(table(scores))
            print(f"{out / scoring.SCORES}\n")
    if args.json:
        print(json.dumps(done[0] if len(frames) == 1 else done, indent=1))
    return 0


def parse_frames(text: str) -> list[Frames]:
    """Turn "8,16" or "budget" into settings, each once, in the order given.

    Raises:
        UsageError: A part is neither a positive number nor "budget".
    """
    found: list[Frames] = []
    for part in (p.strip() for p in text.split(",")):
        if part == "budget":
            setting: Frames = "budget"
        elif part.isascii() and part.isdecimal() and int(part) > 0:
            setting = int(part)
        else:
            raise UsageError(f"--frames {text!r}: {part!r} is neither a number of frames nor 'budget'")
        if setting not in found:
            found.append(setting)
    return found


def table(scores: Mapping[str, Any]) -> str:
    """Scores as text: a line per task and ability."""
    lines = [
        f"{scores['label']}, frames {scores['frames']}",
        f"  {'':<22}{'score':>7}   {'95 % interval':<15}{'items':>7}",
    ]

    def line(name: str, found: Mapping[str, Any], n: Any = "") -> str:
        low, high = found["ci"]
        return f"  {name:<22}{found['score']:7.1f}   {f'{low:.1f} to {high:.1f}':<15}{n:>7}"

    for name, task in scores["tasks"].items():
        lines.append(line(name, task, task["n"]) + (" (synthetic)" if task["synthetic"] else ""))
        lines += [line(f"  {ability}", found, found["n"]) for ability, found in task["abilities"].items()]
        lines.append(
            f"    {100 * task['unparsed']:.1f} % unparsed, {100 * task['empty']:.1f} % empty (both count as wrong), "
            f"{task['mean_frames']:.1f} frames per item, {task['visual_tokens']} visual tokens"
        )
        if own := task.get("extra", {}).get("headline"):
            lines.append(f"    as the benchmark counts: {own['name']} {own['value']:.1f} of {own['most']:.0f}")
    lines += [line(group, scores[group]) for group in ("image", "video") if group in scores]
    return "\n".join(lines)


# --- one run ------------------------------------------------------------------------------------------------


def score_model(
    settings: RunSettings, *, model: LocalModel, open_backend: OpenBackend, reuse: Sequence[Path] = ()
) -> dict[str, Any]:
    """Make a run, or go on with it, or do nothing if it is finished.

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
        UsageError: The folder holds a run with other settings, or another process is writing to it.
    """
    before = _read_run(settings.out)
    loading = _loading(settings, model)
    decides = {
        "model": model.digest,
        "backend": settings.backend,
        "dtype": loading.dtype,
        "generation": GENERATION,
        "profile": settings.profile,
        "prompts": PROMPTS_VERSION,
        "extractor": EXTRACTOR_VERSION,
        "frame_rule": FRAMES_VERSION,
        "frames": str(settings.frames),
        # Left out where it is the usual way, so that runs made before there was another one go on.
        **({} if settings.answers == "generate" else {"answers": settings.answers}),
        **({} if settings.engine == "{}" else {"engine": settings.engine}),
        **({} if settings.videos == "video" else {"videos": settings.videos}),
    }
    if before is not None:
        _refuse_other(before, decides, settings)
    benches = [_open(task, settings, decides, before) for task in _all_tasks(settings.tasks, before)]
    info = _describe(settings, model, loading, decides, benches, before)
    with RecordFile(settings.out / RECORDS) as file:
        if file.dropped_bytes:
            _note(f"{file.path}: the last line was cut short when the run was stopped; its item is answered again")
        wanted = {job.key for bench in benches for job in bench.jobs}
        if stray := [r for r in file.records if r.key not in wanted]:
            raise UsageError(
                f"{file.path} holds {len(stray)} records of other settings or items (the first: {stray[0].item_id}): "
                "choose another --out"
            )
        done = {r.key for r in file.records}
        scores_path = settings.out / scoring.SCORES
        if wanted <= done and (old := _scores_if_current(scores_path, file.records, info, before)):
            return old
        # scores.json says "finished", so it goes before anything else changes and comes back last.
        scores_path.unlink(missing_ok=True)
        _write_json(settings.out / RUN, info)
        copies = [r for folder in reuse for r in _finished(folder) if r.key in wanted - done]
        if copies:
            for folder in reuse:
                known = read_tokens(folder / TOKENS)
                append_tokens(settings.out / TOKENS, {r.key: known[r.key] for r in copies if r.key in known})
            file.append({r.key: r for r in copies}.values())
            done |= {r.key for r in copies}
        pending = [job for bench in benches for job in bench.jobs if job.key not in done]
        if pending:
            if done:
                _note(f"{settings.out}: {len(done)} items are answered already, {len(pending)} to go")
            backend = open_backend(loading)
            info["preprocessing"] = _same_preprocessing(info["preprocessing"], backend.preprocessing, settings, model)
            info["backend"] = dict(getattr(backend, "facts", {}))
            _write_json(settings.out / RUN, info)
            _answer(pending, {b.task.name: b for b in benches}, backend, file, settings)
        head = {"model": settings.model, "label": info["label"], "frames": str(settings.frames)}
        scores = scoring.compute([b.task for b in benches], file.records, head=head, seed=settings.seed)
        _write_json(scores_path, scores)
    return scores


def read_answer(response: str, item: Item, form: AnswerForm) -> tuple[Extraction, bool]:
    """What the response says in the terms of the item's answer (a letter becomes the option it stands for), and
    whether that is right.
    """
    found = extract(response, form=form, options=item.options)
    if form == "letter" and found.value is not None:
        found = Extraction(item.options[ord(found.value) - ord("A")], found.stage)
    assert item.answer is not None
    return found, is_right(found.value, item.answer)


def _answer(
    pending: Sequence[_Job],
    benches: Mapping[str, _Bench],
    backend: Backend,
    file: RecordFile,
    settings: RunSettings,
) -> None:
    batches = list(_batches(pending, settings.batch_size))
    bar = tqdm(total=len(pending), desc=f"{settings.out.name}", unit="item", mininterval=0.5)
    # One thread reads and decodes the next batch while the model works on this one.
    with bar, ThreadPoolExecutor(1) as pool:
        ahead = pool.submit(_load, batches[0], benches)
        for i, batch in enumerate(batches):
            examples = ahead.result()
            if i + 1 < len(batches):
                ahead = pool.submit(_load, batches[i + 1], benches)
            bench = benches[batch[0].task]
            asked = [replace(e, item=replace(e.item, messages=bench.profile.messages(e.item))) for e in examples]
            likelihoods: list[tuple[float, ...]] = [()] * len(asked)
            failure: UnfinishedError | None = None
            if settings.answers == "generate":
                try:
                    texts = backend.generate(asked, max_new_tokens=bench.task.max_new_tokens)
                except UnfinishedError as error:
                    # What was answered before the failure is recorded; then the run ends with it.
                    failure, kept = error, sorted(error.done)
                    texts = [error.done[n] for n in kept]
                    batch, examples = [batch[n] for n in kept], [examples[n] for n in kept]
                    likelihoods = [()] * len(kept)
            else:
                texts, likelihoods = _choose(backend, asked, form=bench.profile.form, settings=settings)
            records = []
            for job, example, generation, likely in zip(batch, examples, texts, likelihoods, strict=True):
                item = example.item
                grade = bench.task.grade
                if grade is None:
                    found, right = read_answer(generation.text, item, bench.profile.form)
                    credit = None
                else:
                    found, earned = grade(generation.text, item)
                    right, credit = earned == 1, earned if 0 < earned < 1 else None
                records.append(
                    Record(
                        key=job.key,
                        task=job.task,
                        item_id=item.id,
                        ability=item.ability or "all",
                        cluster=bench.task.cluster_of(example),
                        question=item.question,
                        options=item.options,
                        answer=item.answer or "",
                        response=generation.text,
                        extracted=found.value,
                        stage=found.stage.value,
                        correct=right,
                        frame_times=() if example.frames is None else example.frames.times,
                        n_frames=0 if example.frames is None else len(example.frames),
                        visual_tokens=generation.visual_tokens,
                        prompt_tokens=generation.n_prompt_tokens,
                        facts="" if bench.task.source is None else item.category or "",
                        credit=credit,
                        likelihoods=likely,
                    )
                )
            append_tokens(settings.out / TOKENS, {j.key: t.steps for j, t in zip(batch, texts, strict=True)})
            file.append(records)
            bar.update(len(records))
            if failure is not None:
                raise failure


def _choose(
    backend: Backend, examples: Sequence[Example], *, form: AnswerForm, settings: RunSettings
) -> tuple[list[Generation], list[tuple[float, ...]]]:
    """Each example answered with the option that the model would most likely write; equally likely ones are none."""
    score = getattr(backend, "score_options", None)
    if score is None:
        raise UsageError(f"--answers likelihood: the backend {settings.backend} gives no log-probabilities of options")
    words = [choices(example.item, form=form) for example in examples]
    for example, texts in zip(examples, words, strict=True):
        if not texts:
            raise UsageError(f"--answers likelihood: {example.item.id} is an open question: use --answers generate")
    answers, likelihoods = [], []
    choice: Choice
    for texts, choice in zip(words, score(examples, words), strict=True):
        best = max(choice.likelihoods)
        said = texts[choice.likelihoods.index(best)] if choice.likelihoods.count(best) == 1 else ""
        answers.append(Generation(said, choice.visual_tokens, choice.n_prompt_tokens))
        likelihoods.append(choice.likelihoods)
    return answers, likelihoods


def choices(item: Item, *, form: AnswerForm) -> tuple[str, ...]:
    """What the model may write to answer an item: letters, options as they are, or Yes and No; () if it is open."""
    if form == "yes-no" or (form == "letter" and not item.options and item.answer in ("yes", "no")):
        return ("Yes", "No")
    labels = tuple(option_parts(option)[0] for option in item.options)
    if all(labels):
        return labels  # "Option 1", as they are shown
    if form == "letter":
        return tuple(chr(ord("A") + i) for i in range(len(item.options)))
    return item.options


def _batches(pending: Sequence[_Job], size: int) -> Iterator[list[_Job]]:
    """Batches of one task and of about one length, the longest first: what does not fit fails at once."""
    tasks: dict[str, list[_Job]] = {}
    for job in pending:
        tasks.setdefault(job.task, []).append(job)
    for jobs in tasks.values():
        jobs.sort(key=lambda j: j.cost, reverse=True)
        yield from (jobs[i : i + size] for i in range(0, len(jobs), size))


def _load(batch: Sequence[_Job], benches: Mapping[str, _Bench]) -> list[Example]:
    data = benches[batch[0].task].data
    examples = [data[job.number] for job in batch]
    for example in examples:
        if example.item.answer is None:
            raise UsageError(
                f"{data.root}: item {example.item.id} has no answer, so it cannot be scored: pack a benchmark"
            )
    return examples


def _open(task: Task, settings: RunSettings, decides: Mapping[str, Any], before: Mapping[str, Any] | None) -> _Bench:
    if settings.profile not in task.profiles:
        raise UsageError(f"--profile {settings.profile!r}: task {task.name} has {', '.join(task.profiles)}")
    root = ensure(task, benchmarks=settings.benchmarks)
    moving = task.modality == "video" and settings.frames != "budget"
    try:
        data = PackedDataset(root, frames=int(settings.frames) if moving else "hybrid")
    except UsageError as error:
        raise UsageError(f"--frames {settings.frames}, task {task.name}: {error}") from error
    sha256 = sha256_file(root / MANIFEST)
    entry = (before or {}).get("tasks", {}).get(task.name)
    limit = settings.limit
    if entry is not None:
        for what, now in (("version", task.version), ("data_sha256", sha256)):
            if entry[what] != now:
                raise UsageError(
                    f"--out {settings.out} holds answers to {task.name} with {what} {entry[what]}, now it is {now}: "
                    "choose another --out"
                )
        if task.name not in {t.name for t in settings.tasks}:
            limit = entry["limit"]  # it is only here because the folder has it already
        elif limit is not None:
            # Answers that are there are never thrown away.
            limit = None if entry["limit"] is None else max(limit, int(entry["limit"]))
    # Pictures and texts do not depend on the number of video frames: neither do the keys of their answers.
    common = {**decides, "task": task.name, "task_version": task.version, "data": sha256}
    common["max_new_tokens"] = task.max_new_tokens
    ids = data.column("item_id")
    if not ids:
        raise UsageError(f"{root} has no items: pack the benchmark again")
    if len(set(ids)) < len(ids):
        raise UsageError(f"{root}: item ids repeat, so answers cannot be told apart: pack it with unique ids")
    columns = [data.column(c) for c in ("kind", "n_frames", "width", "height", "n_images", "text_chars")]
    jobs = []
    for number in _chosen(ids, limit):
        kind, frames, width, height, images, chars = (c[number] for c in columns)
        shown = decides["frames"] if kind == "video" else None
        key = record_key(**{**common, "frames": shown, "item": ids[number]})
        jobs.append(_Job(key, task.name, number, (max(frames, images) * width * height, frames, chars)))
    return _Bench(task, task.profiles[settings.profile], data, sha256, limit, jobs)


def _chosen(ids: Sequence[str], limit: int | None) -> list[int]:
    """Numbers of the items to answer. A limit takes those whose hashed ids come first: a fair sample, and nested."""
    if limit is None or limit >= len(ids):
        return list(range(len(ids)))
    order = sorted(range(len(ids)), key=lambda i: hashlib.sha256(ids[i].encode()).digest())
    return sorted(order[:limit])


# --- what decides a run, written down -----------------------------------------------------------------------


def _check(settings: RunSettings) -> None:
    if settings.limit is not None and settings.limit < 1:
        raise UsageError(f"--limit {settings.limit} must be at least 1")
    if settings.batch_size < 1:
        raise UsageError(f"--batch-size {settings.batch_size} must be at least 1")
    if settings.concurrency < 1:
        raise UsageError(f"--concurrency {settings.concurrency} must be at least 1")
    if settings.timeout <= 0:
        raise UsageError(f"--timeout {settings.timeout:g} must be more than 0 seconds")
    if (settings.base_url is not None) != (settings.backend == "openai"):
        raise UsageError("--backend openai and --base-url URL go together")


def _loading(settings: RunSettings, model: LocalModel) -> BackendSettings:
    from vtrap_bench.backends.transformers_backend import DTYPES, default_device

    device = default_device() if settings.device == "auto" else settings.device
    dtype = settings.dtype
    if dtype == "auto":
        saved = saved_dtype(model.folder)
        dtype = saved if saved in DTYPES and not device.startswith("cpu") else "float32"
    return BackendSettings(
        model=model.ref,
        dtype=dtype,
        device=device,
        engine=settings.engine,
        base_url=settings.base_url,
        served_name=settings.served_name,
        concurrency=settings.concurrency,
        timeout=settings.timeout,
        videos=settings.videos,
    )


def _open_once(open_backend: OpenBackend) -> OpenBackend:
    """One loaded model for all runs of a command."""
    opened: dict[BackendSettings, Backend] = {}

    def open_or_reuse(settings: BackendSettings) -> Backend:
        if settings not in opened:
            opened[settings] = open_backend(settings)
        return opened[settings]

    return open_or_reuse


def _all_tasks(tasks: Sequence[Task], before: Mapping[str, Any] | None) -> list[Task]:
    """The tasks asked for and those that the folder has already."""
    asked = {task.name: task for task in tasks}
    kept = [TASKS[name] for name in (before or {}).get("tasks", {}) if name not in asked and name in TASKS]
    order = list(TASKS)
    return sorted([*tasks, *kept], key=lambda t: order.index(t.name) if t.name in order else len(order))


def _describe(
    settings: RunSettings,
    model: LocalModel,
    loading: BackendSettings,
    decides: Mapping[str, Any],
    benches: Sequence[_Bench],
    before: Mapping[str, Any] | None,
) -> dict[str, Any]:
    """The content of `run.json`."""
    default = Path(settings.model).resolve().name if Path(settings.model).is_dir() else settings.model
    return {
        "format": RUN_FORMAT,
        "model": {
            "name": settings.model,
            "hub_revision": model.revision,
            "family": model.ref.family,
            "weights": dict(model.weights),
        },
        "label": settings.label or (before or {}).get("label") or default,
        "frames": str(settings.frames),
        "tasks": {
            b.task.name: {
                "version": b.task.version,
                "modality": b.task.modality,
                "synthetic": b.task.synthetic,
                "data_sha256": b.sha256,
                "items": len(b.jobs),
                "limit": b.limit,
                "max_new_tokens": b.task.max_new_tokens,
                "answer_form": b.profile.form,
            }
            for b in benches
        },
        "decides": dict(decides),
        "device": loading.device,
        "batch_size": settings.batch_size,
        "bootstrap": {"seed": settings.seed, "resamples": RESAMPLES, "level": 0.95, "tasks": "wilson-clustered"},
        "preprocessing": (before or {}).get("preprocessing"),
        "backend": (before or {}).get("backend", {}),
        "versions": {
            "vtrap": vtrap_bench.__version__,
            **{name: importlib.metadata.version(name) for name in ("torch", "transformers")},
        },
    }


def _refuse_other(before: Mapping[str, Any], decides: Mapping[str, Any], settings: RunSettings) -> None:
    if other := differences(dict(before["decides"]), dict(decides)):
        raise UsageError(
            f"--out {settings.out} holds a run with other settings ({'; '.join(other)}): choose another --out"
        )


def _same_preprocessing(
    before: Mapping[str, Any] | None, now: Mapping[str, Any], settings: RunSettings, model: LocalModel
) -> dict[str, Any]:
    current: dict[str, Any] = json.loads(canonical_json(dict(now)))
    if before is not None and (other := differences(dict(before), current)):
        raise UsageError(
            f"--out {settings.out} was begun with other preprocessing ({'; '.join(other)}): choose another --out"
        )
    trained = model.folder / TRAINING_MANIFEST
    if trained.is_file() and (other := differences(json.loads(trained.read_text(encoding="utf-8")), current)):
        _note(f"warning: {settings.model} was trained with other preprocessing: {'; '.join(other)}")
    return current


def _read_run(out: Path) -> dict[str, Any] | None:
    path = out / RUN
    if not path.is_file():
        if (out / RECORDS).is_file() and (out / RECORDS).stat().st_size:
            raise UsageError(
                f"--out {out} has {RECORDS} but no {RUN}, so nobody knows what made it: choose another --out"
            )
        return None
    try:
        data: dict[str, Any] = json.loads(path.read_bytes())
        if data["format"] != RUN_FORMAT:
            raise UsageError(f"{path} has format {data['format']}, not {RUN_FORMAT}: choose another --out")
        if not isinstance(data["decides"], dict) or not isinstance(data["tasks"], dict):
            raise TypeError("decides and tasks must be objects")
    except (ValueError, KeyError, TypeError) as error:
        raise UsageError(f"{path} is damaged ({type(error).__name__}: {error}): choose another --out") from error
    return data


def _scores_if_current(
    path: Path, records: Sequence[Record], info: Mapping[str, Any], before: Mapping[str, Any] | None
) -> dict[str, Any] | None:
    """The scores that are there, if they are of these records and of these settings."""
    try:
        scores: dict[str, Any] = json.loads(path.read_bytes())
    except (OSError, ValueError):
        return None
    same = all((before or {}).get(k) == info[k] for k in ("label", "bootstrap", "tasks"))
    same = same and scores.get("model") == info["model"]["name"]
    return scores if same and scores.get("records_sha256") == scoring.digest(records) else None


def _finished(folder: Path) -> list[Record]:
    path = folder / RECORDS
    return read_records(path) if path.is_file() else []


def _write_json(path: Path, content: Mapping[str, Any]) -> None:
    write_bytes(path, (json.dumps(content, indent=1, ensure_ascii=False, allow_nan=False) + "\n").encode())


def _note(text: str) -> None:
    tqdm.write(text, file=sys.stderr)
