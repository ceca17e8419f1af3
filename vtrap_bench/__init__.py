"""vtrap_bench: a checkpoint -> records -> scores -> statistics -> report, submission."""

import vtrap_data  # makes torchvision importable beside a CPU torch, in worker processes too

__version__ = vtrap_data.__version__
