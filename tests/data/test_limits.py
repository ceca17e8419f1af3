"""A file that takes too long, or too much memory, costs one sample and ends no pack: with real worker processes."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from shards_media import chat, write_clip, write_photo, write_rows

from vtrap_data.__main__ import main
from vtrap_data.errors import Reason, SampleError
from vtrap_data.media import container
from vtrap_data.media.limits import check_time, time_limit
from vtrap_data.media.probe import probe
from vtrap_data.samples import SourceSample
from vtrap_data.shards import measure
from vtrap_data.shards.manifest import Manifest, PackSettings
from vtrap_data.shards.measure import MeasureOptions
from vtrap_data.shards.pack import pack
from vtrap_data.sources.jsonl import read_jsonl

SETTINGS = PackSettings(
    name="tiny", budgets=(2, 4), slots=4, mean_frames=3, max_quarantine_rate=0.5, file_timeout=1.0, workers=2
)
ORIGINAL = measure.measure


def pack_clips(folder: Path, **changes: Any) -> Manifest:
    names = ["a.png", "bad.mp4", "b.mp4", "c.png"]
    for number, name in enumerate(names):
        (write_clip if name.endswith("mp4") else write_photo)(folder / name, seed=number)
    rows = [{("video" if n.endswith("mp4") else "image"): n, "conversations": chat("What?")} for n in names]
    corpus = read_jsonl(write_rows(folder / "rows.jsonl", rows))
    return pack(corpus.samples, folder / "out", settings=replace(SETTINGS, **changes))


def quarantine(manifest: Manifest) -> list[tuple[str, str]]:
    return [(entry.sample, entry.reason) for entry in manifest.quarantine]


# These stand for decoders and run inside the workers.


def hang(sample: SourceSample, options: MeasureOptions) -> SampleError | None:
    if "bad" in sample.id:
        time.sleep(3600)  # never looks at the clock
    return ORIGINAL(sample, options)


def crawl(sample: SourceSample, options: MeasureOptions) -> SampleError | None:
    with slow_packets() if "bad" in sample.id else nullcontext():
        return ORIGINAL(sample, options)


def devour(sample: SourceSample, options: MeasureOptions) -> SampleError | None:
    with pytest.MonkeyPatch.context() as patch:
        if "bad" in sample.id:
            patch.setattr(measure, "probe", lambda path: bytearray(3 << 30))
        return ORIGINAL(sample, options)


@contextmanager
def slow_packets() -> Iterator[None]:
    """Every packet of a video takes a tenth of a second."""

    def slow(name: str) -> None:
        time.sleep(0.1)
        check_time(name)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(container, "check_time", slow)
        yield


def test_a_decoder_that_never_comes_back_is_ended(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(measure, "measure", hang)
    began = time.monotonic()
    manifest = pack_clips(tmp_path)
    assert time.monotonic() - began < 40
    assert quarantine(manifest) == [("bad.mp4", "timeout")]
    assert "--file-timeout" in manifest.quarantine[0].detail
    assert manifest.counts["samples"] == 3


def test_a_slow_decoder_stops_by_itself(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(measure, "measure", crawl)
    pools: list[int] = []
    original = measure._run_pool

    def counted(*args: Any, **options: Any) -> Any:
        pools.append(1)
        return original(*args, **options)

    monkeypatch.setattr(measure, "_run_pool", counted)
    manifest = pack_clips(tmp_path, workers=1)
    assert quarantine(manifest) == [("bad.mp4", "timeout")]
    assert pools == [1], "a worker had to be killed"


def test_the_limit_holds_without_workers(tmp_path: Path) -> None:
    clip = write_clip(tmp_path / "a.mp4")
    with (
        slow_packets(),
        time_limit(0.35),
        pytest.raises(SampleError, match=r"longer than 0\.35 s \(--file-timeout\)") as caught,
    ):
        probe(clip)
    assert caught.value.reason is Reason.TIMEOUT
    assert caught.value.sample == str(clip)
    check_time("outside the block there is no limit")


def test_a_file_that_eats_memory_is_set_aside(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(measure, "measure", devour)
    manifest = pack_clips(tmp_path, worker_memory=1.0, file_timeout=60, workers=1)
    assert quarantine(manifest) == [("bad.mp4", "too-large")]
    assert "--worker-memory" in manifest.quarantine[0].detail


def test_limits_change_no_byte_of_the_result(tmp_path: Path) -> None:
    manifest = pack_clips(tmp_path, workers=0, file_timeout=300.0)
    again = read_jsonl(tmp_path / "rows.jsonl")
    other = replace(SETTINGS, workers=0, file_timeout=7.0, worker_memory=9.0)
    assert pack(again.samples, tmp_path / "out", settings=other) == manifest
    assert "timeout" not in (tmp_path / "out/manifest.json").read_text()


@pytest.mark.parametrize("wrong", [["--file-timeout", "0"], ["--worker-memory", "nan"], ["--seed", "-1"]])
def test_limits_that_make_no_sense(tmp_path: Path, capsys: pytest.CaptureFixture[str], wrong: list[str]) -> None:
    rows = write_rows(tmp_path / "rows.jsonl", [{"conversations": chat("What?")}])
    assert main(["pack", str(rows), "--out", str(tmp_path / "out"), *wrong]) == 2
    assert wrong[0] in capsys.readouterr().err
