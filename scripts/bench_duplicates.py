"""What does it take to find alike media among many? CPU time and memory of the comparing, without reading pictures.

    python scripts/bench_duplicates.py                     # 10,000 and 100,000 media, section of docs/performance.md
    python scripts/bench_duplicates.py --sizes 1000000

Hashes are random, and one medium in a hundred is another one with up to 20 bits changed. Every way must find all of
those. Each measurement is a process of its own; comparing every pair is left out where it takes minutes.
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from benchmarking import cpu, machine, table, versions, write_section

WAYS = ("every pair", "equal pieces", "pieces but for a bit")
"""Names of `duplicates._plans`, in their order."""
LONG = 1e9
"""Comparisons after which a way is left out."""


def planted(n: int) -> np.ndarray:
    """Hashes of n media, uint64 [n, 4]."""
    chance = np.random.default_rng(0)
    bits = chance.integers(0, 2, (n, 256), dtype=np.uint8)
    copies = n // 2 + chance.permutation(n // 2)[: n // 100]
    for copy, of in zip(copies, chance.integers(0, n // 2, n // 100), strict=True):
        bits[copy] = bits[of]
        bits[copy, chance.permutation(256)[: chance.integers(21)]] ^= 1
    return np.packbits(bits, axis=1).view(np.uint64)


def child(n: int, way: int) -> dict[str, float]:
    """Measure one way in this process."""
    from vtrap_data.shards.duplicates import DISTANCE, _near, _plans

    status = Path("/proc/self/status")
    keys, plan = planted(n), _plans(DISTANCE)[way]
    before = _peak(status)
    used = cpu()
    found = {(min(pair), max(pair)) for block in _near(keys, DISTANCE, plan) for pair in block.T.tolist()}
    return {"cpu": cpu() - used, "mib": _peak(status) - before, "found": len(found)}


def _peak(status: Path) -> float:
    (line,) = [line for line in status.read_text().splitlines() if line.startswith("VmHWM")]
    return int(line.split()[1]) / 1024


def main(argv: Sequence[str] | None = None) -> int:
    from vtrap_data.shards.duplicates import DISTANCE, _cost, _plans

    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sizes", type=int, nargs="+", default=[10_000, 100_000], metavar="MEDIA")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--child", type=int, nargs=2, metavar=("MEDIA", "WAY"), help=argparse.SUPPRESS)
    args = parser.parse_args(argv)
    if args.child:
        print(json.dumps(child(*args.child)))
        return 0
    plans = _plans(DISTANCE)
    rows = []
    for n in args.sizes:
        chosen = min(range(len(plans)), key=lambda way: _cost(plans[way], n))
        totals = set()
        for way, name in enumerate(WAYS):
            if _cost(plans[way], n) > LONG:
                continue
            command = [sys.executable, __file__, "--child", str(n), str(way)]
            runs = [
                json.loads(subprocess.run(command, check=True, capture_output=True, text=True).stdout)
                for _ in range(args.repeats)
            ]
            totals |= {run["found"] for run in runs}
            seconds, mib = (statistics.median(run[what] for run in runs) for what in ("cpu", "mib"))
            rows.append([f"{n:,}", name + (" (chosen)" if way == chosen else ""), seconds, f"{mib:.0f}"])
            print(*rows[-1], sep="\t", flush=True)
        if len(totals) != 1:
            raise RuntimeError(f"the ways find different numbers of pairs: {totals}")
    text = f"""
### Alike media

`python scripts/bench_duplicates.py --sizes {" ".join(map(str, args.sizes))}`. {machine()}; {versions(["numpy"])}.
Median of {args.repeats}. CPU seconds of comparing, at most {DISTANCE} bits of 256 apart, and memory beyond the hashes.

{table(["media", "way", "CPU s", "MiB"], rows)}
"""
    write_section("bench_duplicates", text)
    return 0


if __name__ == "__main__":
    sys.exit(main())
