"""Are the frames that vtrap takes, before JPEG, bit for bit those of decoding the whole file in order?

    python scripts/check_exactness.py CLIP_OR_FOLDER ...            any videos, also gzipped ones
    python scripts/check_exactness.py                               the clips of `python -m vtrap_data real-media`

Prints a table and ends with 1 when a frame differs. A file that is set aside with a reason is no failure: it is shown.
"""

from __future__ import annotations

import gzip
import hashlib
import sys
import tempfile
from pathlib import Path

import av
import numpy as np

from vtrap_data.errors import SampleError
from vtrap_data.media.container import open_video, read_packets
from vtrap_data.media.decode import decode
from vtrap_data.media.probe import probe
from vtrap_data.media.select import pool_frames
from vtrap_data.sources.real_media.fetch import MEDIA_FOLDER, fetch

VIDEOS = {".mp4", ".avi", ".mpg", ".mkv", ".webm", ".mov", ".ts", ".m4v"}
SLOTS = (64, 17, 1)


def sequential(path: Path) -> list[tuple[int | None, bytes]]:
    """Time and hash of every frame, in order: whole films do not fit into memory."""
    hashes = []
    with av.open(str(path)) as container:
        stream = container.streams.video[0]
        for packet in container.demux(stream):
            try:
                frames = stream.codec_context.decode(packet if packet.size else None)
            except (av.FFmpegError, EOFError):
                continue
            for frame in frames:
                upright = np.rot90(frame.to_ndarray(format="rgb24", interpolation="BICUBIC"), frame.rotation // 90)
                hashes.append((frame.pts, digest(upright)))
    return hashes


def by_number(path: Path, whole: list[tuple[int | None, bytes]]) -> dict[int, bytes]:
    """The hashes by the numbers that `probe` gives the frames: by their times, or by their order where there are none.

    By order alone would be wrong for damaged streams: decoders leave frames out, or hand them over unsorted.
    """
    with open_video(path) as (container, stream):
        packets = read_packets(container, stream)
    if packets.pts is None:
        return dict(enumerate(pixels for _, pixels in whole))
    order = {int(pts): n for n, pts in enumerate(np.sort(packets.pts))}
    return {order[pts]: pixels for pts, pixels in whole if pts in order}


def digest(pixels: np.ndarray) -> bytes:
    return hashlib.sha256(np.ascontiguousarray(pixels).tobytes()).digest()


def check(path: Path) -> tuple[str, bool]:
    """One row of the table, and whether it is good."""
    try:
        info = probe(path)
    except SampleError as error:
        detail = error.detail.replace(str(path), path.name)
        return f"| {path.name} | | | set aside: {error.reason.value} | {detail} |", True
    whole = sequential(path)
    known = by_number(path, whole)
    row = f"| {path.name} | {info.codec} {info.width}x{info.height} | {info.duration:.1f} s, {len(whole)} frames |"
    compared = wrong = 0
    try:
        for slots in SLOTS:
            chosen = sorted(set(pool_frames(info.pts, info.duration, slots=slots).tolist()))
            for index, image in zip(chosen, decode(info, chosen, short_side=None).images, strict=True):
                compared += 1
                wrong += digest(np.asarray(image)) != known.get(index)
    except SampleError as error:
        return f"{row} set aside: {error.reason.value} | {error.detail.replace(str(path), path.name)} |", True
    verdict = "exact" if not wrong else f"**{wrong} differ**"
    return f"{row} {verdict} | {compared} frames compared |", not wrong


def main(arguments: list[str]) -> int:
    with tempfile.TemporaryDirectory() as folder:
        if not arguments:
            fetch(Path(folder))
            arguments = [str(Path(folder, MEDIA_FOLDER))]
        given = [path for one in map(Path, arguments) for path in ([one] if one.is_file() else sorted(one.rglob("*")))]
        paths = []
        for path in given:
            if path.suffix == ".gz" and Path(path.stem).suffix in VIDEOS:
                paths.append(Path(folder, path.stem))
                paths[-1].write_bytes(gzip.decompress(path.read_bytes()))
            elif path.suffix in VIDEOS:
                paths.append(path)
        if not paths:
            print("no videos there", file=sys.stderr)
            return 2
        print("| clip | what | length | frames | |\n|---|---|---|---|---|", flush=True)
        good = True
        for path in paths:
            row, fine = check(path)
            good &= fine
            print(row, flush=True)
    return 0 if good else 1


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
