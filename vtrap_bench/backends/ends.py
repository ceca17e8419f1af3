"""Which tokens end an answer?"""

from __future__ import annotations

from typing import Any


def end_tokens(said: int | list[int] | None, tokenizer: Any) -> tuple[int, ...]:
    """Those that the checkpoint's generation config says (its `eos_token_id`), otherwise its tokenizer's."""
    ends = tokenizer.eos_token_id if said is None else said
    return tuple(ends) if isinstance(ends, list) else (int(ends),)
