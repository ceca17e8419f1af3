"""Are several questions about one video several examples, or one conversation? `join` makes one of them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Literal

import numpy as np

from vtrap_data.errors import Reason, SampleError
from vtrap_data.samples import IMAGE_MARK, VIDEO_MARK, Example, Frames, Message, PackedItem

Turns = Literal["separate", "joined"]


def join(examples: Sequence[Example]) -> Example:
    """One conversation of all the items of one media item.

    The media are shown once, at the beginning, with every frame that one of the items is granted: as budgets nest,
    that is the frames of the largest. A system message that all of them share stays, once.

    Args:
        examples: At least one; all of the same media item (`key`), in the order in which they are to be said.

    Raises:
        SampleError: BAD_ROW if they are of different media items, do not end with the assistant, or differ in their
            system messages.
    """
    first = examples[0]
    if len(examples) == 1:
        return first
    messages: list[Message] = []
    systems = [[m.content for m in e.item.messages if m.role == "system"] for e in examples]
    for number, example in enumerate(examples):
        item = example.item
        if example.key != first.key:
            raise _bad(example, f"it is about {example.key}, and {first.item.id} about {first.key}: join items of one")
        if item.messages[-1].role != "assistant":
            raise _bad(example, "it does not end with the assistant, so nothing can follow it")
        if systems[number] != systems[0]:
            raise _bad(example, f"its system message is not that of {first.item.id}: use --turns separate")
        messages += item.messages if not number else [_bare(m) for m in item.messages if m.role != "system"]
    shown = {
        time: image
        for example in examples
        if example.frames is not None
        for time, image in zip(example.frames.times, example.frames.pixels, strict=True)
    }
    times = tuple(sorted(shown))
    joined = PackedItem(
        id=f"{first.item.id}+{len(examples) - 1}",
        messages=tuple(messages),
        budget=max(e.item.budget for e in examples),
        frame_ids=tuple(sorted({i for e in examples for i in e.item.frame_ids})),
    )
    frames = Frames(pixels=np.stack([shown[t] for t in times]), times=times) if times else None
    return replace(first, item=joined, frames=frames)


def _bare(message: Message) -> Message:
    """The message without its marks, and without the line breaks that set them apart."""
    content = message.content
    for mark in (VIDEO_MARK, IMAGE_MARK):
        content = content.replace(f"{mark}\n", "").replace(f"\n{mark}", "").replace(mark, "")
    return replace(message, content=content)


def _bad(example: Example, detail: str) -> SampleError:
    return SampleError(example.item.id, Reason.BAD_ROW, detail)
