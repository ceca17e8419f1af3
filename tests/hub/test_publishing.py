"""Whatever goes wrong: does a reader of the default branch see the old or the new, does the call say what happened,
and does the same call go on? (Kills, and every fault in every flow: test_interruptions.py.)"""

from __future__ import annotations

import random
from collections.abc import Mapping
from pathlib import Path

import pytest
from standin.running import WRITE, Running, run

PUBLISH = Path(__file__).parent / "publish_folder.py"
INVALID = "Invalid credentials in Authorization header"


def version(folder: Path, number: int) -> Path:
    """Content number `number`: some shards change with it, some stay, and their count goes up and down."""
    files = {"manifest.json": b'{"version": %d}' % number, "data/same.tar": b"same" * 500}
    for shard in range(1 + number % 3):
        files[f"data/{shard}.tar"] = random.Random(1000 * number + shard).randbytes(3000)
    for name, data in files.items():
        path = folder / str(number) / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data)
    return folder / str(number)


def listing(folder: Path) -> dict[str, int]:
    """Paths and sizes: together with the version number in the manifest, all that a version is."""
    return {p.relative_to(folder).as_posix(): p.stat().st_size for p in folder.rglob("*") if p.is_file()}


def publish(hub: Running, folder: Path, name: str, home: Path, *, token: str = WRITE, xet: bool = False):
    return run([PUBLISH, folder, name], hub.environment(home, token=token, xet=xet))


def ever_seen(hub: Running, name: str) -> list[dict[str, str]]:
    """Every state that the default branch was ever in, oldest first: path to hash."""
    repo = hub.repo(f"datasets/{name}")
    found, at = [], repo["branches"]["main"]
    while at is not None:
        commit = repo["commits"][at]
        found.append({p: lfs or oid for p, (oid, _, lfs, _) in commit["tree"].items() if p != ".gitattributes"})
        at = commit["parent"]
    return found[::-1]


def expected(folder: Path) -> dict[str, str]:
    import hashlib

    found = {}
    for path in listing(folder):
        data = (folder / path).read_bytes()
        git = hashlib.sha1(b"blob %d\0" % len(data) + data).hexdigest()
        found[path] = hashlib.sha256(data).hexdigest() if path.endswith(".tar") else git
    return found


def test_what_fails_for_a_while_is_tried_again(hub: Running, tmp_path: Path) -> None:
    hub.faults(
        {"match": "whoami", "kind": "status", "status": 429, "headers": {"Retry-After": "1"}},
        {"match": "POST /api/repos/create", "kind": "drop", "after": True},
        {"match": "POST .*/discussions$", "kind": "drop", "after": True},
        {"match": "PUT /_upload", "kind": "drop"},
        {"match": "POST .*/commit/", "kind": "status", "status": 503},
        {"match": "POST .*/commit/", "kind": "drop", "after": True},
        {"match": "GET /_blobs", "kind": "cut"},
        {"match": "GET .*/tree/", "kind": "delay", "seconds": 0.2},
        {"match": "POST .*/status", "kind": "status", "status": 502, "after": True},
        {"match": "POST .*/merge", "kind": "status", "status": 500, "after": True},
        {"match": "POST .*/tag/", "kind": "drop", "after": True},
    )
    folder = version(tmp_path, 2)
    done = publish(hub, folder, "vtrap/faults", tmp_path / "home")
    assert done.returncode == 0, done.stderr
    assert [rule["match"] for rule in hub.control("state")["faults"] if rule["hits"] != 1] == []
    assert "trying again in 1 s" in done.stderr
    assert "SECRET" not in done.stdout + done.stderr
    assert ever_seen(hub, "vtrap/faults") == [{}, expected(folder)]
    state = hub.repo("datasets/vtrap/faults")
    assert [d["status"] for d in state["discussions"]] == ["merged"]
    assert list(state["tags"].values()) == [state["branches"]["main"]]


@pytest.mark.parametrize(
    ("fault", "code", "says"),
    [
        ({"match": "POST .*/commit/", "kind": "status", "status": 503}, 1, "503"),
        ({"match": "POST .*/commit/", "kind": "status", "status": 429}, 1, "429"),
        ({"match": "POST .*/commit/", "kind": "drop"}, 1, "attempts"),
        ({"match": "POST .*/commit/", "kind": "status", "status": 412}, 1, "412"),
        ({"match": "POST .*/commit/", "kind": "status", "status": 401, "message": INVALID}, 2, "expired"),
        (
            {"match": "POST .*/commit/", "kind": "status", "status": 403, "message": f"no, {WRITE}"},
            2,
            "does not allow this token to upload in vtrap/keeps-5 (no, hf_***)",
        ),
        ({"match": "POST .*/merge", "kind": "status", "status": 500}, 1, "could not merge"),
        ({"match": "POST .*/merge", "kind": "status", "status": 403}, 2, "does not allow this token to merge"),
        ({"match": "GET /_blobs", "kind": "status", "status": 404}, 1, "could not load it back"),
    ],
)  # fmt: skip
def test_what_keeps_failing_changes_nothing_and_the_next_call_goes_on(
    hub: Running, tmp_path: Path, fault: Mapping[str, object], code: int, says: str, request: pytest.FixtureRequest
) -> None:
    name = f"vtrap/keeps-{request.node.callspec.indices['fault']}"
    folder = version(tmp_path, 1)
    hub.faults({**fault, "times": 1000})
    done = publish(hub, folder, name, tmp_path / "home")
    assert done.returncode == code, done.stderr
    assert says in done.stderr.splitlines()[-1], done.stderr
    assert "SECRET" not in done.stdout + done.stderr
    assert ever_seen(hub, name) == [{}]
    hub.faults()
    done = publish(hub, folder, name, tmp_path / "home")
    assert done.returncode == 0, done.stderr
    assert "going on with pull request 1" in done.stderr
    assert ever_seen(hub, name) == [{}, expected(folder)]


@pytest.mark.slow
def test_xet_fails_for_a_while(hub: Running, tmp_path: Path) -> None:
    hub.faults(
        {"match": "xet-write-token", "kind": "status", "status": 503},
        {"match": "POST /v1/xorbs", "kind": "drop"},
        {"match": "POST /v1/xorbs", "kind": "status", "status": 429},
        {"match": "POST .*/v1/shards", "kind": "status", "status": 503},
        {"match": "GET /_xorbs", "kind": "cut"},
    )
    folder = version(tmp_path, 2)
    done = publish(hub, folder, "vtrap/xet-faults", tmp_path / "home", xet=True)
    assert done.returncode == 0, done.stderr
    assert [rule["match"] for rule in hub.control("state")["faults"] if rule["hits"] != 1] == []
    assert ever_seen(hub, "vtrap/xet-faults") == [{}, expected(folder)]


@pytest.mark.parametrize(
    ("where", "status", "says"),
    [
        ("xet-write-token", 401, "does not accept the token"),
        ("xet-write-token", 403, "does not allow this token to upload"),
        ("POST /v1/xorbs", 403, "does not allow this token to upload"),
    ],
)
def test_what_xet_is_refused_is_said(hub: Running, tmp_path: Path, where: str, status: int, says: str) -> None:
    name = f"vtrap/xet-{status}-{where[0]}"
    folder = version(tmp_path, status)
    hub.faults({"match": where, "kind": "status", "status": status, "times": 1000})
    done = publish(hub, folder, name, tmp_path / "home", xet=True)
    assert done.returncode == 2, done.stderr
    assert says in done.stderr.splitlines()[-1]
    assert "trying again" not in done.stderr
    assert ever_seen(hub, name) == [{}]


def test_versions_are_replaced_whole(hub: Running, tmp_path: Path) -> None:
    # The second has fewer shards: one left over would be read as part of it.
    folders = [version(tmp_path, 2), version(tmp_path, 3)]
    for folder in folders:
        done = publish(hub, folder, "vtrap/versions", tmp_path / "home")
        assert done.returncode == 0, done.stderr
    assert ever_seen(hub, "vtrap/versions") == [{}, *map(expected, folders)]
    hub.control("reset")
    done = publish(hub, folders[1], "vtrap/versions", tmp_path / "home")
    assert "already holds all 3 files" in done.stderr
    state = hub.control("state")
    assert state["received"] == 0
    assert not [line for line in state["log"] if line.startswith(("PUT", "POST /api/datasets"))]


def test_a_card_that_the_hub_does_not_take_is_not_sent(hub: Running, tmp_path: Path) -> None:
    folder = version(tmp_path, 1)
    (folder / "README.md").write_text("---\nlicense: my own\n---\n# Mine\n")
    done = publish(hub, folder, "vtrap/card", tmp_path / "home")
    assert done.returncode == 2
    assert "the Hub does not take the card" in done.stderr
    assert "my own" in done.stderr
    assert "datasets/vtrap/card" not in hub.control("state")["repos"]


def test_a_moved_head_is_noticed(hub: Running, tmp_path: Path) -> None:
    name = "vtrap/moved"
    folders = [version(tmp_path, 1), version(tmp_path, 2)]
    assert publish(hub, folders[0], name, tmp_path / "home").returncode == 0
    # While it is loaded back, someone commits to the default branch.
    hub.faults({"match": "GET /_blobs", "kind": "intrude", "repo": f"datasets/{name}", "path": "theirs.txt"})
    done = publish(hub, folders[1], name, tmp_path / "home")
    assert done.returncode == 1, done.stderr
    assert "has moved from" in done.stderr
    theirs = ever_seen(hub, name)[-1]
    assert theirs.pop("theirs.txt")
    assert theirs == expected(folders[0])
    done = publish(hub, folders[1], name, tmp_path / "home")
    assert done.returncode == 0, done.stderr
    found = ever_seen(hub, name)[-1]
    assert found.pop("theirs.txt")
    assert found == expected(folders[1])
    assert [d["status"] for d in hub.repo(f"datasets/{name}")["discussions"]] == ["merged", "closed", "merged"]


def test_a_name_that_is_taken_is_left_alone(hub: Running, tmp_path: Path) -> None:
    upload = "from huggingface_hub import HfApi; a = HfApi(); a.create_repo('ann/other', repo_type='dataset'); "
    upload += "a.upload_file(path_or_fileobj=b'x', path_in_repo='a.txt', repo_id='ann/other', repo_type='dataset')"
    assert run(["-c", upload], hub.environment(tmp_path / "home")).returncode == 0
    done = publish(hub, version(tmp_path, 1), "ann/other", tmp_path / "home")
    assert done.returncode == 2
    assert "taken" in done.stderr
    assert "a.txt" in done.stderr
    assert ever_seen(hub, "ann/other")[-1].keys() == {"a.txt"}


def test_six_hundred_files(hub: Running, tmp_path: Path) -> None:
    name = "vtrap/many"
    folder = tmp_path / "many"
    (folder / "data").mkdir(parents=True)
    (folder / "manifest.json").write_text("{}")
    for number in range(600):
        (folder / f"data/{number:03}.tar").write_bytes(b"%d" % number * 500)
    words = [PUBLISH, folder, name, "manifest.json"]
    hub.control("reset")
    done = run(words, hub.environment(tmp_path / "home"))
    assert done.returncode == 0, done.stderr
    assert ever_seen(hub, name) == [{}, expected(folder)]
    commits = [line for line in hub.control("state")["log"] if "/commit/" in line]
    assert len(commits) == 13  # 50 files each, as the Hub asks
    hub.control("reset")
    assert run(words, hub.environment(tmp_path / "home")).returncode == 0
    assert hub.control("state")["received"] == 0
    (folder / "data/007.tar").write_bytes(b"changed")
    assert run(words, hub.environment(tmp_path / "home")).returncode == 0
    assert hub.control("state")["received"] == len(b"changed")
    assert ever_seen(hub, name)[-1] == expected(folder)


def test_memory_does_not_grow_with_the_files(hub: Running, tmp_path: Path) -> None:
    """Here without Xet, whose client holds some chunks; scripts/measure_hub.py has both, with 2 GB."""
    peaks = []
    for number, size in enumerate((1, 96)):
        folder = tmp_path / str(number)
        (folder / "data").mkdir(parents=True)
        (folder / "manifest.json").write_text("{}")
        (folder / "data/0.tar").write_bytes(random.Random(size).randbytes(2**20) * size)
        done = run([PUBLISH, folder, f"vtrap/size-{size}", "manifest.json"], hub.environment(tmp_path / "home"))
        assert done.returncode == 0, done.stderr
        peaks.append(int(done.stdout.split()[-1]))
    assert peaks[1] - peaks[0] < 48, peaks
