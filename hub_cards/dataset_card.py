"""What does the README of a packed dataset say, so that stock `load_dataset` works and a reader knows what is inside?

The features are declared, never inferred: without them `datasets` looks at five samples of one shard and silently
drops or truncates what comes later.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from hub_cards.licences import licence_metadata
from hub_cards.rendering import card

Scalar = str | int | float | bool | None


@dataclass(frozen=True, slots=True, kw_only=True)
class SourceFacts:
    """One source of a corpus.

    Attributes:
        name: Name of the corpus.
        licence: SPDX id or a short name, as the source states it; "unknown" when it does not.
        redistributable: Whether it may be published. None: nobody knows.
        samples: Media items (and text samples) taken from it.
        items: Conversations or questions taken from it.
    """

    name: str
    licence: str
    redistributable: bool | None
    samples: int
    items: int


@dataclass(frozen=True, slots=True, kw_only=True)
class DatasetFacts:
    """Everything that the card of a packed dataset says.

    Attributes:
        pretty_name: The title.
        repo_id: `owner/name` on the Hub, for the snippets. None: they show the path of a local folder.
        description: One or two sentences of the author; may be empty.
        sources: Where the samples come from.
        splits: Split name to the glob of its tars, relative to the folder: `{"train": "data/train-*.tar"}`.
        n_samples: Media items and text samples.
        n_items: Conversations or questions.
        kinds: Samples per kind ("video", "images", "text").
        strategy: Budget strategy, as given: "hybrid", "fixed:16", ...
        params: Parameters of the strategy, solved ones included (`eps`, ...).
        budgets: Frames granted -> number of video items. Images and text are left out.
        settings: Other settings of the packing: slots, short side, seed, ...
        provenance: How it was made: tool and decoder versions, date, commands.
        quarantine: Reason -> number of samples set aside.
        histograms: Title -> (range -> count), as they are to be shown.
        frames_used: Mean frames per video item "packed", and at each fixed budget ("fixed:8", ...).
        format_version: Version of the shard format.
        synthetic: Generated, not recorded; said at the top.
        benchmark: Questions to score rather than conversations to train on.
    """

    pretty_name: str
    sources: tuple[SourceFacts, ...]
    splits: Mapping[str, str]
    n_samples: int
    n_items: int
    strategy: str
    format_version: int
    repo_id: str | None = None
    description: str = ""
    kinds: Mapping[str, int] = field(default_factory=dict)
    params: Mapping[str, Scalar] = field(default_factory=dict)
    budgets: Mapping[int, int] = field(default_factory=dict)
    settings: Mapping[str, Any] = field(default_factory=dict)
    provenance: Mapping[str, Scalar] = field(default_factory=dict)
    quarantine: Mapping[str, int] = field(default_factory=dict)
    histograms: Mapping[str, Mapping[str, int]] = field(default_factory=dict)
    frames_used: Mapping[str, float] = field(default_factory=dict)
    synthetic: bool = False
    benchmark: bool = False

    @property
    def mean_frames(self) -> float | None:
        """Mean budget over the video items; None when there are none."""
        items = sum(self.budgets.values())
        return sum(frames * n for frames, n in self.budgets.items()) / items if items else None


def features() -> list[dict[str, Any]]:
    """The `dataset_info.features` of every packed dataset, as the Hub's YAML wants them.

    Returns:
        One entry per column: `json` (the sample, exactly the keys of `PackedSample.to_json`), `frames.mp` and
        `images.mp` (lists of images), `__key__` and `__url__`. What may be fractional is float64 in every row.
    """
    message = _columns(role="string", content="string")
    item = [
        *_columns(id="string"),
        {"name": "messages", "list": message},
        *_columns(question="string"),
        {"name": "options", "list": "string"},
        *_columns(answer="string", ability="string", category="string", needs="int64", budget="int64"),
        {"name": "frame_ids", "list": "int64"},
        *_columns(demand="float64"),
        {"name": "scores", "list": "float64"},
    ]
    video = [
        *_columns(name="string", sha256="string", duration="float64", fps="float64", width="int64", height="int64"),
        {"name": "frame_times", "list": "float64"},
        {"name": "frame_bytes", "list": "int64"},
        {"name": "pool", "list": "int64"},
        {"name": "residuals", "list": "float64"},
    ]
    sample = [
        *_columns(key="string", id="string", kind="string", source="string", licence="string", redistributable="bool"),
        {"name": "items", "list": item},
        {"name": "video", "struct": video},
        {"name": "images", "list": _columns(name="string", sha256="string", width="int64", height="int64")},
        *_columns(format="int64"),
    ]
    return [
        {"name": "json", "struct": sample},
        {"name": "frames.mp", "list": "image"},
        {"name": "images.mp", "list": "image"},
        *_columns(__key__="string", __url__="string"),
    ]


def dataset_card(facts: DatasetFacts) -> str:
    """The README.md of a packed dataset: YAML front matter with the declared features, then Markdown.

    Args:
        facts: What to say.

    Raises:
        ValueError: No split, or a split name or glob that the Hub's loader would not take as it is.
    """
    if not facts.splits:
        raise ValueError("a dataset card needs at least one split, such as {'train': 'data/train-*.tar'}")
    for split, glob in facts.splits.items():
        if not re.fullmatch(r"\w+(\.\w+)*", split):
            raise ValueError(f"split name {split!r}: letters, digits, underscores and dots only")
        if glob.startswith("/") or ".." in glob.split("/"):
            raise ValueError(f"glob {glob!r} of split {split!r} must stay inside the dataset's folder")
    metadata = {
        "pretty_name": facts.pretty_name,
        **_licence(facts.sources),
        "language": ["en"],
        "task_categories": ["video-text-to-text", "image-text-to-text", "visual-question-answering"],
        "size_categories": [size_category(facts.n_samples)],
        "tags": ["webdataset", "video", "vtrap", *(["synthetic"] if facts.synthetic else [])],
        "configs": [
            {
                "config_name": "default",
                "default": True,
                "data_files": [{"split": split, "path": glob} for split, glob in facts.splits.items()],
            }
        ],
        # No num_examples or num_bytes: a number that is a little off makes loading fail, and nothing needs it.
        "dataset_info": [{"config_name": "default", "features": features()}],
    }
    most = max(facts.budgets.values(), default=0)
    histogram = [
        {"frames": frames, "items": n, "share": n / sum(facts.budgets.values()), "bar": "█" * round(20 * n / most)}
        for frames, n in sorted(facts.budgets.items())
        if n
    ]
    return card(
        metadata,
        "dataset.md.jinja",
        facts=facts,
        histogram=histogram,
        refused=refuse_reasons(facts),
        split=next(iter(facts.splits)),
        where=facts.repo_id or "path/to/this/folder",
    )


def refuse_reasons(facts: DatasetFacts) -> list[str]:
    """Why the dataset may not be published, one sentence per reason; empty when it may."""
    reasons = []
    forbidden = [f"{s.name} ({s.licence})" for s in facts.sources if s.redistributable is False]
    unknown = [f"{s.name} ({s.licence})" for s in facts.sources if s.redistributable is None]
    if forbidden:
        reasons.append(
            f"It may not be redistributed, or nobody who made it has said that it may: {', '.join(forbidden)}. Pack "
            "without it, or keep the dataset on your own machines."
        )
    if unknown:
        reasons.append(
            f"Nobody has said whether it may be redistributed: {', '.join(unknown)}. Read the source's licence and "
            'set "redistributable" to true or false in its rows, then pack again.'
        )
    return reasons


def size_category(n: int) -> str:
    """The Hub's `size_categories` value for `n` samples.

    Example:
        >>> size_category(999), size_category(1000), size_category(2_000_000)
        ('n<1K', '1K<n<10K', '1M<n<10M')
    """
    names = ["1K", "10K", "100K", "1M", "10M", "100M", "1B", "10B", "100B", "1T"]
    for power, name in enumerate(names):
        if n < 10 ** (3 + power):
            return f"n<{name}" if power == 0 else f"{names[power - 1]}<n<{name}"
    return "n>1T"


def _columns(**dtypes: str) -> list[dict[str, Any]]:
    return [{"name": name, "dtype": dtype} for name, dtype in dtypes.items()]


def _licence(sources: Sequence[SourceFacts]) -> dict[str, Any]:
    """The roll-up: the one licence that all sources share, or "other" with a pointer to the table."""
    licences = sorted({s.licence.lower() for s in sources})
    return licence_metadata("several" if len(licences) > 1 else licences[0] if licences else "unknown")
