"""Fixture rows of a benchmark as files that look like the Hub's: parquet with images inside, or JSON beside videos."""

from __future__ import annotations

import io
import json
from dataclasses import replace
from pathlib import Path
from typing import Any

from PIL import Image

from vtrap_data.sources.benchmarks import BENCHMARKS, Benchmark

FIXTURES = Path(__file__).parents[1] / "fixtures" / "benchmarks"
COLOURS = {"red", "green", "blue", "white", "black", "grey"}


def fixture(name: str) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (FIXTURES / f"{name}.jsonl").read_text("utf-8").splitlines()]


def golden(name: str) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((FIXTURES / f"{name}.golden.json").read_text("utf-8"))
    return found


def png(colour: str) -> bytes:
    out = io.BytesIO()
    Image.new("RGB", (56, 42), colour).save(out, "PNG")
    return out.getvalue()


def write_rows(name: str, folder: Path) -> Benchmark:
    """Write the fixture rows of a benchmark; returns it with the parts that the fixture has."""
    benchmark = BENCHMARKS[name]
    rows = fixture(name)
    configs = {row.get("_config", benchmark.parts[0].config): [] for row in rows}
    for row in rows:
        configs[row.pop("_config", benchmark.parts[0].config)].append(row)
    parts = tuple(part for part in benchmark.parts if part.config in configs)
    for part in parts:
        if benchmark.media == "images":
            write_parquet(configs[part.config], folder / "data" / f"{part.split}-00000-of-00001.parquet")
        else:
            path = folder / part.config / f"{part.split}.jsonl"
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text("".join(json.dumps(row) + "\n" for row in configs[part.config]))
    return replace(benchmark, parts=parts)


def write_parquet(rows: list[dict[str, Any]], path: Path) -> None:
    """Columns whose values name a colour hold images, as the Hub stores them."""
    import datasets

    def is_image(name: str) -> bool:
        return name == "image" or (name.startswith("image_") and name[6:].isdecimal())

    columns: dict[str, list[Any]] = {name: [row[name] for row in rows] for name in rows[0]}
    features = {}
    for name, values in columns.items():
        if is_image(name):
            assert {v[0] if isinstance(v, list) else v for v in values} <= COLOURS | {None}
            several = isinstance(values[0], list)
            features[name] = datasets.List(datasets.Image()) if several else datasets.Image()
            columns[name] = [[cell(x) for x in v] if several else cell(v) for v in values]
    data = datasets.Dataset.from_dict(columns)
    for name, feature in features.items():
        data = data.cast_column(name, feature)
    path.parent.mkdir(parents=True, exist_ok=True)
    data.to_parquet(str(path))


def cell(colour: str | None) -> dict[str, Any] | None:
    return None if colour is None else {"bytes": png(colour), "path": None}
