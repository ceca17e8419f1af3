"""What does the model say to these items, and is it right?"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from typing import Any, NamedTuple

from vtrap_bench.backends import Backend, Choice, Generation, Step, UnfinishedError
from vtrap_bench.extract import AnswerForm, Extraction, extract, is_right
from vtrap_bench.jobs import Bench, Job
from vtrap_bench.records import Record
from vtrap_bench.run_settings import RunSettings
from vtrap_data.errors import UsageError
from vtrap_data.samples import Example, Item, Message
from vtrap_data.sources.benchmarks.spec import read_facts
from vtrap_data.sources.benchmarks.tempcompass import option_parts


class Answers(NamedTuple):
    """What came of a batch.

    Attributes:
        records: Graded.
        tokens: By key of the record.
        failure: Why the rest of the batch has no records: to be raised when these are on the disk.
    """

    records: list[Record]
    tokens: dict[str, tuple[Step, ...]]
    failure: UnfinishedError | None


class Ready(NamedTuple):
    """A batch that can be asked.

    Attributes:
        examples: Its items, with their media decoded.
        asked: The same, put as the profile does; for answers that are written, what the backend has made of them.
    """

    examples: list[Example]
    asked: Any


def prepare(batch: Sequence[Job], bench: Bench, backend: Backend, settings: RunSettings) -> Ready:
    """Read and decode a batch of items of one task, and put the questions.

    Raises:
        UsageError: One is no question of the task.
        SampleError: One cannot be decoded or encoded.
    """
    examples = [bench.data[job.number] for job in batch]
    asked = [replace(e, item=replace(e.item, messages=_messages(e.item, bench))) for e in examples]
    return Ready(examples, backend.prepare(asked) if settings.answers == "generate" else asked)


def _messages(item: Item, bench: Bench) -> tuple[Message, ...]:
    """What the model is asked."""
    if item.answer is None:
        raise UsageError(f"{bench.data.root}: item {item.id} has no answer, so it cannot be scored: pack a benchmark")
    with _question(item, bench):
        if bench.task.source is not None:
            read_facts(item.category)
        return bench.profile.messages(item)


@contextmanager
def _question(item: Item, bench: Bench) -> Iterator[None]:
    """Whatever an item lacks that questions of its task have is told in a line."""
    try:
        yield
    except (ValueError, KeyError) as error:
        name = bench.task.name
        made = f": make its data with `python -m vtrap_data benchmark {name}`" if bench.task.source else ""
        raise UsageError(
            f"{bench.data.root}: item {item.id} is no question of {name} ({type(error).__name__}: {error}){made}"
        ) from error


def ask(backend: Backend, batch: Sequence[Job], ready: Ready, bench: Bench, settings: RunSettings) -> Answers:
    """Ask a batch of items of one task, and grade what is said."""
    examples, asked = ready
    likelihoods: list[tuple[float, ...]] = [()] * len(examples)
    failure: UnfinishedError | None = None
    if settings.answers == "likelihood":
        said, likelihoods = _choose(backend, asked, form=bench.profile.form, settings=settings)
    else:
        try:
            said = backend.generate(asked, max_new_tokens=bench.task.max_new_tokens)
        except UnfinishedError as error:
            failure, kept = error, sorted(error.done)
            said = [error.done[n] for n in kept]
            batch, examples = [batch[n] for n in kept], [examples[n] for n in kept]
            likelihoods = [()] * len(kept)
    rows = zip(batch, examples, said, likelihoods, strict=True)
    records = [_record(job, example, one, likely, bench) for job, example, one, likely in rows]
    return Answers(records, {job.key: one.steps for job, one in zip(batch, said, strict=True)}, failure)


def _record(job: Job, example: Example, said: Generation, likelihoods: tuple[float, ...], bench: Bench) -> Record:
    item, task = example.item, bench.task
    credit: float | None = None
    with _question(item, bench):
        if task.grade is None:
            found, right = read_answer(said.text, item, bench.profile.form)
        else:
            found, earned = task.grade(said.text, item)
            right, credit = earned == 1, earned if 0 < earned < 1 else None
    return Record(
        key=job.key,
        task=job.task,
        item_id=item.id,
        ability=item.ability or "all",
        cluster=task.cluster_of(example),
        question=item.question,
        options=item.options,
        answer=item.answer or "",
        response=said.text,
        extracted=found.value,
        stage=found.stage.value,
        correct=right,
        frame_times=() if example.frames is None else example.frames.times,
        n_frames=0 if example.frames is None else len(example.frames),
        visual_tokens=said.visual_tokens,
        prompt_tokens=said.n_prompt_tokens,
        facts="" if task.source is None else item.category or "",
        credit=credit,
        likelihoods=likelihoods,
    )


def _choose(
    backend: Backend, examples: Sequence[Example], *, form: AnswerForm, settings: RunSettings
) -> tuple[list[Generation], list[tuple[float, ...]]]:
    """Each example answered with the option that the model would most likely write; equally likely ones are none."""
    score = getattr(backend, "score_options", None)
    if score is None:
        raise UsageError(f"--answers likelihood: the backend {settings.backend} gives no log-probabilities of options")
    words = [choices(example.item, form=form) for example in examples]
    for example, texts in zip(examples, words, strict=True):
        if not texts:
            raise UsageError(f"--answers likelihood: {example.item.id} is an open question: use --answers generate")
    answers, likelihoods = [], []
    choice: Choice
    for texts, choice in zip(words, score(examples, words), strict=True):
        best = max(choice.likelihoods)
        said = texts[choice.likelihoods.index(best)] if choice.likelihoods.count(best) == 1 else ""
        answers.append(Generation(said, choice.visual_tokens, choice.n_prompt_tokens))
        likelihoods.append(choice.likelihoods)
    return answers, likelihoods


def read_answer(response: str, item: Item, form: AnswerForm) -> tuple[Extraction, bool]:
    """What the response says in the terms of the item's answer (a letter becomes the option it stands for), and
    whether that is right.
    """
    found = extract(response, form=form, options=item.options)
    if form == "letter" and found.value is not None:
        found = Extraction(item.options[ord(found.value) - ord("A")], found.stage)
    assert item.answer is not None
    return found, is_right(found.value, item.answer)


def choices(item: Item, *, form: AnswerForm) -> tuple[str, ...]:
    """What the model may write to answer an item: letters, options as they are, or Yes and No; () if it is open."""
    if form == "yes-no" or (form == "letter" and not item.options and item.answer in ("yes", "no")):
        return ("Yes", "No")
    if form == "letter":
        if read_facts(item.category).get("task") == "caption_matching":
            return tuple(option_parts(option)[0] for option in item.options)  # "Option 1", as they are shown
        return tuple(chr(ord("A") + i) for i in range(len(item.options)))
    return item.options
