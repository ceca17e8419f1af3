"""Tiny random models of the real classes, one per family, with the chat templates that were released with them.

Everything is saved in the standard files and read back by `load_model` and `load_processor`, as a real checkpoint is.
The templates of the two newer Qwen families come with TRL; Qwen2-VL was released with that of Qwen2.5-VL. Those of the
LLaVA families are written out here as on the Hub (llava-hf/llava-1.5-7b-hf, llava-hf/LLaVA-NeXT-Video-7B-hf,
llava-hf/llava-onevision-qwen2-7b-ov-hf), without the `generation` tags, which change nothing that is rendered.
"""

from __future__ import annotations

from fractions import Fraction
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from PIL import Image

from vtrap_data.encoding import load_model, load_processor, resolve
from vtrap_data.samples import Example, Frames, Message, PackedItem

NAMES = ("qwen2_vl", "qwen2_5_vl", "qwen3_vl", "llava", "llava_next_video", "llava_onevision")

VICUNA = (
    "{% for message in messages %}{% if message['role'] != 'system' %}{{ message['role'].upper() + ': '}}{% endif %}"
    "{# Render all images first #}{% for content in message['content'] | selectattr('type', 'equalto', 'image') %}"
    "{{ '<image>\\n' }}{% endfor %}VIDEOS{# Render all text next #}"
    "{% for content in message['content'] | selectattr('type', 'equalto', 'text') %}{{ content['text'] + ' '}}"
    "{% endfor %}{% endfor %}{% if add_generation_prompt %}{{ 'ASSISTANT:' }}{% endif %}"
)
VICUNA_VIDEOS = (
    "{% for content in message['content'] | selectattr('type', 'equalto', 'video') %}{{ '<video>\\n' }}{% endfor %}"
)
ONEVISION = (
    "{% for message in messages %}{{'<|im_start|>' + message['role'] + ' '}}{# Render all images first #}"
    "{% for content in message['content'] | selectattr('type', 'equalto', 'image') %}{{ '<image>' }}{% endfor %}"
    "{# Render all video then #}"
    "{% for content in message['content'] | selectattr('type', 'equalto', 'video') %}{{ '<video>' }}{% endfor %}"
    "{# Render all text next #}"
    "{% for content in message['content'] | selectattr('type', 'equalto', 'text') %}{{ '\\n' + content['text'] }}"
    "{% endfor %}{{'<|im_end|>'}}{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant\\n' }}{% endif %}"
)

QWEN_SPECIAL = (
    *("<|endoftext|>", "<|im_start|>", "<|im_end|>", "<|vision_start|>", "<|vision_end|>"),
    *("<|image_pad|>", "<|video_pad|>"),
)
SENTENCES = [
    "Which way does the ring move? left right up down",
    "What colour is the square? red green blue",
    "How many shapes are there? one two three. USER: ASSISTANT: user assistant system\n",
    "You are a helpful assistant. <0.5 seconds><12.3 seconds> first then",
]


class Kit(NamedTuple):
    """A family's model and processor."""

    name: str
    folder: Path
    processor: Any
    model: Any


def build(name: str, folder: Path) -> Kit:
    """Build, save and load a family."""
    torch.set_num_threads(1)
    torch.manual_seed(7)
    processor, model = {
        "qwen2_vl": _qwen2_vl,
        "qwen2_5_vl": _qwen2_5_vl,
        "qwen3_vl": _qwen3_vl,
        "llava": _llava,
        "llava_next_video": _llava_next_video,
        "llava_onevision": _llava_onevision,
    }[name]()
    tokenizer = processor.tokenizer
    model.generation_config.eos_token_id = tokenizer.eos_token_id
    model.generation_config.pad_token_id = tokenizer.pad_token_id
    model.save_pretrained(folder)
    processor.save_pretrained(folder)
    ref = resolve(str(folder))
    assert ref.family == name
    return Kit(name, folder, load_processor(ref), load_model(ref).eval())


# --- samples --------------------------------------------------------------------------------------------------------


def picture(seed: int, size: tuple[int, int]) -> Image.Image:
    pixels = np.random.default_rng(seed).integers(0, 255, (size[1], size[0], 3), dtype=np.uint8)
    return Image.fromarray(pixels)


def example(
    *turns: tuple[str, str],
    frames: int = 0,
    images: int = 0,
    spacing: float | Fraction = 0.5,
    size: tuple[int, int] = (48, 40),
    name: str = "s",
    seed: int = 0,
) -> Example:
    """A sample with random pixels; frame i is at 1 + spacing x i seconds."""
    shots = [picture(seed + i, size) for i in range(frames)]
    return Example(
        item=PackedItem(id=name, messages=tuple(Message(role=r, content=c) for r, c in turns), budget=frames),
        key="clip",
        source="test",
        kind="video" if frames else "images" if images else "text",
        frames=Frames.of(shots, times=[float(1 + spacing * i) for i in range(frames)]) if frames else None,
        images=tuple(picture(seed + 100 + i, size) for i in range(images)),
    )


VIDEO = [("user", "<video>\nWhich way does the ring move?"), ("assistant", "left")]
IMAGE = [("user", "<image>\nWhat colour is the square?"), ("assistant", "red")]
IMAGES = [("user", "<image><image>\nWhat colour is the square?"), ("assistant", "blue")]
TEXT = [("user", "How many shapes are there?"), ("assistant", "three")]
TURNS = [*VIDEO, ("user", "What colour is the square?"), ("assistant", "green")]


def mix() -> list[Example]:
    """Everything at once: videos of different lengths and sizes, one and two images, text, two turns."""
    return [
        example(*VIDEO, frames=3, name="a"),
        example(*VIDEO, frames=8, size=(40, 64), spacing=2.5, name="b", seed=20),
        example(*IMAGE, images=1, size=(90, 30), name="c"),
        example(*IMAGES, images=2, name="d", seed=5),
        example(*TEXT, name="e"),
        example(*TURNS, frames=2, name="f", seed=40),
    ]


# --- families -------------------------------------------------------------------------------------------------------


def _tokenizer(special: tuple[str, ...], **names: str) -> Any:
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors, trainers
    from transformers import PreTrainedTokenizerFast

    llama = "bos_token" in names
    core = Tokenizer(models.BPE(unk_token="<unk>" if llama else None))
    if llama:
        core.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme="first")
        core.decoder = decoders.Metaspace(prepend_scheme="first")
        alphabet = [chr(c) for c in range(33, 127)] + ["\n", "▁"]
    else:
        core.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
        core.decoder = decoders.ByteLevel()
        alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    trainer = trainers.BpeTrainer(
        vocab_size=450, special_tokens=list(special), initial_alphabet=alphabet, show_progress=False
    )
    core.train_from_iterator(SENTENCES * 8, trainer)
    if llama:
        core.post_processor = processors.TemplateProcessing(single="<s> $A", special_tokens=[("<s>", 1)])
    rest = [s for s in special if s not in names.values()]
    return PreTrainedTokenizerFast(
        tokenizer_object=core, additional_special_tokens=rest, padding_side="right", model_max_length=4096, **names
    )


def _qwen_parts() -> tuple[Any, dict[str, int], dict[str, Any]]:
    tokenizer = _tokenizer(QWEN_SPECIAL, eos_token="<|im_end|>", pad_token="<|endoftext|>")
    id_of = tokenizer.convert_tokens_to_ids
    ids = {
        "image_token_id": id_of("<|image_pad|>"),
        "video_token_id": id_of("<|video_pad|>"),
        "vision_start_token_id": id_of("<|vision_start|>"),
        "vision_end_token_id": id_of("<|vision_end|>"),
    }
    text = _text(tokenizer) | {
        "rope_parameters": {"rope_type": "default", "rope_theta": 1e4, "mrope_section": [2, 3, 3]}
    }
    return tokenizer, ids, text


def _text(tokenizer: Any) -> dict[str, Any]:
    return {
        "vocab_size": len(tokenizer),
        "hidden_size": 64,
        "intermediate_size": 96,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "max_position_embeddings": 4096,
        "initializer_range": 0.1,
        "bos_token_id": None,
        "eos_token_id": tokenizer.eos_token_id,
        "pad_token_id": tokenizer.pad_token_id,
        "tie_word_embeddings": False,
    }


def _qwen_processor(cls: Any, video_cls: Any, tokenizer: Any, template: str, *, video_pixels: int) -> Any:
    from transformers import Qwen2VLImageProcessor

    common: dict[str, Any] = {"patch_size": 8, "merge_size": 2, "temporal_patch_size": 2}
    return cls(
        image_processor=Qwen2VLImageProcessor(**common, size={"shortest_edge": 16 * 16, "longest_edge": 48 * 48}),
        tokenizer=tokenizer,
        video_processor=video_cls(**common, size={"shortest_edge": 16 * 16, "longest_edge": video_pixels}),
        chat_template=template,
    )


def _qwen2_vl() -> tuple[Any, Any]:
    from transformers import Qwen2VLConfig, Qwen2VLForConditionalGeneration, Qwen2VLProcessor
    from transformers.models.qwen2_vl.video_processing_qwen2_vl import Qwen2VLVideoProcessor
    from trl.chat_template_utils import qwen2_5_vl_chat_template

    tokenizer, ids, text = _qwen_parts()
    vision = {"depth": 2, "embed_dim": 32, "hidden_size": 64, "num_heads": 4, "mlp_ratio": 2, "patch_size": 8}
    config = Qwen2VLConfig(text_config=text, vision_config=vision | {"initializer_range": 0.1}, **ids)
    processor = _qwen_processor(
        Qwen2VLProcessor, Qwen2VLVideoProcessor, tokenizer, qwen2_5_vl_chat_template, video_pixels=32 * 32
    )
    return processor, Qwen2VLForConditionalGeneration(config)


def _qwen2_5_vl() -> tuple[Any, Any]:
    from transformers import Qwen2_5_VLConfig, Qwen2_5_VLForConditionalGeneration, Qwen2_5_VLProcessor
    from transformers.models.qwen2_vl.video_processing_qwen2_vl import Qwen2VLVideoProcessor
    from trl.chat_template_utils import qwen2_5_vl_chat_template

    tokenizer, ids, text = _qwen_parts()
    vision = {
        **{"depth": 2, "hidden_size": 32, "intermediate_size": 48, "num_heads": 4, "out_hidden_size": 64},
        **{"patch_size": 8, "window_size": 32, "fullatt_block_indexes": [1], "tokens_per_second": 2},
    }
    config = Qwen2_5_VLConfig(text_config=text, vision_config=vision | {"initializer_range": 0.1}, **ids)
    processor = _qwen_processor(
        Qwen2_5_VLProcessor, Qwen2VLVideoProcessor, tokenizer, qwen2_5_vl_chat_template, video_pixels=32 * 32
    )
    return processor, Qwen2_5_VLForConditionalGeneration(config)


def _qwen3_vl() -> tuple[Any, Any]:
    from transformers import Qwen3VLConfig, Qwen3VLForConditionalGeneration, Qwen3VLProcessor, Qwen3VLVideoProcessor
    from trl.chat_template_utils import qwen3_vl_chat_template

    tokenizer, ids, text = _qwen_parts()
    # One more layer than deepstack feeds: what is added after the last one reaches no other token.
    text |= {"head_dim": 16, "num_hidden_layers": 3}
    text["rope_parameters"]["mrope_interleaved"] = True
    vision = {
        **{"depth": 3, "hidden_size": 32, "intermediate_size": 48, "num_heads": 4, "out_hidden_size": 64},
        **{"patch_size": 8, "num_position_embeddings": 64, "deepstack_visual_indexes": [0, 1]},
    }
    config = Qwen3VLConfig(text_config=text, vision_config=vision | {"initializer_range": 0.1}, **ids)
    processor = _qwen_processor(
        Qwen3VLProcessor, Qwen3VLVideoProcessor, tokenizer, qwen3_vl_chat_template, video_pixels=8 * 32 * 32
    )
    return processor, Qwen3VLForConditionalGeneration(config)


def _llama_tokenizer(*special: str) -> Any:
    names = {"unk_token": "<unk>", "bos_token": "<s>", "eos_token": "</s>", "pad_token": "<pad>"}
    return _tokenizer((*names.values(), *special), **names)


CLIP = {
    **{"model_type": "clip_vision_model", "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 3},
    **{"num_attention_heads": 4, "image_size": 28, "patch_size": 7, "initializer_factor": 3.0},
}
SQUARE = {"height": 28, "width": 28}


def _llava() -> tuple[Any, Any]:
    from transformers import CLIPImageProcessor, LlavaConfig, LlavaForConditionalGeneration, LlavaProcessor

    tokenizer = _llama_tokenizer("<image>")
    config = LlavaConfig(
        vision_config=CLIP,
        text_config=_text(tokenizer) | {"model_type": "llama"},
        image_token_index=tokenizer.convert_tokens_to_ids("<image>"),
    )
    processor = LlavaProcessor(
        image_processor=CLIPImageProcessor(size={"shortest_edge": 28}, crop_size=SQUARE),
        tokenizer=tokenizer,
        patch_size=7,
        vision_feature_select_strategy="default",
        num_additional_image_tokens=1,
        chat_template=VICUNA.replace("VIDEOS", ""),
    )
    return processor, LlavaForConditionalGeneration(config)


def _llava_next_video() -> tuple[Any, Any]:
    from transformers import (
        LlavaNextImageProcessor,
        LlavaNextVideoConfig,
        LlavaNextVideoForConditionalGeneration,
        LlavaNextVideoProcessor,
        LlavaNextVideoVideoProcessor,
    )

    tokenizer = _llama_tokenizer("<image>", "<video>")
    pinpoints = [[28, 56], [56, 28], [56, 56], [84, 28], [28, 84]]
    config = LlavaNextVideoConfig(
        vision_config=CLIP,
        text_config=_text(tokenizer) | {"model_type": "llama"},
        image_token_index=tokenizer.convert_tokens_to_ids("<image>"),
        video_token_index=tokenizer.convert_tokens_to_ids("<video>"),
        image_grid_pinpoints=pinpoints,
    )
    cut = {"size": {"shortest_edge": 28}, "crop_size": SQUARE}
    processor = LlavaNextVideoProcessor(
        video_processor=LlavaNextVideoVideoProcessor(**cut),
        image_processor=LlavaNextImageProcessor(**cut, image_grid_pinpoints=pinpoints),
        tokenizer=tokenizer,
        patch_size=7,
        vision_feature_select_strategy="default",
        num_additional_image_tokens=1,
        chat_template=VICUNA.replace("VIDEOS", VICUNA_VIDEOS),
    )
    return processor, LlavaNextVideoForConditionalGeneration(config)


def _llava_onevision() -> tuple[Any, Any]:
    from transformers import (
        LlavaOnevisionConfig,
        LlavaOnevisionForConditionalGeneration,
        LlavaOnevisionImageProcessor,
        LlavaOnevisionProcessor,
        LlavaOnevisionVideoProcessor,
    )

    tokenizer = _tokenizer(
        ("<|endoftext|>", "<|im_start|>", "<|im_end|>", "<image>", "<video>"),
        eos_token="<|im_end|>",
        pad_token="<|endoftext|>",
    )
    # Seven patches a side, as odd as the real 27; and few enough tiles that large images are scaled down.
    pinpoints = [[28 * i, 28 * j] for i in range(1, 5) for j in range(1, 5)]
    vision = {
        **{"model_type": "siglip_vision_model", "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2},
        **{"num_attention_heads": 4, "image_size": 28, "patch_size": 4, "vision_use_head": False},
    }
    config = LlavaOnevisionConfig(
        vision_config=vision,
        text_config=_text(tokenizer) | {"model_type": "qwen2"},
        image_token_index=tokenizer.convert_tokens_to_ids("<image>"),
        video_token_index=tokenizer.convert_tokens_to_ids("<video>"),
        image_grid_pinpoints=pinpoints,
        vision_aspect_ratio="anyres_max_4",
    )
    processor = LlavaOnevisionProcessor(
        image_processor=LlavaOnevisionImageProcessor(size=SQUARE, image_grid_pinpoints=pinpoints),
        tokenizer=tokenizer,
        video_processor=LlavaOnevisionVideoProcessor(size=SQUARE),
        num_image_tokens=49,
        vision_feature_select_strategy="full",
        vision_aspect_ratio="anyres_max_4",
        chat_template=ONEVISION,
    )
    return processor, LlavaOnevisionForConditionalGeneration(config)
