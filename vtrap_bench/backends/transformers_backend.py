"""How does transformers answer? Greedy, in left-padded batches, through the same encoding as training."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch

from vtrap_bench.backends import GENERATION, BackendSettings, Generation
from vtrap_data.encoding import collate, encode, load_model, load_processor, preprocessing
from vtrap_data.errors import VtrapError
from vtrap_data.samples import Example

DTYPES = ("float32", "bfloat16", "float16")


def default_device() -> str:
    """A CUDA device where there is one, otherwise the CPU."""
    return "cuda" if torch.cuda.is_available() else "cpu"


class TransformersBackend:
    """A model in this process."""

    def __init__(self, settings: BackendSettings) -> None:
        from transformers import GenerationConfig

        self.processor: Any = load_processor(settings.model)
        self.model: Any = load_model(settings.model, dtype=getattr(torch, settings.dtype))
        self.model.to(settings.device).eval()
        self.device = settings.device
        self._preprocessing = preprocessing(settings.model, self.processor)
        # From the checkpoint only which tokens end an answer; everything else would make runs hard to compare.
        own = self.model.generation_config
        tokenizer = self.processor.tokenizer
        pad = tokenizer.pad_token_id
        self._generation = GenerationConfig(
            **GENERATION,
            eos_token_id=own.eos_token_id if own.eos_token_id is not None else tokenizer.eos_token_id,
            bos_token_id=own.bos_token_id,
            pad_token_id=pad if pad is not None else tokenizer.eos_token_id,
        )
        self.model.generation_config = self._generation

    @property
    def preprocessing(self) -> Mapping[str, Any]:
        """The preprocessing manifest."""
        return self._preprocessing

    def generate(self, examples: Sequence[Example], *, max_new_tokens: int) -> list[Generation]:
        """Answer each example.

        Args:
            examples: With their media decoded; best of similar length, as the longest one decides the cost of all.
            max_new_tokens: Longest answer.

        Raises:
            SampleError: An example cannot be encoded.
            VtrapError: The device has too little memory for a single one. (For several: they are split.)
        """
        if not examples:
            return []
        try:
            return self._batch(examples, max_new_tokens=max_new_tokens)
        except torch.OutOfMemoryError:
            pass  # dealt with below, where the traceback no longer keeps the tensors of the failed attempt alive
        if torch.cuda.is_available():
            torch.cuda.empty_cache()
        if len(examples) == 1:
            raise VtrapError(
                f"{examples[0].item.id}: too little memory on {self.device} even for this item alone: use fewer "
                "--frames, a smaller --dtype or another --device"
            )
        half = len(examples) // 2
        first = self.generate(examples[:half], max_new_tokens=max_new_tokens)
        return first + self.generate(examples[half:], max_new_tokens=max_new_tokens)

    def _batch(self, examples: Sequence[Example], *, max_new_tokens: int) -> list[Generation]:
        encoded = [encode(example, self.processor, train=False) for example in examples]
        batch = collate(encoded, self.processor, pad="left")
        del batch["labels"]
        width = batch["input_ids"].shape[1]
        # Pixels stay float32 until they are on the device; the vision tower casts them to its own dtype.
        moved = {name: tensor.to(self.device) for name, tensor in batch.items()}
        with torch.inference_mode():
            out = self.model.generate(**moved, max_new_tokens=max_new_tokens)
        texts = self.processor.tokenizer.batch_decode(
            out[:, width:].cpu(), skip_special_tokens=True, clean_up_tokenization_spaces=False
        )
        return [
            Generation(text=text, visual_tokens=e.visual_tokens, n_prompt_tokens=len(e.input_ids))
            for text, e in zip(texts, encoded, strict=True)
        ]
