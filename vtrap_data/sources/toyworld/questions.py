"""What is asked of a toy scene, what is the answer, and how many frames does knowing it take?

A question carries an ideal observer: given the times of the frames that are shown, it says what follows from them, or
None if they leave it open. `frames_needed` asks the observer at every candidate budget with exactly the frames that
vtrap's selection rule would take, so "how many frames does this item truly need" is known, not guessed.
"""

from __future__ import annotations

import functools
import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Literal

from vtrap_data.media.select import subset_slots
from vtrap_data.sources.toyworld.scene import (
    COLOURS,
    FPS,
    QUADRANTS,
    SHAPES,
    SIDE,
    Motion,
    Scene,
    Thing,
    background,
    scatter,
)

IMAGE_ABILITIES = ("colour", "shape", "count", "position", "digit")
VIDEO_ABILITIES = ("static", "change", "morph", "order", "blinks")
TEMPORAL_ABILITIES = VIDEO_ABILITIES[1:]

SLOTS = 16
"""Frames that the hardest questions about a clip take, unless said otherwise."""

DIGITS = tuple("0123456789")
COUNTS = ("1", "2", "3", "4", "5")
BLINKS = ("1", "2", "3", "4")

_CLEAR = 4.0
"""How far from the middle lines, in pixels, a centre must be for its quadrant to be asked."""

Observer = Callable[[Sequence[float]], str | None]


@dataclass(frozen=True, slots=True, kw_only=True)
class Question:
    """A question about one scene.

    Attributes:
        ability: One of IMAGE_ABILITIES or VIDEO_ABILITIES.
        text: The question.
        options: The answers that are possible, in a fixed order.
        answer: The right one.
        observe: What an ideal observer of frames at these times (shares of the duration) can conclude.
    """

    ability: str
    text: str
    options: tuple[str, ...]
    answer: str
    observe: Observer


def budgets_of(slots: int) -> tuple[int, ...]:
    """Candidate budgets of a clip whose hardest questions take `slots` frames: an eighth of them, a quarter, ..."""
    return (slots // 8, slots // 4, slots // 2, slots)


def frames_needed(question: Question, *, frames: int, slots: int = SLOTS) -> int | None:
    """Smallest budget from which on, at every larger budget too, the frames shown determine the answer.

    Args:
        question: With its ideal observer.
        frames: Source frames of the clip; a slot shows the last one that began before its centre.
        slots: Pool slots; `budgets_of` them are tried.

    Returns:
        The budget, or None if not even the largest one determines the answer.
    """
    needed: int | None = None
    budgets = budgets_of(slots)
    for budget in reversed(budgets):
        chosen = subset_slots(slots, budget, smallest=budgets[0])
        if question.observe([int((slot + 0.5) / slots * frames) / frames for slot in chosen]) != question.answer:
            break
        needed = budget
    return needed


# --- still pictures -------------------------------------------------------------------------------------------------


def picture(rng: random.Random, ability: str) -> tuple[Scene, Question]:
    """A still picture with one question of the given image ability."""
    if ability == "digit":
        digit = rng.choice(DIGITS)
        (x, y, s), *rest = scatter(rng, rng.randint(1, 3), size=(10, 14))
        others = rng.sample(SHAPES, len(rest))
        colours = rng.sample(list(COLOURS), len(rest) + 1)
        things = [Thing(shape=digit, colour=colours[0], x=x, y=y, size=s)]
        things += [
            Thing(shape=h, colour=c, x=a, y=b, size=min(r, 9.0))
            for h, c, (a, b, r) in zip(others, colours[1:], rest, strict=True)
        ]
        return _still(rng, things), _plain("digit", "Which digit is shown?", DIGITS, digit)
    if ability == "count":
        count = rng.randint(1, 5)
        places = scatter(rng, count, size=(7, 10))
        things = [
            Thing(shape=rng.choice(SHAPES), colour=rng.choice(list(COLOURS)), x=x, y=y, size=s) for x, y, s in places
        ]
        return _still(rng, things), _plain("count", "How many shapes are there?", COUNTS, str(count))
    things = _distinct(rng, rng.randint(1, 3), size=(9, 13))
    target = rng.choice(things)
    match ability:
        case "colour":
            return _still(rng, things), _colour_of(target, "colour")
        case "shape":
            return _still(rng, things), _shape_of(target, "shape")
        case "position":
            x, y = _place(rng, rng.choice(QUADRANTS), target.size)
            placed = replace(target, x=x, y=y)
            clear = [o for o in things if o is not target and _apart(o, placed)]
            return _still(rng, [placed, *clear]), place_of(placed)
    raise ValueError(f"ability {ability!r} is not one of {IMAGE_ABILITIES}")


# --- clips ----------------------------------------------------------------------------------------------------------


def clip(rng: random.Random, ability: str, *, slots: int = SLOTS) -> tuple[Scene, list[Question]]:
    """A clip made for one temporal ability, with a question about it and two static ones about the same clip.

    Args:
        rng: Everything is drawn from it.
        ability: One of TEMPORAL_ABILITIES.
        slots: Frames that the hardest questions take: what happens is as short, against the clip, as they are close.
    """
    makers: dict[str, Callable[[random.Random, float], tuple[list[Thing], Question]]] = {
        "change": functools.partial(_change, look="colour"),
        "morph": functools.partial(_change, look="shape"),
        "order": _order,
        "blinks": _blinks,
    }
    make_one = makers[ability]
    grain = SLOTS / slots
    fps = max(FPS, FPS * slots // (2 * SLOTS))  # a frame for every slot
    frames = rng.choice((4, 5, 6)) * fps
    things, question = make_one(rng, grain)
    while frames_needed(question, frames=frames, slots=slots) is None:  # it fell between two frames: not asked
        things, question = make_one(rng, grain)
    scene = Scene(things=tuple(things), background=background(rng), frames=frames, fps=fps)
    lasting = [thing for thing in things if thing.shown == ((0.0, 1.0),)]
    static = [make(thing, "static") for thing in lasting for make in (_colour_of, _shape_of)]
    return scene, [question, *rng.sample(static, min(2, len(static)))]


def at_the_end(text: str) -> str:
    """The same question about the last moment of a clip.

    The words come first and leave the question as it is: a model of this size finds what it is asked about by where it
    stands, and would have to learn to look all over again.
    """
    return f"In the end, {text[0].lower()}{text[1:]}"


def _moment(rng: random.Random, grain: float) -> float:
    """When something happens once: in the middle, where few frames show it, or near an end, where it takes more.

    As often early as late: what can be seen for most of a clip is how it was as often as how it ends up, so to look
    without regard to time is to be right by half.
    """
    low, high = rng.choice(((0.05, 0.07), (0.1, 0.2), (0.3, 0.7), (0.3, 0.7), (0.8, 0.9), (0.91, 0.93)))
    return rng.uniform(_drawn(low, grain), _drawn(high, grain))


def _drawn(share: float, grain: float) -> float:
    """A share of the duration, drawn as much closer to the end that it is near to as the grain is finer."""
    return share * grain if share < 0.5 else share + (1 - share) * (1 - grain)


def _change(rng: random.Random, grain: float, look: Literal["colour", "shape"]) -> tuple[list[Thing], Question]:
    """Something takes on another colour or shape, and something else may go somewhere, which is not asked about."""
    before, *others = _distinct(rng, rng.randint(2, 3), size=(9, 13))
    ability, text, looks = (
        ("change", f"What colour is the {before.shape}?", tuple(COLOURS))
        if look == "colour"
        else ("morph", f"What shape is {before.colour}?", SHAPES)
    )
    new = rng.choice([one for one in looks if one not in {getattr(thing, look) for thing in (before, *others)}])
    after = replace(before, colour=new) if look == "colour" else replace(before, shape=new)
    at = _moment(rng, grain)
    states = (replace(before, shown=((0.0, at),)), replace(after, shown=((at, 1.0),)))

    def observe(times: Sequence[float]) -> str | None:
        seen = [getattr(state, look) for time in times for state in states if state.at(time)]
        return seen[-1] if len(set(seen)) == 2 else None  # who sees one look cannot know whether it is the old one

    return [*_wander(rng, others, states[0]), *states], Question(
        ability=ability,
        text=at_the_end(text),
        options=tuple(sorted(getattr(state, look) for state in states)),
        answer=new,
        observe=observe,
    )


def _wander(rng: random.Random, others: Sequence[Thing], still: Thing) -> list[Thing]:
    """The first of the others goes to a place that is free, if the one that is drawn is."""
    first, *rest = others
    x, y = _place(rng, rng.choice(QUADRANTS), first.size)
    if not all(_apart(thing, replace(first, x=x, y=y)) for thing in (*rest, still)):
        return [*others]
    start = rng.uniform(0.0, 0.7)
    return [replace(first, motion=Motion(x - first.x, y - first.y, start, start + 0.3)), *rest]


def _order(rng: random.Random, grain: float) -> tuple[list[Thing], Question]:
    first, second, *others = _distinct(rng, 3, size=(8, 12))
    gap = grain * rng.choice((0.07, 0.13, 0.26, 0.45))  # about 1, 2, 4 or 7 slots
    a = rng.uniform(_drawn(0.02, grain), _drawn(0.96, grain) - gap)
    things = {c.colour: replace(c, shown=((at, 1.0),)) for c, at in ((first, a), (second, a + gap))}
    x, y = rng.sample([first.colour, second.colour], 2)
    text = f"Which appears first, {x} or {y}?"

    def observe(times: Sequence[float]) -> str | None:
        seen = ([colour for colour, thing in things.items() if thing.at(t)] for t in times)
        return next((colours[0] for colours in seen if len(colours) == 1), None)

    return [*others, *things.values()], Question(
        ability="order", text=text, options=tuple(sorted((x, y))), answer=first.colour, observe=observe
    )


def _blinks(rng: random.Random, grain: float) -> tuple[list[Thing], Question]:
    lamp, other = _distinct(rng, 2, size=(8, 11))
    count = rng.randint(1, 4)
    bright = grain * (rng.choice((0.065, 0.13)) if count < 4 else 0.065)  # about 1 or 2 slots
    dark, margin = grain * 0.07, grain * 0.03
    room = 1 - 2 * margin - count * bright - (count - 1) * dark
    cuts = sorted(rng.uniform(0, room) for _ in range(count))
    starts = [margin + cut + i * (bright + dark) for i, cut in enumerate(cuts)]
    (x, y, size), *places = scatter(rng, 1 + count, size=(7, 9))
    blinks = [
        Thing(shape=lamp.shape, colour=lamp.colour, x=a, y=b, size=c, shown=((start, start + bright),))
        for start, (a, b, c) in zip(starts, places, strict=True)
    ]

    def observe(times: Sequence[float]) -> str | None:
        return str(sum(any(b.at(t) for t in times) for b in blinks))

    return [replace(other, x=x, y=y, size=size), *blinks], Question(
        ability="blinks",
        text=f"How many times does the {lamp.shape} blink?",
        options=BLINKS,
        answer=str(count),
        observe=observe,
    )


# --- shared ---------------------------------------------------------------------------------------------------------


def _distinct(rng: random.Random, count: int, *, size: tuple[float, float]) -> list[Thing]:
    """Things that differ in shape and in colour, so that either names exactly one."""
    shapes, colours = rng.sample(SHAPES, count), rng.sample(list(COLOURS), count)
    places = scatter(rng, count, size=size)
    return [
        Thing(shape=h, colour=c, x=x, y=y, size=s) for h, c, (x, y, s) in zip(shapes, colours, places, strict=True)
    ]


def _place(rng: random.Random, quadrant: str, size: float) -> tuple[float, float]:
    """A centre in the quadrant, clear of the middle lines: on a line there would be no right answer."""
    row, column = divmod(QUADRANTS.index(quadrant), 2)
    low, high = (size + 1, SIDE / 2 - _CLEAR), (SIDE / 2 + _CLEAR, SIDE - size - 1)
    return rng.uniform(*(high if column else low)), rng.uniform(*(high if row else low))


def clear_of_middle(thing: Thing) -> bool:
    """Whether the thing is plainly in one quadrant."""
    return min(abs(thing.x - SIDE / 2), abs(thing.y - SIDE / 2)) >= _CLEAR


def _apart(one: Thing, other: Thing) -> bool:
    return max(abs(one.x - other.x), abs(one.y - other.y)) > one.size + other.size + 2


def _still(rng: random.Random, things: Sequence[Thing]) -> Scene:
    return Scene(things=tuple(things), background=background(rng))


def _plain(ability: str, text: str, options: tuple[str, ...], answer: str) -> Question:
    return Question(ability=ability, text=text, options=options, answer=answer, observe=lambda times: answer)


def _colour_of(thing: Thing, ability: str) -> Question:
    return _plain(ability, f"What colour is the {thing.shape}?", tuple(COLOURS), thing.colour)


def _shape_of(thing: Thing, ability: str) -> Question:
    return _plain(ability, f"What shape is {thing.colour}?", SHAPES, thing.shape)


def place_of(thing: Thing) -> Question:
    """Where a thing is that is clear of the middle lines."""
    answer = QUADRANTS[2 * (thing.y > SIDE / 2) + (thing.x > SIDE / 2)]
    return _plain("position", f"Where is the {thing.shape}?", QUADRANTS, answer)
