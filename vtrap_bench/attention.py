"""Did training change where a model looks? The command `python -m vtrap_bench attention`.

For each item: how much attention goes to vision tokens, how widely it is spread, and how much of it falls on what the
question is about, where that is known. Before and after, with clustered intervals of the change; and overlays to see.
"""

from __future__ import annotations

import argparse
import base64
import gc
import hashlib
import io
import json
import sys
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from PIL import Image, ImageDraw
from tqdm import tqdm

from vtrap_bench.models import LocalModel, local_model, saved_dtype
from vtrap_bench.run_settings import device_of
from vtrap_bench.statistics import paired_difference
from vtrap_bench.tasks import TASKS, Task
from vtrap_bench.tasks.locate import ensure
from vtrap_data.errors import UsageError, printable_lines
from vtrap_data.files import write_bytes
from vtrap_data.loading.dataset import PackedDataset
from vtrap_data.samples import Example

if TYPE_CHECKING:
    from vtrap_bench.boxes import Boxes
    from vtrap_bench.gaze import Look

ATTENTION_FORMAT = 1
NAMES = ("before", "after")
OVERLAYS = 12
MOST_STEPS = 4
SIDE = 132
MEASURES = {
    "mass": "attention that goes to vision tokens, of all",
    "entropy": "how evenly it is spread over them: 0 one cell, 1 all alike",
    "on box": "how much of it falls on what the question is about",
}

EXAMPLES = """\
examples:
  python -m vtrap_bench attention toy-vl runs/sft --task toy-image --limit 200 --out runs/gaze
  python -m vtrap_bench attention qwen2.5-vl-7b --task mmstar --benchmarks packed --boxes boxes.jsonl --out runs/gaze
boxes.jsonl: {"item_id": "mmstar/17", "boxes": [[0.1, 0.2, 0.4, 0.6]]} per line; toy tasks know theirs
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Arguments of the command."""
    parser.description = "Measure where a model looks when it begins to answer, and whether training changed that."
    parser.epilog = EXAMPLES
    parser.add_argument("models", nargs="+", metavar="MODEL", help="one model, or two: before and after")
    parser.add_argument("--task", required=True, help="name of a task")
    parser.add_argument("--frames", type=int, metavar="N", help="frames per video (default: the packed budgets)")
    parser.add_argument("--limit", type=int, default=200, metavar="N", help="at most N items (default: %(default)s)")
    parser.add_argument("--benchmarks", type=Path, metavar="DIR", help="folder with a packed benchmark per task")
    parser.add_argument("--boxes", type=Path, metavar="JSONL", help="where in its picture each item's answer is")
    parser.add_argument("--profile", default="vtrap", help="prompt profile (default: %(default)s)")
    parser.add_argument("--device", default="auto", help="auto, cpu, cuda, ... (default: %(default)s)")
    parser.add_argument("--out", type=Path, required=True, metavar="DIR", help="where to write")


def run(args: argparse.Namespace) -> int:
    """Measure; exit code 0."""
    if args.task not in TASKS:
        raise UsageError(f"--task {args.task!r} is no task; there are {', '.join(TASKS)}")
    task = TASKS[args.task]
    if not 1 <= len(args.models) <= 2:
        raise UsageError(f"{len(args.models)} models: give one, or two (before and after)")
    if args.limit < 1:
        raise UsageError(f"--limit {args.limit} must be at least 1")
    if args.frames is not None and args.frames < 1:
        raise UsageError(f"--frames {args.frames} must be at least 1; leave it out for the packed budgets")
    if args.profile not in task.profiles:
        raise UsageError(f"--profile {args.profile!r}: task {task.name} has {', '.join(task.profiles)}")
    device_of(args.device)
    root = ensure(task, benchmarks=args.benchmarks)
    data = PackedDataset(root, frames=args.frames if args.frames and task.modality == "video" else "hybrid")
    models = [local_model(name) for name in args.models]
    found = measure(models, task, data, args=args)
    write_bytes(args.out / "attention.json", (json.dumps(found["json"], indent=1, ensure_ascii=False) + "\n").encode())
    for name, png in found["overlays"].items():
        write_bytes(args.out / "overlays" / f"{name}.png", png)
    write_bytes(args.out / "attention.html", page(found).encode())
    print(printable_lines(table(found["json"])))
    print(f"\n{args.out / 'attention.html'}")
    return 0


def measure(models: Sequence[LocalModel], task: Task, data: PackedDataset, *, args: Any) -> dict[str, Any]:
    """Look at the items with each model.

    Returns:
        `json`: the content of `attention.json`; `overlays`: PNG files by name.
    """
    from vtrap_bench.backends.transformers_backend import DTYPES
    from vtrap_bench.boxes import boxes_for, read_boxes
    from vtrap_bench.gaze import GROUPS, Gazer

    given = {} if args.boxes is None else read_boxes(args.boxes)
    ids = data.column("item_id")
    order = sorted(range(len(ids)), key=lambda i: hashlib.sha256(ids[i].encode()).digest())[: args.limit]
    if given and not given.keys() & {ids[i] for i in order}:
        raise UsageError(
            f"--boxes {args.boxes} has none of the {len(order)} items that would be looked at ({ids[order[0]]}, ...): "
            "name them by their ids, or raise --limit"
        )
    device = device_of(args.device)
    profile = task.profiles[args.profile]
    looks: list[list[Look]] = []
    for model in models:
        saved = saved_dtype(model.folder)
        dtype = saved if saved in DTYPES and not device.startswith("cpu") else "float32"
        gazer = Gazer(model.ref, dtype=dtype, device=device)
        bar = tqdm(order, desc=f"looking, {model.ref.name}", unit="item", disable=not sys.stderr.isatty())
        looks.append([gazer.look(_asked(data[i], profile)) for i in bar])
        del gazer  # its hooks refer to it, so only the collector frees the model before the next one is loaded
        gc.collect()
    rows: list[dict[str, Any]] = []
    overlays: dict[str, bytes] = {}
    for place, number in enumerate(order):
        example = data[number]
        some = [of_model[place] for of_model in looks]
        boxes = boxes_for(example, steps=len(some[0].pictures), given=given)
        row: dict[str, Any] = {"item_id": example.item.id, "cluster": example.key, "ability": example.item.ability}
        row["question"], row["area"] = example.item.question, None
        for name, look in zip(NAMES, some, strict=False):
            row[name] = {"mass": look.mass.tolist(), "entropy": look.entropy().tolist()}
            if boxes is not None:
                on, row["area"] = look.on(boxes)
                row[name]["on box"] = on.tolist()
        if place < OVERLAYS:
            name = hashlib.sha256(example.item.id.encode()).hexdigest()[:16]
            overlays[name] = overlay(example, some, boxes)
            row["overlay"] = name
        rows.append(row)
    summary = {
        what: [_summary(rows, what, group, count=len(models)) for group in range(len(GROUPS))] for what in MEASURES
    }
    areas = [row["area"] for row in rows if row["area"] is not None]
    return {
        "json": {
            "format": ATTENTION_FORMAT,
            "task": task.name,
            "synthetic": task.synthetic,
            "models": dict(zip(NAMES, [m.ref.name for m in models], strict=False)),
            "groups": list(GROUPS),
            "items_with_box": len(areas),
            "area": float(np.mean(areas)) if areas else None,
            "summary": summary,
            "items": rows,
        },
        "overlays": overlays,
    }


def _asked(example: Example, profile: Any) -> Example:
    return replace(example, item=replace(example.item, messages=profile.messages(example.item)))


def _summary(rows: Sequence[Mapping[str, Any]], what: str, group: int, *, count: int) -> dict[str, Any] | None:
    """Means over the items and, of two models, the change with its clustered 95 % interval."""
    held = [row for row in rows if what in row["before"]]
    if not held:
        return None
    values = {name: [row[name][what][group] for row in held] for name in NAMES[:count]}
    found: dict[str, Any] = {"n": len(held), **{name: float(np.mean(some)) for name, some in values.items()}}
    if count == 2:
        clusters = [row["cluster"] for row in held]
        found["change"] = found["after"] - found["before"]
        found["ci"] = None
        if len(set(clusters)) > 1:
            change = paired_difference(values["before"], values["after"], clusters)
            found["ci"] = list(change.interval) if change.error > 0 else None
    return found


def overlay(example: Example, looks: Sequence[Look], boxes: Boxes | None) -> bytes:
    """A PNG, boxes in white.

    Of one picture: a row per model, a column per group of layers. Of a video: a row per model and group of layers, a
    column per picture (at most MOST_STEPS).
    """
    steps = len(looks[0].pictures)
    shown = sorted(
        {round(k * (steps - 1) / max(1, min(MOST_STEPS, steps) - 1)) for k in range(min(MOST_STEPS, steps))}
    )
    if example.frames is None:
        pictures = [example.images[i] for i in shown]
    else:
        each = -(-len(example.frames) // steps)
        stored = example.frames.images
        pictures = [stored[min(i * each, len(stored) - 1)] for i in shown]
    tiles = []
    for look in looks:
        for group in range(look.mass.shape[0]):
            # One scale for all pictures of a row: a frame that is not looked at stays plain.
            top = max(float(picture[group].max()) for picture in look.pictures) or 1.0
            tiles.append(
                [
                    _tile(image, look.pictures[i][group] / top, boxes[i] if boxes else ())
                    for i, image in zip(shown, pictures, strict=True)
                ]
            )
    if len(shown) == 1:  # one picture: the layers beside each other, a row per model
        wide = looks[0].mass.shape[0]
        tiles = [[tile for row in tiles[i : i + wide] for tile in row] for i in range(0, len(tiles), wide)]
    height = max(tile.height for row in tiles for tile in row)
    sheet = Image.new("RGB", (len(tiles[0]) * (SIDE + 4) - 4, len(tiles) * (height + 4) - 4), "white")
    for y, row in enumerate(tiles):
        for x, tile in enumerate(row):
            sheet.paste(tile, (x * (SIDE + 4), y * (height + 4)))
    out = io.BytesIO()
    sheet.save(out, "PNG")
    return out.getvalue()


def _tile(image: Image.Image, heat: np.ndarray[Any, Any], boxes: Sequence[tuple[float, ...]]) -> Image.Image:
    height = max(1, round(SIDE * image.height / image.width))
    grey = image.convert("L").convert("RGB").resize((SIDE, height), Image.Resampling.BICUBIC)
    strength = Image.fromarray(np.uint8(np.clip(heat, 0, 1) * 200)).resize((SIDE, height), Image.Resampling.BICUBIC)
    tile = Image.composite(Image.new("RGB", grey.size, (255, 90, 0)), grey, strength)
    draw = ImageDraw.Draw(tile)
    for left, top, right, bottom in boxes:
        draw.rectangle((left * SIDE, top * height, right * SIDE - 1, bottom * height - 1), outline="white")
    return tile


def table(found: Mapping[str, Any]) -> str:
    """The summary for a terminal."""
    two = "after" in found["models"]
    lines = [f"{found['task']}: " + ", ".join(f"{name} {model}" for name, model in found["models"].items())]
    lines.append(
        f"  {'':<10}{'layers':<9}{'before':>8}" + (f"{'after':>8}{'change':>9}  95 % interval" if two else "")
    )
    for what, groups in found["summary"].items():
        for name, group in zip(found["groups"], groups, strict=True):
            if group is None:
                continue
            line = f"  {what:<10}{name:<9}{group['before']:8.3f}"
            if two:
                between = "-" if group["ci"] is None else "{:+.3f} to {:+.3f}".format(*group["ci"])
                line += f"{group['after']:8.3f}{group['change']:+9.3f}  {between}"
            lines.append(line)
    if found["area"] is not None:
        lines.append(f"  even attention would put {found['area']:.3f} on the box ({found['items_with_box']} items)")
    else:
        lines.append("  no boxes: give --boxes to measure attention on what is asked about")
    return "\n".join(lines)


def page(found: Mapping[str, Any]) -> str:
    """`attention.html`: opens offline, runs nothing."""
    from vtrap_bench import report

    data = found["json"]
    return report.page(
        "attention.html.jinja",
        found=data,
        measures=MEASURES,
        shown=[row for row in data["items"] if "overlay" in row],
        pictures={name: base64.b64encode(png).decode() for name, png in found["overlays"].items()},
    )
