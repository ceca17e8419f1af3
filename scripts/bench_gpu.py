"""How fast does training run on this GPU, and what holds it up? Writes a section of docs/performance.md.

    python scripts/bench_gpu.py [--model qwen2.5-vl-3b] [--steps 20] [--attention sdpa,flash_attention_2] [--compile]

The real shapes of Qwen2.5-VL-3B and -7B with random weights, so that nothing is downloaded; clips of 448 x 252 pixels
are made and packed on the spot. For 8, 16, 32, 64 and hybrid frames it runs the real trainer with LoRA, and the same
steps written bare in PyTorch (same batches, made before) beside it. Tokens per second, peak memory, and the share of
time that the GPU waits for data come from the run; model FLOP utilisation is 4 x parameters x tokens (the base is
frozen: no weight gradients) by time by the peak of the device. Without a GPU it says so and changes nothing:
docs/performance.md says "not measured" until it has been.
"""

from __future__ import annotations

import argparse
import datetime
import json
import os
import subprocess
import sys
import tempfile
import time
from dataclasses import replace
from itertools import product
from pathlib import Path
from typing import Any

import torch

PERFORMANCE = Path(__file__).parents[1] / "docs" / "performance.md"
NAME = "gpu-training"
FRAMES = ("8", "16", "32", "64", "hybrid")
SHAPES: dict[str, dict[str, Any]] = {
    # Of the published config.json files.
    "qwen2.5-vl-3b": {
        "text": {"hidden_size": 2048, "intermediate_size": 11008, "num_hidden_layers": 36, "num_attention_heads": 16,
                 "num_key_value_heads": 2, "tie_word_embeddings": True},
        "out": 2048,
    },
    "qwen2.5-vl-7b": {
        "text": {"hidden_size": 3584, "intermediate_size": 18944, "num_hidden_layers": 28, "num_attention_heads": 28,
                 "num_key_value_heads": 4, "tie_word_embeddings": False},
        "out": 3584,
    },
}  # fmt: skip
PEAK = {"H100": 989e12, "H200": 989e12, "A100": 312e12, "L40S": 362e12}
"""Dense bfloat16 operations a second, from the vendor's data sheets."""


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default=",".join(SHAPES), help="which shapes (default: %(default)s)")
    parser.add_argument("--steps", type=int, default=20, help="timed steps of each setting (default: %(default)s)")
    parser.add_argument(
        "--attention", default="sdpa", help="attention implementations to compare (default: %(default)s)"
    )
    parser.add_argument("--compile", action="store_true", help="each setting with torch.compile, too")
    args = parser.parse_args()
    if not torch.cuda.is_available():
        print("no GPU here: training speed is not measured")
        return 0
    rows = []
    with tempfile.TemporaryDirectory() as scratch:
        root = Path(scratch)
        data = corpus(root)
        for name in args.model.split(","):
            folder = build(name, root / name)
            for attention, compiled in product(args.attention.split(","), (False, True)[: 1 + args.compile]):
                how = f"{attention}, compiled" if compiled else attention
                for frames in FRAMES:
                    setting = {"frames": frames, "attention": attention, "compiled": compiled}
                    found = measure(folder, data, root, steps=args.steps, **setting)
                    rows.append({"model": name, "attention": how, "frames": frames, **found})
                    print(json.dumps(rows[-1]), flush=True)
    write_section(table(rows))
    return 0


def corpus(root: Path) -> Path:
    """160 clips of the toy world, stored at 448 pixels, with every budget."""
    from vtrap_data.shards.manifest import PackSettings
    from vtrap_data.shards.pack import pack
    from vtrap_data.sources.jsonl import read_jsonl
    from vtrap_data.sources.toyworld.generate import Recipe, generate

    jsonl = generate(Recipe(kind="videos", purpose="train", count=160), root / "source", workers=os.cpu_count() or 1)
    samples = read_jsonl(jsonl, media_root=jsonl.parent, name="bench").samples
    pack(
        samples,
        root / "packed",
        settings=PackSettings(name="bench", store=64, mean_frames=20),
        workers=os.cpu_count() or 1,
    )
    return root / "packed"


def build(name: str, out: Path) -> Path:
    """A checkpoint of the real shape with random weights and the toy tokenizer."""
    from transformers import Qwen2_5_VLConfig, Qwen2_5_VLForConditionalGeneration

    from vtrap_data.toy_vl.build import SPECIAL, build_processor

    processor = build_processor()
    for part in (processor.image_processor, processor.video_processor):
        # Clips of 64 pixels are shown at 448 x 252, the size that the 7B recipe sees.
        part.patch_size, part.merge_size = 14, 2
        part.size = {"shortest_edge": 448 * 252, "longest_edge": 448 * 252}
    ids = {s: processor.tokenizer.convert_tokens_to_ids(s) for s in SPECIAL}
    shape = SHAPES[name]
    config = Qwen2_5_VLConfig(
        text_config={
            "vocab_size": 151936, "max_position_embeddings": 128000, **shape["text"],
            "rope_parameters": {"rope_type": "default", "rope_theta": 1e6, "mrope_section": [16, 24, 24]},
        },
        vision_config={
            "depth": 32, "hidden_size": 1280, "intermediate_size": 3420, "num_heads": 16, "patch_size": 14,
            "spatial_merge_size": 2, "temporal_patch_size": 2, "window_size": 112,
            "fullatt_block_indexes": [7, 15, 23, 31], "out_hidden_size": shape["out"], "tokens_per_second": 2,
        },
        image_token_id=ids["<|image_pad|>"], video_token_id=ids["<|video_pad|>"],
        vision_start_token_id=ids["<|vision_start|>"], vision_end_token_id=ids["<|vision_end|>"],
        tie_word_embeddings=shape["text"]["tie_word_embeddings"],
    )  # fmt: skip
    with torch.device("cuda"):
        model = Qwen2_5_VLForConditionalGeneration._from_config(config, dtype=torch.bfloat16)
    model.save_pretrained(out)
    processor.save_pretrained(out)
    return out


def measure(
    folder: Path, data: Path, root: Path, *, frames: str, attention: str, compiled: bool, steps: int
) -> dict[str, float | None]:
    """One setting: the real trainer in a process of its own, then the same step bare."""
    out = root / f"run-{time.time_ns()}"
    words = [sys.executable, __file__, "--child", folder, data, out, frames, attention, steps, compiled]
    done = subprocess.run([str(w) for w in words], capture_output=True, text=True, check=False)
    if done.returncode:
        return {"failed": None}
    found: dict[str, float | None] = json.loads(done.stdout.splitlines()[-1])
    return found


def child(folder: str, data: str, out: str, frames: str, attention: str, steps: str, compiled: str) -> int:
    """Train, timing what happens inside; then the same batches through a bare loop."""
    from transformers import TrainerCallback

    from vtrap_data.encoding import load_model, load_processor, resolve
    from vtrap_train.batches import MICRO, StepLoader
    from vtrap_train.collate import FACTS
    from vtrap_train.config import parse
    from vtrap_train.run import lora, run

    warm, timed = 3, int(steps)
    stamps: list[float] = []
    waits: list[float] = []
    kept: list[dict[str, Any]] = []
    stock = StepLoader.__iter__

    def watched(self: Any) -> Any:
        source = iter(stock(self))
        while True:
            began = time.perf_counter()
            step = next(source, None)
            if step is None:
                return
            waits.append(time.perf_counter() - began)
            if len(kept) < 4:
                kept.extend({k: v for k, v in b.items() if k != FACTS} for b in step[MICRO])
            yield step

    class Clock(TrainerCallback):  # type: ignore[misc]
        def on_step_end(self, *_: Any, **__: Any) -> None:
            torch.cuda.synchronize()
            stamps.append(time.perf_counter())

    StepLoader.__iter__ = watched  # type: ignore[method-assign]
    words = (
        f"--model {folder} --data {data} --output_dir {out} --frames {frames} --max_steps {warm + timed} --lora_r 64"
    )
    words += " --per_device_train_batch_size 4 --tokens_per_batch 8192 --save_strategy no"
    words += f" --attn_implementation {attention} --torch_compile {compiled}"
    parsed = parse(words.split())
    torch.cuda.reset_peak_memory_stats()
    summary = run(parsed, callbacks=[Clock()])
    peak_bytes = torch.cuda.max_memory_allocated()  # before the bare loop, which has a model of its own
    seconds = stamps[-1] - stamps[warm - 1]
    tokens = json.loads((Path(out) / "loss.jsonl").read_text().splitlines()[-1])["num_tokens"]
    per_second = tokens * timed / (warm + timed) / seconds
    parameters = sum(g["parameters"] for g in summary["groups"].values())
    device = torch.cuda.get_device_name()
    peak = next((v for k, v in PEAK.items() if k in device), None)
    trainer_step = seconds / timed

    ref = resolve(folder)
    load_processor(ref)
    from peft import get_peft_model

    base: Any = load_model(ref, dtype=torch.bfloat16, attn_implementation=attention).to("cuda")
    base.gradient_checkpointing_enable()
    base.enable_input_require_grads()
    model = get_peft_model(base, lora(replace(parsed.arguments), base)).train()
    optimizer = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], fused=True)
    batches = [{k: v.to("cuda") for k, v in b.items()} for b in kept]

    def bare() -> None:
        for batch in batches:
            with torch.autocast("cuda", torch.bfloat16):
                (model(**batch, use_cache=False).loss / len(batches)).backward()
        optimizer.step()
        optimizer.zero_grad()

    for _ in range(warm):
        bare()
    torch.cuda.synchronize()
    began = time.perf_counter()
    for _ in range(timed):
        bare()
    torch.cuda.synchronize()
    bare_tokens = sum(int(b["attention_mask"].sum()) for b in batches) * timed / (time.perf_counter() - began)
    print(
        json.dumps(
            {
                "tokens_per_second": per_second,
                "mfu": None
                if peak is None
                else 4 * parameters * per_second / peak,  # frozen base: no weight gradients
                "peak_gb": peak_bytes / 1e9,
                "waiting": sum(waits[warm:]) / seconds,
                "step_seconds": trainer_step,
                "against_bare": per_second / bare_tokens,
            }
        )
    )
    return 0


def table(rows: list[dict[str, Any]]) -> list[str]:
    """Markdown."""
    today = datetime.datetime.now(tz=datetime.UTC).date()
    lines = [
        f"{torch.cuda.get_device_name()}, {today}, LoRA of rank 64, random weights, one GPU. MFU counts 4 operations "
        "per parameter and token: the base is frozen.",
        "",
        "| model | attention | frames | tokens/s | MFU | peak GB | waiting for data | speed by that of bare PyTorch |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for r in rows:
        head = f"| {r['model']} | {r['attention']} | {r['frames']} "
        if "failed" in r:
            lines.append(head + "| failed | | | | |")
            continue
        mfu = "-" if r["mfu"] is None else f"{r['mfu']:.1%}"
        lines.append(
            head + f"| {r['tokens_per_second']:,.0f} | {mfu} | {r['peak_gb']:.1f} | {r['waiting']:.1%} | "
            f"{r['against_bare']:.2f} |"
        )
    return lines


def write_section(lines: list[str]) -> None:
    """Put the lines between this script's markers, leaving the sections of others alone."""
    begin, end = f"<!-- {NAME} -->", f"<!-- /{NAME} -->"
    body = "\n".join([begin, "## Training on a GPU", "", *lines, end])
    text = PERFORMANCE.read_text(encoding="utf-8") if PERFORMANCE.is_file() else "# Performance\n"
    if begin in text:
        head, rest = text.split(begin, 1)
        text = head + body + rest.split(end, 1)[1]
    else:
        text = text.rstrip("\n") + "\n\n" + body + "\n"
    PERFORMANCE.write_text(text, encoding="utf-8")


if __name__ == "__main__":
    sys.exit(child(*sys.argv[2:]) if sys.argv[1:2] == ["--child"] else main())
