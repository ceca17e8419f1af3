"""vtrap_data: media -> frames -> budgets -> shards -> samples -> model inputs.

Importing it is cheap (no torch). The one thing it does is to make torchvision importable in CPU-only environments, in
every process that uses vtrap.
"""

from vtrap_data import _torchvision_cpu

__version__ = "0.1.0"

_torchvision_cpu.install()
