"""parity: what differs between two runs is found and explained."""

import json
from dataclasses import replace

import pytest
from finished_run import write_info, write_scores

from vtrap_bench.__main__ import main
from vtrap_bench.backends import Step
from vtrap_bench.backends.tokens import TOKENS, TokenFile
from vtrap_bench.parity import parity
from vtrap_bench.records import RECORDS, Record, RecordFile

RECORD = Record(
    key="k0",
    task="toy-video",
    item_id="i0",
    ability="order",
    cluster="c",
    question="Which?",
    options=(),
    answer="red",
    response="red",
    extracted="red",
    stage="exact",
    correct=True,
    frame_times=(0.0, 1.0),
    n_frames=2,
    visual_tokens=16,
    prompt_tokens=30,
)
STEPS = (Step(7, -0.1, 8, -2.5), Step(9, -0.69, 4, -0.6901), Step(2, -0.01, 3, -5.0))


@pytest.fixture
def make(tmp_path):
    def run(name, *, records=(RECORD,), steps=STEPS, **decides):
        folder = tmp_path / name
        with RecordFile(folder / RECORDS) as file:
            file.append(records)
        with TokenFile(folder / TOKENS) as tokens:
            tokens.append({r.key: steps for r in records})
        settings = {"backend": "transformers", "dtype": "float32", **decides}
        write_info(folder, records, model=name, decides=settings)
        write_scores(folder, records, model=name)
        return folder

    return run


def changed(number, **values):
    return tuple(s._replace(**values) if i == number else s for i, s in enumerate(STEPS))


@pytest.mark.parametrize(
    ("option", "value", "says"),
    [("--tolerance", "nan", "nan must be 0"), ("--tolerance", "-1", "-1 must be 0"), ("--show", "-1", "-1 must be 0")],
)
def test_numbers_that_compare_nothing_are_refused(make, capsys, option, value, says):
    assert main(["parity", str(make("a")), str(make("b")), f"{option}={value}"]) == 2
    assert says in capsys.readouterr().err


def test_names_of_items_are_shown_not_obeyed(make, capsys):
    one = replace(RECORD, item_id="i\x1b[2J0")
    assert main(["parity", str(make("a", records=(one,))), str(make("b", records=(one,), steps=()))]) == 1
    out = capsys.readouterr().out
    assert "\x1b" not in out and r"toy-video i\x1b[2J0: text" in out


def test_within_the_tolerance(make, capsys):
    b = make("b", steps=changed(0, logprob=-0.10005), backend="vllm")
    assert main(["parity", str(make("a")), str(b)]) == 0
    out = capsys.readouterr().out
    assert "1 items, 1 same" in out and "They agree" in out and "backend: 'transformers' != 'vllm'" in out


def test_beyond_the_tolerance(make, capsys):
    a, b = make("a"), make("b", steps=changed(0, logprob=-0.2))
    assert main(["parity", str(a), str(b), "--json"]) == 1
    found = json.loads(capsys.readouterr().out)
    assert (found["agrees"], found["verdicts"]) == (False, {"logprobs": 1})
    assert found["max_logprob_difference"] == pytest.approx(0.1) and "positions" in found["items"][0]["why"]
    assert main(["parity", str(a), str(b), "--tolerance", "0.11"]) == 0


def test_a_tie_is_within_the_tolerance_and_nothing_else_is(make):
    a = make("a")
    tie = make("tie", records=[replace(RECORD, response="blue")], steps=(STEPS[0], Step(4, -0.69, 9, -0.6901)))
    found = parity(a, tie)
    (item,) = found.items
    assert found.agrees and (item.verdict, item.first_difference, item.token_a, item.token_b) == ("tie", 1, 9, 4)
    far = make("far", records=[replace(RECORD, response="no")], steps=(Step(8, -0.1, 7, -2.4),))
    (item,) = parity(a, far).items
    assert (item.verdict, item.first_difference) == ("differs", 0) and item.gap == pytest.approx(2.4)
    (item,) = parity(a, make("short", records=[replace(RECORD, response="r")], steps=STEPS[:2])).items
    assert (item.verdict, item.first_difference, item.token_a, item.token_b) == ("differs", 2, 2, None)


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"frame_times": (0.0, 2.0)}, "other frames"),
        ({"visual_tokens": 32}, "other pixels"),
        ({"prompt_tokens": 31}, "another prompt"),
        ({"question": "What?"}, "questions are not the same"),
        ({}, "nothing in the settings explains it"),
    ],
)
def test_the_explanation_is_the_first_that_holds(make, change, says):
    other = replace(RECORD, response="blue", **change)
    found = parity(make("a"), make("b", records=[other], steps=changed(0, token=1)))
    assert says in found.items[0].why and not found.agrees


def test_settings_explain(make):
    b = make("b", records=[replace(RECORD, response="x")], steps=changed(0, token=1), dtype="bfloat16")
    assert "number format" in parity(make("a"), b).items[0].why


def test_missing_items_and_tokens(make):
    a = make("a")
    more = make("more", records=[RECORD, replace(RECORD, key="k1", item_id="i1")])
    assert not parity(a, more).agrees and parity(a, more).only_b == 1
    none = make("none", steps=())
    assert parity(a, none).verdicts == {"text": 1} and not parity(a, none).agrees
    other = make("other", records=[replace(RECORD, item_id="z")])
    assert main(["parity", str(a), str(other)]) == 2 and main(["parity", str(a), str(a / "no")]) == 2
