"""The measurement on a GPU, as far as a CPU can run it: its clips, the timed process, a failure, the table."""

from __future__ import annotations

import importlib
from pathlib import Path

import av
import pytest
import torch

from vtrap_data.loading.dataset import PackedDataset


@pytest.fixture
def bench(monkeypatch):
    monkeypatch.syspath_prepend(str(Path(__file__).parents[2] / "scripts"))
    return importlib.import_module("bench_gpu")


def test_clips_have_64_frames_of_the_size_that_is_said(bench, tmp_path):
    packed = bench.corpus(tmp_path, clips=2)
    with av.open(str(next((tmp_path / "source" / "media").glob("*.mp4")))) as container:
        stream = container.streams.video[0]
        assert (stream.width, stream.height) == (bench.WIDTH, bench.HEIGHT) and stream.frames >= 64
    data = PackedDataset(packed, frames=64)
    example = data[0]
    assert min(data.column("distinct")) == 64 == len(example.frames.times) == len(set(example.frames.times))
    assert {image.size for image in example.frames.images} == {(bench.WIDTH, bench.HEIGHT)}


@pytest.mark.slow
def test_the_trainer_and_the_bare_loop_are_timed_on_the_same_steps(bench, model_dir, packed, tmp_path, capfd):
    found = bench.measure(model_dir, packed, tmp_path, setting=bench.Setting("2", "sdpa"), steps=2)
    assert not found.failed, capfd.readouterr().err
    assert found.tokens_per_second > 0 and found.step_seconds > 0 and 0 < found.waiting < 1
    assert found.against_bare > 0
    assert (found.mfu is None) == (not any(name in bench.device_name() for name in bench.PEAK))
    failed = bench.measure(model_dir, packed, tmp_path, setting=bench.Setting("2", "sdpa"), steps="many")
    assert "many" in failed.failed and "Traceback" in capfd.readouterr().err  # what the process said is shown
    lines = bench.table([("tiny", bench.Setting("2", "sdpa"), found), ("tiny", bench.Setting("2", "x", True), failed)])
    assert all(line.count("|") == 9 for line in lines[2:]) and "| x, compiled | 2 | failed: " in lines[-1]


def test_what_failed_is_not_the_fastest(bench):
    slow, quick, broken = (bench.Setting("hybrid", way) for way in ("eager", "sdpa", "flash_attention_2"))
    failed, some, more = bench.Found(failed="no kernel"), bench.Found(1.0), bench.Found(2.0)
    assert bench.fastest([(broken, failed), (slow, some), (quick, more)]) == quick
    assert bench.fastest([(broken, failed), (slow, failed)]) is None
    rows = [("a", broken, failed), ("a", quick, more), ("b", broken, failed)]
    assert "sdpa (a); none, as every way failed (b)." in bench.table(rows)[0]


def test_without_a_gpu_nothing_is_written(bench, monkeypatch, capsys):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr("sys.argv", ["bench_gpu.py"])
    monkeypatch.setattr(bench, "write_section", lambda *_: pytest.fail("something was written"))
    assert bench.main() == 0 and "no GPU here" in capsys.readouterr().out
