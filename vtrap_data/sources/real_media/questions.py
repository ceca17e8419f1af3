"""What is asked about the media? Hand-written questions, as rows of a corpus or of a benchmark.

The committed `questions.jsonl` holds what a person wrote: media, ability, question, options, answer. The rest of a row
(turns, source, licence) follows from it and from the table of media, and is added here.

`category` says whether one well-chosen frame is enough ("one-frame") or several must be compared ("many-frames").
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from importlib.resources import files
from pathlib import Path
from typing import Any

from vtrap_data.files import write_bytes
from vtrap_data.samples import IMAGE_MARK, VIDEO_MARK
from vtrap_data.sources.real_media.fetch import MEDIA_FOLDER
from vtrap_data.sources.real_media.table import MEDIA, Medium

_WHAT_IS_SHOWN = ("colour", "object", "count", "position", "text", "scene")
_WHAT_HAPPENS = ("action", "order", "direction", "speed", "camera", "change")
ABILITIES = (*_WHAT_IS_SHOWN, *_WHAT_HAPPENS)
"""Every ability that a question may test."""

SOURCE = "real-media"
"""Name of this corpus in the rows."""


def rows(media: Sequence[Medium] = MEDIA) -> list[dict[str, Any]]:
    """Every question as a row of the `messages` dialect, in the order of the committed file.

    The user turn is one mark per medium, then the bare question; the options stand in their own field.

    Returns:
        Dicts with id, videos or images (paths relative to the output folder), messages, question, options, answer,
        ability, category, source, licence and redistributable.

    Raises:
        KeyError: A question names a medium that is not in the table.
    """
    table = {f"{MEDIA_FOLDER}/{m.name}": m for m in media}
    text = files(__package__).joinpath("questions.jsonl").read_text(encoding="utf-8")
    return [_row(json.loads(line), table) for line in text.splitlines()]


def write_questions(path: Path) -> int:
    """Write every row as one line of JSON and return how many there are."""
    every = rows()
    write_bytes(path, "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in every).encode())
    return len(every)


def _row(written: dict[str, Any], table: dict[str, Medium]) -> dict[str, Any]:
    kind, mark = ("videos", VIDEO_MARK) if "videos" in written else ("images", IMAGE_MARK)
    shown = [table[name] for name in written[kind]]
    prompt = "\n".join([mark] * len(shown) + [written["question"]])
    turns = [{"role": "user", "content": prompt}, {"role": "assistant", "content": written["answer"]}]
    return {
        "id": written["id"],
        kind: written[kind],
        "messages": turns,
        **{key: written[key] for key in ("question", "options", "answer", "ability", "category")},
        "source": SOURCE,
        "licence": " AND ".join(sorted({m.licence for m in shown})),
        "redistributable": _weakest([m.redistributable for m in shown]),
    }


def _weakest(allowed: Sequence[bool | None]) -> bool | None:
    if False in allowed:
        return False
    return None if None in allowed else True
