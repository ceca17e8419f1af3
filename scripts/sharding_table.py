"""Which DeepSpeed preset does a run get? Every named model, number of GPUs and size of GPU, on docs/sharding.md.

    python scripts/sharding_table.py           # write the tables
    python scripts/sharding_table.py --check   # exit code 1 if they are not up to date

Seconds on any machine: models are built from their shapes, without weights. Nothing is read off the Hub: `SHAPES` are
those of the published config.json files, and the numbers of parameters that follow from them are the published ones.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import Any

from vtrap_train.config import parse  # first: it imports torchvision, which cannot be imported on the meta device

# isort: split
from transformers import CONFIG_MAPPING

from vtrap_data.encoding.models import NAMED
from vtrap_train.memory import ALONE, GB, Demand, demand
from vtrap_train.sharding import MARGIN, lightest

PAGE = Path(__file__).parents[1] / "docs" / "sharding.md"
MEMORIES = (24, 40, 80, 141)
PROCESSES = (1, 2, 4, 8, 16)
WAYS = {
    "the weights themselves, as in the recipe": "",
    "LoRA (`--lora_r 64`)": "--lora_r 64",
    "QLoRA (`--lora_r 64 --lora_4bit true`)": "--lora_r 64 --lora_4bit true",
}
SHORT = {ALONE: "–", "zero2": "2", "zero3": "3", "zero3-offload": "o"}


def text(
    hidden: int, inner: int, layers: int, heads: int, kv: int, vocab: int, *, tied: bool = False
) -> dict[str, Any]:
    return {
        "hidden_size": hidden, "intermediate_size": inner, "num_hidden_layers": layers, "num_attention_heads": heads,
        "num_key_value_heads": kv, "vocab_size": vocab, "tie_word_embeddings": tied,
    }  # fmt: skip


def qwen2(kind: str, language: dict[str, Any], **vision: int) -> dict[str, Any]:
    return {"model_type": kind, "text_config": language, "vision_config": vision}


def qwen3(language: dict[str, Any], depth: int, hidden: int, inner: int) -> dict[str, Any]:
    vision = {"depth": depth, "hidden_size": hidden, "intermediate_size": inner}
    vision |= {"out_hidden_size": language["hidden_size"]}
    vision["deepstack_visual_indexes"] = [5, 11, 17] if depth == 24 else [8, 16, 24]
    return {"model_type": "qwen3_vl", "text_config": language | {"head_dim": 128}, "vision_config": vision}


def llava(kind: str, language: dict[str, Any], llm: str, tower: dict[str, Any]) -> dict[str, Any]:
    return {"model_type": kind, "text_config": {"model_type": llm, **language}, "vision_config": tower}


CLIP = {
    "model_type": "clip_vision_model", "hidden_size": 1024, "intermediate_size": 4096, "num_hidden_layers": 24,
    "num_attention_heads": 16, "image_size": 336, "patch_size": 14, "projection_dim": 768,
}  # fmt: skip
SIGLIP = {
    "model_type": "siglip_vision_model", "hidden_size": 1152, "intermediate_size": 4304, "num_hidden_layers": 26,
    "num_attention_heads": 16, "image_size": 384, "patch_size": 14, "vision_use_head": False,
}  # fmt: skip
VICUNA = text(4096, 11008, 32, 32, 32, 32064)
SHAPES: dict[str, dict[str, Any]] = {
    "qwen2-vl-2b": qwen2("qwen2_vl", text(1536, 8960, 28, 12, 2, 151936, tied=True), hidden_size=1536),
    "qwen2-vl-7b": qwen2("qwen2_vl", text(3584, 18944, 28, 28, 4, 152064), hidden_size=3584),
    "qwen2.5-vl-3b": qwen2(
        "qwen2_5_vl", text(2048, 11008, 36, 16, 2, 151936, tied=True), hidden_size=1280, intermediate_size=3420,
        out_hidden_size=2048,
    ),
    "qwen2.5-vl-7b": qwen2(
        "qwen2_5_vl", text(3584, 18944, 28, 28, 4, 152064), hidden_size=1280, intermediate_size=3420,
        out_hidden_size=3584,
    ),
    "qwen2.5-vl-32b": qwen2(
        "qwen2_5_vl", text(5120, 27648, 64, 40, 8, 152064), hidden_size=1280, intermediate_size=3456,
        out_hidden_size=5120,
    ),
    "qwen2.5-vl-72b": qwen2(
        "qwen2_5_vl", text(8192, 29568, 80, 64, 8, 152064), hidden_size=1280, intermediate_size=3456,
        out_hidden_size=8192,
    ),
    "qwen3-vl-2b": qwen3(text(2048, 6144, 28, 16, 8, 151936, tied=True), 24, 1024, 4096),
    "qwen3-vl-4b": qwen3(text(2560, 9728, 36, 32, 8, 151936, tied=True), 24, 1024, 4096),
    "qwen3-vl-8b": qwen3(text(4096, 12288, 36, 32, 8, 151936), 27, 1152, 4304),
    "qwen3-vl-32b": qwen3(text(5120, 25600, 64, 64, 8, 151936), 27, 1152, 4304),
    "llava-1.5-7b": llava("llava", VICUNA, "llama", CLIP),
    "llava-1.5-13b": llava("llava", text(5120, 13824, 40, 40, 40, 32064), "llama", CLIP),
    "llava-next-video-7b": llava("llava_next_video", VICUNA, "llama", CLIP),
    "llava-onevision-0.5b": llava(
        "llava_onevision", text(896, 4864, 24, 14, 2, 152000, tied=True), "qwen2", SIGLIP
    ),
    "llava-onevision-7b": llava("llava_onevision", text(3584, 18944, 28, 28, 4, 152128), "qwen2", SIGLIP),
}  # fmt: skip


def config(name: str) -> Any:
    """The configuration of a named model."""
    shape = dict(SHAPES[name])
    return CONFIG_MAPPING[shape.pop("model_type")](
        **shape, tie_word_embeddings=shape["text_config"]["tie_word_embeddings"]
    )


def asked(name: str, flags: str) -> Demand:
    """What a run with the recipe of a named model, and these flags, asks of its GPUs."""
    parsed = parse(["--model", name, "--gpu_memory_gb", "80", *flags.split()])
    return demand(parsed.arguments, parsed.config, model_config=config(name))


def cell(needed: Demand, *, processes: int, gb: float) -> str:
    """What it gets; `*` where that is tight, `x` where it cannot fit."""
    setup = lightest(needed, processes=processes, gb=gb)
    if needed.states(setup, processes) > gb * GB:
        return "x"
    return SHORT[setup] + ("*" if needed.whole(setup, processes) > (1 - MARGIN) * gb * GB else "")


def tables() -> str:
    """One for each of `WAYS`."""
    lines: list[str] = []
    for way, flags in WAYS.items():
        lines += [f"Training {way}:" if not flags else f"{way}:", ""]
        lines.append(
            "| model | parameters, trained | main memory for `o` | " + " | ".join(f"{m} GB" for m in MEMORIES)
        )
        lines[-1] += " |"
        lines.append("|---" * (3 + len(MEMORIES)) + "|")
        for name in NAMED:
            if name == "toy-vl":
                continue
            needed = asked(name, flags)
            cells = (" ".join(cell(needed, processes=n, gb=gb) for n in PROCESSES) for gb in MEMORIES)
            total, trained = needed.counts.total / 1e9, needed.counts.trained / 1e9
            beside = "" if needed.four_bits else f"{needed.beside() / GB:,.0f} GB"
            lines.append(f"| `{name}` | {total:.2f} B, {trained:.2f} B | {beside} | " + " | ".join(cells) + " |")
        lines.append("")
    return "\n".join(lines).strip()


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--check", action="store_true", help="write nothing; exit code 1 if the page is out of date")
    found = tables()
    if parser.parse_args(argv).check:
        if found in PAGE.read_text(encoding="utf-8"):
            return 0
        print(f"{PAGE} is out of date: run `python scripts/sharding_table.py`", file=sys.stderr)
        return 1
    from benchmarking import write_section

    write_section("sharding", found, page=PAGE)
    return 0


if __name__ == "__main__":
    sys.exit(main())
