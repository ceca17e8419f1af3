"""How many tokens will a sample cost? Answered from sizes and words alone, without pixels."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np

from vtrap_data.encoding.families import family_of
from vtrap_data.encoding.family import Shown
from vtrap_data.encoding.tokens import lay_out
from vtrap_data.samples import Message


class Cost(NamedTuple):
    """Tokens of one sample.

    Attributes:
        visual: That stand for pixels.
        text: All others, chat template included.
    """

    visual: int
    text: int

    @property
    def tokens(self) -> int:
        """All of them: the length that `encode` gives the sample."""
        return self.visual + self.text


def token_cost(messages: Sequence[Message], shown: Shown, processor: Any, *, train: bool = True) -> Cost:
    """What `encode` would make of this conversation about media of these sizes.

    Raises:
        SampleError: BAD_ROW, as there, if marks and media do not match or the model takes no such media.
    """
    types = lay_out(messages, shown, processor, train=train).types
    visual = int(np.count_nonzero(types))
    return Cost(visual, len(types) - visual)


def visual_tokens(shown: Shown, processor: Any) -> int:
    """Tokens that stand for the pixels of a sample, whatever is said about them."""
    family = family_of(processor)
    return sum(family.image_tokens(shown, processor)) + sum(family.video_tokens(shown, processor))
