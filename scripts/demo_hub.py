"""What `scripts/demo --hub` does: publish what the demo has made, for real, to a Hub that lives on this machine.

    python scripts/demo_hub.py [STUDY] [--corpus DIR] [--benchmarks DIR] [--no-wait]

The Hub is the stand-in of the tests (`tests/standin`), with an account of its own: it is not huggingface.co, nothing
leaves this machine, and what it accepts the real Hub may refuse. Every step is a command of vtrap or of the Hub's own
client, printed before it runs. At the end the leaderboard can be looked at until Ctrl-C.
"""

from __future__ import annotations

import argparse
import json
import re
import shlex
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).parent.parent
sys.path.insert(0, str(ROOT / "tests"))

from standin.running import running  # noqa: E402

from vtrap_data.encoding.models import TOY_VL  # noqa: E402

RESULTS, SPACE, CORPUS, BASE = "vtrap/vtrap-results", "vtrap/leaderboard", "vtrap/toy-sft", "vtrap/toy-vl"


def commands(study: Path, corpus: Path, benchmarks: Path) -> Iterator[list[str]]:
    """Everything that is run, in order: data, models, results, the page."""
    vtrap = ["python", "-m"]
    yield [*vtrap, "vtrap_data", "push", str(corpus), CORPUS]
    for folder in sorted(found.parent for found in benchmarks.glob("*/manifest.json")):
        task = re.sub(r"-v[0-9]+$", "", folder.name)  # the cache of the benchmarks has their versions in its names
        yield [*vtrap, "vtrap_data", "push", str(folder), f"vtrap/{task}"]
    yield ["hf", "upload", BASE, str(TOY_VL), "--quiet"]
    for checkpoint in json.loads((study / "study.json").read_text())["checkpoints"]:
        model = BASE
        if checkpoint["setting"] is not None:
            model = f"vtrap/toy-vl-{checkpoint['setting']}-s{checkpoint['seed']}"
            report = ["--report", str(study / "report.json"), "--setting", model.removeprefix(f"{BASE}-")]
            yield [*vtrap, "vtrap_train", "push", str(study / checkpoint["model"]), model, *report]
        for run in checkpoint["runs"].values():
            yield [*vtrap, "vtrap_bench", "submit", str(study / run), "--model", model, "--results", RESULTS]
    yield [*vtrap, "vtrap_bench", "leaderboard", "push", "--results", RESULTS, "--space", SPACE]
    ask = "from huggingface_hub import HfApi; print(*HfApi().get_dataset_leaderboard('vtrap/toy-video'), sep='\\n')"
    yield ["python", "-c", ask]


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("study", type=Path, nargs="?", default=ROOT / "runs/demo/study", help="folder of a study")
    parser.add_argument("--corpus", type=Path, default=ROOT / "runs/demo/toy/train", help="packed corpus")
    parser.add_argument("--benchmarks", type=Path, default=ROOT / "runs/demo/toy/bench", help="packed benchmarks")
    parser.add_argument("--no-wait", action="store_true", help="end when everything is published")
    args = parser.parse_args()
    if not (args.study / "study.json").is_file():
        print(f"demo_hub: {args.study} holds no study: run scripts/demo first", file=sys.stderr)
        return 2
    with tempfile.TemporaryDirectory(prefix="vtrap-demo-hub-") as folder, running(Path(folder) / "hub") as hub:
        print(f"a stand-in for the Hub, on this machine only: {hub.url}")
        environment = hub.environment(Path(folder) / "home", xet=True)
        environment["PATH"] = f"{Path(sys.executable).parent}:{environment['PATH']}"
        for words in commands(args.study, args.corpus, args.benchmarks):
            print(f"\n$ {shlex.join(words)}", flush=True)
            if (code := subprocess.run(words, env=environment, check=False).returncode) != 0:
                return code
        print(f"\n  leaderboard         {hub.url}/spaces/{SPACE}")
        if not args.no_wait:
            try:
                input("  Enter or Ctrl-C ends the stand-in. ")
            except (EOFError, KeyboardInterrupt):
                print()
    return 0


if __name__ == "__main__":
    sys.exit(main())
