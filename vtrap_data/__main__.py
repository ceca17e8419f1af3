"""The command line of the data package: `python -m vtrap_data ...`, also installed as `vtrap-data`."""

from __future__ import annotations

import argparse
import importlib
import io
import json
import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from vtrap_data.command_line import OneLineParser
from vtrap_data.errors import FatalSampleError, SampleError, UsageError, VtrapError, printable, wrong_path
from vtrap_data.interruption import interruption_told

if TYPE_CHECKING:
    from vtrap_data.shards.manifest import Quarantined

# Whatever a subcommand needs is imported inside its function: `--help` answers at once, and decoding workers, which
# import this module again, stay light.

EPILOG = """\
examples:
  python -m vtrap_data pack questions.jsonl --out corpus               pack with hybrid budgets, 16 frames on average
  python -m vtrap_data pack questions.jsonl --out corpus --store 64    ... that can also be read at 8, 16, 32 or 64
  python -m vtrap_data pack questions.jsonl --out corpus --fit qwen2.5-vl-7b  ... frames at the size that model takes
  python -m vtrap_data doctor corpus                                   check every byte of it
  python -m vtrap_data stats corpus                                    what is inside
  python -m vtrap_data duplicates corpus --distance 30                 media that look alike
  python -m vtrap_data preview corpus --out preview.html               see the frames that each question gets
  python -m vtrap_data allocation corpus                               compare the strategies on it
  python -m vtrap_data budget corpus --out corpus8 --strategy fixed:8  other budgets, without touching video
  python -m vtrap_data contamination corpus packed/videomme            does it hold what a benchmark asks about?
  python -m vtrap_data push corpus me/corpus --dry-run hub             what publishing it would send
exit codes: 0 done, 1 faults found or too many bad samples, 2 wrong use
"""


ELSEWHERE = {
    "toyworld": ("generate the synthetic world with known answers", "vtrap_data.sources.toyworld.cli"),
    "real-media": (
        "fetch a few real clips and photos, with hand-written questions about them",
        "vtrap_data.sources.real_media.cli",
    ),
    "corpus": ("turn the rows of a known instruction corpus into a file to pack", "vtrap_data.sources.corpora.cli"),
    "benchmark": ("turn the rows of one of 19 benchmarks into a file to pack", "vtrap_data.sources.benchmarks.cli"),
    "push": ("publish a packed corpus on the Hub; --dry-run shows it first", "vtrap_data.push"),
    "contamination": ("find media and questions of benchmarks in a corpus", "vtrap_data.shards.contamination"),
}
"""Commands whose arguments are in modules of their own, each loaded only when it is called: summary and module."""

_SHAPE = argparse.RawDescriptionHelpFormatter


def main(argv: Sequence[str] | None = None) -> int:
    """Run one subcommand. Returns the exit code: 0 done, 1 faults found, 2 wrong use."""
    words = sys.argv[1:] if argv is None else list(argv)
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="backslashreplace")  # of a terminal that is not UTF-8, as stderr does by itself
    try:
        with interruption_told():
            args = _parser(words[:1]).parse_args(words)
            code: int = args.run(args)
            sys.stdout.flush()
            return code
    except SystemExit as stop:  # argparse has said what was wrong
        return stop.code if isinstance(stop.code, int) else 2
    except UsageError as error:
        return _fail(error, 2)
    except VtrapError as error:
        return _fail(error, 1)
    except BrokenPipeError:  # the reader of our output (`head`, `less`) has gone
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    except KeyboardInterrupt:
        print("\nvtrap_data: stopped. Run the same command again to go on.", file=sys.stderr)
        return 130
    except OSError as error:
        return _fail(error, 2 if wrong_path(error) else 1)


def _fail(error: Exception, code: int) -> int:
    print(f"vtrap_data: {printable(error)}", file=sys.stderr)
    return code


def _parser(command: Sequence[str]) -> argparse.ArgumentParser:
    """The parser; of the commands in modules of their own only `command` gets its arguments."""
    parser = OneLineParser(
        prog="python -m vtrap_data",
        description="Pack video and image corpora with a frame budget per question, check them, look at them.",
        epilog=EPILOG,
        formatter_class=_SHAPE,
    )
    commands = parser.add_subparsers(metavar="COMMAND", required=True, parser_class=OneLineParser)
    _add_pack(commands)

    doctor = _add(commands, "doctor", "check a packed corpus, byte by byte")
    doctor.add_argument("dir", type=Path, metavar="DIR", help="folder of the corpus")
    doctor.add_argument("--quick", action="store_true", help="do not decode the frames and images")
    doctor.add_argument(
        "--deep",
        metavar="MODEL",
        help="also encode every item as training MODEL would (a name or a folder), and compare token counts",
    )
    doctor.add_argument("--json", action="store_true", help="faults as JSON")
    doctor.set_defaults(run=_doctor)

    stats = _add(commands, "stats", "what is in a packed corpus: counts, histograms, frames used")
    stats.add_argument("dir", type=Path, metavar="DIR", help="folder of the corpus")
    stats.add_argument("--json", action="store_true", help="as JSON")
    stats.add_argument("--png", type=Path, metavar="FILE", help="write the histograms as a picture, too")
    stats.set_defaults(run=_stats)

    near = _add(commands, "duplicates", "media of a packed corpus that look alike")
    near.add_argument("dir", type=Path, metavar="DIR", help="folder of the corpus")
    near.add_argument("--distance", type=int, default=20, help="bits of 256 that may differ (default: %(default)s)")
    near.add_argument("--json", action="store_true", help="as JSON")
    near.set_defaults(run=_duplicates)

    preview = _add(commands, "preview", "an HTML page with the very frames that each question gets")
    preview.add_argument("dir", type=Path, metavar="DIR", help="folder of the corpus")
    preview.add_argument("--out", type=Path, help="the page (default: DIR/preview.html)")
    preview.add_argument("--limit", type=int, default=50, help="media items on the page (default: %(default)s)")
    preview.set_defaults(run=_preview)

    allocation = _add(commands, "allocation", "what every strategy would give a packed corpus")
    allocation.add_argument("dir", type=Path, metavar="DIR", help="folder of the corpus")
    allocation.add_argument("--mean-frames", type=float, help="mean budget to hit (default: that of the corpus)")
    allocation.add_argument("--scorer", choices=("lexical", "embedding"), help="(default: that of the corpus)")
    allocation.add_argument("--json", action="store_true", help="as JSON")
    allocation.set_defaults(run=_allocation)

    budget = _add(commands, "budget", "give a packed corpus other budgets, without touching video")
    budget.add_argument("dir", type=Path, metavar="SRC", help="folder of the corpus")
    budget.add_argument("--out", type=Path, required=True, metavar="DST", help="folder of the new corpus")
    budget.add_argument(
        "--strategy", required=True, help="hybrid, instruction, coverage, random, fixed:N; with --model: loss or vlm"
    )
    budget.add_argument("--mean-frames", type=float, help="mean budget to hit (default: that of SRC)")
    budget.add_argument("--scorer", choices=("lexical", "embedding"), help="(default: that of SRC)")
    budget.add_argument("--seed", type=int, help="(default: that of SRC)")
    budget.add_argument("--name", help="name of the new corpus (default: that of SRC)")
    budget.add_argument("--missing", type=Path, metavar="FILE", help="list all items whose frames are not stored here")
    budget.add_argument("--model", help="what loss and vlm ask: a named model, a folder or a Hub id")
    budget.add_argument(
        "--base-url",
        metavar="URL",
        help="vlm: ask MODEL of a server that speaks OpenAI's protocol, such as http://127.0.0.1:8000/v1",
    )
    budget.add_argument("--concurrency", type=int, help="questions that the server is asked at a time (default: 16)")
    budget.add_argument(
        "--timeout", type=float, help="seconds until an unanswered question is asked again (default: 600)"
    )
    budget.add_argument(
        "--delta", type=float, help="loss: how much worse than at the best budget, nats per token (default: 0.05)"
    )
    budget.set_defaults(run=_budget)

    for name, (summary, module) in ELSEWHERE.items():
        other = commands.add_parser(name, help=summary, formatter_class=_SHAPE)
        if command == [name]:
            cli = importlib.import_module(module)
            cli.add_arguments(other)
            other.set_defaults(run=cli.run)
    return parser


def _add(commands: Any, name: str, summary: str) -> argparse.ArgumentParser:
    """A command whose help ends with those of the examples that are about it."""
    own = [line for line in EPILOG.splitlines() if f"vtrap_data {name} " in line]
    parser: argparse.ArgumentParser = commands.add_parser(
        name, help=summary, epilog="\n".join(["examples:", *own]), formatter_class=_SHAPE
    )
    return parser


def _add_pack(commands: Any) -> None:
    pack = _add(commands, "pack", "pack a JSONL file and its media into shards")
    pack.description = (
        "Pack a JSONL file (LLaVA conversations or messages) and its media. A killed pack goes on where it stopped "
        "when it is run again."
    )
    pack.add_argument("source", type=Path, metavar="SOURCE.jsonl", help="rows; a .json file holds one array of them")
    pack.add_argument("--out", type=Path, required=True, metavar="DIR", help="folder of the corpus")
    pack.add_argument(
        "--media-root",
        type=Path,
        help="where media paths start: a folder (files may lie in tars in it) or a tar (default: that of SOURCE)",
    )
    pack.add_argument("--name", help="name of the corpus (default: that of the file)")
    pack.add_argument("--description", default="", help="a sentence for the dataset card")
    pack.add_argument("--split", default="train", help="(default: %(default)s)")
    pack.add_argument(
        "--strategy", default="hybrid", help="hybrid, instruction, coverage, random or fixed:N (default: %(default)s)"
    )
    pack.add_argument("--budgets", type=_budgets, default=(8, 16, 32, 64), help="candidates (default: 8,16,32,64)")
    pack.add_argument(
        "--mean-frames", type=float, default=16, help="mean budget over the video items (default: %(default)s)"
    )
    pack.add_argument("--slots", type=int, default=64, help="candidate frames per video (default: %(default)s)")
    pack.add_argument("--store", type=int, help="keep the frames of this budget for every video, to read it at others")
    pack.add_argument("--short-side", type=int, default=448, help="of stored frames, in pixels (default: %(default)s)")
    pack.add_argument(
        "--fit",
        metavar="MODEL",
        help="then to the size at which MODEL takes frames as they are (a name or a folder; Qwen families), so that "
        "training does not scale them again",
    )
    pack.add_argument(
        "--scorer",
        choices=("auto", "lexical", "embedding"),
        default="auto",
        help="what reads the questions: lists of cues, or a sentence-embedding model beside them "
        "(default: embedding where its package is installed, said in a line)",
    )
    pack.add_argument("--seed", type=int, default=0, help="of the random strategy (default: %(default)s)")
    pack.add_argument("--workers", type=int, help="decoding processes; 0: none beside this (default: one per core)")
    pack.add_argument(
        "--executor",
        choices=("processes", "ray"),
        default="processes",
        help="where to decode: on this machine or on a Ray cluster (default: %(default)s)",
    )
    pack.add_argument("--ray-address", help="of the cluster (default: $RAY_ADDRESS, else one on this machine)")
    pack.add_argument(
        "--file-timeout",
        type=float,
        default=300,
        metavar="SECONDS",
        help="set a sample aside when reading its media takes longer (default: %(default)s)",
    )
    pack.add_argument(
        "--worker-memory",
        type=float,
        default=4,
        metavar="GIB",
        help="set a sample aside when decoding it takes more, per worker (default: %(default)s)",
    )
    pack.add_argument("--samples-per-shard", type=int, default=512, help="media items per tar (default: %(default)s)")
    pack.add_argument("--shard-bytes", type=int, help="bytes per tar, at most (default: no limit)")
    pack.add_argument("--shard-tokens", type=int, help="visual tokens per tar, at most (default: no limit)")
    pack.add_argument(
        "--max-quarantine-rate", type=float, default=0.1, help="share of bad samples to accept (default: %(default)s)"
    )
    pack.add_argument(
        "--keep-truncated",
        action="store_true",
        help="pack of a video that breaks off what can be read, and note it (default: set it aside)",
    )
    pack.add_argument("--synthetic", action="store_true", help="the media were drawn by a program: the card says so")
    pack.set_defaults(run=_pack)


def _budgets(text: str) -> tuple[int, ...]:
    try:
        return tuple(int(part) for part in text.split(","))
    except ValueError:
        raise argparse.ArgumentTypeError(f"must be numbers with commas, such as 8,16,32,64, not {text!r}") from None


def _pack(args: argparse.Namespace) -> int:
    from dataclasses import replace

    from vtrap_data.budgets.allocate import fixed_budget, reads_questions
    from vtrap_data.budgets.demand import PACKAGE, best_scorer
    from vtrap_data.shards.manifest import MANIFEST, PackSettings
    from vtrap_data.shards.pack import check_settings, pack
    from vtrap_data.sources.jsonl import read_jsonl

    settings = PackSettings(
        name=args.name or args.source.stem,
        description=args.description,
        split=args.split,
        strategy=args.strategy,
        budgets=args.budgets,
        mean_frames=args.mean_frames,
        slots=args.slots,
        store=args.store,
        short_side=args.short_side,
        scorer="lexical" if args.scorer == "auto" else args.scorer,
        seed=args.seed,
        samples_per_shard=args.samples_per_shard,
        shard_bytes=args.shard_bytes,
        shard_tokens=args.shard_tokens,
        max_quarantine_rate=args.max_quarantine_rate,
        keep_truncated=args.keep_truncated,
        synthetic=args.synthetic,
        file_timeout=args.file_timeout,
        worker_memory=args.worker_memory,
        workers=_workers(args),
        executor=args.executor,
        ray_address=args.ray_address,
    )
    check_settings(settings)
    corpus = read_jsonl(args.source, media_root=args.media_root, name=args.name)
    if args.scorer == "auto" and reads_questions(args.strategy) and any(s.kind == "video" for s in corpus.samples):
        settings = replace(settings, scorer=best_scorer())
        how = f"install {PACKAGE} for embeddings" if settings.scorer == "lexical" else "cues alone: --scorer lexical"
        print(f"questions are read by --scorer {settings.scorer} ({how})", file=sys.stderr)
    if args.fit is not None:
        from vtrap_data.encoding import fit_of, load_processor, resolve

        most = max(*args.budgets, args.store or 0, fixed_budget(args.strategy) or 0)
        fit = fit_of(load_processor(resolve(args.fit)), model=args.fit, frames=most)
        settings = replace(settings, fit=fit)
        how = f"multiples of {fit.multiple}, up to {fit.most} pixels"
        print(f"frames are stored at a size that {args.fit} takes as it is: {how}", file=sys.stderr)
    finished = (args.out / MANIFEST).exists()
    try:
        manifest = pack(corpus.samples, args.out, settings=settings, rejected=corpus.rejected)
    except FatalSampleError as error:
        if len(error.bad) > 1:  # or its message says it all
            _print_bad(error.bad, more="")
        raise
    counts = manifest.counts
    print(
        f"{args.out}: {'already packed, nothing to do: ' if finished else ''}{counts['items']} items about "
        f"{counts['samples']} samples in {len(manifest.shards)} shards, {counts['bytes'] / 1e6:.1f} MB"
    )
    if counts["items_video"]:
        print(f"frames per video item: {counts['frames_used'] / counts['items_video']:.2f} on average")
    if manifest.duplicates:
        print(f"{len(manifest.duplicates)} samples joined others that have the same media, see {MANIFEST}")
    for note in manifest.notes[:5]:
        print(printable(f"note: {note.sample}: {note.detail}"), file=sys.stderr)
    if len(manifest.notes) > 5:
        print(f"... and {len(manifest.notes) - 5} more notes, see {MANIFEST}", file=sys.stderr)
    _print_bad(manifest.quarantine, more=f", see {MANIFEST}")
    return 0


def _print_bad(samples: Sequence[SampleError | Quarantined], *, more: str) -> None:
    for bad in samples[:20]:
        print(printable(f"set aside: {bad.sample}: {bad.reason}: {bad.detail}"), file=sys.stderr)
    if len(samples) > 20:
        print(f"... and {len(samples) - 20} more{more}", file=sys.stderr)


def _workers(args: argparse.Namespace) -> int:
    if args.workers is None:
        return 0 if args.executor == "ray" else len(os.sched_getaffinity(0))  # 0 on a cluster: all of its cores
    return int(args.workers)


def _doctor(args: argparse.Namespace) -> int:
    from dataclasses import asdict

    from vtrap_data.shards.doctor import doctor

    if args.deep is None:
        faults = doctor(args.dir, quick=args.quick)
    elif args.quick:
        raise UsageError("--quick and --deep exclude each other")
    else:
        from vtrap_data.encoding import load_processor, resolve
        from vtrap_data.encoding.check import deep_doctor

        processor = load_processor(resolve(args.deep))  # before the long part: a wrong name is said at once
        faults = deep_doctor(args.dir, processor)
    if args.json:
        print(json.dumps({"dir": str(args.dir), "quick": args.quick, "faults": [asdict(f) for f in faults]}, indent=1))
    else:
        for fault in faults:
            print(printable(f"{fault.kind.value}: {fault.where}: {fault.detail}"))
        print(f"{args.dir}: {len(faults)} faults" if faults else f"{args.dir}: sound")
    return 1 if faults else 0


def _stats(args: argparse.Namespace) -> int:
    from vtrap_data.shards.stats import as_text, stats

    facts = stats(args.dir)
    if args.png is not None:
        from vtrap_data.shards.figure import draw

        draw(facts, args.png)
    print(json.dumps(facts, indent=1) if args.json else as_text(facts))
    return 0


def _duplicates(args: argparse.Namespace) -> int:
    from dataclasses import asdict

    from vtrap_data.shards.duplicates import near_duplicates

    found = near_duplicates(args.dir, distance=args.distance)
    if found.unreadable:
        listed = ", ".join(found.unreadable[:3])
        said = f"{len(found.unreadable)} media could not be read and were compared by their files only ({listed})"
        print(printable(f"{said}: run `doctor`"), file=sys.stderr)
    if args.json:
        print(json.dumps([asdict(group) for group in found.groups], indent=1))
        return 0
    for group in found.groups:
        print(printable(f"{'same file' if group.exact else 'alike'}: {', '.join(group.samples)}"))
    print(f"{args.dir}: {len(found.groups)} groups of media that look alike")
    return 0


def _preview(args: argparse.Namespace) -> int:
    from vtrap_data.shards.preview import preview

    out = args.out or args.dir / "preview.html"
    shown = preview(args.dir, out, limit=args.limit)
    print(printable(f"{out}: {shown} media items, {out.stat().st_size / 1e6:.1f} MB"))
    return 0


def _allocation(args: argparse.Namespace) -> int:
    from dataclasses import asdict

    from vtrap_data.shards.allocation import as_text, compare_strategies

    outcomes = compare_strategies(args.dir, mean_frames=args.mean_frames, scorer=args.scorer)
    print(json.dumps([asdict(outcome) for outcome in outcomes], indent=1) if args.json else as_text(outcomes))
    return 0


def _budget(args: argparse.Namespace) -> int:
    from vtrap_data.budgets.allocate import DELTA, JUDGED
    from vtrap_data.shards.reallocate import reallocate

    judge = None
    if args.base_url is not None and args.strategy != "vlm":
        raise UsageError(f"--base-url is for --strategy vlm, not for {args.strategy}")
    if args.base_url is None and (args.concurrency is not None or args.timeout is not None):
        raise UsageError("--concurrency and --timeout are for a server: give its --base-url")
    if args.base_url is not None:
        from vtrap_data.encoding.served_judge import served_judge

        more = {name: getattr(args, name) for name in ("concurrency", "timeout") if getattr(args, name) is not None}
        judge = served_judge(args.base_url, model=args.model, **more)
    elif args.strategy in JUDGED and args.model is not None:
        from vtrap_data.encoding.judge import load_judge

        judge = load_judge(args.model, strategy=args.strategy)
    elif args.strategy in JUDGED or args.model is not None or (args.delta is not None and args.strategy != "loss"):
        raise UsageError(
            f"--strategy {args.strategy}: loss and vlm need --model, no other takes it; --delta is for loss"
        )
    manifest = reallocate(
        args.dir,
        args.out,
        strategy=args.strategy,
        mean_frames=args.mean_frames,
        scorer=args.scorer,
        seed=args.seed,
        name=args.name,
        judge=judge,
        delta=DELTA if args.delta is None else args.delta,
        missing=args.missing,
    )
    counts = manifest.counts
    print(
        f"{args.out}: {counts['items']} items, {args.strategy}, "
        f"{counts['frames_used'] / max(1, counts['items_video']):.2f} frames per video item on average"
    )
    return 0


if __name__ == "__main__":
    sys.exit(main())
