"""What would others' rules of reading have made of these answers? The command `python -m vtrap_bench rescore`.

Nothing is asked again and nothing is written: the responses of a finished run are read once more by the rules of
lmms-eval or VLMEvalKit (`vtrap_bench.compat`), so that a difference from a published table can be traced to its cause.
"""

from __future__ import annotations

import argparse
import json
import statistics
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from vtrap_bench.compat import RULES
from vtrap_bench.finished import read_run
from vtrap_bench.records import Record
from vtrap_data.errors import printable

EXAMPLES = """\
examples:
  python -m vtrap_bench rescore runs/7b --rules lmms
  python -m vtrap_bench rescore runs/7b --rules vlmevalkit --json
"""
SHOWN = 5
"""Items listed per task, of those that the two rules score differently."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Arguments of the command."""
    parser.description = "Read the answers of a run by the rules of another harness, beside ours. Writes nothing."
    parser.epilog = EXAMPLES
    parser.add_argument("run", type=Path, metavar="RUN", help="folder of a finished run")
    parser.add_argument("--rules", choices=tuple(RULES), required=True, help="whose rules")
    parser.add_argument("--json", action="store_true", help="as JSON")


def run(args: argparse.Namespace) -> int:
    """Rescore; exit code 0."""
    records = read_run(args.run).records
    found = {task: rescore(task, [*some.values()], args.rules) for task, some in records.items()}
    if args.json:
        print(json.dumps({"rules": args.rules, "tasks": found}, indent=1, ensure_ascii=False))
        return 0
    print(f"  {'':<18}{'ours':>7}{args.rules:>12}{'differ':>8}{'left out':>10}")
    for task, facts in found.items():
        if facts["theirs"] is None:
            print(f"  {task:<18}{facts['ours']:7.1f}{'-':>12}  read as we do, or the rule is not known")
            continue
        print(f"  {task:<18}{facts['ours']:7.1f}{facts['theirs']:12.1f}{facts['differ']:8d}{facts['left_out']:10d}")
        for item in facts["items"]:
            said = f"{item['response'][:50]!r} ours {item['ours']:g}, theirs {item['theirs']}"
            print(f"    {printable(item['item_id'])}: {said}")
    return 0


def rescore(task: str, records: Sequence[Record], rules: str) -> dict[str, Any]:
    """One task by our rules and by theirs.

    Returns:
        JSON: `ours` and `theirs` in points (`theirs` None where no rule is known), `differ`: items that earn another
        credit, `left_out`: items that they leave out of the denominator, and the first few `items` that differ.
    """
    ours = 100 * statistics.fmean(record.score for record in records)
    rule = RULES[rules].get(task)
    if rule is None:
        return {"ours": ours, "theirs": None, "differ": 0, "left_out": 0, "items": []}
    credits = [(record, rule(record)) for record in records]
    counted = [credit.earned for _, credit in credits if credit.earned is not None]
    other = [(record, credit) for record, credit in credits if credit.earned != record.score]
    return {
        "ours": ours,
        "theirs": 100 * statistics.fmean(counted) if counted else 0.0,
        "differ": len(other),
        "left_out": len(records) - len(counted),
        "items": [
            {
                "item_id": record.item_id,
                "response": record.response,
                "answer": record.answer,
                "ours": record.score,
                "theirs": "left out" if credit.earned is None else credit.earned,
                "read_as": credit.said,
            }
            for record, credit in other[:SHOWN]
        ],
    }
