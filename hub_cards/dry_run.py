"""What would be published? Renders it all into a folder that a person can look at before anything leaves the machine.

    FOLDER/index.html                           what is in here, and what would stop it from being published
    FOLDER/plan.json                            the same for a program
    FOLDER/dataset/README.md, eval.yaml         dataset card; the boards of a benchmark
    FOLDER/model/README.md, preprocessing.json  model card, and the figure in it
    FOLDER/model/.eval_results/vtrap.yaml       results, as the Hub's boards read them
    FOLDER/leaderboard/index.html, README.md    the static Space

Each part can be rendered by a command of its own; the index always shows all that is there.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, Literal, NamedTuple, get_args

from hub_cards.dataset_card import DatasetFacts, dataset_card, refuse_reasons
from hub_cards.eval_results import EVAL_YAML, RESULTS_PATH, TaskNumber, eval_results_yaml
from hub_cards.leaderboard import write_leaderboard
from hub_cards.model_card import HUB_ID, ModelFacts, model_card
from hub_cards.rendering import environment, write_text
from hub_cards.results import ResultRow

PLAN = "plan.json"
PLAN_FORMAT = 1

PartName = Literal["dataset", "model", "results", "leaderboard"]


class Upload(NamedTuple):
    """A file that publishing would send besides what is rendered here: path in the repository, size in bytes."""

    path: str
    bytes: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Part:
    """One thing that would be published.

    Attributes:
        target: Repository on the Hub, or what else it would become.
        files: Rendered files, relative to the folder; the first is the one to look at.
        uploads: Further files that would be sent as they are.
        blocked: Why publishing would be refused, one sentence per reason; empty when it would not.
    """

    target: str
    files: tuple[str, ...]
    uploads: tuple[Upload, ...] = ()
    blocked: tuple[str, ...] = ()


class Results(NamedTuple):
    """What `submit` would put into a model repository."""

    model_id: str
    numbers: Sequence[TaskNumber]
    date: str | None = None
    source_url: str | None = None
    blocked: tuple[str, ...] = ()


def render(
    folder: Path,
    *,
    dataset: DatasetFacts | None = None,
    dataset_files: Sequence[Upload] = (),
    eval_yaml: str | None = None,
    model: ModelFacts | None = None,
    model_files: Sequence[Upload] = (),
    model_blocked: Sequence[str] = (),
    figure: Path | None = None,
    results: Results | None = None,
    rows: Sequence[ResultRow] | None = None,
) -> dict[PartName, Part]:
    """Render what is given into `folder`, leave what other calls rendered, and write the index of it all.

    Args:
        folder: Made if it does not exist.
        dataset: Facts for the dataset card; needs `repo_id`.
        dataset_files: What else publishing the dataset would send.
        eval_yaml: Of a dataset that is a benchmark.
        model: Facts for the model card.
        model_files: What else publishing the model would send.
        model_blocked: Why publishing the model would be refused.
        figure: Picture to lie beside the model card; it takes its own file name.
        results: Scores for the model repository.
        rows: Rows of the leaderboard.

    Returns:
        Everything that the folder now holds.

    Raises:
        ValueError: Something given cannot be published in any case (a name that is no Hub id, a score that is none).
    """
    made: dict[PartName, Part] = {}
    if dataset is not None:
        if dataset.repo_id is None or not HUB_ID.fullmatch(dataset.repo_id):
            raise ValueError(f"dataset id {dataset.repo_id!r} must be owner/name, such as vtrap/video-sft-hybrid")
        names = ["dataset/README.md"]
        write_text(folder / names[0], dataset_card(dataset))
        if eval_yaml is not None:
            names.append(f"dataset/{EVAL_YAML}")
            write_text(folder / names[1], eval_yaml)
        made["dataset"] = Part(
            target=dataset.repo_id,
            files=tuple(names),
            uploads=tuple(dataset_files),
            blocked=tuple(refuse_reasons(dataset)),
        )
    if model is not None:
        if figure is not None:
            model = replace(model, figure=figure.name)
        card = model_card(model)
        files = ["model/README.md", "model/preprocessing.json"]
        write_text(folder / files[0], card)
        write_text(folder / files[1], json.dumps(dict(model.preprocessing), indent=1, ensure_ascii=False) + "\n")
        if figure is not None:
            files.append(f"model/{figure.name}")
            shutil.copyfile(figure, folder / files[2])
        made["model"] = Part(
            target=model.model_id, files=tuple(files), uploads=tuple(model_files), blocked=tuple(model_blocked)
        )
    if results is not None:
        if not HUB_ID.fullmatch(results.model_id):
            raise ValueError(f"model id {results.model_id!r} must be owner/name")
        text = eval_results_yaml(
            results.numbers, date=results.date, source_url=results.source_url, source_name="vtrap run"
        )
        write_text(folder / "model" / RESULTS_PATH, text)
        made["results"] = Part(
            target=results.model_id, files=(f"model/{RESULTS_PATH}",), blocked=tuple(results.blocked)
        )
    if rows is not None:
        write_leaderboard(folder / "leaderboard", rows)
        n = len({row.model for row in rows})
        made["leaderboard"] = Part(
            target=f"static Space, {n} {'model' if n == 1 else 'models'}",
            files=("leaderboard/index.html", "leaderboard/README.md"),
        )
    return write_index(folder, made)


def write_index(folder: Path, made: Mapping[PartName, Part]) -> dict[PartName, Part]:
    """Add `made` to the folder's plan, and write `plan.json` and `index.html` of everything that is there."""
    folder.mkdir(parents=True, exist_ok=True)
    parts = {**_read_plan(folder / PLAN), **made}
    # What someone has removed by hand is not shown: every link leads somewhere.
    parts = {k: p for k in get_args(PartName) if (p := parts.get(k)) and all((folder / f).is_file() for f in p.files)}
    plan = {"format": PLAN_FORMAT, "parts": {name: asdict(part) for name, part in parts.items()}}
    # NamedTuples inside a dataclass come out of asdict as tuples, which JSON writes as lists: [path, bytes].
    write_text(folder / PLAN, json.dumps(plan, indent=1, ensure_ascii=False) + "\n")
    texts = {
        file: (folder / file).read_text(encoding="utf-8")
        for part in parts.values()
        for file in part.files
        if file.endswith((".md", ".yaml", ".json"))
    }
    page = environment().get_template("index.html.jinja").render(parts=parts, texts=texts)
    write_text(folder / "index.html", page)
    return parts


def list_uploads(folder: Path) -> list[Upload]:
    """The files of a folder as uploads, sorted; hidden ones are left out.

    Raises:
        ValueError: One is a link that leads out of the folder: what lies there was not meant to be published.
    """
    found = []
    for path in sorted(folder.rglob("*")):
        name = path.relative_to(folder)
        if any(part.startswith(".") for part in name.parts):
            continue
        if path.is_symlink() and not path.resolve().is_relative_to(folder.resolve()):
            raise ValueError(f"{path} is a link that leads out of {folder}: put the file itself there, or remove it")
        if path.is_file():
            found.append(Upload(name.as_posix(), path.stat().st_size))
    return found


def _read_plan(path: Path) -> dict[PartName, Part]:
    """What earlier calls rendered. A plan that is unreadable or of another format is made anew."""
    try:
        data = json.loads(path.read_text(encoding="utf-8"))
        if data["format"] != PLAN_FORMAT:
            return {}
        return {name: _part(data["parts"][name]) for name in get_args(PartName) if name in data["parts"]}
    except (OSError, ValueError, KeyError, TypeError, OverflowError, RecursionError):
        return {}


def _part(data: Mapping[str, Any]) -> Part:
    files = tuple(str(file) for file in data["files"])
    if any(Path(file).is_absolute() or ".." in Path(file).parts for file in files):
        raise ValueError(f"{PLAN} names files outside the folder: {files}")
    return Part(
        target=str(data["target"]),
        files=files,
        uploads=tuple(Upload(str(name), int(size)) for name, size in data["uploads"]),
        blocked=tuple(str(reason) for reason in data["blocked"]),
    )
