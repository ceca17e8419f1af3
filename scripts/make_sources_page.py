"""Write the tables of docs/sources.md and docs/benchmarks.md from what the sources say of themselves.

    python scripts/make_sources_page.py           # write them
    python scripts/make_sources_page.py --check   # exit code 1 if they are not up to date

They stand between marks such as <!-- corpora --> and <!-- /corpora -->; the rest of the pages is written by hand.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from vtrap_data.sources.benchmarks import BENCHMARKS
from vtrap_data.sources.corpora import CORPORA
from vtrap_data.sources.corpora.table import UNKNOWN, Subset
from vtrap_data.sources.counts import KNOWN_FROM

DOCS = Path(__file__).resolve().parent.parent / "docs"


def all_sources() -> Iterator[str]:
    """One row a source: what it is, where, how large, and whether it may be passed on."""
    yield "| source | Hub data set | commit | rows | licence | media may be passed on | rows of the tests |"
    yield "|---|---|---|--:|---|---|---|"
    for corpus in CORPORA.values():
        known = [subset.rows for subset in corpus.subsets.values() if subset.rows is not None]
        without = len(corpus.subsets) - len(known)
        about = "about " if any(subset.known == "viewer" for subset in corpus.subsets.values()) else ""
        rows = f"{about}{sum(known)}" + (f" and {without} subsets of unknown size" if without else "")
        yield _row(corpus, rows, f"tests/fixtures/corpora/columns/{corpus.name}.jsonl")
    for benchmark in BENCHMARKS.values():
        yield _row(benchmark, str(benchmark.rows), f"tests/fixtures/benchmarks/{benchmark.name}.jsonl")


def _row(source: Any, rows: str, fixture: str) -> str:
    ids = ", ".join(f"`{name}`" for name in source.ids)
    commit = f"`{source.revision[:12]}`" if source.revision else "none known"
    passed_on = _may(source.redistributable)
    return f"| `{source.name}` | {ids} | {commit} | {rows} | {source.licence} | {passed_on} | `{fixture}` |"


def corpora() -> Iterator[str]:
    """Each corpus: its facts, how they are known, and its subsets."""
    for corpus in CORPORA.values():
        yield from (f"### {corpus.name}", "", f"{corpus.title}: {', '.join(f'`{name}`' for name in corpus.ids)}", "")
        yield from ("| | | known from |", "|---|---|---|")
        yield f"| commit | {f'`{corpus.revision}` | code' if corpus.revision else 'none known: give `--revision` |'} |"
        for what, columns in (("columns", corpus.columns), ("columns that may be there", corpus.optional)):
            shown = ", ".join(f"`{name}`: {_type(kind)}" for name, kind in columns.items())
            yield f"| {what} | {shown} | {corpus.columns_known}: {corpus.columns_from} |"
        yield f"| licence | {corpus.licence}: {corpus.licence_note} | {corpus.licence_known} |"
        yield f"| media may be passed on | {_may(corpus.redistributable)} | |"
        places = ", ".join(f"`{place or '.'}/`" for place in corpus.layout) or "inside the rows"
        yield f"| media are looked for in | {places} | {corpus.layout_known} |"
        yield f"| counts | below | {corpus.counts_from} |"
        yield from ("", *(f"- {note.strip()}" for note in corpus.notes), *([""] if corpus.notes else []))
        yield from ("| subset | rows | known from |", "|---|--:|---|")
        for subset in corpus.subsets.values():
            yield f"| `{subset.name}` | {_rows(subset)} | {subset.known} |"
        yield ""


def _rows(subset: Subset) -> str:
    if subset.rows is None:
        return UNKNOWN
    return f"{'about ' if subset.known == 'viewer' else ''}{subset.rows}"


def _type(kind: Any) -> str:
    if isinstance(kind, list):
        return f"list of {_type(kind[0])}"
    if isinstance(kind, dict):
        return "{" + ", ".join(f"{key}: {_type(one)}" for key, one in kind.items()) + "}"
    return str(kind)


def licences() -> Iterator[str]:
    """What is said of the licence of each benchmark."""
    yield "| task | licence | media may be passed on | stated by, or looked for in |"
    yield "|---|---|---|---|"
    for name, one in BENCHMARKS.items():
        yield f"| `{name}` | {one.licence} | {_may(one.redistributable)} | {one.licence_stated} |"


def counts() -> Iterator[str]:
    """Where the row counts of the benchmarks are from."""
    yield "| task | rows | known from | document |"
    yield "|---|--:|---|---|"
    for name, one in BENCHMARKS.items():
        yield f"| `{name}` | {one.rows} | {', '.join(sorted({p.known for p in one.parts}))} | {one.counts_from} |"


def known() -> Iterator[str]:
    """The ways to know a fact."""
    yield from (f"- **{name}**: {what}" for name, what in KNOWN_FROM.items())


def _may(redistributable: bool) -> str:
    return "yes" if redistributable else "no"


PAGES = {
    "sources.md": {"all": all_sources, "known": known, "corpora": corpora},
    "benchmarks.md": {"licences": licences, "counts": counts},
}


def rewritten(page: str, text: str) -> str:
    """The page with its tables as the sources give them. Raises ValueError where a mark is missing."""
    for name, lines in PAGES[page].items():
        before, start, rest = text.partition(f"<!-- {name} -->\n")
        _, end, after = rest.partition(f"<!-- /{name} -->")
        if not start or not end:
            raise ValueError(f"docs/{page} has no marks <!-- {name} --> and <!-- /{name} -->")
        text = before + start + "\n".join(lines()).rstrip() + "\n" + end + after
    return text


def main() -> int:
    """Write or check."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--check", action="store_true", help="write nothing")
    check = parser.parse_args().check
    stale = []
    for page in PAGES:
        path = DOCS / page
        text = path.read_text(encoding="utf-8")
        if (new := rewritten(page, text)) != text:
            stale.append(page)
            if not check:
                path.write_text(new, encoding="utf-8")
    if check and stale:
        print(f"not up to date: {', '.join(stale)}; run python scripts/make_sources_page.py", file=sys.stderr)
    return 1 if check and stale else 0


if __name__ == "__main__":
    sys.exit(main())
