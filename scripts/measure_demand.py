"""How well does a demand scorer tell questions about time from others? Prints the tables of docs/budgets.md.

    python scripts/measure_demand.py                       the lexical scorer
    python scripts/measure_demand.py --scorer embedding    embeddings beside the cues, and how much better that is
    python scripts/measure_demand.py --misses dev          the questions of a half that are far off, to work on

Three sets. `dev` and `held-out` are the labelled questions of the tests, split by a hash of the question; those of
batch 1 were there when the cues were first written, so all of them count as dev. `real media` are the hand-written
questions of the real-media source, labelled by whether one frame is enough.
"""

from __future__ import annotations

import argparse
import hashlib
import json
from collections import Counter
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np

from vtrap_data.budgets.demand import LEVELS, UNKNOWN, demands, explain, nearest_kind, prototype_scores
from vtrap_data.sources.real_media.questions import rows as real_media

QUESTIONS = Path(__file__).parent.parent / "tests/data/demand_questions.jsonl"
NEAR = 0.25
"""A score this close to the level of the question's kind counts as right."""


class Labelled(NamedTuple):
    kind: str
    question: str
    half: str


def labelled(path: Path = QUESTIONS) -> list[Labelled]:
    """The labelled questions, each with its half."""
    read = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
    return [Labelled(row["kind"], row["question"], half(row["question"], batch=row["batch"])) for row in read]


def half(question: str, *, batch: int) -> str:
    odd = hashlib.sha256(question.encode()).digest()[0] % 2
    return "held-out" if batch > 1 and odd else "dev"


def auc(temporal: Sequence[float], static: Sequence[float]) -> float:
    """Chance that a question about time scores above one that is not; ties count half."""
    a, b = np.asarray(temporal)[:, None], np.asarray(static)[None]
    return float((a > b).mean() + 0.5 * (a == b).mean())


def better_by(
    temporal: tuple[Sequence[float], Sequence[float]], static: tuple[Sequence[float], Sequence[float]]
) -> tuple[float, float, float]:
    """How much more AUC the second of two scorers has, and 95 % of 10,000 draws of the same questions for both."""
    (a, b), (c, d) = np.asarray(temporal), np.asarray(static)
    rng, draws = np.random.default_rng(0), []
    for _ in range(10_000):
        x, y = rng.integers(len(a), size=len(a)), rng.integers(len(c), size=len(c))
        draws.append(auc(b[x], d[y]) - auc(a[x], c[y]))
    low, high = np.percentile(draws, [2.5, 97.5])
    return auc(b, d) - auc(a, c), float(low), float(high)


def against_lexical(rows: Sequence[Labelled], real: Sequence[dict[str, str]], *, scorer: str) -> Iterable[str]:
    """A line for each set: the gain in AUC over the lexical scorer."""
    halves = ("dev", "held-out")
    sets = {half: [(row.question, LEVELS[row.kind] > 0) for row in rows if row.half == half] for half in halves}
    sets["real media"] = [(row["question"], row["category"] == "many-frames") for row in real]
    for name, mine in sets.items():
        sides = [
            tuple(demands([q for q, about in mine if about is time], scorer=one) for one in ("lexical", scorer))
            for time in (True, False)
        ]
        gain, low, high = better_by(*sides)
        alone = auc(*(prototype_scores([q for q, about in mine if about is time]) for time in (True, False)))
        yield (
            f"{name}: AUC {gain:+.3f} against the cues alone, 95 % from {low:+.3f} to {high:+.3f}; "
            f"prototypes alone {alone:.3f}"
        )


def summary(rows: Sequence[Labelled], scores: Sequence[float]) -> dict[str, float | int]:
    levels = [LEVELS[row.kind] for row in rows]
    static = [s for s, level in zip(scores, levels, strict=True) if level == 0]
    temporal = [s for s, level in zip(scores, levels, strict=True) if level > 0]
    return {
        "questions": len(rows),
        "auc": auc(temporal, static),
        "static at 0": float(np.mean(np.asarray(static) == 0)),
        "temporal above no cue": float(np.mean(np.asarray(temporal) > UNKNOWN)),
        "near its level": float(np.mean(np.abs(np.subtract(scores, levels)) <= NEAR)),
    }


def by_kind(rows: Sequence[Labelled], scores: Sequence[float]) -> Iterable[str]:
    yield "| kind | level | n | 0 | no cue | above | near its level |"
    yield "|---|---|---|---|---|---|---|"
    for kind, level in LEVELS.items():
        mine = [s for row, s in zip(rows, scores, strict=True) if row.kind == kind]
        where = Counter("0" if s == 0 else "no cue" if s == UNKNOWN else "above" for s in mine)
        near = sum(abs(s - level) <= NEAR for s in mine)
        counts = " | ".join(str(where[name]) for name in ("0", "no cue", "above"))
        yield f"| {kind} | {level:g} | {len(mine)} | {counts} | {near} |"


def read_as(rows: Sequence[Labelled], *, scorer: str) -> list[str]:
    """What each question is taken for: the kind of its most demanding cue, or that of the nearest prototype."""
    questions = [row.question for row in rows]
    if scorer == "embedding":
        return nearest_kind(questions)
    found = [explain(question) for question in questions]
    return [max(kinds, key=lambda kind: LEVELS[kind]) if kinds else "no cue" for kinds in found]


def confusion(rows: Sequence[Labelled], taken: Sequence[str]) -> Iterable[str]:
    """Labelled kind (rows) against the kind it was read as (columns). Empty cells are 0."""
    kinds = [*LEVELS, *sorted(set(taken) - set(LEVELS))]
    yield f"| is \\ read as | {' | '.join(kinds)} |"
    yield "|---" * (len(kinds) + 1) + "|"
    seen = Counter((row.kind, kind) for row, kind in zip(rows, taken, strict=True))
    for kind in LEVELS:
        yield f"| {kind} | " + " | ".join(str(seen[kind, other] or "") for other in kinds) + " |"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--scorer", choices=("lexical", "embedding"), default="lexical")
    parser.add_argument("--misses", choices=("dev", "held-out"), help="list what is far off in this half")
    args = parser.parse_args()
    rows = labelled()
    scores = demands([row.question for row in rows], scorer=args.scorer)
    if args.misses:
        for row, score in zip(rows, scores, strict=True):
            if row.half == args.misses and abs(score - LEVELS[row.kind]) > NEAR:
                print(f"{row.kind:<10} {score:.2f} {row.question}   {explain(row.question)}")
        return
    print(f"| set ({args.scorer}) | questions | AUC | static at 0 | temporal above no cue | near its level |")
    print("|---|---|---|---|---|---|")
    for name in ("dev", "held-out"):
        mine = [(row, score) for row, score in zip(rows, scores, strict=True) if row.half == name]
        facts = summary(*zip(*mine, strict=True))
        shares = " | ".join(f"{facts[key]:.3f}" for key in list(facts)[1:])
        print(f"| {name} | {facts['questions']} | {shares} |")
    real = real_media()
    values = demands([row["question"] for row in real], scorer=args.scorer)
    many = [s for row, s in zip(real, values, strict=True) if row["category"] == "many-frames"]
    one = [s for row, s in zip(real, values, strict=True) if row["category"] == "one-frame"]
    print(
        f"| real media | {len(real)} | {auc(many, one):.3f} | {np.mean(np.asarray(one) == 0):.3f} "
        f"| {np.mean(np.asarray(many) > UNKNOWN):.3f} | - |"
    )
    if args.scorer != "lexical":
        print("\n" + "\n".join(against_lexical(rows, real, scorer=args.scorer)))
    held = [(row, score) for row, score in zip(rows, scores, strict=True) if row.half == "held-out"]
    print("\nheld-out, by kind: how many questions got 0, the score of no cue, more; and how many came near\n")
    print("\n".join(by_kind(*zip(*held, strict=True))))
    taken = read_as(rows, scorer=args.scorer)
    right = sum(row.kind == kind for row, kind in zip(rows, taken, strict=True))
    sides = [(LEVELS[row.kind] > 0, LEVELS.get(kind, UNKNOWN) > 0) for row, kind in zip(rows, taken, strict=True)]
    same = sum(one == other for one, other in sides)
    print(f"\nall {len(rows)}, labelled kind against the kind it was read as: {right} are the same kind, {same} the")
    print("same side of the line between questions about time and others\n")
    print("\n".join(confusion(rows, taken)))


if __name__ == "__main__":
    main()
