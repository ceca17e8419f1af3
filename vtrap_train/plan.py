"""What would this run cost? Answered from the index and the tokenizer: no pixels, no weights."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np

from vtrap_data.encoding import load_processor, resolve
from vtrap_data.encoding.cost import image_grid, video_grid
from vtrap_data.samples import IMAGE_MARK, VIDEO_MARK, Message
from vtrap_train.config import Parsed
from vtrap_train.data import Mixture, parse_data, parse_frames
from vtrap_train.groups import check_groups, group_of

SAMPLED_TEXTS = 256
"""Items whose text is really tokenised; the rest is scaled by their characters."""


def plan(parsed: Parsed, *, processes: int) -> dict[str, Any]:
    """Work out what a run would do.

    Args:
        parsed: Settings.
        processes: That the run would have.

    Returns:
        JSON-ready: `items`, `per_epoch`, `steps`, `tokens` (text, visual and histogram per epoch), `over_ceiling`,
        `visual_tokens_per_epoch`, `against_fixed` (visual tokens at each fixed budget and the share saved), `memory`
        (GB per process for weights, gradients and optimiser states under each preset; activations come on top),
        `sources`.
    """
    arguments, config = parsed.arguments, parsed.config
    ref = resolve(arguments.model)
    processor: Any = load_processor(ref)
    mixture = Mixture(parse_data(arguments.data), frames=parse_frames(arguments.frames), seed=config.seed)
    model_config = _model_config(ref)
    ceiling = arguments.max_tokens or int(model_config.get_text_config().max_position_embeddings)

    kinds, frames = mixture.column("kind"), mixture.column("n_frames")
    visual = visual_tokens(mixture, frames, processor)
    text = text_tokens(mixture, processor)
    tokens = visual + text
    batch = config.per_device_train_batch_size * config.gradient_accumulation_steps * processes
    steps = config.max_steps if config.max_steps > 0 else math.ceil(len(mixture) / batch * config.num_train_epochs)
    videos = kinds == "video"
    fixed = {str(f): visual_tokens(mixture, _at_budget(mixture, f), processor) for f in _budgets(mixture)}
    return {
        "model": arguments.model,
        "data": mixture.describe(),
        "frames": arguments.frames,
        "per_epoch": len(mixture),
        "by_kind": {k: int((kinds == k).sum()) for k in sorted(set(kinds.tolist()))},
        "by_source": {s: int((mixture.column("source") == s).sum()) for s in mixture.sources},
        "processes": processes,
        "batch": batch,
        "steps": int(steps),
        "samples": int(steps * batch),
        "mean_frames": float(frames[videos].mean()) if videos.any() else 0.0,
        "tokens": {
            "text": int(text.sum()),
            "visual": int(visual.sum()),
            "longest": int(tokens.max()),
            "histogram": histogram(tokens.tolist()),
        },
        "ceiling": ceiling,
        "over_ceiling": int((tokens > ceiling).sum()),
        "against_fixed": {
            f: {
                "visual_tokens": int(v.sum()),
                "saved": 1 - int(visual[videos].sum()) / max(1, int(v[videos].sum())),
            }
            for f, v in fixed.items()
        },
        "memory": memory(model_config, parsed, processes=processes),
    }


def visual_tokens(mixture: Mixture, frames: Any, processor: Any) -> Any:
    """int64 [rows]: visual tokens of each row with `frames` [rows] frames per video."""
    merge = processor.image_processor.merge_size
    sizes = zip(
        mixture.column("kind").tolist(),
        np.asarray(frames).tolist(),
        mixture.column("n_images").tolist(),
        mixture.column("width").tolist(),
        mixture.column("height").tolist(),
        strict=True,
    )
    known: dict[tuple[Any, ...], int] = {}
    out = []
    for facts in sizes:
        if facts not in known:
            kind, n_frames, n_images, width, height = facts
            if kind == "video":
                known[facts] = video_grid(n_frames, width, height, processor).tokens(merge)
            elif kind == "images":
                # The index knows the first image's size; the others are taken to be like it.
                known[facts] = n_images * image_grid(width, height, processor).tokens(merge)
            else:
                known[facts] = 0
        out.append(known[facts])
    return np.asarray(out, dtype=np.int64)


def text_tokens(mixture: Mixture, processor: Any) -> Any:
    """int64 [rows]: tokens that stand for no pixel, chat template included.

    Counted for evenly spaced rows; a straight line through those (tokens over characters) gives the others.
    """
    chars = mixture.column("text_chars")
    picks = np.unique(np.linspace(0, len(mixture) - 1, min(SAMPLED_TEXTS, len(mixture))).round().astype(int))
    counted = np.asarray([_count_text(mixture.messages_of(row), processor) for row in picks.tolist()])
    basis = np.stack([chars[picks], np.ones(len(picks))], axis=1)
    slope, offset = np.linalg.lstsq(basis, counted, rcond=None)[0]
    tokens = np.maximum(1, np.rint(slope * chars + offset)).astype(np.int64)
    tokens[picks] = counted
    return tokens


def _count_text(messages: Sequence[Message], processor: Any) -> int:
    marks = sum(m.content.count(VIDEO_MARK) + m.content.count(IMAGE_MARK) for m in messages)
    bare = [m.content.replace(VIDEO_MARK, "").replace(IMAGE_MARK, "") for m in messages]
    rendered = processor.tokenizer.apply_chat_template(
        [
            {"role": m.role, "content": [{"type": "text", "text": text}]}
            for m, text in zip(messages, bare, strict=True)
        ],
        chat_template=processor.chat_template,
        tokenize=False,
    )
    # A mark becomes the visual tokens, which are counted apart, between a start and an end token.
    return len(processor.tokenizer(rendered, add_special_tokens=False)["input_ids"]) + 2 * marks


def histogram(tokens: Sequence[int]) -> list[dict[str, int]]:
    """Counts in bins of powers of two.

    >>> histogram([3, 5, 6])
    [{'from': 2, 'below': 4, 'samples': 1}, {'from': 4, 'below': 8, 'samples': 2}]
    """
    powers = [max(0, int(t).bit_length() - 1) for t in tokens]
    return [
        {"from": 2**p, "below": 2 ** (p + 1), "samples": powers.count(p)} for p in range(min(powers), max(powers) + 1)
    ]


def memory(model_config: Any, parsed: Parsed, *, processes: int) -> dict[str, Any]:
    """GB per process for weights, gradients and AdamW states. Activations and buffers come on top."""
    import torch
    from accelerate import init_empty_weights
    from transformers import AutoModelForImageTextToText

    with init_empty_weights():
        model: Any = AutoModelForImageTextToText.from_config(model_config, dtype=torch.float32)
        model.tie_weights()
    frozen = check_groups(parsed.arguments.freeze, setting="--freeze")
    total = sum(p.numel() for p in model.parameters())
    trained = sum(p.numel() for n, p in model.named_parameters() if group_of(n) not in frozen)
    if parsed.arguments.lora_r:
        trained = 0  # adapters are below one percent
    weights, gradients, states = 2 * total, 2 * trained, 12 * trained
    per = {
        "one process, float32": 4 * total + 12 * trained,
        "zero2": weights + (gradients + states) / processes,
        "zero3": (weights + gradients + states) / processes,
        "zero3-offload": gradients / processes,
    }
    return {"parameters": total, "trained": trained, "gb": {k: round(v / 1e9, 3) for k, v in per.items()}}


def plan_text(facts: dict[str, Any]) -> str:
    """The plan for people."""
    tokens = facts["tokens"]
    lines = [
        f"{facts['model']} on {facts['per_epoch']:,} samples an epoch, frames {facts['frames']} "
        f"(mean {facts['mean_frames']:.1f} per video)",
        f"  {', '.join(f'{n:,} {k}' for k, n in facts['by_kind'].items())}",
        f"{facts['steps']:,} steps of {facts['batch']} samples on {facts['processes']} process(es)",
        f"tokens an epoch: {tokens['visual']:,} visual, {tokens['text']:,} text; longest sample {tokens['longest']:,}",
    ]
    most = max(b["samples"] for b in tokens["histogram"])
    for b in tokens["histogram"]:
        bar = "#" * math.ceil(40 * b["samples"] / most)
        lines.append(f"  {b['from']:>7} to {b['below'] - 1:<7} {b['samples']:>9,} {bar}")
    if facts["over_ceiling"]:
        lines.append(
            f"{facts['over_ceiling']:,} samples are over the ceiling of {facts['ceiling']:,} and would be skipped"
        )
    for budget, row in facts["against_fixed"].items():
        tokens_then = f"{row['visual_tokens']:,} visual tokens"
        lines.append(f"against {budget} frames for all: {tokens_then}, {row['saved']:.1%} of the videos' saved")
    memory_facts = facts["memory"]
    lines.append(f"memory per process without activations ({memory_facts['parameters']:,} parameters, estimate):")
    lines += [f"  {name:<22} {gb:>9.2f} GB" for name, gb in memory_facts["gb"].items()]
    return "\n".join(lines)


def _model_config(ref: Any) -> Any:
    from transformers import AutoConfig

    return AutoConfig.from_pretrained(ref.path, revision=ref.revision, trust_remote_code=False)


def _budgets(mixture: Mixture) -> list[int]:
    found = {int(b) for b in mixture.column("budget") if b > 0}
    return sorted(found)


def _at_budget(mixture: Mixture, budget: int) -> Any:
    return np.minimum(budget, np.maximum(1, mixture.column("distinct")))
