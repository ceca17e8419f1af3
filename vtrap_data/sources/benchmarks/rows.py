"""Where are the rows of a benchmark? Reads them with stock `datasets`, from a folder or from the Hub."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from hub_cards.errors import one_line
from hub_cards.reachable import unreachable
from vtrap_data.errors import UsageError, first_line
from vtrap_data.sources.benchmarks.spec import Benchmark, Part, Row

_BUILDERS = {".parquet": "parquet", ".jsonl": "json", ".json": "json", ".csv": "csv", ".tsv": "csv"}

_REFERENCE = 64
"""Characters that the index of another row has at most where a picture is looked for, as VLMEvalKit has it."""


def read_rows(benchmark: Benchmark, part: Part, *, source: str, revision: str | None) -> Iterator[Row]:
    """The rows of one part, in their order; images as `{"bytes", "path"}`, not decoded.

    Args:
        benchmark: Which.
        part: Which configuration of it.
        source: A folder, or the id of a data set on the Hub.
        revision: Commit on the Hub; a folder has none.

    Raises:
        UsageError: There are no such rows, the Hub's have no pinned revision, or columns are missing.
    """
    folder = Path(source)
    if folder.is_dir():
        rows = _local(part, folder, only=len(benchmark.parts) == 1)
    else:
        rows = _hub(benchmark, part, source, revision)
    names: Mapping[str, str] | None = None
    for row in rows:
        if names is None:
            names = _spelt(benchmark, row)
            _check_columns(benchmark, part, _renamed(row, names))
        yield _renamed(row, names)


def _spelt(benchmark: Benchmark, row: Row) -> Mapping[str, str]:
    """What columns are called that some files spell otherwise: `l2-category`, `L2-category`, `l2_category`."""
    wanted = {_plain(column): column for column in benchmark.columns if column not in row}
    return {column: wanted[_plain(column)] for column in row if _plain(column) in wanted}


def _plain(column: str) -> str:
    return column.casefold().replace("-", "_")


def _renamed(row: Row, names: Mapping[str, str]) -> Row:
    return {names.get(column, column): value for column, value in row.items()} if names else row


def local_files(part: Part, folder: Path, *, only: bool) -> list[Path]:
    """The files of a part in a folder.

    They are below the folder named like the configuration where there is one, or are called like it; of those the ones
    that name the split, where any does.

    Args:
        part: Which.
        folder: Where.
        only: The benchmark has no other part, so that its files need not name it.

    Raises:
        UsageError: There is no file, or files of two kinds.
    """
    below = [path for path in folder.rglob(part.config) if path.is_dir()]
    found = [p for root in below or [folder] for p in sorted(root.rglob("*")) if p.suffix in _BUILDERS and p.is_file()]
    found = [p for p in found if not any(q.startswith(".") for q in p.relative_to(folder).parts)]
    if not below:
        found = [p for p in found if _names(p, part.config)] or (found if only else [])
    found = [p for p in found if _names(p, part.split) or p.parent.name == part.split] or found
    # Beside parquet, JSON files describe the data set.
    found = [p for p in found if p.suffix == ".parquet"] or found
    kinds = {_BUILDERS[p.suffix] for p in found}
    if not found:
        raise UsageError(f"--rows {folder}: no {', '.join(_BUILDERS)} files of {part.config}/{part.split} below it")
    if len(kinds) > 1:
        raise UsageError(f"--rows {folder}: files of several kinds ({', '.join(p.name for p in found[:4])}): keep one")
    return found


def _names(path: Path, word: str) -> bool:
    """Whether a file is called like a split or a configuration: "test.json", "test-00000-of-00002.parquet"."""
    return path.stem == word or path.stem.startswith((f"{word}-", f"{word}_", f"{word}."))


def _local(part: Part, folder: Path, *, only: bool) -> Iterator[Row]:
    from datasets import load_dataset
    from datasets.exceptions import DatasetsError

    files = local_files(part, folder, only=only)
    builder = _BUILDERS[files[0].suffix]
    options: dict[str, Any] = {}
    if builder == "csv":
        options = {"delimiter": "\t" if files[0].suffix == ".tsv" else ","}

    def rows() -> Iterator[Row]:
        # Streaming: no second copy of every image in a cache.
        data = load_dataset(builder, data_files=[str(f) for f in files], split="train", streaming=True, **options)
        return _undecoded(data)

    try:
        if builder == "csv":
            options |= _as_written(files, delimiter=options["delimiter"])
        yield from _with_images(rows) if builder == "csv" else rows()
    except (ValueError, OSError, DatasetsError) as error:
        raise UsageError(f"--rows {folder}: {files[0].name} cannot be read: {first_line(error)}") from error


def _as_written(files: Sequence[Path], *, delimiter: str) -> dict[str, Any]:
    """Options by which the cells of tables stay as they stand there; None where one is empty.

    By itself pandas makes numbers of "007" and "1e5", and nothing of "None": options of a question, it may be.
    """
    import pandas

    names = {name for file in files for name in pandas.read_csv(file, sep=delimiter, nrows=0).columns}
    return {"converters": dict.fromkeys(names, _cell), "keep_default_na": False}


def _cell(text: str) -> str | None:
    return text or None


def _with_images(rows: Callable[[], Iterator[Row]]) -> Iterator[Row]:
    """The rows of a table, in which `image` may be the `index` of the row that holds the picture, to save space."""
    wanted = {cell for row in rows() if (cell := row.get("image")) and len(cell) <= _REFERENCE}
    images = {row.get("index"): row["image"] for row in rows() if row.get("index") in wanted} if wanted else {}
    for row in rows():
        yield {**row, "image": images.get(row["image"], row["image"])} if images else row


def _hub(benchmark: Benchmark, part: Part, source: str, revision: str | None) -> Iterator[Row]:
    from datasets import load_dataset
    from datasets.exceptions import DatasetsError
    from huggingface_hub.errors import HfHubHTTPError

    if Path(source).exists():
        raise UsageError(f"--rows {source} is a file: give the folder that holds it")
    if "/" not in source or source.startswith((".", "/")) or source.count("/") > 1:
        raise UsageError(f"--rows {source}: no such folder, nor an id on the Hub ({', '.join(benchmark.ids)})")
    pinned = revision or benchmark.pinned(source)
    if pinned is None:
        raise UsageError(
            f"--rows {source}: give --revision, a commit of it, so that the same rows come every time "
            f"(known without: {', '.join(benchmark.ids) if benchmark.revision else 'none'})"
        )
    config = None if part.config == "default" else part.config
    where = f"--rows {source}, revision {pinned}, {part.config}/{part.split}"
    if (away := unreachable()) is not None:
        raise UsageError(f"{where}: {away}: name a folder that holds its files")
    try:
        data = load_dataset(source, config, split=part.split, revision=pinned, streaming=True)
        yield from _undecoded(data)
    except (ValueError, OSError, DatasetsError, HfHubHTTPError) as error:
        raise UsageError(f"{where}: {one_line(error)}") from error


def _undecoded(data: Any) -> Iterator[Row]:
    from datasets import Image, List

    for name, feature in (data.features or {}).items():
        if isinstance(feature, Image):
            data = data.cast_column(name, Image(decode=False))
        elif isinstance(getattr(feature, "feature", None), Image):
            data = data.cast_column(name, List(Image(decode=False)))
    yield from data


def _check_columns(benchmark: Benchmark, part: Part, row: Row) -> None:
    if missing := [column for column in benchmark.columns if column not in row]:
        raise UsageError(
            f"{benchmark.name}, {part.config}/{part.split}: the rows lack the columns {', '.join(missing)}; they have "
            f"{', '.join(sorted(row))}"
        )
