"""`submit`: put the results of a finished run where the Hub's boards find them, and its records where all can check.

The records go to a results dataset, the scores as an open pull request into the model's repository: whoever owns the
model merges it. The same run submitted twice changes nothing.
"""

from __future__ import annotations

import argparse
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hub_cards.dry_run import Results, render
from hub_cards.errors import Failed, Refused
from hub_cards.eval_results import RESULTS_PATH, TaskNumber, eval_results_yaml, merge_eval_results, task_id
from hub_cards.model_card import HUB_ID
from vtrap_bench.changes import Json
from vtrap_bench.finished import Run, read_untouched
from vtrap_bench.records import RUN
from vtrap_bench.run_info import RunInfo, unusual
from vtrap_bench.scores import SCORES, TaskScores
from vtrap_data.errors import UsageError
from vtrap_data.json_object import read_json_object
from vtrap_data.parsing import parse_json
from vtrap_data.push_command import explained, say_rendered
from vtrap_data.trained import SUMMARY

if TYPE_CHECKING:
    from hub_cards.repository import Repository

TITLE = "vtrap results"

EXAMPLE = """\
examples:
  python -m vtrap_bench submit runs/hybrid --model vtrap/toy-vl-hybrid --dry-run runs/hub    look at it first
  python -m vtrap_bench submit runs/hybrid --model vtrap/toy-vl-hybrid                       needs `hf auth login`

The records go to OWNER/vtrap-results (--results), the scores as a pull request to the model. The model on the Hub must
hold the weights that were scored: `python -m vtrap_train push` puts them there.
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of `python -m vtrap_bench submit`."""
    parser.description = "Submit the results of a finished run to the Hub's leaderboards, or render them first."
    parser.epilog = EXAMPLE
    parser.add_argument("run_dir", type=Path, metavar="RUN", help="folder of a finished run")
    parser.add_argument("--model", required=True, metavar="ID", help="owner/name of the model on the Hub")
    parser.add_argument("--benchmarks", default="vtrap", metavar="OWNER", help="whose benchmark datasets on the Hub")
    parser.add_argument(
        "--results",
        metavar="ID",
        help="dataset for the records (default: vtrap-results of the model's owner if you belong to it, else yours)",
    )
    parser.add_argument("--dry-run", type=Path, metavar="OUT", help="render into this folder, send nothing")


def run(args: argparse.Namespace) -> int:
    """Run `python -m vtrap_bench submit`. Returns the exit code.

    Raises:
        UsageError: The run is unfinished or was changed by hand, it is of another model, or the Hub refuses it.
        VtrapError: Submitting did not get through.
    """
    folder: Path = args.run_dir
    found, rows = read_untouched(folder)
    blocked = _blocked(found.info, model=args.model)
    numbers = task_numbers(found, owner=args.benchmarks)
    if args.dry_run is None:
        if blocked:
            raise UsageError(f"{folder} may not be submitted: {' '.join(blocked)}")
        # Published as they are: with what a newer version may have added.
        facts, scores = (read_json_object(folder / name, "run the benchmark again") for name in (RUN, SCORES))
        return explained(lambda: _submit(folder, facts, scores, rows, numbers, model=args.model, results=args.results))
    try:
        render(args.dry_run, results=Results(model_id=args.model, numbers=numbers, blocked=tuple(blocked)))
    except ValueError as error:
        raise UsageError(str(error)) from error
    return say_rendered(args.dry_run, what=f"submitting {folder} to {args.model}", blocked=blocked)


def _blocked(info: RunInfo, *, model: str) -> list[str]:
    """Why a run may not be submitted, one sentence per reason."""
    blocked = []
    scored = info.model.name
    # A folder such as runs/sft looks like an id of the Hub, too.
    if info.model.hub_revision is not None and HUB_ID.fullmatch(scored) and scored != model:
        blocked.append(f"The run scored {scored}, not {model}: submit it to that model's repository.")
    cut = [f"{name} ({asked.items} items)" for name, asked in info.tasks.items() if asked.limit is not None]
    if cut:
        blocked.append(f"Only some items were scored, of {', '.join(cut)}: run it again without --limit.")
    return blocked


def task_numbers(run: Run, *, owner: str) -> list[TaskNumber]:
    """One number per task of a run.

    The frame setting changes what a video task measures, so each has a board of its own: `toy-video-8-frames`,
    `toy-video-budget`. Image tasks have one.

    Args:
        run: The run.
        owner: Of the benchmark datasets, each named like its task.
    """
    frames = run.scores.frames
    otherwise = [f"{name}={value}" for name, value in unusual(run.info).items()]
    return [
        TaskNumber(
            dataset_id=f"{owner}/{task}",
            task_id=task_id(task, frames if facts.modality == "video" else None),
            value=float(facts.score),
            notes=", ".join([_notes(facts, frames), *otherwise]),
        )
        for task, facts in run.scores.tasks.items()
    ]


def _submit(
    folder: Path,
    facts: Json,
    scores: Json,
    rows: Sequence[Json],
    numbers: Sequence[TaskNumber],
    *,
    model: str,
    results: str | None,
) -> int:
    from huggingface_hub import constants

    from hub_cards.account import account
    from hub_cards.publishing import Publication, publish
    from hub_cards.repository import Repository
    from hub_cards.verifying import ReadBack
    from vtrap_bench.results_dataset import NAME, Submission, publish_run

    if not HUB_ID.fullmatch(model):
        raise Refused(f"--model {model!r} must be owner/name, such as vtrap/toy-vl-hybrid")
    me = account()
    repository = Repository(model, "model")
    _check_weights(facts["model"]["weights"], repository)
    if results is None:
        owner = model.split("/")[0]
        results = f"{owner if owner in (me.name, *me.organisations) else me.name}/{NAME}"
    run = Submission(folder, facts, scores, rows, model=model, origin=_origin(repository))
    date = publish_run(run, results)
    try:
        new = eval_results_yaml(
            numbers,
            date=date,
            source_url=f"{constants.ENDPOINT}/datasets/{results}/tree/main/{run.place}",
            source_name="vtrap run",
        )
        proposed = [pull.number for pull in repository.pull_requests(me.name) if pull.title == TITLE]
        revisions = ["main", *(f"refs/pr/{number}" for number in sorted(proposed)[:1])]
        texts = [repository.read_text(RESULTS_PATH, revision=revision) for revision in revisions]
        merged = merge_eval_results([text for text in texts if text is not None], new)
    except ValueError as error:
        raise Refused(str(error)) from error
    done = publish(
        Publication(
            repo_id=model,
            repo_type="model",
            files={RESULTS_PATH: merged.encode()},
            read_back=ReadBack("hub_cards.readback", ("files", "model", RESULTS_PATH)),
            merge=False,
            title=TITLE,
        )
    )
    print(f"{done.url}: {'submitted' if done.changed else 'nothing to do, already submitted'}")
    return 0


def _check_weights(scored: Mapping[str, str], repository: Repository) -> None:
    """Refuse a run of other weights than the model's repository holds. `scored`: file name to sha256."""
    there = {path: file.lfs.sha256 for path, file in repository.files().items() if file.lfs is not None}
    other = [name for name, sha256 in scored.items() if there.get(name) != sha256]
    extra = [p for p in there if p.endswith(".safetensors") and "/" not in p and p not in scored]
    if other or extra:
        name = (other or extra)[0]
        what = "is not there" if name not in there else "has another hash" if name in scored else "was not scored"
        raise Refused(
            f"{repository.id} on the Hub holds other weights than this run scored ({name} {what}): publish the scored "
            "ones with `python -m vtrap_train push`, or score those with `python -m vtrap_bench run --model "
            f"{repository.id}`"
        )


def _origin(repository: Repository) -> Json:
    """What the model was fine-tuned from and with, as far as its repository says; the leaderboard puts it there."""
    from huggingface_hub import ModelCard

    try:
        trained = parse_json(repository.read_text(SUMMARY) or "{}")
        card: Any = ModelCard(repository.read_text("README.md") or "").data
    except (Refused, Failed):
        raise
    except Exception:  # both are other people's files, and YAML raises nearly anything
        return {}
    trained = trained if isinstance(trained, dict) else {}
    base = card.base_model or trained.get("model")
    found = {"base": base[0] if isinstance(base, list) else base, "trained_with": trained.get("frames")}
    return {key: str(value) for key, value in found.items() if value is not None}


def _notes(facts: TaskScores, frames: str) -> str:
    low, high = facts.ci
    parts = [f"95% CI {low:.1f} to {high:.1f}", f"n={facts.n}", f"task version {facts.version}"]
    if facts.modality == "video":
        parts.append(f"frames={frames} (mean {facts.mean_frames:.1f})")
    if facts.synthetic:
        parts.append("synthetic data")
    return ", ".join(parts)
