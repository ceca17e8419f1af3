"""What does the README of a checkpoint say: from what, on what, how, and what it gained and lost?"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from hub_cards.licences import licence_metadata
from hub_cards.rendering import card
from hub_cards.results import ResultRow

HUB_ID = re.compile(r"[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*")
"""`owner/name`. What is none (a local folder, a model inside the package) is not put in the metadata."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelFacts:
    """Everything that the card of a checkpoint says.

    Attributes:
        model_id: `owner/name` on the Hub.
        base_model: Hub id, or the name of a model that ships with vtrap.
        base_revision: Commit of the base model.
        data: Corpora it was trained on: Hub ids, or names.
        frames: Frame setting of the training: "hybrid", "8", ...
        licence: Licence of the weights: a Hub identifier or a short name; usually that of the base model.
        licence_link: Where the text of one is that the Hub does not know.
        checkpoint: Name of the revision, where this is an intermediate checkpoint.
        checkpoints: Revisions that hold intermediate checkpoints.
        recipe: Hyperparameters and other settings, as given.
        training: What came out: steps, loss, samples seen and skipped, hours, ...
        table: The trade-off: the base and this model, at each frame setting it was scored at.
        figure: File name of the trade-off figure, beside the card.
        preprocessing: The preprocessing manifest saved with the weights.
        synthetic: Trained or scored on generated data; said at the top.
        library_versions: Library to version.
    """

    model_id: str
    base_model: str
    data: tuple[str, ...]
    frames: str
    licence: str = "unknown"
    licence_link: str | None = None
    checkpoint: str | None = None
    checkpoints: tuple[str, ...] = ()
    base_revision: str | None = None
    recipe: Mapping[str, Any] = field(default_factory=dict)
    training: Mapping[str, Any] = field(default_factory=dict)
    table: tuple[ResultRow, ...] = ()
    figure: str | None = None
    preprocessing: Mapping[str, Any] = field(default_factory=dict)
    synthetic: bool = False
    library_versions: Mapping[str, str] = field(default_factory=dict)


def model_card(facts: ModelFacts) -> str:
    """The README.md of a checkpoint: metadata that links base model and data, then Markdown.

    Raises:
        ValueError: `model_id` is not `owner/name`, or `figure` is a path.
    """
    if not HUB_ID.fullmatch(facts.model_id):
        raise ValueError(f"model id {facts.model_id!r} must be owner/name, such as vtrap/qwen2.5-vl-3b-hybrid")
    if facts.figure is not None and not re.fullmatch(r"\w[\w.-]*", facts.figure):
        raise ValueError(f"figure {facts.figure!r} must be the name of a file beside the card")
    datasets = [name for name in facts.data if HUB_ID.fullmatch(name)]
    metadata: dict[str, Any] = {
        **licence_metadata(facts.licence, link=facts.licence_link),
        "library_name": "transformers",
    }
    if HUB_ID.fullmatch(facts.base_model):
        metadata |= {"base_model": facts.base_model, "base_model_relation": "finetune"}
    if datasets:
        metadata["datasets"] = datasets
    metadata |= {
        "pipeline_tag": "video-text-to-text",
        "tags": ["vtrap", "video", "sft", "trl", *(["synthetic"] if facts.synthetic else [])],
    }
    return card(metadata, "model.md.jinja", facts=facts, preprocessing=_flat(facts.preprocessing))


def _flat(data: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Nested settings by dotted name, as a table has no depth."""
    flat: dict[str, Any] = {}
    for key, value in data.items():
        flat |= _flat(value, f"{prefix}{key}.") if isinstance(value, Mapping) else {f"{prefix}{key}": value}
    return flat
