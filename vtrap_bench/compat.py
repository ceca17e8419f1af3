"""How would the two leading harnesses have read this answer? Only to reproduce their tables, never for our scores.

The rules are written down here as they were observed, with what is wrong about them: several take the article "A" for
a letter, some count an empty answer as right, some pick an option at random where they find none. A random pick is not
drawn: it earns what it earns on average, 1 / number of options, so that a table can be reproduced and repeated.

lmms-eval 75571cfe, VLMEvalKit e8e78f05. A task that is missing from a table is read alike there and here, or its rule
is not known; `python -m vtrap_bench rescore` says which.
"""

from __future__ import annotations

import re
import string
from collections.abc import Callable, Sequence
from typing import NamedTuple

from vtrap_bench.extract import after_thought
from vtrap_bench.records import Record
from vtrap_data.sources.benchmarks.spec import read_facts
from vtrap_data.sources.benchmarks.tempcompass import option_parts

LETTERS = string.ascii_uppercase


class Credit(NamedTuple):
    """What a harness gives.

    Attributes:
        earned: 0 to 1; None: the answer is left out of the denominator.
        said: What it read, for people; "" for nothing.
    """

    earned: float | None
    said: str


Rule = Callable[[Record], Credit]


# --- letters, as read by lmms-eval ------------------------------------------------------------------------------


_FORMS = ("{} ", "{})", "{}:", "{}.", "({})")
_PHRASES = re.compile(r"(?:answer|option|choice) is|i (?:choose|select|pick)")


def lmms_letter(response: str, letters: str) -> str:
    """lmms-eval's shared reader: the candidate of the best form, and of those the last; "" for none. Case counts.

    From best to worst: at the start, at the end, anywhere after a phrase such as "the answer is", `(X)`, `X.`, `X:`,
    `X)`, `X `, anywhere.
    """
    bare = after_thought(response).strip()
    for sign in ",.!?;:'\"":
        bare = bare.strip(sign)
    text, bare = f" {bare} ", bare.strip()
    found: list[tuple[int, int, str]] = []
    for letter in letters:
        places = [(rank, text.rfind(form.format(letter))) for rank, form in enumerate(_FORMS, 1)]
        places += [(6, text.find(letter, phrase.end())) for phrase in _PHRASES.finditer(text.lower())]
        if bare.endswith(letter) and not bare[-2:-1].isalpha():
            places.append((7, len(text)))
        if bare.startswith(letter) and not bare[1:2].isalpha():
            places.append((8, 0))
        found += [(rank, place, letter) for rank, place in places if place >= 0]
    found = found or [(0, text.rfind(letter), letter) for letter in letters if letter in text]
    return max(found)[2] if found else ""


def mmmu_letter(response: str, options: Sequence[str]) -> str:
    """MMMU's own parser, which lmms-eval has for MMMU and NExT-QA: the last `(X)`, else `X `, a `X.`, or text."""
    text = f" {response.strip().strip(',.!?;:' + chr(39))} "
    letters = LETTERS[: len(options)]
    # They look for `X.` as for ` X `, which is nowhere then: of several the first letter of the alphabet is taken.
    for form, where in (("({})", "({})"), ("{} ", " {} "), ("{}.", " {} ")):
        if hits := [x for x in letters if form.format(x) in text]:
            return max(hits, key=lambda x: text.rfind(where.format(x)))
    if len(text.split()) > 5:
        places = {x: text.lower().rfind(option.lower()) for x, option in zip(letters, options, strict=True)}
        if named := [x for x in letters if places[x] >= 0]:
            return max(named, key=lambda x: places[x])
    return ""


def _earliest(response: str, letters: str) -> str:
    """lmms-eval on EgoSchema: the earliest `(X)`, `X ` or `X.`."""
    text = f" {response} "
    hits = [(text.find(form), x) for x in letters for form in (f"({x})", f"{x} ", f"{x}.") if form in text]
    return min(hits)[1] if hits else ""


def _first(pattern: str) -> Callable[[str], str]:
    def read(response: str) -> str:
        found = re.search(pattern, response)
        return found[1].upper() if found else ""

    return read


_STOCK = ("The best answer is", "The correct answer is", "The answer is", "The answer")
_LMMS_STOCK = (*_STOCK, "The best option is", "The correct option is", "Best answer:", "Best option:")
# Two commas are missing in their list, so that four of its phrases are two that nobody writes.
_JOINED = ("The best option isThe correct option is", "Best answer:Best option:")
_VLMEVALKIT_STOCK = (*_STOCK, *_JOINED, "Answer:", "Option:")


def first_letter(response: str, letters: str, *, stock: Sequence[str]) -> str:
    """Without stock phrases, the first of some letters, even inside a word; "" for none."""
    text = response.strip()
    for phrase in stock:
        text = text.replace(phrase, "")
    found = re.search(f"[{letters}]", text)
    return found[0] if found else ""


def vlmevalkit_video_letter(response: str, letters: str = "ABCD") -> str:
    """VLMEvalKit on Video-MME (A to D) and LongVideoBench (A to E)."""
    return first_letter(response, letters, stock=_VLMEVALKIT_STOCK)


def vlmevalkit_is_right(response: str, truth: str) -> bool:
    """VLMEvalKit on MVBench and MLVU: the first word is in the truth's first word, as "" is, or vice versa."""
    said, wanted = response.lower().split(" ")[0].replace(".", ""), truth.lower().split(" ")[0]
    return said in wanted or wanted in said


_REFUSALS = (
    "sorry, i can't help with images of people yet",
    "i can't process this file",
    "i'm sorry, but without the image provided",
    "cannot determine the answer",
)


def can_infer(response: str, options: Sequence[str]) -> str:
    """VLMEvalKit's reader of multiple choice without a judge: a letter near the end, or one option; "" for none."""
    if any(phrase in response.lower() for phrase in _REFUSALS):
        return ""
    letters = LETTERS[: len(options)]
    words = re.sub(r"[.()\[\],:;!*#{}]", " ", response).split()
    there = [x for x in letters if x in words]
    if len(there) == 1 and words.index(there[0]) > len(words) - 5:
        return there[0]
    if stated := re.search(r"(?i)(?:correct )?answer is \**?([ABCD])\b", response):
        return stated[1].upper()
    if len(response) <= 2 * sum(map(len, options)):
        named = [x for x, option in zip(letters, options, strict=True) if option.lower() in response.lower()]
        if len(named) == 1:
            return named[0]
    return ""


# --- yes and no -------------------------------------------------------------------------------------------------


def lmms_mme(response: str) -> str:
    """lmms-eval on MME: exact, or what stands in the first four characters ("not sure" is a no)."""
    text = response.lower().strip().replace(".", "")
    if text in ("yes", "no"):
        return text
    if len(text) == 1:
        return {"y": "yes", "n": "no"}.get(text, "other")
    return "yes" if "yes" in text[:4] else "no" if "no" in text[:4] else "other"


def _vlmevalkit_yes_no(response: str) -> str:
    words = re.sub(rf"[{re.escape(string.punctuation)}]", " ", response.lower()).split()
    yes, no = "yes" in words, "no" in words
    return "yes" if yes and not no else "no" if no and not yes else ""


# --- from what is read to what it earns -------------------------------------------------------------------------


def _truth(record: Record) -> str:
    return LETTERS[record.options.index(record.answer)]


def _letter(read: Callable[[str, Record], str], *, chance: bool = False, drop_empty: bool = False) -> Rule:
    """A rule that reads a letter. `chance`: it picks at random where it reads none; `drop_empty`: see `Credit`."""

    def rule(record: Record) -> Credit:
        if not record.options:
            return Credit(record.score, record.extracted or "")  # open questions: read as we do
        if drop_empty and not record.response.strip():
            return Credit(None, "")
        said = read(record.response, record)
        if said not in LETTERS[: len(record.options)] or not said:
            return Credit(1 / len(record.options) if chance else 0.0, "")
        return Credit(float(said == _truth(record)), said)

    return rule


def _by_response(read: Callable[[str], str]) -> Callable[[str, Record], str]:
    return lambda response, _: read(response)


def _yes_no(read: Callable[[str], str]) -> Rule:
    def rule(record: Record) -> Credit:
        said = read(record.response)
        return Credit(float(said == record.answer), said)

    return rule


def _ai2d(response: str, record: Record) -> str:
    start = re.match(r"\s*([A-Z])\.", response)
    said = start[1] if start else response
    return said.strip().strip(string.punctuation).upper()


def _scienceqa(response: str, record: Record) -> str:
    start = re.match(r"([A-Z])\.", response)
    return start[1] if start else response.strip().upper() if len(response.strip()) == 1 else ""


def _mvbench(response: str, record: Record) -> str:
    if start := re.match(r"([A-E])\.\s*(.+)$", response):
        return start[1]
    plain = response.translate(str.maketrans("", "", string.punctuation)).lower()
    found = re.search(r"\b[a-e]\b", plain)
    return found[0].upper() if found else ""


def _tempcompass(record: Record) -> Credit:
    """Without their judge, who is asked about what no rule decides: that is wrong."""
    text = record.response.strip()
    if not record.options:
        said = next((word for word in ("yes", "no") if text.lower().startswith(word)), "")
        return Credit(float(said == record.answer), said)
    if read_facts(record.facts).get("task") == "caption_matching":
        label, sentence = option_parts(record.answer)
        labels = {label, label.split()[-1]}
        right = text in {record.answer, sentence, *labels} or text.replace(".", "") in labels
        right = right or text.split(") ")[1:2] == [sentence]
        return Credit(float(right), text)
    truth = _truth(record)
    return Credit(float(text == truth or text.startswith((f"{truth}.", f"{truth})"))), text[:1])


def _check_answer(record: Record) -> Credit:
    truth = f"({_truth(record)}) {record.answer}"
    return Credit(float(vlmevalkit_is_right(record.response, truth)), record.response[:1])


_SHARED = _letter(lambda response, record: lmms_letter(response, LETTERS[: len(record.options)]))
_INFERRED = _letter(lambda response, record: can_infer(response, record.options))

LMMS: dict[str, Rule] = {
    "mme": _yes_no(lmms_mme),
    "pope": _yes_no(lambda response: response.lower()),
    "mmstar": _SHARED,
    "mmbench_en": _SHARED,
    "seed_image": _letter(lambda response, _: response.strip()[:1]),
    "scienceqa_img": _letter(_scienceqa),
    "ai2d": _letter(_ai2d),
    "mmmu": _letter(lambda response, record: mmmu_letter(response, record.options), chance=True),
    "nextqa": _letter(lambda response, record: mmmu_letter(response, record.options), chance=True),
    "mvbench": _letter(_mvbench, drop_empty=True),
    "tempcompass": _tempcompass,
    "videommmu": _letter(
        lambda response, record: lmms_letter(response, LETTERS[: len(record.options)]), drop_empty=True
    ),
    "longvideobench": _letter(lambda response, _: first_letter(response, "ABCDE", stock=_LMMS_STOCK), chance=True),
    "egoschema": _letter(lambda response, record: _earliest(response, LETTERS[: len(record.options)]), chance=True),
    "perceptiontest": _letter(_by_response(_first(r"\b([A-D])\b"))),
}
VLMEVALKIT: dict[str, Rule] = {
    "mme": _yes_no(_vlmevalkit_yes_no),
    "pope": _yes_no(_vlmevalkit_yes_no),
    **dict.fromkeys(("mmstar", "mmbench_en", "seed_image", "scienceqa_img", "ai2d", "mmmu"), _INFERRED),
    "videomme": _letter(_by_response(vlmevalkit_video_letter)),
    "longvideobench": _letter(lambda response, _: vlmevalkit_video_letter(response, "ABCDE")),
    "mvbench": _check_answer,
    "mlvu": _check_answer,
}
RULES = {"lmms": LMMS, "vlmevalkit": VLMEVALKIT}
"""Rules by harness and task."""
