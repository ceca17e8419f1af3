"""Was the answer right, and what share was? Metrics are `evaluate.Metric` classes that need no network.

Instantiate them (`Accuracy()`): `evaluate.load` would look for the metric on the Hub.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import datasets
import evaluate

from vtrap_bench.extract import is_right

_DESCRIPTION = """\
Accuracy of extracted answers, in percent. An answer that could not be extracted is given as "" and is wrong.
"""


class Accuracy(evaluate.Metric):  # type: ignore[misc]
    """Share of right answers. `compute(predictions=..., references=...)` gives `accuracy` in 0..100."""

    def __init__(self) -> None:
        super().__init__(keep_in_memory=True)

    def _info(self) -> evaluate.MetricInfo:
        return evaluate.MetricInfo(
            description=_DESCRIPTION,
            citation="",
            inputs_description="predictions: extracted values, '' where there is none. references: right answers.",
            features=datasets.Features(
                {"predictions": datasets.Value("string"), "references": datasets.Value("string")}
            ),
        )

    def _compute(self, predictions: Sequence[str], references: Sequence[str]) -> dict[str, Any]:
        right = sum(is_right(p, r) for p, r in zip(predictions, references, strict=True))
        return {"accuracy": 100.0 * right / len(references)}
