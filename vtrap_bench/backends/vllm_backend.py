"""How does vLLM answer, in this process? Greedy, given the frames, prompts and positions that `encoding` makes."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from typing import Any

from vtrap_bench.backends import BackendSettings, Choice, Generation, Step, engine_arguments
from vtrap_bench.backends.ends import end_tokens
from vtrap_bench.backends.prompts import folded, same_prompt, video_of, video_settings
from vtrap_data.encoding import Encoded, encode, load_processor, preprocessing
from vtrap_data.errors import UsageError, VtrapError, first_line
from vtrap_data.samples import Example

_CPU_KV_BYTES = 256 * 2**20
_MOST_IMAGES = 64


class VllmBackend:
    """An engine in this process."""

    def __init__(self, settings: BackendSettings) -> None:
        on_cpu = settings.device.startswith("cpu")
        # Read when vllm is imported. No usage reports; one process, so that nothing is left behind when it is killed.
        os.environ.setdefault("VLLM_NO_USAGE_STATS", "1")
        os.environ.setdefault("VLLM_LOGGING_LEVEL", "ERROR")
        os.environ.setdefault("VLLM_ENABLE_V1_MULTIPROCESSING", "0")
        if on_cpu:
            os.environ.setdefault("VLLM_CPU_OMP_THREADS_BIND", "nobind")
        try:
            from vllm import LLM, SamplingParams, __version__
        except ImportError as error:
            raise UsageError(
                f"--backend vllm: vLLM cannot be imported here ({error}). It needs an environment of its own, as it "
                "holds transformers below the version that training uses: docs/backends.md says how to make one"
            ) from error
        self._sampling: Any = SamplingParams
        self.processor: Any = load_processor(settings.model)
        self._preprocessing = preprocessing(settings.model, self.processor)
        arguments: dict[str, Any] = {
            "model": settings.model.path,
            "dtype": settings.dtype,
            "seed": 0,
            "trust_remote_code": False,
            "generation_config": "vllm",  # nothing of what the checkpoint suggests
            # A prompt found in the cache is computed in other pieces: its last digits would depend on the order.
            "enable_prefix_caching": False,
            "limit_mm_per_prompt": {"image": _MOST_IMAGES, "video": 1},
            "disable_log_stats": True,
        }
        if on_cpu:
            # Without a number vLLM asks for most of the machine's memory. Blocks on a CPU are multiples of 32 tokens.
            arguments |= {"enforce_eager": True, "kv_cache_memory_bytes": _CPU_KV_BYTES, "block_size": 32}
        arguments |= engine_arguments(settings.serving.engine)
        try:
            self._llm: Any = LLM(**arguments)
        except Exception as error:
            raise VtrapError(
                f"vLLM could not load {settings.model.name} ({_why(error)}); its "
                "arguments can be changed with --engine, for example --engine '{\"max_model_len\": 16384}'"
            ) from error
        self._max_length = int(self._llm.llm_engine.model_config.max_model_len)
        self._ends = end_tokens(_said_ends(settings.model.path), self.processor.tokenizer)
        self._version = str(__version__)

    @property
    def preprocessing(self) -> Mapping[str, Any]:
        """The preprocessing manifest."""
        return self._preprocessing

    @property
    def facts(self) -> Mapping[str, Any]:
        """Version of vLLM, and that every prompt was compared."""
        return {"vllm": self._version, "prompts": "compared with vtrap's, every one"}

    def prepare(self, examples: Sequence[Example]) -> Sequence[Example]:
        """As they are: vLLM makes its own inputs."""
        return examples

    def generate(self, examples: Sequence[Example], *, max_new_tokens: int) -> list[Generation]:
        """Answer each example.

        Args:
            examples: With their media decoded; vLLM makes its own batches of them.
            max_new_tokens: Longest answer.

        Raises:
            SampleError: An example cannot be encoded.
            VtrapError: An example is too long, the engine saw another prompt than `encode` makes, or it failed.
        """
        encoded = [encode(example, self.processor, train=False) for example in examples]
        for e in encoded:
            self._fits(e, len(e.input_ids) + max_new_tokens)
        parameters = self._sampling(
            temperature=0.0, max_tokens=max_new_tokens, logprobs=2, stop_token_ids=list(self._ends)
        )
        prompts = [self._prompt(x, e, folded(e)) for x, e in zip(examples, encoded, strict=True)]
        answers = []
        for e, done in zip(encoded, self._run(prompts, parameters), strict=True):
            same_prompt(e, done.prompt_token_ids, engine="vLLM")
            out = done.outputs[0]
            steps = tuple(
                _step(token, {i: p.logprob for i, p in likely.items()})
                for token, likely in zip(out.token_ids, out.logprobs, strict=True)
            )
            # Decoded as transformers does, so that equal tokens are equal texts.
            text = self.processor.tokenizer.decode(
                list(out.token_ids), skip_special_tokens=True, clean_up_tokenization_spaces=False
            )
            answers.append(Generation(text, e.visual_tokens, len(e.input_ids), steps))
        return answers

    def score_options(self, examples: Sequence[Example], candidates: Sequence[Sequence[str]]) -> list[Choice]:
        """How likely is each candidate as the whole answer? As in the transformers backend."""
        encoded = [encode(example, self.processor, train=False) for example in examples]
        prompts: list[dict[str, Any]] = []
        tails: list[list[int]] = []
        for example, e, texts in zip(examples, encoded, candidates, strict=True):
            for text in texts:
                tail = [*self.processor.tokenizer(text, add_special_tokens=False)["input_ids"], self._ends[0]]
                self._fits(e, len(e.input_ids) + len(tail) + 1)
                prompts.append(self._prompt(example, e, [*folded(e), *tail]))
                tails.append(tail)
        parameters = self._sampling(temperature=0.0, max_tokens=1, prompt_logprobs=0)
        scores = []
        for tail, done in zip(tails, self._run(prompts, parameters), strict=True):
            likely = done.prompt_logprobs[-len(tail) :]
            scores.append(sum(float(row[token].logprob) for token, row in zip(tail, likely, strict=True)))
        found = iter(scores)
        return [
            Choice(tuple(next(found) for _ in texts), e.visual_tokens, len(e.input_ids))
            for e, texts in zip(encoded, candidates, strict=True)
        ]

    def _run(self, prompts: Sequence[Mapping[str, Any]], parameters: Any) -> list[Any]:
        try:
            return list(self._llm.generate(list(prompts), parameters, use_tqdm=False))
        except Exception as error:
            raise VtrapError(f"vLLM failed: {_why(error)}; what was answered before is kept") from error

    def _prompt(self, example: Example, encoded: Encoded, ids: list[int]) -> dict[str, Any]:
        prompt: dict[str, Any] = {"prompt_token_ids": ids}
        media: dict[str, Any] = {}
        if example.frames is not None:
            part = self.processor.video_processor
            video = video_of(encoded, temporal_patch_size=part.temporal_patch_size)
            media["video"] = [(example.frames.pixels, video.metadata())]
            prompt["mm_processor_kwargs"] = {"videos_kwargs": video_settings(self.processor)}
        if example.images:
            media["image"] = [image.convert("RGB") for image in example.images]
        return {**prompt, "multi_modal_data": media} if media else prompt

    def _fits(self, encoded: Encoded, length: int) -> None:
        if length > self._max_length:
            raise VtrapError(
                f"{encoded.id}: {length} tokens with its answer are more than the {self._max_length} that vLLM was "
                "set up for: use fewer --frames, or --engine '{\"max_model_len\": N}'"
            )


def _said_ends(folder: str) -> int | list[int] | None:
    """What the checkpoint's generation config says; None without one."""
    from transformers import GenerationConfig

    try:
        found: int | list[int] | None = GenerationConfig.from_pretrained(folder).eos_token_id
    except OSError:
        return None
    return found


def _why(error: Exception) -> str:
    return f"{type(error).__name__}: {first_line(error)}"


def _step(token: int, likely: Mapping[int, float]) -> Step:
    others = [(logprob, other) for other, logprob in likely.items() if other != token]
    logprob, other = max(others, default=(float("-inf"), -1))
    return Step(token, likely[token], other, logprob)
