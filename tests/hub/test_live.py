"""The same against the real Hub: with VTRAP_LIVE_TOKEN (write) and VTRAP_LIVE_OWNER. Makes and removes a dataset."""

from __future__ import annotations

import json
import os
import secrets
from pathlib import Path
from types import SimpleNamespace

import pytest
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


def test_publish_load_and_publish_again(corpora: SimpleNamespace, tmp_path: Path) -> None:
    name = f"{os.environ['VTRAP_LIVE_OWNER']}/vtrap-live-{secrets.token_hex(4)}"
    kept = {k: v for k, v in os.environ.items() if not k.startswith(("HF_", "VTRAP_"))}
    environment = {**kept, "HF_HOME": str(tmp_path / "home"), "HF_TOKEN": os.environ["VTRAP_LIVE_TOKEN"]}
    environment["PYTHONPATH"] = str(ROOT)
    push = ["-m", "vtrap_data", "push", corpora.new, name, "--private"]
    try:
        for said in ("published as", "nothing to do"):
            done = run(push, environment, cwd=tmp_path)
            assert done.returncode == 0, done.stderr
            assert said in done.stdout
        counts = json.loads((corpora.new / "manifest.json").read_text())["counts"]
        done = run(["-c", LOAD, name], environment, cwd=tmp_path)
        assert json.loads(done.stdout.splitlines()[-1]) == [counts["samples"], counts["items"]], done.stderr
    finally:
        remove = f"from huggingface_hub import HfApi; HfApi().delete_repo({name!r}, repo_type='dataset')"
        run(["-c", remove], environment)
