"""How does text from a corpus, a model or a run get into Markdown and HTML without doing harm there?

Names of sources, models and tasks come from other people's files. YAML is always written by a YAML library, HTML is
escaped by jinja2, and the filters here do the same for Markdown, where a `|`, a backtick or a bracket is enough to
break a table or to smuggle in a link.
"""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jinja2
import yaml
from markupsafe import Markup

# Characters that mean something in Markdown: anywhere in a line, and at its start only.
_SPECIAL = re.compile(r"([\\`*_{}\[\]|~])")
_START = re.compile(r"^([#+=-](?!\d)|\d+(?=[.)]\s))")
_WHITE = re.compile(r"\s+")


def markdown(value: object) -> Markup:
    r"""Plain text as Markdown that shows exactly that text, on one line, also inside a table cell.

    Example:
        >>> print(markdown("a|b <i> [x](y)"))
        a\|b &lt;i&gt; \[x\](y)
    """
    text = _WHITE.sub(" ", str(value)).strip()
    text = _START.sub(lambda m: "\\" + m[1] if not m[1].isdigit() else m[1] + "\\", _SPECIAL.sub(r"\\\1", text))
    # Quotes need no escaping here, so html's own function would only make the source harder to read.
    return Markup(text.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;"))


def code(value: object) -> Markup:
    """Plain text as a Markdown code span. Backticks, which would end the span, become plain quotes.

    Example:
        >>> print(code("a`b"))
        `a'b`
    """
    text = _WHITE.sub(" ", str(value)).strip().replace("`", "'").replace("|", "\\|")
    return Markup(f"`{text}`")


def python_string(value: object) -> Markup:
    """A Python string literal for a fenced example: what it prints can be pasted and run."""
    text = _WHITE.sub(" ", str(value)).strip().replace("`", "'")
    return Markup('"' + text.replace("\\", "\\\\").replace('"', '\\"') + '"')


def number(value: object) -> str:
    """Numbers as people read them: `12,345`, `0.62`, `16`; other values unchanged.

    Example:
        >>> number(12345), number(0.61803), number(16.0), number("x")
        ('12,345', '0.618', '16', 'x')
    """
    if isinstance(value, bool) or not isinstance(value, int | float):
        return str(value)
    if isinstance(value, int) or value.is_integer():
        return f"{int(value):,}"
    return f"{value:,.3g}" if abs(value) < 1000 else f"{value:,.0f}"


def environment() -> jinja2.Environment:
    """The one jinja2 environment of this package: autoescape on, undefined names are errors."""
    env = jinja2.Environment(
        loader=jinja2.PackageLoader("hub_cards"),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
    env.filters |= {"md": markdown, "code": code, "pystr": python_string, "num": number}
    return env


def card(metadata: Mapping[str, Any], template: str, **context: Any) -> str:
    """A Hub card: YAML front matter, then the Markdown of `template` in `hub_cards/templates/`."""
    front = yaml.safe_dump(dict(metadata), sort_keys=False, allow_unicode=True, width=110)
    body = environment().get_template(template).render(**context)
    # More than one empty line in a row is what optional sections leave behind.
    return f"---\n{front}---\n\n" + re.sub(r"\n{3,}", "\n\n", body).strip() + "\n"


def write_text(path: Path, text: str) -> None:
    """Write a file whole or not at all: temporary name, fsync, rename. Makes the folders above it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.tmp{os.getpid()}")
    temporary.unlink(missing_ok=True)
    with temporary.open("x", encoding="utf-8", newline="\n") as file:  # x: not through a link that somebody put there
        file.write(text)
        file.flush()
        os.fsync(file.fileno())
    temporary.replace(path)
