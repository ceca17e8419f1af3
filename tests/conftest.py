"""Fixtures that several rooms share. One thread per process: see scripts/test."""

from __future__ import annotations

import os

os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")

import pytest


@pytest.fixture(scope="session")
def toy_processor():
    from vtrap_data.toy_vl.build import build_processor

    return build_processor()


@pytest.fixture
def random_toy(toy_processor):
    """A toy-vl with random weights, in evaluation mode."""
    import torch

    from vtrap_data.toy_vl.build import build_model

    torch.set_num_threads(1)
    return build_model(toy_processor.tokenizer, seed=0).eval()
