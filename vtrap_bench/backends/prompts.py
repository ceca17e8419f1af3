"""How is an engine that does its own preprocessing made to see exactly what `encoding` would show it?

Engines want prompts in which one token stands for each picture or video, and expand them by themselves. So they are
given `encode`'s prompt, folded, and what they made of it is held against `encode`'s own, token by token. A video is
given as its frames, with their rate, from which an engine gets the very seconds per grid that `encode` went by.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from typing import Any, NamedTuple

from vtrap_data.encoding import Encoded
from vtrap_data.errors import VtrapError


class Video(NamedTuple):
    """Metadata of a video whose frames have been chosen, as vLLM and transformers take it.

    Attributes:
        fps: Frames per second *of the frames given*.
        frames: How many.
    """

    fps: float
    frames: int

    def metadata(self) -> dict[str, Any]:
        """As a processor takes it: nothing is left to sample."""
        return {
            "fps": self.fps,
            "total_num_frames": self.frames,
            "duration": self.frames / self.fps,
            "frames_indices": list(range(self.frames)),
            "do_sample_frames": False,
        }


def folded(encoded: Encoded) -> list[int]:
    """The prompt with one token for each picture or video.

    Raises:
        VtrapError: The family spreads a medium over several places, so that it cannot be folded.
    """
    runs = [
        (kind, [token for _, token in run])
        for kind, run in itertools.groupby(
            zip(encoded.token_types.tolist(), encoded.input_ids.tolist(), strict=True), key=lambda pair: pair[0]
        )
    ]
    media = [ids for kind, ids in runs if kind]
    shown = len(encoded.images) + (encoded.video is not None)
    if len(media) != shown or any(len(set(ids)) > 1 for ids in media):
        raise VtrapError(
            f"{encoded.id}: {len(media)} runs of visual tokens for {shown} pictures or videos: this model family can "
            "only be asked with --backend transformers"
        )
    return [token for kind, ids in runs for token in (ids[:1] if kind else ids)]


def same_prompt(encoded: Encoded, found: Sequence[int] | None, *, engine: str) -> None:
    """Check that an engine's expanded prompt is `encode`'s.

    Raises:
        VtrapError: It is not: says where it differs first.
    """
    expected = encoded.input_ids.tolist()
    if found is None or list(found) == expected:
        return
    pairs = enumerate(zip(expected, found, strict=False))
    at = next((i for i, (a, b) in pairs if a != b), min(len(expected), len(found)))
    raise VtrapError(
        f"{encoded.id}: {engine} made another prompt of it than vtrap: {len(found)} tokens instead of "
        f"{len(expected)}, the first difference at {at}. Its tokenizer, chat template or "
        "processor settings (or those of the model it serves) are not the ones in --model"
    )


def video_of(encoded: Encoded, *, temporal_patch_size: int) -> Video:
    """The metadata under which an engine numbers the video as `encoding.positions` does."""
    assert encoded.video is not None
    return Video(fps=temporal_patch_size / encoded.seconds_per_grid, frames=len(encoded.video))


def video_settings(processor: Any) -> dict[str, Any]:
    """Settings whose default differs between versions of transformers: an engine is told what `encode` went by."""
    cap = getattr(processor.video_processor, "cap_pixels_per_frame", None)
    return {} if cap is None else {"cap_pixels_per_frame": cap}
