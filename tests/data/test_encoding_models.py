"""Named models are data, and checkpoints in their form on the Hub load with the settings they were made with."""

from __future__ import annotations

import json
import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from encoding_families import NAMES, ONEVISION, VICUNA, VICUNA_VIDEOS, _llama_tokenizer, _qwen_parts, _tokenizer

from vtrap_data.encoding import Shown, Size, load_config, load_model, load_processor, resolve, visual_tokens
from vtrap_data.encoding.models import NAMED
from vtrap_data.errors import UsageError


def test_every_promised_model_is_named():
    promised = {
        "toy-vl",
        *(f"qwen2-vl-{n}" for n in ("2b", "7b")),
        *(f"qwen2.5-vl-{n}" for n in ("3b", "7b", "32b", "72b")),
        *(f"qwen3-vl-{n}" for n in ("2b", "4b", "8b", "32b")),
        *(f"llava-1.5-{n}" for n in ("7b", "13b")),
        "llava-next-video-7b",
        *(f"llava-onevision-{n}" for n in ("0.5b", "7b")),
    }
    assert promised == NAMED.keys()
    for name, ref in NAMED.items():
        assert resolve(name) is ref and ref.name == name and ref.family in NAMES
        assert ref.revision is None or re.fullmatch("[0-9a-f]{40}", ref.revision)
        assert (ref.revision is None) == (name in ("toy-vl", "llava-next-video-7b"))
        assert name == "toy-vl" or re.fullmatch(r"(Qwen|llava-hf)/[\w.-]+", ref.path)
    assert len({r.path for r in NAMED.values()}) == len(NAMED)


def test_a_hub_id_is_its_named_model_unless_a_revision_or_a_folder_is_meant(tmp_path, monkeypatch):
    for name, ref in NAMED.items():
        if name != "toy-vl":
            assert resolve(ref.path) is ref
            assert resolve(f"{ref.path}@v2") == resolve(f"{name}@v2") == replace(ref, revision="v2")
    with pytest.raises(UsageError, match="'toy-vl@v2' is no named model"):
        resolve("toy-vl@v2")
    folder = tmp_path / NAMED["qwen2.5-vl-7b"].path
    folder.mkdir(parents=True)
    (folder / "config.json").write_text('{"model_type": "qwen2_vl"}')
    monkeypatch.chdir(tmp_path)
    found = resolve("Qwen/Qwen2.5-VL-7B-Instruct")
    assert (found.family, found.revision) == ("qwen2_vl", None)


def test_what_is_not_there_is_wrong_use_that_says_what_to_do(tmp_path):
    """Offline, as these tests are, and with folders that lack a part or hold a damaged one."""
    for name in ("qwen2.5-vl-7b", "llava-next-video-7b"):
        for load in (load_config, load_processor, load_model):
            with pytest.raises(UsageError, match=f"--model '{name}' cannot be used .*hf download {NAMED[name].path}"):
                load(NAMED[name])
    with pytest.raises(
        UsageError, match=r"--model 'somebody/else@v1' cannot be used .*hf download somebody/else --revision v1$"
    ):
        resolve("somebody/else@v1")
    (tmp_path / "config.json").write_text('{"model_type": "qwen2_5_vl"}')
    for load in (load_processor, load_model):  # a config.json alone, as of a run that was cut short
        with pytest.raises(UsageError, match="a folder must hold what save_pretrained writes"):
            load(resolve(str(tmp_path)))
    (tmp_path / "config.json").write_text('{"model_type": "qwen2_5_vl", "text_config": 3}')
    with pytest.raises(UsageError, match="text_config"):
        load_config(resolve(str(tmp_path)))


# --- the settings of the released checkpoints -----------------------------------------------------------------------

QWEN2 = {
    **{"min_pixels": 3136, "max_pixels": 12845056, "patch_size": 14, "temporal_patch_size": 2, "merge_size": 2},
    "image_mean": [0.48145466, 0.4578275, 0.40821073],
    "image_std": [0.26862954, 0.26130258, 0.27577711],
    "image_processor_type": "Qwen2VLImageProcessor",
}
QWEN3 = {
    **{"patch_size": 16, "temporal_patch_size": 2, "merge_size": 2, "processor_class": "Qwen3VLProcessor"},
    **{"image_mean": [0.5, 0.5, 0.5], "image_std": [0.5, 0.5, 0.5]},
}
CLIP = {
    **{"do_center_crop": True, "do_convert_rgb": True, "do_normalize": True, "do_rescale": True, "do_resize": True},
    **{"crop_size": {"height": 336, "width": 336}, "size": {"shortest_edge": 336}, "resample": 3},
    "image_mean": [0.48145466, 0.4578275, 0.40821073],
    "image_std": [0.26862954, 0.26130258, 0.27577711],
    "rescale_factor": 0.00392156862745098,
}
LLAVA = {
    **{"image_token": "<image>", "num_additional_image_tokens": 1, "patch_size": 14},
    "vision_feature_select_strategy": "default",
}
PINPOINTS = [[336, 672], [672, 336], [672, 672], [1008, 336], [336, 1008]]
TILES = [[384 * i, 384 * j] for i in range(1, 7) for j in range(1, 7)]
HALF = {"image_mean": [0.5, 0.5, 0.5], "image_std": [0.5, 0.5, 0.5], "size": {"height": 384, "width": 384}}


def released(family: str) -> dict[str, Any]:
    """The files that say how a released checkpoint of the family prepares its pixels, by name."""
    return {
        "qwen2_vl": {"preprocessor_config.json": QWEN2 | {"processor_class": "Qwen2VLProcessor"}},
        "qwen2_5_vl": {"preprocessor_config.json": QWEN2 | {"processor_class": "Qwen2_5_VLProcessor"}},
        "qwen3_vl": {
            "preprocessor_config.json": QWEN3
            | {"size": {"longest_edge": 16777216, "shortest_edge": 65536}}
            | {"image_processor_type": "Qwen2VLImageProcessorFast"},
            "video_preprocessor_config.json": QWEN3
            | {"size": {"longest_edge": 25165824, "shortest_edge": 4096}}
            | {"video_processor_type": "Qwen3VLVideoProcessor"},
        },
        "llava": {
            "preprocessor_config.json": CLIP | {"image_processor_type": "CLIPImageProcessor"},
            "processor_config.json": LLAVA | {"processor_class": "LlavaProcessor"},
        },
        "llava_next_video": {
            "preprocessor_config.json": CLIP
            | {"image_processor_type": "LlavaNextImageProcessor", "image_grid_pinpoints": PINPOINTS, "do_pad": True},
            "processor_config.json": LLAVA | {"processor_class": "LlavaNextVideoProcessor", "video_token": "<video>"},
        },
        "llava_onevision": {
            "preprocessor_config.json": HALF
            | {"image_processor_type": "LlavaOnevisionImageProcessor", "image_grid_pinpoints": TILES, "do_pad": True},
            "processor_config.json": {
                **{"image_token": "<image>", "video_token": "<video>", "num_image_tokens": 729},
                **{"processor_class": "LlavaOnevisionProcessor", "vision_feature_select_strategy": "full"},
            },
        },
    }[family]


def checkpoint(family: str, folder: Path) -> Path:
    """A folder as on the Hub, without weights and with a small tokenizer."""
    from trl.chat_template_utils import qwen2_5_vl_chat_template, qwen3_vl_chat_template

    if family.startswith("qwen"):
        tokenizer = _qwen_parts()[0]
        template = qwen3_vl_chat_template if family == "qwen3_vl" else qwen2_5_vl_chat_template
    elif family == "llava_onevision":
        special = ("<|endoftext|>", "<|im_start|>", "<|im_end|>", "<image>", "<video>")
        tokenizer, template = _tokenizer(special, eos_token="<|im_end|>", pad_token="<|endoftext|>"), ONEVISION
    else:
        tokenizer = _llama_tokenizer("<image>", "<video>")
        template = VICUNA.replace("VIDEOS", VICUNA_VIDEOS if family == "llava_next_video" else "")
    tokenizer.save_pretrained(folder)
    files = released(family) | {
        "config.json": {"model_type": family},
        "chat_template.json": {"chat_template": template},
    }
    for name, content in files.items():
        (folder / name).write_text(json.dumps(content))
    return folder


# Visual tokens of one 640 x 480 image, of two, and of 8 and 64 frames of 796 x 448 (what `pack` stores of 16:9).
# Qwen2-VL and 2.5: 640 x 480 becomes 644 x 476, 23 x 17 tokens; frames become 784 x 448, 28 x 16 tokens per pair.
# Qwen3-VL: 20 x 15 tokens; 25 x 14 per pair, for 64 frames 16 of them at 25 165 824 pixels in all.
# LLaVA-1.5: 24 x 24 whatever is shown; 16 frames share a picture.
# LLaVA-NeXT-Video: 576 + 36 rows of 48 with a break each; 12 x 12 per frame.
# LLaVA-OneVision: 729 + 40 rows of 54 with a break each; 730 each of several; 14 x 14 per frame and one break.
TOKENS = {
    "qwen2_vl": (391, 782, 4 * 448, 32 * 448),
    "qwen2_5_vl": (391, 782, 4 * 448, 32 * 448),
    "qwen3_vl": (300, 600, 4 * 350, 32 * 350),
    "llava": (576, 1152, 576, 4 * 576),
    "llava_next_video": (2340, 4680, 8 * 144, 64 * 144),
    "llava_onevision": (2929, 1460, 8 * 196 + 1, 64 * 196 + 1),
}


@pytest.mark.parametrize("family", NAMES)
def test_token_counts_of_released_checkpoints(family, tmp_path):
    ref = resolve(str(checkpoint(family, tmp_path)))
    assert ref.family == family
    processor = load_processor(ref)
    photo, frame = Size(640, 480), Size(796, 448)
    found = (
        visual_tokens(Shown(images=(photo,)), processor),
        visual_tokens(Shown(images=(photo, photo)), processor),
        *(visual_tokens(Shown(frames=n, frame_size=frame), processor) for n in (8, 64)),
    )
    assert found == TOKENS[family]


def test_a_wrong_or_old_processor_is_told(tmp_path):
    folder = checkpoint("qwen2_5_vl", tmp_path)
    (folder / "config.json").write_text(json.dumps({"model_type": "qwen2_vl"}))
    with pytest.raises(UsageError, match=r"qwen2_vl model with the processor of qwen2_5_vl .*processor_class"):
        load_processor(resolve(str(folder)))
    folder = checkpoint("llava", tmp_path)
    (folder / "processor_config.json").write_text(json.dumps({"processor_class": "LlavaProcessor"}))
    with pytest.raises(UsageError, match="lacks patch_size"):
        load_processor(resolve(str(folder)))
    (folder / "config.json").write_text(json.dumps({"model_type": "bert"}))
    with pytest.raises(UsageError, match="model_type 'bert'; families with an encoding: qwen2_vl, "):
        resolve(str(folder))
