"""`push`: what of a packed corpus goes to the Hub, may it, and did it arrive?"""

from __future__ import annotations

import argparse
from pathlib import Path

from hub_cards.dataset_card import DatasetFacts, dataset_card, refuse_reasons
from hub_cards.dry_run import Upload, render
from hub_cards.eval_results import EVAL_YAML, eval_yaml, task_ids
from vtrap_data.errors import UsageError
from vtrap_data.push_command import add_push_arguments, say_rendered, send
from vtrap_data.shards.card import dataset_facts
from vtrap_data.shards.index import read_index
from vtrap_data.shards.manifest import DATA, INDEX, MANIFEST, README, Manifest, read_manifest

EXAMPLES = """\
examples:
  python -m vtrap_data push corpus vtrap/video-sft-hybrid --dry-run runs/hub    then open runs/hub/index.html
  python -m vtrap_data push corpus vtrap/video-sft-hybrid --tag v1              publish: needs `hf auth login`

It uploads to a pull request, loads every row back with stock `datasets`, merges and tags. Interrupted, it goes on when
it is run again. Readers of the dataset never see half of it.
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of `python -m vtrap_data push`."""
    add_push_arguments(
        parser,
        description="Publish a packed corpus on the Hub, or render its card and list what would be sent.",
        examples=EXAMPLES,
        folder="folder of the corpus",
    )


def run(args: argparse.Namespace) -> int:
    """Run `python -m vtrap_data push`. Returns the exit code.

    Raises:
        UsageError: The corpus cannot be read or may not be published, or the Hub refuses it.
        VtrapError: Publishing did not get through.
    """
    root: Path = args.dir
    manifest = read_manifest(root)
    facts = dataset_facts(manifest, read_index(root), repo_id=args.id)
    if args.dry_run is None:
        return _publish(root, manifest, facts, tag=args.tag, private=args.private)
    uploads = [Upload(name, path.stat().st_size) for name, path in sorted(_files(root, manifest).items())]
    try:
        parts = render(args.dry_run, dataset=facts, dataset_files=uploads, eval_yaml=benchmark_yaml(manifest, facts))
    except ValueError as error:
        raise UsageError(str(error)) from error
    return say_rendered(args.dry_run, what=f"publishing {args.id}", blocked=parts["dataset"].blocked)


def _publish(root: Path, manifest: Manifest, facts: DatasetFacts, *, tag: str | None, private: bool) -> int:
    from hub_cards.publishing import Publication
    from hub_cards.verifying import ReadBack
    from vtrap_data.shards.doctor import doctor

    if reasons := refuse_reasons(facts):
        raise UsageError(f"{root} may not be published: {' '.join(reasons)}")
    if faults := doctor(root, quick=True):
        raise UsageError(
            f"{root} is damaged ({len(faults)} faults, the first in {faults[0].where}: {faults[0].detail}): see "
            f"`python -m vtrap_data doctor {root}`"
        )
    tasks = benchmark_yaml(manifest, facts)
    return send(
        Publication(
            repo_id=str(facts.repo_id),
            repo_type="dataset",
            files={
                README: dataset_card(facts).encode(),
                **({} if tasks is None else {EVAL_YAML: tasks.encode()}),
                **_files(root, manifest),
            },
            owned=(f"{DATA}/*", EVAL_YAML),
            marker=MANIFEST,
            read_back=ReadBack("hub_cards.readback", ("dataset",), local=root),
            tag=tag,
            private=private,
        )
    )


def _files(root: Path, manifest: Manifest) -> dict[str, Path]:
    """What is sent as it lies in the folder, by its path in the repository."""
    return {name: root / name for name in (MANIFEST, INDEX, *(shard.path for shard in manifest.shards))}


def benchmark_yaml(manifest: Manifest, facts: DatasetFacts) -> str | None:
    """The `eval.yaml` of a benchmark, with a board for each number that `vtrap_bench submit` may send; else None."""
    if not facts.benchmark:
        return None
    settings = manifest.settings
    ids = task_ids(settings.name, settings.budgets if facts.kinds.get("video") else ())
    return eval_yaml(
        name=facts.pretty_name,
        description=facts.description or f"{facts.n_items} questions about {facts.n_samples} samples.",
        tasks=[(task, "default", settings.split) for task in ids],
    )
