"""Which parts of a response are denied or doubted? "I don't think it is B" names B and does not say it.

A word that denies ("not", "doubt", "unlikely", "不是", "nicht") rules what follows it in its clause; a predicate that
denies ("B is wrong", "Bではない") rules what it is said of. What is ruled answers nothing. Where a scope is in
doubt the wider one is taken: an answer that is not read costs less than one that was not given.
"""

from __future__ import annotations

import re
from collections.abc import Sequence

Place = tuple[int, int]
"""Where something is mentioned: its first offset, and the one after its last."""


def _words(text: str) -> str:
    return "|".join(text.split())


# Words that deny, but not here: "no doubt that it is B", "間違いなくB". They are looked for first.
_AFFIRMS = re.compile(
    r"\b(?:no|not|little|hardly|never|(?:without|beyond)(?:\s+(?:an?y?|the|all))?"
    r"|\w*n't(?:\s+have)?(?:\s+any)?|cannot)\s+(?:be\s+)?(?:(?:a|any|much|shadow\s+of\s+a|reasonable)\s+)*"
    r"(?:doubt\w*|questions?|hesitat\w+|uncertainty|mistak\w+|wonder|surpris\w+|den(?:y|ied|ying))\b"
    r"|\b(?:whether\s+or\s+not|if\s+not|none\s+other\s+than|nothing\s+(?:but|other\s+than)"
    r"|no\s+choice\s+but|(?:cannot|can't)\s+help\s+but|(?:cannot|\w*n't|not)\s+be\s+anything\s+(?:but|other\s+than|except)"
    r"|no\s+other\s+(?:answer|option|choice|possibility)(?:\s+\w+){0,2}?\s+(?:but|than))\b"
    r"|\b(?:ohne|kein(?:en)?)\s+(?:jeden\s+)?zweifel\b|\bsans\s+(?:aucun\s+|nul\s+)?doute\b|\b(?:aucun|nul|pas\s+de)\s+doute\b"
    r"|\bne\s+fait\s+(?:pas\s+de|aucun)\s+doute\b|\bn'y\s+a\s+(?:pas\s+de|aucun)\s+doute\b"
    r"|\bsin\s+(?:ninguna\s+)?duda\b|\bno\s+(?:hay|cabe|tengo)\s+(?:ninguna\s+)?dudas?\b|\b(?:sem|não\s+há|não\s+tenho)\s+dúvidas?\b"
    r"|\bsenza\s+(?:alcun\s+)?dubbio\b|\bnon\s+(?:c'è|ho)\s+(?:alcun\s+)?dubbi\w?\b|\b(?:не\s+сомнева\w+|нет\s+сомнени\w+|без\s+сомнени\w+)"
    r"|\bno\s+(?:v[ií]deo|filme|final|entanto|caso|início|momento|meio)\b"  # Portuguese: "in the video"
    r"|毫无疑问|毫無疑問|毋庸置疑|无疑|無疑|没有疑问|沒有疑問|不用怀疑|不可能不是|不仅|不僅|不只|不过|不過|不难|不難|不错|不錯"
    r"|間違い(?:な[いく]|ありません)|違いな[いく]|違いありません|しか(?:な[いく]|ありません|考えられ(?:ない|ません))"
    r"|かもしれ(?:ない|ません)|(?:他|ほか)なら(?:ない|ません)"
    r"|지도\s*모르|틀림\s*없|밖에\s*없|의심(?:할|의)\s*여지\s*[가는]?\s*없",
    re.IGNORECASE,
)
_NO_DETERMINER = (
    r"no(?=\s+[^\W\d_])"
    r"(?!\s+(?:the|it|it's|i|i'm|this|that|there|he|she|they|we|a|an|because|since|as|and|but|or|so)\b)"
)
_DENIES = re.compile(
    r"(?:\b(?:\w*n't|(?:do|does|did|is|are|was|were|would|could|should|ca|can|wo)nt|"
    + _words(
        "not never cannot neither nor none nothing nobody hardly scarcely barely unlikely improbable implausible "
        "impossible "
        "incorrect false wrong mistaken doubt doubts doubted doubting doubtful disagree disagrees deny denies denied "
        "dismiss dismissed reject rejects rejected eliminate eliminated eliminates eliminating exclude excluded "
        "excludes excluding whether questionable lack lacks why refuse refuses avoid avoided unable "
        "unclear uncertain unsure "
        "unconvinced "
        # German, French, Spanish, Portuguese, Italian, Russian, Czech, Arabic
        "nicht kein keine keinen keiner keines nie niemals weder bezweifle bezweifeln unwahrscheinlich unmöglich "
        "falsche pas jamais aucun aucune ni ne doute improbable nunca tampoco jamás dudo dudoso imposible incorrecta "
        "incorrecto não nem duvido improvável impossível né dubito improbabile impossibile "
        "не ни нельзя сомневаюсь маловероятно вряд невозможно není nikoli nikoliv ne nemyslím pochybuji nemůže "
        "ليس ليست لا لن لم غير أشك"
    )
    + r"|rul(?:e|es|ed|ing)\s+out|far\s+from|too\s+\w+\s+to|fails?\s+to|less\s+likely"
    r"|non(?!\s*[,.;!:])|нет(?!\s*[,.;!:])"
    r"|mistake\s+to|(?:surprised|know|wonder|tell|see|check|ask)\s+if|(?:hard|difficult)\s+to|"
    + _NO_DETERMINER
    + r")\b|\bn'|"
    r"不(?:是|选|選|会|會|可能|太|认为|認為|觉得|覺得|应|應|能|要|该|該|算|属于|屬於|相信|同意|确定|確定)|并[非不]|並[非不]|未必|绝非|絕非"
    r"|排除|除了|难以|難以|怀疑|懷疑|没有|沒有|无法|無法|错误|錯誤)",
    re.IGNORECASE,
)
# These deny only what comes next: "rather than B", "without B", "any option except B".
_BESIDE = re.compile(
    r"\b(?:without|except(?:\s+for)?|rather\s+than|instead\s+of|other\s+than|as\s+opposed\s+to|unlike|apart\s+from"
    r"|(?:anything|everything|all)\s+but|sauf|außer|excepto|salvo|eccetto|exceto|кроме)"
    r"\s+(?:(?:a|an|the|be|it|is|choosing|selecting|picking|option|choice|answer|letter)\s+)*[\"'(\[]*$",
    re.IGNORECASE,
)

_RESTART = (
    r"(?:but|so|therefore|thus|hence|it|it's|this|the\s+(?:(?:correct|right|best|final|true)\s+)?(?:answer|option|choice)"
    r"|i|i'd|we|my|rather(?!\s+than)|instead(?!\s+of)|maybe|perhaps|probably|possibly|likely|then|answer|actually)\b"
)
_UNFINISHED = re.compile(
    r"\s*(?:think|thinking|believe|say|feel|suppose|expect|agree|be|likely|true|denken|glaube|pense|creo|acho)?\s*",
    re.IGNORECASE,
)
_LINE_GOES_ON = re.compile(
    r"(?:\b(?:is|are|was|be|that|say|choose|pick|select|answer|option|not)|:)\s*$", re.IGNORECASE
)
_COMMA_GOES_ON = re.compile(
    r"(?:or|nor|and|oder|ou|o|ni|that|whether|if|dass|daß|ob|что|чтобы|že|[^,.;]{1,50},\s*(?:that|whether|if|dass|что))\b",
    re.IGNORECASE,
)
# Where the clause of a denying word may end.
_ENDS = re.compile(
    r"(?P<stop>[!?;。]|(?<!\.)\.(?![\w.]))|(?P<line>\n)|(?P<comma>,|[–—]|\s-\s)|(?P<close>[)\]])"
    rf"|:\s*(?={_RESTART})"
    r"|\b(?:but|therefore|thus|hence|whereas|instead(?!\s+of)|rather(?!\s+than)|leaving|leaves|sondern|aber|sino|pero|mais|mas"
    r"|ale|nýbrž|но|بل|لكن)\b"
    r"|\bso\s+(?=(?:the|it|i|we|my|option|answer|(?-i:[A-Z]))\b)"
    rf"|\band\s+(?={_RESTART})"
    r"|而|但|所以|因此|应该|應該|就是",
    re.IGNORECASE,
)

_AUX = (
    r"(?:is|are|was|were|be|being|been|must|may|might|do|does|did|can|could|would|should|will|has|have|had"
    r"|seems?|looks?|appears?|sounds?)"
)
_FALSE = (
    r"(?:wrong|incorrect|false|impossible|improbable|unlikely|implausible|doubtful|invalid|inaccurate|mistaken|untrue"
    r"|mistake|error|ruled\s+out|eliminated|excluded|rejected|dismissed|unsupported|inconsistent|contradicted|less\s+likely"
    r"|(?:the\s+)?least\s+likely|out(?=\s*(?:$|[.,;!)]|of\s+the\s+question)))\b"
)
_FILLERS = (
    r"(?:(?:\w+ly|just|simply|also|then|still|most|very|quite|be|been|seem|to|have|had|a|an|the|almost|rather)\s+)"
    r"{0,4}"
)
_FITS = (
    r"(?:(?:be|been|seem|appear|the|a|an|to|really|quite|very|look|like)\s+)*"
    r"(?:right|correct|answer|option|choice|it|true|match\w*|fit|fits|fitting|shown|seen|visible|present|there|mentioned"
    r"|supported|possible|likely|consistent|what|correspond\w*|described?|depict\w*|show|appear|apply|work|make\s+sense"
    r"|accurate|valid|plausible)\b"
)
_NO_SUBJECT = (
    r"(?!(?:because|since|as|for|so|and|but|or|if|when|where|which|who|that|while|due|given|rather|instead|without"
    r"|except|than|it|he|she|they|there|i|we|this|these|then)\b)"
)
_CJK_REST = r"[^A-Za-z0-9、。，,.!?;:\n而但因所且和或]{0,20}?"
_QUOTES = r"[\"')\]]*"
_BRACKET = r"(?:\s*\([^()\n]*\))?"
# What denies the thing before it, its subject.
_PREDICATE = re.compile(
    rf"{_QUOTES}(?:"
    # "B is not", "B isn't", "B must be wrong", "B is definitely not"
    rf"\s*(?:{_AUX}\s+)?{_FILLERS}(?:not|never|hardly|{_FALSE})\b"
    rf"|{_BRACKET}\s*(?:\w*n't|cannot)\b"
    # "Option B with the red car is wrong", "B (the red one) does not match"
    rf"|{_BRACKET}(?:\s+{_NO_SUBJECT}[\w'-]+){{0,6}}?\s+"
    rf"(?:{_AUX}\s+{_FILLERS}(?:(?:not|never|hardly)\s+{_FITS}|{_FALSE})|(?:\w+n't|cannot)\s+{_FITS}|contradicts\b)"
    r"|\s+(?:ist|sind|wäre|scheint|kann|passt|stimmt)\s+(?:\w+\s+){0,2}?"
    r"(?:nicht|falsch|unmöglich|unwahrscheinlich|ausgeschlossen|keine?)\b"
    r"|\s+(?:no|nunca)\s+(?:es|puede|parece|sería|será|coincide|corresponde)\b"
    r"|\s+(?:est?|é|è|está|semble|parece|sembra)\s+(?:\w+\s+)?(?:incorrect[aoe]?|incorret[ao]|fals[ao]|faux|fausse"
    r"|imposible|impossible|improbable|impossível|improvável|impossibile|improbabile|equivocad[ao]|errad[ao]|errat[ao]"
    r"|erronée?|sbagliat[ao]|scorrett[ao]|exclue?)\b"
    r"|\s+(?:n'est|ne\s+(?:peut|semble|correspond|convient))\b|\s+(?:não|non)\s+(?:é|è|pode|può|parece|sembra)"
    r"|\s*[-–—]?\s*(?:это\s+)?(?:не\b|неверн|неправильн|ошибочн|маловероят)"
    r"|\s+(?:není|nemůže)\b|\s+je\s+(?:špatn|nesprávn|chybn)|\s+(?:هي\s+|هو\s+)?(?:ليست?|غير|خاطئ|خطأ)"
    rf"|\s*{_CJK_REST}(?:不(?:是|对|對|正确|正確|成立|符|可能|太|合|选|選|行|准确|会|會|能)|错|錯|排除|没有|沒有|并[非不]|有误"
    r"|な[いくかけ]|ません|違|間違|誤|不正解|以外|を除|아니|아닌|아닐|아닙|않|없|모르|틀[리렸린립]|오답|제외)"
    r"|\s*(?:选项|選項)?(?:是|为|為)?(?:不|错|錯|非))",
    re.IGNORECASE,
)
# What takes it back in the next clause: "B. Wrong", "B? No", "B, which is wrong", "B. Wait, that can't be right".
_TAKEN_BACK = re.compile(
    rf"{_QUOTES}(?:"
    rf"\s*:\s*(?:not|never|{_FALSE})\b|[.:]\s*(?:{_FALSE}|not\s+{_FITS}|not\s*(?:[.,;!]|$))"
    r"|\s*\?\s*(?:no|nope|not|never)\b"
    r"|[.,?!;]*\s*(?:i\s+(?:do\s+not|don't)\s+(?:think|believe)\s+so\b|i\s+doubt\s+(?:it|that|so)\b)"
    r"|[.,;]*\s*(?:but\s+(?:it|that|this)|which)\s+(?:(?:is|was)\s+not|isn't|wasn't)\s*(?:[.,;!]|$)"
    r"|[.,?!;…]*\s*(?:(?:wait|no|hmm|actually|but|and|oh|sorry),?\s+){0,2}(?:(?:which|that|this|it)"
    rf"(?:(?:\s+(?:is|was|must\s+be|would\s+be|seems?)|'s)\s+{_FILLERS}"
    rf"(?:{_FALSE}(?!\s+to\b)|not\s+(?:right|correct|it|true)\b)"
    r"|\s+(?:can't|cannot|isn't|wasn't|doesn't)\s+(?:(?:be|seem)\s+)?(?:right|correct|it|true|fit|match)\b)"
    r"|i\s+(?:was|am)\s+(?:wrong|mistaken)\b))",
    re.IGNORECASE,
)
_MORE = r"(?:(?:the|a|an|option|options|choice|answer|either|even|any|letter)\s+)*[\"'(\[]*"
_JOINED = re.compile(
    rf"[\"')\]]*\s*,?\s*(?:\b(?:or|and|nor|oder|und|ou|et|o|y|e|ni|или|и)\b|&|/|、|和|或者?|か|と)\s*{_MORE}", re.I
)
_LISTED = re.compile(rf"[\"')\]]*\s*[,/]\s*{_MORE}", re.IGNORECASE)
_SUBJECT = re.compile(r"[\"')\]]*\s*(?:is|are|was|were|seems?|looks?|must|fits?|matches|'s)\b", re.IGNORECASE)
_INSTEAD = re.compile(
    r"[\"')\]]*\s*(?:,\s*)?(?:but(?:,?\s+(?:rather|instead))?|rather|instead|sondern|sino|mais|mas(?:\s+sim)?|ma(?:\s+bensì)?|bensì|а"
    r"|ale|nýbrž|بل|而?是|应该是|應該是|ではなく(?:て)?[,、]?|じゃなく(?:て)?[,、]?|[가이]?\s*아니라|[가이]?\s*아닌)"
    r"\s*(?:(?:it\s+is|it's|is|the|a|an|option|choice|answer|die|der|das|la|le|el|il|选项|選項)\s*)*[\"'(\[]*",
    re.IGNORECASE,
)


class Denials:
    """The denials of a text.

    >>> text = "It is unlikely that the answer is B; I think C."
    >>> Denials(text).of([(34, 35), (45, 46)])
    [True, False]
    """

    def __init__(self, text: str) -> None:
        self._text = _AFFIRMS.sub(lambda match: " " * len(match[0]), text)
        self._scopes: list[tuple[int, int]] = []
        for match in _DENIES.finditer(self._text):
            if not self._scopes or match.start() >= self._scopes[-1][1]:  # one inside another's clause adds nothing
                self._scopes.append((match.start(), self._end(match.end())))

    def rules(self, offset: int) -> bool:
        """Whether a word that denies stands before this place in its clause."""
        return any(denying < offset < scope for denying, scope in self._scopes)

    def covers(self, place: Place, *, taken_back: bool = True) -> bool:
        """Whether what stands there is denied, looked at by itself.

        Args:
            place: Where it stands.
            taken_back: Whether the next clause may do it, too: "B, which is wrong". Not so after "No, that is wrong".
        """
        start, end = place
        return (
            self.rules(start)
            or _PREDICATE.match(self._text, end) is not None
            or (taken_back and _TAKEN_BACK.match(self._text, end) is not None)
            or _BESIDE.search(self._text, max(0, start - 80), start) is not None
        )

    def of(self, places: Sequence[Place], *, taken_back: bool = True) -> list[bool]:
        """Whether each of several mentions, in the order of the text, is denied: by itself, or as it is listed with
        one that is ("not red, blue or green", "A and B are wrong").
        """
        denied = [self.covers(place, taken_back=taken_back) for place in places]
        for i in range(1, len(places)):
            between = self._text[places[i - 1][1] : places[i][0]]
            listed = _LISTED.fullmatch(between) and not _SUBJECT.match(self._text, places[i][1])
            if denied[i - 1] and (listed or _JOINED.fullmatch(between)):
                denied[i] = True
        for i in reversed(range(1, len(places))):
            if denied[i] and _JOINED.fullmatch(self._text[places[i - 1][1] : places[i][0]]):
                denied[i - 1] = True
        return denied

    def corrected(self, places: Sequence[Place]) -> int | None:
        """Which mention is said instead of the others, all of them denied: 1 in "not A but B". None: no such."""
        denied = self.of(places)
        if denied.count(False) != 1 or (i := denied.index(False)) == 0:
            return None
        return i if _INSTEAD.fullmatch(self._text[places[i - 1][1] : places[i][0]]) else None

    def _end(self, begin: int) -> int:
        """Where the clause of a denying word that ends at `begin` ends."""
        text, position, opened = self._text, begin, False
        while found := _ENDS.search(text, position):
            position = found.end()
            before, after = text[begin : found.start()], text[found.end() :].lstrip()
            if found["close"]:
                if "(" in before or "[" in before:
                    continue
            elif found["line"]:
                if _LINE_GOES_ON.search(before):
                    continue
            elif found["comma"]:
                restart = re.match(rf"(?:(?:and|or)\s+)?{_RESTART}", after, re.IGNORECASE)
                if _COMMA_GOES_ON.match(after) and not restart:
                    continue
                if not opened and not restart and _UNFINISHED.fullmatch(before):
                    opened = True  # "I do not think, however, that": up to the next comma is put in
                    closing = re.compile(r",|[–—]|\s-\s").search(text, position, position + 60)
                    position = closing.end() if closing else position
                    continue
            return found.start()
        return len(text)
