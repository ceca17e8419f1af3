"""The command `python -m vtrap_data benchmark`."""

from __future__ import annotations

import argparse
from pathlib import Path

from vtrap_data.errors import UsageError
from vtrap_data.sources.benchmarks import BENCHMARKS
from vtrap_data.sources.benchmarks.convert import BENCH, convert, summary
from vtrap_data.sources.counts import ACCEPT, finish

EXAMPLES = """\
examples:
  python -m vtrap_data benchmark mme --rows mme-parquet --out source/mme
  python -m vtrap_data pack source/mme/bench.jsonl --out packed/mme --name mme --split test
  python -m vtrap_data benchmark videomme --rows videomme-parquet --media videos --out source/videomme
  python -m vtrap_data pack source/videomme/bench.jsonl --media-root videos --out packed/videomme --name videomme \\
    --split test --store 64
  python -m vtrap_data benchmark mmstar --rows Lin-Chen/MMStar --out source/mmstar
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Arguments of the command."""
    parser.description = (
        "Turn the rows of a benchmark into bench.jsonl, which `pack` reads, and its images into files. Rows are\n"
        "counted: other counts than expected are faults (exit code 1). Nothing is downloaded but rows on the Hub."
    )
    parser.epilog = EXAMPLES
    parser.add_argument("name", choices=tuple(BENCHMARKS), metavar="NAME", help=", ".join(BENCHMARKS))
    parser.add_argument("--rows", required=True, metavar="DIR_OR_HUB_ID", help="parquet or JSON files, or a data set")
    parser.add_argument("--revision", help="commit of the data set on the Hub; default: the known one")
    parser.add_argument("--media", type=Path, metavar="DIR_OR_TAR", help="where the video files are")
    parser.add_argument("--out", type=Path, required=True, metavar="DIR", help="gets bench.jsonl and media/")
    parser.add_argument("--limit", type=int, metavar="N", help="at most N rows per part, for a look")
    parser.add_argument(
        "--circular",
        action="store_true",
        help="ask every multiple-choice question once per rotation of its options (MMBench does so by itself)",
    )
    parser.add_argument(ACCEPT, action="store_true", help="other row counts than expected are no fault")
    parser.add_argument("--json", action="store_true", help="as JSON")


def run(args: argparse.Namespace) -> int:
    """Convert; exit code 1 where row counts are not the expected ones and that was not accepted."""
    if args.limit is not None and args.limit < 1:
        raise UsageError(f"--limit {args.limit} must be at least 1")
    benchmark = BENCHMARKS[args.name]
    done = convert(
        benchmark,
        rows=args.rows,
        out=args.out,
        media=args.media,
        revision=args.revision,
        limit=args.limit,
        circular=args.circular,
    )
    path = args.out / BENCH
    pack = [str(path), "--name", args.name, "--split", "test"]
    if benchmark.media == "video":
        pack += ["--media-root", str(args.media), "--store", "64"]
    return finish(
        summary(done, accepted=args.accept_count),
        wrote=f"{path}: {done.questions} questions",
        done=done,
        wrong=done.wrong_counts,
        of=len(done.parts),
        pack=[*pack, "--out", f"packed/{args.name}"],
        accepted=args.accept_count,
        as_json=args.json,
    )
