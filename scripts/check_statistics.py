"""Do the intervals cover, and does a comparison under the null stay quiet? A simulation; its table is in docs.

Usage: python scripts/check_statistics.py [--trials 10000] [--comparisons 1000] [--dry-run]

What is drawn in every trial, for three models, is in `statistics_designs.py`. Beside a share above 97 % the table
shows the least that is possible there, as worked out by `attainable_coverage.py`.

The two models that are alike are given to `compare` as runs, with several tasks and abilities: how often does any
of its sentences claim a change?
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import NamedTuple

import numpy as np
from attainable_coverage import least_possible
from statistics_designs import BEYOND, DESIGNS, ELSEWHERE, KNOWN, Design, draw, write_between

from vtrap_bench.compare import ALPHA, Comparison, compare
from vtrap_bench.finished import Run
from vtrap_bench.records import Record
from vtrap_bench.run_info import RUN_FORMAT, Bootstrap, ModelInfo, RunInfo, TaskInfo
from vtrap_bench.scores import SCORES_FORMAT, Scores
from vtrap_bench.statistics import (
    RESAMPLES,
    bootstrap_means,
    holm,
    mean_difference,
    paired_difference,
    percentile_interval,
    share_interval,
    sign_flip_p,
)

FLIPS = 999  # ten times fewer than `compare` takes; the test is exact with any number
ENOUGH = 5  # media that changed, on average: with fewer, intervals of changes may have to cover more
HIGH = 0.97  # what a nominal 95 % is to come to at most
COVERAGE, COMPARISONS = "coverage", "comparisons"  # marks in the page


class Found(NamedTuple):
    """What came of the trials of one design.

    Attributes:
        score: Share of trials in which the interval of the score held the truth.
        same: The same of the change between models that are alike, where it had an interval (something changed).
        changed: Mean number of media on which the two had different scores.
        better: The same as `same`, of the model that is truly better.
        gained: Mean number of media on which the two had different scores.
        false_positives: Share of trials in which models that are alike were called different at 5 %.
    """

    score: float
    same: float
    changed: float
    better: float
    gained: float
    false_positives: float


SEVERAL = [d for d in DESIGNS if d.media >= 50][::4]
ABILITIES = ("attribute", "counting", "ocr", "position")
COMPARED = {
    "one task": [Design(200, 0, 0.5, 0.3)],
    "two tasks": [Design(200, 0, 0.5, 0.3)] * 2,
    "five tasks": SEVERAL,
}
"""Tasks that are compared at once, each with questions of all ABILITIES on every medium."""


class Several(NamedTuple):
    """What came of comparing several tasks at once.

    Attributes:
        score: Share of trials in which the bootstrap interval of the mean score held the truth.
        same: The same of the mean change between models that are alike.
        better: The same with the model that is truly better.
        wrong: Share of trials in which, of models that are alike, any task was called changed after Holm's adjustment.
    """

    score: float
    same: float
    better: float
    wrong: float


def simulate(design: Design, *, trials: int, seed: int) -> Found:
    """Repeat one design."""
    rng = np.random.default_rng([seed, [*DESIGNS, *BEYOND, *ELSEWHERE].index(design)])
    truth = KNOWN * (1 - design.accuracy)
    score, same, better, changed, gained, rejected = [], [], [], [], [], []
    for trial in range(trials):
        a, b, c, clusters = draw(design, rng)
        names = clusters.tolist()
        low, high = share_interval(a, names)
        score.append(low <= design.accuracy <= high)
        for other, change, covered, count in ((b, 0.0, same, changed), (c, truth, better, gained)):
            found = paired_difference(a, other, names)
            count.append(np.count_nonzero(found.contributions))
            if found.error > 0:
                covered.append(found.interval.low <= change <= found.interval.high)
            if other is b:
                rejected.append(sign_flip_p(found.contributions, flips=FLIPS, seed=trial) < 0.05)
    return Found(*(float(np.mean(x)) for x in (score, same, changed, better, gained, rejected)))


def several_tasks(*, trials: int, bootstraps: int, seed: int, resamples: int = RESAMPLES) -> Several:
    """Repeat the comparison of several tasks; the bootstrap of the mean score, which is slow, `bootstraps` times."""
    rng = np.random.default_rng(seed)
    accuracy = float(np.mean([d.accuracy for d in SEVERAL]))
    truth = KNOWN * (1 - accuracy)
    score, same, better, wrong = [], [], [], []
    for trial in range(trials):
        tasks = [draw(design, rng) for design in SEVERAL]
        if trial < bootstraps:
            draws = [
                bootstrap_means(a, g.tolist(), seed=i, resamples=resamples) for i, (a, _, _, g) in enumerate(tasks)
            ]
            low, high = percentile_interval(np.mean(draws, axis=0))
            score.append(low <= accuracy <= high)
        alike = [paired_difference(a, b, g.tolist()) for a, b, _, g in tasks]
        low, high = mean_difference(alike).interval
        same.append(low <= 0 <= high)
        low, high = mean_difference([paired_difference(a, c, g.tolist()) for a, _, c, g in tasks]).interval
        better.append(low <= truth <= high)
        ps = [sign_flip_p(f.contributions, flips=FLIPS, seed=trial) for f in alike]
        wrong.append(min(holm(ps)) < 0.05)
    return Several(*(float(np.mean(x)) for x in (score, same, better, wrong)))


class Claims(NamedTuple):
    """What `compare` says of models that are alike.

    Attributes:
        any: Share of trials in which any sentence claims a change.
        rows: The same, were each kind of rows (tasks, abilities, abilities across tasks) adjusted on its own.
    """

    any: float
    rows: float


def comparisons(designs: list[Design], *, trials: int, seed: int) -> Claims:
    """Repeat a whole comparison of models that are alike."""
    rng = np.random.default_rng([seed, len(designs)])
    claimed, alone = [], []
    for _ in range(trials):
        tasks = [draw(design, rng) for design in designs]
        abilities = [rng.choice(ABILITIES, len(clusters)).tolist() for *_, clusters in tasks]
        runs = [
            run_of([(answers[model], answers[3], named) for answers, named in zip(tasks, abilities, strict=True)])
            for model in (0, 1)
        ]
        found = compare(*runs)
        claimed.append(claims_change(found))
        kinds = (found.tasks, found.abilities, found.across if len(designs) > 1 else ())
        alone.append(any(p < ALPHA for rows in kinds for p in holm([r.p for r in rows if r.p is not None])))
    return Claims(float(np.mean(claimed)), float(np.mean(alone)))


def claims_change(found: Comparison) -> bool:
    """Whether any sentence does."""
    return any(words in said for said in found.sentences for words in ("than A (", "these moved"))


def run_of(tasks: list[tuple[np.ndarray, np.ndarray, list[str]]]) -> Run:
    """A run of the tasks: of each what was right, the medium and the ability of each question."""
    records = {
        f"task-{number}": {
            str(item): Record(
                key="",
                task=f"task-{number}",
                item_id=str(item),
                ability=ability,
                cluster=str(medium),
                question="",
                options=(),
                answer="",
                response="",
                extracted=None,
                stage="",
                correct=right > 0,
                frame_times=(),
                n_frames=0,
                visual_tokens=0,
                prompt_tokens=0,
            )
            for item, (right, medium, ability) in enumerate(zip(answers.tolist(), media.tolist(), named, strict=True))
        }
        for number, (answers, media, named) in enumerate(tasks)
    }
    task = TaskInfo(
        version=1,
        modality="image",
        synthetic=True,
        data_sha256="",
        items=0,
        limit=None,
        max_new_tokens=0,
        answer_form="",
    )
    info = RunInfo(
        format=RUN_FORMAT,
        model=ModelInfo(name="", hub_revision=None, family="", weights={}),
        label="",
        frames="",
        tasks=dict.fromkeys(records, task),
        decides={},
        device="",
        batch_size=1,
        bootstrap=Bootstrap(seed=0, resamples=0, level=0.95),
        preprocessing={},
        backend={},
        versions={},
    )
    scores = Scores(format=SCORES_FORMAT, model="", label="", frames="", tasks={}, records_sha256="")
    return Run(folder=Path(), info=info, scores=scores, records=records)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--trials", type=int, default=10000, help="per row of the table; 0: leave the table alone")
    parser.add_argument("--comparisons", type=int, default=1000, help="whole comparisons; 0: leave them alone")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--dry-run", action="store_true", help="print only")
    args = parser.parse_args()
    if args.trials:
        lines = table(trials=args.trials, seed=args.seed)
        if not args.dry_run:
            write_between(COVERAGE, lines)
    if args.comparisons:
        lines = claims(trials=args.comparisons, seed=args.seed)
        if not args.dry_run:
            write_between(COMPARISONS, lines)
    return 0


def claims(*, trials: int, seed: int) -> list[str]:
    """How often whole comparisons cry wolf, as lines of the page."""
    lines = [
        f"{trials} comparisons per row, in percent; two standard errors of a 5 are "
        f"{200 * (0.0475 / trials) ** 0.5:.1f}.",
        "",
        "| compared | any sentence claims a change | if each kind of rows were adjusted on its own |",
        "|---|---:|---:|",
    ]
    for name, designs in COMPARED.items():
        found = comparisons(designs, trials=trials, seed=seed)
        lines.append(f"| {name}, {len(ABILITIES)} abilities | {100 * found.any:.1f} | {100 * found.rows:.1f} |")
        print(lines[-1], flush=True)
    return lines


class Cell(NamedTuple):
    """How often the interval of a change covered, in a design of `DESIGNS`.

    Attributes:
        design: Which.
        known: Share of all questions that the second model knows.
        covered: Share of trials.
        least: Lowest share that is possible; None where `covered` is not above 97 %.
    """

    design: Design
    known: float
    covered: float
    least: float | None

    def __str__(self) -> str:
        return f"{100 * self.covered:.1f} | {'' if self.least is None else f'{100 * self.least:.1f}'}"


def cell(design: Design, known: float, covered: float) -> Cell:
    """With the least that is possible, where it matters and is claimed."""
    above = round(covered, 3) > HIGH and design in DESIGNS
    return Cell(design, known, covered, least_possible(design, known) if above else None)


def elsewhere(*, trials: int, seed: int) -> str:
    """The same of other designs, in a line."""
    found = [simulate(design, trials=trials, seed=seed) for design in ELSEWHERE]
    changes = [(f.same, f.changed) for f in found] + [(f.better, f.gained) for f in found]
    told = {
        "scores are covered": [f.score for f in found],
        "changes of five media or more": [share for share, changed in changes if changed >= ENOUGH],
        "changes of fewer": [share for share, changed in changes if changed < ENOUGH],
    }
    shares = "; ".join(
        f"{what} in {100 * min(s):.1f} to {100 * max(s):.1f} %, {100 * np.mean(s):.1f} on average"
        for what, s in told.items()
    )
    return (
        f"In {len(ELSEWHERE)} other designs ({min(d.media for d in ELSEWHERE)} to {max(d.media for d in ELSEWHERE)} "
        f"media, {trials} trials each): {shares}; false positives {100 * max(f.false_positives for f in found):.1f} % "
        "at most."
    )


def table(*, trials: int, seed: int) -> list[str]:
    """How often intervals cover and tests cry wolf, as lines of the page."""
    lines = [
        f"{trials} trials per row, in percent; two standard errors of a 95 (and of a 5) are "
        f"{200 * (0.0475 / trials) ** 0.5:.1f}.",
        "",
        "| media | questions each | accuracy | correlation | score covered | no change covered | least possible "
        "| media changed | true change covered | least possible | media changed | false positives |",
        "|---:|---:|---:|---:|---:|---:|---:|---:|---:|---:|---:|---:|",
    ]
    for design in [*DESIGNS, *BEYOND]:
        found = simulate(design, trials=trials, seed=seed)
        same, better = cell(design, 0.0, found.same), cell(design, KNOWN, found.better)
        lines.append(
            f"| {design.media} | {design.size or '1 to 20'} | {design.accuracy} | {design.icc} "
            f"| {100 * found.score:.1f} | {same} | {found.changed:.1f} | {better} | {found.gained:.1f} "
            f"| {100 * found.false_positives:.1f} |"
        )
        print(lines[-1], flush=True)
    lines += ["", elsewhere(trials=max(1, trials // 10), seed=seed)]
    print(lines[-1], flush=True)
    fewer = max(1, trials // 20)
    several = several_tasks(trials=trials, bootstraps=fewer, seed=seed)
    lines += [
        "",
        f"{len(SEVERAL)} tasks at once: the interval of the mean score held the truth ({fewer} trials) in "
        f"{100 * several.score:.1f} %, that of the mean change in {100 * several.same:.1f} % (no change) and "
        f"{100 * several.better:.1f} % (true change). Nothing changed: {100 * several.wrong:.1f} % of "
        "comparisons name a task, after Holm.",
    ]
    print(lines[-1])
    return lines


if __name__ == "__main__":
    sys.exit(main())
