"""What must be the same, and what goes wrong on the way, through `python -m vtrap_train` alone: see whole_runs.py.

More of several processes is in test_processes.py; so are data that are missing.
"""

import json
import signal

import pytest
from alike import LOSS, WEIGHTS, assert_alike, log, same
from safetensors.torch import load_file
from transformers import AutoModelForImageTextToText
from whole_runs import CELLS, HOW, KILLS, SAME

from vtrap_data.shards.manifest import read_manifest

pytestmark = pytest.mark.slow
ACROSS_LOSS, ACROSS_WEIGHTS = 5e-5, 2e-3
"""As `LOSS` and `WEIGHTS`, for two processes, each of which pads and sums its own half: ten times what is measured."""


@pytest.mark.parametrize("name", SAME)
def test_the_same_samples_give_the_same_weights(name, whole_runs, model_dir):
    plain, out = whole_runs.out("plain"), whole_runs.out(name)
    lines, expected = log(out), log(plain)
    assert len(lines) == len(expected) == len(CELLS)
    assert [line["visual_tokens"] for line in lines] == [line["visual_tokens"] for line in expected]
    if name == "streamed":
        assert same(out, plain) and lines == expected
        return
    for line, other in zip(lines, expected, strict=True):
        assert line["num_tokens"] == other["num_tokens"]
        assert line["loss"] == pytest.approx(other["loss"], rel=LOSS)
        parts = [key for key in other if key.startswith("loss/")]  # of few tokens, which rounding shows more in
        assert {k: line[k] for k in parts} == pytest.approx({k: other[k] for k in parts}, rel=2 * LOSS)
    ends = (load_file(folder / "model.safetensors") for folder in (out, plain, model_dir))
    assert_alike(*ends, way=WEIGHTS, each=2e-4)


def assert_stock(folder, model_dir):
    """An ordinary checkpoint, as the base model is: names and shapes of the Hub, whole for stock transformers."""
    found, base = (load_file(f / "model.safetensors") for f in (folder, model_dir))
    assert {k: v.shape for k, v in found.items()} == {k: v.shape for k, v in base.items()}
    _, report = AutoModelForImageTextToText.from_pretrained(folder, output_loading_info=True)
    assert not any(report[kind] for kind in ("missing_keys", "unexpected_keys", "mismatched_keys"))


@pytest.mark.parametrize("how", HOW)
def test_every_rank_may_have_any_modality(how, whole_runs, model_dir):
    """Two processes, beside the same nine steps in one, where nothing can hang."""
    alone, out = whole_runs.out("plain"), whole_runs.out(how)
    found, first = whole_runs.found(how), whole_runs.root / f"{how} at first"
    summary = json.loads(found.done.stdout)
    assert summary["samples_by_modality"] == {"video": 24, "images": 24, "text": 24}
    assert summary["sharding"]["setup"] == ("no sharding" if how == "ddp" else how)
    assert f"sharding   {summary['sharding']['why']}" in found.done.stderr
    lines, expected = log(first), log(alone)
    assert len(lines) == len(CELLS)
    assert [line["loss"] for line in lines] == pytest.approx([line["loss"] for line in expected], rel=ACROSS_LOSS)
    for line, other, cell in zip(lines, expected, CELLS, strict=True):
        modalities = {k: v for k, v in line.items() if k.startswith("loss/modality/")}
        assert set(modalities) == {f"loss/modality/{kind}" for kind in cell}
        assert modalities == pytest.approx({k: other[k] for k in modalities}, rel=ACROSS_LOSS)
        assert line["visual_tokens"] == other["visual_tokens"]
    ends = (load_file(folder / "model.safetensors") for folder in (first, alone, model_dir))
    assert_alike(*ends, way=ACROSS_WEIGHTS, each=1e-3)
    for folder in (first / "checkpoint-5", out):
        assert_stock(folder, model_dir)
    if how == "ddp":  # the loss of one rank is no number: both stop, and what was learned is kept
        assert found.broken.returncode == 1
        assert found.broken.stderr.count("vtrap-train: ") == 1 and "Traceback" not in found.broken.stderr
        assert "the loss of step 8 is nan (items: " in found.broken.stderr
        assert f"What was learned before is in {out / 'checkpoint-7'}" in found.broken.stderr
        assert found.until == lines[:7]
    assert f"going on from {out / ('checkpoint-7' if how == 'ddp' else 'checkpoint-5')}" in found.again.stderr
    assert log(out) == lines and same(out, first)


def test_a_stream_fetches_every_shard_once(whole_runs):
    whole_runs.found("streamed")
    shards = {
        f"/{folder.name}/{shard.path}": 1
        for folder in whole_runs.corpora.iterdir()
        for shard in read_manifest(folder).shards
    }
    assert whole_runs.server.shards() == shards


def test_a_training_that_is_killed_five_times_ends_as_if_nothing_had_happened(whole_runs):
    """SIGKILL at five steps, each time somewhere else in the step: the end is that of the packed run."""
    parts, done = whole_runs.found("killed")
    whole, out = whole_runs.out("packed"), whole_runs.root / "killed"
    undisturbed = whole_runs.order("packed")
    assert [step for step, _ in undisturbed] == sorted(step for step, _ in undisturbed)
    assert any(len(ids) > 1 for _, ids in undisturbed) and len(undisturbed) > 9  # packed; more than a batch a step
    expected = 0
    for (where, kill), part in zip(KILLS.items(), parts, strict=True):
        assert (part.code, part.last) == (-signal.SIGKILL, kill.goes_on), where
        begin = next(n for n, (step, _) in enumerate(undisturbed) if step == expected + 1)
        assert part.order and part.order == undisturbed[begin : begin + len(part.order)], where
        if where.startswith("in saving"):
            assert part.half == [kill.path.partition("/")[0]]
        expected = kill.goes_on
    assert f"going on from {out / 'checkpoint-8'}" in done.stderr
    assert log(out) == log(whole) and same(out, whole)
    summaries = [json.loads((folder / "training_summary.json").read_text()) for folder in (whole, out)]
    assert len({json.dumps({k: v for k, v in s.items() if k != "seconds"}) for s in summaries}) == 1
    assert sorted(p.name for p in out.glob("checkpoint-*")) == ["checkpoint-8", "checkpoint-9"]


def test_a_damaged_shard_and_a_full_disk_keep_what_was_learned(whole_runs):
    damaged, full, done, middle = whole_runs.found("damaged and full")
    out = whole_runs.root / "damaged and full"
    for stopped in (damaged, full):
        assert stopped.returncode == 1 and "Traceback" not in stopped.stderr, stopped.stderr[-3000:]
        assert stopped.stderr.count("vtrap-train: ") == 1
    assert str(whole_runs.root / "damaged" / "video" / middle["shard"]) in damaged.stderr
    assert middle["key"] in damaged.stderr or middle["item_id"] in damaged.stderr
    assert f"What was learned before is in {out / 'checkpoint-2'}." in damaged.stderr
    assert f"going on from {out / 'checkpoint-2'}" in full.stderr
    assert "checkpoint-4 could not be written" in full.stderr and "goes on from checkpoint-2" in full.stderr
    assert f"going on from {out / 'checkpoint-2'}" in done.stderr
    plain = whole_runs.out("plain")
    assert log(out) == log(plain) and same(out, plain)


def test_a_mistake_is_one_line(whole_runs):
    done = whole_runs.found("refused")
    for name, says in (("ceiling", "--max_tokens 100000000 is more than"), ("model", "Did you mean 'qwen2.5-vl-7b'")):
        assert done[name].returncode == 2 and done[name].stderr.count("\n") == 1 and says in done[name].stderr
    assert not (whole_runs.root / "refused").exists()
