"""What did the model answer, and is it right? A response becomes (value, stage); nothing is ever guessed.

Five answer forms: a letter, the text of an option, yes or no, a whole number, free text. Each form has its stages,
from the plainest reading to the most indirect one; the first that gives exactly one reading wins and is recorded. Two
readings that contradict each other are no reading: the answer is `unparsed`, which scores as wrong and is counted.
"""

from __future__ import annotations

import re
import string
import unicodedata
from collections.abc import Sequence
from enum import StrEnum
from functools import lru_cache
from typing import Literal, NamedTuple

EXTRACTOR_VERSION = 2
"""Part of every run's settings. A change that can alter a value bumps it (CHANGELOG label METRIC)."""

AnswerForm = Literal["letter", "option", "yes-no", "integer", "text"]


class Stage(StrEnum):
    """How the value was found."""

    EXACT = "exact"
    """The whole response is the answer, apart from case, brackets and punctuation."""
    STATEMENT = "statement"
    """The last explicit statement: "the answer is B", "B is correct"."""
    LEADING = "leading"
    """The response begins with the answer: "B. the red car", "Yes, there is"."""
    ONLY = "only"
    """The response mentions exactly one letter, yes/no word or number."""
    ONLY_OPTION = "only-option"
    """The response contains the text of exactly one option."""
    TEXT = "text"
    """Free text: the response itself."""
    UNPARSED = "unparsed"
    """No reading, or several that contradict each other."""
    EMPTY = "empty"
    """Nothing to read, or nothing after an unfinished thought."""


class Extraction(NamedTuple):
    """What was read.

    Attributes:
        value: The answer in its normal form: a capital letter, an option as it was given, "yes" or "no", decimal
            digits, or text. None when `stage` is UNPARSED or EMPTY.
        stage: How it was found.
    """

    value: str | None
    stage: Stage


_UNPARSED = Extraction(None, Stage.UNPARSED)
_EMPTY = Extraction(None, Stage.EMPTY)


def extract(response: str, *, form: AnswerForm, options: Sequence[str] = ()) -> Extraction:
    """Read the answer out of a response.

    Args:
        response: What the model wrote.
        form: What was asked for. "letter": the options were shown as A, B, C, ...; "option": the answer is the text of
            one of `options`; "yes-no"; "integer"; "text".
        options: The possible answers in the order shown, without letters. Needed for "letter" and "option".

    Raises:
        ValueError: The form needs options and there are none, or there are more than 26 letters.

    >>> extract("A red car appears, so the answer is D", form="letter", options=["w", "x", "y", "z"])
    Extraction(value='D', stage=<Stage.STATEMENT: 'statement'>)
    >>> extract("Red or blue.", form="option", options=["red", "blue"]).value is None
    True
    """
    text = clean(response)
    if not text:
        return _EMPTY
    match form:
        case "letter":
            return _letter(text, options)
        case "option":
            return _option(text, options)
        case "yes-no":
            return _yes_no(text)
        case "integer":
            return _integer(text)
        case "text":
            return Extraction(_after_statement(text), Stage.TEXT)


def clean(response: str) -> str:
    r"""Drop what is not the answer: finished thoughts, `<answer>` and `\boxed{}` wrappers, Markdown emphasis.

    A thought that never ends leaves what stood before it, which is usually nothing.
    """
    if _PLAIN.fullmatch(response):
        return response.strip()
    text = after_thought(unicodedata.normalize("NFKC", response).replace("\u2019", "'").replace("\u2018", "'"))
    if tagged := re.findall(r"<answer>(.*?)(?:</answer>|$)", text, re.IGNORECASE | re.DOTALL):
        text = tagged[-1]
    text = _unboxed(text)
    text = re.sub(r"[*`$]|__|^#+\s*|</?[bi]>", "", text, flags=re.MULTILINE)
    return _spaced(text).strip()


def after_thought(response: str) -> str:
    """The response without its thought; without what follows, if the thought never ends."""
    finished = list(_THOUGHT_END.finditer(response))
    if finished:
        return response[finished[-1].end() :]
    return _THOUGHT.split(response, maxsplit=1)[0]


_PLAIN = re.compile(r"[A-Za-z0-9 .,:;!?'\"()\n-]*")  # nothing in it could be dropped: as most answers are
_THOUGHT, _THOUGHT_END = (re.compile(rf"<{slash}think(?:ing)?>", re.IGNORECASE) for slash in ("", "/"))
_LETTERS_OF_ASIA = "\u3040-\u30ff\u3400-\u9fff\uac00-\ud7af"


def _spaced(text: str) -> str:
    """The text with a space wherever Chinese, Japanese or Korean meets a Latin letter: they write none."""
    text = re.sub(rf"(?<=[{_LETTERS_OF_ASIA}])(?=[A-Za-z])", " ", text)
    return re.sub(rf"(?<=[A-Za-z])(?=[{_LETTERS_OF_ASIA}])", " ", text)


def _unboxed(text: str) -> str:
    """What stands in the last box; in the last ones, joined, where they are offered side by side."""
    start = text.rfind("\\boxed{")
    if start < 0:
        return text
    depth, begin = 0, start + len("\\boxed{")
    inner = text[begin:]  # stands if the response was cut off inside the box
    for end in range(begin - 1, len(text)):
        depth += {"{": 1, "}": -1}.get(text[end], 0)
        if depth == 0:
            inner = text[begin:end]
            break
    wrapped = re.fullmatch(r"\s*\\(?:text|textbf|mathrm|mathbf)\{(.*)\}\s*", inner, re.DOTALL)
    inner = wrapped[1] if wrapped else inner
    if beside := re.search(r"\}\W*?(,|/|&|\bor\b|\band\b)\W*$", text[:start]):
        return f"{_unboxed(text[: beside.start() + 1])} {beside[1]} {inner}"
    return inner


# --- letters ------------------------------------------------------------------------------------------------

_NEGATED = re.compile(
    r"(?:(?:\b(?:not|never|neither|nor|no|cannot|without|except|rather than|instead of|unlikely to"
    r"|(?<!without )(?<!no )doubt|(?:anything|everything|all) but)|n't)"
    r"\s+(?:(?:a|an|the|be|it|is|that|true|case|choose|select|pick|option|choice|answer)\s+)*"
    r"|(?:不是|不选|不選|不会是|并非|並非|除了|排除)\s*(?:选项|選項)?\s*)[\"'(\[]*$",
    re.IGNORECASE,
)
_DENIED = re.compile(
    r"[\"')\]]*[.:]?\s*(?:(?:is|are|was|were|seems?|looks?|does|do|can)\s*)?"
    r"(?:(?:n't\b|n?ot\b|cannot\b|(?:(?:a|an|the)\s+)?(?:wrong|incorrect|false|impossible)\b|ruled out\b)"
    r"|(?:选项|選項)?(?:是|为|為)?(?:不|错|錯|非)|では(?:な|あり)|じゃな|は(?:違|間違)|[가이은는]\s*(?:아니|틀))",
    re.IGNORECASE,
)
_UNSAID = re.compile(
    r"\b(?:(?:wrong|incorrect|false|other)\s+(?:option|answer|choice|letter|one)\s+(?:is|are|was)"
    r"|(?:错误|錯誤)(?:答案|选项|選項)(?:是|为|為)"
    r"|(?:if|whether|unless)\s+(?:it|the\s+answer)(?:\s+(?:is|was|were)|'s))\s*[\"'(\[]*$",
    re.IGNORECASE,
)
# What these words stand before is part of a name: "vitamin C", "plan B".
_NAMED_BY_LETTER = re.compile(
    r"\b(?:vitamin|plan|type|figure|fig\.|grade|class|group|section|appendix|hepatitis|blood|team|player|person)\s+$",
    re.IGNORECASE,
)
# After a bare "A" (or "I") these words show that it is a letter; any other word makes it an article (or a pronoun).
_AFTER_LETTER = frozenset(
    re.findall(
        r"\w+", "and as because but due for here however if is not or seems since so than that which while would"
    )
)
_EDGE_BEFORE, _EDGE_AFTER = r"(?<![\w.+#-])(?<!\w')", r"(?![\w+#-]|'\w)"
_COPULA = r"(?:is|are|was|:|=|-|–|—|(?:should|must|would|will)\s+be)"
_HEDGE = r"(?:(?:most\s+likely|likely|probably|definitely|clearly|therefore|thus)\s+)?"
_NOUN = r"(?:(?:the\s+)?(?:option|choice|letter|answer)\s*:?\s*)?"


def _letter(text: str, options: Sequence[str]) -> Extraction:
    if not 0 < len(options) <= 26:
        raise ValueError(f"{len(options)} options: the letter form needs 1 to 26")
    letters = string.ascii_uppercase[: len(options)]
    any_case = f"[{letters}{letters.lower()}]"

    text = re.sub(r"\bn/a\b", "", text, flags=re.IGNORECASE)
    if whole := re.fullmatch(rf"(?i:option|choice|answer|letter)?\W*({any_case})(?![+#])\W*", text):
        return Extraction(whole[1].upper(), Stage.EXACT)
    named = _mentioned_options(text, options)
    if named.exact is not None:
        return Extraction(letters[named.exact], Stage.EXACT)
    statement = _letter_statement(text, letters)
    if statement is not None:
        return statement
    if leading := _letter_leading(text, any_case):
        return Extraction(leading, Stage.LEADING)

    mentions = _letter_mentions(_without_options(text, options), letters)
    if mentions is None:  # a letter was ruled out: what is left over is no answer
        return _UNPARSED if len(named.indices) != 1 else Extraction(letters[named.indices[0]], Stage.ONLY_OPTION)
    named_letters = {letters[i] for i in named.indices}
    if len(mentions) == 1:
        letter = next(iter(mentions))
        return Extraction(letter, Stage.ONLY) if named_letters <= {letter} else _UNPARSED
    if not mentions and len(named_letters) == 1:
        return Extraction(next(iter(named_letters)), Stage.ONLY_OPTION)
    return _UNPARSED


def _is_word(letter: str, after: str) -> bool:
    """Whether a bare "A" is an article and a bare "I" a pronoun, judged by the word that follows."""
    if letter not in "AaIi":
        return False
    following = re.match(r"\s+([A-Za-z][\w'-]*)", after)
    return following is not None and following[1].casefold() not in _AFTER_LETTER and len(following[1]) > 1


def _letter_statement(text: str, letters: str) -> Extraction | None:
    any_case, upper = f"[{letters}{letters.lower()}]", f"[{letters}]"
    patterns = (
        rf"(?i:\b(?:answer|option|choice)\s*{_COPULA}\s*:?\s*{_HEDGE}{_NOUN})[\"'(\[]*({any_case}){_EDGE_AFTER}",
        rf"(?:答案|正解|答え|选项|選項|정답|답)\s*(?:应该|應該)?\s*(?:是|为|為|は|[은는이가])?\s*:?\s*[\"'(\[]*({upper}){_EDGE_AFTER}",
        rf"(?i:\bit(?:\s+{_COPULA}|'s)\s+{_HEDGE}{_NOUN})[\"'(\[]*({upper}){_EDGE_AFTER}",
        rf"{_EDGE_BEFORE}({upper})[\"')\]]*\s+(?:is|seems)\s+{_HEDGE}(?:the\s+)?(?:most\s+)?(?:correct|right|best)\b",
        rf"(?i:\b(?:choose|chose|select|selected|pick|picked|go with)\s+{_NOUN})[\"'(\[]*({upper}){_EDGE_AFTER}",
    )
    last: re.Match[str] | None = None
    for match in (m for p in patterns for m in re.finditer(p, text)):
        before, after = text[: match.start()], text[match.end(1) :]
        unsaid = re.search(
            r"\b(?:other|another|wrong|incorrect|false|worst|if|whether|unless|doubt|doubt that)\s+$|错误$|錯誤$",
            before,
            re.IGNORECASE,
        )
        asked = re.match(r"[\"')\]]*\s*\?", after)  # "is the answer D? No, ..."
        if unsaid or asked or _NEGATED.search(before) or _DENIED.match(after) or _is_word(match[1], after):
            continue
        if last is None or match.start(1) > last.start(1):
            last = match
    if last is None:
        return None
    also = re.match(
        rf"[\"')\]]*\s*(?:,|/|&|\bor\b|\band\b|,\s*or\b|,\s*and\b|或者?|和|[、か])\s*(?:maybe\s+|perhaps\s+|possibly\s+)?(?:option\s*)?[\"'(\[]*({upper}){_EDGE_AFTER}"
        r"(?!\s+(?:is|was|are|does|shows|would))",
        text[last.end(1) :],
    )
    if also and also[1] != last[1].upper() and not _is_word(also[1], text[last.end(1) + also.end(1) :]):
        return _UNPARSED  # "the answer is B or C"
    return Extraction(last[1].upper(), Stage.STATEMENT)


def _letter_leading(text: str, any_case: str) -> str | None:
    upper = any_case[: len(any_case) // 2] + "]"
    first = re.match(
        rf"[\"']*(?:\(({any_case})\)|\[({any_case})\]|({any_case})[.):](?!\w)"
        rf"|({upper})(?:\s*[,;]|\s+[-–—]\s|\s*\n|\s+(?:because|since)\b))\s*",
        text,
    )
    if first is None:
        return None
    letter, rest = next(g for g in first.groups() if g).upper(), text[first.end() :]
    markers = {m[1].upper() for m in re.finditer(rf"(?:^|\s)\(?({any_case})[.):](?=\s|$)", text)}
    listed = len(markers) > 1  # the response repeats the options
    another = re.match(rf"[\"'(\[]*({upper}){_EDGE_AFTER}", rest)
    beside = another and not _is_word(another[1], rest[another.end() :]) and not re.search(r"[a-z]\s*$", first[0])
    if listed or _DENIED.match(rest) or beside:
        return None
    return letter


def _letter_mentions(text: str, letters: str) -> set[str] | None:
    """The letters that stand alone; None when one of them is denied or supposed ("B is wrong", "if it is B")."""
    found = set()
    bracketed = rf"[(\[]([{letters.lower()}])[)\]]"
    for match in re.finditer(rf"{_EDGE_BEFORE}([{letters}]){_EDGE_AFTER}|{bracketed}", text):
        letter, after = match[1] or match[2], text[match.end() :]
        before = text[: match.start()]
        if _is_word(letter, after) or _NAMED_BY_LETTER.search(before):
            continue
        if _NEGATED.search(before) or _UNSAID.search(before) or _DENIED.match(after):
            return None
        found.add(letter.upper())
    return found


# --- options by their text ----------------------------------------------------------------------------------

_TOKEN = re.compile(r"(?<![\w.])-?\d+(?:[.,]\d+)*(?!\d|e\d|(?:st|nd|rd|th)\b)|[^\W_]+(?:['-][^\W_]+)*")
_BREAK = "|"  # stands for punctuation, so that "No, red" is not read as "no red"
_DENIED_OPTION = re.compile(r" (?:is|are|was|were) (?:not|wrong|incorrect|false)\b| (?:isn't|aren't|wasn't|weren't)\b")


class _Named(NamedTuple):
    """Which options a response names.

    `exact`: index of the option that the response is, or None. `indices`: where it is none, options whose text it
    contains as whole words and does not deny.
    """

    exact: int | None
    indices: tuple[int, ...]


@lru_cache(maxsize=256)  # the options of an item are asked for several times
def squash(text: str) -> str:
    """The form in which texts are compared: case folded, words only, one space between them.

    What changes the meaning is kept: a sign, a decimal point, an apostrophe inside a word.

    >>> squash(" The  Red-Car! "), squash("-1,000.5"), squash("isn't")
    ('the red car', '-1000.5', "isn't")
    """
    return " ".join([re.sub(r"(?<=\w)-", " ", token) if "-" in token else token for token in _tokens(text)])


def _tokens(text: str) -> list[str]:
    folded = unicodedata.normalize("NFKC", text).replace("\u2019", "'").casefold()
    return [re.sub(r",(?=\d)", "", t) if "," in t else t for t in _TOKEN.findall(folded)]


def _with_breaks(text: str) -> str:
    """The tokens of `text` with a space around each, and ` | ` where punctuation stood between them."""
    folded = unicodedata.normalize("NFKC", text).replace("\u2019", "'").casefold()
    parts, end = [], 0
    for match in _TOKEN.finditer(folded):
        if folded[end : match.start()].strip():
            parts.append(_BREAK)
        parts.append(re.sub(r",(?=\d)", "", match[0]))
        end = match.end()
    return f" {' '.join(parts)} "


def _forms(options: Sequence[str]) -> list[str] | None:
    """The options squashed; None where that leaves nothing of one, or makes two of them alike."""
    forms = [squash(o) for o in options]
    return None if "" in forms or len(set(forms)) < len(forms) else forms


def _mentioned_options(text: str, options: Sequence[str]) -> _Named:
    forms = _forms(options)
    if forms is None:
        # Options that differ in punctuation only ("C", "C++"): they are recognised when written out exactly.
        plain = [" ".join(o.casefold().split()) for o in options]
        whole = " ".join(text.casefold().split()).rstrip(".")
        hits = [i for i, o in enumerate(plain) if o in {whole, f"{whole}."}]
        return _Named(hits[0] if len(hits) == 1 else None, ())
    if (said := squash(text)) in forms:
        return _Named(forms.index(said), ())
    marked = _with_breaks(text)
    taken: list[tuple[int, int]] = []
    indices: set[int] = set()
    # Longest first: in "top left" the option "left" is not mentioned.
    for i in sorted(range(len(forms)), key=lambda i: -len(forms[i])):
        words = forms[i].split()
        if any(word not in marked for word in words):
            continue  # building the expression would cost more than all the rest
        written = r"(?: \| |[ -])".join(map(re.escape, words))
        for match in re.finditer(rf"(?<= ){written}(?= )", marked):
            if any(match.start() < b and a < match.end() for a, b in taken):
                continue
            taken.append(match.span())
            if not _NEGATED.search(marked[: match.start()]) and not _DENIED_OPTION.match(marked, match.end()):
                indices.add(i)
    return _Named(None, tuple(sorted(indices)))


def _without_options(text: str, options: Sequence[str]) -> str:
    """The response without the mentions of options longer than one character, if they can be told apart."""
    if _forms(options) is None:
        return text
    for option in sorted((o for o in options if len(o) > 1), key=len, reverse=True):
        text = re.sub(rf"(?<!\w){re.escape(option)}(?!\w)", " ", text, flags=re.IGNORECASE)
    return text


def _option(text: str, options: Sequence[str]) -> Extraction:
    if not options:
        raise ValueError("no options: the option form needs at least one")
    forms = {squash(o): o for o in options}
    if set(forms) == {"yes", "no"}:
        answer = _yes_no(text)
        return answer if answer.value is None else Extraction(forms[answer.value], answer.stage)
    named = _mentioned_options(text, options)
    if named.exact is not None:
        return Extraction(options[named.exact], Stage.EXACT)
    if len(named.indices) == 1:
        return Extraction(options[named.indices[0]], Stage.ONLY_OPTION)
    if not named.indices and all(re.fullmatch(r"\d+", f) for f in forms):
        number = _integer(text)  # "three" where the options are digits
        if number.value in forms:
            return Extraction(forms[number.value], number.stage)
    return _UNPARSED


# --- yes or no ----------------------------------------------------------------------------------------------

_YES_NO = {"yes": "yes", "yep": "yes", "yeah": "yes", "y": "yes", "no": "no", "nope": "no", "n": "no"}
# As the whole response only: in a sentence they mean other things too ("non" in English, "si" in Spanish).
_YES_NO_ABROAD = {
    **dict.fromkeys(("是", "是的", "はい", "예", "네", "oui", "sí", "ja", "да"), "yes"),
    **dict.fromkeys(("否", "不是", "いいえ", "아니요", "non", "nein", "нет"), "no"),
}


def _yes_no(text: str) -> Extraction:
    if (whole := squash(text)) in _YES_NO:
        return Extraction(_YES_NO[whole], Stage.EXACT)
    if whole in _YES_NO_ABROAD:
        return Extraction(_YES_NO_ABROAD[whole], Stage.EXACT)
    marked = _with_breaks(text)
    stated = list(
        re.finditer(
            r" (?:the )?(?:answer|it)(?: is| \||'s)(?: \|)? (?:(?:definitely|clearly|probably) )?(yes|no)(?= )", marked
        )
    )
    if stated:
        if _NEGATED.search(marked[: stated[-1].start() + 1]):
            return _UNPARSED
        return Extraction(stated[-1][1], Stage.STATEMENT)
    # Before another word "no" is a determiner ("there is no dog"), which answers nothing by itself.
    said = list(re.finditer(r" (yes|yep|yeah|nope|no(?= \| |\s*$))(?= )", marked))
    if any(re.search(r"(?: not|n't)$", marked[: match.start()]) for match in said):
        return _UNPARSED  # "not yes"
    readings = {_YES_NO[match[1]] for match in said}
    if len(readings) != 1:
        return _UNPARSED
    value = readings.pop()
    first = marked.split()[0]
    return Extraction(value, Stage.LEADING if _YES_NO.get(first) == value else Stage.ONLY)


# --- whole numbers ------------------------------------------------------------------------------------------

_NUMBERS = {
    word: str(n)
    for n, word in enumerate(
        re.findall(
            r"\w+",
            "zero one two three four five six seven eight nine ten eleven twelve thirteen fourteen fifteen sixteen "
            "seventeen eighteen nineteen twenty",
        )
    )
}
_BOUND = re.compile(r" (?:at (?:least|most)|(?:more|fewer|less) than|over|under|up to) $")
_NUMBER = rf"-?\d+(?:\.\d+)?|{'|'.join(_NUMBERS)}"


def _integer(text: str) -> Extraction:
    if (whole := _whole_number(squash(text))) is not None:
        return Extraction(whole, Stage.EXACT)
    marked = _with_breaks(text)
    stated = re.findall(rf" (?:answer|count|number|total)(?: is| \|| of)(?: \|)? ({_NUMBER})(?= )", marked)
    if stated:
        value = _whole_number(stated[-1])
        return _UNPARSED if value is None else Extraction(value, Stage.STATEMENT)
    found = set()
    for match in re.finditer(rf"(?<= )({_NUMBER})(?= )", marked):
        if match[1] == "one" and re.search(
            r" (?:the|this|that|which|no|each|every|another|only)$", marked[: match.start() - 1]
        ):
            continue  # "the one on the left" counts nothing
        if _NEGATED.search(marked[: match.start()]) or _BOUND.search(marked[: match.start()]):
            return _UNPARSED
        found.add(_whole_number(match[1]))
    if len(found) == 1 and (value := found.pop()) is not None:
        return Extraction(value, Stage.ONLY)
    return _UNPARSED


def _whole_number(word: str) -> str | None:
    if re.fullmatch(r"-?\d+(?:\.0+)?", word):
        return str(int(word.split(".")[0]))
    return _NUMBERS.get(word)


# --- free text ----------------------------------------------------------------------------------------------


def _after_statement(text: str) -> str:
    """The text without a leading "The answer is", and without the final full stop."""
    shorter = re.sub(r"^(?:so,?\s+)?(?:the\s+)?(?:final\s+)?answer\s*(?:is|:)\s*:?\s*", "", text, flags=re.IGNORECASE)
    return " ".join((shorter or text).split()).removesuffix(".")


# --- right or wrong -----------------------------------------------------------------------------------------


def is_right(value: str | None, answer: str) -> bool:
    """Whether an extracted value is the reference answer: equal up to case, punctuation and spaces.

    Options that differ in punctuation only ("C", "C++") are compared as they are.

    >>> is_right("Red.", "red"), is_right(None, "red"), is_right("C++", "C")
    (True, False, False)
    """
    if value is None or not value:
        return False
    if value == answer:
        return True
    symbols = any(not (c.isalnum() or c in " .,!?'\"") for c in value + answer)
    return not symbols and squash(value) == squash(answer) != ""
