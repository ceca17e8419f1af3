"""What is in this folder, made from what, how, and is it finished?

`manifest.json` is written last: a folder that has one is complete.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Literal

from vtrap_data.budgets.demand import Scorer
from vtrap_data.errors import SampleError, UsageError, cut
from vtrap_data.files import canonical_json, is_unicode, write_bytes
from vtrap_data.media.size import Fit
from vtrap_data.parsing import parse_json, typed
from vtrap_data.samples import FORMAT_VERSION

MANIFEST = "manifest.json"
INDEX = "index.parquet"
README = "README.md"
DATA = "data"
MOST_SLOTS = 1 << 16
"""Of a pool: a number beyond any use would take all memory."""

_HOW = ("workers", "executor", "ray_address", "file_timeout", "worker_memory")


@dataclass(frozen=True, slots=True, kw_only=True)
class PackSettings:
    """Everything that decides the bytes of a packed corpus, and how the work is done, which does not.

    Attributes:
        name: Name of the corpus: the title of its card.
        split: Split of the rows, as `load_dataset` names it.
        strategy: "fixed:N", "instruction", "coverage", "hybrid" or "random".
        budgets: Candidate frame budgets, ascending.
        mean_frames: Mean budget over all video items that the strategy has to hit.
        slots: Size of the pool of candidate frames of a video.
        store: Store at least the frames of this budget for every video, so that one pack serves several budgets.
        short_side: Short side of stored frames in pixels; smaller videos keep their size.
        fit: Then to a size at which a model takes frames as they are. None: at what the short side gives.
        seed: Of the "random" strategy.
        scorer: What reads the question: "lexical" (cues, needs nothing), or "embedding" (a sentence-embedding model
            beside them). The command chooses what is best of what is installed; from Python it is named.
        samples_per_shard: Media items per tar, at most.
        shard_bytes: Bytes of members per tar, at most, unless one sample alone has more. None: no limit.
        shard_tokens: Visual tokens (see `shards.tokens`) of the items per tar, likewise.
        max_quarantine_rate: Packing stops when a larger share of samples than this is bad.
        keep_truncated: Pack of a video that breaks off what can be read, with a note, instead of setting it aside.
        synthetic: Generated, not recorded: the card says so at the top.
        description: One or two sentences for the card.
        workers: Processes that decode; 0: this one (on a cluster: as many as it has cores).
        executor: "processes" of this machine, or the "ray" cluster.
        ray_address: Of the cluster; None: see `shards.cluster`.
        file_timeout: Seconds that the media of one sample may take before it is set aside.
        worker_memory: GiB that each worker may use; a file that needs more is set aside.
    """

    name: str
    split: str = "train"
    strategy: str = "hybrid"
    budgets: tuple[int, ...] = (8, 16, 32, 64)
    mean_frames: float = 16
    slots: int = 64
    store: int | None = None
    short_side: int = 448
    fit: Fit | None = None
    seed: int = 0
    scorer: Scorer = "lexical"
    samples_per_shard: int = 512
    shard_bytes: int | None = None
    shard_tokens: int | None = None
    max_quarantine_rate: float = 0.1
    keep_truncated: bool = False
    synthetic: bool = False
    description: str = ""
    workers: int = 0
    executor: Literal["processes", "ray"] = "processes"
    ray_address: str | None = None
    file_timeout: float = 300
    worker_memory: float = 4

    @property
    def smallest(self) -> int:
        """The smallest candidate budget: where the nesting of frame subsets begins."""
        return min(self.budgets)

    def to_json(self) -> dict[str, Any]:
        """Every field but those of `_HOW`, which change nothing in the result."""
        data = {name: value for name, value in asdict(self).items() if name not in _HOW}
        return {**data, "budgets": list(self.budgets), "mean_frames": float(self.mean_frames)}

    def check(self) -> None:
        """Raise ValueError for what neither a command line nor a corpus, which may come from anywhere, may ask for."""
        if not self.split.isidentifier():  # files are called after it
            raise ValueError(f"--split must be letters, digits and underscores, not {self.split[:60]!r}")
        for name in ("name", "description"):
            value = getattr(self, name)
            if not is_unicode(value):
                raise ValueError(f"--{name} holds bytes that are no UTF-8, {cut(ascii(value))}: give another --{name}")
        if not self.budgets or min(self.budgets) < 1 or max(self.budgets) > MOST_SLOTS:
            raise ValueError(f"--budgets must lie in 1 to {MOST_SLOTS}, not {cut(str(list(self.budgets)))}")
        if not 1 <= self.slots <= MOST_SLOTS:
            raise ValueError(f"--slots must lie in 1 to {MOST_SLOTS}, not {self.slots}")


@dataclass(frozen=True, slots=True, kw_only=True)
class Shard:
    """One tar: path relative to the folder, size in bytes, hash, number of samples."""

    path: str
    bytes: int
    sha256: str
    samples: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Quarantined:
    """A sample (or a row of the source) that was set aside: which one, the `Reason`, and a sentence."""

    sample: str
    reason: str
    detail: str

    @classmethod
    def of(cls, error: SampleError) -> Quarantined:
        """The record of an error."""
        return cls(sample=error.sample, reason=error.reason.value, detail=error.detail)


@dataclass(frozen=True, slots=True, kw_only=True)
class Duplicate:
    """A sample whose media are, byte for byte, those of another of the same source: its items joined that one."""

    sample: str
    of: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Note:
    """A sample that was packed, and what one should know about its media."""

    sample: str
    detail: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Manifest:
    """The `manifest.json` of a packed corpus. Holds no date and no machine, so that equal inputs give equal bytes.

    Attributes:
        settings: What it was packed with.
        params: Parameters that the strategy solved (such as `eps`).
        counts: samples, items, one entry per kind (`samples_video`, ...), frames_stored, frames_used,
            bytes, duplicate_media (media stored again, because a sample with the same file has another source, another
            licence or other media beside it).
        shards: The tars.
        index_sha256: Hash of `index.parquet`.
        source_sha256: Hash of everything the source said (rows, file names, file sizes).
        versions: Of vtrap, of the frame selection rule, of decoders and encoders.
        quarantine: What was set aside.
        duplicates: Samples that joined another.
        notes: What to know about media that were packed.
        format: Version of the shard format.
    """

    settings: PackSettings
    params: Mapping[str, float | int | str]
    counts: Mapping[str, int]
    shards: tuple[Shard, ...]
    index_sha256: str
    source_sha256: str
    versions: Mapping[str, str | int]
    quarantine: tuple[Quarantined, ...] = ()
    duplicates: tuple[Duplicate, ...] = ()
    notes: tuple[Note, ...] = ()
    format: int = field(default=FORMAT_VERSION)

    def to_json(self) -> dict[str, Any]:
        """The JSON form."""
        return {
            "format": self.format,
            "settings": self.settings.to_json(),
            "params": dict(self.params),
            "counts": dict(self.counts),
            "shards": [asdict(shard) for shard in self.shards],
            "index_sha256": self.index_sha256,
            "source_sha256": self.source_sha256,
            "versions": dict(self.versions),
            "quarantine": [asdict(entry) for entry in self.quarantine],
            "duplicates": [asdict(entry) for entry in self.duplicates],
            "notes": [asdict(entry) for entry in self.notes],
        }


def _manifest(data: Any) -> Manifest:
    """The manifest of a corpus that may come from anywhere: it must not make us read or write other files."""
    canonical_json(data)  # half a surrogate pair can be read, but not written again
    manifest = typed(Manifest, data)
    manifest.settings.check()
    for shard in manifest.shards:
        if not re.fullmatch(rf"{DATA}/[\w-]+\.tar", shard.path):
            raise ValueError(f"the shard {shard.path!r} is no tar in {DATA}/")
    for digest in (manifest.index_sha256, manifest.source_sha256, *(shard.sha256 for shard in manifest.shards)):
        if not re.fullmatch("[0-9a-f]{64}", digest):  # a cache is called after one
            raise ValueError(f"{digest[:70]!r} is no SHA-256 in hex")
    if missing := {"samples", "items", "bytes", "frames_stored", "duplicate_media"} - manifest.counts.keys():
        raise ValueError(f"'counts' lacks {min(missing)!r}")
    return manifest


def write_manifest(root: Path, manifest: Manifest) -> None:
    """Write `manifest.json`: from here on the folder counts as finished."""
    write_bytes(root / MANIFEST, (json.dumps(manifest.to_json(), indent=1, ensure_ascii=False) + "\n").encode())


def check_folder(root: Path) -> None:
    """Refuse a folder of whose corpus nothing could be read.

    Raises:
        UsageError: Its name holds bytes that are no UTF-8, and Arrow opens no such file.
    """
    if not is_unicode(str(root)):
        raise UsageError(f"the name of the folder {root} holds bytes that are no UTF-8: choose another name")


def read_manifest(root: Path) -> Manifest:
    """Read the manifest of a packed corpus.

    Raises:
        UsageError: The folder is none, has a name that is no text, is unfinished, or is of another format version.
    """
    check_folder(root)
    path = root / MANIFEST
    if not path.is_file():
        why = "is not finished (run `pack` again)" if (root / ".work").is_dir() else f"has no {MANIFEST}"
        raise UsageError(f"{root} is no packed corpus: it {why if root.is_dir() else 'does not exist'}")
    try:
        return parse_manifest(path.read_bytes(), where=str(path))
    except OSError as error:
        raise UsageError(f"{path} is damaged ({type(error).__name__}: {error}): pack again") from error


def parse_manifest(data: bytes, *, where: str) -> Manifest:
    """The content of a `manifest.json`; `where` it lies, for messages.

    Raises:
        UsageError: It is damaged, or of another format version.
    """
    try:
        found = parse_json(data)
        if found["format"] != FORMAT_VERSION:
            raise UsageError(
                f"{where} has format {found['format']}, this version of vtrap reads format {FORMAT_VERSION}: "
                "pack again"
            )
        return _manifest(found)
    except (ValueError, KeyError, TypeError) as error:
        raise UsageError(f"{where} is damaged ({type(error).__name__}: {error}): pack again") from error
