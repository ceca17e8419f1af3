"""Is a model shown what the index of a packed corpus promises? Encodes every item and counts tokens in three ways."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from tqdm import tqdm

from vtrap_data.encoding.batch import collate
from vtrap_data.encoding.cost import token_cost
from vtrap_data.encoding.family import Shown
from vtrap_data.encoding.tokens import encode
from vtrap_data.errors import SampleError, first_line
from vtrap_data.loading.dataset import PackedDataset
from vtrap_data.media.size import Size
from vtrap_data.shards.doctor import Fault, FaultKind, doctor
from vtrap_data.shards.manifest import INDEX


def deep_doctor(root: Path, processor: Any) -> list[Fault]:
    """What `doctor` finds; and if that is nothing, what `check_tokens` does.

    Raises:
        UsageError: No packed corpus.
    """
    faults = doctor(root)
    if faults:  # what cannot be read cannot be encoded
        detail = "not counted: mend the other faults first"
        return [*faults, Fault(kind=FaultKind.TOKENS, where=INDEX, detail=detail)]
    return list(check_tokens(root, processor))


def check_tokens(root: Path, processor: Any) -> Iterator[Fault]:
    """Encode every item through a model family, and compare three counts of its visual tokens.

    They are: what follows from the sizes in the index, what stands in the encoded text, and what the model is given of
    the pixels. A planner trusts the first, a model fails when the other two differ.

    Args:
        root: A packed corpus in which `doctor` finds nothing: what cannot be read cannot be encoded.
        processor: Of the model.

    Raises:
        UsageError: No packed corpus, or one that is damaged.
    """
    data = PackedDataset(root, keep_last=True)
    sizes = data.rows.select(["kind", "n_frames", "n_images", "width", "height"]).to_pylist()
    for number, facts in enumerate(tqdm(sizes, "encode", unit="item", disable=None)):
        sample = data.sample(number)
        example = data.example(number, sample)
        item, size = example.item, Size(facts["width"], facts["height"])
        images = tuple(Size(image.width, image.height) for image in sample.images)
        times = example.frames.times if example.frames else ()
        video = facts["kind"] == "video"
        train = any(message.role == "assistant" for message in item.messages)
        try:
            shown = Shown(images, facts["n_frames"], size if video else Size(0, 0), times)
            expected = token_cost(item.messages, shown, processor, train=train)
            encoded = encode(example, processor, train=train)
            given = _given_tokens(collate([encoded], processor, as_bytes=True), encoded.visual_tokens, processor)
        # A processor with settings that the token counts do not know of raises the other two.
        except (SampleError, RuntimeError, ValueError) as error:
            said = error.detail if isinstance(error, SampleError) else first_line(error)
            yield Fault(kind=FaultKind.TOKENS, where=example.key, detail=f"item {item.id}: {said}")
            continue
        counts = (expected.visual, encoded.visual_tokens, given)
        if len(set(counts)) > 1 or expected.tokens != len(encoded.input_ids):
            detail = (
                f"item {item.id}: {counts[0]} visual tokens follow from the index, {counts[1]} are in the text, "
                f"pixels for {counts[2]} are given; {expected.tokens} and {len(encoded.input_ids)} tokens in all"
            )
            yield Fault(kind=FaultKind.TOKENS, where=example.key, detail=detail)


def _given_tokens(batch: Mapping[str, Any], claimed: int, processor: Any) -> int:
    """Visual tokens that the pixels of a batch of one make; `claimed` for families that do not say so by grids."""
    merge = getattr(getattr(processor, "image_processor", None), "merge_size", None)
    grids = [batch[name] for name in ("image_grid_thw", "video_grid_thw") if batch.get(name) is not None]
    if merge is None or not grids or not claimed:
        return claimed
    patches = sum(int(grid.prod(dim=-1).sum()) for grid in grids)
    return patches // int(merge) ** 2
