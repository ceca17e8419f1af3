"""How many frames does an item need, by the word of a model? The strategies `loss` and `vlm`."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal

import torch

from vtrap_data.encoding.batch import collate
from vtrap_data.encoding.models import load_model, load_processor, resolve
from vtrap_data.encoding.tokens import IGNORE, encode
from vtrap_data.errors import UsageError
from vtrap_data.files import sha256_file
from vtrap_data.loading.dataset import PackedDataset
from vtrap_data.samples import VIDEO_MARK, Example, Message
from vtrap_data.shards.reallocate import Judge

PROMPT_VERSION = 1
"""Version of the question that `vlm` asks."""

LETTERS = "ABCDEFGHIJKLMNOPQRSTUVWXYZ"

View = Callable[[int], Example]
"""From a budget to the item with the frames of that budget."""


def load_judge(model: str, *, strategy: Literal["loss", "vlm"]) -> Judge:
    """Load a model that says how many frames an item needs.

    Args:
        model: A named model, a folder or a Hub id.
        strategy: What it is asked: its loss on the answer at each budget, or which budget it prefers.
    """
    ref = resolve(model)
    where = "cuda" if torch.cuda.is_available() else "cpu"
    processor = load_processor(ref)
    loaded: Any = load_model(ref, dtype=None if where != "cpu" else torch.float32)
    loaded = loaded.to(where).eval()
    facts: dict[str, str | int | float] = {"model": Path(ref.name).name}
    if ref.revision is not None:
        facts["revision"] = ref.revision
    for path in sorted(Path(ref.path).glob("*.safetensors")):
        facts[f"sha256 of {path.name}"] = sha256_file(path)

    def losses(at: View, budgets: Sequence[int]) -> list[float]:
        return [_loss(answered(at(budget)), processor, loaded)[0] for budget in budgets]

    def preferences(at: View, budgets: Sequence[int]) -> list[float]:
        seen = at(budgets[0])
        told = [_loss(asked(seen, budgets, letter), processor, loaded) for letter in LETTERS[: len(budgets)]]
        return [-mean * tokens for mean, tokens in told]

    if strategy == "loss":
        return Judge(scores=losses, looks_at=lambda budgets: budgets, opened=opened, facts=facts)
    facts["prompt"] = PROMPT_VERSION
    return Judge(scores=preferences, looks_at=lambda budgets: budgets[:1], opened=opened, facts=facts)


def opened(corpus: Path, budget: int) -> Callable[[int], Example]:
    """The items of a packed corpus with the frames of a budget, by their numbers."""
    return PackedDataset(corpus, frames=budget).__getitem__


def answered(example: Example) -> Example:
    """The item with an assistant turn: its own, or else its reference answer.

    Raises:
        UsageError: It has neither.
    """
    item = example.item
    if any(message.role == "assistant" for message in item.messages):
        return example
    if item.answer is None:
        raise UsageError(
            f"{item.id} has no answer whose loss could be taken: --strategy loss needs one for every item"
        )
    return _with(example, (*item.messages, Message(role="assistant", content=item.answer)))


def asked(example: Example, budgets: Sequence[int], letter: str) -> Example:
    """The item turned into the question how many frames it takes, answered with `letter`."""
    prompt = f"{VIDEO_MARK}\n{how_many(example, budgets)}"
    return _with(example, (Message(role="user", content=prompt), Message(role="assistant", content=letter)))


def how_many(example: Example, budgets: Sequence[int]) -> str:
    """The question how many frames an item takes, to stand after those that `example` shows."""
    item = example.item
    text = item.question or next(m.content for m in item.messages if m.role == "user")
    text = text.replace(VIDEO_MARK, "").strip()
    shown = len(example.frames) if example.frames is not None else 0
    choices = "\n".join(f"{name}. {budget}" for name, budget in zip(LETTERS, budgets, strict=False))
    return (
        f"These are {shown} evenly spaced frames of a video. Somebody asks: {text}\n"
        f"How many evenly spaced frames must be seen to answer that, at the least?\n{choices}\nAnswer with the letter."
    )


def _with(example: Example, messages: tuple[Message, ...]) -> Example:
    return replace(example, item=replace(example.item, messages=messages))


def _loss(example: Example, processor: Any, model: Any) -> tuple[float, int]:
    """Mean loss of the assistant's tokens in nats, and how many there are."""
    batch = collate([encode(example, processor, train=True)], processor)
    batch = {name: value.to(model.device) for name, value in batch.items()}
    with torch.inference_mode():
        loss = float(model(**batch).loss)
    return loss, int((batch["labels"][:, 1:] != IGNORE).sum())
