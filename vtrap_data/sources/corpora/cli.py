"""The command `python -m vtrap_data corpus`."""

from __future__ import annotations

import argparse
import json
from dataclasses import asdict
from pathlib import Path

from vtrap_data.errors import UsageError
from vtrap_data.sources.corpora.convert import QUESTIONS, convert, summary
from vtrap_data.sources.corpora.table import CORPORA, UNKNOWN
from vtrap_data.sources.counts import ACCEPT, finish

EXAMPLES = """\
examples:
  python -m vtrap_data corpus --list
  python -m vtrap_data corpus llava-video-178k --rows LLaVA-Video-178K --media LLaVA-Video-178K \\
    --subset 0_30_s_nextqa --subset 30_60_s_nextqa --out source/nextqa
  python -m vtrap_data pack source/nextqa/questions.jsonl --media-root LLaVA-Video-178K --out packed/nextqa
  python -m vtrap_data corpus llava-onevision-images --rows lmms-lab/LLaVA-OneVision-Data --revision COMMIT \\
    --limit 5000 --out source/replay
  python -m vtrap_data pack source/replay/questions.jsonl --out packed/replay

The media folder may hold the files themselves or plain tars of them. Compressed tars: gunzip them first.
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Arguments of the command."""
    parser.description = (
        "Turn the annotations of a known corpus into questions.jsonl, which `pack` reads. Rows are counted: other\n"
        "counts than expected are faults (exit code 1). Media are not downloaded, but for images inside the rows."
    )
    parser.epilog = EXAMPLES
    parser.add_argument("name", nargs="?", choices=tuple(CORPORA), metavar="NAME", help=", ".join(CORPORA))
    parser.add_argument("--list", action="store_true", help="the known corpora, their subsets, licences and counts")
    parser.add_argument("--rows", metavar="DIR_OR_HUB_ID", help="annotation files, or a data set")
    parser.add_argument("--revision", help="commit of the data set on the Hub; default: the known one, if any")
    parser.add_argument("--subset", action="append", default=[], help="a part of it, may be repeated (default: all)")
    parser.add_argument("--media", type=Path, metavar="DIR_OR_TAR", help="where the video files are")
    parser.add_argument(
        "--out", type=Path, metavar="DIR", help="gets questions.jsonl, and the images of image corpora"
    )
    parser.add_argument("--limit", type=int, metavar="N", help="at most N rows of each subset, the first ones")
    parser.add_argument(ACCEPT, action="store_true", help="other row counts than expected are no fault")
    parser.add_argument("--json", action="store_true", help="as JSON")


def run(args: argparse.Namespace) -> int:
    """Convert; exit code 1 where row counts are not the expected ones and that was not accepted."""
    if args.list:
        print(json.dumps([asdict(corpus) for corpus in CORPORA.values()], indent=1) if args.json else listing())
        return 0
    for needed in ("name", "rows", "out"):
        if getattr(args, needed) is None:
            raise UsageError(f"give {'a NAME' if needed == 'name' else '--' + needed}, or --list")
    if args.limit is not None and args.limit < 1:
        raise UsageError(f"--limit {args.limit} must be at least 1")
    corpus = CORPORA[args.name]
    done = convert(
        corpus,
        rows=args.rows,
        out=args.out,
        subsets=args.subset,
        media=args.media,
        revision=args.revision,
        limit=args.limit,
    )
    path = args.out / QUESTIONS
    pack = [str(path), "--name", args.name]
    if corpus.media == "video":
        pack += ["--media-root", str(args.media)]
    return finish(
        summary(done, accepted=args.accept_count),
        wrote=f"{path}: {done.rows} rows",
        done=done,
        wrong=done.wrong_counts,
        of=len(done.subsets),
        pack=[*pack, "--out", f"packed/{args.name}"],
        accepted=args.accept_count,
        as_json=args.json,
    )


def listing() -> str:
    """The known corpora as a page of text."""
    lines = []
    for corpus in CORPORA.values():
        lines.append(f"{corpus.name}: {corpus.title} ({', '.join(corpus.ids)})")
        allowed = "may be passed on" if corpus.redistributable else "may not be passed on"
        lines.append(f"  licence {corpus.licence} [{corpus.licence_known}], {allowed}")
        lines.append(f"  {corpus.licence_note}")
        lines.append(f"  columns {', '.join((*corpus.columns, *corpus.optional))} [{corpus.columns_known}]")
        lines.append(f"  commit {corpus.revision or 'not known: from the Hub it needs --revision COMMIT'}")
        lines += [f"  {note}" for note in corpus.notes]
        for subset in corpus.subsets.values():
            about = "about " if subset.known == "viewer" else ""
            rows = UNKNOWN if subset.rows is None else f"{about}{subset.rows}"
            lines.append(f"    {subset.name:<32} {rows:>14} rows [{subset.known}]")
        lines.append("")
    return "\n".join(lines).rstrip()
