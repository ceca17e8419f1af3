"""Do two runs answer the same items with the same tokens? The command `python -m vtrap_bench parity`.

For one model behind two backends (or dtypes, or machines): what differs, item by item, and why.
"""

from __future__ import annotations

import argparse
import json
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from vtrap_bench.backends import Step
from vtrap_bench.backends.tokens import TOKENS, read_tokens
from vtrap_bench.finished import Run, read_run
from vtrap_bench.records import Record
from vtrap_data.encoding.manifest import differences
from vtrap_data.errors import UsageError, printable_lines
from vtrap_data.parsing import finite

PARITY_FORMAT = 1
TOLERANCE = 1e-4
"""In natural log-probability: what float32 allows."""

EXAMPLES = """\
examples:
  python -m vtrap_bench parity runs/transformers runs/vllm
  python -m vtrap_bench parity runs/float32 runs/bfloat16 --tolerance 0.1 --json

exit code: 0 the runs agree within the tolerance, 1 they differ, 2 wrong use
"""


@dataclass(frozen=True, slots=True, kw_only=True)
class ItemParity:
    """One item in both runs.

    Attributes:
        task: Name of the task.
        item_id: Of the item.
        verdict: "same": same text and tokens, log-probabilities within the tolerance. "tie": other tokens from a
            place on where both were equally likely within twice the tolerance. "logprobs": same tokens, but
            log-probabilities differ by more. "text": same answer, but no tokens to compare. "differs": the rest.
        same_text: Whether the responses are equal.
        tokens: Tokens compared, up to the first that differs.
        max_logprob_difference: Over these; None if there are none.
        first_difference: Number of the first token that differs; None if none does.
        token_a: Its id in A; None if A's answer had ended.
        token_b: In B.
        gap: How much likelier A found its own token there than B's, in log-probability; None if that is not known.
        why: The explanation; "" if there is nothing to explain.
    """

    task: str
    item_id: str
    verdict: str
    same_text: bool
    tokens: int
    max_logprob_difference: float | None
    first_difference: int | None
    token_a: int | None
    token_b: int | None
    gap: float | None
    why: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Parity:
    """Two runs, compared token by token.

    Attributes:
        a: Folder of A.
        b: Folder of B.
        tolerance: In log-probability.
        settings: Settings in which the runs differ.
        only_a: Items that only A answered.
        only_b: Items that only B answered.
        verdicts: Items by verdict.
        max_logprob_difference: Over all items; None if no tokens were compared.
        items: Every item that both answered.
    """

    a: str
    b: str
    tolerance: float
    settings: tuple[str, ...]
    only_a: int
    only_b: int
    verdicts: Mapping[str, int]
    max_logprob_difference: float | None
    items: tuple[ItemParity, ...]

    @property
    def agrees(self) -> bool:
        """Whether nothing differs beyond the tolerance."""
        return set(self.verdicts) <= {"same", "tie"} and not self.only_a and not self.only_b


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Arguments of the command."""
    parser.description = "Compare the answers of two finished runs token by token, and explain what differs."
    parser.epilog = EXAMPLES
    parser.add_argument("a", type=Path, metavar="A", help="folder of a run")
    parser.add_argument("b", type=Path, metavar="B", help="folder of a run of the same model on the same items")
    parser.add_argument(
        "--tolerance",
        type=float,
        default=TOLERANCE,
        help="largest difference in log-probability (default: %(default)s)",
    )
    parser.add_argument("--show", type=int, default=20, metavar="N", help="items to explain (default: %(default)s)")
    parser.add_argument("--json", action="store_true", help="everything as JSON")


def run(args: argparse.Namespace) -> int:
    """Compare; exit code 1 if the runs differ beyond the tolerance."""
    if not args.tolerance >= 0:
        raise UsageError(f"--tolerance {args.tolerance:g} must be 0 or more")
    if args.show < 0:
        raise UsageError(f"--show {args.show} must be 0 or more")
    found = parity(args.a, args.b, tolerance=args.tolerance)
    if args.json:
        whole = {"format": PARITY_FORMAT, "agrees": found.agrees, **asdict(found)}
        print(json.dumps(finite(whole), indent=1, ensure_ascii=False, allow_nan=False))
    else:
        print(printable_lines(text(found, show=args.show)))
    return 0 if found.agrees else 1


def parity(a: Path, b: Path, *, tolerance: float = TOLERANCE) -> Parity:
    """Compare two finished runs.

    Raises:
        UsageError: A folder holds no finished run, or the runs share no items.
    """
    one, two = read_run(a), read_run(b)
    left, right = _by_item(one), _by_item(two)
    shared = sorted(left.keys() & right.keys())
    if not shared:
        raise UsageError(f"{a} and {b} share no items: score the same tasks in both")
    settings = _settings(one, two)
    tokens_a, tokens_b = read_tokens(a / TOKENS), read_tokens(b / TOKENS)
    items = tuple(
        _item(
            left[key],
            right[key],
            tokens_a.get(left[key].key, ()),
            tokens_b.get(right[key].key, ()),
            settings=settings,
            tolerance=tolerance,
        )
        for key in shared
    )
    worst = [i.max_logprob_difference for i in items if i.max_logprob_difference is not None]
    return Parity(
        a=str(a),
        b=str(b),
        tolerance=tolerance,
        settings=settings,
        only_a=len(left.keys() - right.keys()),
        only_b=len(right.keys() - left.keys()),
        verdicts=dict(sorted(Counter(i.verdict for i in items).items())),
        max_logprob_difference=max(worst, default=None),
        items=items,
    )


def text(found: Parity, *, show: int) -> str:
    """The comparison for a person."""
    worst = found.max_logprob_difference
    lines = [
        f"{found.a} and {found.b}: {len(found.items)} items, "
        + ", ".join(f"{n} {verdict}" for verdict, n in found.verdicts.items()),
        "largest difference in log-probability: "
        + ("not known (a run has no tokens)" if worst is None else f"{worst:.2g} (tolerance {found.tolerance:g})"),
    ]
    if found.only_a or found.only_b:
        lines.append(f"answered in one run only: {found.only_a} in A, {found.only_b} in B")
    lines += [f"other setting: {setting}" for setting in found.settings]
    explained = [i for i in found.items if i.verdict != "same"]
    for item in explained[:show]:
        place = "" if item.first_difference is None else f", token {item.first_difference}: "
        place += "" if item.first_difference is None else f"{_token(item.token_a)} against {_token(item.token_b)}"
        lines.append(f"  {item.task} {item.item_id}: {item.verdict}{place}: {item.why}")
    if len(explained) > show:
        lines.append(f"  and {len(explained) - show} more (--show)")
    lines.append("They agree within the tolerance." if found.agrees else "They differ.")
    return "\n".join(lines)


def _item(
    a: Record, b: Record, left: Sequence[Step], right: Sequence[Step], *, settings: Sequence[str], tolerance: float
) -> ItemParity:
    alike = 0
    while alike < min(len(left), len(right)) and left[alike].token == right[alike].token:
        alike += 1
    worst = max((abs(p.logprob - q.logprob) for p, q in zip(left[:alike], right[:alike], strict=True)), default=None)
    first = None if alike == len(left) == len(right) else alike
    token_a = left[alike].token if first is not None and alike < len(left) else None
    token_b = right[alike].token if first is not None and alike < len(right) else None
    gap = None
    if first is not None and token_a is not None and left[alike].runner_up == token_b:
        gap = left[alike].logprob - left[alike].runner_up_logprob
    same_text = a.response == b.response
    close = worst is None or worst <= tolerance
    if not left or not right:
        verdict, first, token_a, token_b = ("text" if same_text else "differs"), None, None, None
    elif first is None and same_text:
        verdict = "same" if close else "logprobs"
    elif close and gap is not None and gap <= 2 * tolerance:
        verdict = "tie"
    else:
        verdict = "differs"
    why = "" if verdict == "same" else _why(a, b, verdict, worst, gap, settings, tolerance)
    return ItemParity(
        task=a.task,
        item_id=a.item_id,
        verdict=verdict,
        same_text=same_text,
        tokens=alike,
        max_logprob_difference=worst,
        first_difference=first,
        token_a=token_a,
        token_b=token_b,
        gap=gap,
        why=why,
    )


def _why(
    a: Record,
    b: Record,
    verdict: str,
    worst: float | None,
    gap: float | None,
    settings: Sequence[str],
    tolerance: float,
) -> str:
    """The first explanation that holds, from what the model was shown to how it was computed."""
    if verdict == "tie":
        return f"both tokens were equally likely to within {gap:.1g}; the rest follows from that"
    if (a.question, a.options) != (b.question, b.options):
        return "the questions are not the same"
    if a.frame_times != b.frame_times:
        return f"other frames: {a.n_frames} in A, {b.n_frames} in B, or at other times"
    if a.visual_tokens != b.visual_tokens:
        return f"other pixels: {a.visual_tokens} visual tokens in A, {b.visual_tokens} in B (size of the frames)"
    if a.prompt_tokens != b.prompt_tokens:
        return f"another prompt: {a.prompt_tokens} tokens in A, {b.prompt_tokens} in B"
    if verdict == "text":
        return "same text; a run recorded no tokens, so there is nothing more to compare"
    for name, meaning in (
        ("model", "not the same weights"),
        ("preprocessing.position_rule", "positions are numbered by another rule"),
        ("preprocessing", "other preprocessing"),
        ("videos", "a video was sent as single images"),
        ("profile", "other prompts"),
        ("max_new_tokens", "other longest answer"),
        ("dtype", "other number format: bfloat16 moves log-probabilities by some hundredths, float16 by less"),
    ):
        if said := next((s for s in settings if s.startswith(name)), None):
            return f"{meaning} ({said})"
    if worst is not None and worst > tolerance:
        return f"log-probabilities differ by {worst:.2g} before any token does, though no setting does: positions?"
    near = "" if gap is None else f" A found its own likelier by {gap:.2g}."
    return f"nothing in the settings explains it.{near}"


def _settings(a: Run, b: Run) -> tuple[str, ...]:
    found = differences(dict(a.info.decides), dict(b.info.decides))
    for name in ("preprocessing", "versions"):
        one, two = (dict(getattr(run.info, name) or {}) for run in (a, b))
        found += [f"{name}.{d}" for d in differences(one, two)]
    for task in sorted(a.info.tasks.keys() & b.info.tasks.keys()):
        longest = [run.info.tasks[task].max_new_tokens for run in (a, b)]
        if longest[0] != longest[1]:
            found.append(f"max_new_tokens of {task}: {longest[0]} != {longest[1]}")
    return tuple(found)


def _by_item(run: Run) -> dict[tuple[str, str], Record]:
    return {(r.task, r.item_id): r for records in run.records.values() for r in records.values()}


def _token(token: int | None) -> str:
    return "the end" if token is None else str(token)
