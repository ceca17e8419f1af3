"""Which instruction corpora are known by name, and how do they become a file to pack?

- corpora.yaml: the corpora, as data: where they are, their columns, counts, licence, and how each fact is known
- table.py: the types of that data, checked when it is read
- rows.py: the rows of JSON, JSONL and parquet files, a few at a time
- convert.py: rows in, `questions.jsonl` for `pack` out, with row counts beside the expected ones
- cli.py: `python -m vtrap_data corpus`
"""

from vtrap_data.sources.corpora.table import CORPORA

__all__ = ["CORPORA"]
