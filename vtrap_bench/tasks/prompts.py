r"""How is a question put? Pieces of the prompt profiles of real benchmarks, in the wording of those who use them.

`vtrap` is our own and asks for a letter, a yes or no, or a few words. `lmms` and `vlmevalkit` are the wordings of the
two leading harnesses, `qwen` that of Qwen's own evaluations where it is known: with them a score can be held against
those of others.
"""

from __future__ import annotations

from collections.abc import Callable

from vtrap_bench.extract import AnswerForm
from vtrap_bench.tasks.task import PromptProfile
from vtrap_data.samples import IMAGE_MARK, VIDEO_MARK, Item, Message
from vtrap_data.sources.benchmarks.spec import lettered, read_facts

LETTER = "Answer with the option's letter from the given choices directly."
SHORT = "Answer the question using a single word or phrase."
YES_NO = "Please answer yes or no."
FEW_WORDS = "Please try to answer the question with short words or phrases if possible."
SELECT = "Please select the correct answer from the options above."

BRACKETS = "({letter}) {option}"
"""The form of an option line with its letter in brackets."""

Wording = Callable[[Item], str]


def facts(item: Item) -> dict[str, str]:
    """What the source wrote about the item beside question and options."""
    return read_facts(item.category)


def bare(item: Item) -> str:
    """The question alone."""
    return item.question


def asked(item: Item) -> str:
    """The question as its authors wrote it, with its options inside; a rotated copy has its own options instead."""
    return facts(item).get("asked") or question_and_options(item)


def question_and_options(item: Item, *, form: str = "{letter}. {option}") -> str:
    """The question and a line per option."""
    return "\n".join(part for part in (item.question, lettered(item.options, form)) if part)


def marks(item: Item) -> str:
    """The marks of the item's media, as packed."""
    turns = "".join(message.content for message in item.messages)
    return VIDEO_MARK * turns.count(VIDEO_MARK) + IMAGE_MARK * turns.count(IMAGE_MARK)


def profile(wording: Wording, form: AnswerForm, *, gap: str = "", system: str = "") -> PromptProfile:
    r"""A profile with the media in front and one user turn.

    Args:
        wording: The text of an item.
        form: Of the answers.
        gap: Between media and text. The harnesses have none; "\n" is how instruction data is written.
        system: Of the system turn; "": none, so that the chat template's own stands.
    """

    def messages(item: Item) -> tuple[Message, ...]:
        first = (Message(role="system", content=system),) if system else ()
        return (*first, Message(role="user", content=f"{marks(item)}{gap}{wording(item)}"))

    return PromptProfile(messages=messages, form=form)


def ours(wording: Wording, form: AnswerForm) -> PromptProfile:
    """The `vtrap` profile: a line break between media and text, as in the data that models are trained on."""
    return profile(wording, form, gap="\n")


def after(text: str, *, of: Wording = question_and_options, gap: str = "\n") -> Wording:
    """The question, and an instruction below it."""
    return lambda item: f"{of(item)}{gap}{text}"


def select(item: Item) -> str:
    """VLMEvalKit's wording of multiple choice, with the hint where there is one."""
    hint = facts(item).get("hint", "")
    head = f"Hint: {hint}\n" if hint else ""
    return f"{head}Question: {item.question}\nOptions:\n{lettered(item.options)}\n{SELECT} \n"


def context(item: Item) -> str:
    """Question and options, with the hint as context in front where there is one."""
    hint = facts(item).get("hint", "")
    return (f"Context: {hint}\n" if hint else "") + question_and_options(item)
