"""How fast does training run on this GPU, and what holds it up? Writes a section of docs/performance.md.

    python scripts/bench_gpu.py [--model qwen2.5-vl-3b] [--steps 20] [--attention sdpa,flash_attention_2] [--compile]

The real shapes of Qwen2.5-VL-3B and -7B with random weights, so that nothing is downloaded. The clips are those of the
toy world with a scene for each of 64 frames, enlarged to 448 x 252 pixels and encoded as H.264, so that decoding,
resizing and the model have frames of that size and 64 of them differ. The real trainer runs with LoRA, in a process of
its own for each setting, and beside it the same steps written bare in PyTorch: the batches of the timed steps, made
before, and TRL's own loss (`add_fused_lm_head`: the logits of answers only, in chunks), without its metrics.

First every implementation of attention, with and without compiling as asked, at hybrid frames; then the fastest one at
8, 16, 32 and 64 frames. Tokens per second, peak memory, and the share of time that the GPU waits for data come from
the run; model FLOP utilisation is 4 x parameters x tokens (the base is frozen: no weight gradients) by time by the
peak of the device. Without a GPU it says so and changes nothing: docs/performance.md says "not measured" until it has
been.
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
from collections.abc import Iterator
from fractions import Fraction
from importlib.util import find_spec
from itertools import product
from pathlib import Path
from typing import Any, NamedTuple

import torch
from benchmarking import write_section

NAME = "gpu-training"
WIDTH, HEIGHT = 448, 252
FRAMES = ("8", "16", "32", "64")
WARM = 3
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


class Setting(NamedTuple):
    """One run."""

    frames: str
    attention: str
    compiled: bool = False

    @property
    def how(self) -> str:
        return f"{self.attention}, compiled" if self.compiled else self.attention


class Found(NamedTuple):
    """What a run has shown.

    Attributes:
        tokens_per_second: Of the timed steps.
        mfu: Share of the device's peak; None where that is not known.
        peak_gb: Largest memory of the device.
        waiting: Share of the time in which the next batch was not there.
        step_seconds: Of the trainer.
        against_bare: Its speed by that of the bare loop.
        failed: Why there is nothing of that, else "".
    """

    tokens_per_second: float = 0.0
    mfu: float | None = None
    peak_gb: float = 0.0
    waiting: float = 0.0
    step_seconds: float = 0.0
    against_bare: float = 0.0
    failed: str = ""


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default=",".join(SHAPES), help="which shapes (default: %(default)s)")
    parser.add_argument("--steps", type=int, default=20, help="timed steps of each setting (default: %(default)s)")
    parser.add_argument(
        "--attention", default=",".join(attentions()), help="implementations to compare (default here: %(default)s)"
    )
    parser.add_argument("--compile", action="store_true", help="each of them with torch.compile, too")
    args = parser.parse_args()
    if not torch.cuda.is_available():
        print("no GPU here: training speed is not measured")
        return 0
    rows: list[tuple[str, Setting, Found]] = []
    with tempfile.TemporaryDirectory() as scratch:
        root = Path(scratch)
        data = corpus(root)
        for name in args.model.split(","):
            folder = build(name, root / name)

            def run(setting: Setting, *, name: str = name, folder: Path = folder) -> Found:
                rows.append((name, setting, measure(folder, data, root, setting=setting, steps=args.steps)))
                print(json.dumps({"model": name, **setting._asdict(), **rows[-1][2]._asdict()}), flush=True)
                return rows[-1][2]

            ways = [
                Setting("hybrid", *way)
                for way in product(args.attention.split(","), (False, True)[: 1 + args.compile])
            ]
            best = fastest([(way, run(way)) for way in ways])
            if best is None:
                print(f"{name}: every way of attention failed, so none is the fastest; fixed frames are not measured")
            else:
                for frames in FRAMES:
                    run(best._replace(frames=frames))
    write_section(NAME, "\n".join(["## Training on a GPU", "", *table(rows)]))
    return 0


def attentions() -> list[str]:
    """What transformers can run here; slow ones included, to have something to choose from."""
    return ["sdpa", "eager", *(["flash_attention_2"] if find_spec("flash_attn") else [])]


def corpus(root: Path, *, clips: int = 160) -> Path:
    """Clips of the toy world with a scene for each of 64 frames, of 448 x 252 pixels, packed with every budget."""
    from vtrap_data.shards.manifest import PackSettings
    from vtrap_data.shards.pack import pack
    from vtrap_data.sources.jsonl import read_jsonl
    from vtrap_data.sources.toyworld.generate import Recipe, generate

    workers = min(os.cpu_count() or 1, clips // 16)
    recipe = Recipe(kind="videos", purpose="train", count=clips, slots=64)
    jsonl = generate(recipe, root / "source", workers=workers)
    for clip in sorted((root / "source" / "media").glob("*.mp4")):
        enlarge(clip)
    samples = read_jsonl(jsonl, media_root=jsonl.parent, name="bench").samples
    pack(samples, root / "packed", settings=PackSettings(name="bench", store=64, mean_frames=20, workers=workers))
    return root / "packed"


def enlarge(clip: Path) -> None:
    """Encode a clip again with frames of `WIDTH` x `HEIGHT`."""
    import av

    larger = clip.with_name(f"larger-{clip.name}")
    with av.open(str(clip)) as source, av.open(str(larger), "w") as target:
        rate = Fraction(source.streams.video[0].average_rate or 8)
        stream = target.add_stream("libx264", rate=rate, options={"crf": "18", "preset": "veryfast", "threads": "1"})
        stream.width, stream.height, stream.pix_fmt = WIDTH, HEIGHT, "yuv420p"
        for frame in source.decode(video=0):
            shown = av.VideoFrame.from_ndarray(
                frame.to_ndarray(format="rgb24", width=WIDTH, height=HEIGHT), format="rgb24"
            )
            target.mux(stream.encode(shown))
        target.mux(stream.encode())
    larger.replace(clip)


def build(name: str, out: Path) -> Path:
    """A checkpoint of the real shape with random weights and the toy tokenizer."""
    from transformers import Qwen2_5_VLConfig, Qwen2_5_VLForConditionalGeneration

    from vtrap_data.toy_vl.build import SPECIAL, build_processor

    processor = build_processor()
    for part in (processor.image_processor, processor.video_processor):
        part.patch_size, part.merge_size = 14, 2
        part.size = {"shortest_edge": WIDTH * HEIGHT, "longest_edge": WIDTH * HEIGHT}  # as they are
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


def measure(folder: Path, data: Path, root: Path, *, setting: Setting, steps: int) -> Found:
    """One setting: the real trainer in a process of its own, then the same steps bare."""
    out = root / f"run-{time.time_ns()}"
    words = [sys.executable, __file__, "--child", folder, data, out, json.dumps(setting), steps]
    done = subprocess.run([str(w) for w in words], capture_output=True, text=True, check=False)
    if done.returncode:
        print(f"{setting.how}, {setting.frames} frames failed:\n{done.stderr[-8000:]}", file=sys.stderr, flush=True)
        lines = done.stderr.strip().splitlines() or [f"exit code {done.returncode}"]
        return Found(failed=lines[-1][:200])
    return Found(**json.loads(done.stdout.splitlines()[-1]))


def child(folder: str, data: str, out: str, packed_setting: str, steps: str) -> int:
    """Train, timing what happens inside; then the same batches through a bare loop. Prints a `Found` as JSON."""
    setting, timed = Setting(*json.loads(packed_setting)), int(steps)

    # Ours first: beside a torch for CPUs, transformers can load torchvision only once `vtrap_data` has been imported.
    from vtrap_train.batches import MICRO, StepLoader
    from vtrap_train.collate import FACTS
    from vtrap_train.config import parse
    from vtrap_train.run import run
    from transformers import TrainerCallback  # isort: skip

    stamps: list[float] = []
    waits: list[float] = []
    kept: list[list[dict[str, Any]]] = []
    stock = StepLoader.__iter__

    def watched(self: Any) -> Iterator[Any]:
        source = iter(stock(self))
        while True:
            began = time.perf_counter()
            step = next(source, None)
            if step is None:
                return
            waits.append(time.perf_counter() - began)
            kept.append([{k: v for k, v in b.items() if k != FACTS} for b in step[MICRO]])
            yield step

    class Clock(TrainerCallback):  # type: ignore[misc]
        def on_step_end(self, *_: Any, **__: Any) -> None:
            finish()
            stamps.append(time.perf_counter())

    StepLoader.__iter__ = watched  # type: ignore[method-assign]
    words = f"--model {folder} --data {data} --output_dir {out} --frames {setting.frames} --max_steps {WARM + timed}"
    words += " --lora_r 64 --per_device_train_batch_size 4 --tokens_per_batch 8192 --save_strategy no"
    words += f" --attn_implementation {setting.attention} --torch_compile {setting.compiled}"
    parsed = parse(words.split())
    summary = run(parsed, callbacks=[Clock()])
    peak_bytes = torch.cuda.max_memory_allocated()  # before the bare loop, which has a model of its own; 0 on a CPU
    seconds = stamps[WARM + timed - 1] - stamps[WARM - 1]
    steps_timed = kept[WARM : WARM + timed]
    tokens = sum(int(batch["attention_mask"].sum()) for step in steps_timed for batch in step)
    bare_seconds = bare(parsed, warm=kept[:WARM], timed=steps_timed)
    parameters = sum(g["parameters"] for g in summary["groups"].values())
    peak = next((v for k, v in PEAK.items() if k in device_name()), None)
    found = Found(
        tokens_per_second=tokens / seconds,
        mfu=None if peak is None else 4 * parameters * tokens / seconds / peak,  # frozen base: no weight gradients
        peak_gb=peak_bytes / 1e9,
        waiting=sum(waits[WARM : WARM + timed]) / seconds,
        step_seconds=seconds / timed,
        against_bare=bare_seconds / seconds,
    )
    print(json.dumps(found._asdict()))
    return 0


def bare(parsed: Any, *, warm: list[list[dict[str, Any]]], timed: list[list[dict[str, Any]]]) -> float:
    """Seconds that the steps take without a trainer: model, loss, optimiser and nothing else."""
    from peft import get_peft_model
    from trl.trainer.utils import add_fused_lm_head

    from vtrap_data.encoding import accept_bytes, load_model, load_processor, resolve
    from vtrap_train.lora import lora
    from vtrap_train.run import weights_dtype

    arguments, config = parsed.arguments, parsed.config
    where, ref = "cpu" if config.use_cpu else "cuda", resolve(arguments.model)
    base: Any = load_model(ref, dtype=weights_dtype(parsed), attn_implementation=arguments.attn_implementation)
    accept_bytes(base.to(where), load_processor(ref))
    if config.activation_checkpointing:
        base.gradient_checkpointing_enable()
        base.enable_input_require_grads()
    add_fused_lm_head(base)
    model: Any = get_peft_model(base, lora(arguments, base)).train()
    optimizer = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], fused=True)
    if config.torch_compile:
        model = torch.compile(model)

    def go(steps: list[list[dict[str, Any]]]) -> float:
        finish()
        began = time.perf_counter()
        for step in steps:
            answers = sum((batch["labels"][:, 1:] != -100).sum() for batch in step)
            for batch in step:
                there = {k: v.to(where, non_blocking=True) for k, v in batch.items()}
                with torch.autocast(where, torch.bfloat16, enabled=bool(config.bf16)):
                    outputs = model(**there, use_cache=False, fused_lm_head=True)
                (-outputs.log_probs.sum() / answers).backward()
            torch.nn.utils.clip_grad_norm_(model.parameters(), config.max_grad_norm)
            optimizer.step()
            optimizer.zero_grad()
        finish()
        return time.perf_counter() - began

    go(warm)
    return go(timed)


def finish() -> None:
    """Wait for the GPU, if there is one."""
    if torch.cuda.is_available():
        torch.cuda.synchronize()


def device_name() -> str:
    return torch.cuda.get_device_name() if torch.cuda.is_available() else "CPU"


def fastest(runs: list[tuple[Setting, Found]]) -> Setting | None:
    """Of those that did not fail."""
    return max(((found.tokens_per_second, way) for way, found in runs if not found.failed), default=(0, None))[1]


def table(rows: list[tuple[str, Setting, Found]]) -> list[str]:
    """Markdown."""
    today = datetime.datetime.now(tz=datetime.UTC).date()
    chosen = []
    for model in dict.fromkeys(name for name, _, _ in rows):
        best = fastest([(way, found) for name, way, found in rows if name == model and way.frames == "hybrid"])
        chosen.append(f"{'none, as every way failed' if best is None else best.how} ({model})")
    lines = [
        f"{device_name()}, {today}, torch {torch.__version__}, LoRA of rank 64, random weights, one GPU, frames of "
        f"{WIDTH} x {HEIGHT}. MFU counts 4 operations per parameter and token: the base is frozen. Bare PyTorch has "
        "TRL's loss without its metrics. The way that is fastest at hybrid frames is the one used for the others: "
        f"{'; '.join(chosen)}.",
        "",
        "| model | attention | frames | tokens/s | MFU | peak GB | waiting for data | speed by that of bare PyTorch |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for name, setting, found in rows:
        cells = [name, setting.how, setting.frames]
        if found.failed:
            cells += ["failed: " + found.failed.replace("|", "/"), "", "", "", ""]
        else:
            mfu = "-" if found.mfu is None else f"{found.mfu:.1%}"
            cells += [f"{found.tokens_per_second:,.0f}", mfu, f"{found.peak_gb:.1f}", f"{found.waiting:.1%}"]
            cells.append(f"{found.against_bare:.2f}")
        lines.append(f"| {' | '.join(cells)} |")
    return lines


if __name__ == "__main__":
    sys.exit(child(*sys.argv[2:]) if sys.argv[1:2] == ["--child"] else main())
