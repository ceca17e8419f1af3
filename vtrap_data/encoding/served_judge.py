"""How many frames does an item need, by the word of a model that a server has? The strategy `vlm`."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any

from vtrap_data.chat_server import Answer, ChatServer, first_answer, picture
from vtrap_data.encoding.judge import LETTERS, PROMPT_VERSION, View, how_many, opened
from vtrap_data.errors import UsageError, VtrapError
from vtrap_data.shards.reallocate import Judge

_LIKELY = 20
"""Tokens whose probabilities are asked for: the most that OpenAI and, unless told otherwise, vLLM give."""


def served_judge(base_url: str, *, model: str | None, concurrency: int = 16, timeout: float = 600.0) -> Judge:
    """A model behind a server that speaks OpenAI's protocol, which says how many frames an item needs.

    It is sent the frames of the smallest budget as single pictures, and the question. Its preferences are the
    log-probabilities of the letters as its first token. vLLM is held to the letters, so every model gives all of them;
    from another server a letter that is not among the `_LIKELY` likeliest tokens gets the probability of the last of
    these. From a server that gives no probabilities what it answers is taken: 1 for that budget, 0 for the others.

    Args:
        base_url: Of the server, its path (`/v1`) included.
        model: What the server calls it; None: what it has, if that is one model.
        concurrency: Questions that it is asked at a time.
        timeout: Seconds until an unanswered question is asked again.

    Raises:
        UsageError: A wrong address, or no such model there.
        VtrapError: The server cannot be reached, or answers what is none of the letters.
    """
    if concurrency < 1 or not timeout > 0:
        raise UsageError(f"--concurrency must be 1 or more and --timeout above 0, not {concurrency} and {timeout}")
    server = ChatServer(base_url, concurrency=concurrency, timeout=timeout)
    name = server.pick(model, setting="--model")

    def preferences(at: View, budgets: Sequence[int]) -> list[float]:
        seen = at(budgets[0])
        frames = seen.frames.images if seen.frames is not None else ()
        content = [*map(picture, frames), {"type": "text", "text": how_many(seen, budgets)}]
        letters = LETTERS[: len(budgets)]
        request: dict[str, Any] = {
            "model": name,
            "messages": [{"role": "user", "content": content}],
            "temperature": 0,
            "max_tokens": 1,
            "logprobs": True,
            "top_logprobs": _LIKELY,
        }
        if server.is_vllm:  # which can be held to the letters: their probabilities are then among themselves
            request["structured_outputs"] = {"choice": list(letters)}
        reply = server.ask("POST", "/chat/completions", request, what=seen.item.id)
        answer = first_answer(reply, what=seen.item.id, where=server.where)
        told = _likely(answer, letters) or _said(answer, letters)
        if told is None:
            raise VtrapError(
                f"{seen.item.id}: {name} answered {answer.text!r:.80} where one of {letters} was "
                "asked for: choose a model that follows instructions, or another --strategy"
            )
        return told

    facts = {"model": name, "prompt": f"{PROMPT_VERSION}, frames as single pictures", "asked": "through a server"}
    return Judge(
        scores=preferences,
        looks_at=lambda budgets: budgets[:1],
        opened=opened,
        facts=facts,
        at_once=concurrency,
    )


def _likely(answer: Answer, letters: str) -> list[float] | None:
    """Log-probability of each letter as the first token; None where no token is one of them, or none is told."""
    try:
        first = answer.choice["logprobs"]["content"][0]
        tokens = [(str(one["token"]).strip(), float(one["logprob"])) for one in first["top_logprobs"]]
    except (KeyError, IndexError, TypeError, ValueError):
        return None
    found: dict[str, float] = {}
    for token, logprob in tokens:
        if len(token) == 1 and token in letters:
            found[token] = max(logprob, found.get(token, logprob))
    least = min((logprob for _, logprob in tokens), default=0.0)
    return [found.get(letter, least) for letter in letters] if found else None


def _said(answer: Answer, letters: str) -> list[float] | None:
    """1 for the letter that the answer begins with, 0 for the others; None if it begins with none."""
    begin = re.match(rf"\W*([{letters}])\b", answer.text)
    return [float(letter == begin[1]) for letter in letters] if begin else None
