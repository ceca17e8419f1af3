"""`submit`: put the results of a finished run where the Hub's boards find them, and its records where all can check.

The records go to a results dataset, the scores as an open pull request into the model's repository: whoever owns the
model merges it. The same run submitted twice changes nothing.
"""

from __future__ import annotations

import argparse
import dataclasses
import datetime
import json
import math
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from hub_cards.eval_results import RESULTS_PATH, TaskNumber, eval_results_yaml, merge_eval_results, task_id
from hub_cards.model_card import HUB_ID
from hub_cards.publish import Results, render
from hub_cards.rendering import card
from hub_cards.report_rows import display_name
from vtrap_bench.changes import Json, Run, read_run
from vtrap_bench.records import CHAIN, PRIVATE, RECORDS, Record, read_chained
from vtrap_bench.scores import SCORES, digest
from vtrap_data.errors import UsageError
from vtrap_data.push import explained

RUN = "run.json"
TITLE = "vtrap results"
MARKER = "vtrap_results.json"
RESULTS_NAME = "vtrap-results"
MOVES = 3
"""How often another submission to the same results dataset may come first before we give up."""

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
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.add_argument("run_dir", type=Path, metavar="RUN", help="folder of a finished run")
    parser.add_argument("--model", required=True, metavar="ID", help="owner/name of the model on the Hub")
    parser.add_argument("--benchmarks", default="vtrap", metavar="OWNER", help="whose benchmark datasets on the Hub")
    parser.add_argument(
        "--results",
        metavar="ID",
        help=f"dataset for the records (default: {RESULTS_NAME} of the model's owner if you belong to it, else yours)",
    )
    parser.add_argument("--dry-run", type=Path, metavar="OUT", help="render into this folder, send nothing")


def run(args: argparse.Namespace) -> int:
    """Run `python -m vtrap_bench submit`. Returns the exit code.

    Raises:
        UsageError: The run is unfinished or was changed by hand, it is of another model, or the Hub refuses it.
        VtrapError: Submitting did not get through.
    """
    folder: Path = args.run_dir
    # First: records that were changed by hand are to be called that, not incomplete.
    rows = read_chained(folder / RECORDS) if (folder / RECORDS).exists() else []
    found = read_run(folder)
    scores = found.scores
    records = [Record.from_json(row) for row in rows]
    if digest(records) != scores.get("records_sha256"):
        raise UsageError(f"{folder / RECORDS} is not what scores.json was computed from: score the run again")
    scored = str(scores["model"])
    blocked = []
    if HUB_ID.fullmatch(scored) and scored != args.model:
        blocked.append(f"The run scored {scored}, not {args.model}: submit it to that model's repository.")
    blocked += _limited(folder / RUN)
    numbers = task_numbers(scores, owner=args.benchmarks)
    if args.dry_run is None:
        check_complete(folder, found, records)
        if blocked:
            raise UsageError(f"{folder} may not be submitted: {' '.join(blocked)}")
        return explained(lambda: _submit(folder, numbers, scores, rows, model=args.model, results=args.results))
    try:
        render(args.dry_run, results=Results(model_id=args.model, numbers=numbers, blocked=tuple(blocked)))
    except ValueError as error:
        raise UsageError(str(error)) from error
    for reason in blocked:
        print(f"would be refused: {reason}", file=sys.stderr)
    print(f"{args.dry_run / 'index.html'}: what submitting {folder} to {args.model} would send")
    return 0


def check_complete(folder: Path, found: Run, records: Sequence[Record]) -> None:
    """Refuse a run that has fewer answers than items, or scores that its records do not give.

    Raises:
        UsageError: With what is missing or differs.
    """
    facts = _run_facts(folder)
    for task, asked in facts["tasks"].items():
        answered = len(found.answers.get(task, {}))
        if answered != asked["items"] or task not in found.scores["tasks"]:
            raise UsageError(
                f"{folder} is not finished: {answered} of {asked['items']} items of {task} are answered; run the "
                "same benchmark command again"
            )
    for task, said in found.scores["tasks"].items():
        earned = [record.score for record in records if record.task == task]
        # The mean, as every metric of ours is one; computing it with the metric's own library takes seconds to load.
        if said["n"] != len(earned) or not math.isclose(said["score"], 100 * sum(earned) / len(earned), abs_tol=1e-6):
            raise UsageError(
                f"{folder / SCORES} gives {task} {said['score']:.2f}, its records give "
                f"{100 * sum(earned) / max(1, len(earned)):.2f}: it was changed by hand; remove it and run the same "
                "benchmark command again"
            )


def task_numbers(scores: Json, *, owner: str) -> list[TaskNumber]:
    """One number per task of a run.

    The frame setting changes what a video task measures, so each has a board of its own: `toy-video-8-frames`,
    `toy-video-budget`. Image tasks have one.

    Args:
        scores: Content of `scores.json`.
        owner: Of the benchmark datasets, each named like its task.
    """
    frames = str(scores["frames"])
    return [
        TaskNumber(
            dataset_id=f"{owner}/{task}",
            task_id=task_id(task, frames if facts["modality"] == "video" else None),
            value=float(facts["score"]),
            notes=_notes(facts, frames),
        )
        for task, facts in scores["tasks"].items()
    ]


def _submit(
    folder: Path,
    numbers: Sequence[TaskNumber],
    scores: Json,
    rows: Sequence[Json],
    *,
    model: str,
    results: str | None,
) -> int:
    from huggingface_hub import constants

    from hub_cards.publishing import Publication, ReadBack, Refused, account, open_proposal, publish, read_text

    if not HUB_ID.fullmatch(model):
        raise Refused(f"--model {model!r} must be owner/name, such as vtrap/toy-vl-hybrid")
    me = account()
    _check_weights(folder, model)
    origin = _origin(model)
    owner = model.split("/")[0]
    if results is None:
        results = f"{owner if owner in (me.name, *me.organisations) else me.name}/{RESULTS_NAME}"
    place = f"runs/{model}/{scores['frames']}-{str(scores['records_sha256'])[:12]}"
    date = _publish_records(folder, place, scores, rows, submitted={"submitted_to": model, **origin}, results=results)
    try:
        new = eval_results_yaml(
            numbers,
            date=date,
            source_url=f"{constants.ENDPOINT}/datasets/{results}/tree/main/{place}",
            source_name="vtrap run",
        )
        proposal = open_proposal(model, TITLE, repo_type="model", author=me.name)
        revisions = ["main", *([f"refs/pr/{proposal}"] if proposal else [])]
        texts = [read_text(model, RESULTS_PATH, repo_type="model", revision=revision) for revision in revisions]
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


def _publish_records(
    folder: Path, place: str, scores: Json, rows: Sequence[Json], *, submitted: Json, results: str
) -> str:
    """Put records, scores and settings of the run into the results dataset. Returns the day of the run."""
    from hub_cards.publishing import Moved, Publication, ReadBack, publish
    from hub_cards.readback import count_records

    run = _run_facts(folder)
    run["model"] = {**run["model"], "name": display_name(str(run["model"]["name"]))}
    date = _date(folder, results, place)
    run |= {**submitted, "date": date}
    shown = {**scores, "model": display_name(str(scores["model"]))}
    files: dict[str, Path | bytes] = {
        "README.md": _results_card(results).encode(),
        MARKER: b'{"format": 1}\n',
        f"{place}/{RECORDS}": published_records(rows, scores),
        f"{place}/{SCORES}": _json(shown),
        f"{place}/{RUN}": _json(run),
    }
    publication = Publication(
        repo_id=results,
        repo_type="dataset",
        files=files,
        marker=MARKER,
        # Tags are for versions; this dataset only grows.
        tag="",
        read_back=ReadBack("hub_cards.readback", ("records", f"{place}/{RECORDS}"), expected=count_records(rows)),
    )
    for attempt in range(1, MOVES + 1):
        try:
            publish(publication)
            return date
        except Moved:
            if attempt == MOVES:
                raise
    raise AssertionError("unreachable")


def _date(folder: Path, results: str, place: str) -> str:
    """The day of the run; if it was submitted before, as it was then: copying a folder makes its files younger."""
    from hub_cards.publishing import Refused, read_text

    try:
        text = read_text(results, f"{place}/{RUN}", repo_type="dataset", revision="main")
    except Refused:  # no results dataset yet
        text = None
    before = json.loads(text) if text is not None else {}
    when = datetime.datetime.fromtimestamp((folder / SCORES).stat().st_mtime, tz=datetime.UTC)
    return str(before.get("date") or when.date().isoformat())


def _origin(model: str) -> Json:
    """What the model was fine-tuned from and with, as far as its repository says; the leaderboard puts it there."""
    from huggingface_hub import ModelCard

    from hub_cards.publishing import read_text

    def read(path: str) -> str:
        return read_text(model, path, repo_type="model", revision="main") or ""

    try:
        trained = json.loads(read("training_summary.json") or "{}")
        card: Any = ModelCard(read("README.md")).data
    except ValueError:
        return {}
    base = card.base_model or trained.get("model")
    found = {"base": base[0] if isinstance(base, list) else base, "trained_with": trained.get("frames")}
    return {key: str(value) for key, value in found.items() if value is not None}


def published_records(rows: Sequence[Json], scores: Json) -> bytes:
    """The lines of `records.jsonl` as anyone may read them.

    The questions and answers of a benchmark belong to others, and a benchmark that lies open in records ends up in
    training data: they are left out, except for synthetic ones. The hash chain does not cover them, so it still holds.

    Args:
        rows: The lines of the run.
        scores: Content of its `scores.json`.
    """
    lines = []
    for row in rows:
        hidden = {} if scores["tasks"][row["task"]].get("synthetic") else _HIDDEN
        # Every column in every row, whatever its task has: the runs of a dataset are loaded together.
        lines.append(json.dumps({"credit": None, "facts": "", **row, **hidden}, ensure_ascii=False) + "\n")
    return "".join(lines).encode()


_HIDDEN: Json = {name: [] if name == "options" else "" for name in PRIVATE}


def _check_weights(folder: Path, model: str) -> None:
    """Refuse a run of other weights than the model's repository holds."""
    from hub_cards.publishing import Refused, large_files

    scored = _run_facts(folder)["model"]["weights"]
    there = large_files(model, repo_type="model")
    other = [name for name, sha256 in scored.items() if there.get(name) != sha256]
    extra = [p for p in there if p.endswith(".safetensors") and "/" not in p and p not in scored]
    if other or extra:
        name = (other or extra)[0]
        what = "is not there" if name not in there else "has another hash" if name in scored else "was not scored"
        raise Refused(
            f"{model} on the Hub holds other weights than this run scored ({name} {what}): publish the scored ones "
            f"with `python -m vtrap_train push`, or score those with `python -m vtrap_bench run --model {model}`"
        )


def _results_card(results: str) -> str:
    data = [{"split": "train", "path": f"runs/**/{RECORDS}"}]
    return card(
        {
            "pretty_name": "vtrap results",
            "tags": ["vtrap", "evaluation"],
            "configs": [{"config_name": "default", "default": True, "data_files": data}],
            "dataset_info": [{"config_name": "default", "features": _features()}],
        },
        "results.md.jinja",
        results=results,
    )


def _features() -> list[Json]:
    """The columns of the records: declared, since a run may have only empty values in one of them."""
    kinds = {"correct": "bool", "credit": "float64", "n_frames": "int64"}
    kinds |= dict.fromkeys(("visual_tokens", "prompt_tokens"), "int64")
    lists = {"options": "string", "frame_times": "float64"}
    names = [*(field.name for field in dataclasses.fields(Record)), CHAIN]
    return [
        {"name": name, "list": lists[name]} if name in lists else {"name": name, "dtype": kinds.get(name, "string")}
        for name in names
    ]


def _run_facts(folder: Path) -> Json:
    path = folder / RUN
    try:
        facts: Json = json.loads(path.read_text(encoding="utf-8"))
        if not isinstance(facts["tasks"], dict) or not isinstance(facts["model"]["weights"], dict):
            raise TypeError("of another shape")
        return facts
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise UsageError(
            f"{path} cannot be read ({type(error).__name__}: {error}): run the benchmark again"
        ) from error


def _json(value: Json) -> bytes:
    return (json.dumps(value, indent=1, ensure_ascii=False) + "\n").encode()


def _limited(path: Path) -> list[str]:
    """Why a run that scored only some items of a task would be refused."""
    try:
        tasks = json.loads(path.read_text(encoding="utf-8"))["tasks"]
        cut = [f"{name} ({facts['items']} items)" for name, facts in tasks.items() if facts["limit"] is not None]
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise UsageError(
            f"{path} cannot be read ({type(error).__name__}: {error}): run the benchmark again"
        ) from error
    return [f"Only some items were scored, of {', '.join(cut)}: run it again without --limit."] if cut else []


def _notes(facts: Json, frames: str) -> str:
    low, high = facts["ci"]
    parts = [f"95% CI {low:.1f} to {high:.1f}", f"n={facts['n']}", f"task version {facts['version']}"]
    if facts["modality"] == "video":
        parts.append(f"frames={frames} (mean {facts['mean_frames']:.1f})")
    if facts.get("synthetic"):
        parts.append("synthetic data")
    return ", ".join(parts)
