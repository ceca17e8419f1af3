"""Write docs/api.md from the docstrings of what is public.

    python scripts/make_api_page.py           # write the page
    python scripts/make_api_page.py --check   # exit code 1 if it is not up to date

What is public is PUBLIC below, and nothing else: these names keep their meaning, or CHANGELOG.md says so. The code is
read, not imported, so it takes a second and needs neither torch nor a GPU.
"""

from __future__ import annotations

import argparse
import re
import sys
from collections.abc import Iterator
from pathlib import Path

import griffe

ROOT = Path(__file__).resolve().parent.parent
PAGE = ROOT / "docs" / "api.md"

PUBLIC: dict[str, tuple[str, ...]] = {
    "vtrap_data.samples": ("Message", "Item", "Example", "Frames", "PackedSample"),
    "vtrap_data.shards.manifest": ("PackSettings",),
    "vtrap_data.shards.pack": ("pack",),
    "vtrap_data.shards.doctor": ("doctor", "Fault"),
    "vtrap_data.shards.stats": ("stats",),
    "vtrap_data.shards.reallocate": ("reallocate",),
    "vtrap_data.shards.contamination": ("contamination",),
    "vtrap_data.media.select": ("pool_frames", "subset_slots"),
    "vtrap_data.budgets.demand": ("demands",),
    "vtrap_data.budgets.coverage": ("residuals",),
    "vtrap_data.budgets.allocate": ("allocate", "Need", "Allocation"),
    "vtrap_data.loading.dataset": ("PackedDataset",),
    "vtrap_data.loading.corpus": ("Corpus", "Part"),
    "vtrap_data.loading.loader": ("Loader",),
    "vtrap_data.loading.stream": ("Stream",),
    "vtrap_data.encoding.models": ("resolve", "load_processor", "load_model", "ModelRef"),
    "vtrap_data.encoding.tokens": ("encode", "Encoded"),
    "vtrap_data.encoding.batch": ("collate",),
    "vtrap_data.encoding.families": ("install", "accept_bytes"),
    "vtrap_data.encoding.check": ("check_tokens",),
    "vtrap_data.encoding.cost": ("token_cost", "Cost"),
    "vtrap_data.errors": ("VtrapError", "UsageError", "SampleError", "Reason"),
    "vtrap_train.config": ("parse",),
    "vtrap_train.plan": ("plan",),
    "vtrap_train.run": ("run",),
    "vtrap_bench.tasks": ("select_tasks",),
    "vtrap_bench.tasks.task": ("Task",),
    "vtrap_bench.backends": ("Backend", "Generation"),
    "vtrap_bench.records": ("Record", "read_records"),
    "vtrap_bench.finished": ("read_run", "Run"),
    "vtrap_bench.compare": ("compare", "Comparison", "Difference"),
    "vtrap_bench.report": ("write_report",),
    "vtrap_bench.statistics": ("share_interval", "paired_difference", "holm", "minimum_detectable_change"),
    "hub_cards.publishing": ("publish", "Publication", "Published"),
    "hub_cards.dataset_card": ("dataset_card", "DatasetFacts"),
    "hub_cards.model_card": ("model_card", "ModelFacts"),
    "hub_cards.leaderboard": ("leaderboard_html",),
    "hub_cards.results": ("ResultRow", "Estimate"),
    "hub_cards.errors": ("Refused", "Failed"),
}
"""Module: names."""

HEAD = """\
# The Python interface

<!-- Made by scripts/make_api_page.py: do not edit. -->

Most of what vtrap does is a command. These are the functions and types that keep their names and meaning, for scripts
and notebooks of your own; [CHANGELOG](../CHANGELOG.md) says when one changes. Everything else may change at any time.
Import each from the module that it stands under: `from vtrap_data.loading.dataset import PackedDataset`.

Importing a package loads none of torch, transformers, trl, datasets or pyarrow, and takes 0.05 s at most
(`python -X importtime`, Python 3.11, files in the page cache). What a function needs is loaded with its module.
"""


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--check", action="store_true", help="write nothing; exit code 1 if the page is old")
    args = parser.parse_args(argv)
    text = page()
    if not args.check:
        PAGE.write_text(text, "utf-8")
        return 0
    if PAGE.is_file() and PAGE.read_text("utf-8") == text:
        return 0
    print("docs/api.md is not up to date: python scripts/make_api_page.py", file=sys.stderr)
    return 1


def page() -> str:
    """The whole page, Markdown."""
    parts = [HEAD]
    package = ""
    for name, names in PUBLIC.items():
        if name.split(".")[0] != package:
            package = name.split(".")[0]
            parts.append(f"## {package}\n")
        module = read(name)
        parts.append(f"### `{name}`\n")
        for one in names:
            parts += described(module[one])
    return re.sub(r"\n{3,}", "\n\n", "\n".join(parts)).rstrip() + "\n"


def read(name: str) -> griffe.Module:
    """A module as its source says, without importing it."""
    path = ROOT.joinpath(*name.split("."))
    path = path / "__init__.py" if path.is_dir() else path.with_suffix(".py")
    return griffe.visit(
        name,
        filepath=path,
        code=path.read_text("utf-8"),
        docstring_parser=griffe.Parser.google,
        docstring_options={"returns_multiple_items": False},  # or every line of one would be another
    )


def described(found: griffe.Object | griffe.Alias) -> Iterator[str]:
    """A function, or a type with its public methods."""
    assert found.docstring is not None, f"{found.path} has no docstring"
    yield f"#### `{signature(found)}`\n"
    yield from docstring(found)
    if not found.is_class:
        return
    for member in found.members.values():
        if member.is_function and not member.name.startswith("_") and member.docstring is not None:
            yield f"- `{signature(member)}`: {one_line(member.docstring.value.split(chr(10) * 2)[0])}"
    yield ""


def docstring(found: griffe.Object | griffe.Alias) -> Iterator[str]:
    assert found.docstring is not None
    for section in found.docstring.parsed:
        if section.kind is griffe.DocstringSectionKind.text:
            yield f"{section.value}\n"
        elif section.kind in (griffe.DocstringSectionKind.parameters, griffe.DocstringSectionKind.attributes):
            yield from (f"- `{entry.name}`: {one_line(entry.description)}" for entry in section.value)
            yield ""
        elif section.kind is griffe.DocstringSectionKind.returns:
            yield from (f"Returns: {one_line(entry.description)}\n" for entry in section.value)
        elif section.kind is griffe.DocstringSectionKind.raises:
            yield from (f"Raises `{entry.annotation}`: {one_line(entry.description)}\n" for entry in section.value)


def signature(found: griffe.Object | griffe.Alias) -> str:
    """The head of a function as it stands in the code; of a type its name and bases."""
    if isinstance(found, griffe.Function):
        return found.signature(return_type=True)
    bases = ", ".join(str(base) for base in found.bases) if isinstance(found, griffe.Class) else ""
    return f"class {found.name}({bases})" if bases else f"class {found.name}"


def one_line(text: str) -> str:
    return " ".join(text.split())


if __name__ == "__main__":
    sys.exit(main())
