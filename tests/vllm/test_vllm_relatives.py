"""The other Qwen families behind vLLM: tiny random models of the real classes, against transformers."""

import pytest
import torch
import transformers
from test_vllm import SHOWN, example

from vtrap_bench.backends import BACKENDS, BackendSettings
from vtrap_data.encoding import collate, encode, load_processor, resolve
from vtrap_data.errors import VtrapError

pytestmark = pytest.mark.vllm

VISION = {
    "qwen2_vl": {"embed_dim": 64, "hidden_size": 64, "mlp_ratio": 2},
    "qwen3_vl": {
        **{"hidden_size": 64, "intermediate_size": 96, "out_hidden_size": 64},
        **{"num_position_embeddings": 64, "deepstack_visual_indexes": [0, 1]},
    },
}
CLASSES = {"qwen2_vl": "Qwen2VL", "qwen3_vl": "Qwen3VL"}


def build(family, folder):
    """Save a model that has the tokenizer and the settings of toy-vl. Heads of 32: vLLM on a CPU takes no smaller."""
    toy = load_processor(resolve("toy-vl"))
    tokenizer, of = toy.tokenizer, toy.tokenizer.convert_tokens_to_ids
    text = {
        **{"vocab_size": len(tokenizer), "hidden_size": 64, "intermediate_size": 96, "num_hidden_layers": 3},
        **{"num_attention_heads": 2, "num_key_value_heads": 1, "head_dim": 32, "initializer_range": 0.1},
        **{"bos_token_id": None, "eos_token_id": tokenizer.eos_token_id, "pad_token_id": tokenizer.pad_token_id},
        "rope_parameters": {"rope_type": "default", "rope_theta": 1e4, "mrope_section": [4, 6, 6]},
    }
    if family == "qwen3_vl":
        text["rope_parameters"]["mrope_interleaved"] = True
    config = transformers.AutoConfig.for_model(
        family,
        text_config=text,
        vision_config={"depth": 2, "num_heads": 2, "patch_size": 8, "initializer_range": 0.1, **VISION[family]},
        **{f"{kind}_token_id": of(f"<|{kind}_pad|>") for kind in ("image", "video")},
        **{f"vision_{end}_token_id": of(f"<|vision_{end}|>") for end in ("start", "end")},
        tie_word_embeddings=False,
    )
    torch.manual_seed(7)
    transformers.AutoModelForImageTextToText.from_config(config).save_pretrained(folder)
    videos = toy.video_processor
    if family == "qwen3_vl":
        kept = ("patch_size", "merge_size", "temporal_patch_size", "size")
        videos = transformers.Qwen3VLVideoProcessor(**{name: getattr(videos, name) for name in kept})
    processor = getattr(transformers, f"{CLASSES[family]}Processor")
    parts = {"image_processor": toy.image_processor, "tokenizer": tokenizer, "video_processor": videos}
    processor(**parts, chat_template=toy.chat_template).save_pretrained(folder)
    return resolve(str(folder))


@pytest.mark.parametrize("family", VISION)
def test_same_tokens_and_log_probabilities(family, tmp_path):
    settings = BackendSettings(model=build(family, tmp_path), dtype="float32", device="cpu")
    hf, vllm = BACKENDS["transformers"](settings), BACKENDS["vllm"](settings)
    examples = [example(name, **what) for name, what in SHOWN.items()]
    if family == "qwen3_vl":
        videos = [one for one in examples if one.frames is not None]
        with pytest.raises(VtrapError, match=r"can only be asked with --backend transformers"):
            vllm.generate(videos[:1], max_new_tokens=1)
        examples = [one for one in examples if one.frames is None]
    found = zip(examples, *(backend.generate(examples, max_new_tokens=8) for backend in (hf, vllm)), strict=True)
    for one, a, b in found:
        assert a[:3] == b[:3] and [s.token for s in a.steps] == [s.token for s in b.steps], one.item.id
        for x, y in zip(a.steps, b.steps, strict=True):
            assert abs(x.logprob - y.logprob) < 1e-4, one.item.id
            assert abs(x.runner_up_logprob - y.runner_up_logprob) < 1e-4, one.item.id


@pytest.mark.parametrize(("frames", "spacing"), [(2, 0.5), (7, 1 / 3), (12, 0.4), (9, 1001 / 30000), (64, 2.5)])
def test_videos_of_qwen3_vl_are_written_as_vllm_writes_them(frames, spacing, tmp_path):
    """Token by token: the times of the steps, and the marks and tokens of each."""
    from vllm.model_executor.models.qwen3_vl import Qwen3VLMultiModalProcessor, Qwen3VLProcessingInfo

    processor = load_processor(build("qwen3_vl", tmp_path))
    encoded = encode(example("v", frames=frames, spacing=spacing), processor, train=False)
    steps, rows, columns = collate([encoded], processor)["video_grid_thw"][0].tolist()
    written = Qwen3VLMultiModalProcessor.get_video_repl(
        tokens_per_frame=[rows * columns // 4] * steps,
        timestamps=Qwen3VLProcessingInfo._calculate_timestamps(None, list(range(frames)), 1 / spacing, 2),
        tokenizer=processor.tokenizer,
        vision_start_token_id=processor.vision_start_token_id,
        vision_end_token_id=processor.vision_end_token_id,
        video_token_id=processor.video_token_id,
        select_token_id=True,
    ).full
    ids = encoded.input_ids.tolist()
    start = ids.index(written[0])
    assert ids[start : start + len(written)] == written
    assert processor.video_token_id not in ids[:start] + ids[start + len(written) :]
