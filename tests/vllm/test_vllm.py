"""vLLM for real, on a CPU: against transformers, and as a server."""

import contextlib
import importlib.util
import json
import os
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from PIL import Image

from vtrap_bench.backends import BACKENDS, BackendSettings
from vtrap_bench.parity import parity
from vtrap_bench.records import RECORDS, read_records
from vtrap_data.encoding import resolve
from vtrap_data.loading.dataset import PackedDataset
from vtrap_data.samples import Example, Frames, Message, PackedItem
from vtrap_data.shards.manifest import PackSettings
from vtrap_data.shards.pack import pack
from vtrap_data.sources.jsonl import read_jsonl
from vtrap_data.sources.toyworld.generate import Recipe, generate

_found = importlib.util.find_spec("vllm")
if _found is None or _found.origin is None:  # without vLLM this very folder goes by its name
    pytest.skip("vLLM has an environment of its own: scripts/test runs these there", allow_module_level=True)

pytestmark = pytest.mark.vllm
SHOWN = {
    "text": {},
    "image": {"images": 1},
    "images": {"images": 3},
    "video": {"frames": 8, "spacing": 0.35},
    "odd video": {"frames": 5, "spacing": 0.7},
    "sparse video": {"frames": 16, "spacing": 1.4},
    "many frames": {"frames": 64, "spacing": 1.05},  # vLLM alone would number steps too low: test_vllm_positions
    "one frame": {"frames": 1},
    "mixed": {"images": 2, "frames": 6, "spacing": 2.5},
}


def example(name, *, images=0, frames=0, spacing=0.5):
    draw = np.random.default_rng([7, images, frames])
    pictures = [Image.fromarray(draw.integers(0, 256, (56, 64, 3), dtype=np.uint8)) for _ in range(images + frames)]
    marks = "<image>" * images + "<video>" * (frames > 0)
    item = PackedItem(id=name, messages=(Message(role="user", content=f"{marks}What colour is it?"),), answer="red")
    shown = Frames.of(pictures[images:], times=[spacing * i for i in range(frames)]) if frames else None
    kind = "video" if frames else "images" if images else "text"
    return Example(item=item, key=name, source="test", kind=kind, frames=shown, images=tuple(pictures[:images]))


@pytest.fixture(scope="module")
def both():
    settings = BackendSettings(model=resolve("toy-vl"), dtype="float32", device="cpu")
    return BACKENDS["transformers"](settings), BACKENDS["vllm"](settings)


def test_same_tokens_and_log_probabilities(both):
    """Each alone and all together, in float32."""
    hf, vllm = both
    examples = [example(name, **what) for name, what in SHOWN.items()]
    alone = [vllm.generate([one], max_new_tokens=8)[0] for one in examples]
    for one, a, b, c in zip(
        examples,
        hf.generate(examples, max_new_tokens=8),
        vllm.generate(examples, max_new_tokens=8),
        alone,
        strict=True,
    ):
        assert a[:3] == b[:3] == c[:3], one.item.id
        assert [s.token for s in a.steps] == [s.token for s in b.steps] == [s.token for s in c.steps], one.item.id
        for x, y, z in zip(a.steps, b.steps, c.steps, strict=True):
            assert abs(x.logprob - y.logprob) < 1e-4 and abs(x.logprob - z.logprob) < 1e-4, one.item.id
            assert abs(x.runner_up_logprob - y.runner_up_logprob) < 1e-4, one.item.id


def test_same_likelihoods_of_options(both):
    examples = [example(name, **what) for name, what in SHOWN.items()]
    options = [["red", "blue", "top left"]] * len(examples)
    for a, b in zip(*(backend.score_options(examples, options) for backend in both), strict=True):
        assert a[1:] == b[1:] and np.allclose(a.likelihoods, b.likelihoods, atol=1e-4)


# --- through the command, and as a server -------------------------------------------------------------------


@pytest.fixture(scope="module")
def benchmarks(tmp_path_factory):
    root = tmp_path_factory.mktemp("bench")
    for task, kind, count in (("toy-image", "images", 6), ("toy-video", "videos", 3)):
        jsonl = generate(Recipe(kind=kind, purpose="bench", count=count), root / "source" / kind)
        samples = read_jsonl(jsonl, media_root=None, name=None).samples
        settings = PackSettings(
            name=task, split="test", budgets=(2, 4, 8, 16), slots=16, store=16, mean_frames=6, short_side=64
        )
        pack(samples, root / "packed" / task, settings=settings)
    return root / "packed"


def score(benchmarks, out, *more, model="toy-vl", **kwargs):
    command = [sys.executable, "-m", "vtrap_bench", "run", "--model", str(model), "--tasks", "image,video"]
    command += ["--frames", "8", "--benchmarks", str(benchmarks), "--out", str(out), *more]
    return subprocess.run(command, capture_output=True, text=True, timeout=480, **kwargs)


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    """`vllm serve`, ready to answer."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    arguments = {
        "dtype": "float32",
        "max-model-len": "4096",
        "max-num-seqs": "8",
        "kv-cache-memory-bytes": "134217728",
        "block-size": "32",
        "limit-mm-per-prompt": '{"image": 4, "video": 1}',
        "generation-config": "vllm",
        "host": "127.0.0.1",
        "port": str(port),
    }
    command = [str(Path(sys.executable).with_name("vllm")), "serve", resolve("toy-vl").path, "--enforce-eager"]
    command += ["--trust-request-mm-kwargs", *(part for k, v in arguments.items() for part in (f"--{k}", v))]
    log = tmp_path_factory.mktemp("serve") / "log"
    env = {**os.environ, "VLLM_NO_USAGE_STATS": "1", "VLLM_CPU_OMP_THREADS_BIND": "nobind", "HF_HUB_OFFLINE": "1"}
    env.pop("VLLM_ENABLE_V1_MULTIPROCESSING", None)
    with log.open("wb") as file:
        process = subprocess.Popen(command, stdout=file, stderr=file, env=env, start_new_session=True)
    try:
        deadline = time.monotonic() + 480
        while True:
            assert process.poll() is None and time.monotonic() < deadline, log.read_text()[-3000:]
            try:
                urllib.request.urlopen(f"http://127.0.0.1:{port}/health", timeout=2)
                break
            except OSError:
                time.sleep(0.5)
        yield SimpleNamespace(url=f"http://127.0.0.1:{port}/v1", process=process)
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)  # the group that was started here
        process.wait()


def test_a_served_model_says_how_many_frames_it_needs(benchmarks, tmp_path, server):
    words = ["budget", benchmarks / "toy-video", "--out", tmp_path / "asked", "--strategy", "vlm"]
    done = subprocess.run(
        [sys.executable, "-m", "vtrap_data", *map(str, words), "--base-url", server.url],
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    items = [one.item for one in PackedDataset(tmp_path / "asked")]
    for item in items:
        assert np.exp(item.scores).sum() == pytest.approx(1, abs=1e-3), "it was held to the four letters"
        assert item.scores[(2, 4, 8, 16).index(item.budget)] == max(item.scores)


def test_three_backends_through_the_command(benchmarks, tmp_path, server):
    runs = {
        "transformers": (),
        "vllm": ("--backend", "vllm"),
        "openai": ("--backend", "openai", "--base-url", server.url),
    }
    for name, more in runs.items():
        done = score(benchmarks, tmp_path / name, *more)
        assert done.returncode == 0, done.stderr[-3000:]
    for name in ("vllm", "openai"):
        found = parity(tmp_path / "transformers", tmp_path / name)
        assert found.agrees and set(found.verdicts) == {"same"} and found.max_logprob_difference < 1e-4, found
        info = json.loads((tmp_path / name / "run.json").read_text())
        assert info["backend"]["prompts"] == "compared with vtrap's, every one"

    # The server dies: what it answered is kept, the run fails, and goes on elsewhere than from nothing.
    arguments = ("--backend", "openai", "--base-url", server.url, "--timeout", "5")
    assert score(benchmarks, tmp_path / "cut", *arguments, "--limit", "2").returncode == 0
    before = (tmp_path / "cut" / RECORDS).read_bytes()
    os.killpg(server.process.pid, signal.SIGKILL)
    server.process.wait()
    failed = score(benchmarks, tmp_path / "cut", *arguments)
    assert failed.returncode == 1 and "cannot be reached" in failed.stderr
    assert (tmp_path / "cut" / RECORDS).read_bytes().startswith(before) and read_records(tmp_path / "cut" / RECORDS)
    assert not (tmp_path / "cut" / "scores.json").exists()


def test_a_checkpoint_in_the_middle_of_training_is_loaded_as_it_is(benchmarks, tmp_path):
    python = Path(__file__).parents[2] / ".venv" / "bin" / "python"
    if not python.exists():
        pytest.skip("the trainer has an environment of its own, .venv, which scripts/test makes first")
    jsonl = generate(Recipe(kind="images", purpose="train", count=8), tmp_path / "source")
    samples = read_jsonl(jsonl, media_root=jsonl.parent, name=None).samples
    pack(samples, tmp_path / "packed", settings=PackSettings(name="train", short_side=64))
    words = ["--model", "toy-vl", "--data", tmp_path / "packed", "--output_dir", tmp_path / "out", "--max_steps", 2]
    words += ["--per_device_train_batch_size", 4, "--learning_rate", 1e-3, "--save_steps", 1]
    done = subprocess.run(
        [str(w) for w in [python, "-m", "vtrap_train", *words]], capture_output=True, text=True, timeout=300
    )
    assert done.returncode == 0, done.stderr[-3000:]
    model = tmp_path / "out" / "checkpoint-1"
    for name, more in (("transformers", ()), ("vllm", ("--backend", "vllm"))):
        done = score(benchmarks, tmp_path / name, *more, model=model)
        assert done.returncode == 0, done.stderr[-3000:]
    found = parity(tmp_path / "transformers", tmp_path / "vllm")
    assert found.agrees and set(found.verdicts) == {"same"} and found.max_logprob_difference < 1e-4, found


def test_an_engine_that_cannot_start_is_no_success(benchmarks, tmp_path):
    done = score(benchmarks, tmp_path / "run", "--backend", "vllm", "--engine", '{"max_model_len": 9999999}')
    assert done.returncode == 1 and "vLLM could not load toy-vl" in done.stderr, done.stderr[-2000:]
    assert not (tmp_path / "run" / "scores.json").exists()
