"""vtrap_train: samples -> a fine-tuned checkpoint."""

import vtrap_data  # makes torchvision importable beside a CPU torch, in launched processes too

__version__ = vtrap_data.__version__
