"""What does reading a packed corpus cost, against decoding its JPEGs, and against other ways to keep the same video?

    python scripts/bench_loading.py                  measures, prints and writes a section of docs/performance.md
    python scripts/bench_loading.py --repeats 1 --dry-run

Three questions, all in one run, CPU milliseconds per sample, medians:

1. vtrap against the floor: libjpeg-turbo on the same JPEGs, which lie in memory, by simplejpeg into the same arrays
   again and again. Beside it Pillow, whose images are held until the sample is complete.
2. the same videos as original mp4 in a tar: torchcodec (exact seeks, frames as they are) and qwen-vl-utils on
   torchcodec (with its resize), one thread
3. only getting at the bytes, no decoding: webdataset, litdata, mosaicml-streaming, datasets, and vtrap

And the memory of the loader over ten epochs. Clips: those of scripts/bench_packing.py. One process unless said.
"""

from __future__ import annotations

import argparse
import io
import json
import os
import shutil
import subprocess
import tarfile
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

from bench_packing import CLIPS, SIZE, WORK, clip, copy_of
from benchmarking import (
    PEERS,
    ROOT,
    children_cpu,
    cpu,
    in_bench_environment,
    machine,
    measure,
    table,
    versions,
    write_section,
)

NAME = "bench_loading"
FRAMES = (8, 16, 32, 64)
PACKAGES = ("pillow", "simplejpeg", "torch", "torchcodec", "qwen-vl-utils", "webdataset", "litdata", "datasets")
REPEAT = 4
"""How often an epoch of the loader sees each sample, against the floor."""
COPIES = 6
"""Of each 60 s clip: the same pictures in files that differ, so that they are stored one by one."""


def corpus() -> Path:
    """The clips, packed with all 64 frames."""
    from vtrap_data.shards.manifest import MANIFEST, PackSettings
    from vtrap_data.shards.pack import pack
    from vtrap_data.sources.jsonl import read_jsonl

    out = WORK / "loading/corpus"
    if (out / MANIFEST).exists():
        return out
    media = WORK / "loading/media"
    media.mkdir(parents=True, exist_ok=True)
    rows = []
    for name, facts in list(CLIPS.items())[1:]:
        for copy in range(COPIES):
            path = copy_of(clip(*facts), media / f"{facts[1]}-{copy}.mp4", copy)
            chat = [{"from": "human", "value": f"<video>\nWhat comes last in {name}?"}, {"from": "gpt", "value": "A."}]
            rows.append({"id": path.stem, "video": path.name, "conversations": chat})
    source = WORK / "loading/rows.jsonl"
    source.write_text("".join(json.dumps(row) + "\n" for row in rows))
    settings = PackSettings(name="bench", strategy="fixed:64", workers=2, samples_per_shard=4)
    pack(read_jsonl(source, media_root=media).samples, out, settings=settings)
    with tarfile.open(WORK / "loading/mp4.tar", "w", format=tarfile.USTAR_FORMAT) as tar:
        for path in sorted(media.iterdir()):
            tar.add(path, arcname=path.name)
    return out


def against_the_floor(root: Path, repeats: int) -> tuple[str, str]:
    import numpy as np
    import simplejpeg
    from PIL import Image

    from vtrap_data.loading.corpus import Corpus, Part
    from vtrap_data.loading.dataset import PackedDataset
    from vtrap_data.loading.loader import Loader
    from vtrap_data.loading.order import Weight

    def pillow(data: bytes) -> Image.Image:
        image = Image.open(io.BytesIO(data), formats=("JPEG",))
        image.load()
        return image

    rows = []
    memory = np.empty((max(FRAMES), SIZE[0] * SIZE[1] * 3), np.uint8)
    for frames in FRAMES:
        data = PackedDataset(root, frames=frames)
        # An epoch begins once, not once per sample: twelve samples alone would be charged a twelfth of it each.
        parts = [Part(root=root, weight=Weight(repeat=REPEAT))]
        loader: Loader[Any] = Loader(Corpus(parts, frames=frames), batch_size=1)
        inside = [data.frame_bytes(n, data[n].item.frame_ids) for n in range(len(data))]
        jobs: dict[str, Callable[[], object]] = {
            "libjpeg-turbo": lambda inside=inside: [
                None
                for blobs in inside
                for blob, place in zip(blobs, memory, strict=False)
                if simplejpeg.decode_jpeg(blob, buffer=place)[0, 0, 0]
            ],
            "Pillow": lambda inside=inside: [None for blobs in inside if [pillow(b) for b in blobs]],
            "PackedDataset": lambda data=data: [None for n in range(len(data)) if data[n]],
            "Loader": lambda loader=loader: [None for _ in loader],
        }
        found = {name: 1e3 * value / len(data) for name, value in measure(jobs, repeats=repeats).items()}
        found["Loader"] /= REPEAT
        floor, by_pillow, mine, loaded = found.values()
        rows.append([frames, *found.values(), mine / floor, loaded / floor, by_pillow / floor])
        print(rows[-1], flush=True)
    head = ["frames", *found, "PackedDataset / floor", "Loader / floor", "Pillow / floor"]
    return table(head, rows), workers(root)


def workers(root: Path) -> str:
    """CPU of a loader with worker processes that reduce their batch to a number, workers included; and its memory."""
    import psutil

    from vtrap_data.loading.corpus import Corpus
    from vtrap_data.loading.loader import Loader

    def run(epochs: int, processes: int, memory: list[float] | None = None) -> float:
        begin = cpu() + children_cpu()
        loader = Loader(Corpus(root, frames=32), batch_size=2, workers=processes, transform=_size)
        for _ in range(epochs):
            for _ in loader:
                pass
            if memory is not None:
                own = psutil.Process()
                memory.append(sum(p.memory_full_info().uss for p in (own, *own.children(recursive=True))) / 2**20)
        samples = loader.corpus.epoch_size
        if loader._batches is not None:
            loader._batches._iterator = None  # ends the workers, so that their time is counted
        del loader
        return (cpu() + children_cpu() - begin) / samples * 1e3

    memory: list[float] = []
    run(10, 2, memory)
    costs = [(run(4, n) - run(1, n)) / 3 for n in (0, 2)]
    told = " ".join(f"{value:.0f}" for value in memory)
    return (
        f"With 32 frames and a transform in the worker: {costs[0]:.1f} ms a sample in one process, {costs[1]:.1f} ms "
        "with two workers (all processes together, from the difference of 4 epochs and 1).\n"
        f"Memory of the loader and two workers, unshared, after each of ten epochs, in MiB: {told}."
    )


def _size(batch: list[Any]) -> int:
    return sum(len(example.frames) for example in batch)


def against_mp4(root: Path, repeats: int) -> str:
    os.environ["FORCE_QWENVL_VIDEO_READER"] = "torchcodec"
    os.environ["TORCHCODEC_NUM_THREADS"] = "1"
    import torch
    from qwen_vl_utils import fetch_video
    from torchcodec.decoders import VideoDecoder

    from vtrap_data.loading.dataset import PackedDataset

    torch.set_num_threads(1)
    rows = []
    tar = tarfile.open(WORK / "loading/mp4.tar")  # noqa: SIM115
    for gop in (250, 30):
        names = [f"{gop}-{copy}.mp4" for copy in range(1)]
        blobs = {name: tar.getmember(name) for name in names}
        for frames in FRAMES:

            def torchcodec(frames: int = frames, names: list[str] = names, blobs: Any = blobs) -> None:
                for name in names:
                    decoder = VideoDecoder(tar.extractfile(blobs[name]).read(), num_ffmpeg_threads=1)  # type: ignore[union-attr]
                    count = len(decoder)
                    decoder.get_frames_at([(2 * i + 1) * count // (2 * frames) for i in range(frames)])

            def qwen(frames: int = frames, names: list[str] = names) -> None:
                for name in names:
                    path = str(WORK / "loading/media" / name)
                    fetch_video({"video": path, "nframes": frames, "resized_height": 448, "resized_width": 784})

            data = PackedDataset(root, frames=frames)
            places = [data.column("item_id").index(name.removesuffix(".mp4")) for name in names]
            jobs = {
                "vtrap": lambda data=data, places=places: [data[n] for n in places],
                "torchcodec": torchcodec,
                "qwen-vl-utils": qwen,
            }
            found = {
                name: 1e3 * value / len(names) for name, value in measure(jobs, repeats=repeats, warm=not rows).items()
            }
            ours = found["vtrap"]
            rows.append(
                [
                    gop,
                    frames,
                    *found.values(),
                    f"{found['torchcodec'] / ours:.0f}x",
                    f"{found['qwen-vl-utils'] / ours:.0f}x",
                ]
            )
            print(rows[-1], flush=True)
    return table(["keyframe every", "frames", *found, "torchcodec / vtrap", "qwen-vl-utils / vtrap"], rows)


def against_loaders(root: Path, repeats: int) -> str:
    import litdata
    import webdataset
    from datasets import Features, Image, List, Value, load_dataset

    from vtrap_data.loading.dataset import PackedDataset
    from vtrap_data.loading.stream import Stream

    full, few = PackedDataset(root), PackedDataset(root, frames=8)
    samples = len(full)
    scratch = Path(tempfile.mkdtemp(dir=WORK))
    tars = [str(root / shard.path) for shard in full.manifest.shards]
    blobs = [{"frames": b"".join(full.frame_bytes(n, full[n].item.frame_ids)), "id": str(n)} for n in range(samples)]
    (scratch / "blobs").mkdir()
    for n, blob in enumerate(blobs):
        (scratch / f"blobs/{n}.bin").write_bytes(blob["frames"])  # type: ignore[arg-type]
    writer = litdata.streaming.writer.BinaryWriter(str(scratch / "lit"), chunk_bytes="16MB")
    for n, blob in enumerate(blobs):
        writer[n] = blob
    writer.done()
    writer.merge()
    lit = litdata.StreamingDataset(str(scratch / "lit"), shuffle=False)
    features = Features({"frames.mp": List(Image(decode=False)), "__key__": Value("string")})
    stock = load_dataset("webdataset", data_files=tars, split="train", streaming=True, features=features)
    stream = Stream(root, shuffle=False)
    rows_of = stream._rows(0)

    def wds() -> None:
        for sample in webdataset.WebDataset(tars, shardshuffle=False, empty_check=False).decode():
            assert len(sample["frames.mp"]) == 64

    jobs: dict[str, Callable[[], object]] = {
        "vtrap, 8 frames": lambda: [few.frame_bytes(n, few.frame_ids(n)) for n in range(samples)],
        "vtrap, 64 frames": lambda: [full.frame_bytes(n, full.frame_ids(n)) for n in range(samples)],
        "vtrap stream, 64 frames": lambda: [None for row in rows_of if row["frames.mp"]],
        "webdataset": wds,
        "litdata": lambda: [None for sample in lit if sample["frames"]],
        "datasets, streaming": lambda: [None for row in stock if row["frames.mp"]],
    }
    found = {name: 1e3 * value / samples for name, value in measure(jobs, repeats=repeats).items()}
    found["mosaicml-streaming"] = mosaic(scratch, repeats)
    shutil.rmtree(scratch)
    ours = found["vtrap, 64 frames"]
    return table(["reader", "ms a sample", "against vtrap, 64 frames"], [[n, v, v / ours] for n, v in found.items()])


MOSAIC = """
import resource, statistics, sys
from pathlib import Path
sys.path.insert(0, sys.argv[3])
import _torchvision_cpu
_torchvision_cpu.install()  # torchvision's wheels do not import beside a CPU torch
from streaming import MDSWriter, StreamingDataset
folder, repeats = Path(sys.argv[1]), int(sys.argv[2])
blobs = [path.read_bytes() for path in sorted((folder / "blobs").iterdir())]
with MDSWriter(out=str(folder / "mds"), columns={"frames": "bytes", "id": "str"}) as out:
    for number, blob in enumerate(blobs):
        out.write({"frames": blob, "id": str(number)})
data = StreamingDataset(local=str(folder / "mds"), shuffle=False, batch_size=1)
def used():
    now = resource.getrusage(resource.RUSAGE_SELF)
    return now.ru_utime + now.ru_stime
times = []
for _ in range(repeats + 1):
    start = used()
    for sample in data:
        assert sample["frames"]
    times.append(used() - start)
print(statistics.median(times[1:]) / len(blobs) * 1e3)
"""


def mosaic(scratch: Path, repeats: int) -> float:
    """In an environment of its own, on the same bytes."""
    words = [str(PEERS / "mosaic/bin/python"), "-c", MOSAIC, str(scratch), str(repeats), str(ROOT / "vtrap_data")]
    environment = {k: v for k, v in os.environ.items() if k not in ("LD_LIBRARY_PATH", "PYTHONPATH")}
    done = subprocess.run(words, env=environment, capture_output=True, text=True, check=False)
    if done.returncode:
        raise SystemExit(done.stderr[-2000:])
    return float(done.stdout.splitlines()[-1])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repeats", type=int, default=3, help="(default: %(default)s)")
    parser.add_argument("--dry-run", action="store_true", help="print only")
    args = parser.parse_args()
    in_bench_environment()
    root = corpus()
    floor, memory = against_the_floor(root, args.repeats)
    text = "\n\n".join(
        [
            "## Loading",
            f"`python scripts/bench_loading.py --repeats {args.repeats}`. {machine()}. "
            f"{versions(PACKAGES)},"
            " mosaicml-streaming 0.13.0.\n"
            f"CPU milliseconds per sample, median of {args.repeats}, in turns; other work on the machine moves them "
            f"by 15 to 30 %: compare within a row. {2 * COPIES} samples of 64 frames of 796x448.",
            "Against the floor, decoding the same JPEGs from memory:",
            floor,
            memory,
            "Against the original 60 s 720p mp4 in a tar (vtrap gives 448p, torchcodec 720p, qwen-vl-utils 448p):",
            against_mp4(root, max(1, args.repeats // 2)),
            "Getting at the bytes only, nothing decoded; all but the first row read all 64 frames:",
            against_loaders(root, args.repeats),
        ]
    )
    print(text)
    if not args.dry_run:
        write_section(NAME, text)


if __name__ == "__main__":
    main()
