"""What does a training leave beside its weights? Files that `vtrap_train` writes, and what others read, by name."""

SUMMARY = "training_summary.json"
"""What came out: steps, samples, losses, seconds. Written last, so a training with one is finished."""
SETTINGS = "settings.json"
"""Everything that decides the result."""
PREPROCESSING = "preprocessing.json"
"""How frames became inputs; beside every checkpoint, too."""
