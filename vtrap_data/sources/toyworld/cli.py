"""The command `python -m vtrap_data toyworld`."""

from __future__ import annotations

import argparse
from pathlib import Path

from vtrap_data.errors import UsageError
from vtrap_data.sources.toyworld.generate import MOST, Recipe, generate
from vtrap_data.sources.toyworld.questions import SLOTS

EXAMPLES = """\
examples:
  python -m vtrap_data toyworld videos --count 100 --out toy                   clips with questions to learn from
  python -m vtrap_data toyworld videos --slots 64 --count 100 --out long       ... the hardest of which take 64 frames
  python -m vtrap_data toyworld images --purpose bench --count 50 --out bench  pictures with questions to score
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Arguments of the command."""
    parser.description = "Generate a synthetic corpus of real JPEG or H.264 files with questions of known truth."
    parser.epilog = EXAMPLES
    parser.add_argument("kind", choices=("images", "videos"))
    parser.add_argument(
        "--out", type=Path, required=True, metavar="DIR", help="gets media/ and train.jsonl or bench.jsonl"
    )
    parser.add_argument(
        "--purpose",
        choices=("train", "bench"),
        default="train",
        help="bench leaves the answers out of the conversation",
    )
    parser.add_argument(
        "--count",
        type=int,
        default=1000,
        metavar="N",
        help="media files (default: %(default)s); a clip has 2 questions, an image 1",
    )
    parser.add_argument(
        "--slots",
        type=int,
        choices=(16, 32, 64, 128),
        default=SLOTS,
        help="frames that the hardest questions about a clip take (default: %(default)s)",
    )
    parser.add_argument("--seed", type=int, default=0, help="default: %(default)s")
    parser.add_argument("--workers", type=int, default=0, metavar="N", help="processes (default: in this one)")


def run(args: argparse.Namespace) -> int:
    """Generate; exit code 0."""
    if not 1 <= args.count <= MOST:
        raise UsageError(f"--count {args.count} must be at least 1, and {MOST} at most")
    if args.seed < 0 or args.workers < 0:
        raise UsageError(f"--seed {args.seed} and --workers {args.workers} must be 0 or more")
    if args.kind == "images" and args.slots != SLOTS:
        raise UsageError(f"--slots {args.slots} is for videos")
    recipe = Recipe(kind=args.kind, purpose=args.purpose, count=args.count, seed=args.seed, slots=args.slots)
    path = generate(recipe, args.out, workers=args.workers)
    print(path)
    return 0
