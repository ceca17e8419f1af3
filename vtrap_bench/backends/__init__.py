"""What answers the questions? A backend turns a batch of examples into texts; each is a module that is loaded late."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple, Protocol

from hub_cards.errors import redact
from vtrap_data.encoding.models import ModelRef
from vtrap_data.errors import UsageError, VtrapError
from vtrap_data.parsing import parse_json
from vtrap_data.samples import Example


class Step(NamedTuple):
    """One token of an answer, and the one that was nearly written instead.

    Attributes:
        token: Its id.
        logprob: Its natural log-probability.
        runner_up: Id of the most likely other token; -1 where the backend does not say.
        runner_up_logprob: Its natural log-probability.
    """

    token: int
    logprob: float
    runner_up: int
    runner_up_logprob: float


class Generation(NamedTuple):
    """One answer.

    Attributes:
        text: What the model wrote, without special tokens.
        visual_tokens: Tokens of the prompt that stand for pixels.
        n_prompt_tokens: All tokens of the prompt.
        steps: Its tokens, the one that ended it included; () where the backend does not give them.
    """

    text: str
    visual_tokens: int
    n_prompt_tokens: int
    steps: tuple[Step, ...] = ()


class UnfinishedError(VtrapError):
    """A backend failed in the middle of a batch.

    Attributes:
        done: What it had answered by then: number of the example in the batch, and the answer.
    """

    def __init__(self, message: str, *, done: Mapping[int, Generation]) -> None:
        super().__init__(message)
        self.done = dict(done)


class Choice(NamedTuple):
    """How likely a model is to answer with each of several texts.

    Attributes:
        likelihoods: Natural log-probability of each text as the whole answer, the end of the turn included.
        visual_tokens: Tokens of the prompt that stand for pixels.
        n_prompt_tokens: All tokens of the prompt.
    """

    likelihoods: tuple[float, ...]
    visual_tokens: int
    n_prompt_tokens: int


class Backend(Protocol):
    """A loaded model."""

    @property
    def preprocessing(self) -> Mapping[str, Any]:
        """The preprocessing manifest (`vtrap_data.encoding.preprocessing`)."""

    @property
    def facts(self) -> Mapping[str, Any]:
        """What else `run.json` should say about it: JSON. It decides nothing."""

    def prepare(self, examples: Sequence[Example]) -> Any:
        """What `generate` is given of these. Called from another thread, while the model answers other ones."""

    def generate(self, examples: Any, *, max_new_tokens: int) -> list[Generation]:
        """Answer each example that `prepare` was given, greedily; an answer does not depend on the others."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Serving:
    """How engines other than transformers are to work. The defaults are those of the command line.

    Attributes:
        engine: JSON object: arguments for vLLM's `LLM`, over those that vtrap chooses.
        base_url: Of an OpenAI-compatible server, its path (`/v1`) included.
        served_name: What that server calls the model; None: what it lists, if that is one model.
        concurrency: Questions that it is asked at a time.
        timeout: Seconds until an unanswered question is asked again.
        videos: How a server is sent the frames of a video: "video" (as one, with its times) or "images".
    """

    engine: str = "{}"
    base_url: str | None = None
    served_name: str | None = None
    concurrency: int = 16
    timeout: float = 600.0
    videos: Literal["video", "images"] = "video"


@dataclass(frozen=True, slots=True, kw_only=True)
class BackendSettings:
    """How to load a model.

    Attributes:
        model: Which, its path a local directory.
        dtype: Of the weights: "float32", "bfloat16" or "float16".
        device: As torch names it: "cpu", "cuda", "cuda:1".
        serving: For vLLM and servers.
    """

    model: ModelRef
    dtype: str
    device: str
    serving: Serving = Serving()


OpenBackend = Callable[[BackendSettings], Backend]


def _transformers(settings: BackendSettings) -> Backend:
    from vtrap_bench.backends.transformers_backend import TransformersBackend

    return TransformersBackend(settings)


def _vllm(settings: BackendSettings) -> Backend:
    from vtrap_bench.backends.vllm_backend import VllmBackend

    return VllmBackend(settings)


def _openai(settings: BackendSettings) -> Backend:
    from vtrap_bench.backends.openai_backend import OpenAIBackend

    return OpenAIBackend(settings)


BACKENDS: dict[str, OpenBackend] = {"transformers": _transformers, "vllm": _vllm, "openai": _openai}
BATCH_SIZE: dict[str, int] = {"transformers": 32, "vllm": 128, "openai": 128}
"""Items handed to a backend at a time unless --batch-size says otherwise. vLLM and servers batch by themselves."""
GENERATION: dict[str, Any] = {"do_sample": False, "num_beams": 1, "repetition_penalty": 1.0}
"""Generation settings of every backend. They replace what the checkpoint suggests (Qwen2.5-VL: penalty 1.05)."""


def engine_arguments(text: str) -> dict[str, Any]:
    """What `Serving.engine` asks for. Looked at before a run writes its settings down, too.

    Raises:
        UsageError: It is no JSON object, or asks for what is not possible: a token, a model's own code.
    """
    try:
        found = parse_json(text)
    except ValueError:
        found = None
    if not isinstance(found, dict):
        raise UsageError(f"--engine {redact(text)!r} is no JSON object, such as '{{\"max_model_len\": 16384}}'")
    for name in found:
        if name == "trust_remote_code":
            raise UsageError("--engine: trust_remote_code is not possible, a model's own code is never run")
        if "token" in name.lower().split("_"):
            raise UsageError(f"--engine: {name} would be recorded and published; `hf auth login` or HF_TOKEN")
    return found
