"""Processes that share a run: real ones, killed at any moment, on one machine and on what looks like two."""

from __future__ import annotations

import contextlib
import errno
import json
import multiprocessing
import os
import random
import resource
import shutil
import signal
import subprocess
import sys
import threading
import time
import traceback
from collections import Counter
from dataclasses import replace
from pathlib import Path

import pytest
from test_run import Fake, benchmarks, model_dir, score, settings  # noqa: F401 - fixtures
from tqdm import tqdm

from vtrap_bench import claims, workers
from vtrap_bench.__main__ import main
from vtrap_bench.answered import WORK, Answered
from vtrap_bench.backends import Step
from vtrap_bench.backends.tokens import TOKENS, read_tokens
from vtrap_bench.claims import Worker
from vtrap_bench.records import RECORDS, read_chained, read_records
from vtrap_bench.run_file import read_info
from vtrap_bench.scores import SCORES
from vtrap_bench.tasks import select_tasks
from vtrap_data.errors import UsageError, VtrapError

# ruff: noqa: F811


def fork(work) -> int:
    """Process id of a child that does `work` and ends; its exit code is 0 unless that raises."""
    child = os.fork()
    if child == 0:
        code = 1
        # A bar's lock is shared with forked processes, and one that is killed never gives it back.
        tqdm.set_lock(threading.RLock())
        try:
            work()
            code = 0
        except BaseException:
            traceback.print_exc()
        finally:
            sys.stderr.flush()
            os._exit(code)
    return child


def ended(child: int) -> int:
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


def content(out: Path) -> list[str]:
    return sorted(json.dumps(r.to_json(), sort_keys=True) for r in read_records(out / RECORDS))


class Slow(Fake):
    """Takes its time, and writes down who is asked what."""

    def __init__(self, log: Path, *, seconds: float = 0.02) -> None:
        super().__init__()
        self.log, self.seconds = log, seconds

    def generate(self, examples, *, max_new_tokens):
        with self.log.open("a") as file:
            file.write("".join(f"{os.getpid()} {e.item.id}\n" for e in examples))
        self.wait()
        return super().generate(examples, max_new_tokens=max_new_tokens)

    def wait(self) -> None:
        time.sleep(self.seconds)

    @staticmethod
    def asked_of(log: Path) -> dict[str, list[int]]:
        """Who was asked each item, in order."""
        found: dict[str, list[int]] = {}
        for line in log.read_text().splitlines():
            pid, item = line.split(" ")
            found.setdefault(item, []).append(int(pid))
        return found


# --- a whole run ---------------------------------------------------------------------------------------------


def test_several_processes_answer_each_item_once(settings, tmp_path):
    alone, _ = score(replace(settings, out=tmp_path / "alone"))
    settings, log = replace(settings, batch_size=2), tmp_path / "log"
    said = [tmp_path / f"said-{n}" for n in range(4)]

    class Together(Slow):
        """Begins when all are there."""

        def generate(self, examples, *, max_new_tokens):
            while not self.asked and len(Answered(settings.out).parts()) < 4:
                time.sleep(0.01)
            return super().generate(examples, max_new_tokens=max_new_tokens)

    children = [fork(lambda p=p: p.write_text(json.dumps(score(settings, Together(log))[0]))) for p in said]
    assert [ended(c) for c in children] == [0] * 4
    asked = Slow.asked_of(log)
    assert len(asked) == 32 and all(len(who) == 1 for who in asked.values())
    assert len({who[0] for who in asked.values()}) == 4  # each had something to do
    # All of them end with the same scores, and nothing tells the folder from that of one process.
    assert [json.loads(p.read_text()) for p in said] == [alone] * 4
    assert content(settings.out) == content(tmp_path / "alone")
    assert len(read_chained(settings.out / RECORDS)) == 32
    assert {p.name for p in settings.out.iterdir()} == {p.name for p in (tmp_path / "alone").iterdir()}


class Leashed(Slow):
    """Gets as far as the killer allows, however busy the machine is: so a kill lands where it was aimed.

    Attributes:
        leash: Asks no new item when so many were asked.
        hold: Whether it keeps its answers back then.
    """

    leash = multiprocessing.Value("i", 0, lock=False)
    hold = multiprocessing.Value("i", 0, lock=False)

    def generate(self, examples, *, max_new_tokens):
        these = {e.item.id for e in examples}
        while len(asked := self.asked_of(self.log)) >= self.leash.value and not these <= asked.keys():
            time.sleep(0.002)
        return super().generate(examples, max_new_tokens=max_new_tokens)

    def wait(self):
        super().wait()
        while self.hold.value and len(self.asked_of(self.log)) >= self.leash.value:
            time.sleep(0.002)


ENDS = ("putting together", "scores written", "scores renamed", "putting together", "scores written")
DOOMED = multiprocessing.Value("i", 0, lock=False)


def doomed(where: str, log: Path, work) -> None:
    """Do `work`; whoever gets as far as that in the final writing is killed there, once DOOMED says so."""
    renames, removes = Path.replace, Path.unlink

    def die() -> None:
        if DOOMED.value and len(Slow.asked_of(log)) == 32:
            DOOMED.value = 0
            os.kill(os.getpid(), signal.SIGKILL)

    def rename(self, target):
        if target.name == SCORES and where == "scores written":
            die()
        found = renames(self, target)
        if target.name == SCORES and where == "scores renamed":
            die()
        return found

    def remove(self, **kwargs):
        # A process that answered nothing removes its empty file at any time: that is no putting together.
        if self.name == RECORDS and where == "putting together" and self.exists() and self.stat().st_size:
            die()
        removes(self, **kwargs)

    Path.replace, Path.unlink = rename, remove
    work()


def until(true) -> None:
    deadline = time.monotonic() + 120
    while not true():
        assert time.monotonic() < deadline
        time.sleep(0.002)


@pytest.mark.parametrize("processes", [1, 3])
def test_30_kills_all_along_a_run_change_nothing(settings, tmp_path, processes):
    """Five runs, each killed as it begins, in each quarter of its questions, and in its final writing."""
    rng, log = random.Random(7), tmp_path / "log"
    alone, _ = score(replace(settings, out=tmp_path / "alone"))
    settings = replace(settings, batch_size=2)
    out, landed = settings.out, Counter()
    live, killed, kept = set(), set(), set()

    def fill(where: str) -> None:
        while len(live) < processes:
            live.add(fork(lambda: doomed(where, log, lambda: score(settings, Leashed(log, seconds=0.01)))))

    def kill(child: int) -> None:
        os.kill(child, signal.SIGKILL)
        assert ended(child) == -signal.SIGKILL
        live.remove(child)
        killed.add(child)
        now = Answered(out).records.keys()
        assert kept <= now  # nothing that was on the disk is lost
        kept.update(now)

    for number, end in enumerate(ENDS):
        log.write_text("")
        for of_the_last_run in (live, killed, kept):
            of_the_last_run.clear()

        Leashed.leash.value = Leashed.hold.value = DOOMED.value = 0
        fill(end)
        until(lambda: len(Answered(out).parts()) == processes)
        time.sleep(rng.uniform(0, 0.02))
        kill(rng.choice(sorted(live)))
        assert not log.read_text() and not kept
        landed["begin"] += 1

        for quarter in range(4):
            hold = (number + quarter) % 2
            aim = 8 * quarter + (rng.choice((2, 4, 6)) if processes == 1 else 2)
            Leashed.leash.value, Leashed.hold.value = min(30, aim if hold else aim + 2), hold
            fill(end)
            until(lambda aim=aim: len(Slow.asked_of(log)) >= aim)
            if hold:  # the answers of whoever asked last are still to come
                victim = int(log.read_text().splitlines()[-1].split()[0])
            else:
                victim = rng.choice(sorted(live))
                time.sleep(rng.uniform(0, 0.02))
            kill(victim)
            asked = Slow.asked_of(log)
            landed[f"quarter {(len(asked) - 1) // 8}"] += 1
            recorded = {r.item_id for r in Answered(out).records.values()}
            in_flight = [item for item, who in asked.items() if who[-1] == victim and item not in recorded]
            assert in_flight or not hold
            landed["in flight" if in_flight else "between"] += 1

        Leashed.leash.value, Leashed.hold.value, DOOMED.value = 1000, 0, 1
        fill(end)
        codes = {child: ended(child) for child in sorted(live)}
        assert sorted(codes.values()) == [-signal.SIGKILL, *[0] * (processes - 1)]
        killed.update(child for child, code in codes.items() if code)
        landed[end] += 1
        if processes == 1:  # nobody has gone on: what it left is still there
            assert len(Answered(out).records) == len(Slow.asked_of(log)) == 32
            assert bool(Answered(out).parts()) == (end == "putting together")
            assert bool(list(out.glob(f".{SCORES}.tmp*"))) == (end == "scores written")
            assert (out / SCORES).exists() == (end == "scores renamed")
        score(settings, Slow(log))

        for item, who in Slow.asked_of(log).items():  # asked again only if whoever was asked before was killed over it
            assert set(who[:-1]) <= killed, (item, who)
        assert len(killed) == 6
        assert content(out) == content(tmp_path / "alone") and len(read_chained(out / RECORDS)) == 32
        assert json.loads((out / SCORES).read_text()) == alone
        assert {p.name for p in out.iterdir()} - {WORK} == {"run.json", RECORDS, SCORES}
        # A process that was killed after the end may leave its empty folder.
        assert not Answered(out).parts()
        shutil.rmtree(out)
    assert landed["in flight"] >= 10 and landed["in flight"] + landed["between"] == 20
    assert {name: count for name, count in landed.items() if name not in ("in flight", "between")} == {
        "begin": 5, **{f"quarter {q}": 5 for q in range(4)}, **Counter(ENDS)
    }  # fmt: skip


def test_a_process_that_fails_leaves_its_batch_to_the_others(settings, tmp_path):
    class Breaks(Slow):
        def generate(self, examples, *, max_new_tokens):
            if self.asked:
                raise VtrapError("the engine is gone")
            return super().generate(examples, max_new_tokens=max_new_tokens)

    settings, log = replace(settings, batch_size=2), tmp_path / "log"
    children = [fork(lambda kind=kind: score(settings, kind(log))) for kind in (Breaks, Slow)]
    assert [ended(c) for c in children] == [1, 0]
    assert all(len(who) == 1 for who in Slow.asked_of(log).values()) and len(Slow.asked_of(log)) == 32
    assert len(read_records(settings.out / RECORDS)) == 32


def test_a_full_disk_leaves_nothing_behind_once_there_is_space(settings):
    """It fills up between the tokens of a batch and its records: the one is written, the other is not."""

    class Wordy(Fake):
        def generate(self, examples, *, max_new_tokens):
            found = super().generate(examples, max_new_tokens=max_new_tokens)
            return [one._replace(steps=(Step(1, -0.5, 2, -1.5),)) for one in found]

    def without_space() -> None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (5000, 5000))  # more than run.json, less than the records
        score(settings, Wordy())

    settings = replace(settings, batch_size=20)
    assert ended(fork(without_space)) == 1
    assert read_info(settings.out)["tasks"] and not read_records(settings.out / RECORDS)
    score(settings, Wordy())
    assert len(read_records(settings.out / RECORDS)) == len(read_tokens(settings.out / TOKENS)) == 32
    assert not (settings.out / WORK).exists()


def test_helpers_must_agree_with_those_at_work(settings, tmp_path):
    log = tmp_path / "log"
    slow = replace(settings, batch_size=2, limit=6)
    child = fork(lambda: score(slow, Slow(log, seconds=0.1)))
    while len(Answered(settings.out).records) < 2:
        time.sleep(0.01)
    with pytest.raises(UsageError, match="another process is at work there with other settings"):
        score(settings)
    with pytest.raises(UsageError, match="batch_size"):
        score(replace(slow, batch_size=3))
    helped, _ = score(slow, Slow(log))
    assert ended(child) == 0 and all(len(who) == 1 for who in Slow.asked_of(log).values())
    # When they are done, or dead, the run can be added to.
    child = fork(lambda: score(replace(slow, limit=9), Slow(log, seconds=5)))
    while not Answered(settings.out).parts():
        time.sleep(0.01)
    os.kill(child, signal.SIGKILL)
    ended(child)
    more, _ = score(settings)
    assert (helped["tasks"]["toy-image"]["n"], more["tasks"]["toy-image"]["n"]) == (6, 20)


def test_a_process_that_answered_nothing_may_go_while_another_puts_things_together(settings, monkeypatch):
    """It removes its empty file without the lock: between the other's look into the folder and its reading, say."""
    listed = Answered.parts
    gone = settings.out / WORK / "somebody" / RECORDS
    monkeypatch.setattr(Answered, "parts", lambda self: [gone, *listed(self)])
    scores, _ = score(settings)
    assert scores["tasks"]["toy-image"]["n"] == 20 and len(read_records(settings.out / RECORDS)) == 32


def test_a_part_that_was_changed_by_hand_is_found(settings):
    with pytest.raises(VtrapError, match="stopped"):
        score(settings, Fake(stop_after=10))
    (part,) = Answered(settings.out).parts()
    part.write_bytes(part.read_bytes().replace(b'"correct": false', b'"correct": true ', 1))
    with pytest.raises(UsageError, match="is not as it was written"):
        score(settings)


# --- claims --------------------------------------------------------------------------------------------------


def race(root: Path, result: Path, *, names: int, at: float) -> None:
    with Worker(root) as me:
        while time.monotonic() < at:
            pass
        won = [n for n in range(names) if me.claim(f"item-{n}")]
        result.write_text(json.dumps(won))
        while len(list(result.parent.glob("won-*"))) < 4:
            time.sleep(0.01)


@pytest.mark.parametrize("orphaned", [False, True], ids=["new", "of a dead process"])
def test_a_claim_has_one_owner(tmp_path, orphaned):
    root, names = tmp_path / "work", 200
    if orphaned:

        def die() -> None:
            with Worker(root) as me:
                assert all(me.claim(f"item-{n}") for n in range(names))
                os.kill(os.getpid(), signal.SIGKILL)

        assert ended(fork(die)) == -signal.SIGKILL
    at = time.monotonic() + 0.3
    results = [tmp_path / f"won-{n}" for n in range(4)]
    children = [fork(lambda r=r: race(root, r, names=names, at=at)) for r in results]
    assert [ended(c) for c in children] == [0] * 4
    won = Counter(n for r in results for n in json.loads(r.read_text()))
    assert won == Counter(range(names))


def test_a_claim_takes_no_room_on_the_disk(tmp_path, monkeypatch):
    def claimed(name):
        return os.lstat(tmp_path / "work/claims" / f"{name}.0")

    def no_more(*_, **__):
        raise OSError(errno.EMLINK, "Too many links")

    with Worker(tmp_path / "work") as me, Worker(tmp_path / "work") as other:
        assert me.claim("a") == me.claim("b") == other.claim("c") == "new"
        assert claimed("a").st_ino == claimed("b").st_ino != claimed("c").st_ino
        monkeypatch.setattr(os, "link", no_more)
        assert me.claim("d") == "new" and claimed("d").st_nlink == 1
        assert not any(other.claim(name) for name in "abd") and not me.claim("c")
        me.forget_claims()
    assert not (tmp_path / "work").exists()


def test_the_lock_holds_one_process_at_a_time(tmp_path):
    inside, counter = tmp_path / "inside", tmp_path / "counter"
    counter.write_text("0")

    def work() -> None:
        with Worker(tmp_path / "work") as me:
            for _ in range(20):
                with me.lock():
                    with inside.open("x"):  # fails if another is in
                        counter.write_text(str(int(counter.read_text()) + 1))
                    inside.unlink()

    children = [fork(work) for _ in range(3)]
    assert [ended(c) for c in children] == [0] * 3 and counter.read_text() == "60"
    assert not (tmp_path / "work").exists()


def test_a_lock_of_a_killed_process_is_free(tmp_path):
    def die() -> None:
        with Worker(tmp_path / "work") as me, me.lock():
            os.kill(os.getpid(), signal.SIGKILL)

    ended(fork(die))
    with Worker(tmp_path / "work") as me, me.lock():
        me.bury()
    assert not (tmp_path / "work").exists()


def elsewhere(root: Path, monkeypatch, *, beat: float) -> tuple[int, str]:
    """A process of another machine, as far as its name says: its lock proves nothing here."""
    pipe, other = os.pipe()

    def work() -> None:
        monkeypatch.setattr(claims, "_machine", lambda: "another")
        with Worker(root, beat=beat) as me:
            assert me.claim("batch")
            os.write(other, me.name.encode())
            time.sleep(60)

    child = fork(work)
    return child, os.read(pipe, 1000).decode()


def test_a_process_of_another_machine_is_dead_when_it_stops_beating(tmp_path, monkeypatch):
    child, name = elsewhere(tmp_path / "work", monkeypatch, beat=0.05)
    try:
        with Worker(tmp_path / "work", lease=0.5) as me:
            assert me.lives(name, sure=True)  # it has changed its sign
            for _ in range(20):
                assert not me.claim("batch")
                time.sleep(0.05)
            os.kill(child, signal.SIGKILL)
            ended(child)
            assert not me.claim("batch"), "nobody can know yet"
            began = time.monotonic()
            while not me.claim("batch"):
                time.sleep(0.02)
            assert 0.3 < time.monotonic() - began < 5
            assert not me.lives(name, sure=True)
        with Worker(tmp_path / "work", lease=0.5) as late:  # one that never saw it alive waits to be sure
            assert late.lives(name) and not late.lives(name, sure=True)
    finally:
        with contextlib.suppress(ProcessLookupError, ChildProcessError):
            os.kill(child, signal.SIGKILL)


def test_a_lock_that_a_child_inherited_keeps_nobody_alive(tmp_path):
    """A killed process may leave children behind, which hold its files open."""
    pipe, other = os.pipe()

    def work() -> None:
        with Worker(tmp_path / "work", beat=0.05) as me:
            child = fork(lambda: time.sleep(30))
            os.write(other, f"{child} {me.name}".encode())
            time.sleep(30)

    owner = fork(work)
    child, name = os.read(pipe, 1000).decode().split(" ", 1)
    try:
        with Worker(tmp_path / "work", lease=0.5) as me:
            assert me.lives(name)
            os.kill(owner, signal.SIGKILL)
            ended(owner)
            deadline = time.monotonic() + 10
            while me.lives(name):
                assert time.monotonic() < deadline
                time.sleep(0.05)
    finally:
        os.kill(int(child), signal.SIGKILL)


# --- one command, several processes --------------------------------------------------------------------------


def test_one_command_starts_several_processes(settings, model_dir, benchmarks, tmp_path, capsys):
    """With the real backend; one of the processes is killed."""
    shared = ["run", "--model", str(model_dir), "--frames", "4", "--batch-size", "1", "--benchmarks", str(benchmarks)]
    assert main([*shared, "--out", str(tmp_path / "alone"), "--json"]) == 0
    alone = json.loads(capsys.readouterr().out)
    out = tmp_path / "shared"
    command = [sys.executable, "-m", "vtrap_bench", *shared, "--out", str(out), "--processes", "2", "--json"]
    launcher = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    while len(parts := Answered(out).parts()) < 2:
        assert launcher.poll() is None
        time.sleep(0.01)
    victim = int(parts[0].parent.name.split(".")[-2])
    os.kill(victim, signal.SIGKILL)
    said, complaints = launcher.communicate()
    assert launcher.returncode == 0, complaints
    assert json.loads(said) == alone and "of 2 was ended by signal 9 (often: out of memory)" in complaints
    assert content(out) == content(tmp_path / "alone")
    assert not (out / WORK).exists()


def test_all_processes_failing_is_no_success(settings, benchmarks, tmp_path, capsys):
    broken = tmp_path / "broken"
    shutil.copytree(settings.model, broken)
    weights = broken / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:1000])
    arguments = ["run", "--model", str(broken), "--frames", "4", "--out", str(tmp_path / "out"), "--processes", "2"]
    assert main([*arguments, "--benchmarks", str(benchmarks)]) == 1
    assert "all 2 processes failed" in capsys.readouterr().err
    assert not (tmp_path / "out" / "scores.json").exists()


def test_gpus_are_divided(monkeypatch):
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "4,5,6,7")
    assert workers.share_of(processes=None, gpus=4, device="auto") == (4, ("4", "5", "6", "7"))
    assert workers.share_of(processes=2, gpus=4, device="auto") == (2, ("4,5", "6,7"))
    assert workers.share_of(processes=3, gpus=None, device="cpu") == (3, ())
    assert workers.share_of(processes=None, gpus=None, device="cpu") == (1, ())
    for processes, gpus, device, says in [
        (None, 8, "auto", "only 4 visible"),
        (3, 4, "auto", "cannot be divided"),
        (0, None, "auto", "at least 1"),
        (None, 0, "auto", "cannot be divided"),
        (None, 2, "cuda:1", "exclude each other"),
    ]:
        with pytest.raises(UsageError, match=says):
            workers.share_of(processes=processes, gpus=gpus, device=device)
    env = workers.environment(workers.Share(2, ("4,5", "6,7")), 1)
    assert env["CUDA_VISIBLE_DEVICES"] == "6,7"


def test_a_process_is_given_the_same_command(tmp_path, monkeypatch):
    """What it is started with, parsed again, asks for the same run."""
    import argparse

    from vtrap_bench import run as running

    parser = argparse.ArgumentParser()
    running.add_arguments(parser)
    words = ["--model", "a b", "--out", str(tmp_path / "x y"), "--engine", '{"a": 1}', "--gpus", "2", "--limit", "3"]
    args = parser.parse_args(words)
    again = parser.parse_args(workers.command(args)[4:])
    assert vars(again) == {**vars(args), "gpus": None}


def test_tasks_of_one_run_are_shared_too(settings, tmp_path):
    """Nothing is shared out before the beginning: a late process helps with what is left."""
    log = tmp_path / "log"
    settings = replace(settings, batch_size=1, tasks=select_tasks("image,video"))
    first = fork(lambda: score(settings, Slow(log, seconds=0.05)))
    while len(Answered(settings.out).records) < 8:
        time.sleep(0.01)
    score(settings, Slow(log, seconds=0.05))
    assert ended(first) == 0
    asked = Slow.asked_of(log)
    who = Counter(pid for pids in asked.values() for pid in pids)
    assert len(asked) == sum(who.values()) == 32 and who[os.getpid()] >= 5
