"""How good is a model on these tasks? The command `python -m vtrap_bench run`.

A run is one folder: `run.json` (everything that decides the answers), `records.jsonl` (an answer per line),
`scores.json` (written when every item is answered). It can be killed at any moment, and shared by any number of
processes: the same command goes on, or helps.
"""

from __future__ import annotations

import argparse
import json
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from vtrap_bench import scores as scoring
from vtrap_bench.backends import BACKENDS, BATCH_SIZE, Backend, BackendSettings, OpenBackend, Serving
from vtrap_bench.models import local_model
from vtrap_bench.run_settings import Frames, RunSettings, check
from vtrap_bench.score_run import score_model
from vtrap_bench.tasks import TASKS, Task, select_tasks
from vtrap_bench.tasks.locate import present
from vtrap_bench.workers import share, share_of
from vtrap_data.errors import UsageError, printable_lines

EXAMPLES = """\
examples:
  python -m vtrap_bench run --model toy-vl --tasks toy-image,toy-video --frames 16 --out runs/base
  python -m vtrap_bench run --model runs/sft --tasks image,video --frames budget --out runs/sft-scores
  python -m vtrap_bench run --model qwen2.5-vl-7b --tasks video --frames 8,16,32 --benchmarks packed --out runs/7b
    # three runs: runs/7b/frames-8, runs/7b/frames-16, runs/7b/frames-32
  python -m vtrap_bench run --model qwen2.5-vl-7b --tasks video --gpus 8 --out runs/7b
    # eight processes with a GPU each; more machines: the same command there, with --out on a disk that all of them see
  python -m vtrap_bench run --model toy-vl --tasks image --limit 50 --out runs/quick
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Arguments of the command."""
    usual = Serving()
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
        "--engine", default=usual.engine, metavar="JSON", help="vllm: arguments of its LLM class, over those of vtrap"
    )
    parser.add_argument("--base-url", metavar="URL", help="openai: of the server, such as http://127.0.0.1:8000/v1")
    parser.add_argument("--served-name", metavar="NAME", help="openai: what the server calls the model")
    parser.add_argument(
        "--concurrency",
        type=int,
        default=usual.concurrency,
        metavar="N",
        help="openai: questions at a time (default: %(default)s)",
    )
    parser.add_argument(
        "--timeout",
        type=float,
        default=usual.timeout,
        metavar="SECONDS",
        help="openai: per question (default: %(default)s)",
    )
    parser.add_argument(
        "--videos",
        choices=("video", "images"),
        default=usual.videos,
        help="openai: send frames as a video with its times (vLLM with --trust-request-mm-kwargs), or as single "
        "images, which is another prompt (default: %(default)s)",
    )
    parser.add_argument(
        "--gpus", type=int, metavar="N", help="share the run among N GPUs of this machine, one process each"
    )
    parser.add_argument(
        "--processes",
        type=int,
        metavar="N",
        help="share it among N processes (with --gpus: divide the GPUs among so many; default: 1, or one per GPU)",
    )
    parser.add_argument("--seed", type=int, default=0, help="of the bootstrap intervals (default: %(default)s)")
    parser.add_argument("--json", action="store_true", help="print the scores as JSON")


def run(args: argparse.Namespace) -> int:
    """Score; exit code 0."""
    frames = parse_frames(args.frames)
    how = share_of(processes=args.processes, gpus=args.gpus, device=args.device)
    tasks = select_tasks(args.tasks, present=present(TASKS.values(), benchmarks=args.benchmarks))
    runs = [_settings(args, one, tasks=tasks, alone=len(frames) == 1) for one in frames]
    for settings in runs:
        check(settings)
    model = local_model(args.model)
    if how.processes > 1:
        share(args, how)  # what follows finds the runs finished
    elif how.devices:
        os.environ["CUDA_VISIBLE_DEVICES"] = how.devices[0]
    opener = _open_once(BACKENDS[args.backend])
    done: list[dict[str, Any]] = []
    for number, settings in enumerate(runs):
        earlier = [one.out for one in runs[:number]]
        done.append(score_model(settings, model=model, open_backend=opener, reuse=earlier))
        if not args.json:
            print(printable_lines(table(done[-1])))
            print(f"{settings.out / scoring.SCORES}\n")
    if args.json:
        print(json.dumps(done[0] if len(runs) == 1 else done, indent=1))
    return 0


def _settings(args: argparse.Namespace, frames: Frames, *, tasks: Sequence[Task], alone: bool) -> RunSettings:
    return RunSettings(
        model=args.model,
        tasks=tasks,
        frames=frames,
        out=args.out if alone else args.out / f"frames-{frames}",
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
        serving=Serving(
            engine=args.engine,
            base_url=args.base_url,
            served_name=args.served_name,
            concurrency=args.concurrency,
            timeout=args.timeout,
            videos=args.videos,
        ),
    )


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


def _open_once(open_backend: OpenBackend) -> OpenBackend:
    """One loaded model for all runs of a command."""
    opened: dict[BackendSettings, Backend] = {}

    def open_or_reuse(settings: BackendSettings) -> Backend:
        if settings not in opened:
            opened[settings] = open_backend(settings)
        return opened[settings]

    return open_or_reuse
