"""Where in the picture is what a question is about? Boxes from a file, or, in the toy world, from the scene itself."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from pathlib import Path

from vtrap_bench.gaze import Box
from vtrap_data.errors import UsageError
from vtrap_data.parsing import parse_json
from vtrap_data.samples import Example
from vtrap_data.sources.toyworld.generate import Recipe
from vtrap_data.sources.toyworld.scene import COLOURS, SHAPES, SIDE, Scene, Thing

Boxes = Sequence[Sequence[Box]]


def read_boxes(path: Path) -> dict[str, list[Box]]:
    """Boxes from JSONL: `{"item_id": ..., "boxes": [[left, top, right, bottom], ...]}`, in shares of the picture.

    They hold for every picture of the item.

    Raises:
        UsageError: A line names none, or a box lies outside the picture.
    """
    found: dict[str, list[Box]] = {}
    # Not splitlines: JSON may hold U+2028 and the like, which are no line ends here.
    for number, line in enumerate(path.read_bytes().split(b"\n"), 1):
        if not line.strip():
            continue
        try:
            row = parse_json(line)
            boxes = [Box(*map(float, box)) for box in row["boxes"]]
            if not boxes or not all(0 <= b.left < b.right <= 1 and 0 <= b.top < b.bottom <= 1 for b in boxes):
                raise ValueError("one or more, whose left, top, right and bottom are shares, 0 to 1")
            found[str(row["item_id"])] = boxes
        except (ValueError, KeyError, TypeError, OverflowError) as error:
            raise UsageError(f"{path}, line {number} holds no boxes ({error})") from error
    return found


def toy_boxes(example: Example, *, steps: int) -> Boxes | None:
    """What a toy question is about, in each picture that the model sees: known, as the scene can be drawn again.

    Args:
        example: A toy item with its frames or its picture.
        steps: Steps in time that the model sees; several frames may make one.

    Returns:
        Boxes per step. None if the item is not of this toy world, or if nothing it asks about is ever on screen.
    """
    made = Recipe.of_id(example.item.id)
    if made is None:
        return None
    scene, questions = made.recipe.scene(made.scene)
    if made.number >= len(questions) or questions[made.number].text != example.item.question:
        return None  # made by another version of the toy world
    asked = _asked_about(scene, example.item.question)
    if example.frames is None:
        moments: list[list[float]] = [[0.0]]
    else:
        # A clip's own time axis: frame f is drawn at share f / frames.
        shares = [min(round(time * scene.fps), scene.frames - 1) / scene.frames for time in example.frames.times]
        each = -(-len(shares) // steps)
        moments = [shares[i : i + each] for i in range(0, len(shares), each)]
    boxes = [[b for t in some for thing in asked if (b := _box(thing, t)) is not None] for some in moments]
    return boxes if any(boxes) else None


def boxes_for(example: Example, *, steps: int, given: Mapping[str, Sequence[Box]]) -> Boxes | None:
    """The boxes of an item: those given for it, otherwise the toy world's own, otherwise None."""
    if example.item.id in given:
        return [given[example.item.id]] * steps
    return toy_boxes(example, steps=steps)


def _asked_about(scene: Scene, question: str) -> list[Thing]:
    words = set(re.findall(r"\w+", question.casefold()))
    if "digit" in words:
        return [thing for thing in scene.things if thing.shape.isdecimal()]
    if "shapes" in words:
        return list(scene.things)
    named = words & {*SHAPES, *COLOURS}
    return [thing for thing in scene.things if {thing.shape, thing.colour} & named]


def _box(thing: Thing, t: float) -> Box | None:
    centre = thing.at(t)
    if centre is None:
        return None
    (x, y), s = centre, thing.size
    sides = (x - s, y - s, x + s, y + s)
    return Box(*(min(1.0, max(0.0, side / SIDE)) for side in sides))
