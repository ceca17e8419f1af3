"""Each publishing flow as users run it, killed at random instants and hit by every fault: does a reader of the default
branch ever see anything but the old state or the whole new one, and does running it again complete it?

The commands are real processes that talk to the stand-in; they are forked from one that has everything imported, or
the imports alone would take most of an hour (`standin/forking.py`).
"""

from __future__ import annotations

import http.client
import json
import os
import random
import re
import shutil
import signal
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from standin.running import Forking, Running, running

KILLS = 20
IN_A_ROW = 5
"""Interruptions of one repository before it is completed and another one begins."""
EXPIRED = "Invalid credentials in Authorization header"
# The client may take the first four as they come, so the command may succeed; what it may not do is show a half.
FAULTS: dict[str, dict[str, Any]] = {
    "drop": {"kind": "drop"},
    "delay": {"kind": "delay", "seconds": 0.05},
    "429": {"kind": "status", "status": 429, "headers": {"Retry-After": "1"}},
    "503": {"kind": "status", "status": 503},
    "412": {"kind": "status", "status": 412},
    "cut": {"kind": "cut"},
    "expired": {"kind": "status", "status": 401, "message": EXPIRED},
}
CLIENTS = "^(?!.*(agent-harnesses|refs%2Fheads%2Fmain))"
"""Requests of the client that publishes; the one that watches calls the default branch by its long name."""

Tree = dict[str, str]
"""Path to hash."""


@dataclass
class Flow:
    """One of the ways to publish.

    Attributes:
        words: The command that publishes version n (0 or 1, or more) to a repository, given its number.
        watched: The repository whose default branch is watched, given its number.
        whole: Whether a tree of the default branch is a state that may be seen.
        last: Whether a tree is what version n leaves when it has got through.
        tagged: Whether a tree may have a tag.
    """

    forking: Forking
    words: Callable[[int, int], list[str]]
    watched: Callable[[int], str]
    whole: Callable[[Tree], bool]
    last: Callable[[Tree, int], bool]
    tagged: Callable[[Tree], bool]


def tree_of(entries: list[dict[str, Any]]) -> Tree:
    files = (e for e in entries if e["type"] == "file" and e["path"] != ".gitattributes")
    return {e["path"]: (e.get("lfs") or e)["oid"] for e in files}


class Watch:
    """A reader of the default branch that never stops looking, and an eye on the list of processes."""

    def __init__(self, hub: Running, repo: str) -> None:
        self.hub = hub
        self.path = f"/api/{repo}/tree/refs%2Fheads%2Fmain?recursive=true"
        self.seen: list[Tree] = []
        self.looks = 0
        self.leaks: set[str] = set()
        self.done = threading.Event()
        self.thread = threading.Thread(target=self.look, daemon=True)

    def look(self) -> None:
        # One connection and one reading of what stays the same: so many looks must not take the core from the rest.
        there = http.client.HTTPConnection(self.hub.url.removeprefix("http://"), timeout=30)
        last = b""
        while not self.done.wait(0.01):
            try:
                there.request("GET", self.path)
                answer = there.getresponse()
                body = answer.read()
            except (http.client.HTTPException, OSError):
                there.close()  # the next look opens it again
                continue
            if answer.status != 200:
                continue  # not there yet
            self.looks += 1
            if body != last:
                last = body
                found = tree_of(json.loads(body))
                if not self.seen or found != self.seen[-1]:
                    self.seen.append(found)
            if self.looks % 20 == 0:
                self.leaks |= set(leaks(self.hub))
        there.close()

    def __enter__(self) -> Watch:
        self.thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.done.set()
        self.thread.join()


def leaks(hub: Running) -> Iterator[str]:
    """Command lines with a token in them, of whatever talks to that Hub."""
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            text = path.read_bytes()
            if b"SECRET" in text and hub.url.encode() in path.with_name("environ").read_bytes():
                yield text.decode(errors="replace")
        except OSError:  # has ended, or is someone else's
            continue


def tree_at(state: dict[str, Any], commit: str) -> Tree:
    entries = state["commits"][commit]["tree"].items()
    return {p: lfs or oid for p, (oid, _, lfs, _) in entries if p != ".gitattributes"}


def history(hub: Running, repo: str) -> list[Tree]:
    """Every state that the default branch was ever in."""
    state = hub.find(repo)
    at, found = None if state is None else state["branches"]["main"], []
    while at is not None:
        found.append(tree_at(state, at))
        at = state["commits"][at]["parent"]
    return found[::-1]


def tagged(hub: Running, repo: str) -> dict[str, Tree]:
    """What is to be had under each tag."""
    state = hub.find(repo)
    return {} if state is None else {tag: tree_at(state, commit) for tag, commit in state["tags"].items()}


# ---- the flows -------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def own_hub(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    with running(tmp_path_factory.mktemp("own-hub")) as found:
        yield found


def without_card(tree: Tree) -> Tree:
    return {path: sha for path, sha in tree.items() if path != "README.md"}


def versions_of(flow: Flow, hub: Running, first: str) -> list[Tree]:
    """What the two versions are, from publishing each to a repository of its own with nothing in its way."""
    found = []
    for version in (0, 1):
        code, said = flow.forking.run(flow.words(version, 1000 + version))
        assert code == 0, said
        found.append(without_card(history(hub, flow.watched(1000 + version))[-1]))
        assert "README.md" in history(hub, flow.watched(1000 + version))[-1]
    assert found[0] != found[1]
    assert first in found[0]
    return found


def replacing(flow: Flow, hub: Running, first: str) -> Flow:
    """A flow in which a version replaces the one before."""
    versions = versions_of(flow, hub, first)
    new = history(hub, flow.watched(1000))[0]  # what the Hub puts into a new repository
    named = [without_card(tree) for n in (1000, 1001) for tree in tagged(hub, flow.watched(n)).values()]
    assert named
    flow.whole = lambda tree: tree == new or ("README.md" in tree and without_card(tree) in versions)
    flow.last = lambda tree, version: without_card(tree) == versions[version % 2]
    flow.tagged = lambda tree: "README.md" in tree and without_card(tree) in named
    return flow


def no(*_: object) -> bool:
    raise AssertionError("not known yet")


@pytest.fixture(scope="module")
def dataset_flow(own_hub: Running, corpora: SimpleNamespace, tmp_path_factory: pytest.TempPathFactory):
    forking = Forking("data", own_hub, tmp_path_factory.mktemp("data") / "home")
    folders = (corpora.old, corpora.new)
    flow = Flow(
        forking,
        lambda version, number: ["vtrap_data.__main__", "push", str(folders[version % 2]), f"vtrap/data-{number}"],
        lambda number: f"datasets/vtrap/data-{number}",
        no,
        no,
        no,
    )
    yield replacing(flow, own_hub, "manifest.json")
    forking.close()


@pytest.fixture(scope="module")
def checkpoint_flow(own_hub: Running, checkpoint: Path, tmp_path_factory: pytest.TempPathFactory):
    """Two versions of a model, which have one intermediate checkpoint in common."""
    root = tmp_path_factory.mktemp("checkpoints")
    folders = [shutil.copytree(checkpoint, root / str(n) / "hybrid") for n in (0, 1)]
    whole_checkpoint(folders[0])
    shutil.rmtree(folders[1] / "checkpoint-1")
    shutil.copytree(folders[0] / "checkpoint-1", folders[1] / "checkpoint-1")
    from safetensors.torch import load_file, save_file

    weights = load_file(folders[1] / "model.safetensors")
    save_file(
        {name: tensor + 1 for name, tensor in weights.items()}, folders[1] / "model.safetensors", {"format": "pt"}
    )
    forking = Forking("train", own_hub, root / "home")

    def words(version: int, number: int) -> list[str]:
        found = ["vtrap_train.__main__", "push", str(folders[version % 2]), f"vtrap/model-{number}"]
        return [*found, "--checkpoints"]

    flow = Flow(forking, words, lambda number: f"models/vtrap/model-{number}", no, no, no)
    yield replacing(flow, own_hub, "model.safetensors")
    forking.close()


def whole_checkpoint(folder: Path) -> None:
    """Make `checkpoint-1` what the trainer leaves: the model, and the state to go on from."""
    step = folder / "checkpoint-1"
    shutil.rmtree(step)
    shutil.copytree(folder, step, ignore=shutil.ignore_patterns("checkpoint-1", "*.pt", "training_summary.json"))
    (step / "progress.json").write_text('{"world_size": 1}')
    (step / "trainer_state.json").write_text("{}")
    (step / "rng_state.pth").write_bytes(b"not to be published")


@pytest.fixture(scope="module")
def bench_forking(own_hub: Running, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Forking]:
    forking = Forking("bench", own_hub, tmp_path_factory.mktemp("bench") / "home")
    yield forking
    forking.close()


@pytest.fixture
def submit_flow(bench_forking: Forking, own_hub: Running, checkpoint: Path, write_run, tmp_path: Path):
    """The results dataset only grows, by whole runs."""
    upload = "from huggingface_hub import HfApi; api = HfApi(); api.create_repo('vtrap/scored', exist_ok=True); "
    upload += f"api.upload_file(path_or_fileobj={str(checkpoint / 'model.safetensors')!r}, "
    upload += "path_in_repo='model.safetensors', repo_id='vtrap/scored')"
    from standin.running import run

    done = run(["-c", upload], own_hub.environment(tmp_path / "uploader"))
    assert done.returncode == 0, done.stderr
    # One run after the other, each with answers of its own, however many are asked for.
    made: dict[int, Path] = {}

    def words(version: int, number: int) -> list[str]:
        if version not in made:
            made[version] = write_run(f"run-{version}", right=version / 100, items=100)
        results = f"vtrap/results-{number}"
        found = ["vtrap_bench.__main__", "submit", str(made[version]), "--model", "vtrap/scored"]
        return [*found, "--results", results]

    def folders(tree: Tree) -> dict[str, set[str]]:
        found: dict[str, set[str]] = {}
        for path in tree:
            if path.startswith("runs/"):
                found.setdefault(str(Path(path).parent), set()).add(Path(path).name)
        return found

    def whole(tree: Tree) -> bool:
        files = {"records.jsonl", "scores.json", "run.json"}
        return tree == {} or ("README.md" in tree and all(names == files for names in folders(tree).values()))

    def last(tree: Tree, version: int) -> bool:
        digest = json.loads((made[version] / "scores.json").read_text())["records_sha256"][:12]
        return any(name.endswith(digest) for name in folders(tree))

    def watched(number: int) -> str:
        return f"datasets/vtrap/results-{number}"

    yield Flow(bench_forking, words, watched, whole, last, lambda tree: False)
    # The model is its owner's: its default branch has never changed, and one proposal holds the scores.
    assert len(history(own_hub, "models/vtrap/scored")) == 2
    proposals = [d for d in own_hub.repo("models/vtrap/scored")["discussions"] if d["status"] == "open"]
    assert [d["title"] for d in proposals] == ["vtrap results"]


@pytest.fixture
def page_flow(submit_flow: Flow, own_hub: Running, tmp_path: Path):
    """Two results datasets, one with a run more than the other, take turns on one page."""
    for run, dataset in ((0, 3000), (0, 3001), (1, 3001)):
        code, said = submit_flow.forking.run(submit_flow.words(run, dataset))
        assert code == 0, said

    def words(version: int, number: int) -> list[str]:
        found = ["vtrap_bench.__main__", "leaderboard", "push", "--space", f"vtrap/page-{number}"]
        return [*found, "--results", f"vtrap/results-{3000 + version % 2}"]

    flow = Flow(submit_flow.forking, words, lambda number: f"spaces/vtrap/page-{number}", no, no, no)
    return replacing(flow, own_hub, "leaderboard.json")


# ---- what is done to them --------------------------------------------------------------------------------


def requests_of(flow: Flow, hub: Running, version: int) -> tuple[int, float]:
    """How many requests one undisturbed publication makes, and how long it takes."""
    hub.control("reset")
    started = time.monotonic()
    code, said = flow.forking.run(flow.words(version, 2000))
    took = time.monotonic() - started
    assert code == 0, said
    return len([line for line in hub.control("state")["log"] if "agent-harnesses" not in line]), took


def alive(pid: int) -> bool:
    """Whether it still runs: one that has ended stays in the list of processes until it is waited for."""
    return Path(f"/proc/{pid}/stat").read_text().rpartition(") ")[2][0] != "Z"


def check(flow: Flow, hub: Running, watch: Watch, number: int) -> None:
    states = [*history(hub, flow.watched(number)), *watch.seen]
    bad = [sorted(tree) for tree in states if not flow.whole(tree)]
    assert not bad, f"a reader could see {bad[0]}"
    half = [tag for tag, tree in tagged(hub, flow.watched(number)).items() if not flow.tagged(tree)]
    assert not half, f"a reader could see half of {half}"
    assert not watch.leaks


def kill_again_and_again(flow: Flow, hub: Running, *, xet: tuple[bool, ...] = (False,)) -> None:
    chance = random.Random(6)
    count, seconds = requests_of(flow, hub, 0)
    reached = set()
    for block in range(KILLS // IN_A_ROW):
        with Watch(hub, flow.watched(block)) as watch:
            for number in range(IN_A_ROW):
                version = block * IN_A_ROW + number + 1
                by_time = number == IN_A_ROW - 1
                hub.faults()
                words = flow.words(version, block)
                # Held at a random request, before or after it is carried out, and killed there; the last at any time.
                stop = {"match": CLIENTS, "kind": "delay", "seconds": 60, "skip": chance.randrange(count)}
                if not by_time:
                    hub.faults({**stop, "after": chance.random() < 0.5})
                pid = flow.forking.start(words, xet=xet[number % len(xet)])
                if by_time:
                    time.sleep(chance.random() * seconds)
                    os.kill(pid, signal.SIGKILL)
                else:
                    while not (struck := hub.control("faulty")["faults"][0]["struck"]) and alive(pid):
                        time.sleep(0.01)
                    if alive(pid):
                        reached.add(re.sub(r"\d+|[0-9a-f]{12,}", "", struck.replace(f"/{flow.watched(block)}", "")))
                        os.kill(pid, signal.SIGKILL)
                flow.forking.wait(pid)
                hub.faults()
            code, said = flow.forking.run(words)
            assert code == 0, said
            assert flow.last(history(hub, flow.watched(block))[-1], version)
            assert "SECRET" not in said
        check(flow, hub, watch, block)
        assert watch.looks
    assert len(reached) > 4, reached


def every_fault(flow: Flow, hub: Running, *, once: bool = False) -> None:
    """Each fault from a random request on without end (before that, if `once`, at one request); then a run without."""
    chance = random.Random(7)
    count, _ = requests_of(flow, hub, 30)
    struck, failed = set(), set()
    for number, (name, fault) in enumerate(FAULTS.items(), 100):
        with Watch(hub, flow.watched(number)) as watch:
            for times in (1, 10_000) if once else (10_000,):
                version = 30 + 2 * number + (times > 1)
                # One that stays begins in the first half, so that the command cannot get through before.
                skip = chance.randrange(count if times == 1 else count // 2)
                hub.faults({**fault, "match": CLIENTS, "skip": skip, "times": times})
                code, said = flow.forking.run(flow.words(version, number))
                assert code in (0, 1, 2), said
                assert "SECRET" not in said
                assert "Traceback" not in said, said
                if hub.control("faulty")["faults"][0]["hits"]:
                    struck.add(name)
                failed |= {name} if code else set()
            hub.faults()
            code, said = flow.forking.run(flow.words(version, number))
            assert code == 0, f"{name}: {said}"
            assert flow.last(history(hub, flow.watched(number))[-1], version)
        check(flow, hub, watch, number)
    assert struck == set(FAULTS)
    assert failed >= {"429", "503", "expired"}, failed


FLOWS = ("dataset_flow", "checkpoint_flow", "submit_flow", "page_flow")


@pytest.mark.slow
@pytest.mark.parametrize("name", FLOWS)
def test_killed(name: str, own_hub: Running, request: pytest.FixtureRequest) -> None:
    flow = request.getfixturevalue(name)
    kill_again_and_again(flow, own_hub, xet=(False, True) if name == "dataset_flow" else (False,))


@pytest.mark.slow
@pytest.mark.parametrize("name", FLOWS)
def test_every_fault(name: str, own_hub: Running, request: pytest.FixtureRequest) -> None:
    every_fault(request.getfixturevalue(name), own_hub, once=name == "dataset_flow")
