"""Which weights are these? A model's files, on this machine, with their hashes."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path

from tqdm import tqdm

from hub_cards.errors import Failed
from hub_cards.reachable import snapshot
from vtrap_data.encoding.models import ModelRef, resolve, without_network
from vtrap_data.errors import UsageError
from vtrap_data.files import canonical_json
from vtrap_data.json_object import read_json_object
from vtrap_data.trained import PREPROCESSING, SETTINGS, SUMMARY

_WEIGHTS = (".safetensors", ".bin")
_SETTINGS = (".json", ".jinja", ".txt", ".model")
# Says how a checkpoint was made, not what it answers.
_NOT_THE_MODEL = frozenset(
    {"trainer_state.json", SUMMARY, PREPROCESSING, SETTINGS, "all_results.json", "progress.json"}
)


@dataclass(frozen=True, slots=True, kw_only=True)
class LocalModel:
    """A model whose files are here.

    Attributes:
        ref: Its `path` is a local directory.
        revision: Commit on the Hub; None for a local directory.
        weights: sha256 of each weights file by name.
        digest: Of everything that decides what it answers: weights, configuration, tokenizer, processor.
    """

    ref: ModelRef
    revision: str | None
    weights: Mapping[str, str]
    digest: str

    @property
    def folder(self) -> Path:
        """Where its files lie."""
        return Path(self.ref.path)


def local_model(name_or_path: str) -> LocalModel:
    """Find a model, download it if it is on the Hub, and hash its files.

    Raises:
        UsageError: There is no such model, or it has no weights.
    """
    ref = resolve(name_or_path)
    folder, revision = Path(ref.path), None
    if not folder.is_dir():
        folder = _download(ref)
        revision = folder.name
    files = sorted(p for p in folder.iterdir() if p.is_file() and p.suffix in _WEIGHTS + _SETTINGS)
    if any(p.suffix == ".safetensors" for p in files):
        files = [p for p in files if p.suffix != ".bin"]
    files = [p for p in files if p.name not in _NOT_THE_MODEL]
    if not any(p.suffix in _WEIGHTS for p in files):
        raise UsageError(f"--model {name_or_path!r}: no weights (*.safetensors) in {folder}")
    hashes = _hashes(files)
    return LocalModel(
        ref=replace(ref, path=str(folder), revision=None),
        revision=revision,
        weights={p.name: hashes[p.name] for p in files if p.suffix in _WEIGHTS},
        digest=hashlib.sha256(canonical_json(hashes)).hexdigest(),
    )


def saved_dtype(folder: Path) -> str | None:
    """The dtype that a checkpoint's config names."""
    config = read_json_object(folder / "config.json", "a model has one")
    for part in (config, config.get("text_config") or {}):
        if found := part.get("dtype") or part.get("torch_dtype"):
            return str(found)
    return None


def _hashes(files: list[Path]) -> dict[str, str]:
    hashes = {}
    total = sum(p.stat().st_size for p in files)
    with tqdm(total=total, desc="hashing weights", unit="B", unit_scale=True, delay=2, leave=False) as bar:
        for path in files:
            hasher = hashlib.sha256()
            with path.open("rb") as file:
                while piece := file.read(2**24):
                    hasher.update(piece)
                    bar.update(len(piece))
            hashes[path.name] = hasher.hexdigest()
    return hashes


def _download(ref: ModelRef) -> Path:
    patterns = [f"*{suffix}" for suffix in (".safetensors", *_SETTINGS)]
    try:
        return snapshot(ref.path, revision=ref.revision, patterns=patterns)
    except Failed as error:
        raise UsageError(
            f"--model {ref.name!r}: {ref.path} cannot be fetched from the Hub ({error}): "
            f"{without_network(ref.path, ref.revision)}"
        ) from error
