"""Where are the bytes of a medium that lies inside a tar? Tars are read in place: nothing is unpacked into a folder.

A medium in a tar has a path that leads through the tar: `videos/part1.tar/clips/a.mp4`. Only regular members count.
"""

from __future__ import annotations

import os
import stat
import tarfile
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import lru_cache
from pathlib import Path, PurePosixPath
from types import MappingProxyType
from typing import NamedTuple

from vtrap_data.errors import Reason, SampleError, UsageError
from vtrap_data.files import is_unicode
from vtrap_data.media.limits import check_time

COMPRESSED = (".tar.gz", ".tgz", ".tar.bz2", ".tar.xz", ".tar.zst")
"""Endings of tars that cannot be read at random places."""

_BLOCK = 1 << 22


class InTar(NamedTuple):
    """A regular member of a tar: bytes `offset` to `offset + size` of the file `tar`."""

    tar: Path
    offset: int
    size: int


class Marks(NamedTuple):
    """Size in bytes and time of change in ns of a medium, by which a changed file is noticed."""

    size: int
    mtime_ns: int


def tar_names(tar: Path) -> Mapping[str, InTar]:
    """The regular members of an uncompressed tar by their normalised names; of equal names the last, as tar unpacks.

    Raises:
        UsageError: It is compressed, damaged or not readable.
    """
    try:
        status = tar.stat()
        return _names(str(tar), status.st_size, status.st_mtime_ns)
    except (OSError, tarfile.TarError, EOFError) as error:
        hint = "uncompress it first (gunzip, unzstd): plain tars are read in place" if _compressed(tar) else str(error)
        raise UsageError(f"{tar} cannot be read as a plain tar: {hint}") from None


@lru_cache(maxsize=1024)
def _names(tar: str, size: int, mtime_ns: int) -> Mapping[str, InTar]:
    return MappingProxyType({normal(name): InTar(Path(tar), *where) for name, where in tar_members(Path(tar))})


class Member(NamedTuple):
    """Where a member's bytes lie in its tar."""

    offset: int
    size: int


def tar_members(path: Path, *, strict: bool = False) -> Iterator[tuple[str, Member]]:
    """The regular members of an uncompressed tar by name, in order, found by reading its headers only.

    Links, devices, folders and sparse files (1 kB can claim to be a terabyte) are left out.

    Args:
        path: The tar.
        strict: Do not leave them out: refuse the tar.

    Raises:
        tarfile.TarError: It is no tar, or is damaged.
        OSError: It cannot be read.
    """
    size, end = path.stat().st_size, 0
    try:
        with tarfile.open(path, "r:") as opened:
            for info in opened:
                # A header that leads back would be read for ever.
                if info.size < 0 or info.offset_data < end:
                    raise tarfile.ReadError(
                        f"member {info.name[:80]!r} has {info.size} bytes and begins before its end"
                    )
                plain = info.isreg() and not info.issparse()
                end = info.offset_data + (info.size if plain else 0)
                if end > size:
                    raise tarfile.ReadError(f"it ends in the middle of {info.name[:80]!r}")
                if plain:
                    yield info.name, Member(info.offset_data, info.size)
                elif strict:
                    raise tarfile.ReadError(f"{info.name[:80]!r} is no regular file")
    except (ValueError, KeyError, TypeError, IndexError, ArithmeticError, RecursionError) as error:
        raise tarfile.ReadError(f"a header is damaged ({type(error).__name__}: {error})") from None


def normal(name: str) -> str:
    """A member's name as it is compared: `./clips//a.mp4` is `clips/a.mp4`."""
    return PurePosixPath(name.removeprefix("/")).as_posix()


def in_tar(path: Path) -> InTar | None:
    """The member that a path through a tar means; None for an ordinary path.

    Raises:
        SampleError: MISSING, when the tar has no such member.
    """
    if ".tar/" not in str(path):  # most paths, without asking the file system
        return None
    for folder in path.parents:
        if folder.suffix == ".tar" and folder.is_file():
            member = tar_names(folder).get(path.relative_to(folder).as_posix())
            if member is None:
                raise SampleError(str(path), Reason.MISSING, f"there is no such member in {folder.name}")
            return member
    return None


def marks(path: Path) -> Marks | None:
    """Size and time of a medium, in a tar or not; None where there is no such regular file."""
    try:
        member = in_tar(path)
        status = (member.tar if member else path).stat()
    except (OSError, ValueError, SampleError, UsageError):
        return None
    if not stat.S_ISREG(status.st_mode):
        return None
    return Marks(member.size if member else status.st_size, status.st_mtime_ns)


@contextmanager
def as_files(paths: Sequence[Path], folder: Path) -> Iterator[tuple[Path, ...]]:
    """The same media as ordinary files for the time of the block; those in tars are copied below `folder`.

    Raises:
        SampleError: MISSING, or TIMEOUT while copying.
    """
    members = [in_tar(path) for path in paths]
    if not any(members):
        yield tuple(paths)
        return
    with tempfile.TemporaryDirectory(dir=folder, prefix=COPIES) as copies:
        files = []
        for number, (path, member) in enumerate(zip(paths, members, strict=True)):
            if member is None:
                files.append(path)
                continue
            place = Path(copies, str(number), path.name)  # the name stays: it is recorded
            place.parent.mkdir()
            _copy(member, place, name=str(path))
            files.append(place)
        yield tuple(files)


COPIES = "media-"
"""How the folders of copies are called, so that what a kill leaves behind can be removed."""


def _copy(member: InTar, place: Path, *, name: str) -> None:
    with member.tar.open("rb") as source, place.open("wb") as target:
        offset, end = member.offset, member.offset + member.size
        while offset < end:
            check_time(name)
            sent = os.sendfile(target.fileno(), source.fileno(), offset, min(_BLOCK, end - offset))
            if not sent:
                raise SampleError(name, Reason.CORRUPT, f"{member.tar.name} ends in the middle of it")
            offset += sent


def _compressed(tar: Path) -> bool:
    return tar.name.lower().endswith(COMPRESSED)


class MediaRoot:
    """Where the media paths of a source start: a folder, whose files may also lie in tars inside it, or one tar.

    Args:
        root: The folder or tar.
        setting: What it was given by, for messages.

    Raises:
        UsageError: It is neither.
    """

    def __init__(self, root: Path, *, setting: str = "--media-root") -> None:
        self._setting = setting
        self.root = root.resolve()
        if self.root.is_file():
            tar_names(self.root)  # fails now rather than for every row
            if self.root.suffix != ".tar":
                raise UsageError(f"{setting} {root} is a file that is not called .tar: give a folder or a tar")
        elif not self.root.is_dir():
            raise UsageError(f"{setting} {root} is not a folder, nor a tar")
        self._tars: dict[Path, list[Path]] = {}

    def locate(self, name: str) -> Path:
        """The absolute path of a medium, whether it is there or not.

        Raises:
            ValueError: The name is no path.
            SampleError: OUTSIDE_ROOT, when it leaves the root, by itself or through a link; UNREADABLE, when links
                lead in a circle, or to a name that is no text.
        """
        try:
            path = (self.root / name).resolve()
        except ValueError as error:
            raise ValueError(f"{name[:80]!r} is no path: {error}") from None
        except (OSError, RuntimeError):  # their messages name folders of this machine
            raise SampleError(name, Reason.UNREADABLE, f"{name[:80]!r} is a link that leads in a circle") from None
        if not path.is_relative_to(self.root):
            raise SampleError(name, Reason.OUTSIDE_ROOT, f"{name[:80]!r} leaves the media root ({self._setting})")
        if not is_unicode(str(path.relative_to(self.root))):  # samples are called after it
            detail = f"{name[:80]!r} leads to a name with bytes that are no UTF-8: rename what it leads to"
            raise SampleError(name, Reason.UNREADABLE, detail)
        # os.path, not pathlib, here and below: a name that is too long is no file, and no reason to stop.
        if self.root.is_file() or os.path.isfile(path):  # noqa: PTH113
            return path
        return self._in_some_tar(path) or path

    def relative(self, path: Path) -> str:
        """What `path` is called below the root: the same whether it lies in a tar or was unpacked beside it."""
        parts = path.relative_to(self.root).parts
        if not self.root.is_file():
            for depth, part in enumerate(parts[:-1], start=1):
                if part.endswith(".tar") and self.root.joinpath(*parts[:depth]).is_file():
                    return "/".join((*parts[: depth - 1], *parts[depth:]))
        return "/".join(parts)

    def _in_some_tar(self, path: Path) -> Path | None:
        parts = path.relative_to(self.root).parts
        for depth in range(len(parts)):
            folder = self.root.joinpath(*parts[:depth])
            if folder not in self._tars:
                if not os.path.isdir(folder):  # noqa: PTH112
                    return None
                inside = (tar for tar in sorted(folder.glob("*.tar")) if tar.is_file())
                self._tars[folder] = [tar for tar in inside if tar.resolve().is_relative_to(self.root)]
            name = "/".join(parts[depth:])
            for tar in self._tars[folder]:
                if name in tar_names(tar):
                    return tar / name
        return None
