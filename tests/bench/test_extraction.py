"""Extraction: golden vectors, and laws that hold for any text."""

import json
from collections import Counter
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from vtrap_bench.extract import Stage, extract, is_right, squash

GOLDEN = [
    json.loads(line) for line in (Path(__file__).parent / "golden_extraction.jsonl").read_text("utf-8").splitlines()
]
FORMS = ("letter", "option", "yes-no", "integer", "text")
WORDS = ("A", "B", "C", "D", "a", "not", "or", "red", "blue", "is", "answer", "the", ".", ",", ")", "yes", "no", "3")
OPTIONS = ["red", "blue", "green", "top left"]


@pytest.mark.parametrize("case", GOLDEN, ids=lambda c: f"{c['form']}: {c['response'][:40]!r}")
def test_golden(case):
    found = extract(case["response"], form=case["form"], options=case["options"])
    assert found == (case["value"], case["stage"])


def test_golden_covers_every_form_and_stage():
    assert {c["form"] for c in GOLDEN} == set(FORMS)
    assert {c["stage"] for c in GOLDEN} == {s.value for s in Stage}
    assert sum(c.get("note") == "reference" for c in GOLDEN) == 26
    assert len({(c["form"], c["response"], *c["options"]) for c in GOLDEN}) == len(GOLDEN)  # no vector twice
    counts = {"letter": 637, "yes-no": 113, "option": 94, "integer": 53, "text": 22}  # vectors come, but none goes
    assert Counter(c["form"] for c in GOLDEN) == counts


@settings(max_examples=200, deadline=None)
@given(
    st.text(max_size=60)
    | st.lists(
        st.sampled_from(
            [
                "A",
                "B",
                "C",
                "D",
                "a",
                "not",
                "or",
                "red",
                "blue",
                "is",
                "answer",
                "the",
                ".",
                ",",
                ")",
                "yes",
                "no",
                "3",
                "two",
            ]
        )
    ).map(" ".join)
)
def test_a_value_is_always_an_allowed_one(response):
    allowed = {"letter": set("ABCD"), "option": set(OPTIONS), "yes-no": {"yes", "no"}}
    for form in FORMS:
        value, stage = extract(response, form=form, options=OPTIONS)
        assert (value is None) == (stage in (Stage.UNPARSED, Stage.EMPTY))
        if value is not None and form in allowed:
            assert value in allowed[form]
        if value is not None and form == "integer":
            int(value)


@settings(max_examples=60, deadline=None)
@given(st.sampled_from("ABCD"), st.sampled_from("ABCD"))
def test_two_letters_side_by_side_are_never_an_answer(a, b):
    for text in (f"{a} or {b}", f"{a}, {b}", f"{a}/{b}", f"The answer is {a} or {b}", f"({a}) and ({b})"):
        value = extract(text, form="letter", options=["w", "x", "y", "z"]).value
        assert value == (a if a == b and value else None)


def test_options_are_needed():
    for form in ("letter", "option"):
        with pytest.raises(ValueError, match="options"):
            extract("B", form=form)


@pytest.mark.parametrize(
    ("value", "answer", "right"),
    [
        ("red", "red", True),
        ("Red.", "red", True),
        ("top-left", "top left", False),
        (None, "red", False),
        ("", "", False),
        ("C", "C++", False),
        ("-2", "2", False),
        ("red", "blue", False),
    ],
)
def test_right_or_wrong(value, answer, right):
    assert is_right(value, answer) is right


def test_squash_keeps_what_changes_the_meaning():
    assert squash("-3.5") != squash("3.5") != squash("35")
    assert squash("isn't") != squash("is")


def test_a_minus_sign_is_one_in_every_writing():
    for sign in "-\u2212\u2013\uff0d":
        assert squash(f"{sign}5") == "-5" and is_right("-5", f"{sign}5") and not is_right(f"{sign}5", "5")
        assert extract(f"It is {sign}5", form="integer").value == "-5"


@settings(max_examples=200, deadline=None)
@given(
    st.sampled_from(
        (
            "I don't think {}",
            "I doubt that {}",
            "It is unlikely that {}",
            "There is no evidence that {}",
            "I can't say {}",
        )
    ),
    st.sampled_from(("the answer is {}", "it is {}", "{} is correct", "it could be {}", "the answer must be {}")),
    st.sampled_from((("letter", "B"), ("option", "blue"), ("yes-no", "yes"), ("integer", "4"))),
)
def test_what_is_denied_is_no_answer(denial, statement, answer):
    form, said = answer
    assert extract(statement.format(said), form=form, options=OPTIONS).value is not None
    assert extract(denial.format(statement.format(said)), form=form, options=OPTIONS) == (None, Stage.UNPARSED)
