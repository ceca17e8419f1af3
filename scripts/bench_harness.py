"""Side by side with lmms-eval: the same toy-size Qwen2.5-VL, the same items. Scores, CPU beside generation, kills.

Usage: python scripts/bench_harness.py [--items 200] [--frames 8,32] [--out runs/bench-harness] [--dry-run]

lmms-eval comes from the package index into an environment of its own under --out, on top of this one's torch and
transformers. Both harnesses are given a task with the same questions, prompts and files, weights in bfloat16, the
processor's own pixel limits, and batch size 1.

CPU is what a process and its children used, user and system, so other work on the machine hardly matters; wall time
is printed for what it is worth. A clock around `generate`, the same in both, takes down both at the end of each call:
what was used from one call to the last, less what `generate` used (of its own thread alone, so that reading ahead in
another one counts as outside, and so does making numbers of vtrap's bytes, which lmms-eval's processor does before),
divided by the items, is the cost per item. Start-up is what was used before the first call. What the clock itself
takes is measured at the end and left out. What they do after the last call (ours: intervals, theirs: standard errors)
is in neither.

What makes answers differ is taken apart by `harness_differences.py`.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import signal
import subprocess
import sys
import sysconfig
import textwrap
import time
from functools import partial
from pathlib import Path
from typing import Any

from benchmarking import ROOT, machine, versions, write_section
from harness_differences import Apart, read_calls, table, take_apart

from vtrap_data.encoding.models import resolve
from vtrap_data.loading.dataset import PackedDataset

LMMS = "lmms-eval==0.7.3"
# What its command imports; the rest of its 60 requirements serves other models and tasks.
NEEDS = [
    *("qwen-vl-utils", "decord", "loguru", "sqlitedict", "tenacity", "terminaltables", "pytablewriter", "jsonlines"),
    *(
        "sacrebleu",
        "hf_transfer",
        "tabulate",
        "ftfy",
        "nltk",
        "openai",
        "timm",
        "einops",
        "numexpr",
        "python-dotenv",
        "pytz",
    ),
]
QUIET: dict[str, Any] = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL, "check": True}
SMALL = ("carphone_pristine.mp4", "carphone_distorted.mp4", "thanks.mp4")
"""Clips of a size that nobody has any more, and a drawn one."""
ASKED = "asked.jsonl"
"""The questions of a row of the table, in the folder of their media. Both harnesses ask all of them, and no others."""
WARM_UP = 10
"""Items before the cost per item is counted."""
KEPT = "kept"
"""Folder of what lmms-eval gave its model in its last run with one question at a time."""

CLOCK = """
import atexit, json, os, sys, time
import transformers.generation.utils as g
marks, start, own = [], [], [0.0]
asked, frames = "", []  # by the task; by the reader of videos
inner = g.GenerationMixin.generate
def used():
    return time.process_time() + sum(os.times()[2:4])
def generate(self, *a, **k):
    if not start:
        start.append(used())
    if len(marks) + 1 == int(os.environ.get("CLOCK_FAIL", "0")):
        raise RuntimeError("the engine is gone")
    c = time.thread_time()
    try:
        if "CLOCK_KEEP" in os.environ:
            keep(k)
        return inner(self, *a, **k)
    finally:
        own[0] += time.thread_time() - c
        marks.append([used(), own[0]])
        if "CLOCK_CALLS" in os.environ:
            with open(os.environ["CLOCK_CALLS"], "a") as f:
                f.write(".")
g.GenerationMixin.generate = generate
def count_numbers():
    from vtrap_data.encoding import patches
    make = patches.numbers
    def numbers(*a, **k):
        c = time.thread_time()
        found = make(*a, **k)
        own[0] -= time.thread_time() - c
        return found
    patches.numbers = numbers
def keep(k):
    import torch
    from safetensors.torch import save_file
    k = {n: torch.tensor(v) if n == "second_per_grid_ts" and isinstance(v, list) else v for n, v in k.items()}
    inputs = {n: v.contiguous() for n, v in k.items() if torch.is_tensor(v)}
    about = {"id": asked, "frames": frames, "settings": {n: v for n, v in k.items() if n not in inputs}}
    to = os.path.join(os.environ["CLOCK_KEEP"], f"{len(marks):05d}.safetensors")
    save_file(inputs, to, metadata={"about": json.dumps(about)})
if "CLOCK_KEEP" in os.environ:
    import qwen_vl_utils
    read = qwen_vl_utils.process_vision_info
    def process_vision_info(*a, **k):
        global frames
        found = read(*a, **k)
        frames = [int(i) for _, about in found[1] or [] for i in about["frames_indices"]]
        return found
    qwen_vl_utils.process_vision_info = process_vision_info
def done():
    before = used()
    for _ in range(100):
        used(), time.thread_time()
    took = (used() - before) / 100
    with open(os.environ["CLOCK"], "w") as f:
        json.dump({"start": start[0] if start else used(), "marks": marks, "clock": took}, f)
atexit.register(done)
"""

UTILS = """
import clock
from PIL import Image
def messages(doc, lmms_eval_specific_kwargs=None):
    clock.asked = doc["id"]
    kind = "video" if doc["media"].endswith(".mp4") else "image"
    medium = doc["media"] if kind == "video" else Image.open(doc["media"]).convert("RGB")
    return [{"role": "user", "content": [{"type": kind, "url": medium}, {"type": "text", "text": doc["text"]}]}]
def visual(doc):
    return [doc["media"]]
def text(doc, lmms_eval_specific_kwargs=None):
    return doc["text"]
"""
SCORER = """
def results(doc, found):
    said = found[0].strip().rstrip(".").lower()
    return {"accuracy": float(said == doc["answer"].lower())}
"""


def toyworld(kind: str, to: Path, items: int) -> Path:
    """Questions about synthetic media of 64 pixels, which take next to nothing to decode."""
    media = items if kind == "images" else -(-items // 2)  # a clip has two questions
    make = ["toyworld", kind, "--purpose", "bench", "--count", str(media), "--out", str(to)]
    subprocess.run([sys.executable, "-m", "vtrap_data", *make], **QUIET)
    lines = (to / "bench.jsonl").read_text().splitlines(keepends=True)
    (to / ASKED).write_text("".join(lines[:items]))
    return to / ASKED


def real(kind: str, to: Path, items: int, *, each: int = 1) -> Path:
    """Hand-written questions about real photos as they are, and about 10 s clips of real footage in H.264 of 720p.

    Only those with options and about one medium. There are few media, so `each` questions get a copy of their own with
    other bytes after its end: a harness that knows a file again must not save what it could not save on a benchmark.
    """
    from bench_packing import filmed, footage

    folder = footage()
    rows = [json.loads(line) for line in (folder.parent / "questions.jsonl").read_text().splitlines()]
    rows = [row for row in rows if row["options"] and len(row.get(kind, ())) == 1]
    about: dict[str, list[dict[str, Any]]] = {}  # questions of each medium
    for row in sorted(rows, key=lambda row: row["id"]):
        if (name := Path(row[kind][0]).name) not in SMALL:
            about.setdefault(name, []).append(row)
    to.mkdir(parents=True, exist_ok=True)
    files = {}
    for name in about:
        if kind == "videos":
            files[name] = filmed([folder / name], to / f"{Path(name).stem}.mp4", seconds=10, gop=250).read_bytes()
        else:
            files[name] = (folder / name).read_bytes()
    asked = []
    for n in range(-(-items // each)):
        name = list(about)[n % len(about)]
        copy = to / f"{Path(name).stem}-{n}{'.mp4' if kind == 'videos' else Path(name).suffix}"
        copy.write_bytes(files[name] + (16).to_bytes(4, "big") + b"free" + n.to_bytes(8, "big"))
        for k in range(each):
            row = about[name][(n // len(about) * each + k) % len(about[name])]
            asked.append({**row, "id": f"{row['id']}-{n}-{k}", kind: [copy.name]})  # below the corpus's folder
    (to / ASKED).write_text("".join(json.dumps(row) + "\n" for row in asked[:items]))
    return to / ASKED


MEDIA = {"toy": toyworld, "real": real, "twice": partial(real, each=2)}
SHOWN = {
    ("toy", "image"): "toy picture, 64 px",
    ("toy", "video"): "toy clip, 64 px, two questions each",
    ("real", "image"): "photo",
    ("real", "video"): "10 s of 720p",
    ("twice", "image"): "photo, two questions each",
}


def prepare(out: Path, items: int, *, media: str = "toy") -> dict[str, Path]:
    """Data for both, and lmms-eval's environment; nothing is done twice."""
    name_of = f"{media}-{items}"
    parts = [kind for kind in ("image", "video") if (media, kind) in SHOWN]
    for kind, name in ((f"{part}s", f"toy-{part}") for part in parts):
        packed = out / f"packed-{name_of}" / name
        if not (packed / "manifest.json").is_file():
            rows = MEDIA[media](kind, out / f"source-{name_of}" / kind, items)
            pack = ["pack", str(rows), "--out", str(packed), "--name", name, "--split", "test"]
            pack += ["--workers", "0", *(["--synthetic"] if media == "toy" else [])]
            if kind == "videos":
                pack += ["--budgets", "2,4,8,16,32", "--slots", "32", "--store", "32", "--mean-frames", "8"]
                pack += ["--scorer", "lexical"]
            subprocess.run([sys.executable, "-m", "vtrap_data", *pack], **QUIET)
    env = out / "env"
    ready = env / "ready"
    if not ready.is_file():
        print("installing lmms-eval in an environment of its own (once)", file=sys.stderr)
        subprocess.run([sys.executable, "-m", "venv", "--clear", str(env)], check=True)
    # Each time: the environment outlives a checkout that moves. The import mends torchvision.
    lines = [sysconfig.get_paths()["purelib"], str(ROOT), "import vtrap_data"]
    site = next((env / "lib").glob("python*")) / "site-packages"
    (site / "beside.pth").write_text("\n".join(lines) + "\n")
    if not ready.is_file():
        pip = [str(env / "bin" / "python"), "-m", "pip", "install", "--quiet", "--disable-pip-version-check"]
        subprocess.run([*pip, "--no-deps", LMMS], check=True)
        subprocess.run([*pip, *NEEDS], check=True)
        ready.touch()
    tasks = out / "tasks"
    tasks.mkdir(exist_ok=True)
    (tasks / "utils.py").write_text(UTILS + SCORER)
    for kind, name in ((f"{part}s", f"toy_{part}") for part in parts):
        source = out / f"source-{name_of}" / kind
        rows = []
        asked = source / ASKED
        for row in map(json.loads, asked.read_text().splitlines() if asked.is_file() else ()):
            medium = str(source / (row.get("images") or row.get("videos"))[0])
            text = row["messages"][0]["content"].replace("<image>", "").replace("<video>", "")
            rows.append({"id": row["id"], "media": medium, "text": text, "answer": row["answer"]})
        packed = out / f"packed-{name_of}" / name.replace("_", "-")
        if sorted(PackedDataset(packed).column("item_id")) != sorted(row["id"] for row in rows):
            raise SystemExit(f"{packed} was packed by another version, from other questions than {asked}: remove it")
        (out / f"{name}-{name_of}.jsonl").write_text("".join(json.dumps(r) + "\n" for r in rows))
        (tasks / f"{name}.yaml").write_text(
            textwrap.dedent(f"""\
            task: {name}
            dataset_path: json
            dataset_kwargs: {{data_files: {{test: {out / f"{name}-{name_of}.jsonl"}}}}}
            test_split: test
            output_type: generate_until
            doc_to_visual: !function utils.visual
            doc_to_text: !function utils.text
            doc_to_messages: !function utils.messages
            doc_to_target: answer
            process_results: !function utils.results
            generation_kwargs: {{max_new_tokens: 8, temperature: 0, do_sample: false}}
            metric_list:
              - {{metric: accuracy, aggregation: mean, higher_is_better: true}}
            """)
        )
    rows_of = {kind: out / f"toy_{kind}-{name_of}.jsonl" for kind in parts}
    return {"model": out / "model", "env": env, "tasks": tasks, "packed": out / f"packed-{name_of}", **rows_of}


def command(
    who: str, kind: str, paths: dict[str, Path], *, items: int, frames: int, target: Path, batch: int = 1
) -> list[str]:
    """A run of one harness."""
    model = str(paths["model"])
    if who == "vtrap":
        start = "import clock, sys; from vtrap_bench.__main__ import main; clock.count_numbers(); "
        start += "sys.exit(main(sys.argv[1:]))"
        argv = ["run", "--model", model, "--tasks", f"toy-{kind}", "--benchmarks", str(paths["packed"])]
        argv += ["--out", str(target), "--dtype", "bfloat16", "--batch-size", str(batch), "--limit", str(items)]
        argv += ["--frames", str(frames)] if kind == "video" else []
        return [sys.executable, "-c", start, *argv]
    size = json.loads((Path(model) / "processor_config.json").read_text())["image_processor"]["size"]
    low, high = size["shortest_edge"], size["longest_edge"]
    start = "import clock, runpy; runpy.run_module('lmms_eval', run_name='__main__', alter_sys=True)"
    argv = [
        "--model",
        "qwen2_5_vl",
        "--tasks",
        f"toy_{kind}",
        "--include_path",
        str(paths["tasks"]),
    ]
    settings = (
        f"pretrained={model},device=cpu,device_map=cpu,min_pixels={low},max_pixels={high},max_num_frames={frames}"
    )
    argv += [
        "--batch_size",
        str(batch),
        "--model_args",
        settings,
        "--limit",
        str(items),
        "--output_path",
        str(target),
        "--log_samples",
    ]
    return [str(paths["env"] / "bin" / "python"), "-c", start, *argv]


def environment(out: Path, clock: Path, **more: str) -> dict[str, str]:
    (out / "clock.py").write_text(CLOCK)
    offline = {"HF_HUB_OFFLINE": "1", "HF_DATASETS_OFFLINE": "1", "TOKENIZERS_PARALLELISM": "false"}
    return {**os.environ, **offline, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(out), "CLOCK": str(clock), **more}


def measured(
    who: str, kind: str, paths: dict[str, Path], out: Path, *, items: int, frames: int, batch: int = 1
) -> dict[str, Any]:
    """Run from nothing; what it took and what it scored."""
    target = out / "runs" / f"{who}-{kind}-{frames}-{batch}"
    shutil.rmtree(target, ignore_errors=True)
    target.mkdir(parents=True)
    argv = command(who, kind, paths, items=items, frames=frames, target=target, batch=batch)
    clock = out / "clock.json"
    kept: dict[str, str] = {}
    if who == "lmms-eval" and batch == 1:
        shutil.rmtree(out / KEPT, ignore_errors=True)
        (out / KEPT).mkdir()
        kept["CLOCK_KEEP"] = str(out / KEPT)
    began = time.perf_counter()
    env = environment(out, clock, **kept)
    with (out / f"{who}.log").open("wb") as log:
        code = subprocess.run(argv, env=env, stdout=log, stderr=log, check=False).returncode
    wall = time.perf_counter() - began
    if code != 0:
        tail = (out / f"{who}.log").read_text(errors="replace")[-3000:]
        raise SystemExit(f"{who} on {kind} ended with exit code {code}:\n{tail}")
    spent = json.loads(clock.read_text())
    marks = spent["marks"]
    found: dict[str, Any] = {"wall": wall, "startup": spent["start"]}
    if batch == 1:
        if len(marks) != items:
            raise SystemExit(f"{who} on {kind}: {len(marks)} calls for {items} items")
        (used, own), (used_by_then, own_by_then) = marks[-1], marks[WARM_UP - 1]
        found["per_item"] = ((used - used_by_then) - (own - own_by_then)) / (items - WARM_UP) - spent["clock"]
    return {**found, **answers(who, target, paths[kind])}


def failing(who: str, paths: dict[str, Path], out: Path, *, items: int) -> int:
    """Exit code where the model fails at the fifth item."""
    target = out / "runs" / f"{who}-failing"
    shutil.rmtree(target, ignore_errors=True)
    target.mkdir(parents=True)
    argv = command(who, "image", paths, items=items, frames=8, target=target)
    env = environment(out, out / "failing.json", CLOCK_FAIL="5")
    with (out / f"{who}-failing.log").open("wb") as log:
        return subprocess.run(argv, env=env, stdout=log, stderr=log, check=False).returncode


def _text(value: Any) -> str:
    return _text(value[0]) if isinstance(value, list) else str(value)


def answers(who: str, target: Path, questions: Path) -> dict[str, Any]:
    """Texts by question, and the score in points."""
    if who == "vtrap":
        rows = [json.loads(line) for line in (target / "records.jsonl").read_text().splitlines()]
        scores = json.loads((target / "scores.json").read_text())
        (task,) = scores["tasks"].values()
        return {"score": task["score"], "texts": {r["item_id"]: r["response"] for r in rows}}
    results = json.loads(next(target.rglob("*results.json")).read_text())
    (task,) = results["results"].values()
    rows = [json.loads(line) for line in next(target.rglob("*samples*.jsonl")).read_text().splitlines()]
    # It numbers questions by their row and does not keep them.
    asked = [json.loads(line)["id"] for line in questions.read_text().splitlines()]
    texts = {asked[r["doc_id"]]: _text(r["filtered_resps"]) for r in rows}
    return {"score": 100 * next(v for k, v in task.items() if k.startswith("accuracy,")), "texts": texts}


def killed(who: str, paths: dict[str, Path], out: Path, *, items: int) -> int:
    """Questions that were asked more than once, when the run is killed half-way and started again."""
    target = out / "runs" / f"{who}-killed"
    shutil.rmtree(target, ignore_errors=True)
    target.mkdir(parents=True)
    argv = command(who, "image", paths, items=items, frames=8, target=target)
    calls = out / "killed.calls"
    calls.unlink(missing_ok=True)
    env = environment(out, out / "killed.json", CLOCK_CALLS=str(calls))
    asked = 0
    for last in (False, True):
        with (out / f"{who}-killed.log").open("ab") as log:
            process = subprocess.Popen(argv, env=env, stdout=log, stderr=log)
            while process.poll() is None:
                time.sleep(0.05)
                if not last and calls.exists() and calls.stat().st_size >= items // 2:
                    os.kill(process.pid, signal.SIGKILL)
                    process.wait()
        asked = calls.stat().st_size
    return asked - items


def differences(
    kind: str, paths: dict[str, Path], out: Path, *, frames: int, ours: dict[str, str], theirs: dict[str, str]
) -> Apart:
    """What makes the answers of the last run differ."""
    rows = [json.loads(line) for line in paths[kind].read_text().splitlines()]
    scorer: dict[str, Any] = {}
    exec(SCORER, scorer)
    return take_apart(
        read_calls(out / KEPT),
        model=paths["model"],
        task=f"toy-{kind}",
        packed=paths["packed"] / f"toy-{kind}",
        frames=frames,
        rows=rows,
        ours={name: text.strip() for name, text in ours.items()},
        theirs={name: text.strip() for name, text in theirs.items()},
        their_scorer=scorer["results"],
    )


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--items", type=int, default=200)
    parser.add_argument("--frames", default="8,32", help="numbers of frames per video (default: %(default)s)")
    parser.add_argument("--out", type=Path, default=ROOT / "runs" / "bench-harness")
    parser.add_argument("--dry-run", action="store_true", help="print the table, leave the page as it is")
    args = parser.parse_args()
    out = args.out.resolve()
    out.mkdir(parents=True, exist_ok=True)
    shutil.rmtree(out / "model", ignore_errors=True)
    shutil.copytree(resolve("toy-vl").path, out / "model")  # the same for every row, whatever becomes of the package's
    single: dict[str, dict[str, str]] = {}
    apart: dict[str, Apart] = {}
    lines = [
        f"`python scripts/bench_harness.py --items {args.items} --frames {args.frames}`. {machine()}. "
        f"{LMMS.replace('==', ' ')}, {versions(('transformers', 'torch', 'pillow'))}.",
        f"{args.items} items per row, toy-vl in bfloat16 on a CPU, one thread, batch size 1; CPU beside generation.",
        "",
        "| items | | score | same text | start-up, CPU s | per item, CPU ms | ratio | wall s |",
        "|---|---|---:|---:|---:|---:|---:|---:|",
    ]
    kinds = [("image", 0), *(("video", int(n)) for n in args.frames.split(","))]
    for media, kind, frames in [(media, *kind) for media in MEDIA for kind in kinds if (media, kind[0]) in SHOWN]:
        # The tasks' files name the questions, so they are written anew; the media are there.
        paths = prepare(out, args.items, media=media)
        each: dict[str, dict[str, Any]] = {}
        shown = frames or 8  # of pictures it says nothing
        for who in ("lmms-eval", "vtrap"):
            each[who] = measured(who, kind, paths, out, items=args.items, frames=shown)
        if kind == "image" and media == "toy":
            single = {who: one["texts"] for who, one in each.items()}
        theirs, ours = each["lmms-eval"], each["vtrap"]
        shared = theirs["texts"].keys() & ours["texts"].keys()
        same = sum(theirs["texts"][i].strip() == ours["texts"][i].strip() for i in shared)
        name = f"{SHOWN[media, kind]}, {frames} frames" if frames else SHOWN[media, kind]
        apart[name] = differences(kind, paths, out, frames=shown, ours=ours["texts"], theirs=theirs["texts"])
        print("\n".join(table({name: apart[name]}, items=args.items)), flush=True)
        for who, one in each.items():
            ratio = f"{theirs['per_item'] / one['per_item']:.1f}x"
            row = f"| {name} | {who} | {one['score']:.1f} | {same} of {len(shared)} | {one['startup']:.1f} "
            row += f"| {1000 * one['per_item']:.1f} | {ratio} | {one['wall']:.0f} |"
            print(row, flush=True)
            lines.append(row)
    few, paths = min(args.items, 60), prepare(out, args.items)
    moved, codes = {}, {}
    for who in ("lmms-eval", "vtrap"):
        eight = measured(who, "image", paths, out, items=args.items, frames=8, batch=8)["texts"]
        moved[who] = sum(eight[i] != text for i, text in single[who].items())
        codes[who] = failing(who, paths, out, items=few)
    again = {who: killed(who, paths, out, items=few) for who in ("lmms-eval", "vtrap")}

    def told(counts: dict[str, int]) -> str:
        return ", ".join(f"{who} {count}" for who, count in counts.items())

    closing = [
        f"Pictures at batch size 8, answers that differ from those at 1 (of {args.items}): {told(moved)}.",
        f"Killed after half of {few} pictures and started again, questions asked twice: {told(again)}.",
        f"The model fails at the fifth picture, exit code: {told(codes)}.",
    ]
    lines += ["", *(f"- {line}" for line in closing)]
    print("\n".join(closing))
    lines += ["", *table(apart, items=args.items)]
    if not args.dry_run:
        write_section("HARNESS", "\n".join(lines))
    return 0


if __name__ == "__main__":
    sys.exit(main())
