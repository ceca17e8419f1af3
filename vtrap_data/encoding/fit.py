"""At which sizes does a model take frames as they are? For `pack --fit`."""

from __future__ import annotations

from typing import Any

from vtrap_data.encoding.families import family_of
from vtrap_data.errors import UsageError
from vtrap_data.media.size import Fit


def fit_of(processor: Any, *, model: str, frames: int) -> Fit:
    """What frames must be like so that `encode` need not scale them.

    Args:
        processor: Of the model.
        model: Its name, for the manifest and errors.
        frames: The most that a sample has. Samples with fewer are taken as they are, too, but for a Qwen3-VL that
            demands more pixels of a whole video than they have.

    Raises:
        UsageError: The family scales or cuts every frame, or the processor's bounds leave no size.
    """
    family = family_of(processor)
    if family.frame_bounds is None:
        raise UsageError(
            f"--fit {model}: {family.name} scales or cuts every frame to one size, so none can be stored that it "
            "takes as it is: use --short-side"
        )
    try:
        return Fit(model=model, **family.frame_bounds(frames, processor)._asdict())
    except ValueError as error:
        raise UsageError(f"--fit {model}, {frames} frames: {error}: use fewer frames, or --short-side") from None
