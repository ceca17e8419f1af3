"""vtrap_data: media -> frames -> budgets -> shards -> samples -> model inputs.

Importing it is cheap (no torch). It makes torchvision importable in CPU-only environments, in every process that uses
vtrap, and asks torch for huge pages.
"""

import os

from vtrap_data import _torchvision_cpu

__version__ = "0.1.0"

_torchvision_cpu.install()
# The system clears fresh memory 4 KiB at a time, which takes longer than filling the patches of a clip with numbers.
# Torch looks when it makes its first large tensor on the CPU; a 0 in the environment forbids it.
os.environ.setdefault("THP_MEM_ALLOC_ENABLE", "1")
