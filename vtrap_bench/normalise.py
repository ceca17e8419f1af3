"""In which form are free-text answers compared? The normal forms of VQA (TextVQA) and OCRBench."""

from __future__ import annotations

import re
from collections.abc import Sequence

_DIGITS = {
    word: str(number)
    for number, word in enumerate(
        ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten")
    )
} | {"none": "0"}
_ARTICLES = frozenset({"a", "an", "the"})
_FULL_WIDTH = {0xFF01 + n: 0x21 + n for n in range(94)} | {0x3000: " "}
_PUNCTUATION = ';/[]"{}()=+\\_-><@`!'
# Written without an apostrophe, or with one of two. What the original does not know ("lets", "im") is left alone.
_CONTRACTIONS = {
    form[:gap] + form[gap + 1 :]: form
    for form in re.findall(
        r"\S+",
        """
        ain't aren't can't could've couldn't couldn't've didn't doesn't don't hadn't hadn't've hasn't haven't he'd
        he'd've he's how'd how'll how's isn't it'd it'd've it'll ma'am might've mightn't mightn't've must've mustn't
        needn't not've o'clock oughtn't shan't she'd've should've shouldn't shouldn't've somebody'd've somebody'll
        somebody's someone'd someone'd've someone'll someone's something'd something'd've something'll that's there'd
        there'd've there're there's they'd they'd've they'll they're they've 'twas wasn't we'd've we've weren't
        what'll what're what's what've when's where'd where's where've who'd who'd've who'll who's who've why'll
        why're why's won't would've wouldn't wouldn't've y'all y'all'll you'd you'd've you'll you're you've
        """,
    )
    for gap, sign in enumerate(form)
    if sign == "'"
}


def vqa_form(text: str) -> str:
    """The normal form of VQA evaluation: lower case, no articles, digits for small numbers, less punctuation.

    Commas and question marks vanish. Another sign vanishes if the text has it beside a space anywhere, and becomes a
    space if not. Full stops stay before digits only.

    >>> vqa_form("The  Two dogs."), vqa_form("coca-cola"), vqa_form("$1,000.50"), vqa_form(".99")
    ('2 dogs', 'coca cola', '$1000.50', '.99')
    """
    given = re.sub(r"[,?]", "", text.lower().replace("\n", " ").replace("\t", " ")).strip().replace("'s", " 's")
    text = given
    for sign in _PUNCTUATION:
        text = text.replace(sign, "" if f"{sign} " in given or f" {sign}" in given else " ")
    text = re.sub(r"\.(?!\d)", "", text)
    words = (_DIGITS.get(word, word) for word in text.split())
    return " ".join(_CONTRACTIONS.get(word, word) for word in words if word not in _ARTICLES)


def vqa_accuracy(answer: str, references: Sequence[str]) -> float:
    """VQA accuracy, 0 to 1: over each choice of all references but one, min(1, matches / 3), averaged.

    Raises:
        ValueError: There is no reference.

    >>> vqa_accuracy("stop", ["stop"] * 3 + ["go"] * 7)
    0.9
    """
    if not references:
        raise ValueError("no references")
    said = vqa_form(answer)
    matches = [vqa_form(reference) == said for reference in references]
    total = sum(matches)
    # In units of a third, so that 0.9 is not 0.9000000000000001.
    return sum(min(3, total - match) for match in matches) / (3 * len(matches))


def ocr_form(text: str, *, formula: bool) -> str:
    """The form in which OCRBench looks for a reference in a response.

    Formulas: as written, without white space. Other texts: lower case, one line; full-width ASCII as plain one.
    """
    if formula:
        return "".join(text.split())
    return text.translate(_FULL_WIDTH).lower().strip().replace("\n", " ")
