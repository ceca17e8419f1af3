"""In which form are free-text answers compared? The normal forms of VQA (TextVQA) and OCRBench."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Sequence

_DIGITS = {
    word: str(number)
    for number, word in enumerate(
        ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten")
    )
} | {"none": "0"}
_ARTICLES = frozenset({"a", "an", "the"})
_PUNCTUATION = ';/[]"{}()=+\\_-><@`!'
# Forms without an apostrophe that are no words of their own ("well" and "ill" are).
_CONTRACTIONS = {
    form.replace("'", ""): form
    for form in re.findall(
        r"\S+",
        """
        ain't aren't can't could've couldn't didn't doesn't don't hadn't hasn't haven't he'd how'd how's i'm i've isn't
        it'd it'll let's ma'am might've mightn't must've mustn't needn't o'clock oughtn't shan't she's should've
        shouldn't somebody's someone's something's that'd that's there'd there's they'd they'll they're they've 'twas
        wasn't we've weren't what'll what're what's what've when's where'd where's where've who'd who'll who's who've
        why'd why'll why's won't would've wouldn't y'all you'd you'll you're you've
        """,
    )
}


def vqa_form(text: str) -> str:
    """The normal form of VQA evaluation: lower case, no articles, digits for small numbers, less punctuation.

    Commas and question marks vanish. Another sign vanishes if the text has it beside a space anywhere, and becomes a
    space if not. Full stops stay between digits only.

    >>> vqa_form("The  Two dogs."), vqa_form("coca-cola"), vqa_form("$1,000.50")
    ('2 dogs', 'coca cola', '$1000.50')
    """
    text = re.sub(r"[,?]", "", text.casefold().replace("\n", " ").replace("\t", " ")).strip().replace("'s", " 's")
    for sign in _PUNCTUATION:
        vanishes = f"{sign} " in text or f" {sign}" in text
        text = text.replace(sign, "" if vanishes else " ")
    text = re.sub(r"(?<!\d)\.|\.(?!\d)", "", text)
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

    Formulas: as written, without white space. Other texts: lower case, one line; full-width characters as plain ones.
    """
    if formula:
        return "".join(text.split())
    return unicodedata.normalize("NFKC", text).casefold().strip().replace("\n", " ")
