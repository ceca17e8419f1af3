"""What is a task? A benchmark, how it is asked, how its answers are read and scored, and where it comes from."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from vtrap_bench.extract import AnswerForm
from vtrap_bench.grading import Grader
from vtrap_bench.measures import Measure
from vtrap_data.samples import Example, Item, Message
from vtrap_data.sources.benchmarks.spec import Benchmark

Modality = Literal["image", "video"]
PROMPTS_VERSION = 1
"""Of the prompt profiles that ship with vtrap. A change to any prompt bumps it (CHANGELOG label PROMPT)."""


@dataclass(frozen=True, slots=True, kw_only=True)
class PromptProfile:
    """One way to ask: which turns the model sees, and which form of answer they ask for."""

    messages: Callable[[Item], tuple[Message, ...]]
    form: AnswerForm


@dataclass(frozen=True, slots=True, kw_only=True)
class Task:
    """A benchmark.

    Attributes:
        name: As typed after --tasks; also the name of its folder of packed data.
        version: Bumped when data, prompts, extraction or metric change its scores. Runs of different versions are
            never compared.
        modality: "image" or "video": which group its score counts in.
        abilities: What its items test, in the order tables show them.
        profiles: Ways to ask by name; "vtrap" is the default one.
        metric: Makes the `evaluate.Metric` whose `compute(predictions, references)` gives `accuracy` in percent. None:
            the mean of what `grade` gives.
        cluster: What items share that makes them dependent: "media" (one video or picture), "item" (nothing).
        max_new_tokens: Longest answer in tokens.
        synthetic: Generated, and labelled so wherever its scores are shown.
        build: Command lines for `python -m vtrap_data` that make the packed data from nothing: given a working folder,
            they leave it in `<folder>/packed`. None: it cannot be made and must be in --benchmarks.
        source: The benchmark as its authors publish it: where its rows are, its categories and their abilities. None:
            it is vtrap's own.
        grade: Reads a response and says what it earns. None: by the form of the profile, right or wrong.
        measure: The benchmark's own numbers, from the records of all its items: `extra` in `scores.json`.
    """

    name: str
    version: int
    modality: Modality
    abilities: tuple[str, ...]
    profiles: Mapping[str, PromptProfile]
    metric: Callable[[], Any] | None = None
    cluster: Literal["media", "item"] = "media"
    max_new_tokens: int
    synthetic: bool = False
    build: Callable[[Path], Sequence[Sequence[str]]] | None = None
    source: Benchmark | None = None
    grade: Grader | None = None
    measure: Measure | None = None

    def __post_init__(self) -> None:
        if self.metric is None and self.grade is None:
            raise ValueError(f"task {self.name} has neither a metric nor a grade: nothing would score it")

    def cluster_of(self, example: Example) -> str:
        """Name of the cluster that an item belongs to."""
        return example.key if self.cluster == "media" else example.item.id


def as_packed(item: Item) -> tuple[Message, ...]:
    """The turns as they were packed."""
    return item.messages


def accuracy() -> Any:
    """The accuracy metric, imported when a score is computed: `evaluate` takes seconds to import."""
    from vtrap_bench.metrics import Accuracy

    return Accuracy()
