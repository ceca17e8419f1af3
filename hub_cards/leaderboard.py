"""Which models gain on video without losing images? One page that shows it, with nothing but a file to open.

The rows are embedded as JSON, escaped so that no text in them can end the script element, and the page's script puts
every one of them into the document as text. A content security policy in the page allows that script and that style by
hash and nothing else: no request leaves the page.
"""

from __future__ import annotations

import base64
import hashlib
import json
import re
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from markupsafe import Markup

from hub_cards.rendering import card, environment, write_text
from hub_cards.results import ResultRow

PAGE = "index.html"
ROWS = "leaderboard.json"
ROWS_FORMAT = 1
TITLE = "vtrap leaderboard"


def leaderboard_html(rows: Sequence[ResultRow]) -> str:
    """The whole page.

    Args:
        rows: One per model and frame setting, in any order.

    Raises:
        ValueError: A link to records that is neither https, to this machine nor a path relative to the page; or the
            same model twice with the same base, setting and date.
    """
    seen: set[tuple[str, str, str | None, str]] = set()
    for row in rows:
        if row.records is not None and not safe_link(row.records):
            raise ValueError(f"{row.model}: link {row.records!r} must be https:// or a path relative to the page")
        name = (row.model, row.frames, row.base, row.date)
        if name in seen:
            raise ValueError(f"{row.model} appears twice at {row.frames} frames with the same date: give one run")
        seen.add(name)
    template = environment()
    source = template.loader
    assert source is not None
    style, _, _ = source.get_source(template, "leaderboard.css")
    script, _, _ = source.get_source(template, "leaderboard.js")
    return template.get_template("leaderboard.html.jinja").render(
        title=TITLE,
        synthetic=bool(rows) and all(row.synthetic for row in rows),
        # Both files are ours, so they are not escaped; the hashes below make the browser run exactly them.
        style=Markup(style),
        script=Markup(script),
        style_hash=_csp_hash(style),
        script_hash=_csp_hash(script),
        data=Markup(embed_json([_plain(row) for row in rows])),
    )


def leaderboard_card(results: Sequence[str] = ()) -> str:
    """The README.md of the static Space that holds the page; `results`: Hub datasets it was made from."""
    metadata = {
        "title": TITLE,
        "emoji": "🎞️",
        "colorFrom": "gray",
        "colorTo": "indigo",
        "sdk": "static",
        "app_file": "index.html",
        "pinned": False,
        "license": "apache-2.0",
        "short_description": "What Video-SFT gains on video and costs on images",
        "tags": [
            "leaderboard",
            "submission:semiautomatic",
            "test:public",
            "judge:auto",
            "modality:image",
            "modality:video",
        ],
    }
    if results:
        metadata["datasets"] = list(results)
    return card(metadata, "space.md.jinja", title=TITLE, results=results)


def leaderboard_files(rows: Sequence[ResultRow], *, results: Sequence[str] = ()) -> dict[str, str]:
    """The files of the Space: the page, its rows for programs, and the card.

    Args:
        rows: As for `leaderboard_html`.
        results: Hub datasets they were read from.
    """
    data = {"format": ROWS_FORMAT, "rows": [_plain(row) for row in rows]}
    return {
        PAGE: leaderboard_html(rows),
        "README.md": leaderboard_card(results),
        ROWS: json.dumps(data, indent=1, ensure_ascii=False, allow_nan=False) + "\n",
    }


def write_leaderboard(folder: Path, rows: Sequence[ResultRow], *, results: Sequence[str] = ()) -> Path:
    """Write the files of the Space into `folder`, which is made if it does not exist; returns the page."""
    for name, text in leaderboard_files(rows, results=results).items():
        write_text(folder / name, text)
    return folder / PAGE


def embed_json(value: Any) -> str:
    r"""JSON that is safe inside a `<script>` element: no character in it can end the element or open a comment.

    Example:
        >>> embed_json({"a": "</script><!--"})
        '{"a":"\\u003c/script\\u003e\\u003c!--"}'
    """
    text = json.dumps(value, ensure_ascii=False, allow_nan=False, separators=(",", ":"))
    for char in "<>&\u2028\u2029":
        text = text.replace(char, f"\\u{ord(char):04x}")
    return text


def safe_link(url: str) -> bool:
    """Whether a link may stand in a page: https, this machine, or a relative path without a scheme.

    Example:
        >>> [safe_link(u) for u in ("https://a/b", "runs/x/records.jsonl", "javascript:alert(1)", "//a/b", "data:x")]
        [True, True, False, False, False]
    """
    if re.search(r"[\s\x00-\x1f\\]", url):
        return False
    if url.startswith("https://") or re.match(r"http://(127\.0\.0\.1|localhost)(:\d+)?/", url):
        return True
    return bool(url) and not url.startswith("/") and ":" not in url.split("/")[0]


def _plain(row: ResultRow) -> dict[str, Any]:
    """A row as JSON: estimates as [value, low, high], what is missing left out."""
    data = asdict(row)
    data["tasks"] = {name: list(estimate) for name, estimate in row.tasks.items()}
    return {k: list(v) if isinstance(v, tuple) else v for k, v in data.items() if v not in (None, "", {}, False)}


def _csp_hash(text: str) -> str:
    return "sha256-" + base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()
