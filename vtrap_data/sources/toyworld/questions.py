"""What is asked of a toy scene, what is the answer, and how many frames does knowing it take?

A question carries an ideal observer: given the times of the frames that are shown, it says what follows from them, or
None if they leave it open. `frames_needed` asks the observer at every candidate budget with exactly the frames that
vtrap's selection rule would take, so "how many frames does this item truly need" is known, not guessed.
"""

from __future__ import annotations

import itertools
import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from vtrap_data.media.select import subset_slots
from vtrap_data.sources.toyworld.scene import (
    COLOURS,
    DIRECTIONS,
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
VIDEO_ABILITIES = ("static", "direction", "order", "blinks", "speed")
TEMPORAL_ABILITIES = VIDEO_ABILITIES[1:]

SLOTS = 16
BUDGETS = (2, 4, 8, 16)

DIGITS = tuple("0123456789")
COUNTS = ("1", "2", "3", "4", "5")
BLINKS = ("1", "2", "3", "4")
SPEEDS = ("fast", "slow")

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


def frames_needed(
    question: Question, *, frames: int, budgets: Sequence[int] = BUDGETS, slots: int = SLOTS
) -> int | None:
    """Smallest budget from which on, at every larger budget too, the frames shown determine the answer.

    Args:
        question: With its ideal observer.
        frames: Source frames of the clip; a slot shows the last one that began before its centre.
        budgets: Candidates.
        slots: Pool slots.

    Returns:
        The budget, or None if not even the largest one determines the answer.
    """
    needed: int | None = None
    for budget in sorted(budgets, reverse=True):
        chosen = subset_slots(slots, budget, smallest=min(budgets))
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
            # Keep clear of the middle lines: a centre on the line would have no right answer.
            column, row = rng.randint(0, 1), rng.randint(0, 1)
            half = SIDE / 2
            s = target.size
            x = rng.uniform(s + 1, half - 4) if column == 0 else rng.uniform(half + 4, SIDE - s - 1)
            y = rng.uniform(s + 1, half - 4) if row == 0 else rng.uniform(half + 4, SIDE - s - 1)
            placed = Thing(shape=target.shape, colour=target.colour, x=x, y=y, size=s)
            clear = [o for o in things if o is not target and max(abs(o.x - x), abs(o.y - y)) > o.size + s + 2]
            text = f"Where is the {target.shape}?"
            return _still(rng, [placed, *clear]), _plain("position", text, QUADRANTS, QUADRANTS[2 * row + column])
    raise ValueError(f"ability {ability!r} is not one of {IMAGE_ABILITIES}")


# --- clips ----------------------------------------------------------------------------------------------------------


def clip(rng: random.Random, ability: str) -> tuple[Scene, list[Question]]:
    """A clip made for one temporal ability, with a question about it and two static ones about the same clip."""
    make_one = {"direction": _direction, "order": _order, "blinks": _blinks, "speed": _speed}[ability]
    frames = rng.choice((32, 40, 48))
    things, question = make_one(rng)
    while (
        frames_needed(question, frames=frames) is None
    ):  # a pause fell between two frames: not answerable, so not asked
        things, question = make_one(rng)
    scene = Scene(things=tuple(things), background=background(rng), frames=frames)
    lasting = [t for t in things if t.shown == ((0.0, 1.0),)]
    static = [make(thing, "static") for thing in lasting for make in (_colour_of, _shape_of)]
    return scene, [question, *rng.sample(static, min(2, len(static)))]


def _direction(rng: random.Random) -> tuple[list[Thing], Question]:
    mover, *others = _cast(rng)
    direction = rng.choice(list(DIRECTIONS))
    back = rng.random() < 0.6  # a move can be told from its ends; a jump only by who sees it happen
    length = rng.choice((0.12, 0.2, 0.4)) if back else rng.choice((0.15, 0.3, 0.6, 0.9))
    start = rng.uniform(0.02, 0.98 - length)
    moving = _on_course(rng, mover, Motion(direction, rng.uniform(20, 28), start, start + length, back))
    text = f"Which way does the {mover.shape} {'jump' if back else 'move'}?"

    def observe(times: Sequence[float]) -> str | None:
        places = [moving.at(t) or (0.0, 0.0) for t in times]
        dx, dy = DIRECTIONS[direction]
        along = [x * dx + y * dy for x, y in places]
        change = max(along) - min(along) if back else along[-1] - along[0]
        return direction if change >= 4 else None

    return [*others, moving], Question(
        ability="direction", text=text, options=tuple(DIRECTIONS), answer=direction, observe=observe
    )


def _order(rng: random.Random) -> tuple[list[Thing], Question]:
    first, second, *others = _distinct(rng, 3, size=(8, 12))
    width = rng.choice((0.07, 0.13, 0.26))  # about 1, 2 or 4 of 16 slots
    a = rng.uniform(0.02, 0.96 - 2 * width)
    b = rng.uniform(a + width, 0.98 - width)
    things = {
        c.colour: Thing(shape=c.shape, colour=c.colour, x=c.x, y=c.y, size=c.size, shown=((at, at + width),))
        for c, at in ((first, a), (second, b))
    }
    x, y = rng.sample([first.colour, second.colour], 2)
    text = f"Which appears first, {x} or {y}?"

    def observe(times: Sequence[float]) -> str | None:
        seen = {colour: [t for t in times if thing.at(t)] for colour, thing in things.items()}
        return min(seen, key=lambda c: seen[c][0]) if all(seen.values()) else None

    return [*others, *things.values()], Question(
        ability="order", text=text, options=tuple(sorted((x, y))), answer=first.colour, observe=observe
    )


def _blinks(rng: random.Random) -> tuple[list[Thing], Question]:
    lamp, *others = _distinct(rng, rng.randint(2, 3), size=(9, 12))
    count = rng.randint(1, 4)
    dark = rng.choice((0.065, 0.13)) if count < 4 else 0.065  # about 1 or 2 of 16 slots
    room = 0.86 - count * dark - (count - 1) * 0.13
    cuts = sorted(rng.uniform(0, room) for _ in range(count))
    starts = [0.07 + cut + i * (dark + 0.13) for i, cut in enumerate(cuts)]
    gone = [(a, a + dark) for a in starts]
    edges = [0.0, *(edge for pair in gone for edge in pair), 1.0]
    shown = tuple(zip(edges[::2], edges[1::2], strict=True))
    blinking = Thing(shape=lamp.shape, colour=lamp.colour, x=lamp.x, y=lamp.y, size=lamp.size, shown=shown)
    text = f"How many times does the {lamp.shape} blink?"

    def observe(times: Sequence[float]) -> str | None:
        lit = [blinking.at(t) is not None for t in times]
        return str(sum(a and not b for a, b in zip([True, *lit], lit, strict=False)))

    return [*others, blinking], Question(
        ability="blinks", text=text, options=BLINKS, answer=str(count), observe=observe
    )


def _speed(rng: random.Random) -> tuple[list[Thing], Question]:
    mover, *others = _cast(rng)
    answer = rng.choice(SPEEDS)
    length = rng.uniform(0.08, 0.12) if answer == "fast" else rng.uniform(0.6, 0.9)
    start = rng.uniform(0.03, 0.97 - length)
    moving = _on_course(rng, mover, Motion(rng.choice(list(DIRECTIONS)), rng.uniform(20, 28), start, start + length))
    text = f"Does the {mover.shape} move fast or slow?"

    def observe(times: Sequence[float]) -> str | None:
        places = [moving.at(t) or (0.0, 0.0) for t in times]
        moved = sum(abs(a - c) + abs(b - d) > 1 for (a, b), (c, d) in itertools.pairwise(places))
        step = (times[-1] - times[0]) / max(len(times) - 1, 1)
        longest, shortest = moved * step, (moved - 2) * step  # how long the move can, and must, have taken
        if longest < 0.6:
            return "fast" if moved else None
        return "slow" if shortest > 0.12 else None

    return [*others, moving], Question(ability="speed", text=text, options=SPEEDS, answer=answer, observe=observe)


# --- shared ---------------------------------------------------------------------------------------------------------


def _distinct(rng: random.Random, count: int, *, size: tuple[float, float]) -> list[Thing]:
    """Things that differ in shape and in colour, so that either names exactly one."""
    shapes, colours = rng.sample(SHAPES, count), rng.sample(list(COLOURS), count)
    places = scatter(rng, count, size=size)
    return [
        Thing(shape=h, colour=c, x=x, y=y, size=s) for h, c, (x, y, s) in zip(shapes, colours, places, strict=True)
    ]


def _cast(rng: random.Random) -> list[Thing]:
    return _distinct(rng, rng.randint(2, 3), size=(8, 11))


def _on_course(rng: random.Random, thing: Thing, motion: Motion) -> Thing:
    """`thing` with the motion, moved so that start and end of its way are on screen."""
    dx, dy = DIRECTIONS[motion.direction]
    s = thing.size + 1

    def place(d: int) -> float:
        low = s + (motion.pixels if d < 0 else 0)
        high = SIDE - s - (motion.pixels if d > 0 else 0)
        return rng.uniform(low, high)

    return Thing(shape=thing.shape, colour=thing.colour, x=place(dx), y=place(dy), size=thing.size, motion=motion)


def _still(rng: random.Random, things: Sequence[Thing]) -> Scene:
    return Scene(things=tuple(things), background=background(rng))


def _plain(ability: str, text: str, options: tuple[str, ...], answer: str) -> Question:
    return Question(ability=ability, text=text, options=options, answer=answer, observe=lambda times: answer)


def _colour_of(thing: Thing, ability: str) -> Question:
    return _plain(ability, f"What colour is the {thing.shape}?", tuple(COLOURS), thing.colour)


def _shape_of(thing: Thing, ability: str) -> Question:
    return _plain(ability, f"What shape is {thing.colour}?", SHAPES, thing.shape)
