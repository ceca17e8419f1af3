"""What does someone have who has installed only `datasets`? A Python that sees a few packages and what they need."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from importlib.metadata import Distribution, distribution
from pathlib import Path

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name


def closure(names: tuple[str, ...]) -> dict[str, Distribution]:
    """The distributions and all that they require, but for extras."""
    found: dict[str, Distribution] = {}
    todo = list(names)
    while todo:
        name = canonicalize_name(todo.pop())
        if name in found:
            continue
        found[name] = distribution(name)
        for line in found[name].requires or ():
            wanted = Requirement(line)
            if wanted.marker is None or wanted.marker.evaluate({"extra": ""}):
                todo.append(wanted.name)
    return found


def parts(one: Distribution) -> Iterator[Path]:
    """The files and folders of a distribution that lie directly in site-packages."""
    names = {file.parts[0] for file in one.files or () if file.parts[0] not in ("..", "__pycache__")}
    for name in sorted(names):
        yield Path(str(one.locate_file(name)))


def stock_python(folder: Path, *names: str) -> Path:
    """Make a virtual environment in which only those packages and what they require can be imported, by links to the
    ones that are installed here. Returns its interpreter; `hf` lies beside it.
    """
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", str(folder)], check=True)
    python = folder / "bin/python"
    version = f"python{sys.version_info.major}.{sys.version_info.minor}"
    for one in closure(names).values():
        for path in parts(one):
            link = folder / "lib" / version / "site-packages" / path.name
            if path.exists() and not link.exists():
                link.symlink_to(path)
    hf = folder / "bin/hf"
    hf.write_text(f"#!{python}\nfrom huggingface_hub.cli.hf import main\nmain()\n")
    hf.chmod(0o755)
    return python
