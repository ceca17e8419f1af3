"""Does a corpus arrive on the Hub whole or not at all, and do stock tools load what arrived?

Needs `openssl`, for loading over https, and `curl`, with which webdataset downloads.
"""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace

import pytest
from data.shards_media import SMALL, write_photo, write_rows
from standin.running import EXPIRED, READ, STRANGER, WRITE, Running, certify, run, running
from standin.stock import stock_python

ID = "vtrap/video-sft-hybrid"
REPO = f"datasets/{ID}"

# What a stranger types, with nothing installed but `datasets` and what it asks for (msgpack for the lists, Pillow for
# the pictures). Then what came is written down.
STRANGER_LOADS = """
import importlib.util, json, sys
from datasets import load_dataset
if sys.argv[1] == "streaming":
    rows = load_dataset("vtrap/video-sft-hybrid", streaming=True)["train"]
else:
    rows = load_dataset("vtrap/video-sft-hybrid")["train"]
    assert len(rows) == len(load_dataset("vtrap/video-sft-hybrid", revision="v1")["train"])
from PIL import Image
seen = []
for row in rows:
    pictures = [*(row["frames.mp"] or []), *(row["images.mp"] or [])]
    assert all(isinstance(picture, Image.Image) for picture in pictures)
    video = row["json"]["video"]
    seen.append({"kind": row["json"]["kind"], "sizes": [picture.size for picture in pictures],
                 "times": video["frame_times"] if video else None,
                 "items": [[i["budget"], [m["role"] for m in i["messages"]], len(i["frame_ids"])]
                           for i in row["json"]["items"]]})
for name in ("vtrap_data", "vtrap_train", "vtrap_bench", "hub_cards", "torch", "transformers"):
    assert importlib.util.find_spec(name) is None, name
print(json.dumps(seen))
"""


# The same through webdataset, from both kinds of address, and from a folder that `hf download` filled.
OTHER_TOOLS = """
import importlib.util, os, subprocess, sys
from pathlib import Path
import webdataset as wds
shards = sys.argv[1].split(",")
subprocess.run([Path(sys.executable).with_name("hf"), "download", "vtrap/video-sft-hybrid", "--repo-type", "dataset",
                "--local-dir", "here"], check=True, stdout=subprocess.DEVNULL)
for start in ("here", os.environ["HF_ENDPOINT"] + "/datasets/vtrap/video-sft-hybrid/resolve/main",
              "hf://datasets/vtrap/video-sft-hybrid"):
    rows = list(wds.WebDataset([f"{start}/{shard}" for shard in shards], shardshuffle=False).decode())
    print(len(rows), sum(len(row.get("frames.mp", [])) for row in rows))
assert importlib.util.find_spec("vtrap_data") is None
"""


@pytest.fixture(scope="module")
def secure(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    """One that speaks https, as the Hub does."""
    with running(tmp_path_factory.mktemp("hub"), certificate=certify(tmp_path_factory.mktemp("tls"))) as found:
        assert found.url.startswith("https://")
        yield found


@pytest.fixture(scope="module")
def stock(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return stock_python(tmp_path_factory.mktemp("stock") / "datasets", "datasets", "pillow", "msgpack")


@pytest.fixture(scope="module")
def stock_wds(tmp_path_factory: pytest.TempPathFactory) -> Path:
    packages = ("webdataset", "msgpack", "huggingface_hub")
    return stock_python(tmp_path_factory.mktemp("stock") / "webdataset", *packages)


def push(hub: Running, home: Path, corpus: Path, *words: str, token: str | None = WRITE, xet: bool = False, name=ID):
    return run(
        ["-m", "vtrap_data", "push", corpus, name, *words],
        hub.environment(home, token=token, xet=xet),
        cwd=home.parent,
    )


def without_ours(environment: dict[str, str]) -> dict[str, str]:
    """An environment in which nothing leads to vtrap."""
    return {name: value for name, value in environment.items() if name != "PYTHONPATH"}


def hashes(corpus: Path) -> dict[str, str]:
    files = [corpus / "manifest.json", corpus / "index.parquet", *corpus.glob("data/*.tar")]
    return {f.relative_to(corpus).as_posix(): hashlib.sha256(f.read_bytes()).hexdigest() for f in files}


def on_main(hub: Running, name: str = REPO) -> dict[str, str]:
    """Path to sha256 (large) or git oid of what a reader of the default branch finds, but for the card."""
    tree = hub.main_tree(name)
    return {p: lfs or oid for p, (oid, _, lfs, _) in tree.items() if p not in ("README.md", ".gitattributes")}


def large(found: dict[str, str]) -> dict[str, str]:
    return {path: sha for path, sha in found.items() if path != "manifest.json"}


@pytest.mark.parametrize("transfer", ["lfs", pytest.param("xet", marks=pytest.mark.slow)])
def test_publish_and_load_as_a_stranger(
    request: pytest.FixtureRequest,
    corpora: SimpleNamespace,
    tmp_path: Path,
    transfer: str,
    stock: Path,
    stock_wds: Path,
) -> None:
    xet = transfer == "xet"
    # The Xet client trusts no certificates but those that it carries.
    hub: Running = request.getfixturevalue("hub" if xet else "secure")
    done = push(hub, tmp_path / "home", corpora.old, "--tag", "v1", xet=xet)
    assert done.returncode == 0, done.stderr
    assert "published as v1" in done.stdout
    assert large(on_main(hub)) == large(hashes(corpora.old))
    state = hub.repo(REPO)
    assert state["tags"]["v1"] == state["branches"]["main"]
    assert [d["status"] for d in state["discussions"]] == ["merged"]
    # One commit holds everything, on top of the empty repository.
    assert len(state["commits"][state["branches"]["main"]]["tree"]) == len(hashes(corpora.old)) + 2
    assert state["commits"][state["commits"][state["branches"]["main"]]["parent"]]["parent"] is None
    assert any(entry[3] for entry in hub.main_tree(REPO).values()) == xet

    manifest = json.loads((corpora.old / "manifest.json").read_text())
    seen = []
    for mode in ("streaming", "whole"):
        environment = hub.environment(tmp_path / f"stranger-{mode}", token=None, xet=xet)
        loaded = run(["-c", STRANGER_LOADS, mode], without_ours(environment), python=stock, cwd=tmp_path)
        assert loaded.returncode == 0, loaded.stderr
        seen.append(json.loads(loaded.stdout.splitlines()[-1]))
    assert seen[0] == seen[1]
    assert len(seen[0]) == manifest["counts"]["samples"]
    video = next(row for row in seen[0] if row["kind"] == "video")
    assert len(video["sizes"]) == len(video["times"]) == manifest["counts"]["frames_stored"]
    assert sorted(video["times"]) == video["times"]
    assert sum(len(row["items"]) for row in seen[0]) == manifest["counts"]["items"]
    assert all(roles == ["user", "assistant"] for row in seen[0] for _, roles, _ in row["items"])
    assert all(budget == frames > 0 for budget, _, frames in video["items"])

    shards = [path for path in sorted(hashes(corpora.old)) if path.endswith(".tar")]
    environment = without_ours(hub.environment(tmp_path / "other", xet=xet))
    loaded = run(["-c", OTHER_TOOLS, ",".join(shards)], environment, python=stock_wds, cwd=tmp_path)
    assert loaded.returncode == 0, loaded.stderr
    counts = manifest["counts"]
    assert loaded.stdout.splitlines() == [f"{counts['samples']} {counts['frames_stored']}"] * 3

    hub.control("reset")
    again = push(hub, tmp_path / "home", corpora.old, "--tag", "v1", xet=xet)
    assert again.returncode == 0, again.stderr
    assert "nothing to do" in again.stdout
    state = hub.control("state")
    assert state["received"] == 0
    assert not [line for line in state["log"] if "/commit/" in line or line.startswith("PUT")]


def test_refusals_say_what_to_do(hub: Running, corpora: SimpleNamespace, tmp_path: Path) -> None:
    home = tmp_path / "home"
    for token, name, corpus, words in (
        (None, ID, corpora.old, ["hf auth login"]),
        (EXPIRED, ID, corpora.old, ["expired"]),
        (READ, ID, corpora.old, ["can only read"]),
        (STRANGER, "vtrap/x", corpora.old, ["bob is no member of vtrap"]),
        (WRITE, "nobody/x", corpora.old, ["ann is no member of nobody", "Qwen, vtrap"]),
        (WRITE, "no-owner", corpora.old, ["owner/name"]),
        (WRITE, ID, corpora.forbidden, ["may not be redistributed", "ours (CC0-1.0)"]),
    ):
        done = push(hub, home, corpus, token=token, name=name)
        said = done.stdout + done.stderr
        assert done.returncode == 2, said
        assert done.stderr.count("\n") == 1, said
        assert all(word in said for word in words), said
        assert "SECRET" not in said


def test_a_server_that_spoils_a_byte_is_found_out(hub: Running, corpora: SimpleNamespace, tmp_path: Path) -> None:
    name = "vtrap/spoiled"
    path = "data/train-00000.tar"
    hub.faults({"match": "POST .*/commit/", "kind": "spoil", "repo": f"datasets/{name}", "path": path})
    done = push(hub, tmp_path / "home", corpora.new, name=name)
    assert done.returncode == 1
    assert "nothing was merged" in done.stderr or "could not load it back" in done.stderr
    assert on_main(hub, f"datasets/{name}") == {}


def test_damaged_corpora_are_not_sent(hub: Running, corpora: SimpleNamespace, tmp_path: Path) -> None:
    shutil.copytree(corpora.new, tmp_path / "corpus")
    shard = tmp_path / "corpus/data/train-00000.tar"
    data = bytearray(shard.read_bytes())
    data[700] ^= 1
    shard.write_bytes(data)
    hub.control("reset")
    done = push(hub, tmp_path / "home", tmp_path / "corpus", name="vtrap/damaged")
    assert done.returncode == 2
    assert "is damaged" in done.stderr
    assert "vtrap/damaged" not in str(hub.control("state")["log"])


def test_one_sample_in_forty_is_all_that_is_sent_again(hub: Running, tmp_path: Path) -> None:
    """Of a packed corpus, over Xet: its shards are the same bytes wherever its samples are."""
    from vtrap_data.__main__ import main

    rows = []
    for number in range(40):
        photo = write_photo(tmp_path / f"src/{number}.png", seed=number, size=(300, 280))
        free = {"source": "ours", "licence": "CC0-1.0", "redistributable": True}
        talk = [{"from": "human", "value": "<image>\nWhat?"}, {"from": "gpt", "value": "noise"}]
        rows.append({**free, "id": f"p{number}", "image": photo.name, "conversations": talk})
    write_rows(tmp_path / "src/rows.jsonl", rows)
    sent = []
    for version in (0, 1):
        if version:
            write_photo(tmp_path / "src/17.png", seed=99, size=(301, 280))
        words = ["pack", str(tmp_path / "src/rows.jsonl"), "--out", str(tmp_path / f"corpus-{version}")]
        assert main([*words, "--name", "forty", *SMALL]) == 0
        hub.control("reset")
        done = push(hub, tmp_path / "home", tmp_path / f"corpus-{version}", name="vtrap/forty", xet=True)
        assert done.returncode == 0, done.stderr
        sent.append(hub.control("state")["received"])
    assert sent[0] > 9_000_000
    assert 0 < sent[1] < sent[0] / 10, sent
