"""`python -m standin.forking`: run commands of vtrap again and again without importing everything each time.

Reads lines of JSON from stdin, {"words": [module, argument, ...], "env": {...}, "log": file}; for each it forks, runs
the module's `main` in the child and answers {"pid": ...}. A child that ended is reported by {"pid": ..., "code": ...}
after the line {"wait": pid}. The children are real processes with a real client, to be killed at will. What a command
starts in a process of its own (the reader that loads a publication back) is forked, too, with the same fresh caches,
and so are the steps of a study: what is left out of it is the time to import, nothing else.
"""

from __future__ import annotations

import contextlib
import gc
import importlib
import io
import json
import os
import signal
import subprocess
import sys
import time
import traceback
from pathlib import Path
from types import SimpleNamespace
from typing import Any

MODULES = {
    "data": (
        "vtrap_data.__main__",
        "vtrap_data.push",
        "vtrap_data.shards.doctor",
        "hub_cards.publishing",
        "hub_cards.readback",
        "datasets",
    ),
    "train": ("vtrap_train.push", "vtrap_train.readback", "vtrap_train.trainer", "transformers"),
    "bench": (
        "vtrap_bench.__main__",
        "vtrap_bench.leaderboard",
        "vtrap_bench.submit",
        "vtrap_bench.results_dataset",
        "hub_cards.readback",
        "datasets",
    ),
}
MODULES["all"] = (
    *(name for kind in ("data", "train", "bench") for name in MODULES[kind]),
    *("vtrap_train.__main__", "vtrap_train.run", "vtrap_train.plan", "vtrap_bench.study", "vtrap_bench.report"),
    *("vtrap_bench.run", "vtrap_bench.steps", "vtrap_bench.backends.transformers_backend"),
)


def use_environment(new: dict[str, str]) -> None:
    """Take over an environment, with what the client has read of it on import: caches and the kind of transfer."""
    os.environ.clear()
    os.environ.update(new)
    from huggingface_hub import constants

    constants.HF_HUB_DISABLE_XET = new.get("HF_HUB_DISABLE_XET") == "1"
    constants.HF_HUB_CACHE = new.get("HF_HUB_CACHE", str(Path(new["HF_HOME"]) / "hub"))
    constants.HF_XET_CACHE = new.get("HF_XET_CACHE", str(Path(new["HF_HOME"]) / "xet"))
    if "datasets" in sys.modules:
        from datasets import config

        config.HF_DATASETS_CACHE = Path(new.get("HF_DATASETS_CACHE", Path(new["HF_HOME"]) / "datasets"))


def hurry(module: Any) -> None:
    """Waiting is not what is tested here: pauses of a module become short."""
    module.time = SimpleNamespace(**{**vars(time), "sleep": lambda seconds: time.sleep(min(seconds, 0.02))})


def forked_run(words: list[str], *, env: dict[str, str], cwd: str, stdout: Any, text: bool, check: bool) -> Any:
    """`subprocess.run` of a reader, but forked."""
    assert words[1] == "-m", words
    read, write = os.pipe()
    pid = os.fork()
    if pid == 0:
        os.close(read)
        os.chdir(cwd)
        use_environment(env)
        answer = io.StringIO()
        sys.stdout = answer
        from hub_cards import readback

        if words[2] == "hub_cards.readback":
            code = readback.main(words[3:])
        else:
            code = readback.answer(importlib.import_module(words[2]).checkpoint, words[3:])
        os.write(write, answer.getvalue().encode())
        os._exit(code)
    os.close(write)
    with os.fdopen(read, "rb") as file:
        said = file.read().decode()
    _, status = os.waitpid(pid, 0)
    return SimpleNamespace(stdout=said, returncode=os.waitstatus_to_exitcode(status))


class ForkedStep:
    """`subprocess.Popen` of a step of a study, `python -m MODULE ...`, but forked."""

    returncode: int | None = None

    def __init__(self, argv: list[str], *, stdout: Any, env: dict[str, str], **_: Any) -> None:
        assert argv[1] == "-m", argv
        self.pid = os.fork()
        if self.pid == 0:
            use_environment(env)
            run_main([f"{argv[2]}.__main__", *argv[3:]], stdout.fileno())

    def poll(self) -> int | None:
        if self.returncode is None:
            pid, status = os.waitpid(self.pid, os.WNOHANG)
            self.returncode = os.waitstatus_to_exitcode(status) if pid else None
        return self.returncode

    def wait(self, timeout: float | None = None) -> int:
        while self.poll() is None:
            time.sleep(0.05)
        assert self.returncode is not None
        return self.returncode


def child(words: list[str], env: dict[str, str], log: str) -> None:
    """Run a command; never returns."""
    use_environment(env)
    os.chdir(Path(log).parent)
    run_main(words, os.open(log, os.O_WRONLY | os.O_CREAT | os.O_TRUNC))


def run_main(words: list[str], out: int) -> None:
    """Run `main` of a module with its output in a file; never returns."""
    os.dup2(out, 1)
    os.dup2(out, 2)
    os.setpgid(0, 0)
    code = 70
    try:
        code = importlib.import_module(words[0]).main(words[1:])
    except BaseException:  # whatever it is: this is where it ends
        traceback.print_exc()
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)


def main(kind: str) -> None:
    os.environ.setdefault("DS_ACCELERATOR", "cpu")  # or DeepSpeed warns on stdout, where we answer
    for name in MODULES[kind]:
        importlib.import_module(name)
    from huggingface_hub import file_download
    from huggingface_hub.utils import _http

    from hub_cards import retrying, verifying

    verifying.subprocess = SimpleNamespace(run=forked_run, PIPE=subprocess.PIPE)
    for module in (retrying, _http, file_download):
        hurry(module)
    if "vtrap_bench.steps" in sys.modules:
        stand_in = {**vars(subprocess), "Popen": ForkedStep}
        sys.modules["vtrap_bench.steps"].subprocess = SimpleNamespace(**stand_in)  # type: ignore[attr-defined]
    gc.freeze()  # or each collection in a child copies the pages of everything that was imported
    print(json.dumps({"ready": True}), flush=True)
    for line in sys.stdin:
        order = json.loads(line)
        if "wait" in order:
            _, status = os.waitpid(order["wait"], 0)
            code = os.waitstatus_to_exitcode(status)
            with contextlib.suppress(ProcessLookupError):  # the reader that a killed command leaves behind
                os.killpg(order["wait"], signal.SIGKILL)
            print(json.dumps({"pid": order["wait"], "code": code}), flush=True)
            continue
        pid = os.fork()
        if pid == 0:
            child(order["words"], order["env"], order["log"])
        print(json.dumps({"pid": pid}), flush=True)


if __name__ == "__main__":
    main(sys.argv[1])
