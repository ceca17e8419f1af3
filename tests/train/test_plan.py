"""The plan needs no weights and must agree with what encoding really does."""

import json
import shutil

from vtrap_data.encoding import encode, load_processor, resolve
from vtrap_data.loading.dataset import PackedDataset
from vtrap_train.__main__ import main


def test_plan_agrees_with_encoding_and_reads_no_weights(model_dir, packed, tmp_path, capsys):
    bare = tmp_path / "bare"
    shutil.copytree(model_dir, bare, ignore=shutil.ignore_patterns("*.safetensors"))
    more = ["--per_device_train_batch_size", "4", "--num_train_epochs", "2", "--plan", "--json"]
    assert main(["--model", str(bare), "--data", str(packed), *more]) == 0
    plan = json.loads(capsys.readouterr().out)
    processor = load_processor(resolve(str(bare)))

    def real(frames):
        return [encode(e, processor, train=True).visual_tokens for e in PackedDataset(packed, frames=frames)]

    assert plan["tokens"]["visual"] == sum(real("hybrid"))
    for budget, row in plan["against_fixed"].items():
        assert row["visual_tokens"] == sum(real(int(budget)))
    assert (plan["per_epoch"], plan["steps"]) == (20, 10)
    total = [len(encode(e, processor, train=True).input_ids) for e in PackedDataset(packed)]
    assert plan["tokens"]["visual"] + plan["tokens"]["text"] == sum(total)
    assert plan["tokens"]["longest"] == max(total)
    assert sum(b["samples"] for b in plan["tokens"]["histogram"]) == 20
    assert plan["memory"]["gb"]["zero3-offload"] < plan["memory"]["gb"]["one process, float32"]


def test_plan_for_people(model_dir, packed, capsys):
    assert main(["--model", str(model_dir), "--data", str(packed), "--max_tokens", "40", "--plan"]) == 0
    out = capsys.readouterr().out
    assert "over the ceiling of 40" in out and "against " in out
