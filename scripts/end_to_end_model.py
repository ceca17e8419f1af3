"""A toy-size Qwen2.5-VL with random weights that looks at pictures as the real one does: patches of 14."""

from __future__ import annotations

from pathlib import Path

PIXELS = 128 * 28 * 28, 360 * 420
"""Least and most of a frame: the least of qwen-vl-utils, and the most in the example of Qwen2.5-VL's model card."""


def build(to: Path) -> Path:
    """Write model and processor; not done twice."""
    if (to / "config.json").is_file():
        return to
    from vtrap_data.toy_vl.build import CHAT_TEMPLATE, build_config, build_tokenizer  # isort: skip (mends torchvision)

    import torch
    from transformers import Qwen2_5_VLForConditionalGeneration, Qwen2_5_VLProcessor, Qwen2VLImageProcessor
    from transformers.models.qwen2_vl.video_processing_qwen2_vl import Qwen2VLVideoProcessor

    tokenizer = build_tokenizer()
    tokenizer.model_max_length = 16384
    config = build_config(tokenizer)
    text, vision = config.text_config, config.vision_config
    text.hidden_size, text.intermediate_size, text.num_hidden_layers = 64, 128, 2
    text.num_attention_heads, text.num_key_value_heads, text.max_position_embeddings = 2, 1, 16384
    text.layer_types = text.layer_types[:2]
    vision.depth, vision.hidden_size, vision.intermediate_size, vision.num_heads = 2, 32, 64, 2
    vision.out_hidden_size, vision.patch_size, vision.window_size, vision.fullatt_block_indexes = 64, 14, 112, [1]
    torch.manual_seed(0)
    model = Qwen2_5_VLForConditionalGeneration(config)
    common = {"patch_size": 14, "merge_size": 2, "temporal_patch_size": 2}
    common["size"] = {"shortest_edge": PIXELS[0], "longest_edge": PIXELS[1]}
    processor = Qwen2_5_VLProcessor(
        image_processor=Qwen2VLImageProcessor(**common),
        tokenizer=tokenizer,
        video_processor=Qwen2VLVideoProcessor(**common, cap_pixels_per_frame=False),
        chat_template=CHAT_TEMPLATE,
    )
    processor.save_pretrained(to)
    model.save_pretrained(to)
    return to
