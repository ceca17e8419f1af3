"""What several tests of the benchmark share."""

from __future__ import annotations

import json

import pytest
from benchmark_rows import write_rows

from vtrap_data.sources.benchmarks import BENCHMARKS
from vtrap_data.sources.benchmarks.convert import convert
from vtrap_data.sources.jsonl import read_jsonl


@pytest.fixture(scope="session")
def corpora(tmp_path_factory):
    """Every benchmark's fixture through the conversion and the reader of `pack`; ids in the order of the rows."""
    found = {}
    for name in BENCHMARKS:
        root = tmp_path_factory.mktemp(name)
        benchmark = write_rows(name, root / "rows")
        media = None if benchmark.media == "images" else root
        done = convert(benchmark, rows=str(root / "rows"), out=root / "out", media=media)
        corpus = read_jsonl(root / "out" / "bench.jsonl", media_root=None, name=None)
        order = [json.loads(line)["id"] for line in (root / "out" / "bench.jsonl").read_text("utf-8").splitlines()]
        found[name] = (done, corpus, order)
    return found


@pytest.fixture(scope="session")
def converted(corpora):
    """What came of every benchmark's fixture, its items in the order of the rows, and the sample that each is in."""
    found = {}
    for name, (done, corpus, order) in corpora.items():
        assert not corpus.rejected
        items = {item.id: item for sample in corpus.samples for item in sample.items}
        assert list(dict.fromkeys(order)) == order and items.keys() == set(order)
        keys = {item.id: sample.id for sample in corpus.samples for item in sample.items}
        found[name] = (done, [items[i] for i in order], keys)
    return found
