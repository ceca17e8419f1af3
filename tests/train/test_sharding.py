"""Which DeepSpeed preset a run gets where nobody asked for one: by size of model, number and memory of GPUs."""

import importlib
import json
from itertools import pairwise, product
from multiprocessing import get_context
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from vtrap_data.encoding import ModelRef, load_processor, resolve
from vtrap_data.encoding.models import NAMED
from vtrap_data.errors import UsageError
from vtrap_train.__main__ import main
from vtrap_train.config import parse
from vtrap_train.memory import ALONE, GB, SETUPS, Counts, Demand
from vtrap_train.run import agree
from vtrap_train.sharding import MARGIN, PRESETS, Sharding, decide, lightest, possible

TIGHT, REFUSED = len(SETUPS), len(SETUPS) + 1
"""After all presets that fit with a margin: one that fits without, and none."""


@pytest.fixture(scope="module")
def table():
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(str(Path(__file__).parents[2] / "scripts"))
        return importlib.import_module("sharding_table")


@pytest.fixture(scope="module")
def seven(table, model_dir, tmp_path_factory):
    """What a folder with Qwen2.5-VL-7B is to everything that looks at no weights."""
    folder = tmp_path_factory.mktemp("seven")
    load_processor(resolve(str(model_dir))).save_pretrained(folder)
    table.config("qwen2.5-vl-7b").save_pretrained(folder)
    return folder


def weight(needed, *, processes, gb, main_gb=None):
    """How heavy the choice is."""
    setup = lightest(needed, processes=processes, gb=gb, main_gb=main_gb)
    if needed.whole(setup, processes) <= (1 - MARGIN) * gb * GB:
        return SETUPS.index(setup)
    return TIGHT if needed.states(setup, processes) <= gb * GB else REFUSED


@st.composite
def demands(draw):
    total = draw(st.integers(10**6, 10**12))
    adapters = draw(st.just(0) | st.integers(1, total // 8))
    four_bits = bool(adapters) and draw(st.booleans())
    counts = Counts(
        total=total,
        trained=adapters or draw(st.integers(1, total)),
        adapters=adapters,
        largest=draw(st.integers(1, total)),
        small=draw(st.integers(1, total)) if four_bits else 0,
    )
    return Demand(counts, draw(st.booleans()), draw(st.floats(0, 1e12)), 1, four_bits)


@given(
    demands(),
    st.lists(st.integers(1, 4096), min_size=2, max_size=6),
    st.lists(st.floats(0.001, 1000), min_size=2, max_size=6),
    st.none() | st.floats(0, 4000),
)
def test_more_gpus_or_more_memory_never_give_a_heavier_preset(needed, processes, memories, main_gb):
    processes, memories = sorted(processes), sorted(memories)
    found = {(n, gb): weight(needed, processes=n, gb=gb, main_gb=main_gb) for n, gb in product(processes, memories)}
    assert all(found[n, less] >= found[n, more] for n in processes for less, more in pairwise(memories))
    assert all(found[few, gb] >= found[many, gb] for gb in memories for few, many in pairwise(processes))
    for (n, gb), place in found.items():
        names = possible(needed, processes=n, main_gb=main_gb)
        if place == REFUSED:  # then the heaviest would not have fitted, even without a margin
            assert needed.states(names[-1], n) > gb * GB
        # And what was passed over is over the margin.
        lighter = [s for s in names if SETUPS.index(s) < place]
        assert all(needed.whole(s, n) > (1 - MARGIN) * gb * GB for s in lighter)
        chosen = lightest(needed, processes=n, gb=gb, main_gb=main_gb)
        assert place < TIGHT or chosen == names[-1]
        assert not (needed.four_bits and chosen.startswith("zero3"))
        assert not (n == 1 and chosen in ("zero2", "zero3"))


def test_the_tables_of_the_docs_are_those_of_the_code_for_every_named_model(table):
    assert set(table.SHAPES) == set(NAMED) - {"toy-vl"} == set(NAMED) & set(table.SHAPES)
    assert table.main(["--check"]) == 0


LORA, QLORA = ("--lora_r", "64"), ("--lora_r", "64", "--lora_4bit", "true")


@pytest.mark.parametrize(
    ("gpus", "more", "gb", "setup", "why"),
    [
        (1, (), 80, "zero3-offload", "139 GB of main memory in all; no sharding would take"),
        (8, (), 80, "zero2", "of 80 GB on each of 8 GPUs for passes of 16,384 tokens; no sharding would take"),
        (1, LORA, 80, ALONE, "of 80 GB"),
        (8, LORA, 80, ALONE, "of 80 GB"),
        (8, LORA, 24, "zero3", "zero2 would take"),
        (1, QLORA, 80, ALONE, "of 80 GB"),
        (8, QLORA, 80, ALONE, "of 80 GB"),
        (8, QLORA, 20, "zero2", "That is tight: lower --tokens_per_batch"),
        (8, ("--deepspeed", "zero3"), 80, "zero3", "asked for"),
        (8, ("--deepspeed", "auto"), 80, "zero2", "no sharding would take"),
        (8, ("--deepspeed", "none"), 141, ALONE, "asked for"),
        (8, ("--max_tokens", "2000"), 24, "zero3", "; zero2 would take"),
    ],
)
def test_the_line_of_the_readme_by_plan(gpus, more, gb, setup, why, seven, packed, monkeypatch, capsys):
    monkeypatch.setitem(NAMED, "qwen2.5-vl-7b", ModelRef(name="qwen2.5-vl-7b", path=str(seven), family="qwen2_5_vl"))
    words = ["--model", "qwen2.5-vl-7b", "--data", str(packed), "--gpus", str(gpus), "--gpu_memory_gb", str(gb)]
    assert main([*words, *more, "--plan", "--json"]) == 0
    memory = json.loads(capsys.readouterr().out)["memory"]
    assert memory["setup"] == setup and why in memory["why"] and memory["why"].startswith(setup)
    parsed = parse([*words, *more])  # and so says the run
    file = None if setup == ALONE else PRESETS[setup]
    chosen = decide(parsed.deepspeed, parsed.arguments, parsed.config, processes=gpus)
    assert chosen == (setup, file, memory["why"])


@pytest.mark.parametrize(
    ("gpus", "more", "gb", "says", "never"),
    [
        # An unsharded base in four bits: neither ZeRO-3 nor more GPUs can help.
        (8, QLORA, 4, ["8 process(es)", "a smaller model"], ["zero3", "--lora", "GPUs"]),
        (1, ("--deepspeed", "none"), 80, ["zero3-offload (2.18 GB)", "--lora_r 64"], ["zero2", "zero3 "]),
        (2, ("--deepspeed", "zero2"), 40, ["--deepspeed zero3-offload"], ["none", "--deepspeed zero3 "]),
        (2, LORA, 1, ["--lora_4bit", "a smaller model"], ["--lora_r", "--deepspeed"]),
    ],
)
def test_what_cannot_fit_is_told_what_would(gpus, more, gb, says, never, seven, packed, capsys):
    words = ["--model", str(seven), "--data", str(packed), "--gpus", str(gpus), "--gpu_memory_gb", str(gb), *more]
    assert main([*words, "--plan"]) == main(words) == 2
    plan, run = capsys.readouterr().err.splitlines()
    helps = plan.partition("What helps: ")[2]
    assert plan == run and all(word in plan for word in says) and not any(word in helps for word in never)


def test_a_tight_plan_names_the_preset_that_is_not(seven, packed, capsys):
    words = ["--model", str(seven), "--data", str(packed), "--gpus", "4", "--gpu_memory_gb", "50", "--plan"]
    assert main([*words, "--deepspeed", "zero2"]) == 0
    assert "tight; fewer --tokens_per_batch, a smaller batch or --deepspeed zero3\n" in capsys.readouterr().out


def test_a_tight_plan_names_no_preset_that_cannot_be_had(seven, packed, capsys):
    words = ["--model", str(seven), "--data", str(packed), "--gpus", "2", *QLORA, "--gpu_memory_gb", "15.5", "--plan"]
    assert main(words) == 0
    out = capsys.readouterr().out
    assert "tight" in out and "zero3" not in out and "--deepspeed" not in out


def test_a_plan_for_other_machines_may_have_more_gpus_than_are_here(seven, packed, monkeypatch, capsys):
    words = ["--model", str(seven), "--data", str(packed), "--gpus", "32", "--plan", "--json"]
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    assert main([*words, "--gpu_memory_gb", "40"]) == 0
    plan = json.loads(capsys.readouterr().out)
    assert plan["processes"] == 32 and plan["memory"]["setup"] == "zero2"
    assert main(words) == 2 and "only 2 visible here" in capsys.readouterr().err


def on_gpus(monkeypatch, *sizes, main_gb):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: len(sizes))
    monkeypatch.setattr(
        torch.cuda, "get_device_properties", lambda number: SimpleNamespace(total_memory=sizes[number] * 1e9)
    )
    monkeypatch.setattr("os.sysconf", lambda name: 4096 if name == "SC_PAGE_SIZE" else int(main_gb * 1e9) // 4096)


def test_the_smallest_gpu_decides_and_main_memory_is_looked_at(seven, monkeypatch):
    parsed = parse(["--model", str(seven), "--freeze", "vision", "--gradient_checkpointing", "true"])
    arguments, config = parsed.arguments, parsed.config
    on_gpus(monkeypatch, 150, main_gb=500)
    assert decide(None, arguments, config, processes=1).setup == "zero3-offload"
    on_gpus(monkeypatch, 200, main_gb=500)
    assert decide(None, arguments, config, processes=1).setup == ALONE
    on_gpus(monkeypatch, 200, 100, main_gb=500)
    assert decide(None, arguments, config, processes=2).setup == "zero3"
    on_gpus(monkeypatch, 80, main_gb=100)
    with pytest.raises(UsageError, match=r"zero3-offload with 139 GB of main memory, not 100; 4 GPUs"):
        decide(None, arguments, config, processes=1)
    monkeypatch.setenv("LOCAL_WORLD_SIZE", "1")  # two such machines
    assert decide(None, arguments, config, processes=2).setup == "zero3-offload"


def test_deepspeed_that_accelerate_sets_up_is_left_alone(monkeypatch):
    parsed = parse(["--model", "toy-vl", "--gpu_memory_gb", "80"])
    monkeypatch.setenv("ACCELERATE_USE_DEEPSPEED", "true")
    monkeypatch.setenv("ACCELERATE_DEEPSPEED_ZERO_STAGE", "3")
    decided = decide(None, parsed.arguments, parsed.config, processes=2)
    assert decided == ("zero3", None, "zero3: as accelerate is configured")
    assert decide("zero2", parsed.arguments, parsed.config, processes=2).file == PRESETS["zero2"]


def test_the_word_of_a_yaml_file_wins_and_the_command_line_over_it(tmp_path):
    own = tmp_path / "own.json"
    own.write_text('{"zero_optimization": {"stage": 3, "offload_optimizer": {"device": "cpu"}}}')
    (tmp_path / "mine.yaml").write_text(f"deepspeed: {own}\n")
    words = ["--model", "toy-vl", "--gpu_memory_gb", "80", "--config", str(tmp_path / "mine.yaml")]
    for more, setup, file in (((), "zero3-offload", own), (("--deepspeed", "zero2"), "zero2", PRESETS["zero2"])):
        parsed = parse([*words, *more])
        assert decide(parsed.deepspeed, parsed.arguments, parsed.config, processes=2)[:2] == (setup, file)
    parsed = parse([*words, "--deepspeed", "auto"])
    assert decide(parsed.deepspeed, parsed.arguments, parsed.config, processes=2).setup == ALONE


def _meet(number, folder, setups, told):
    torch.distributed.init_process_group("gloo", init_method=f"file://{folder}/meet", rank=number, world_size=2)
    try:
        agree(SimpleNamespace(world_size=2, sharding=Sharding(setups[number], None, f"{setups[number]}: 80 GB")))
    except UsageError as error:
        told.put(str(error))
    else:
        told.put("")


@pytest.mark.parametrize("setups", [("zero2", "zero3"), ("zero2", "zero2")])
def test_processes_that_fit_different_gpus_stop_instead_of_waiting_for_each_other(setups, tmp_path):
    context = get_context("fork")
    told = context.Queue()
    parts = [context.Process(target=_meet, args=(number, tmp_path, setups, told)) for number in range(2)]
    for part in parts:
        part.start()
    found = {told.get(timeout=60) for _ in parts}
    for part in parts:
        part.join()
    (text,) = found
    assert text == "" if len(set(setups)) == 1 else "zero2: 80 GB; zero3: 80 GB" in text and "--deepspeed" in text
