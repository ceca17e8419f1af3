"""How does transformers answer? Greedy, in left-padded batches, through the same encoding as training."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any, NamedTuple, TypeVar

import torch

from vtrap_bench.backends import GENERATION, BackendSettings, Choice, Generation, Step
from vtrap_bench.backends.ends import end_tokens
from vtrap_data.encoding import Encoded, accept_bytes, collate, encode, load_model, load_processor, preprocessing
from vtrap_data.errors import VtrapError
from vtrap_data.samples import Example

A = TypeVar("A")
B = TypeVar("B")

DTYPES = ("float32", "bfloat16", "float16")


def default_device() -> str:
    """A CUDA device where there is one, otherwise the CPU."""
    return "cuda" if torch.cuda.is_available() else "cpu"


class Prompts(NamedTuple):
    """A batch as the model takes it.

    Attributes:
        rows: Its samples.
        inputs: All of them together, on the CPU.
    """

    rows: Sequence[Encoded]
    inputs: dict[str, torch.Tensor]


class TransformersBackend:
    """A model in this process."""

    def __init__(self, settings: BackendSettings) -> None:
        from transformers import GenerationConfig

        self.processor: Any = load_processor(settings.model)
        self.model: Any = load_model(settings.model, dtype=getattr(torch, settings.dtype))
        self.model.to(settings.device).eval()
        accept_bytes(self.model, self.processor)
        self.device = settings.device
        self._preprocessing = preprocessing(settings.model, self.processor)
        # From the checkpoint only which tokens end an answer; everything else would make runs hard to compare.
        own = self.model.generation_config
        tokenizer = self.processor.tokenizer
        pad = tokenizer.pad_token_id
        self._ends = end_tokens(own.eos_token_id, tokenizer)
        self._generation = GenerationConfig(
            **GENERATION,
            eos_token_id=list(self._ends),
            bos_token_id=own.bos_token_id,
            pad_token_id=pad if pad is not None else tokenizer.eos_token_id,
        )
        self.model.generation_config = self._generation

    @property
    def preprocessing(self) -> Mapping[str, Any]:
        """The preprocessing manifest."""
        return self._preprocessing

    @property
    def facts(self) -> Mapping[str, Any]:
        """Nothing beyond the settings."""
        return {}

    def prepare(self, examples: Sequence[Example]) -> Prompts:
        """Make of examples what the model takes; from any thread.

        Args:
            examples: With their media decoded; best of similar length, as the longest one decides the cost of all.

        Raises:
            SampleError: An example cannot be encoded.
        """
        return self._prompts([encode(example, self.processor, train=False) for example in examples])

    def generate(self, examples: Sequence[Example] | Prompts, *, max_new_tokens: int) -> list[Generation]:
        """Answer each example.

        Args:
            examples: As for `prepare`, or what that has made of them.
            max_new_tokens: Longest answer.

        Raises:
            SampleError: An example cannot be encoded.
            VtrapError: The device has too little memory for a single one. (For several: they are split.)
        """
        if not examples:
            return []
        prompts = examples if isinstance(examples, Prompts) else self.prepare(examples)

        def answers(rows: Sequence[Encoded]) -> list[Generation]:
            some = prompts if len(rows) == len(prompts.rows) else self._prompts(rows)
            return self._answers(some, max_new_tokens=max_new_tokens)

        return self._as_fits(prompts.rows, answers, name=lambda row: row.id)

    def _as_fits(
        self, rows: Sequence[A], do: Callable[[Sequence[A]], list[B]], *, name: Callable[[A], str]
    ) -> list[B]:
        """The rows at once, or by halves where the device has too little memory."""
        try:
            return do(rows)
        except torch.OutOfMemoryError:
            pass  # dealt with below, where the traceback no longer keeps the tensors of the failed attempt alive
        if torch.cuda.is_available():
            torch.cuda.empty_cache()
        if len(rows) == 1:
            raise VtrapError(
                f"{name(rows[0])}: too little memory on {self.device} even for this item alone: use fewer "
                "--frames, a smaller --dtype or another --device"
            )
        half = len(rows) // 2
        return self._as_fits(rows[:half], do, name=name) + self._as_fits(rows[half:], do, name=name)

    def score_options(self, examples: Sequence[Example], candidates: Sequence[Sequence[str]]) -> list[Choice]:
        """How likely is each candidate as the whole answer?

        Args:
            examples: As for `generate`.
            candidates: For each example, at least one text.

        Raises:
            SampleError: An example cannot be encoded.
            VtrapError: As in `generate`.
        """
        rows: list[tuple[Any, int]] = []
        prompts = [encode(example, self.processor, train=False) for example in examples]
        for prompt, texts in zip(prompts, candidates, strict=True):
            for text in texts:
                said = self.processor.tokenizer(text, add_special_tokens=False)["input_ids"]
                tail = torch.tensor([*said, self._ends[0]])
                longer = replace(
                    prompt,
                    input_ids=torch.cat([prompt.input_ids, tail]),
                    labels=torch.cat([prompt.labels, tail]),
                    token_types=torch.cat([prompt.token_types, torch.zeros_like(tail)]),
                )
                rows.append((longer, len(tail)))
        found: list[float] = []
        # As many rows at a time as `generate` would be given: the memory it takes is the same.
        for start in range(0, len(rows), max(1, len(examples))):
            some = rows[start : start + max(1, len(examples))]
            found += self._as_fits(some, self._log_probabilities, name=lambda row: str(row[0].id))
        scores = iter(found)
        return [
            Choice(tuple(next(scores) for _ in texts), prompt.visual_tokens, len(prompt.input_ids))
            for prompt, texts in zip(prompts, candidates, strict=True)
        ]

    def _log_probabilities(self, rows: Sequence[tuple[Any, int]]) -> list[float]:
        batch = collate([encoded for encoded, _ in rows], self.processor, pad="left", as_bytes=True)
        del batch["labels"]
        moved = {name: tensor.to(self.device) for name, tensor in batch.items()}
        longest = max(length for _, length in rows)
        with torch.inference_mode():
            logits = self.model(**moved, logits_to_keep=longest + 1, use_cache=False).logits
        likely = torch.log_softmax(logits.float(), dim=-1)
        totals = []
        for row, (_, length) in enumerate(rows):
            tail = moved["input_ids"][row, -length:]
            totals.append(float(likely[row, -length - 1 : -1].gather(-1, tail[:, None]).double().sum()))
        return totals

    def _prompts(self, rows: Sequence[Encoded]) -> Prompts:
        inputs = collate(rows, self.processor, pad="left", as_bytes=True)
        del inputs["labels"]
        return Prompts(rows, inputs)

    def _answers(self, prompts: Prompts, *, max_new_tokens: int) -> list[Generation]:
        from transformers import LogitsProcessorList

        width = prompts.inputs["input_ids"].shape[1]
        # Pixels reach the device as bytes or in 32 bits; there the vision tower gets them in its own dtype.
        moved = {name: tensor.to(self.device) for name, tensor in prompts.inputs.items()}
        watch = _Watch()
        with torch.inference_mode():
            out = self.model.generate(
                **moved, max_new_tokens=max_new_tokens, logits_processor=LogitsProcessorList([watch])
            )
        written = out[:, width:].tolist()
        # The tokenizer's core: what `batch_decode` does beside it takes longer.
        core = self.processor.tokenizer.backend_tokenizer
        texts = [core.decode(ids, skip_special_tokens=True) for ids in written]
        steps = watch.steps(written, ends=frozenset(self._ends))
        return [
            Generation(text=text, visual_tokens=row.visual_tokens, n_prompt_tokens=len(row.input_ids), steps=seen)
            for text, row, seen in zip(texts, prompts.rows, steps, strict=True)
        ]


class _Watch:
    """Keeps the two most likely tokens of every step. `output_logits` would keep the whole vocabulary."""

    def __init__(self) -> None:
        self._seen: list[tuple[torch.Tensor, torch.Tensor]] = []

    def __call__(self, input_ids: torch.Tensor, scores: torch.Tensor) -> torch.Tensor:
        values, ids = torch.topk(scores.float(), 2, dim=-1)
        self._seen.append((values - torch.logsumexp(scores.float(), dim=-1, keepdim=True), ids))
        return scores

    def steps(self, written: Sequence[Sequence[int]], *, ends: frozenset[int]) -> list[tuple[Step, ...]]:
        """Of each row, up to the token that ended it."""
        if not self._seen:
            return [() for _ in written]
        logprobs = torch.stack([v for v, _ in self._seen], dim=1).cpu().tolist()
        tokens = torch.stack([i for _, i in self._seen], dim=1).cpu().tolist()
        found = []
        for row, likely, ids in zip(written, logprobs, tokens, strict=True):
            steps: list[Step] = []
            for token, (first, second), (best, other) in zip(row, likely, ids, strict=True):
                # Of two equally likely tokens, topk may name the other one first.
                turned = token == other
                steps.append(Step(token, second, best, first) if turned else Step(token, first, other, second))
                if token in ends:
                    break
            found.append(tuple(steps))
        return found
