"""What do the measuring scripts share? CPU time, the machine in a line, and sections of a page between markers."""

from __future__ import annotations

import os
import platform
import re
import resource
import statistics
import subprocess
import sys
from collections.abc import Callable, Iterable, Mapping, Sequence
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

ROOT = Path(__file__).parent.parent
PAGE = ROOT / "docs/performance.md"
PEERS = ROOT / ".venv-bench"


def in_bench_environment() -> None:
    """Run this very script again in `.venv-bench/main`, unless that is where it runs. Makes the environment first."""
    python = PEERS / "main/bin/python"
    if Path(sys.prefix) == PEERS / "main":
        return
    subprocess.run(["bash", str(ROOT / "scripts/bench_env")], check=True)
    settings = {"LD_LIBRARY_PATH": peer_libraries(), "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    os.execve(str(python), [str(python), *sys.argv], {**os.environ, **settings})


def peer_libraries() -> str:
    """Where torchcodec finds FFmpeg, once `scripts/bench_env` has run: PyAV's, under plain names. LD_LIBRARY_PATH."""
    return os.pathsep.join(
        str(path) for path in (PEERS / "ffmpeg", *PEERS.glob("main/lib/python*/site-packages/av.libs"))
    )


def cpu() -> float:
    """CPU seconds of this process, all threads, user and system."""
    used = resource.getrusage(resource.RUSAGE_SELF)
    return used.ru_utime + used.ru_stime


def children_cpu() -> float:
    """The same of the child processes that have ended."""
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


def measure(jobs: Mapping[str, Callable[[], object]], *, repeats: int, warm: bool = True) -> dict[str, float]:
    """Median CPU seconds of each job. In turns, so that a busy minute of the machine hits all of them.

    Args:
        jobs: What to run.
        repeats: How often each of them is measured.
        warm: Run each once before, for imports and caches. Not needed where the same jobs ran on other data.
    """
    for job in jobs.values() if warm else ():
        job()
    found: dict[str, list[float]] = {name: [] for name in jobs}
    for _ in range(repeats):
        for name, job in jobs.items():
            start = cpu()
            job()
            found[name].append(cpu() - start)
    return {name: statistics.median(values) for name, values in found.items()}


def machine() -> str:
    """Processor, cores, kernel, Python."""
    model = re.search(r"^model name\s*: (.*)$", Path("/proc/cpuinfo").read_text(), re.MULTILINE)
    return (
        f"{model[1] if model else platform.processor()}, {os.cpu_count()} cores, shared with other work; "
        f"Python {platform.python_version()}"
    )


def versions(names: Iterable[str]) -> str:
    """`name version` of distributions that are installed."""
    found = []
    for name in names:
        try:
            found.append(f"{name} {version(name)}")
        except PackageNotFoundError:
            continue
    return ", ".join(found)


def table(head: Sequence[str], rows: Iterable[Sequence[object]]) -> str:
    """A Markdown table; numbers with as many digits as they deserve."""
    lines = ["| " + " | ".join(head) + " |", "|" + "---|" * len(head)]
    lines += ["| " + " | ".join(_cell(cell) for cell in row) + " |" for row in rows]
    return "\n".join(lines)


def _cell(value: object) -> str:
    if isinstance(value, float):
        return f"{value:.3f}" if abs(value) < 10 else f"{value:.1f}"
    return str(value)


def write_section(name: str, text: str, *, page: Path = PAGE) -> None:
    """Put `text` between `<!-- NAME -->` and `<!-- /NAME -->` of a page; other sections stay as they are."""
    begin, end = f"<!-- {name} -->", f"<!-- /{name} -->"
    old = page.read_text(encoding="utf-8")
    section = f"{begin}\n{text.strip()}\n{end}"
    if begin in old:
        head, _, rest = old.partition(begin)
        new = head + section + rest.partition(end)[2]
    else:
        new = old.rstrip() + "\n\n" + section + "\n"
    page.write_text(new, encoding="utf-8")
