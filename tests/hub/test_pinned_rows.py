"""Are the rows of a benchmark and of a corpus those of the pinned commit, whatever its default branch holds by now?"""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from bench.benchmark_rows import fixture, write_rows
from standin.running import Running, run

CORPUS = Path(__file__).parents[1] / "fixtures" / "corpora" / "sharegpt4video"

# A data set, and later commits that take its files away.
UPLOAD = """
import sys
from pathlib import Path
from huggingface_hub import HfApi
name, folder = sys.argv[1:]
api = HfApi()
api.create_repo(name, repo_type="dataset")
print(api.upload_folder(repo_id=name, folder_path=folder, repo_type="dataset").oid)
for path in Path(folder).rglob("*.*"):
    api.delete_file(path.relative_to(folder).as_posix(), name, repo_type="dataset")
"""

CONVERT = """
import json, sys
from dataclasses import replace
from pathlib import Path
from vtrap_data.errors import UsageError
from vtrap_data.sources.benchmarks import BENCHMARKS, convert as benchmarks
from vtrap_data.sources.corpora import convert as corpora
from vtrap_data.sources.corpora.table import CORPORA
kind, name, commit, out = sys.argv[1:]
out = Path(out)
if kind == "benchmark":
    known, convert, media = replace(BENCHMARKS["pope"], ids=("vtrap/moved", name)), benchmarks.convert, None
else:
    known, convert, media = replace(CORPORA["sharegpt4video"], ids=(name,)), corpora.convert, out.parent
done = convert(replace(known, revision=commit), rows=name, out=out, media=media)
print(json.dumps([done.revision, done.questions if kind == "benchmark" else done.rows]))
for other in ({"revision": "main"}, {}):
    try:
        convert(replace(known, revision=None), rows=name, out=out, media=media, **other)
    except UsageError as error:
        print(error)
"""


@pytest.mark.parametrize("kind", ["benchmark", "corpus"])
def test_rows_are_those_of_the_pinned_commit(hub: Running, tmp_path: Path, kind: str) -> None:
    folder, name, expected = CORPUS, f"vtrap/{kind}-rows", 2
    if kind == "benchmark":
        folder, expected = tmp_path / "rows", len(fixture("pope"))
        write_rows("pope", folder)
    environment = hub.environment(tmp_path / "home")
    uploaded = run(["-c", UPLOAD, name, folder], environment, cwd=tmp_path)
    assert uploaded.returncode == 0, uploaded.stderr
    commit = uploaded.stdout.strip()
    done = run(["-c", CONVERT, kind, name, commit, tmp_path / "out"], environment, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    pinned, of_main, unpinned = done.stdout.splitlines()
    assert json.loads(pinned) == [commit, expected]
    assert f"--rows {name}" in of_main or "no sharegpt4video_40k.jsonl" in of_main
    assert unpinned.startswith(f"--rows {name}: ") and "give --revision, a commit of it" in unpinned
