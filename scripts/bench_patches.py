"""What do the patches of a Qwen2-VL model cost, once frames are decoded? Ours beside the model's own processor.

    python scripts/bench_patches.py [--repeats 9] [--dry-run]

Both are given the same bytes, at a size that is not scaled, and must give the same numbers to the bit. Ours come in
two steps: patches of bytes in the data loader, and numbers where the model is, which here is a CPU, too. CPU of one
thread, median; the result of a call is dropped before the next, as a trainer does. Writes a section of
docs/performance.md.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable

import vtrap_data  # noqa: F401 - mends torchvision  # isort: skip

import numpy as np
import torch
from benchmarking import machine, table, versions, write_section
from transformers.models.qwen2_vl.video_processing_qwen2_vl import Qwen2VLVideoProcessor

from vtrap_data.encoding.patches import numbers, video_patches

SIZES = ((8, 448, 784), (32, 448, 784), (64, 308, 476))


def milliseconds(job: Callable[[], object], *, repeats: int) -> float:
    """CPU of this thread, median; the first call is not counted."""
    job()
    times = []
    for _ in range(repeats):
        start = time.thread_time()
        job()
        times.append(1e3 * (time.thread_time() - start))
    return statistics.median(times)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repeats", type=int, default=9, help="(default: %(default)s)")
    parser.add_argument("--dry-run", action="store_true", help="print only")
    args = parser.parse_args()
    torch.set_num_threads(1)
    size = {"shortest_edge": 128 * 28 * 28, "longest_edge": 768 * 28 * 28}
    processor = Qwen2VLVideoProcessor(size=size, cap_pixels_per_frame=False)
    lines = []
    for frames, height, width in SIZES:
        pixels = np.random.default_rng(0).integers(0, 255, (frames, height, width, 3), dtype=np.uint8)
        video = torch.from_numpy(pixels).permute(0, 3, 1, 2)

        def theirs(video: torch.Tensor = video) -> torch.Tensor:
            return processor(videos=[video], return_tensors="pt", do_sample_frames=False)["pixel_values_videos"]

        def ours(video: torch.Tensor = video) -> torch.Tensor:
            return video_patches([video], processor).values

        values = ours()

        def later(values: torch.Tensor = values) -> torch.Tensor:
            return numbers(values, processor)

        if not torch.equal(later(), theirs()):
            raise SystemExit(f"{frames} frames of {width}x{height}: not the same numbers")
        slow, fast, rest = (milliseconds(job, repeats=args.repeats) for job in (theirs, ours, later))
        ratio, in_all = f"{slow / fast:.0f}x", f"{slow / (fast + rest):.1f}x"
        size_mb = f"{values.nbytes / 1e6:.1f} / {4 * values.nbytes / 1e6:.1f}"
        told_ms = [f"{slow:.1f}", f"{fast:.1f}", ratio, f"{rest:.1f}", in_all]
        lines.append([frames, f"{width}x{height}", *told_ms, size_mb])
    told = "\n\n".join(
        [
            "### Patches",
            f"`python scripts/bench_patches.py --repeats {args.repeats}`. {machine()}. "
            f"{versions(('torch', 'transformers', 'numpy'))}. Same numbers, to the bit.",
            table(
                [
                    *("frames", "of", "the processor, CPU ms", "bytes, CPU ms", "ratio"),
                    *("numbers of them, on a CPU too, ms", "ratio in all", "MB: bytes / numbers"),
                ],
                lines,
            ),
        ]
    )
    print(told)
    if not args.dry_run:
        write_section("patches", told)


if __name__ == "__main__":
    main()
