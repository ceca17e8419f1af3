"""Which words does the model read, and which of them must it say? Driven by the model's own chat template.

The conversation is written turn by turn. An assistant turn is what the model is asked with at inference (the
template's generation prompt), then its words, then the template's end of the turn. Most templates write just that; two
kinds of released ones do not, and there what the model sees at inference decides:

* The header of a finished turn differs from the generation prompt (LLaVA-OneVision: `assistant ` against `assistant`,
  before the line break). The generation prompt is used.
* Nothing ends a turn (LLaVA-1.5, LLaVA-NeXT-Video: `ASSISTANT: red USER: ...`). The end-of-text token is put there,
  as in the conversations these models were trained with (`ASSISTANT: red</s>USER: ...`); without it, fine-tuning
  would teach them to write a space where they now stop.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

from vtrap_data.errors import Reason, SampleError
from vtrap_data.samples import IMAGE_MARK, VIDEO_MARK, Message

_MARKS = re.compile(f"({re.escape(VIDEO_MARK)}|{re.escape(IMAGE_MARK)})")

Chat = list[dict[str, Any]]


class Script(NamedTuple):
    """A conversation as text.

    Attributes:
        text: With one placeholder token where pixels go.
        spans: Character ranges of what the assistant says, the end mark of each turn included.
    """

    text: str
    spans: list[tuple[int, int]]


def chat(messages: Sequence[Message], *, video_parts: list[dict[str, str]], marks_first: bool) -> Chat:
    """Messages in the form that chat templates take: typed parts, without None keys (templates test for presence)."""
    out: Chat = []
    for message in messages:
        parts: list[dict[str, str]] = []
        pieces = _MARKS.split(message.content)
        for piece in pieces:
            if piece == VIDEO_MARK:
                parts += video_parts
            elif piece == IMAGE_MARK:
                parts.append({"type": "image"})
            else:
                text = piece.strip("\n") if marks_first and len(pieces) > 1 else piece
                if text:
                    parts.append({"type": "text", "text": text})
        out.append({"role": message.role, "content": parts})
    return out


def write(messages: Chat, processor: Any, *, spell: Callable[[str], str], prompt: bool, sample: str) -> Script:
    """Write a conversation out.

    Args:
        messages: From `chat`.
        processor: Its chat template is used.
        spell: Replaces the template's placeholders by those of the family.
        prompt: Whether the assistant is asked to go on at the end.
        sample: Id, for errors.

    Raises:
        SampleError: BAD_ROW if the template rewrites earlier turns, so that nobody knows what is learned.
    """
    text, shown = "", ""
    spans = []
    for i, message in enumerate(messages):
        if message["role"] != "assistant" or not i:
            continue  # written with the turn that answers it: what is rendered costs more than all else here
        asked = _render(processor, messages[:i], prompt=True)
        after = _render(processor, messages[: i + 1], prompt=False)
        text += spell(_rest(asked, shown, sample))
        if after.startswith(asked):
            said = after[len(asked) :]
        else:  # the header of a finished turn is another than that of the prompt
            said = _rest(after, _render(processor, messages[:i], prompt=False), sample)
            said = said[_place(said, _words(message, sample)[0], sample) :]
        said = _ended(said, _words(message, sample), processor.tokenizer, sample)
        spans.append((len(text), len(text) + len(said)))
        text += said
        shown = after
    if prompt or not spans or messages[-1]["role"] != "assistant":
        text += spell(_rest(_render(processor, messages, prompt=prompt), shown, sample))
    return Script(text, spans)


def _words(message: dict[str, Any], sample: str) -> list[str]:
    """The parts of what the assistant says."""
    words = [part["text"] for part in message["content"] if part["type"] == "text" and part["text"].strip()]
    if not words:
        raise SampleError(sample, Reason.BAD_ROW, "an assistant turn without words")
    return words


def _ended(said: str, words: Sequence[str], tokenizer: Any, sample: str) -> str:
    """What the assistant says, from its first word on, with an end mark."""
    end = 0  # of the words, from the front: an answer such as ">" may stand in the end mark, too
    for part in words:
        end += _place(said[end:], part.strip(), sample) + len(part.strip())
    if not said[end:].strip() and tokenizer.eos_token:
        return said.rstrip() + str(tokenizer.eos_token)
    return said


def _place(piece: str, words: str, sample: str) -> int:
    at = piece.find(words)
    if at < 0:
        raise SampleError(sample, Reason.BAD_ROW, "the chat template rewrites an assistant turn; labels are unknown")
    return at


def _rest(whole: str, start: str, sample: str) -> str:
    if not whole.startswith(start):
        raise SampleError(sample, Reason.BAD_ROW, "the chat template rewrites earlier turns; labels are unknown")
    return whole[len(start) :]


def _render(processor: Any, messages: Chat, *, prompt: bool) -> str:
    return str(
        processor.tokenizer.apply_chat_template(
            messages, chat_template=processor.chat_template, tokenize=False, add_generation_prompt=prompt
        )
    )
