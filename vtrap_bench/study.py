"""How does a whole experiment become a list of commands?

A study (`vtrap_bench.study_file`) names the base model, the corpus, the benchmarks and the settings to compare. It is
expanded into steps (re-allocate budgets, train, score), each one a command of this product, run by
`vtrap_bench.steps`; then the report is written. Train and bench meet here only through commands and files.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from vtrap_bench import study_cost
from vtrap_bench.steps import Step, locked, plan, run_steps
from vtrap_bench.study_check import check_trainings
from vtrap_bench.study_file import BASE, STUDY_RECORD, Option, Setting, Study, read_study
from vtrap_data.errors import UsageError
from vtrap_data.files import write_bytes
from vtrap_data.trained import SUMMARY

STUDY_FORMAT = 1

EXAMPLE = """\
examples:
  python -m vtrap_bench study study.yaml --out runs/study --plan      # what would run, and what it costs
  python -m vtrap_bench study study.yaml --out runs/study             # run it; again: go on where it stopped

study.yaml:
  model: toy-vl
  corpus: runs/toy/train          # packed
  benchmarks: runs/toy/bench      # packed, one folder per task; left out: made in the cache
  tasks: [toy-image, toy-video]   # or groups: [image, video]
  common_frames: 16               # every checkpoint is also scored at this number of frames
  seeds: [0, 1, 2]
  train: {max_steps: 300, learning_rate: 3.0e-4}   # options of vtrap_train
  score: {limit: 500}                              # options of vtrap_bench run
  settings:
    - {name: fixed-2, frames: 2}
    - {name: fixed-16, frames: 16}
    - {name: hybrid, frames: hybrid}
    - {name: random, frames: hybrid, strategy: random}
    - {name: replay, frames: hybrid, replay: {data: runs/toy/images, percent: 10}}   # pictures beside the videos
  curve: {frames: [2, 4, 8, 16], settings: [hybrid, fixed-16]}
"""


class Checkpoint(NamedTuple):
    """A model of the study and where its scores lie.

    Attributes:
        setting: None for the base.
        seed: None for the base.
        model: Name or folder.
        runs: Folder of the run at each number of frames, by that number ("budget" for the packed budgets).
    """

    setting: Setting | None
    seed: int | None
    model: str
    runs: dict[str, Path]


class Expanded(NamedTuple):
    """A study as work: the steps in order, and the checkpoints (base first) that they make and score."""

    steps: list[Step]
    checkpoints: list[Checkpoint]


def expand(study: Study, *, out: Path) -> Expanded:
    """Turn a study into commands.

    The first seed of every setting comes before the second of any, so that a study that is stopped early compares
    settings rather than seeds.

    Args:
        study: What to do.
        out: Working folder; everything that is made lies inside.
    """
    steps: list[Step] = []
    model_inputs = (Path(study.model),) if Path(study.model).exists() else ()
    swept = [str(n) for n in study.curve.frames]
    evaluated = [str(s.evaluated) for s in study.settings]
    base = Checkpoint(None, None, study.model, {})
    # The base is scored wherever a checkpoint is, so that a change is always measured at equal frames.
    everywhere = [str(study.common_frames), *evaluated, *swept]
    steps.append(_score(study, base, everywhere, out=out, name=BASE, inputs=model_inputs, after=()))
    checkpoints = [base]
    for seed in study.seeds:
        for setting in study.settings:
            name = f"{setting.name}-s{seed}"
            corpus, after = str(study.corpus), []
            if setting.strategy is not None:
                # Only the shuffle depends on the seed: each of its seeds gets a shuffle of its own.
                tag = name if setting.strategy == "random" else setting.name
                corpus, after = str(out / "corpora" / tag), [f"budget-{tag}"]
                if after[0] not in {s.name for s in steps}:
                    steps.append(_reallocate(study, setting, seed, out=out, tag=tag))
            checkpoint = Checkpoint(setting, seed, str(out / "models" / name), {})
            data, mixed_in = corpus, setting.replay
            if mixed_in is not None:
                data = f"{corpus}:{100 - mixed_in.percent:g}%,{mixed_in.data}:{mixed_in.percent:g}%"
            argv = ["python", "-m", "vtrap_train", "--model", study.model, "--data", data]
            argv += ["--frames", str(setting.frames), "--seed", str(seed), "--output_dir", checkpoint.model]
            argv += _flags({**study.train, **setting.train})
            train = Step(
                name=f"train-{name}",
                kind="train",
                argv=tuple(argv),
                output=Path(checkpoint.model),
                proof=Path(checkpoint.model) / SUMMARY,
                inputs=(*model_inputs, study.corpus, *([mixed_in.data] if mixed_in is not None else [])),
                after=tuple(after),
                weight=120.0,
            )
            steps.append(train)
            frames = [str(setting.evaluated), str(study.common_frames)]
            if setting.name in study.curve.settings and seed == study.seeds[0]:
                frames += swept
            steps.append(_score(study, checkpoint, frames, out=out, name=name, inputs=(), after=(train.name,)))
            checkpoints.append(checkpoint)
    return Expanded(steps, checkpoints)


def record(study: Study, expanded: Expanded, *, out: Path) -> dict[str, Any]:
    """What `out/study.json` holds: the checkpoints, where their runs lie (relative to `out`) and every command."""
    return {
        "format": STUDY_FORMAT,
        "model": study.model,
        "benchmarks": None if study.benchmarks is None else str(study.benchmarks),
        "tasks": list(study.tasks),
        "common_frames": study.common_frames,
        "seeds": list(study.seeds),
        "curve": list(study.curve.frames),
        "checkpoints": [
            {
                "setting": None if c.setting is None else c.setting.name,
                "frames": None if c.setting is None else c.setting.frames,
                "strategy": None if c.setting is None else c.setting.strategy,
                "evaluated": str(study.common_frames if c.setting is None else c.setting.evaluated),
                "seed": c.seed,
                "model": c.model if c.setting is None else Path(c.model).relative_to(out).as_posix(),
                "runs": {frames: run.relative_to(out).as_posix() for frames, run in c.runs.items()},
            }
            for c in expanded.checkpoints
        ],
        "commands": [s.command for s in expanded.steps],
    }


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of `python -m vtrap_bench study`."""
    parser.description = "Run a whole experiment from one YAML: train every setting, score it, write the report."
    parser.epilog = EXAMPLE
    parser.add_argument("study", type=Path, metavar="STUDY.yaml", help="the experiment")
    parser.add_argument("--out", type=Path, required=True, metavar="DIR", help="working folder, and the report's")
    parser.add_argument("--plan", action="store_true", help="print the cost and the commands, run none")
    parser.add_argument("--dry-run", action="store_true", help="print the commands and whether each is done, run none")
    parser.add_argument("--jobs", type=int, default=1, metavar="N", help="steps to run side by side (default 1)")


def run(args: argparse.Namespace) -> int:
    """Run `python -m vtrap_bench study`. Returns the exit code.

    Raises:
        UsageError: The study or an option is wrong.
    """
    if args.jobs < 1:
        raise UsageError(f"--jobs is {args.jobs}: give 1 or more")
    out: Path = args.out
    if out.exists() and not out.is_dir():
        raise UsageError(f"--out {out} is a file: give a folder")
    study = read_study(args.study)
    expanded = expand(study, out=out)
    if args.plan or args.dry_run:
        steps = plan(expanded.steps, out=out)
        if args.plan:
            print(study_cost.as_text(study, steps) + "\n")
        for planned in steps:
            print(f"{'done' if planned.state == 'done' else 'to do':5}  {planned.step.command}")
        return 0
    out.mkdir(parents=True, exist_ok=True)
    with locked(out):
        check_trainings(plan(expanded.steps, out=out), corpus=study.corpus)
        write_bytes(out / STUDY_RECORD, (json.dumps(record(study, expanded, out=out), indent=1) + "\n").encode())
        code = run_steps(expanded.steps, out=out, jobs=args.jobs)
    if code != 0:
        return code
    from vtrap_bench import report  # Draws figures: slow to load, and nothing above needs it.

    made = report.write_report([out], out=out)
    report.print_table(made)
    print(f"\nreport: {out / 'report.html'}\nnumbers: {out / 'report.json'}")
    return 0


def _score(
    study: Study,
    checkpoint: Checkpoint,
    frames: Sequence[str],
    *,
    out: Path,
    name: str,
    inputs: Sequence[Path],
    after: Sequence[str],
) -> Step:
    """The step that scores a checkpoint at several numbers of frames; notes the runs in the checkpoint.

    One command does all of them: it loads the model once and answers no prompt twice (image questions, for one, do not
    depend on the frames).
    """
    frames = list(dict.fromkeys(frames))
    folder = out / "scores" / name
    # With one number of frames the command writes into --out itself, with several into a folder for each.
    checkpoint.runs.update({f: folder / f"frames-{f}" for f in frames})
    target = folder if len(frames) > 1 else folder / f"frames-{frames[0]}"
    argv = ["python", "-m", "vtrap_bench", "run", "--model", checkpoint.model, "--tasks", ",".join(study.tasks)]
    argv += ["--frames", ",".join(frames), "--out", str(target)]
    if study.benchmarks is not None:
        argv += ["--benchmarks", str(study.benchmarks)]
        inputs = (*inputs, study.benchmarks)
    argv += _flags(study.score, dash="-")
    return Step(
        name=f"score-{name}",
        kind=f"score-{len(frames)}",
        argv=tuple(argv),
        output=folder,
        proof=checkpoint.runs[frames[-1]] / "scores.json",
        inputs=tuple(inputs),
        after=tuple(after),
        weight=30.0 * len(frames),
    )


def _reallocate(study: Study, setting: Setting, seed: int, *, out: Path, tag: str) -> Step:
    target = out / "corpora" / tag
    argv = ["python", "-m", "vtrap_data", "budget", str(study.corpus), "--out", str(target)]
    argv += ["--strategy", str(setting.strategy), "--seed", str(seed)]
    if setting.mean_frames is not None:
        argv += ["--mean-frames", f"{setting.mean_frames:g}"]
    return Step(
        name=f"budget-{tag}",
        kind="budget",
        argv=tuple(argv),
        output=target,
        proof=target / "manifest.json",
        inputs=(study.corpus,),
        resumes=False,  # It wants an empty folder.
        weight=10.0,
    )


def _flags(options: Mapping[str, Option], *, dash: str = "_") -> list[str]:
    """Options as a command's parser reads them: `--key value`, a list as several values."""
    argv = []
    for key, value in options.items():
        values = value if isinstance(value, tuple) else (value,)
        argv += [f"--{key.replace('_', dash)}", *(str(v).lower() if isinstance(v, bool) else str(v) for v in values)]
    return argv
