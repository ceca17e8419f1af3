"""Do two trainings end alike? How several tests start and read them, and the bounds that docs/training.md tells."""

from __future__ import annotations

import json
import os
import subprocess
import sys

import torch
from safetensors.torch import load_file

LOSS = 5e-6
"""Of two trainings that are the same up to rounding: most by which the loss of a step may differ, relatively."""
WEIGHTS = 5e-4
"""Most by which their weights may be apart, as a share of the way that training went."""

TORCHRUN = ("-m", "torch.distributed.run", "--standalone", "--nproc_per_node=2", "-m", "vtrap_train")


def start(words, *, by=("-m", "vtrap_train"), **environment):
    """Run the command in a process of its own, one thread each, to its end."""
    return subprocess.run(
        [sys.executable, *by, *map(str, words)],
        capture_output=True,
        text=True,
        timeout=500,
        env={**os.environ, "OMP_NUM_THREADS": "1", **environment},
    )


def launch(words, **how):
    """As `start`; it must succeed."""
    done = start(words, **how)
    assert done.returncode == 0, done.stderr[-4000:]
    return done


def log(out):
    """What a training has logged, a dictionary per step."""
    return [json.loads(line) for line in (out / "loss.jsonl").read_text().splitlines()]


def same(one, other):
    """Whether two files of weights hold the same, bit by bit; of folders, their `model.safetensors`."""
    one, other = (load_file(p / "model.safetensors" if p.is_dir() else p) for p in (one, other))
    return one.keys() == other.keys() and all(torch.equal(one[k], other[k]) for k in one)


def moved(weights, reference, start):
    """How far two checkpoints are apart, as a share of how far training moved the second; norms over all weights."""
    assert weights.keys() == reference.keys() == start.keys()
    apart = sum((weights[k].double() - v.double()).square().sum() for k, v in reference.items())
    way = sum((v.double() - start[k].double()).square().sum() for k, v in reference.items())
    return float((apart / way).sqrt())


def assert_alike(weights, reference, start, *, way, each):
    """Two trainings end alike: over all weights as a share of the `way` they went, and in `each` element."""
    assert moved(weights, reference, start) < way
    for name, value in reference.items():  # a small tensor that went astray would not show in the norm
        torch.testing.assert_close(weights[name], value, rtol=1e-2, atol=each)
