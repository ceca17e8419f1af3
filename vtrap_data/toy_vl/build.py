"""How is a toy-vl made? Random weights of the real class, its own tokenizer, its own processor: the standard files."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from vtrap_data.sources.toyworld.questions import BLINKS, COUNTS, DIGITS, at_the_end
from vtrap_data.sources.toyworld.scene import COLOURS, QUADRANTS, SHAPES, SIDE

INIT = 0.08
"""Standard deviation of the random weights: about 1/sqrt(width). The usual 0.02 is for models fifty times as wide."""

PATCH = 8
MERGE = 2
SPECIAL = (
    "<|endoftext|>",
    "<|im_start|>",
    "<|im_end|>",
    "<|vision_start|>",
    "<|vision_end|>",
    "<|image_pad|>",
    "<|video_pad|>",
)

CHAT_TEMPLATE = """\
{%- for message in messages -%}
<|im_start|>{{ message['role'] }}
{% if message['content'] is string %}{{ message['content'] }}{% else %}
{%- for part in message['content'] -%}
{%- if part['type'] == 'image' -%}<|vision_start|><|image_pad|><|vision_end|>
{%- elif part['type'] == 'video' -%}<|vision_start|><|video_pad|><|vision_end|>
{%- else -%}{{ part['text'] }}{%- endif -%}
{%- endfor -%}
{%- endif %}<|im_end|>
{% endfor -%}
{%- if add_generation_prompt -%}<|im_start|>assistant
{% endif -%}
"""


def texts() -> list[str]:
    """Every kind of sentence that toyworld says, for the tokenizer to learn its words from."""
    answers: Sequence[str] = (*COLOURS, *SHAPES, *DIGITS, *COUNTS, *BLINKS, *QUADRANTS)
    lines = [f"<|im_start|>assistant\n{a}<|im_end|>\n" for a in answers]
    for shape in SHAPES:
        lines += [
            f"What colour is the {shape}?",
            f"Where is the {shape}?",
            at_the_end(f"Where is the {shape}?"),
            f"How many times does the {shape} blink?",
            at_the_end(f"What colour is the {shape}?"),
        ]
    lines += [f"What shape is {c}?" for c in COLOURS] + [at_the_end(f"What shape is {c}?") for c in COLOURS]
    lines += [f"Which appears first, {a} or {b}?" for a in COLOURS for b in COLOURS if a != b]
    lines += ["How many shapes are there?", "Which digit is shown?", "<|im_start|>user\n", "<|im_start|>system\n"]
    return lines * 8


def build_tokenizer() -> Any:
    """A byte-level BPE tokenizer whose words are whole tokens; any other text still encodes, byte by byte."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
    from transformers import PreTrainedTokenizerFast

    core = Tokenizer(models.BPE())
    core.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    core.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=512,
        special_tokens=list(SPECIAL),
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
        show_progress=False,
    )
    core.train_from_iterator(texts(), trainer)
    return PreTrainedTokenizerFast(
        tokenizer_object=core,
        eos_token="<|im_end|>",
        pad_token="<|endoftext|>",
        additional_special_tokens=[s for s in SPECIAL if s not in ("<|im_end|>", "<|endoftext|>")],
        chat_template=CHAT_TEMPLATE,
        model_max_length=4096,
        padding_side="right",
    )


def build_processor() -> Any:
    """Processor for SIDE x SIDE pixels: 16 tokens per image and per two frames."""
    from transformers import Qwen2_5_VLProcessor, Qwen2VLImageProcessor
    from transformers.models.qwen2_vl.video_processing_qwen2_vl import Qwen2VLVideoProcessor

    size = {"shortest_edge": SIDE * SIDE, "longest_edge": SIDE * SIDE}
    common: dict[str, Any] = {"patch_size": PATCH, "merge_size": MERGE, "temporal_patch_size": 2, "size": size}
    return Qwen2_5_VLProcessor(
        image_processor=Qwen2VLImageProcessor(**common),
        tokenizer=build_tokenizer(),
        video_processor=Qwen2VLVideoProcessor(**common, cap_pixels_per_frame=False),
        chat_template=CHAT_TEMPLATE,
    )


def build_config(tokenizer: Any) -> Any:
    """Architecture of toy-vl."""
    from transformers import Qwen2_5_VLConfig

    ids = {name: tokenizer.convert_tokens_to_ids(name) for name in SPECIAL}
    hidden, heads = 128, 4
    return Qwen2_5_VLConfig(
        text_config={
            "vocab_size": len(tokenizer),
            "hidden_size": hidden,
            "initializer_range": INIT,
            "intermediate_size": 320,
            "num_hidden_layers": 4,
            "num_attention_heads": heads,
            "num_key_value_heads": 2,
            "max_position_embeddings": 4096,
            "rope_parameters": {
                "rope_type": "default",
                "rope_theta": 10.0,
                "mrope_section": [4, 6, 6],
            },
            "bos_token_id": ids["<|endoftext|>"],
            "eos_token_id": ids["<|im_end|>"],
            "pad_token_id": ids["<|endoftext|>"],
            "tie_word_embeddings": True,
        },
        vision_config={
            "depth": 2,
            "initializer_range": INIT,
            "hidden_size": 96,
            "intermediate_size": 224,
            "num_heads": 4,
            "out_hidden_size": hidden,
            "patch_size": PATCH,
            "spatial_merge_size": MERGE,
            "temporal_patch_size": 2,
            "window_size": SIDE,
            "fullatt_block_indexes": [0, 1],
            # With 2, the time axis (only high rotary frequencies, in a head this small) would turn full circle within
            # a clip, and its end would look like its beginning.
            "tokens_per_second": 1,
        },
        image_token_id=ids["<|image_pad|>"],
        video_token_id=ids["<|video_pad|>"],
        vision_start_token_id=ids["<|vision_start|>"],
        vision_end_token_id=ids["<|vision_end|>"],
        bos_token_id=ids["<|endoftext|>"],
        eos_token_id=ids["<|im_end|>"],
        pad_token_id=ids["<|endoftext|>"],
        tie_word_embeddings=True,
    )


def build_model(tokenizer: Any, *, seed: int) -> Any:
    """toy-vl with random weights, the same for the same seed, with the original position rule installed."""
    import torch
    from transformers import Qwen2_5_VLForConditionalGeneration

    from vtrap_data.encoding.positions import install_positions

    torch.manual_seed(seed)
    model = Qwen2_5_VLForConditionalGeneration(build_config(tokenizer))
    install_positions(model)
    model.generation_config.eos_token_id = tokenizer.eos_token_id
    model.generation_config.pad_token_id = tokenizer.pad_token_id
    return model
