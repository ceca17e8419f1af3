"""What did the model answer, and is it right? A response becomes (value, stage); nothing is ever guessed.

Five answer forms: a letter, the text of an option, yes or no, a whole number, free text. Each form has its stages,
from the plainest reading to the most indirect one; the first that gives exactly one reading wins and is recorded. Two
readings that contradict each other are no reading: the answer is `unparsed`, which scores as wrong and is counted.
What the response denies or doubts (`denial.py`) is no reading either.
"""

from __future__ import annotations

import re
import string
import unicodedata
from collections.abc import Sequence
from enum import StrEnum
from functools import lru_cache
from typing import Literal, NamedTuple

from vtrap_bench.denial import Denials, Place

EXTRACTOR_VERSION = 4
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
    text = _written(response) if form == "text" else clean(response)
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
    text = _unwrapped(plain(response))
    text = re.sub(r"[*`$]|__|^#+\s*|</?[bi]>", "", text, flags=re.MULTILINE)
    return _spaced(text).strip()


def _written(response: str) -> str:
    """Free text without its wrappers, but with every sign that may belong to it: "**$5**" says "$5", "*69" that."""
    text = _unwrapped(response.replace("\u2019", "'").replace("\u2018", "'"))
    text = re.sub(r"</?[bi]>|^\s*\*\s+|\\(?=[$%#&_])", "", text, flags=re.MULTILINE)
    text = _EMPHASIS.sub(r"\2", text).strip()
    formula = re.fullmatch(r"\$([^$]+)\$", text)
    return (formula[1] if formula else text).strip()


def _unwrapped(response: str) -> str:
    r"""The response without its thought, and out of `<answer>` and `\boxed{}`."""
    text = after_thought(response)
    if tagged := re.findall(r"<answer>(.*?)(?:</answer>|$)", text, re.IGNORECASE | re.DOTALL):
        text = tagged[-1]
    return _unboxed(text)


def plain(text: str) -> str:
    """Compatibility forms, apostrophes and minus signs as in ASCII: full-width letters, "’", "−".

    A hyphen, figure or en dash right before a digit is a minus sign unless a word or number ends before it ("3–5").

    >>> plain("−5"), plain("7 − 3"), plain("from 3–5 to –2"), plain("－1")
    ('-5', '7 - 3', 'from 3–5 to -2', '-1')
    """
    text = unicodedata.normalize("NFKC", text).replace("\u2019", "'").replace("\u2018", "'")
    text = re.sub(r"(?<![\w)\]])(?<![\w)\]] )\u2212 (?=\d)", "-", text)
    return re.sub(r"\u2212|(?<![\w)\]])[\u2010-\u2013](?=\d)", "-", text)


def after_thought(response: str) -> str:
    """The response without its thought; without what follows, if the thought never ends."""
    finished = list(_THOUGHT_END.finditer(response))
    if finished:
        return response[finished[-1].end() :]
    return _THOUGHT.split(response, maxsplit=1)[0]


_PLAIN = re.compile(r"[A-Za-z0-9 .,:;!?'\"()\n-]*")  # nothing in it could be dropped: as most answers are
_EMPHASIS = re.compile(r"(?<!\w)(\*{1,3}|__|`+)(?=\S)(.+?)(?<=\S)\1(?!\w)", re.DOTALL)
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
    denials = Denials(_without_denying_options(text, options))
    statement = _letter_statement(text, letters, denials)
    if statement is not None:
        return statement
    if leading := _letter_leading(text, any_case, denials):
        return Extraction(leading, Stage.LEADING)

    mentions = _letter_mentions(_without_options(text, options), letters)
    if isinstance(mentions, str):
        return Extraction(mentions, Stage.STATEMENT)
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


def _letter_statement(text: str, letters: str, denials: Denials) -> Extraction | None:
    any_case, upper = f"[{letters}{letters.lower()}]", f"[{letters}]"
    patterns = (
        rf"(?i:\b(?:answer|option|choice)\s*{_COPULA}\s*:?\s*{_HEDGE}{_NOUN})[\"'(\[]*({any_case}){_EDGE_AFTER}",
        rf"(?:答案|正解|答え|选项|選項|정답|답)\s*(?:应该|應該)?\s*(?:是|为|為|は|[은는이가])?\s*:?\s*[\"'(\[]*({upper}){_EDGE_AFTER}",
        rf"(?i:\bit(?:\s+{_COPULA}|'s)\s+{_HEDGE}{_NOUN})[\"'(\[]*({upper}){_EDGE_AFTER}",
        rf"{_EDGE_BEFORE}({upper})[\"')\]]*\s+(?:is|seems)\s+{_HEDGE}(?:the\s+)?(?:most\s+)?(?:correct|right|best)\b",
        rf"(?i:\b(?:choose|chose|select|selected|pick|picked|go with)\s+{_NOUN})[\"'(\[]*({upper}){_EDGE_AFTER}",
    )
    last: re.Match[str] | None = None
    denied: dict[str, int] = {}  # a letter, and where it is denied last
    for match in (m for p in patterns for m in re.finditer(p, text)):
        before, after = text[: match.start()], text[match.end(1) :]
        unsaid = re.search(
            r"\b(?:other|another|wrong|incorrect|false|worst|if|whether|unless|doubt|doubt that)\s+$|错误$|錯誤$",
            before,
            re.IGNORECASE,
        )
        asked = re.match(r"[\"')\]]*\s*\?", after)  # "is the answer D? No, ..."
        if _is_word(match[1], after):
            continue
        if denials.covers(match.span(1)):
            denied[match[1].upper()] = max(match.start(1), denied.get(match[1].upper(), 0))
            continue
        if unsaid or asked:
            continue
        if last is None or match.start(1) > last.start(1):
            last = match
    if last is None:
        return None
    if denied.get(last[1].upper(), 0) > last.start(1):
        return _UNPARSED  # "The answer is B. No, the answer cannot be ... I don't think the answer is B"
    also = re.match(
        rf"[\"')\]]*\s*(?:,|/|&|\bor\b|\band\b|,\s*or\b|,\s*and\b|或者?|和|[、か])\s*(?:maybe\s+|perhaps\s+|possibly\s+)?(?:option\s*)?[\"'(\[]*({upper}){_EDGE_AFTER}"
        r"(?!\s+(?:is|was|are|does|shows|would))",
        text[last.end(1) :],
    )
    if also and also[1] != last[1].upper() and not _is_word(also[1], text[last.end(1) + also.end(1) :]):
        return _UNPARSED  # "the answer is B or C"
    return Extraction(last[1].upper(), Stage.STATEMENT)


def _letter_leading(text: str, any_case: str, denials: Denials) -> str | None:
    upper = any_case[: len(any_case) // 2] + "]"
    first = re.match(
        rf"[\"']*(?:\(({any_case})\)|\[({any_case})\]|({any_case})[.):](?!\w)"
        rf"|({upper})(?:\s*[,;]|\s+[-–—]\s|\s*\n|\s+(?:because|since)\b))\s*",
        text,
    )
    if first is None:
        return None
    group = next(i for i, g in enumerate(first.groups(), 1) if g)
    letter, rest = first[group].upper(), text[first.end() :]
    markers = {m[1].upper() for m in re.finditer(rf"(?:^|\s)\(?({any_case})[.):](?=\s|$)", text)}
    listed = len(markers) > 1  # the response repeats the options
    another = re.match(rf"[\"'(\[]*({upper}){_EDGE_AFTER}", rest)
    beside = another and not _is_word(another[1], rest[another.end() :]) and not re.search(r"[a-z]\s*$", first[0])
    if listed or denials.covers(first.span(group)) or beside:
        return None
    return letter


def _letter_mentions(text: str, letters: str) -> set[str] | str | None:
    """The letters that stand alone; one letter if it is said instead of others ("not A but B"); None when one is
    denied or supposed ("B is wrong", "if it is B").
    """
    places: list[Place] = []
    bracketed = rf"[(\[]([{letters.lower()}])[)\]]"
    for match in re.finditer(rf"{_EDGE_BEFORE}([{letters}]){_EDGE_AFTER}|{bracketed}", text):
        place, before = match.span(match.lastindex or 0), text[: match.start()]
        if _is_word(text[slice(*place)], text[match.end() :]) or _NAMED_BY_LETTER.search(before):
            continue
        if _UNSAID.search(before):
            return None
        places.append(place)
    found = [text[slice(*place)].upper() for place in places]
    denials = Denials(text)
    if not any(denials.of(places)):
        return set(found)
    instead = denials.corrected(places)
    return None if instead is None or found.count(found[instead]) > 1 else found[instead]


# --- options by their text ----------------------------------------------------------------------------------

_TOKEN = re.compile(r"(?<![\w.])-?\d+(?:[.,]\d+)*(?!\d|e\d|(?:st|nd|rd|th)\b)|[^\W_]+(?:['-][^\W_]+)*")
_BREAK = "|"  # stands for punctuation, so that "No, red" is not read as "no red"


class _Named(NamedTuple):
    """Which options a response names.

    `exact`: index of the option that the response is, or None. `indices`: where it is none, options whose text it
    contains as whole words and does not deny anywhere.
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
    folded = plain(text).casefold()
    return [re.sub(r",(?=\d)", "", t) if "," in t else t for t in _TOKEN.findall(folded)]


class Marked:
    """A response as words.

    Attributes:
        text: Its tokens with a space around each, and ` | ` where punctuation stood between them.
        denials: Those of the response.
    """

    def __init__(self, text: str) -> None:
        folded = plain(text).casefold()
        parts, self._starts, self._ends = [], dict[int, int](), dict[int, int]()
        end = length = 0
        for match in _TOKEN.finditer(folded):
            if folded[end : match.start()].strip():
                parts.append(_BREAK)
                length += 2
            parts.append(re.sub(r",(?=\d)", "", match[0]))
            self._starts[length + 1] = match.start()
            length += len(parts[-1]) + 1
            self._ends[length] = end = match.end()
        self.text = f" {' '.join(parts)} "
        self.denials = Denials(folded)
        self._folded = folded

    def goes_on(self, match: re.Match[str]) -> bool:
        """Whether a number is one end of a fraction, a time or a range: 3 in "3/4", "3:30", "3–5"."""
        start, end = self.place(match)
        before, after = self._folded[max(0, start - 2) : start], self._folded[end : end + 2]
        ends = self._folded[start].isdigit(), self._folded[end - 1].isdigit()
        return bool(
            (ends[0] and re.fullmatch(r"\d[/:^–-]", before)) or (ends[1] and re.fullmatch(r"[/:^–-]\d", after))
        )

    def place(self, match: re.Match[str], group: int = 0) -> Place:
        """Where a match in `text` that begins and ends with a token stands in what `denials` are of."""
        return self._starts[match.start(group)], self._ends[match.end(group)]


def _forms(options: Sequence[str]) -> list[str] | None:
    """The options squashed; None where that leaves nothing of one, or makes two of them alike."""
    forms = [squash(o) for o in options]
    return None if "" in forms or len(set(forms)) < len(forms) else forms


def _mentioned_options(text: str, options: Sequence[str]) -> _Named:
    forms = _forms(options)
    if forms is None:
        # Options that differ in punctuation only ("C", "C++"): they are recognised when written out exactly.
        bare = [" ".join(o.casefold().split()) for o in options]
        whole = " ".join(text.casefold().split()).rstrip(".")
        hits = [i for i, o in enumerate(bare) if o in {whole, f"{whole}."}]
        return _Named(hits[0] if len(hits) == 1 else None, ())
    if (said := squash(text)) in forms:
        return _Named(forms.index(said), ())
    whole_text = Marked(text)
    marked = whole_text.text
    taken: list[tuple[int, int]] = []
    mentions: list[tuple[Place, int]] = []
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
            if not _part_of_a_number(marked, *match.span()) and not whole_text.goes_on(match):
                mentions.append((whole_text.place(match), i))
    mentions.sort()
    denied = whole_text.denials.of([place for place, _ in mentions])
    said_of = [{i for (_, i), no in zip(mentions, denied, strict=True) if no is wanted} for wanted in (False, True)]
    return _Named(None, tuple(sorted(said_of[0] - said_of[1])))


def _without_options(text: str, options: Sequence[str]) -> str:
    """The response without the mentions of options longer than one character, if they can be told apart."""
    if _forms(options) is None:
        return text
    for option in sorted((o for o in options if len(o) > 1), key=len, reverse=True):
        text = re.sub(rf"(?<!\w){re.escape(option)}(?!\w)", " ", text, flags=re.IGNORECASE)
    return text


def _without_denying_options(text: str, options: Sequence[str]) -> str:
    """The response, as long as it was, without the options that are whole sentences: "he does not run" denies none."""
    for option in options:
        if len(option.split()) > 1:
            text = re.sub(rf"(?<!\w){re.escape(option)}(?!\w)", lambda m: "_" * len(m[0]), text, flags=re.IGNORECASE)
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
    whole_text = Marked(re.sub(r"\b(no)[ \t\r]*\n", r"\1.\n", text, flags=re.IGNORECASE))  # its line ends there
    marked, denials = whole_text.text, whole_text.denials
    # Before another word "no" is a determiner ("there is no dog"), which answers nothing by itself.
    word = (
        r"((?:yes|yep|yeah)(?! \| i (?:don't think so|do not think so|doubt))"
        r"|nope|no(?= \| |\s*$| (?:because|since|as|it|it's|there|there's|i|he|she|they|we|you|this|that) ))(?= )"
    )
    lead = r" (?:the )?(?:answer|it)(?: is| \||'s)(?: \|)? (?:(?:definitely|clearly|probably) )?"
    stated = list(re.finditer(lead + word, marked))
    denied = [denials.covers(whole_text.place(match, 1), taken_back=False) for match in stated]
    if True in denied and not _agree(stated, denied):
        return _UNPARSED
    if False in denied:
        last = max(i for i, no in enumerate(denied) if not no)
        return Extraction(_YES_NO[stated[last][1]], Stage.STATEMENT)
    said = list(re.finditer(" " + word, marked))
    denied = denials.of([whole_text.place(match, 1) for match in said], taken_back=False)
    readings = {_YES_NO[match[1]] for match, no in zip(said, denied, strict=True) if not no}
    if len(readings) != 1 or not _agree(said, denied):
        return _UNPARSED
    value = readings.pop()
    first = marked.split()[0]
    return Extraction(value, Stage.LEADING if _YES_NO.get(first) == value else Stage.ONLY)


def _agree(said: Sequence[re.Match[str]], denied: Sequence[bool]) -> bool:
    """Whether no word is said at one place and denied at another."""
    words = [{_YES_NO[m[1]] for m, no in zip(said, denied, strict=True) if no is wanted} for wanted in (False, True)]
    return not words[0] & words[1]


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
# Beside another number word these are parts of it: "one hundred", "thirty two", "3 million", "two and a half".
_TENS = "twenty|thirty|forty|fifty|sixty|seventy|eighty|ninety"
_SCALES = "hundreds?|thousands?|millions?|billions?|trillions?|dozens?|lakhs?|crores?|half|point"
_LARGER_BEFORE = re.compile(rf" (?:{_TENS}|(?:{_SCALES})(?: and)?) $")
_LARGER_AFTER = re.compile(rf" (?:(?:and )?(?:a |one |an )?(?:{_SCALES})|(?:{'|'.join(_NUMBERS)}))(?= )")
_COUNTED = re.compile(rf"-?\d[\d.]*|{'|'.join(_NUMBERS)}|{_TENS}")


def _part_of_a_number(marked: str, start: int, end: int) -> bool:
    """Whether words that begin or end with a number are a part of a larger one."""
    words = marked[start:end].split()
    before = _COUNTED.fullmatch(words[0]) and _LARGER_BEFORE.search(marked, max(0, start - 30), start)
    return bool(before or (_COUNTED.fullmatch(words[-1]) and _LARGER_AFTER.match(marked, end)))


def _integer(text: str) -> Extraction:
    if (whole := _whole_number(squash(text))) is not None:
        return Extraction(whole, Stage.EXACT)
    whole_text = Marked(text)
    marked, denials = whole_text.text, whole_text.denials
    stated = [
        match
        for match in re.finditer(rf" (?:answer|count|number|total)(?: is| \|| of)(?: \|)? ({_NUMBER})(?= )", marked)
        if not denials.covers(whole_text.place(match, 1))
    ]
    if stated:
        value = None if _part_of_a_number(marked, *stated[-1].span(1)) else _whole_number(stated[-1][1])
        return _UNPARSED if value is None else Extraction(value, Stage.STATEMENT)
    found = []
    for match in re.finditer(rf"(?<= )({_NUMBER})(?= )", marked):
        if match[1] == "one" and re.search(
            r" (?:the|this|that|which|no|each|every|another|only)$", marked[: match.start() - 1]
        ):
            continue  # "the one on the left" counts nothing
        if _BOUND.search(marked[: match.start()]) or _part_of_a_number(marked, *match.span()):
            return _UNPARSED
        found.append(match)
    places, values = [whole_text.place(match) for match in found], [_whole_number(match[1]) for match in found]
    if any(denials.of(places)):
        instead = denials.corrected(places)
        if instead is None or values.count(values[instead]) > 1 or (value := values[instead]) is None:
            return _UNPARSED
        return Extraction(value, Stage.STATEMENT)
    if len(set(values)) == 1 and (value := values[0]) is not None:
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
    numbers = all(re.fullmatch(r"-?\d+(?:[.,]\d+)*", plain(said).strip()) for said in (value, answer))
    return (numbers or not symbols) and squash(value) == squash(answer) != ""
