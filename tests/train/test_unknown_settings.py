"""A setting that does not exist is told with the one that may have been meant."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
from tqdm import tqdm

from vtrap_data.errors import UsageError
from vtrap_train.__main__ import main
from vtrap_train.config import parse


def test_a_flag() -> None:
    with pytest.raises(UsageError, match=r"unrecognized arguments: --lora-rr 4; did you mean '--lora-r'\?"):
        parse(["--model", "toy-vl", "--lora-rr", "4"])


def test_a_key_of_a_yaml(tmp_path: Path) -> None:
    (tmp_path / "my.yaml").write_text("model: toy-vl\nsedd: 1\n")
    with pytest.raises(UsageError, match=r"sets what does not exist: sedd; did you mean 'seed'\?"):
        parse(["--config", str(tmp_path / "my.yaml")])


def test_a_setup() -> None:
    with pytest.raises(UsageError, match=r"'one-gpu-lroa' cannot be read: .*; did you mean 'one-gpu-lora'\?"):
        parse(["--config", "one-gpu-lroa"])


def test_a_tracker_is_not_taken_for_another_whose_name_is_in_its(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("vtrap_train.config.find_spec", lambda name: None)
    with pytest.raises(UsageError, match=r"--report_to wandb: it is not installed"):
        parse(["--model", "toy-vl", "--report_to", "wandb"])
    assert parse(["--model", "toy-vl", "--report_to", "wandbb"]).config.report_to == ["wandbb"]  # told by transformers


def test_what_went_wrong_is_said_above_a_bar_and_not_behind_it(capsys: pytest.CaptureFixture[str]) -> None:
    with tqdm(total=2, file=sys.stderr, disable=False):
        assert main(["--model", "toy-vl", "--no_such_flag"]) == 2
    assert "\rvtrap-train: unrecognized arguments: --no_such_flag" in capsys.readouterr().err
