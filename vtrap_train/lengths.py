"""How many tokens does each sample have? Answered from the index and the tokenizer: no pixels."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from tqdm import tqdm

from vtrap_data.encoding import Cost, ModelRef, Shown, Size, load_config, token_cost, visual_tokens
from vtrap_data.errors import UnreachableError, UsageError, VtrapError
from vtrap_train.data import Mixture

COUNTED_TEXTS = 20_000
"""Rows whose text is tokenised before training begins. In a larger corpus the rest follows from their characters."""


def ceiling(asked: int | None, ref: ModelRef) -> int:
    """Most tokens of a sample: as asked, or what the model's position table or training allows.

    Raises:
        UsageError: More is asked than the model allows.
    """
    most = int(load_config(ref).get_text_config().max_position_embeddings)
    if asked is not None and asked > most:
        raise UsageError(
            f"--max_tokens {asked} is more than the {most} positions that {ref.name} has: leave it out, or use a "
            "checkpoint whose config.json has a larger max_position_embeddings"
        )
    return asked or most


ESTIMATED = "lengths are estimates: some texts were tokenised, the others follow from their characters in the index"
"""What is said where not every sample was counted."""


class Lengths(NamedTuple):
    """Tokens of every row of an epoch.

    Attributes:
        visual: int64 [rows]: tokens that stand for pixels.
        text: int64 [rows]: all others, chat template included.
        exact: Whether every row was counted; if not, some are estimated.
    """

    visual: NDArray[np.int64]
    text: NDArray[np.int64]
    exact: bool

    @property
    def tokens(self) -> NDArray[np.int64]:
        """int64 [rows]: all tokens."""
        return self.visual + self.text


def lengths(mixture: Mixture, processor: Any, *, counted_texts: int = COUNTED_TEXTS) -> Lengths:
    """Tokens of every row of an epoch at the frames it will be given.

    Beyond `counted_texts` rows, evenly spaced ones are counted, and of a stream those in its first shard. A straight
    line through them (text tokens over characters) gives the text of the others, and sizes in the index give their
    visual tokens.
    """
    # A mixture may hold a row several times: count it once.
    _, first, back = np.unique(mixture.rows, axis=0, return_index=True, return_inverse=True)
    back = back.reshape(-1)
    countable = np.flatnonzero(mixture.at_hand()[first])
    places = np.linspace(0, len(countable) - 1, min(counted_texts, len(countable)))
    picks = countable[np.unique(places.round().astype(int))]
    rows = tqdm(first[picks].tolist(), desc="tokens", unit="sample", delay=2, dynamic_ncols=True, leave=False)
    costs = [_cost(mixture, row, processor) for row in rows]
    counted = np.asarray([cost.text for cost in costs], dtype=np.int64)
    exact = len(picks) == len(first)
    if exact:
        return Lengths(np.asarray([cost.visual for cost in costs], dtype=np.int64)[back], counted[back], exact)
    chars = mixture.column("text_chars")[first]
    basis = np.stack([chars[picks], np.ones(len(picks))], axis=1)
    slope, offset = np.linalg.lstsq(basis, counted, rcond=None)[0]
    text = np.maximum(1, np.rint(slope * chars + offset)).astype(np.int64)
    text[picks] = counted
    visual = visual_lengths(mixture, mixture.column("n_frames"), processor)[first]
    visual[picks] = [cost.visual for cost in costs]
    return Lengths(visual[back], text[back], exact)


def visual_lengths(mixture: Mixture, frames: NDArray[Any], processor: Any) -> NDArray[np.int64]:
    """int64 [rows]: visual tokens of each row with `frames` [rows] frames per video, from the index alone."""
    sizes = zip(
        np.where(mixture.column("kind") == "video", frames, 0).tolist(),
        mixture.column("n_images").tolist(),
        mixture.column("width").tolist(),
        mixture.column("height").tolist(),
        strict=True,
    )
    known: dict[tuple[int, ...], int] = {}
    out = []
    for facts in sizes:
        if facts not in known:
            n_frames, n_images, width, height = facts
            # The index knows the first image's size; the others are taken to be like it.
            shown = Shown((Size(width, height),) * n_images, n_frames, Size(width, height), (0.0,) * n_frames)
            try:
                known[facts] = visual_tokens(shown, processor)
            except ValueError:  # of a size that the model does not take: encoding leaves it out, and says so
                known[facts] = 0
        out.append(known[facts])
    return np.asarray(out, dtype=np.int64)


def _cost(mixture: Mixture, row: int, processor: Any) -> Cost:
    try:
        outline = mixture.outline(row)
        return token_cost(outline.messages, outline.shown, processor)
    except UnreachableError:
        raise
    except VtrapError:
        return Cost(0, 1)  # it will be skipped, with its reason, when its turn comes
