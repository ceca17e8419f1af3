"""Make `import torchvision` work beside a CPU-only torch.

The torchvision wheels on the public index are CUDA builds. Beside a CPU torch their compiled half does not load, and
the Python half then fails because two operators were never declared (`operator torchvision::nms does not exist`).
Declaring them is enough for everything vtrap and transformers use (transforms). `install()` costs nothing: it only
puts a finder in front of the import system, which acts when torchvision is first imported, in this process.
"""

from __future__ import annotations

import ctypes
import importlib.abc
import importlib.machinery
import importlib.util
import sys
from collections.abc import Sequence
from pathlib import Path
from types import ModuleType
from typing import Any

_SCHEMAS = (
    "nms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor",
    "qnms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor",
)
_keep: list[Any] = []  # a torch Library is withdrawn when it is collected


class _Finder(importlib.abc.MetaPathFinder):
    def find_spec(
        self, name: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> importlib.machinery.ModuleSpec | None:
        if name == "torchvision":
            sys.meta_path.remove(self)
            spec = importlib.util.find_spec("torchvision")
            if spec is not None and spec.origin is not None:
                _declare_operators(Path(spec.origin).parent)
        return None  # the ordinary finders load it


def _declare_operators(package: Path) -> None:
    import torch

    libraries = sorted(package.glob("_C*.so"))
    try:
        for library in libraries:
            ctypes.CDLL(str(library))
    except OSError:
        fragment: Any = torch.library.Library("torchvision", "FRAGMENT")  # type: ignore[no-untyped-call]
        for schema in _SCHEMAS:
            fragment.define(schema)
        _keep.append(fragment)


def install() -> None:
    """Put the finder in place; calling it again, or after torchvision was imported, does nothing."""
    if "torchvision" not in sys.modules and not any(isinstance(f, _Finder) for f in sys.meta_path):
        sys.meta_path.insert(0, _Finder())
