"""The same against the real Hub: with VTRAP_LIVE_TOKEN (may write) and VTRAP_LIVE_OWNER. Makes private repositories
with names of their own and removes them.
"""

from __future__ import annotations

import json
import os
import secrets
import shutil
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace

import pytest
from hub.test_interruptions import whole_checkpoint
from standin.running import ROOT, run

pytestmark = [
    pytest.mark.live,
    pytest.mark.skipif(
        not (os.environ.get("VTRAP_LIVE_TOKEN") and os.environ.get("VTRAP_LIVE_OWNER")),
        reason="VTRAP_LIVE_TOKEN and VTRAP_LIVE_OWNER are not set",
    ),
]

LOAD = """
import json, sys
from datasets import load_dataset
rows = list(load_dataset(sys.argv[1], streaming=True, split="train"))
print(json.dumps([len(rows), sum(len(row["json"]["items"]) for row in rows)]))
"""


class Live:
    """Commands as a user of the real Hub runs them.

    Attributes:
        name: Owner and beginning of the name of everything that is made.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.name = f"{os.environ['VTRAP_LIVE_OWNER']}/vtrap-live-{secrets.token_hex(4)}"
        kept = {k: v for k, v in os.environ.items() if not k.startswith(("HF_", "VTRAP_"))}
        self.environment = {**kept, "HF_HOME": str(folder / "home"), "HF_TOKEN": os.environ["VTRAP_LIVE_TOKEN"]}
        if endpoint := os.environ.get("VTRAP_LIVE_ENDPOINT"):  # to try this test itself on the stand-in
            self.environment["HF_ENDPOINT"] = endpoint
        self.environment |= {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}

    def __call__(self, *words: str | Path) -> str:
        done = run(words, self.environment, cwd=self.folder)
        assert done.returncode == 0, done.stderr
        assert os.environ["VTRAP_LIVE_TOKEN"] not in done.stdout + done.stderr
        return done.stdout

    def api(self, code: str) -> str:
        return self("-c", f"from huggingface_hub import HfApi; api = HfApi()\n{code}")


@pytest.fixture
def live(tmp_path: Path) -> Iterator[Live]:
    found = Live(tmp_path)
    yield found
    for kind in ("dataset", "model", "space"):
        remove = "for suffix in ('', '-results'):\n"
        remove += f"    api.delete_repo({found.name!r} + suffix, repo_type={kind!r}, missing_ok=True)"
        found.api(remove)


def test_publish_load_and_publish_again(live: Live, corpora: SimpleNamespace) -> None:
    for said in ("published as", "nothing to do"):
        assert said in live("-m", "vtrap_data", "push", corpora.new, live.name, "--private")
    counts = json.loads((corpora.new / "manifest.json").read_text())["counts"]
    assert json.loads(live("-c", LOAD, live.name).splitlines()[-1]) == [counts["samples"], counts["items"]]


def test_checkpoint_results_and_page(live: Live, checkpoint: Path, write_run) -> None:
    trained = shutil.copytree(checkpoint, live.folder / "hybrid")
    whole_checkpoint(trained)
    push = ("-m", "vtrap_train", "push", trained, live.name, "--checkpoints", "--private")
    assert "published as checkpoint-1" in live(*push)
    assert "nothing to do" in live(*push)
    tags = live.api(f"print(*[tag.name for tag in api.list_repo_refs({live.name!r}).tags])")
    assert "checkpoint-1" in tags.split()

    results = f"{live.name}-results"
    live.api(f"api.create_repo({results!r}, repo_type='dataset', private=True)")
    submit = ("-m", "vtrap_bench", "submit", write_run("live"), "--model", live.name, "--results", results)
    assert ": submitted" in live(*submit)
    assert "already submitted" in live(*submit)
    # An open pull request, not a draft: that is what the boards read.
    found = f"[d for d in api.get_repo_discussions({live.name!r}) if d.title == 'vtrap results']"
    assert live.api(f"print(*[d.status for d in {found}])").split() == ["open"]

    page = ("-m", "vtrap_bench", "leaderboard", "push", "--results", results, "--space", live.name, "--private")
    for said in ("published as", "nothing to do"):
        assert said in live(*page)
