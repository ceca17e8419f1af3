"""Do two runs differ, and how sure is that? The command `python -m vtrap_bench compare`.

Both runs answered the same items, so items are compared with themselves: most of what makes a question hard cancels
out. The sentences say what can be concluded and what cannot; "no difference found" is never "no difference".
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

from vtrap_bench.abilities import across, common_ability, tasks_of
from vtrap_bench.finished import Run, read_run
from vtrap_bench.records import Record
from vtrap_bench.scores import by_ability
from vtrap_bench.statistics import (
    FEW,
    FEWEST,
    Paired,
    holm,
    mcnemar,
    mean_difference,
    minimum_detectable_change,
    paired_difference,
)
from vtrap_bench.tasks import TASKS
from vtrap_data.errors import UsageError, printable_lines

ALPHA = 0.05
POWER = 0.8
COMPARE_FORMAT = 1

Pairs = Sequence[tuple[Record, Record]]
"""Each item of a task as A and as B answered it."""

EXAMPLES = """\
examples:
  python -m vtrap_bench compare runs/base runs/sft
  python -m vtrap_bench compare runs/base/frames-16 runs/sft/frames-16 --json
"""


@dataclass(frozen=True, slots=True, kw_only=True)
class Difference:
    """A task, or an ability of it, in both runs. Scores, differences and errors are in points (0..100).

    Attributes:
        task: Name of the task.
        ability: None: the whole task.
        n: Items that both runs answered.
        clusters: Clusters that these items form.
        changed: Clusters on which the two scores differ.
        a: Score of A on these items.
        b: Score of B on these items.
        difference: b - a.
        error: Standard error of the difference by clusters; None with a single cluster.
        low: Lower end of the 95 % interval. None with a single cluster, and when every item changed by the same
            amount (none did, say): then there is no spread to make an interval of.
        high: Upper end.
        p: Of "no difference", two-sided, by sign flips of clusters; None with a single cluster.
        p_holm: Adjusted for everything that is looked at: of comparisons of models that are alike, at most 5 % have
            any below 0.05 (docs/benchmark.md).
        p_mcnemar: Exact test that takes items as independent: a second look.
        only_a: Items that only A has right.
        only_b: Items that only B has right.
        detectable: The smallest true difference that this comparison would find with a probability of 80 %. None
            where there is no interval, and with fewer than six clusters, which never show a difference.
    """

    task: str
    ability: str | None
    n: int
    clusters: int
    changed: int
    a: float
    b: float
    difference: float
    error: float | None
    low: float | None
    high: float | None
    p: float | None
    p_holm: float | None
    p_mcnemar: float
    only_a: int
    only_b: int
    detectable: float | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Across:
    """A common ability over all tasks that test it, each task counting alike. Differences are in points.

    Attributes:
        ability: One of `vtrap_data.sources.benchmarks.ABILITIES`.
        tasks: Which tasks test it.
        n: Items that both runs answered.
        difference: Mean over the tasks of B - A.
        low: Lower end of the 95 % interval; None where a task has a single cluster, or nothing varies.
        high: Upper end.
        p: Two-sided; None where a task has a single cluster.
        p_holm: Adjusted, as that of a `Difference`.
    """

    ability: str
    tasks: tuple[str, ...]
    n: int
    difference: float
    low: float | None
    high: float | None
    p: float | None
    p_holm: float | None


Row = TypeVar("Row", Difference, Across)


@dataclass(frozen=True, slots=True, kw_only=True)
class Comparison:
    """Two runs, compared.

    Attributes:
        a: Label of A.
        b: Label of B.
        tasks: A row per task.
        abilities: A row per ability of each task.
        across: A row per common ability, over all tasks that test it.
        sentences: What can and cannot be concluded.
        warnings: What makes the comparison less than fair.
    """

    a: str
    b: str
    tasks: tuple[Difference, ...]
    abilities: tuple[Difference, ...]
    across: tuple[Across, ...]
    sentences: tuple[str, ...]
    warnings: tuple[str, ...]


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Arguments of the command."""
    parser.description = "Compare two finished runs on the items that both answered."
    parser.epilog = EXAMPLES
    parser.add_argument("a", type=Path, metavar="A", help="folder of a run: the one to compare with")
    parser.add_argument("b", type=Path, metavar="B", help="folder of a run")
    parser.add_argument("--json", action="store_true", help="everything as JSON")


def run(args: argparse.Namespace) -> int:
    """Compare; exit code 0 whatever the outcome."""
    result = compare(read_run(args.a), read_run(args.b))
    if args.json:
        print(json.dumps({"format": COMPARE_FORMAT, **asdict(result)}, indent=1, ensure_ascii=False, allow_nan=False))
    else:
        print(printable_lines(text(result)))
    return 0


def compare(a: Run, b: Run) -> Comparison:
    """Compare two runs on the items that both answered.

    Raises:
        UsageError: They share no items, or differ in the version of a task.
    """
    shared = [name for name in a.records if name in b.records]
    for name in shared:
        versions = [r.info.tasks[name].version for r in (a, b)]
        if versions[0] != versions[1]:
            raise UsageError(
                f"{a.folder} and {b.folder} have versions {versions[0]} and {versions[1]} of task {name}, which are "
                "not comparable: run the older one again"
            )
    pairs = {name: _pairs(a, b, name) for name in shared}
    if not any(pairs.values()):
        raise UsageError(
            f"{a.folder} and {b.folder} share no items (tasks {', '.join(a.records) or 'none'} and "
            f"{', '.join(b.records) or 'none'}): run both on the same tasks"
        )
    whole, parts = [], []
    for name, found in pairs.items():
        if not found:
            continue
        whole.append(_part(name, None, found))
        order = TASKS[name].abilities if name in TASKS else ()
        other = {before.item_id: after for before, after in found}
        groups = by_ability([before for before, _ in found], order)
        for ability, records in groups.items():
            if len(groups) == 1:
                parts.append(whole[-1]._replace(ability=ability))  # not tested twice: that takes up to a second
            else:
                parts.append(_part(name, ability, [(r, other[r.item_id]) for r in records]))
    tasks, abilities, common = _adjusted([*map(_difference, whole)], [*map(_difference, parts)], _across(pairs, parts))
    return Comparison(
        a=a.label,
        b=b.label,
        tasks=tuple(tasks),
        abilities=tuple(abilities),
        across=tuple(common),
        sentences=tuple(_sentences(tasks, abilities, common)),
        warnings=tuple(_warnings(a, b, pairs)),
    )


def text(result: Comparison) -> str:
    """The comparison for a terminal."""
    head = f"  {'':<24}{'A':>7}{'B':>7}{'B - A':>8}  {'95 % interval':<17}{'p (Holm)':>9}{'McNemar':>9}"
    lines = [f"A: {result.a}", f"B: {result.b}", "", f"{head}{'detects':>9}{'items':>8}{'clusters':>10}"]
    for task in result.tasks:
        lines.append(_line(task.task, task))
        lines += [_line(f"  {d.ability}", d) for d in result.abilities if d.task == task.task]
    if any(len(row.tasks) > 1 for row in result.across):
        lines += ["", "  across tasks, each counting alike"]
        lines += [_across_line(row) for row in result.across]
    kinds = _and_kinds(result.abilities, result.across)
    lines += ["", f"  p (Holm): adjusted for the rows of its kind{kinds}: of comparisons of models that are alike,"]
    lines += [f"  at most {100 * ALPHA:.0f} % claim any change, here or in the sentences below"]
    lines += ["", *(f"- {s}" for s in result.sentences)]
    lines += ["", *(f"warning: {w}" for w in result.warnings)] if result.warnings else []
    return "\n".join(lines)


def _line(name: str, d: Difference) -> str:
    interval = "-" if d.low is None or d.high is None else f"{d.low:+.1f} to {d.high:+.1f}"
    detects = "-" if d.detectable is None else f"{d.detectable:.1f}"
    tests = f"{_p(d.p_holm):>9}{_p(d.p_mcnemar):>9}{detects:>9}"
    return f"  {name:<24}{d.a:7.1f}{d.b:7.1f}{d.difference:+8.1f}  {interval:<17}{tests}{d.n:>8}{d.clusters:>10}"


def _p(p: float | None) -> str:
    return "-" if p is None else "< 0.001" if p < 0.001 else f"{p:.3f}"


def _pairs(a: Run, b: Run, task: str) -> Pairs:
    other = b.records[task]
    return [(r, other[item]) for item, r in a.records[task].items() if item in other]


class _Part(NamedTuple):
    """A task, or an ability of it, in both runs. `paired`: None with a single cluster."""

    task: str
    ability: str | None
    pairs: Pairs
    paired: Paired | None


def _part(task: str, ability: str | None, pairs: Pairs) -> _Part:
    clusters = [x.cluster for x, _ in pairs]
    several = len(set(clusters)) > 1
    before, after = [x.score for x, _ in pairs], [y.score for _, y in pairs]
    return _Part(task, ability, pairs, paired_difference(before, after, clusters) if several else None)


def _difference(part: _Part) -> Difference:
    pairs, found = part.pairs, part.paired
    before = [x.score for x, _ in pairs]
    after = [y.score for _, y in pairs]
    only_a = sum(x.correct and not y.correct for x, y in pairs)
    only_b = sum(y.correct and not x.correct for x, y in pairs)
    n, groups = len(pairs), 1 if found is None else found.clusters
    spread = found if found is not None and found.error > 0 else None
    return Difference(
        task=part.task,
        ability=part.ability,
        n=n,
        clusters=groups,
        changed=int(before != after) if found is None else found.changed,
        a=100 * sum(before) / n,
        b=100 * sum(after) / n,
        difference=100 * (sum(after) - sum(before)) / n,
        error=None if found is None else 100 * found.error,
        low=None if spread is None else 100 * spread.interval.low,
        high=None if spread is None else 100 * spread.interval.high,
        p=None if found is None else found.p,
        p_holm=None,
        p_mcnemar=mcnemar(only_a, only_b),
        only_a=only_a,
        only_b=only_b,
        detectable=None
        if spread is None or groups < FEWEST
        else minimum_detectable_change(100 * spread.error, df=spread.df, alpha=ALPHA, power=POWER),
    )


def _adjusted(
    tasks: Sequence[Difference], abilities: Sequence[Difference], common: Sequence[Across]
) -> tuple[list[Difference], list[Difference], list[Across]]:
    """The rows with `p_holm`: Holm's rule inside each kind of rows, times the number of kinds (Bonferroni's).

    So few tasks pay little for many abilities, and a whole comparison is still wrong at most 5 % of the time.
    """
    kinds = _kinds(abilities, common)
    return _holm_rows(tasks, kinds), _holm_rows(abilities, kinds), _holm_rows(common, kinds)


def _kinds(abilities: Sequence[Difference], common: Sequence[Across]) -> int:
    """How many kinds of rows say something of their own: tasks, abilities where a task has several, and those across
    tasks.
    """
    several = len(abilities) > len({row.task for row in abilities})
    return 1 + several + any(len(row.tasks) > 1 for row in common)


def _holm_rows(rows: Sequence[Row], kinds: int) -> list[Row]:
    adjusted = iter(holm([row.p for row in rows if row.p is not None]))
    return [row if row.p is None else replace(row, p_holm=min(1.0, kinds * next(adjusted))) for row in rows]


def _across(pairs: Mapping[str, Pairs], abilities: Sequence[_Part]) -> list[Across]:
    found: dict[tuple[str, str], list[_Part]] = {}
    for part in abilities:
        found.setdefault((part.task, common_ability(part.task, str(part.ability))), []).append(part)
    rows = []
    for ability, members in across(found).items():
        parts = [_joined(found[member], pairs[member[0]]) for member in members]
        paired = [part.paired for part in parts if part.paired is not None]
        mean = mean_difference(paired) if len(paired) == len(parts) else None
        spread = None if mean is None or mean.error == 0 else mean.interval
        points = [sum(y.score - x.score for x, y in part.pairs) / len(part.pairs) for part in parts]
        rows.append(
            Across(
                ability=ability,
                tasks=tasks_of(members),
                n=sum(len(part.pairs) for part in parts),
                difference=100 * sum(points) / len(points),
                low=None if spread is None else 100 * spread.low,
                high=None if spread is None else 100 * spread.high,
                p=None if mean is None else mean.p,
                p_holm=None,
            )
        )
    return rows


def _joined(parts: Sequence[_Part], shared: Pairs) -> _Part:
    """The abilities of a task that have one common name, out of the `shared` pairs of the task."""
    if len(parts) == 1:
        return parts[0]
    names = {part.ability for part in parts}
    return _part(parts[0].task, None, [pair for pair in shared if pair[0].ability in names])


def _across_line(row: Across) -> str:
    interval = "-" if row.low is None or row.high is None else f"{row.low:+.1f} to {row.high:+.1f}"
    numbers = f"{row.difference:+8.1f}  {interval:<17}{_p(row.p_holm):>9}{row.n:>8}"
    return f"    {row.ability:<22}{numbers}  {', '.join(row.tasks)}"


def _sentences(tasks: Sequence[Difference], abilities: Sequence[Difference], common: Sequence[Across]) -> list[str]:
    said = [_sentence(d) for d in tasks]
    kinds = _and_kinds(abilities, common)
    if len(tested := [d for d in abilities if d.p_holm is not None]) > 1:
        moved = [f"{d.ability} ({d.task}) {d.difference:+.1f}" for d in tested if _moved(d)]
        said.append(f"Abilities: {_moved_sentence(len(tested), kinds, moved)}")
    if any(len(row.tasks) > 1 for row in common) and (found := [row for row in common if row.p_holm is not None]):
        moved = [f"{row.ability} {row.difference:+.1f} ({', '.join(row.tasks)})" for row in found if _moved(row)]
        said.append(f"Abilities across tasks: {_moved_sentence(len(found), kinds, moved)}")
    return said


def _moved(row: Difference | Across) -> bool:
    return row.p_holm is not None and row.p_holm < ALPHA


def _moved_sentence(tested: int, kinds: str, moved: Sequence[str]) -> str:
    adjusted = f"p adjusted for all of them{kinds}"
    if not moved:
        return f"of {tested} tested, none can be said to have moved ({adjusted}); their differences may be chance."
    return (
        f"of {tested} tested, these moved ({adjusted}): {', '.join(moved)}. About the others nothing can be concluded."
    )


def _and_kinds(abilities: Sequence[Difference], common: Sequence[Across]) -> str:
    kinds = _kinds(abilities, common)
    return "" if kinds == 1 else f" and for the {kinds} kinds of rows"


def _sentence(d: Difference) -> str:
    where = f"{d.task}: on {d.n} shared items in {d.clusters} clusters"
    if d.only_a == d.only_b == 0 and not d.difference and not d.error:  # items may earn a share
        return f"{where} both are right on the same ones. This does not show that they are equal on others."
    if d.p_holm is None:
        return f"{where} nothing can be concluded: a single cluster gives no measure of chance."
    interval = (
        "no interval, as all clusters changed alike"
        if d.low is None
        else f"95 % interval {d.low:+.1f} to {d.high:+.1f}"
    )
    between = f"({interval}, Holm-adjusted p {_p(d.p_holm)})"
    if d.p_holm < ALPHA:
        verdict = "higher" if d.difference > 0 else "lower"
        return (
            f"{where} B scores {abs(d.difference):.1f} points {verdict} than A {between}: more than chance explains."
        )
    reach = (
        "" if d.detectable is None else f" A true change below about {d.detectable:.1f} points would often be missed."
    )
    if d.clusters < FEWEST:
        reach = f" Fewer than {FEWEST} clusters never show a difference at {100 * ALPHA:.0f} %."
    elif d.low is not None and d.changed < FEW:
        reach += (
            f" Only {d.changed} of the clusters changed: where fewer than {FEW} are to be expected, an interval of "
            "models that are alike covers more than 95 %, wider than it would have to be, and fewer than "
            f"{FEWEST} never show a difference at {100 * ALPHA:.0f} %."
        )
    return (
        f"{where} no difference can be concluded: B - A is {d.difference:+.1f} points {between}.{reach} "
        "This does not show that they are equal."
    )


def _warnings(a: Run, b: Run, pairs: Mapping[str, Sequence[Any]]) -> list[str]:
    found = []
    for name, shared in pairs.items():
        counts = len(a.records[name]), len(b.records[name])
        if len(shared) < max(counts):
            found.append(
                f"{name}: A answered {counts[0]} items, B {counts[1]}; only the {len(shared)} shared ones count"
            )
        if a.info.tasks[name].data_sha256 != b.info.tasks[name].data_sha256:
            found.append(f"{name}: the packed data differ; items are matched by id")
    for only, run in (("A", a.records.keys() - b.records.keys()), ("B", b.records.keys() - a.records.keys())):
        if run:
            found.append(f"only {only} has {', '.join(sorted(run))}; left out")
    if a.info.frames != b.info.frames:
        found.append(f"A was shown {a.info.frames} frames per video, B {b.info.frames}")
    for one, two in ((a.info.preprocessing, b.info.preprocessing), (a.info.decides, b.info.decides)):
        # The model is meant to differ, and the frames were spoken of.
        left, right = (_without(part or {}, ("model", "frames")) for part in (one, two))
        if left != right:
            names = sorted(k for k in left.keys() | right.keys() if left.get(k) != right.get(k))
            found.append(f"settings differ beside the model: {', '.join(names)}")
    return found


def _without(data: Mapping[str, Any], names: Sequence[str]) -> dict[str, Any]:
    return {k: v for k, v in data.items() if k not in names}
