"""What a docs page tells its reader to type, and to save: its fenced blocks.

```sh                    commands, one a line (a backslash goes on with it)
```yaml study.yaml       a file to save under that name
"""

from __future__ import annotations

import re
import shlex
from pathlib import Path
from typing import NamedTuple

FENCE = re.compile(r"^```(\w*)(?: ([\w./-]+))?\n(.*?)^```$", re.MULTILINE | re.DOTALL)
SHELL = ("sh", "bash", "shell", "console", "")


class Save(NamedTuple):
    """A file that the page shows."""

    name: str
    text: str


def steps(page: Path, *, instead: dict[str, str]) -> list[list[str] | Save]:
    """The commands and files of a page, in its order.

    Args:
        page: Markdown.
        instead: What this machine does instead of what the page says: text to text. Each has to be on the page.
    """
    text = page.read_text("utf-8")
    found: list[list[str] | Save] = []
    for language, name, body in FENCE.findall(text):
        if name:
            found.append(Save(name, replaced(body, instead)))
        elif language in SHELL:
            lines = replaced(body.replace("\\\n", " "), instead).splitlines()
            found += [words for line in lines if (words := shlex.split(line, comments=True))]
    unused = [old for old in instead if not any(old in body for _, _, body in FENCE.findall(text))]
    assert not unused, f"{page.name} does not say {unused}"
    return found


def replaced(text: str, instead: dict[str, str]) -> str:
    for old, new in instead.items():
        text = text.replace(old, new)
    return text
