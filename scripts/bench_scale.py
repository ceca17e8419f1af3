"""Does the cost of an item stay the same when there are more of them? CPU time and memory from ten to a million items.

    python scripts/bench_scale.py                             # up to 100,000 items, and the index alone at a million
    python scripts/bench_scale.py --sizes 10 1000             # a first look
    python scripts/bench_scale.py --steps pack --sizes 100000 # packing takes longest
    python scripts/bench_scale.py --again doctor stats        # measure these anew

What is packed are 16 toyworld clips (two questions each, half of the items) and 16 toyworld pictures, copied with a
number written into a part that decoders skip, so that every file is another one. The other steps read a corpus with
the samples of the smallest pack again and again under new names, written by the writer of `pack`; at a million items
it is the index and the manifest alone. Every measurement is a process of its own, whose imports are not counted, so
that its largest memory is its own. What has been measured is kept in `--folder` and not measured again, as long as our
code, the libraries and the machine are the same: others begin a folder of their own in there.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import re
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from itertools import count
from pathlib import Path
from typing import Any, Literal

from benchmarking import ROOT, cpu, machine, table, versions, write_section

MILLION = 1_000_000
SIZES = (10, 100, 1_000, 10_000, 100_000, MILLION)
KINDS = 16
SMALL = 64
"""Items of the pack whose samples the corpora of all sizes repeat."""
FEWEST = 10
"""`read` takes ten items out of the middle."""
PACK = ("--budgets", "2,4,8,16", "--slots", "16", "--mean-frames", "5", "--store", "16", "--workers", "0")
PACK += ("--scorer", "lexical")
LIBRARIES = ("pyarrow", "numpy", "av", "pillow", "webdataset", "torch", "transformers")
CODE = ("vtrap_data", "vtrap_train", "vtrap_bench", "hub_cards", "scripts/bench_scale.py")

Job = Callable[[], object]


def pack(folder: Path) -> Job:
    """`vtrap_data pack`, decoding in this process, so that the memory is that of the whole."""
    if not (folder / "source").exists():
        make_source(folder, int(folder.name))
    shutil.rmtree(folder / "fresh", ignore_errors=True)
    _pack(folder.parent / "source", folder / "warm")
    shutil.rmtree(folder / "warm")
    return lambda: _pack(folder / "source", folder / "fresh")


def _pack(source: Path, out: Path) -> None:
    from vtrap_data.__main__ import main

    _done(main(["pack", str(source / "train.jsonl"), "--out", str(out), *PACK]))


def doctor(folder: Path) -> Job:
    """Every byte checked, every picture decoded."""
    from vtrap_data.shards.doctor import doctor

    doctor(folder.parent / "small")
    return lambda: _none(doctor(folder / "packed"))


def stats(folder: Path) -> Job:
    """The facts for `stats` and the card."""
    from vtrap_data.shards.stats import stats

    stats(folder.parent / "small")
    return lambda: stats(folder / "packed")


def counts(folder: Path) -> Job:
    """The counts of the manifest, from the index: what pack, budget and doctor do once."""
    from vtrap_data.shards.index import count_rows, read_index

    count_rows(read_index(folder.parent / "small"))
    return lambda: count_rows(read_index(folder / "packed"))


def opened(folder: Path) -> Job:
    """Open a corpus at a fixed budget: the index, and how many frames each item has."""
    from vtrap_data.loading.corpus import Corpus

    Corpus(folder.parent / "small", frames=8)
    return lambda: Corpus(folder / "packed", frames=8)


def shuffle(folder: Path) -> Job:
    """The order of an epoch."""
    from vtrap_data.loading.corpus import Corpus

    corpus = Corpus(folder / "packed")
    return lambda: corpus.order(epoch=3)


def read(folder: Path) -> Job:
    """Ten items out of the middle of a shuffled epoch, whatever the number of items."""
    from vtrap_data.loading.corpus import Corpus

    corpus = Corpus(folder / "packed")
    rows = corpus.order(epoch=0)[: 10 * (len(corpus) // 10) : len(corpus) // 10].tolist()
    _ = [corpus[row] for row in rows]  # decoders of every kind are imported at their first use
    return lambda: [corpus[row] for row in rows]


def budget(folder: Path) -> Job:
    """`vtrap_data budget`: other budgets, the media copied."""
    from vtrap_data.shards.reallocate import reallocate

    shutil.rmtree(folder / "other", ignore_errors=True)
    reallocate(folder.parent / "small", folder / "warm", strategy="coverage", mean_frames=4)
    shutil.rmtree(folder / "warm")
    return lambda: reallocate(folder / "packed", folder / "other", strategy="coverage", mean_frames=4)


def plan(folder: Path) -> Job:
    """`vtrap_train --plan`: every text tokenised."""
    from vtrap_data.toy_vl.build import build_model, build_processor
    from vtrap_train.config import parse
    from vtrap_train.plan import plan

    model = folder.parent / "model"
    if not model.exists():
        processor = build_processor()
        build_model(processor.tokenizer, seed=1).save_pretrained(model)
        processor.save_pretrained(model)
    command = ["--model", str(model), "--output_dir", str(folder / "out"), "--use_cpu", "true", "--plan", "--data"]
    plan(parse([*command, str(folder.parent / "small")]), processes=1)
    parsed = parse([*command, str(folder / "packed")])
    return lambda: plan(parsed, processes=1)


def report(folder: Path) -> Job:
    """`vtrap_bench report` over the records of two runs."""
    from vtrap_bench.report import write_report

    write_report([folder.parent / "few/runs/base", folder.parent / "few/runs/tuned"], out=folder / "report")
    return lambda: write_report([folder / "runs/base", folder / "runs/tuned"], out=folder / "report")


STEPS: dict[str, Callable[[Path], Job]] = {
    "pack": pack,
    "doctor": doctor,
    "stats": stats,
    "counts": counts,
    "open": opened,
    "shuffle": shuffle,
    "read": read,
    "budget": budget,
    "plan": plan,
    "report": report,
}
INDEX_ONLY = ("stats", "counts", "open", "shuffle")
"""What needs no shards, and so can be measured on an index that was made by a program."""


def _done(code: int) -> None:
    if code:
        raise RuntimeError(f"exit code {code}")


def _none(faults: list[Any]) -> None:
    if faults:
        raise RuntimeError(f"{len(faults)} faults, the first is {faults[0]}")


def make_source(folder: Path, items: int) -> None:
    """`source/train.jsonl` and its media: half of the items about clips, two each, half about a picture each."""
    from vtrap_data.sources.toyworld.generate import Recipe, generate

    clips, lines = items // 4, []
    kinds: tuple[tuple[Literal["videos", "images"], int], ...] = (("videos", clips), ("images", items - 2 * clips))
    half = folder / "source.half"
    shutil.rmtree(half, ignore_errors=True)
    for kind, files_wanted in kinds:
        made = generate(Recipe(kind=kind, purpose="train", count=KINDS), folder / f"toy-{kind}")
        rows: dict[str, list[dict[str, Any]]] = {}
        for row in map(json.loads, made.read_text("utf-8").splitlines()):
            rows.setdefault(row[kind][0], []).append(row)
        files = [(made.parent / name).read_bytes() for name in rows]
        (half / "media" / kind).mkdir(parents=True)
        for number in range(files_wanted):
            name = f"media/{kind}/{number:07d}.{'mp4' if kind == 'videos' else 'jpg'}"
            (half / name).write_bytes(_numbered(files[number % KINDS], number))
            for place, row in enumerate(list(rows.values())[number % KINDS]):
                lines.append(json.dumps({**row, "id": f"{kind}-{number}-{place}", kind: [name]}))
    (half / "train.jsonl").write_text("\n".join(lines) + "\n", "utf-8")
    half.rename(folder / "source")


def _numbered(file: bytes, number: int) -> bytes:
    """The same medium in other bytes: a comment in a JPEG, a free box at the end of an MP4."""
    mark = number.to_bytes(8, "big")
    if file.startswith(b"\xff\xd8"):
        return file[:2] + b"\xff\xfe\x00\x0a" + mark + file[2:]
    return file + (16).to_bytes(4, "big") + b"free" + mark


def make_corpus(out: Path, items: int, small: Path) -> None:
    """A corpus of about `items` items: the samples of a small one again and again, under new names."""
    from vtrap_data.shards.index import write_index
    from vtrap_data.shards.manifest import read_manifest
    from vtrap_data.shards.stored import StoredSample, read_stored
    from vtrap_data.shards.write import ShardLimits, write_shards

    old, samples = read_manifest(small), list(read_stored(small, members=True))

    def again() -> Iterator[StoredSample]:
        left = items
        for number in count():
            stored = samples[number % len(samples)]
            if left <= 0:
                return
            left -= len(stored.sample.items)
            names = tuple(replace(item, id=f"{item.id}-{number}") for item in stored.sample.items)
            sample = replace(stored.sample, key=f"{number:08d}", id=f"sample-{number}", items=names)
            yield stored._replace(sample=sample)

    written = write_shards(out, again(), split=old.settings.split, limits=ShardLimits(old.settings.samples_per_shard))
    write_index(out, written.index)
    _finish(out, old, written.index, written.shards)


def make_index(out: Path, items: int, small: Path) -> None:
    """An index and a manifest of `items` rows, in shards that are not there."""
    import numpy as np
    import pyarrow as pa
    import pyarrow.compute as pc

    from vtrap_data.shards.index import INDEX_VERSION, read_index, write_index
    from vtrap_data.shards.manifest import Shard, read_manifest

    old, rows = read_manifest(small), read_index(small)
    index = rows.take(np.arange(items) % len(rows))
    turn = np.arange(items) // len(rows)
    ends = {"item_id": turn, "key": turn, "sample_id": turn}
    columns = {n: pc.binary_join_element_wise(index[n], pa.array(end).cast("string"), "-") for n, end in ends.items()}
    # Another medium for each, 64 digits as ever.
    digests = pc.binary_replace_slice(pc.list_flatten(index["media_sha256"]), 0, 8, "")
    digests = pc.binary_join_element_wise(pc.utf8_lpad(pa.array(turn).cast("string"), 8, "0"), digests, "")
    columns["media_sha256"] = pa.ListArray.from_arrays(
        pa.array(np.arange(items + 1), "int32"), digests.combine_chunks()
    )
    names = [f"data/train-{n:05d}.tar" for n in range(-(-items // old.settings.samples_per_shard))]
    columns["shard"] = pa.array(names).take(np.arange(items) // old.settings.samples_per_shard)
    columns["version"] = pa.array(np.full(items, INDEX_VERSION), "int32")
    for name, column in columns.items():
        place = index.schema.get_field_index(name)
        index = index.append_column(name, column) if place < 0 else index.set_column(place, name, column)
    out.mkdir(parents=True)
    write_index(out, index)
    _finish(out, old, index, tuple(Shard(path=name, bytes=1, sha256="0" * 64, samples=1) for name in names))


def _finish(out: Path, old: Any, index: Any, shards: tuple[Any, ...]) -> None:
    from vtrap_data.files import sha256_file
    from vtrap_data.shards.card import write_card
    from vtrap_data.shards.index import count_rows
    from vtrap_data.shards.manifest import INDEX, write_manifest

    counts = {**count_rows(index), "bytes": sum(shard.bytes for shard in shards)}
    manifest = replace(old, shards=shards, counts=counts, index_sha256=sha256_file(out / INDEX))
    write_card(out, manifest, index)
    write_manifest(out, manifest)


def make_runs(folder: Path, items: int) -> None:
    """Two finished runs with `items` records each, scored by the product."""
    from dataclasses import asdict

    import numpy as np

    from vtrap_bench.records import RECORDS, Record, RecordFile
    from vtrap_bench.run_file import RUN
    from vtrap_bench.run_info import RUN_FORMAT, Bootstrap, ModelInfo, RunInfo, TaskInfo
    from vtrap_bench.scores import SCORES, compute
    from vtrap_bench.tasks import TASKS

    task = TASKS["toy-video"]
    for seed, name in enumerate(("base", "tuned")):
        right = np.random.default_rng(seed).random(items) < 0.6 + 0.1 * seed
        records = [
            Record(
                key=f"{number:032x}",
                task=task.name,
                item_id=f"item-{number:08d}",
                ability=task.abilities[number % len(task.abilities)],
                cluster=f"clip-{number // 2:08d}",
                question="In the end, what colour is the cross?",
                options=("white", "yellow"),
                answer="white",
                response="white" if right[number] else "yellow",
                extracted="white" if right[number] else "yellow",
                stage="exact",
                correct=bool(right[number]),
                frame_times=(0.1, 0.6, 1.1, 1.6),
                n_frames=4,
                visual_tokens=32,
                prompt_tokens=70,
            )
            for number in range(items)
        ]
        with RecordFile(folder / "runs" / name / RECORDS) as file:
            file.append(records)
        head = {"model": name, "label": name, "frames": "4"}
        scores = compute([task], records, head=head, seed=0)
        (folder / "runs" / name / SCORES).write_text(json.dumps(scores), "utf-8")
        info = RunInfo(
            format=RUN_FORMAT,
            model=ModelInfo(name=name, hub_revision=None, family="qwen2_5_vl", weights={}),
            label=name,
            frames="4",
            tasks={
                task.name: TaskInfo(
                    version=task.version,
                    modality=task.modality,
                    synthetic=task.synthetic,
                    data_sha256="0" * 64,
                    items=items,
                    limit=None,
                    max_new_tokens=task.max_new_tokens,
                    answer_form="option",
                )
            },
            decides={},
            device="cpu",
            batch_size=1,
            bootstrap=Bootstrap(seed=0, resamples=2000, level=0.95),
            preprocessing=None,
            backend={},
            versions={},
        )
        (folder / "runs" / name / RUN).write_text(json.dumps(asdict(info)), "utf-8")


def child(step: str, folder: Path) -> dict[str, float]:
    """Run one job in this process and say what it took."""
    job = STEPS[step](folder)
    Path("/proc/self/clear_refs").write_text("5")  # the high-water mark starts anew
    before, began, used = _memory("VmRSS"), time.perf_counter(), cpu()
    job()
    return {
        "cpu": cpu() - used,
        "wall": time.perf_counter() - began,
        "mib": _memory("VmHWM") - before,
    }


def versions_key() -> str:
    """What a result depends on: a digest of our code, Python and the libraries."""
    files = [path for name in CODE for path in (sorted((ROOT / name).rglob("*.py")) or [ROOT / name])]
    code = b"".join(hashlib.sha256(path.read_bytes()).digest() for path in files)
    return hashlib.sha256(code + f"{machine()} {versions(LIBRARIES)}".encode()).hexdigest()[:12]


def _memory(field: str) -> float:
    """MiB of this process."""
    found = re.search(rf"^{field}:\s+(\d+) kB", Path("/proc/self/status").read_text(), re.MULTILINE)
    assert found is not None
    return int(found[1]) / 1024


def measure(step: str, folder: Path) -> dict[str, float]:
    """One measurement in a process of its own."""
    command = [sys.executable, str(Path(__file__)), "--child", step, "--folder", str(folder)]
    ran = subprocess.run(command, capture_output=True, text=True, cwd=ROOT, env={**os.environ, "OMP_NUM_THREADS": "1"})
    if ran.returncode:
        raise RuntimeError(f"{step} in {folder}: {ran.stderr[-2000:]}")
    found: dict[str, float] = json.loads(ran.stdout.splitlines()[-1])
    return found


def section(found: Mapping[str, Mapping[str, Mapping[str, float]]]) -> str:
    """The part of the page: CPU per item and memory, a row for each step, a column for each size."""
    sizes = sorted({int(size) for by_size in found.values() for size in by_size})
    head = ["", *(f"{size:,}" for size in sizes)]
    command = f"python scripts/bench_scale.py --sizes {' '.join(map(str, sizes))}"

    def rows(cell: Callable[[str, Mapping[str, float], int], str]) -> list[list[str]]:
        steps = [step for step in STEPS if found.get(step)]
        return [[s, *(cell(s, found[s][str(n)], n) if str(n) in found[s] else "" for n in sizes)] for s in steps]

    def time_of(step: str, one: Mapping[str, float], size: int) -> str:
        return f"{1e3 * one['cpu'] / (10 if step == 'read' else size):.2g}"

    def memory_of(step: str, one: Mapping[str, float], size: int) -> str:
        return f"{max(one['mib'], 0):.0f}" + (f" ({one['mib'] * 1048.576 / size:.2g})" if size >= 10_000 else "")

    return "\n".join(
        [
            "## Scaling",
            "",
            f"`{command}`. {machine()}. {versions(LIBRARIES)}.",
            "",
            "CPU milliseconds per item, by the number of items (`read`: per item read, always ten of them):",
            "",
            table(head, rows(time_of)),
            "",
            "Largest memory beyond what the process had before, in MiB; from 10,000 items on in kB per item, too:",
            "",
            table(head, rows(memory_of)),
        ]
    )


def main() -> None:
    """Measure what is missing, then write the section."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sizes", type=int, nargs="+", default=SIZES, help="items (default: 10 to a million)")
    parser.add_argument("--steps", nargs="+", choices=STEPS, default=list(STEPS), help="(default: all)")
    parser.add_argument("--again", nargs="+", choices=STEPS, default=[], help="measure these anew")
    parser.add_argument("--folder", type=Path, default=Path("/tmp/bench_scale"), help="(default: %(default)s)")
    parser.add_argument("--no-page", action="store_true", help="print the section, leave the page")
    parser.add_argument("--child", choices=STEPS, help=argparse.SUPPRESS)
    parser.add_argument("--make", help=argparse.SUPPRESS)
    args = parser.parse_args()
    args.folder = args.folder.resolve()
    if args.make == "small":
        return make_small(args.folder)
    if args.make:
        return make(args.folder, int(args.make))
    if min(args.sizes) < FEWEST:
        parser.error(f"--sizes {min(args.sizes)}: {FEWEST} items or more")
    if not set(args.steps) & set(INDEX_ONLY) and min(args.sizes) >= MILLION:
        parser.error(f"from {MILLION:,} items on there is an index alone, enough for {', '.join(INDEX_ONLY)}")
    if args.child:
        print(json.dumps(child(args.child, args.folder)))
        return
    args.folder = args.folder / versions_key()
    results = args.folder / "results.json"
    found: dict[str, dict[str, dict[str, float]]] = json.loads(results.read_text()) if results.exists() else {}
    prepare(args.folder, "small")
    for size in sorted(args.sizes):
        prepare(args.folder, str(size))
        for step in args.steps:
            known = found.setdefault(step, {})
            if (size >= MILLION and step not in INDEX_ONLY) or (str(size) in known and step not in args.again):
                continue
            known[str(size)] = measure(step, args.folder / str(size))
            print(step, size, known[str(size)], file=sys.stderr, flush=True)
            results.write_text(json.dumps(found))
    text = section(found)
    if args.no_page:
        print(text)
    else:
        write_section("bench_scale", text)


def prepare(folder: Path, what: str) -> None:
    """Make what the steps read, unless it is there: "small", or a number of items. In a process of its own, so that
    this one stays small."""
    if (folder / what / ("manifest.json" if what == "small" else "packed")).exists():
        return
    print(f"making {what} items", file=sys.stderr)
    subprocess.run([sys.executable, __file__, "--make", what, "--folder", str(folder)], check=True, cwd=ROOT)


def make_small(folder: Path) -> None:
    """The pack that the others are made from, its source, and runs with as few records."""
    for name in ("source", "few", "small"):  # of one that was killed
        shutil.rmtree(folder / name, ignore_errors=True)
    make_source(folder, SMALL)
    make_runs(folder / "few", SMALL)
    _pack(folder / "source", folder / "small")


def make(folder: Path, items: int) -> None:
    """The corpora and runs of one size."""
    half, whole = folder / f"{items}.half", folder / str(items)
    shutil.rmtree(half, ignore_errors=True)
    if items >= MILLION:
        make_index(half / "packed", items, folder / "small")
    else:
        make_corpus(half / "packed", items, folder / "small")
        make_runs(half, items)
    half.rename(whole)


if __name__ == "__main__":
    main()
