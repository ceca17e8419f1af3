"""A setting that does not exist is told with the one that may have been meant."""

from __future__ import annotations

from pathlib import Path

import pytest

from vtrap_data.errors import UsageError
from vtrap_train.config import parse


def test_a_flag() -> None:
    with pytest.raises(UsageError, match=r"unrecognized arguments: --lora-rr 4; did you mean --lora-r\?"):
        parse(["--model", "toy-vl", "--lora-rr", "4"])


def test_a_key_of_a_yaml(tmp_path: Path) -> None:
    (tmp_path / "my.yaml").write_text("model: toy-vl\nsedd: 1\n")
    with pytest.raises(UsageError, match=r"sets what does not exist: sedd; did you mean seed\?"):
        parse(["--config", str(tmp_path / "my.yaml")])


def test_a_setup() -> None:
    with pytest.raises(UsageError, match=r"'one-gpu-lroa' cannot be read: .*; did you mean one-gpu-lora\?"):
        parse(["--config", "one-gpu-lroa"])
