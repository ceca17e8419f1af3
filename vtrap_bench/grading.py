"""What does a response earn? Answer rules of real benchmarks that one answer form does not cover; nothing is guessed.

A grader reads the response in the terms of the item and gives credit between 0 and 1. What cannot be read earns 0.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import NamedTuple

from vtrap_bench.extract import Extraction, Stage, after_thought, clean, extract, squash
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
_NUMBER = re.compile(r"(?<![\w.])-?\d+(?:,\d{3})*(?:\.\d+)?")
_EITHER = re.compile(r"\bor\b|/", re.IGNORECASE)
_NOT = re.compile(r" (?:not|never|no|neither|nor|cannot|isn't|aren't|wasn't) (?:(?:a|an|the|be) )*$")


def open_answer(response: str, item: Item) -> Grade:
    """An open question: a number or a few words, after the last explicit statement if there is one.

    Right if the number stated is a reference rounded to two decimals, or a reference stands in the statement as whole
    words, not denied. A statement with two different numbers states a number only if it begins with it; one that
    offers alternatives ("red or blue") states nothing.
    """
    text = clean(response)
    if not text:
        return _EMPTY
    tails = (_tail(text, pattern) for pattern in _STATEMENTS)
    said = next((tail for tail in tails if tail), text)
    wanted = read_references(item.answer or "")
    if _EITHER.search(said) and not any(_EITHER.search(reference) for reference in wanted):
        return _UNPARSED
    value = Extraction(" ".join(said.split()).removesuffix("."), Stage.STATEMENT if said != text else Stage.TEXT)
    return Grade(value, float(any(_states(said, reference) for reference in wanted)))


def _tail(text: str, pattern: re.Pattern[str]) -> str:
    """The sentence after the last match; "" if there is none."""
    matches = list(pattern.finditer(text))
    return re.split(r"\n|(?<=[^\d])\.\s|(?<=\d)\.\s", text[matches[-1].end() :])[0].strip() if matches else ""


def _states(said: str, reference: str) -> bool:
    number = _number(reference)
    if number is not None:
        numbers = [round(float(n.replace(",", "")), 2) for n in _NUMBER.findall(said)]
        leading = _NUMBER.match(said.lstrip("$€£ "))
        return bool(numbers) and numbers[0] == number and (leading is not None or len(set(numbers)) == 1)
    words = squash(reference)
    if not words:  # signs only
        return said.strip().removesuffix(".") == reference.strip()
    marked = f" {squash(said)} "
    where = marked.find(f" {words} ")
    return where >= 0 and not _NOT.search(marked[: where + 1])


def _number(text: str) -> float | None:
    bare = text.strip().strip("$%€£ ").replace(",", "")
    return round(float(bare), 2) if re.fullmatch(r"-?\d+(?:\.\d+)?", bare) else None


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
            denied = re.search(rf"\b(?:not|isn't|neither)\s+{re.escape(parts[found[0]][0])}\b", text, re.IGNORECASE)
            if denied and stage is not Stage.EXACT:
                return _UNPARSED
            option = item.options[found[0]]
            return Grade(Extraction(option, stage), float(option == item.answer))
    return _UNPARSED
