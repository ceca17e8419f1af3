"""How does a sample become tokens and labels? Without touching pixels: token counts follow from sizes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from vtrap_data.encoding.conversation import Script, chat, write
from vtrap_data.encoding.families import family_of
from vtrap_data.encoding.family import Shown
from vtrap_data.encoding.positions import rounded_up
from vtrap_data.errors import Reason, SampleError
from vtrap_data.media.size import Size
from vtrap_data.samples import Example, Message

IGNORE = -100
"""Label of tokens that carry no loss."""

_TEXT, _IMAGE, _VIDEO = 0, 1, 2


@dataclass(frozen=True, slots=True, kw_only=True)
class Encoded:
    """One sample, ready to be batched.

    Attributes:
        id: Item id.
        source: Corpus it comes from.
        kind: "video", "images" or "text".
        input_ids: int64 [length].
        labels: int64 [length]; -100 where no loss is taken.
        token_types: int64 [length]; 0 text, 1 image, 2 video. Families that show videos as images have no 2.
        images: uint8 [3, height, width] each, in order of appearance.
        video: uint8 [frames, 3, height, width] or None.
        seconds_per_grid: Seconds between temporal grid steps of the video, from the frames actually used; single
            precision, rounded up.
        visual_tokens: Tokens that stand for pixels.
    """

    id: str
    source: str
    kind: str
    input_ids: Tensor
    labels: Tensor
    token_types: Tensor
    images: tuple[Tensor, ...]
    video: Tensor | None
    seconds_per_grid: float
    visual_tokens: int


class Layout(NamedTuple):
    """The tokens of a sample: int64 [length] each."""

    ids: NDArray[np.int64]
    labels: NDArray[np.int64]
    types: NDArray[np.int64]


def encode(example: Example, processor: Any, *, train: bool, max_length: int | None = None) -> Encoded:
    """Turn one sample into tokens and labels.

    Args:
        example: With its frames or images decoded.
        processor: The family's own processor, as saved with the model.
        train: True: all turns, labels on the assistant's. False: turns up to and including the last user turn, then
            the prompt for the assistant.
        max_length: Ceiling in tokens. Vision tokens are never truncated.

    Raises:
        SampleError: TOO_LONG over the ceiling; BAD_ROW if there is nothing to learn, marks and media do not match, a
            video has no frame, or the model takes no such media (a video beside images, a very long strip).
    """
    item = example.item
    if example.frames is not None and not example.frames.times:
        raise SampleError(item.id, Reason.BAD_ROW, "a video of which no frame is shown: run `doctor` on its corpus")
    laid = lay_out(item.messages, shown(example), processor, train=train, sample=item.id)
    if train and laid.labels.max() == IGNORE:
        raise SampleError(item.id, Reason.BAD_ROW, "no assistant text to learn from")
    visual = int(np.count_nonzero(laid.types))
    if max_length is not None and len(laid.ids) > max_length:
        raise SampleError(
            item.id,
            Reason.TOO_LONG,
            f"{len(laid.ids)} tokens ({visual} of them visual) are more than the ceiling of {max_length}: raise "
            "--max_tokens, or use fewer frames (--frames, or pack with a smaller --mean-frames)",
        )
    frames = example.frames
    return Encoded(
        id=item.id,
        source=example.source,
        kind=example.kind,
        input_ids=torch.from_numpy(laid.ids),
        labels=torch.from_numpy(laid.labels),
        token_types=torch.from_numpy(laid.types),
        images=tuple(pixels_of(i) for i in example.images),
        # The colours of a pixel lie side by side: so torch resizes a clip in half the time, to the same bytes.
        video=None if frames is None else torch.from_numpy(frames.pixels).permute(0, 3, 1, 2),
        seconds_per_grid=1.0 if frames is None else _seconds_per_grid(frames.times, processor),
        visual_tokens=visual,
    )


def lay_out(messages: Sequence[Message], media: Shown, processor: Any, *, train: bool, sample: str = "") -> Layout:
    """Tokens, labels and token types of a conversation about media of these sizes. See `encode`."""
    family = family_of(processor)
    if media.images and media.frames and "video" not in family.modalities:
        raise SampleError(sample, Reason.BAD_ROW, f"a video and images in one sample, which {family.name} cannot tell")
    kinds = {processor.image_token_id: _IMAGE}
    try:
        counts = {_IMAGE: family.image_tokens(media, processor)}
        if "video" in family.modalities:
            counts[_VIDEO] = family.video_tokens(media, processor)
            kinds[processor.video_token_id] = _VIDEO
    except ValueError as error:  # of the Qwen families: one side is more than 200 times the other
        raise SampleError(sample, Reason.BAD_ROW, f"the model takes no picture of such a size ({error})") from None
    script = write(
        chat(
            messages if train else _prompt(messages),
            video_parts=family.video_parts(media),
            marks_first=family.marks_first,
        ),
        processor,
        spell=lambda text: family.spell(text, media, processor),
        prompt=not train,
        sample=sample,
    )
    coded = _coded(script.text, processor.tokenizer)
    ids: list[int] = coded.ids
    labels = _learned(ids, coded.offsets, script) if train else [IGNORE] * len(ids)

    queues = {kind: iter(numbers) for kind, numbers in counts.items()}

    types = [kinds.get(token, _TEXT) for token in ids]
    repeats = [1] * len(ids)
    for at in [at for at, kind in enumerate(types) if kind]:
        repeats[at] = next(queues[types[at]], 0)
        labels[at] = IGNORE
        if not repeats[at]:
            raise SampleError(sample, Reason.BAD_ROW, f"more media marks than {_media(media)}")
    if any(next(queue, 0) for queue in queues.values()):
        raise SampleError(sample, Reason.BAD_ROW, f"fewer media marks than {_media(media)}")
    # Written out by NumPy: a video has thousands of tokens, of which torch reads each as a Python number of its own.
    return Layout(*np.repeat(np.array([ids, labels, types], np.int64), repeats, axis=1))


def _coded(text: str, tokenizer: Any) -> Any:
    """The `tokenizers.Encoding` behind `tokenizer(text)`, which takes longer to look through it than to make it."""
    inner = tokenizer.backend_tokenizer
    # As it does: a checkpoint may have been saved with other settings.
    if inner.truncation is not None:
        inner.no_truncation()
    if inner.padding is not None:
        inner.no_padding()
    if inner.encode_special_tokens != tokenizer.split_special_tokens:
        inner.encode_special_tokens = tokenizer.split_special_tokens
    begins = bool(tokenizer.bos_token) and text.startswith(tokenizer.bos_token)
    return inner.encode(text, add_special_tokens=not begins)


def _learned(ids: Sequence[int], offsets: Sequence[tuple[int, int]], script: Script) -> list[int]:
    """The tokens that the assistant says, IGNORE for all others."""
    labels = []
    spans = iter(script.spans)
    nowhere = (len(script.text), len(script.text))
    begin, end = next(spans, nowhere)
    for token, (left, right) in zip(ids, offsets, strict=True):
        while left >= end and begin < len(script.text):
            begin, end = next(spans, nowhere)
        labels.append(token if begin <= left < right <= end else IGNORE)
    return labels


def shown(example: Example) -> Shown:
    """What a sample shows."""
    images = tuple(Size(i.width, i.height) for i in example.images)
    if example.frames is None:
        return Shown(images=images)
    count, height, width, _ = example.frames.pixels.shape
    return Shown(images, count, Size(width, height), example.frames.times)


def blank(processor: Any) -> Encoded:
    """A sample without loss: what stands in for a batch that lost all its rows."""
    token = processor.tokenizer.pad_token_id
    return Encoded(
        id="",
        source="",
        kind="text",
        input_ids=torch.tensor([token, token]),
        labels=torch.tensor([IGNORE, IGNORE]),
        token_types=torch.tensor([_TEXT, _TEXT]),
        images=(),
        video=None,
        seconds_per_grid=1.0,
        visual_tokens=0,
    )


def pixels_of(image: Any) -> Tensor:
    """uint8 [3, height, width] of a PIL image, the colours of a pixel side by side in memory."""
    plain = image if image.mode == "RGB" else image.convert("RGB")  # `convert` would copy
    return torch.from_numpy(np.array(plain)).permute(2, 0, 1)


def _prompt(messages: Sequence[Message]) -> tuple[Message, ...]:
    last_user = max((i for i, m in enumerate(messages) if m.role == "user"), default=len(messages) - 1)
    return tuple(messages[: last_user + 1])


def _media(media: Shown) -> str:
    """How many media there are, for errors."""
    return f"the {len(media.images) + (media.frames > 0)} media it has"


def _seconds_per_grid(times: Sequence[float], processor: Any) -> float:
    """Mean spacing of the frames used, times the frames per temporal step. One frame spans one grid: any value."""
    if len(times) < 2:
        return 1.0
    return rounded_up(family_of(processor).frames_per_grid(processor) * (times[-1] - times[0]) / (len(times) - 1))
