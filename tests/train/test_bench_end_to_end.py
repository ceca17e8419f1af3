"""The parts of the end-to-end measurement: its clock, its arithmetic, its picture. Nothing is timed here."""

from __future__ import annotations

import gzip
import importlib
import io
import sys
import tarfile
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from safetensors.numpy import save_file


@pytest.fixture
def bench(monkeypatch):
    monkeypatch.syspath_prepend(str(Path(__file__).parents[2] / "scripts"))
    monkeypatch.delitem(sys.modules, "bench_end_to_end", raising=False)
    return importlib.import_module("bench_end_to_end")


def marks(bench, *, fetch: float, numbers: float = 0.0, epochs: int = 2):
    """Every fetch takes `fetch`, every step one second more; the clips come in reverse."""
    samples = bench.CLIPS_PER_EPOCH * epochs
    ends = [10 + (n + 1) * (1 + fetch) for n in range(samples)]
    return bench.Marks(
        start=5.0,
        begin=10.0,
        fetches=[fetch] * samples,
        rows=list(range(bench.CLIPS_PER_EPOCH))[::-1] * epochs,
        steps=ends,
        losses=[1.0] * samples,
        wall=[10.0, *ends],
        numbers=numbers * samples,
        peak=100.0,
    )


def test_costs_are_per_sample_and_the_table_holds_their_ratio(bench):
    pair = bench.Pair(marks(bench, fetch=2.0), marks(bench, fetch=0.1, numbers=0.3))
    assert (pair.usual.data, pair.usual.whole) == pytest.approx((2, 3))
    assert pair.vtrap.of(3) == pytest.approx(0.1)
    line = bench.whole_table({8: pair}, floors={8: 0.05}, pack_cost=16 * 3.8).splitlines()[-1]
    cells = [cell.strip() for cell in line.strip("|").split("|")]
    # 20 times, 2 / (0.1 + 0.3), 3 / 1.1, (1 + 0.1) / (1 + 0.05), and 3.8 s a clip at 1.9 s saved an epoch
    assert [cells[n] for n in (5, 7, 8, 11, 12)] == ["20.0x", "5.0x", "2.7x", "1.05", "2.0"]


def test_clips_come_out_of_an_archive_by_name_only(bench):
    packed = io.BytesIO()
    with tarfile.open(fileobj=packed, mode="w") as tar:
        for name, data in (("../../a/cup.mp4.gz", gzip.compress(b"cup")), ("b/other.mp4", b"other")):
            info = tarfile.TarInfo(name)
            info.size = len(data)
            tar.addfile(info, io.BytesIO(data))
    packed.seek(0)
    found = bench.in_tar(packed, {"cup.mp4", "cup.mp4.gz"})
    assert {name: gzip.decompress(data) for name, data in found.items()} == {"cup.mp4.gz": b"cup"}


def test_weights_that_differ_are_seen(bench, tmp_path):
    for name, value in (("a", 1.0), ("b", 1.5)):
        save_file({"w": np.full(3, value, np.float32)}, tmp_path / name)
    assert bench.furthest(tmp_path / "a", tmp_path / "a") == 0
    assert bench.furthest(tmp_path / "a", tmp_path / "b") == 0.5


def test_the_picture_is_drawn(bench, tmp_path):
    bench.draw({8: (1.0, 0.02), 64: (5.0, 0.1)}, tmp_path / "figures/e.png")
    assert min(Image.open(tmp_path / "figures/e.png").size) > 300
