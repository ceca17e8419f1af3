"""The line that the trainer is for, word for word: from the Hub to a checkpoint, with no other argument."""

from __future__ import annotations

import json
import os
import shlex
import shutil
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from safetensors.torch import load_file
from standin.running import Repository, Running, run, serve
from transformers import AutoModelForImageTextToText

from vtrap_data.encoding.models import NAMED
from vtrap_train.groups import group_of

LINE = "python -m vtrap_train --model qwen2.5-vl-7b --max_steps 2"
BASE = NAMED["qwen2.5-vl-7b"]

# Python reads this before the command: whoever is asked beyond this machine is noted, and not reached.
GUARD = """
import sys
from pathlib import Path

def only_here(event, args):
    if event not in ("socket.connect", "socket.getaddrinfo"):
        return
    host = args[0] if event == "socket.getaddrinfo" else args[1][0] if isinstance(args[1], tuple) else None
    if host not in (None, "", "127.0.0.1", "localhost", "::1"):
        with Path(__file__).with_name("asked.txt").open("a") as file:
            file.write(f"{event} {host}\\n")
        raise OSError(f"{host} is not on this machine")

sys.addaudithook(only_here)
"""


@pytest.mark.slow
def test_the_literal_line_trains_offline(
    hub: Running, checkpoint: Path, corpora: SimpleNamespace, tmp_path: Path
) -> None:
    trained = shutil.ignore_patterns("checkpoint-*", "*.pt", "*.json.tmp", "training_summary.json", "settings.json")
    base = shutil.copytree(checkpoint, tmp_path / "base", ignore=trained)
    repositories = [Repository(base, BASE.path, sha=BASE.revision)]
    serve(hub, tmp_path / "home", *repositories, Repository(corpora.old, "vtrap/video-sft-hybrid", "dataset"))
    guard = tmp_path / "guard"
    guard.mkdir()
    (guard / "sitecustomize.py").write_text(GUARD)

    environment = hub.environment(tmp_path / "home", token=None)
    environment["PYTHONPATH"] = os.pathsep.join((str(guard), environment["PYTHONPATH"]))
    where = tmp_path / "where"
    where.mkdir()
    python, *words = shlex.split(LINE)
    assert python == "python"
    done = run(words, environment, python=sys.executable, cwd=where)
    assert done.returncode == 0, done.stderr[-3000:]
    assert not (guard / "asked.txt").exists(), (guard / "asked.txt").read_text()
    assert "runs/qwen2.5-vl-7b-hybrid: 2 steps, 9 samples" in done.stdout
    for word in ("Traceback", "Warning", "Error"):
        assert word not in done.stderr, done.stderr

    out = where / "runs/qwen2.5-vl-7b-hybrid"
    summary = json.loads((out / "training_summary.json").read_text())
    assert (summary["steps"], summary["frames"], summary["skipped"]) == (2, "hybrid", 0)
    assert summary["data"][0]["data"] == "vtrap/video-sft-hybrid"
    assert summary["samples_by_modality"] == {"video": 2, "images": 6, "text": 1}
    # The recipe was meant: its learning rate, a frozen tower, and 8 x 1 samples a step, which without ZeRO is one
    # process; DeepSpeed is for several.
    settings = json.loads((out / "settings.json").read_text())
    assert (settings["learning_rate"], settings["gradient_accumulation_steps"]) == (1e-5, 8)
    assert (settings["world_size"], settings["deepspeed"], settings["bf16"]) == (1, None, False)
    assert summary["groups"]["vision"]["trainable"] == 0 < summary["groups"]["language"]["trainable"]
    model, report = AutoModelForImageTextToText.from_pretrained(out, output_loading_info=True)
    assert not any(report[kind] for kind in ("missing_keys", "unexpected_keys", "mismatched_keys"))
    stock = AutoModelForImageTextToText.from_pretrained(base)
    moved = {
        group_of(name)
        for (name, before), after in zip(stock.named_parameters(), model.parameters(), strict=True)
        if not torch.equal(before, after)
    }
    assert moved == {"projector", "language"}
    assert load_file(out / "model.safetensors").keys() == load_file(base / "model.safetensors").keys()
    assert (out / "checkpoint-2" / "trainer_state.json").is_file()
