"""Whatever the Hub does not allow: does the command say in a line what was wrong and what to do, without a token?"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace

import pytest
from standin.running import READ, STRANGER, WRITE, Forking, Running, run

from hub_cards.account import Account, may_write
from hub_cards.errors import Refused, redact

RESULTS = "vtrap/vtrap-results"


@pytest.fixture(scope="module")
def forking(hub: Running, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Forking]:
    found = Forking("bench", hub, tmp_path_factory.mktemp("refusals") / "home")
    yield found
    found.close()


def refused(forking: Forking, words: list[str], *says: str, token: str = WRITE) -> None:
    code, said = forking.run(words, token=token)
    assert code == 2, said
    assert all(text in said.splitlines()[-1] for text in says), said
    assert "SECRET" not in said


def test_gated_private_missing_and_taken(
    hub: Running, forking: Forking, corpora: SimpleNamespace, checkpoint: Path, write_run, tmp_path: Path
) -> None:
    make = """
from huggingface_hub import HfApi
api = HfApi()
for name in ("vtrap/gated", "vtrap/open"):
    api.create_repo(name)
    api.upload_file(path_or_fileobj=WEIGHTS, path_in_repo="model.safetensors", repo_id=name)
api.update_repo_settings("vtrap/gated", gated="manual")
for name, more in (("vtrap/gated-results", {"gated": "auto"}), ("vtrap/hidden-results", {"private": True})):
    api.create_repo(name, repo_type="dataset")
    api.update_repo_settings(name, repo_type="dataset", **more)
for kind in ("dataset", "space"):
    api.create_repo("vtrap/taken", repo_type=kind, space_sdk="static" if kind == "space" else None)
    api.upload_file(path_or_fileobj=b"x", path_in_repo="theirs.txt", repo_id="vtrap/taken", repo_type=kind)
"""
    done = run(
        ["-c", make.replace("WEIGHTS", repr(str(checkpoint / "model.safetensors")))],
        hub.environment(tmp_path / "home"),
    )
    assert done.returncode == 0, done.stderr
    scored = str(write_run("scored"))
    submit = ["vtrap_bench.__main__", "submit", scored, "--model"]
    board = ["vtrap_bench.__main__", "leaderboard"]
    build = [*board, "build", "--out", str(tmp_path / "page"), "--results"]
    push = [*board, "push", "--results", RESULTS, "--space"]
    data = ["vtrap_data.__main__", "push", str(corpora.new)]

    refused(forking, [*submit, "vtrap/gated"], "vtrap/gated is gated: ask for access", token=STRANGER)
    refused(forking, [*submit, "vtrap/open", "--results", "vtrap/x"], "bob is no member of vtrap", token=STRANGER)
    refused(forking, [*submit, "vtrap/open", "--results", "vtrap/taken"], "vtrap/taken is taken", "theirs.txt")
    refused(forking, [*build, "vtrap/gated-results"], "is gated: ask for access", token=STRANGER)
    refused(forking, [*build, "vtrap/hidden-results"], "does not exist on the Hub, or this account", token=STRANGER)
    refused(forking, [*build, "vtrap/nothing"], "vtrap/nothing does not exist on the Hub")
    refused(forking, [*data, "vtrap/taken"], "the name vtrap/taken is taken", "theirs.txt")

    code, said = forking.run([*submit, "vtrap/open"])
    assert code == 0, said
    refused(forking, [*push, "nobody/board"], "ann is no member of nobody", "make it on the Hub first")
    refused(forking, [*push, "vtrap/board"], "can only read", token=READ)
    refused(forking, [*push, "vtrap/taken"], "vtrap/taken is taken", "index.html")

    # An organisation's rules, which nobody knows before the Hub says so.
    rule = f"vtrap requires fine-grained tokens, not {WRITE}"
    hub.faults({"match": "repos/create", "kind": "status", "status": 403, "message": rule, "times": 99})
    refused(forking, [*data, "vtrap/new"], "does not allow this token to make vtrap/new", "requires fine-grained")
    hub.faults({"match": "whoami", "kind": "status", "status": 401, "message": "Invalid username or password."})
    refused(forking, [*data, "vtrap/new"], "does not accept the token", "hf auth login")


def test_who_may_write_where() -> None:
    ann = Account("ann", frozenset({"vtrap"}), "fineGrained")
    may_write(ann, "ann/x")
    may_write(ann, "vtrap/x")
    may_write(ann, "other/x", member=False)
    with pytest.raises(Refused, match=r"ann is no member of other .*organisations: vtrap"):
        may_write(ann, "other/x")
    with pytest.raises(Refused, match="can only read"):
        may_write(ann._replace(role="read"), "ann/x", member=False)


def test_tokens_are_taken_out_of_texts(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_TOKEN", "a-token-of-another-form")
    assert redact("Bearer a-token-of-another-form, hf_abcdefgh12345678") == "Bearer hf_***, hf_***"
