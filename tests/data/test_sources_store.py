"""Benchmarks from files as they come: pictures inside rows and beside them, in text or not, videos in tars."""

from __future__ import annotations

from pathlib import Path

import pytest
from bench.benchmark_rows import png

from vtrap_data.sources.store import store_image, unique


@pytest.mark.parametrize("spread", [False, True])
def test_a_picture_that_a_power_cut_tore_is_written_again(tmp_path: Path, spread: bool) -> None:
    name = store_image(png("red"), tmp_path, "media", spread=spread)
    assert name.count("/") == 1 + spread and name.endswith(".png")
    for torn in (b"", png("red")[:40]):
        (tmp_path / name).write_bytes(torn)
        assert store_image(png("red"), tmp_path, "media", spread=spread) == name
        assert (tmp_path / name).read_bytes() == png("red")
    before = (tmp_path / name).stat().st_mtime_ns
    store_image(png("red"), tmp_path, "media", spread=spread)
    assert (tmp_path / name).stat().st_mtime_ns == before


def test_names_that_are_taken_get_a_number() -> None:
    used: dict[str, int] = {}
    assert [unique(name, used) for name in ("a", "a", "a#2", "a", "b")] == ["a", "a#2", "a#2#2", "a#3", "b"]
