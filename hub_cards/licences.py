"""How is a licence written so that the Hub knows it? Its own identifiers as they are, everything else as "other"."""

from __future__ import annotations

import re

# fmt: off
HUB_LICENCES = frozenset([
    "apache-2.0", "bsd-2-clause", "bsd-3-clause", "cc-by-3.0", "cc-by-4.0", "cc-by-nc-2.0", "cc-by-nc-3.0",
    "cc-by-nc-4.0", "cc-by-nc-nd-3.0", "cc-by-nc-nd-4.0", "cc-by-nc-sa-3.0", "cc-by-nc-sa-4.0", "cc-by-nd-4.0",
    "cc-by-sa-3.0", "cc-by-sa-4.0", "cc0-1.0", "gemma", "gpl-2.0", "gpl-3.0", "lgpl-3.0", "llama3", "mit",
    "odbl", "odc-by", "openrail", "pddl", "unknown", "unlicense",
])
# fmt: on
"""Identifiers that the Hub knows for `license:`."""


def licence_metadata(name: str, *, link: str | None = None) -> dict[str, str]:
    """The entries of a card's metadata about its licence.

    Args:
        name: An SPDX id or a short name.
        link: Where its text is, for one that the Hub does not know.

    Example:
        >>> licence_metadata("Apache-2.0"), licence_metadata("My Own")
        ({'license': 'apache-2.0'}, {'license': 'other', 'license_name': 'my-own'})
    """
    if name.lower() in HUB_LICENCES:
        return {"license": name.lower()}
    slug = re.sub(r"[^a-z0-9.]+", "-", name.lower()).strip("-") or "other"
    return {"license": "other", "license_name": slug, **({"license_link": link} if link else {})}
