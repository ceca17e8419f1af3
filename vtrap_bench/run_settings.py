"""What does the user ask of a run?"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from vtrap_bench.backends import BackendSettings, Serving, engine_arguments
from vtrap_bench.models import LocalModel, saved_dtype
from vtrap_bench.tasks import Task
from vtrap_data.errors import UsageError

Frames = int | Literal["budget"]

_LONGEST_TIMEOUT = 1_000_000
"""Seconds. The system takes no much longer ones."""


@dataclass(frozen=True, slots=True, kw_only=True)
class RunSettings:
    """One run. It has no defaults: `run.add_arguments` has them, and `Serving`.

    Attributes:
        model: As the user typed it.
        tasks: What to score.
        frames: Frames shown per video: a number, or "budget" for the budgets the benchmark was packed with.
        out: Folder of the run.
        label: What tables call the model.
        benchmarks: Folder of packed benchmarks; None: the cache.
        limit: At most this many items per task: always the same ones, and the more include the fewer.
        batch_size: Items per batch. Does not change the answers.
        seed: Of the bootstrap.
        backend: Key of BACKENDS.
        dtype: "auto": what the checkpoint was saved in on a GPU, float32 on a CPU.
        device: "auto" or as torch names it.
        profile: Prompt profile of every task.
        answers: "generate": the model writes; "likelihood": of the options, the one that it would most likely write.
        serving: For vLLM and servers.
    """

    model: str
    tasks: Sequence[Task]
    frames: Frames
    out: Path
    label: str | None
    benchmarks: Path | None
    limit: int | None
    batch_size: int
    seed: int
    backend: str
    dtype: str
    device: str
    profile: str
    answers: Literal["generate", "likelihood"]
    serving: Serving


def check(settings: RunSettings) -> None:
    """Refuse what cannot be.

    Raises:
        UsageError: A number is out of range, or two settings contradict each other.
    """
    if settings.limit is not None and settings.limit < 1:
        raise UsageError(f"--limit {settings.limit} must be at least 1")
    if settings.seed < 0:
        raise UsageError(f"--seed {settings.seed} must be 0 or more")
    for option, text in (("--label", settings.label), ("--model", settings.model)):
        try:
            (text or "").encode()
        except UnicodeEncodeError:
            raise UsageError(f"{option} {text!r} is not UTF-8, so it cannot be written down: give another") from None
    if settings.batch_size < 1:
        raise UsageError(f"--batch-size {settings.batch_size} must be at least 1")
    if settings.serving.concurrency < 1:
        raise UsageError(f"--concurrency {settings.serving.concurrency} must be at least 1")
    if not 0 < settings.serving.timeout <= _LONGEST_TIMEOUT:
        raise UsageError(
            f"--timeout {settings.serving.timeout:g} must be more than 0 seconds and at most {_LONGEST_TIMEOUT}"
        )
    if (settings.serving.base_url is not None) != (settings.backend == "openai"):
        raise UsageError("--backend openai and --base-url URL go together")
    usual = Serving()
    for name, backend in (("engine", "vllm"), ("served_name", "openai"), ("videos", "openai")):
        if settings.backend != backend and getattr(settings.serving, name) != getattr(usual, name):
            raise UsageError(f"--{name.replace('_', '-')} is for --backend {backend} only")
    engine_arguments(settings.serving.engine)


def loading(settings: RunSettings, model: LocalModel) -> BackendSettings:
    """How the backend loads the model."""
    from vtrap_bench.backends.transformers_backend import DTYPES

    device = device_of(settings.device)
    dtype = settings.dtype
    if dtype == "auto":
        saved = saved_dtype(model.folder)
        dtype = saved if saved in DTYPES and not device.startswith("cpu") else "float32"
    return BackendSettings(model=model.ref, dtype=dtype, device=device, serving=settings.serving)


def device_of(given: str) -> str:
    """The device that `--device` names, as torch names it.

    Raises:
        UsageError: There is none such here.
    """
    import torch

    from vtrap_bench.backends.transformers_backend import default_device

    if given == "auto":
        return default_device()
    try:
        device = torch.device(given)
        if device.type == "cuda":  # asked so that CUDA is not begun in this process, which vLLM forks
            there = (device.index or 0) < torch.cuda.device_count()
        else:
            torch.empty(1, device=device).item()  # "meta" holds nothing
            there = True
    except (RuntimeError, AssertionError, NotImplementedError):
        there = False
    if not there:
        raise UsageError(f"--device {given!r}: there is none such here; give auto, cpu{_gpus()}")
    return given


def _gpus() -> str:
    import torch

    return "".join(f", cuda:{number}" for number in range(torch.cuda.device_count()))
