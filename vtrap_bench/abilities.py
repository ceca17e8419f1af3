"""Which ability is it, across benchmarks? One name for what several tasks test under names of their own.

The published benchmarks are packed with the common names already (`vtrap_data.sources.benchmarks`: each maps its
categories). The toy tasks keep their own names; here is what those mean in the common ones.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from vtrap_data.sources.benchmarks.spec import ABILITIES

OWN_NAMES = {
    "toy-image": {
        "colour": "attribute",
        "shape": "recognition",
        "count": "counting",
        "position": "position",
        "digit": "ocr",
    },
    "toy-video": {
        "static": "attribute",
        "change": "change",
        "morph": "change",
        "order": "order",
        "blinks": "counting",
    },
}
"""By task: the common name of each of its abilities."""


def common_ability(task: str, ability: str) -> str:
    """The common name of an ability of a task; "other" where nobody has said what it is."""
    name = OWN_NAMES.get(task, {}).get(ability, ability)
    return name if name in ABILITIES else "other"


def across(abilities: Iterable[tuple[str, str]]) -> dict[str, list[tuple[str, str]]]:
    """Which (task, ability) pairs test each common ability, in the order of ABILITIES; "other" is no ability."""
    found: dict[str, list[tuple[str, str]]] = {}
    for task, ability in abilities:
        found.setdefault(common_ability(task, ability), []).append((task, ability))
    return {name: found[name] for name in ABILITIES if name in found and name != "other"}


def tasks_of(pairs: Sequence[tuple[str, str]]) -> tuple[str, ...]:
    """The tasks of some (task, ability) pairs, each once."""
    return tuple(dict.fromkeys(task for task, _ in pairs))
