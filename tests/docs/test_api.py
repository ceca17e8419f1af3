"""Is the reference page the one that the docstrings give, and is importing a package cheap?"""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
HEAVY = ("torch", "torchvision", "transformers", "trl", "deepspeed", "accelerate", "datasets", "pyarrow", "matplotlib")
HEAVY += ("pandas", "scipy", "ray", "vllm", "av", "PIL", "huggingface_hub")


def test_reference_page_is_up_to_date() -> None:
    done = subprocess.run(
        [sys.executable, "scripts/make_api_page.py", "--check"], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("package", ["hub_cards", "vtrap_data", "vtrap_train", "vtrap_bench"])
def test_importing_a_package_is_cheap(package: str) -> None:
    code = f"import sys, {package}; print(*(name for name in {HEAVY} if name in sys.modules))"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout.split() == []
