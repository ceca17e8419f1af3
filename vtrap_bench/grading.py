"""What does a response earn? Answer rules of real benchmarks that one answer form does not cover; nothing is guessed.

A grader reads the response in the terms of the item and gives credit between 0 and 1. What cannot be read earns 0.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import NamedTuple

from vtrap_bench.denial import Denials
from vtrap_bench.extract import Extraction, Marked, Stage, after_thought, clean, extract, plain, squash
from vtrap_bench.normalise import ocr_form, vqa_accuracy
from vtrap_data.samples import Item
from vtrap_data.sources.benchmarks.ocrbench import FORMULAS
from vtrap_data.sources.benchmarks.spec import read_facts, read_references
from vtrap_data.sources.benchmarks.tempcompass import option_parts


class Grade(NamedTuple):
    """What was read, and what it earns (0 to 1)."""

    extraction: Extraction
    credit: float


Grader = Callable[[str, Item], Grade]

_UNPARSED = Grade(Extraction(None, Stage.UNPARSED), 0.0)
_EMPTY = Grade(Extraction(None, Stage.EMPTY), 0.0)


def letter(response: str, item: Item) -> Grade:
    """A letter, or the text of an option. Right if that option is the answer, character by character.

    Options may differ in case only ("Ff" and "ff" in genetics), so their texts are not compared loosely here, and one
    that the extractor cannot tell from another is still recognised when it is all that the response says.
    """
    found = extract(response, form="letter", options=item.options)
    if found.value is None:
        said = clean(response).removesuffix(".")
        if said and said in item.options:
            return Grade(Extraction(said, Stage.EXACT), float(said == item.answer))
        return Grade(found, 0.0)
    option = item.options[ord(found.value) - ord("A")]
    return Grade(Extraction(option, found.stage), float(option == item.answer))


def yes_no(response: str, item: Item) -> Grade:
    """Yes or no."""
    found = extract(response, form="yes-no")
    return Grade(found, float(found.value == item.answer))


def vqa(response: str, item: Item) -> Grade:
    """Free text against the answers of several people: VQA accuracy, a share."""
    found = extract(response, form="text")
    if found.value is None:
        return Grade(found, 0.0)
    return Grade(found, vqa_accuracy(found.value, read_references(item.answer or "")))


def contains_reference(response: str, item: Item) -> Grade:
    """OCRBench: right if some reference is a substring of the response. The whole response is the value."""
    said = after_thought(response).strip()
    if not said:
        return _EMPTY
    formula = read_facts(item.category).get("dataset") == FORMULAS
    form = ocr_form(said, formula=formula)
    wanted = [ocr_form(reference, formula=formula) for reference in read_references(item.answer or "")]
    right = any(reference and reference in form for reference in wanted)
    return Grade(Extraction(said, Stage.TEXT), float(right))


# --- open answers of MMMU and Video-MMMU ----------------------------------------------------------------------

_STATEMENTS = (
    re.compile(r"\b(?:answer|result|solution)\s*(?:is|are|was|:|=|would be)\s*:?\s*", re.IGNORECASE),
    re.compile(r"=\s*"),
    re.compile(r"\b(?:therefore|thus|hence|so)\b,?\s*", re.IGNORECASE),
)
# An exponent is no number of its own; a fraction is one ("3/4").
_NUMBER = re.compile(r"(?<![\w.^/])-?\d+(?:,\d{3})*(?:\.\d+)?(?:/\d+(?:\.\d+)?(?![\w/]))?(?!/\d)")
_OR = re.compile(r"\bor\b", re.IGNORECASE)
_SLASH = re.compile(r"\s*/\s*")
# The slash of a unit: "60 km/h", "9.8 m/s^2", "5/day".
_MEASURED = re.compile(r"\d[\s-]*(?:[^\W\d_]|[°%€£µΩ^·])*(?:\d(?=/))?$")


def open_answer(response: str, item: Item) -> Grade:
    """An open question: a number or a few words, after the last explicit statement if there is one.

    Right if the number stated is a reference rounded to two decimals, or a reference stands in the statement as whole
    words, not denied. A statement with two different numbers states a number only if it begins with it; one that
    offers alternatives ("red or blue", "5 / 6") states nothing. The slash of a unit or a fraction offers none.
    """
    text = clean(response)
    if not text:
        return _EMPTY
    tails = (_tail(text, pattern) for pattern in _STATEMENTS)
    said = next((tail for tail in tails if tail), text)
    wanted = read_references(item.answer or "")
    if _offers(said) and not any(_offers(reference) or "/" in reference for reference in wanted):
        return _UNPARSED
    if said != text and Denials(text).rules(text.rindex(said)):
        return _UNPARSED  # "I don't think the answer is 24"
    value = Extraction(" ".join(said.split()).removesuffix("."), Stage.STATEMENT if said != text else Stage.TEXT)
    return Grade(value, float(any(_states(said, reference) for reference in wanted)))


def _offers(said: str) -> bool:
    """Whether alternatives are named: "red or blue", "red/blue", "5 / 6"; not "3/4", "60 km/h"."""
    if _OR.search(said):
        return True
    for slash in _SLASH.finditer(said):
        before, after = said[: slash.start()], said[slash.end() :]
        numbers = before[-1:].isdigit() and re.match(r"-?\d", after) is not None
        if (numbers and slash[0] != "/") or (not numbers and (after[:1].isdigit() or not _MEASURED.search(before))):
            return True
    return False


def _tail(text: str, pattern: re.Pattern[str]) -> str:
    """The sentence after the last match; "" if there is none."""
    matches = list(pattern.finditer(text))
    return re.split(r"\n|(?<=[^\d])\.\s|(?<=\d)\.\s", text[matches[-1].end() :])[0].strip() if matches else ""


def _states(said: str, reference: str) -> bool:
    number, marked = _number(reference), Marked(said)
    if number is not None:
        found = list(_NUMBER.finditer(said))
        numbers = [_rounded(match[0]) for match in found]
        leading = _NUMBER.match(said.lstrip("$€£ "))
        states = bool(numbers) and numbers[0] == number and (leading is not None or len(set(numbers)) == 1)
        return states and not Denials(said).covers(found[0].span())
    words = squash(reference)
    if not words:  # signs only
        return said.strip().removesuffix(".") == reference.strip()
    if (
        re.search(rf"/\s*{re.escape(reference)}|{re.escape(reference)}\s*/", said, re.IGNORECASE)
        and "/" not in reference
    ):
        return False
    return _stands(marked, words) is True


def _stands(marked: Marked, words: str) -> bool | None:
    """Whether these words are said; False if they are denied anywhere, None if they are not there."""
    written = r"(?: \| | )".join(map(re.escape, words.split()))
    places = [marked.place(match) for match in re.finditer(rf"(?<= ){written}(?= )", marked.text)]
    return not any(marked.denials.of(places)) if places else None


def _number(text: str) -> float | None:
    bare = plain(text).strip().strip("$%€£ ")
    return _rounded(bare) if _NUMBER.fullmatch(bare) else None


def _rounded(number: str) -> float | None:
    """To two decimals; None if it cannot be divided."""
    over, _, under = number.replace(",", "").partition("/")
    divisor = float(under or 1)
    return round(float(over) / divisor, 2) if divisor else None


def letter_or_open(response: str, item: Item) -> Grade:
    """A letter where the item has options, otherwise an open answer."""
    return letter(response, item) if item.options else open_answer(response, item)


# --- TempCompass ----------------------------------------------------------------------------------------------


def tempcompass(response: str, item: Item) -> Grade:
    """By its task: multiple choice, yes or no, or the caption that matches."""
    if not item.options:
        return yes_no(response, item)
    if read_facts(item.category)["task"] == "multi-choice":
        return letter(response, item)
    return caption(response, item)


def caption(response: str, item: Item) -> Grade:
    """One of the option lines ("Option 1: a man ..."): by the line, its sentence, its label or the label's number."""
    text = clean(response)
    if not text:
        return _EMPTY
    parts = [option_parts(option) for option in item.options]
    said = squash(text)
    forms = [
        {squash(option), squash(sentence), squash(label), squash(label.split()[-1] if label else "")} - {""}
        for option, (label, sentence) in zip(item.options, parts, strict=True)
    ]
    whole = [i for i, names in enumerate(forms) if said in names]
    labels = [i for i, (label, _) in enumerate(parts) if label and f" {squash(label)} " in f" {said} "]
    sentences = [i for i, (_, sentence) in enumerate(parts) if f" {squash(sentence)} " in f" {said} "]
    for found, stage in ((whole, Stage.EXACT), (labels, Stage.ONLY), (sentences, Stage.ONLY_OPTION)):
        if len(found) > 1:
            return _UNPARSED
        if found:
            if (
                stage is not Stage.EXACT
                and _stands(Marked(text), squash(parts[found[0]][stage is Stage.ONLY_OPTION])) is False
            ):
                return _UNPARSED
            option = item.options[found[0]]
            return Grade(Extraction(option, stage), float(option == item.answer))
    return _UNPARSED
