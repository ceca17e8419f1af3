"""Do two trainings end alike? Measures and bounds that several tests hold them to; docs/training.md tells them."""

from __future__ import annotations

import torch

LOSS = 5e-6
"""Of two trainings that are the same up to rounding: most by which the loss of a step may differ, relatively."""
WEIGHTS = 5e-4
"""Most by which their weights may be apart, as a share of the way that training went."""


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
