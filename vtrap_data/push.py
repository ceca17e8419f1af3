"""`push`: what of a packed corpus would go to the Hub, and may it? So far the dry run only."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from hub_cards.publish import list_uploads, render
from vtrap_data.errors import UsageError
from vtrap_data.shards.card import dataset_facts
from vtrap_data.shards.index import read_index
from vtrap_data.shards.manifest import DATA, INDEX, MANIFEST, read_manifest

NOT_BUILT = "publishing to the Hub itself is not built yet: add --dry-run OUT to render what would be published"

EXAMPLE = """\
example:
  python -m vtrap_data push corpus vtrap/video-sft-hybrid --dry-run runs/hub    then open runs/hub/index.html
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of `python -m vtrap_data push`."""
    parser.description = "Render the card of a packed corpus and list what publishing it would send."
    parser.epilog = EXAMPLE
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.add_argument("dir", type=Path, metavar="DIR", help="folder of the corpus")
    parser.add_argument("id", metavar="ID", help="owner/name on the Hub")
    parser.add_argument("--dry-run", type=Path, metavar="OUT", help="render into this folder, send nothing")


def run(args: argparse.Namespace) -> int:
    """Run `python -m vtrap_data push`. Returns the exit code; a corpus that would be refused is no fault of a dry run.

    Raises:
        UsageError: The corpus cannot be read, the id is none, or it is no dry run.
    """
    if args.dry_run is None:
        raise UsageError(NOT_BUILT)
    root: Path = args.dir
    manifest = read_manifest(root)
    rows = read_index(root).to_pylist()
    uploads = [u for u in list_uploads(root) if u.path in (MANIFEST, INDEX) or u.path.startswith(f"{DATA}/")]
    try:
        parts = render(args.dry_run, dataset=dataset_facts(manifest, rows, repo_id=args.id), dataset_files=uploads)
    except ValueError as error:
        raise UsageError(str(error)) from error
    for reason in parts["dataset"].blocked:
        print(f"would be refused: {reason}", file=sys.stderr)
    print(f"{args.dry_run / 'index.html'}: what publishing {args.id} would send")
    return 0
