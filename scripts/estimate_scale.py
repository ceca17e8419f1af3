"""What would a corpus far beyond this machine cost? Arithmetic from unit costs that docs/performance.md measures.

    python scripts/estimate_scale.py                                    # 10 million videos, 64 machines
    python scripts/estimate_scale.py --videos 1e6 --machines 8 --seconds 10 --pack-cpu 0.36

Prints a Markdown table; `--page` puts it into docs/scale.md.
"""

from __future__ import annotations

import argparse

from benchmarking import ROOT, table, write_section

from hub_cards.uploading import BATCH_BYTES, BATCH_FILES

PAGE = ROOT / "docs/scale.md"
TB, GB, HOUR = 1e12, 1e9, 3600.0


def rows(a: argparse.Namespace) -> list[tuple[str, str, str]]:
    """What, how much, and how that follows."""
    items, frames, cores = a.videos * a.items, a.videos * a.stored, a.machines * a.cores
    source, packed = a.videos * a.video_mb / 1e6, frames * a.frame_kb / 1e9
    shards, parts = a.videos / a.samples_per_shard, a.machines
    link = a.gbit / 8  # GB/s of one machine
    decode, write = a.videos * a.pack_cpu / cores / HOUR, a.videos * a.write_ms / 1e3 / HOUR
    through_one = 2 * packed * TB / GB / link / HOUR
    load_cpu, processes = items * a.load_ms / 1e3 / HOUR, a.gpus * a.machines
    epoch = items * a.step_s / processes / HOUR
    batch = max(1, min(BATCH_FILES, int(BATCH_BYTES // (packed * TB / shards))))
    commits = shards / batch
    index, opened = items * a.index_kb / 1e6, items * a.open_kb / 1e6
    return [
        ("original videos", f"{source:,.0f} TB", f"{a.videos:,.0f} x {a.video_mb} MB ({a.seconds} s of 720p)"),
        ("packed", f"{packed:,.0f} TB", f"{a.videos:,.0f} x {a.stored} frames x {a.frame_kb} kB"),
        ("shards", f"{shards:,.0f}", f"{a.videos:,.0f} / {a.samples_per_shard}, {packed * 1e6 / shards:,.0f} MB each"),
        ("items (rows of the index)", f"{items:,.0f}", f"{a.videos:,.0f} x {a.items} questions"),
        ("pack: decoding, core hours", f"{a.videos * a.pack_cpu / HOUR:,.0f}", f"{a.videos:,.0f} x {a.pack_cpu} s"),
        ("pack: decoding, hours", f"{decode:.1f}", f"on {a.machines} x {a.cores} cores"),
        ("pack: writing, hours", f"{write:.0f}", f"{a.videos:,.0f} x {a.write_ms} ms, in **one** process"),
        (
            "pack: bytes through that machine, hours",
            f"{through_one:.0f}",
            f"2 x {packed:,.0f} TB (spool in, shards out) at {a.gbit:g} Gbit/s",
        ),
        ("pack: memory of that process", f"{a.videos * a.pack_kb / 1e6:,.0f} GB", f"{a.videos:,.0f} x {a.pack_kb} kB"),
        (
            "pack: files in one folder of the spool",
            f"{2 * a.videos:,.0f}",
            f"2 x {a.videos:,.0f}; on Ray 3 x: a mark of its start",
        ),
        (
            "pack: requests, were the spool objects",
            f"{a.videos * (4 + 5) / 1e6:,.0f} M",
            "per video 1 video read, 3 written (mark, frames, facts), 5 looked at or read back",
        ),
        ("**in parts**: writing, hours", f"{write / parts:.1f}", f"{write:.0f} / {parts}: a pack per machine"),
        ("**in parts**: bytes, hours", f"{through_one / parts:.1f}", f"{through_one:.0f} / {parts}"),
        (
            "**in parts**: memory of each",
            f"{a.videos / parts * a.pack_kb / 1e6:.1f} GB",
            f"{a.videos / parts:,.0f} x {a.pack_kb} kB",
        ),
        ("index, in memory", f"{index:,.0f} GB", f"{items:,.0f} x {a.index_kb} kB in **every** training process"),
        ("index, while it is opened", f"{opened:,.0f} GB", f"{items:,.0f} x {a.open_kb} kB"),
        ("index, of one machine", f"{a.gpus * index:,.0f} GB", f"{a.gpus} processes x {index:,.1f} GB, once open"),
        ("training: reading, core hours an epoch", f"{load_cpu:,.0f}", f"{items:,.0f} x {a.load_ms} ms (16 frames)"),
        (
            "training: an epoch, hours",
            f"{epoch:,.0f}",
            f"{items:,.0f} x {a.step_s} s / {processes} GPUs (an assumption)",
        ),
        (
            "training: streamed by each machine, TB an epoch",
            f"{packed:,.0f}",
            "every machine needs items out of every shard, and shards come whole",
        ),
        (
            "training: streamed by all, TB an epoch",
            f"{packed * a.machines:,.0f}",
            f"{a.machines} x {packed:,.0f}; {shards * a.machines / 1e6:.2f} M requests",
        ),
        (
            "training: Gbit/s of each machine for that",
            f"{packed * TB * 8 / 1e9 / (epoch * HOUR):.1f}",
            f"{packed:,.0f} TB in {epoch:,.0f} hours",
        ),
        (
            "training: the bytes that items need, TB an epoch",
            f"{items * a.mean_frames * a.frame_kb / 1e9:,.0f}",
            f"{items:,.0f} x {a.mean_frames} frames x {a.frame_kb} kB, over all machines",
        ),
        (
            "the same, as requests for single frames",
            f"{items * (1 + a.mean_frames) / 1e6:,.0f} M",
            f"{items:,.0f} x (1 + {a.mean_frames})",
        ),
        (
            "doctor, core hours",
            f"{a.videos * a.stored * a.jpeg_ms / 1e3 / HOUR:,.0f}",
            f"{frames:,.0f} x {a.jpeg_ms} ms",
        ),
        (
            "publishing: commits",
            f"{commits:,.0f}",
            f"{shards:,.0f} shards / {batch}: {BATCH_FILES} files or {BATCH_BYTES / GB:.0f} GB each",
        ),
        (
            "publishing: requests",
            f"{2 * shards + 4 * commits:,.0f}",
            f"2 x {shards:,.0f} + 4 x {commits:,.0f} (LFS; long lists of files come in more)",
        ),
    ]


def main() -> None:
    """Print or store the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    for name, default, what in (
        ("--videos", 10e6, "in the corpus"),
        ("--machines", 64, ""),
        ("--cores", 32, "per machine"),
        ("--gpus", 8, "per machine"),
        ("--gbit", 25.0, "Gbit/s between a machine and the store"),
        ("--seconds", 60, "length of a video"),
        ("--video-mb", 6.4, "an original (runs/bench/clips/v60_g250.mp4)"),
        ("--pack-cpu", 1.109, "CPU seconds to decode one (Packing: 60 s, keyframe every 250, hybrid)"),
        ("--stored", 64, "frames stored of one (--store 64: one pack serves every budget)"),
        ("--frame-kb", 34.7, "a stored frame of 796x448 (26.6 MB for the 768 of bench_loading)"),
        ("--items", 2, "questions about one"),
        ("--mean-frames", 16, "used by a question"),
        ("--samples-per-shard", 512, ""),
        ("--write-ms", 6.2, "to read back, hash and write one of 64 frames (`budget` on the corpus of bench_loading)"),
        ("--pack-kb", 5.6, "memory of the packing process per video (Scaling: from 7,500 media to 75,000)"),
        ("--index-kb", 0.56, "memory of the index per item, 64 slots"),
        ("--open-kb", 1.5, "the same at its peak, while it is opened (Scaling)"),
        ("--load-ms", 8.9, "to read an item with 16 frames (Loading, Loader)"),
        ("--jpeg-ms", 0.53, "to decode a frame (Loading, libjpeg-turbo: 34.0 ms for 64)"),
        ("--step-s", 1.0, "GPU seconds an item takes to train on"),
    ):
        parser.add_argument(name, type=type(default), default=default, help=f"{what} (default: %(default)g)")
    parser.add_argument("--page", action="store_true", help="put the table into docs/scale.md")
    text = table(["", "", "how"], rows(args := parser.parse_args()))
    if args.page:
        write_section("estimate", text, page=PAGE)
    else:
        print(text)


if __name__ == "__main__":
    main()
