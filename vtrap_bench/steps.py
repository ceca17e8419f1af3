"""How does a long list of commands run so that it can be stopped, resumed and repeated by hand?

A step is one command. When it ends well, a marker is written that holds a digest of the command, of the files it reads
and of the steps before it. Run again, a step whose digest is unchanged and whose output is there is skipped; one whose
digest changed is run again from nothing, so that it never resumes from the output of other settings.
"""

from __future__ import annotations

import fcntl
import hashlib
import json
import os
import shlex
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Literal, NamedTuple

from tqdm import tqdm

from vtrap_data.errors import UsageError
from vtrap_data.files import sha256_file, write_bytes
from vtrap_data.interruption import terminable
from vtrap_data.parsing import parse_json

MARKER_FORMAT = 1
_READ_WHOLE = 64 * 2**20
_POLL = 0.2

State = Literal["done", "started", "stale", "new"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Step:
    """One command of a longer work.

    Attributes:
        name: Unique in its list and fit to be a file name.
        kind: Steps of one kind take about equally long; used for the time left.
        argv: The command. A leading "python" stands for the interpreter that is running.
        output: The folder it makes. Removed before the step runs again with other settings. Inside the working folder.
        proof: The file it writes last, inside `output`: without it the step is not done.
        inputs: Files and folders from outside that its result depends on.
        after: Names of the steps that must be done before.
        resumes: Whether the command goes on with what it left in `output` when it was killed; if not, that is removed.
        weight: Expected seconds before any step of this kind has been timed.
    """

    name: str
    kind: str
    argv: tuple[str, ...]
    output: Path
    proof: Path
    inputs: tuple[Path, ...] = ()
    after: tuple[str, ...] = ()
    resumes: bool = True
    weight: float = 10.0

    @property
    def command(self) -> str:
        """The command as a person would type it, quoted for a POSIX shell."""
        return shlex.join(self.argv)


class Planned(NamedTuple):
    """A step, its digest, and where it stands."""

    step: Step
    digest: str
    state: State
    seconds: float | None


@dataclass(slots=True)
class _Running:
    planned: Planned
    process: subprocess.Popen[bytes]
    log: Path
    file: IO[bytes]
    began: float = field(default_factory=time.monotonic)


def fingerprint(path: Path) -> str:
    """A hash of what a file or folder holds.

    A packed dataset (or a folder of them) is known by its manifests, which hold the hashes of the shards. In other
    folders every file counts: its name and content, or for files above 64 MiB its name, size and time of change.

    Raises:
        UsageError: `path` does not exist.
    """
    if not path.exists():
        raise UsageError(f"{path} does not exist, and a step of the study reads it")
    hasher = hashlib.sha256()
    if path.is_file():
        files = [path]
    else:
        files = sorted(path.rglob("manifest.json")) or sorted(p for p in path.rglob("*") if p.is_file())
    for file in files:
        hasher.update(str(file.relative_to(path)).encode() + b"\0")
        stat = file.stat()
        if stat.st_size <= _READ_WHOLE:
            hasher.update(sha256_file(file).encode())
        else:
            hasher.update(f"{stat.st_size} {stat.st_mtime_ns}".encode())
    return hasher.hexdigest()


def plan(steps: Sequence[Step], *, out: Path) -> list[Planned]:
    """Work out for each step whether its result is there already.

    Args:
        steps: In an order in which each comes after the steps it names in `after`.
        out: The working folder; markers are kept in `out/steps`.

    Raises:
        UsageError: An input from outside does not exist.
    """
    digests: dict[str, str] = {}
    inputs: dict[Path, str] = {}
    planned = []
    for step in steps:
        for path in step.inputs:
            if path not in inputs:
                inputs[path] = fingerprint(path)
        # The folder may be moved or named differently: its own name is no part of what a step does.
        argv = [_without(arg, out) for arg in step.argv]
        parts = [MARKER_FORMAT, argv, [inputs[p] for p in step.inputs], [digests[name] for name in step.after]]
        digest = hashlib.sha256(json.dumps(parts).encode()).hexdigest()
        digests[step.name] = digest
        marker = _read_marker(_marker(out, step))
        seconds = marker.get("seconds")
        state: State = "new"
        if marker:
            state = "stale"
            if marker.get("digest") == digest:
                state = "done" if marker.get("state") == "done" and step.proof.exists() else "started"
        planned.append(Planned(step, digest, state, seconds if isinstance(seconds, (int, float)) else None))
    return planned


def run_steps(steps: Sequence[Step], *, out: Path, jobs: int = 1) -> int:
    """Run what is not done yet, each step's output going to `out/logs/<step>.log`.

    Commands go to stdout before they run, the progress bar and errors to stderr.

    Args:
        steps: In an order in which each comes after the steps it names in `after`.
        out: The working folder, `locked` by the caller.
        jobs: How many steps may run side by side. The results do not depend on it.

    Returns:
        0, or 1 when a step failed. Steps that were running beside it are left to finish, so their work is kept.

    Raises:
        UsageError: An input does not exist.
    """
    for folder in (out / "steps", out / "logs"):
        folder.mkdir(parents=True, exist_ok=True)
    with terminable():
        return _Runner(plan(steps, out=out), out=out, jobs=jobs).run()


class _Runner:
    """The state of one `run_steps` call."""

    def __init__(self, planned: Sequence[Planned], *, out: Path, jobs: int) -> None:
        self.out = out
        self.jobs = jobs
        self.done = {p.step.name for p in planned if p.state == "done"}
        self.waiting = [p for p in planned if p.state != "done"]
        self.running: list[_Running] = []
        self.failed: list[_Running] = []
        self.total = len(planned)
        self.timed: dict[str, list[float]] = {}
        for p in planned:
            if p.state == "done" and p.seconds is not None:
                self.timed.setdefault(p.step.kind, []).append(p.seconds)

    def run(self) -> int:
        if self.done:
            print(f"{len(self.done)} of {self.total} steps are done already", flush=True)
        if not self.waiting:
            return 0
        shape = "{desc} {bar} {n_fmt}/{total_fmt} [{elapsed}{postfix}]"
        # A terminal redraws one line; a log file gets a line now and then.
        every, shown = (1.0 if sys.stderr.isatty() else 60.0), 0.0
        with tqdm(
            total=self.total,
            initial=len(self.done),
            desc="study",
            bar_format=shape,
            dynamic_ncols=True,
        ) as bar:
            try:
                while self.running or (self.waiting and not self.failed):
                    if not self.failed:
                        self._start()
                    time.sleep(_POLL)
                    finished = self._reap()
                    bar.n += finished
                    if finished or time.monotonic() - shown >= every:
                        shown = time.monotonic()
                        bar.set_postfix_str(self._status(), refresh=True)
            finally:
                self._stop()
        for failed in self.failed:
            _explain(failed)
        return 1 if self.failed else 0

    def _start(self) -> None:
        """Start, in the order of the list, every step that may run now."""
        for planned in list(self.waiting):
            if len(self.running) >= self.jobs:
                return
            if all(name in self.done for name in planned.step.after):
                self.waiting.remove(planned)
                self.running.append(self._launch(planned))

    def _launch(self, planned: Planned) -> _Running:
        step = planned.step
        if planned.state == "stale" or (planned.state == "started" and not step.resumes):
            _remove(step.output, self.out)
        _write_marker(_marker(self.out, step), {"digest": planned.digest, "state": "started", "command": step.command})
        number = self.total - len(self.waiting)
        tqdm.write(f"\n[{number}/{self.total}] {step.name}\n$ {step.command}", file=sys.stdout)
        sys.stdout.flush()
        env = dict(os.environ)
        if self.jobs > 1:
            # Without this, each process starts as many threads as there are cores and they slow each other down.
            env.setdefault("OMP_NUM_THREADS", "1")
        argv = [sys.executable, *step.argv[1:]] if step.argv[0] == "python" else list(step.argv)
        log = self.out / "logs" / f"{step.name}.log"
        file = log.open("wb")
        file.write(f"$ {step.command}\n".encode(errors="replace"))
        file.flush()
        try:
            process = subprocess.Popen(
                argv, stdin=subprocess.DEVNULL, stdout=file, stderr=subprocess.STDOUT, env=env, start_new_session=True
            )
        except OSError as error:
            file.close()
            raise UsageError(f"step {step.name} cannot start: {error}") from error
        return _Running(planned, process, log, file)

    def _reap(self) -> int:
        """Note what has ended; how many ended well."""
        finished = 0
        for item in list(self.running):
            code = item.process.poll()
            if code is None:
                continue
            self.running.remove(item)
            item.file.close()
            step = item.planned.step
            seconds = time.monotonic() - item.began
            if code != 0 or not step.proof.exists():
                self.failed.append(item)
                continue
            marker = {"digest": item.planned.digest, "state": "done", "command": step.command, "seconds": seconds}
            _write_marker(_marker(self.out, step), marker)
            self.timed.setdefault(step.kind, []).append(seconds)
            self.done.add(step.name)
            finished += 1
        return finished

    def _status(self) -> str:
        now = time.monotonic()
        left = sum(max(self._expect(r.planned.step) - (now - r.began), 1.0) for r in self.running)
        left += sum(self._expect(p.step) for p in self.waiting)
        # tqdm puts ", " in front.
        parts = [f"about {tqdm.format_interval(left / self.jobs)} left" if left else "done"]
        parts += [f"{item.planned.step.name}: {last_line(item.log)[:60]}" for item in self.running]
        return " · ".join(parts)

    def _expect(self, step: Step) -> float:
        times = self.timed.get(step.kind)
        return sum(times) / len(times) if times else step.weight

    def _stop(self) -> None:
        """End what still runs (after Ctrl-C, SIGTERM or an error here); its own resume takes it up next time."""
        for item in self.running:
            _signal(item.process, signal.SIGTERM)
        for item in self.running:
            try:
                item.process.wait(timeout=10)
            except subprocess.TimeoutExpired:
                _signal(item.process, signal.SIGKILL)
                item.process.wait()
            item.file.close()


def last_line(log: Path) -> str:
    """The last thing a log says, progress bars included, without control characters."""
    with log.open("rb") as file:
        file.seek(max(log.stat().st_size - 2000, 0))
        text = file.read().decode("utf-8", errors="replace")
    lines = [line.strip() for line in text.replace("\r", "\n").split("\n")]
    found = next((line for line in reversed(lines) if line and not line.startswith("$ ")), "")
    return "".join(c for c in found if c.isprintable())


def _explain(item: _Running) -> None:
    step = item.planned.step
    code = item.process.returncode
    why = f"ended with exit code {code}" if code else f"ended well but did not make {step.proof}"
    if code is not None and code < 0:
        why = f"was ended by signal {-code}"
        if -code == signal.SIGKILL:
            why += " (often: out of memory; fewer --jobs need less)"
    text = item.log.read_bytes()[-20000:].decode("utf-8", errors="replace")
    lines = [line.rsplit("\r", 1)[-1] for line in text.rstrip().split("\n")][-15:]
    for line in lines:
        print("  | " + "".join(c for c in line if c.isprintable()), file=sys.stderr)
    print(f"step {step.name} {why}; all it said: {item.log}; run the study again to go on from here", file=sys.stderr)


def _signal(process: subprocess.Popen[bytes], number: signal.Signals) -> None:
    # The step leads its own session, so its group holds its workers too and nothing of ours.
    with suppress(ProcessLookupError):
        os.killpg(process.pid, number)


def _without(arg: str, out: Path) -> str:
    """The argument with the working folder's own name taken out."""
    prefix = str(out)
    if arg == prefix or arg.startswith(prefix + os.sep):
        return "{out}" + arg[len(prefix) :]
    return arg


def _remove(output: Path, out: Path) -> None:
    """Remove what a step made under other settings; refuses to touch anything outside the working folder."""
    if not output.resolve().is_relative_to(out.resolve()) or output.resolve() == out.resolve():
        raise UsageError(f"{output} is outside {out}, so it is not removed: remove it by hand to repeat its step")
    if output.is_dir() and not output.is_symlink():
        shutil.rmtree(output)
    else:
        output.unlink(missing_ok=True)


def _marker(out: Path, step: Step) -> Path:
    return out / "steps" / f"{step.name}.json"


def _read_marker(path: Path) -> dict[str, object]:
    """The marker, or {} where there is none. An unreadable one counts as another format: the step runs afresh."""
    try:
        data = parse_json(path.read_text("utf-8"))
    except FileNotFoundError:
        return {}
    except (OSError, ValueError):
        return {"state": "unreadable"}
    return data if isinstance(data, dict) and data else {"state": "unreadable"}


def _write_marker(path: Path, data: Mapping[str, object]) -> None:
    write_bytes(path, (json.dumps({"format": MARKER_FORMAT, **data}, indent=1) + "\n").encode())


@contextmanager
def locked(out: Path) -> Iterator[None]:
    """Keep a second process out of the folder: two of them would write the same files.

    Raises:
        UsageError: Another process works in it.
    """
    with (out / ".lock").open("w") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            raise UsageError(f"another study is running in {out}: wait for it, or use another --out") from error
        yield
