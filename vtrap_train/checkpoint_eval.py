"""How good is each checkpoint, in images and in video? Runs the benchmark's command on it and draws the trade-off.

`--eval_tasks image,video` scores the model before training (step 0) and every checkpoint as it is saved. Rank 0 runs
`python -m vtrap_bench run` in a process of its own; the others wait for its file, not in a collective, which would
time out. A benchmark that fails is written down and training goes on. Scores are kept: a resumed run does not repeat
them, unless it asks for others (tasks, frames, arguments).
"""

from __future__ import annotations

import json
import os
import shlex
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
from accelerate import PartialState
from tqdm import tqdm
from transformers import TrainerCallback

from vtrap_data.errors import UsageError
from vtrap_data.parsing import parse_json
from vtrap_train.ledger import Lines, write_text

EVALUATIONS = "eval.jsonl"
SCORES = "eval"
"""Folder of a run's scores."""
ASKED = "asked.json"
MEASURES = ("mean", "image", "video")
"""What `--metric_for_best_model` may be beside the names of tasks; mean: of the image and the video score."""

Export = Callable[[Path, Path], None]
_POLL = 0.5


class CheckpointEval(TrainerCallback):  # type: ignore[misc]
    """Scores checkpoints when they are saved.

    Args:
        base: The model that training starts from, as the benchmark's command takes it.
        out: The run's folder; scores go to `eval/` in it and to `eval.jsonl`.
        tasks: Names of tasks or groups.
        frames: As for the benchmark's `--frames`.
        more: Further arguments of the benchmark's command, as typed in a shell.
        metric: Which score makes a checkpoint the best one, from `MEASURES` or a task's name; None: no best one.
        export: Writes a checkpoint as an ordinary model into a folder, where it is none (LoRA). None: it is one.
        log: Takes the scores, for the trackers.
    """

    def __init__(
        self,
        *,
        base: str,
        out: Path,
        tasks: str,
        frames: str,
        more: str,
        metric: str | None,
        export: Export | None,
        log: Callable[[dict[str, float]], None],
    ) -> None:
        self.base = base
        self.out = out
        self.tasks = tasks
        self.frames = frames
        self.more = shlex.split(more)
        self.metric = metric
        self.export = export
        self.log = log
        self.asked = {"tasks": tasks, "frames": frames, "arguments": self.more}
        self.lines = Lines(out / EVALUATIONS)
        self.scores: dict[int, dict[str, Any]] = {}

    def on_train_begin(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        """Score the base, or take up the scores of the part of the run that is being continued."""
        if state.is_world_process_zero:
            self.lines.rewind(state.global_step)
            for result in (self.out / SCORES).glob("step-*.json"):
                if not self._good(result):
                    result.unlink()
        PartialState().wait_for_everyone()  # or a rank could take up one that the first is about to remove
        steps = [0, *sorted(_step(p) for p in self.out.glob("checkpoint-*") if _step(p) <= state.global_step)]
        for step in steps:
            self._score(step, state)

    def on_save(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        """Score the checkpoint that has just been written."""
        self._score(state.global_step, state)

    def _score(self, step: int, state: Any) -> None:
        result = self.out / SCORES / f"step-{step}.json"
        if state.is_world_process_zero and not result.is_file():
            write_text(result, json.dumps({"asked": self.asked, **self._run(step)}) + "\n")
        while not result.is_file():
            time.sleep(_POLL)
        self.scores[step] = json.loads(result.read_text(encoding="utf-8"))
        if state.is_world_process_zero and not any(
            line["step"] == step and line.items() >= self.scores[step].items() for line in self.lines.read()
        ):
            self._tell(step)
        if self.metric is not None:
            self._value(step)  # of step 0, too: that there is no such score is better known before the training
        best = self.best()
        if best is not None and step:
            state.best_global_step, state.best_metric = best, self._value(best)
            state.best_model_checkpoint = str(self.out / f"checkpoint-{best}")

    def _tell(self, step: int) -> None:
        line = {"step": step, **self.scores[step]}
        line |= {f"{kind}_change": points for kind, points in self.changes(step).items()}
        self.lines.append([line])
        if "error" in line:
            tqdm.write(f"step {step}  not scored: {line['error']}", file=sys.stderr)
            return
        numbers = {k: v for k, v in line.items() if isinstance(v, float)}
        numbers |= {f"task/{name}": score for name, score in line["tasks"].items()}
        self.log({f"benchmark/{name}": value for name, value in numbers.items()})
        shown = []
        for kind in (k for k in ("image", "video") if k in line):
            change = line.get(f"{kind}_change")
            shown.append(f"{kind} {line[kind]:.1f}" + (f" ({change:+.1f})" if step and change is not None else ""))
        tqdm.write(f"step {step}  scores: {', '.join(shown)}", file=sys.stderr)

    def _good(self, result: Path) -> bool:
        """Whether these are scores, and of what this run asks for."""
        kept = _read(result)
        return isinstance(kept, dict) and "error" not in kept and kept.get("asked") == self.asked

    def changes(self, step: int) -> dict[str, float]:
        """Points gained or lost against step 0, for images and for video, where both are known."""
        base, here = self.scores.get(0, {}), self.scores.get(step, {})
        return {kind: here[kind] - base[kind] for kind in ("image", "video") if kind in base and kind in here}

    def best(self) -> int | None:
        """Step of the checkpoint with the highest score, the earliest of equals; None if that is not asked for."""
        if self.metric is None:
            return None
        there = [s for s in self.scores if s and (self.out / f"checkpoint-{s}").is_dir()]
        valued = {s: v for s in there if (v := self._value(s)) is not None}
        return min(valued, key=lambda s: (-valued[s], s), default=None)

    def _value(self, step: int) -> float | None:
        score = self.scores[step]
        if self.metric == "mean":
            kinds = [score[kind] for kind in ("image", "video") if kind in score]
            return sum(kinds) / len(kinds) if kinds else None
        found = score.get(str(self.metric), score.get("tasks", {}).get(self.metric))
        if found is None and "error" not in score:
            raise UsageError(
                f"--metric_for_best_model {self.metric!r} is no score that --eval_tasks gives: "
                f"{', '.join([*(k for k in MEASURES if k == 'mean' or k in score), *score['tasks']])}"
            )
        return None if found is None else float(found)

    def _run(self, step: int) -> dict[str, Any]:
        """Scores of one checkpoint, or what went wrong."""
        folder = self.out / SCORES / f"step-{step}"
        if _read(folder / ASKED) != self.asked:  # half of it may be there, to go on with if the same is asked
            shutil.rmtree(folder, ignore_errors=True)
            write_text(folder / ASKED, json.dumps(self.asked) + "\n")
        model, merged = self.base, folder.with_name(f"step-{step}-model")
        if step:
            model = str(self.out / f"checkpoint-{step}")
            if self.export is not None:
                with torch.random.fork_rng(devices=[]):  # reading a model draws numbers; the training must not notice
                    self.export(Path(model), merged)
                model = str(merged)
        words = ["-m", "vtrap_bench", "run", "--model", model, "--tasks", self.tasks, "--frames", self.frames]
        words += ["--out", str(folder), "--label", f"step {step}", *self.more]
        with folder.with_suffix(".log").open("ab") as log:
            code = subprocess.call(
                [sys.executable, *words], stdin=subprocess.DEVNULL, stdout=log, stderr=log, env=alone(os.environ)
            )
        shutil.rmtree(merged, ignore_errors=True)
        if code:
            return {"error": f"`vtrap_bench run` ended with exit code {code}; what it said: {log.name}"}
        scores = json.loads((folder / "scores.json").read_text(encoding="utf-8"))
        found: dict[str, Any] = {kind: float(scores[kind]["score"]) for kind in ("image", "video") if kind in scores}
        return {**found, "tasks": {name: float(task["score"]) for name, task in scores["tasks"].items()}}


def alone(environment: Mapping[str, str]) -> dict[str, str]:
    """The environment without what makes a process one of many."""
    many = (
        "RANK",
        "WORLD_SIZE",
        "LOCAL_",
        "GROUP_",
        "ROLE_",
        "MASTER_",
        "TORCHELASTIC_",
        "TORCH_NCCL_",
        "ACCELERATE_",
    )
    return {k: v for k, v in environment.items() if not k.startswith(many)}


def _step(checkpoint: Path) -> int:
    tail = checkpoint.name.rpartition("-")[2]
    return int(tail) if tail.isdecimal() else sys.maxsize


def _read(file: Path) -> Any:
    """The JSON value in a file; None if there is none."""
    try:
        return parse_json(file.read_bytes())
    except (OSError, ValueError):
        return None
