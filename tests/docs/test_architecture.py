"""docs/architecture.md: imports point one way, between the packages and between the rooms of `vtrap_data`."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
ROOMS = ("media", "sources", "budgets", "shards", "loading", "encoding", "toy_vl")
"""Of `vtrap_data`: each may use those before it. Modules beside the rooms (errors, files, ...) use no room."""
ABOVE = ("__main__", "push")
"""Commands: they may use every room."""
PACKAGES = {
    "hub_cards": set(),
    "vtrap_data": {"hub_cards"},
    "vtrap_train": {"hub_cards", "vtrap_data"},
    "vtrap_bench": {"hub_cards", "vtrap_data"},
}
"""What each package may use."""


def imports(path: Path) -> Iterator[list[str]]:
    """Every module that a file imports, also inside functions, as the parts of its name."""
    for node in ast.walk(ast.parse(path.read_text("utf-8"))):
        if isinstance(node, ast.Import):
            yield from (alias.name.split(".") for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module is not None:
            yield from ([*node.module.split("."), alias.name] for alias in node.names)


def test_packages_use_only_those_before_them() -> None:
    for package, allowed in PACKAGES.items():
        files = sorted((ROOT / package).rglob("*.py"))
        assert files
        for path in files:
            used = {parts[0] for parts in imports(path)} & PACKAGES.keys()
            assert used <= {package} | allowed, path


def test_rooms_use_only_those_before_them() -> None:
    seen = 0
    for path in sorted((ROOT / "vtrap_data").rglob("*.py")):
        room = path.relative_to(ROOT / "vtrap_data").with_suffix("").parts[0]
        if room in ABOVE:
            continue
        allowed = set(ROOMS[: ROOMS.index(room) + 1]) if room in ROOMS else set()
        used = {parts[1] for parts in imports(path) if parts[0] == "vtrap_data"} & set(ROOMS)
        assert used <= allowed, path
        seen += len(used)
    assert seen > 100
