"""What does it take to find alike media among many? CPU time and memory of the comparing, without reading pictures.

    python scripts/bench_duplicates.py                     # 10,000 and 100,000 media, section of docs/performance.md
    python scripts/bench_duplicates.py --sizes 1000000 --repeats 1

Hashes are random, and one medium in a hundred is another one with up to 20 bits changed. Every way must find exactly
those pairs, or the script ends with an error. `duplicates` looks for pairs among all; `contamination` for pairs of a
corpus (here the first nine tenths) and benchmarks (the last). Each measurement is a process of its own, which is given
the hashes in a file; comparing every pair is left out where it takes minutes.
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
import tempfile
from collections import defaultdict
from collections.abc import Sequence
from itertools import combinations
from pathlib import Path

import numpy as np
from benchmarking import cpu, machine, table, versions, write_section

WAYS = ("every pair", "equal pieces", "pieces but for a bit")
"""Names of `looks.plans`, in their order."""
LONG = 1e9
"""Comparisons after which a way is left out."""


def planted(n: int, *, distance: int) -> tuple[np.ndarray, list[tuple[int, int]]]:
    """Hashes of n media, uint64 [n, 4], and the pairs that are at most `distance` bits apart."""
    chance = np.random.default_rng(0)
    bits = chance.integers(0, 2, (n, 256), dtype=np.uint8)
    copies = n // 2 + chance.permutation(n // 2)[: n // 100]
    families = defaultdict(list)
    for copy, of in zip(copies.tolist(), chance.integers(0, n // 2, n // 100).tolist(), strict=True):
        bits[copy] = bits[of]
        bits[copy, chance.permutation(256)[: chance.integers(21)]] ^= 1
        families[of].append(copy)
    # Copies of one medium may be near each other, too. That others are is less likely than one in 10^40.
    pairs = [
        pair
        for of, some in families.items()
        for pair in combinations([of, *sorted(some)], 2)
        if (bits[pair[0]] != bits[pair[1]]).sum() <= distance
    ]
    return np.packbits(bits, axis=1).view(np.uint64), sorted(pairs)


def child(hashes: Path, of: int, way: int) -> dict[str, object]:
    """Measure one way in this process."""
    from vtrap_data.shards.looks import DISTANCE, near, plans

    keys, plan = np.load(hashes), plans(DISTANCE)[way]
    before, used = _status("VmRSS"), cpu()
    blocks = list(near(keys, DISTANCE, of=of, plan=plan))
    used, most = cpu() - used, _status("VmHWM")
    found = {(min(pair), max(pair)) for block in blocks for pair in block.T.tolist()}
    return {"cpu": used, "mib": most - before, "found": sorted(found)}


def _status(field: str) -> float:
    """MiB. `VmHWM`, the most there has been, is close to `VmRSS` until now: the process has made nothing large."""
    (line,) = [line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith(field)]
    return int(line.split()[1]) / 1024


def main(argv: Sequence[str] | None = None) -> int:
    from vtrap_data.shards.looks import DISTANCE, cost, plans

    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sizes", type=int, nargs="+", default=[10_000, 100_000], metavar="MEDIA")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--child", nargs=3, metavar=("HASHES", "OF", "WAY"), help=argparse.SUPPRESS)
    args = parser.parse_args(argv)
    if args.child:
        print(json.dumps(child(Path(args.child[0]), int(args.child[1]), int(args.child[2]))))
        return 0
    rows = []
    for n in args.sizes:
        with tempfile.TemporaryDirectory() as folder:
            hashes = Path(folder) / "hashes.npy"
            keys, pairs = planted(n, distance=DISTANCE)
            np.save(hashes, keys)
            for what, of in (("duplicates", 0), ("contamination", n - n // 10)):
                costs = [cost(plan, n, of=of) for plan in plans(DISTANCE)]
                wanted = [list(pair) for pair in pairs if not of or pair[0] < of <= pair[1]]
                for way, name in enumerate(WAYS):
                    if costs[way] > LONG:
                        continue
                    command = [sys.executable, __file__, "--child", str(hashes), str(of), str(way)]
                    runs = [
                        json.loads(subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout)
                        for _ in range(args.repeats)
                    ]
                    if any(run["found"] != wanted for run in runs):
                        raise RuntimeError(f"{what} of {n} media, {name}: not the {len(wanted)} pairs that there are")
                    seconds, mib = (statistics.median(run[field] for run in runs) for field in ("cpu", "mib"))
                    chosen = " (chosen)" if costs[way] == min(costs) else ""
                    rows.append([what, f"{n:,}", name + chosen, f"{len(wanted):,}", seconds, f"{mib:.0f}"])
                    print(*rows[-1], sep="\t", flush=True)
    command_line = (
        f"python scripts/bench_duplicates.py --sizes {' '.join(map(str, args.sizes))} --repeats {args.repeats}"
    )
    text = f"""
### Alike media

`{command_line}`. {machine()}; {versions(["numpy"])}.
Median of {args.repeats}. CPU seconds of comparing, at most {DISTANCE} bits of 256 apart, and memory beyond the hashes.
`duplicates`: pairs among all; `contamination`: pairs of the first nine tenths and the last. Each way found exactly the
pairs that there are.

{table(["what", "media", "way", "pairs", "CPU s", "MiB"], rows)}
"""
    write_section("bench_duplicates", text)
    return 0


if __name__ == "__main__":
    sys.exit(main())
