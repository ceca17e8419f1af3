"""What answers the questions? A backend turns a batch of examples into texts; each is a module that is loaded late."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple, Protocol

from vtrap_data.encoding.models import ModelRef
from vtrap_data.samples import Example


class Generation(NamedTuple):
    """One answer.

    Attributes:
        text: What the model wrote, without special tokens.
        visual_tokens: Tokens of the prompt that stand for pixels.
        n_prompt_tokens: All tokens of the prompt.
    """

    text: str
    visual_tokens: int
    n_prompt_tokens: int


class Backend(Protocol):
    """A loaded model."""

    @property
    def preprocessing(self) -> Mapping[str, Any]:
        """The preprocessing manifest (`vtrap_data.encoding.preprocessing`)."""

    def generate(self, examples: Sequence[Example], *, max_new_tokens: int) -> list[Generation]:
        """Answer each example greedily; an answer does not depend on the others in the batch."""


@dataclass(frozen=True, slots=True, kw_only=True)
class BackendSettings:
    """How to load a model.

    Attributes:
        model: Which, its path a local directory.
        dtype: Of the weights: "float32", "bfloat16" or "float16".
        device: As torch names it: "cpu", "cuda", "cuda:1".
    """

    model: ModelRef
    dtype: str
    device: str


OpenBackend = Callable[[BackendSettings], Backend]


def _transformers(settings: BackendSettings) -> Backend:
    from vtrap_bench.backends.transformers_backend import TransformersBackend

    return TransformersBackend(settings)


BACKENDS: dict[str, OpenBackend] = {"transformers": _transformers}
GENERATION: dict[str, Any] = {"do_sample": False, "num_beams": 1, "repetition_penalty": 1.0}
"""Generation settings of every backend. They replace what the checkpoint suggests (Qwen2.5-VL: penalty 1.05)."""
