"""What does a stranger get of a published checkpoint? Loads it with stock transformers and prints what came, as JSON.

    python -m vtrap_train.readback DIR_OR_ID [REVISION]

Run in a process of its own with empty caches. The weights are loaded whole, on the CPU.
"""

from __future__ import annotations

import hashlib
import sys
from pathlib import Path
from typing import Any

from hub_cards.readback import answer, file_sha256


def checkpoint(where: str, revision: str | None = None) -> dict[str, Any]:
    """Hashes of the files, and what `from_pretrained` makes of them: class, parameters, a hash over the weights.

    Args:
        where: A folder, or `owner/name`.
        revision: Of the repository.

    Raises:
        ValueError: Weights are missing or belong to nothing.
    """
    import torch
    from huggingface_hub import snapshot_download
    from transformers import AutoModelForImageTextToText, AutoProcessor
    from transformers.utils import logging

    # The package's import has put a repair for CPU-only machines in place, which changes nothing about loading.
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    found: dict[str, Any] = {}
    if revision is not None:
        folder = Path(snapshot_download(where, revision=revision))
        paths = [p for p in sorted(folder.rglob("*")) if p.is_file()]
        found["files"] = {p.relative_to(folder).as_posix(): file_sha256(p) for p in paths}
    processor: Any = AutoProcessor.from_pretrained(where, revision=revision, trust_remote_code=False)
    loaded: Any = AutoModelForImageTextToText.from_pretrained(
        where, revision=revision, dtype="auto", trust_remote_code=False, use_safetensors=True, output_loading_info=True
    )
    model, report = loaded
    wrong = [*report["missing_keys"], *report["unexpected_keys"], *report["mismatched_keys"]]
    if wrong:
        raise ValueError(f"weights that do not fit the configuration: {', '.join(map(str, wrong[:3]))}")
    digest = hashlib.sha256()
    for name, tensor in sorted(model.state_dict().items()):
        digest.update(f"{name} {tuple(tensor.shape)} {tensor.dtype}".encode())
        digest.update(tensor.contiguous().view(torch.uint8).numpy().tobytes() if tensor.ndim else str(tensor).encode())
    return found | {
        "class": type(model).__name__,
        "processor": type(processor).__name__,
        "parameters": sum(p.numel() for p in model.parameters()),
        "sha256": digest.hexdigest(),
    }


if __name__ == "__main__":
    sys.exit(answer(checkpoint, sys.argv[1:]))
