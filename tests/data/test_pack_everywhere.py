"""However packing is interrupted or spread out, the bytes are the same: 25 kills, 1 to 4 workers, a Ray cluster."""

from __future__ import annotations

import os
import random
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from shards_media import chat, tree, write_clip, write_photo, write_rows

from vtrap_data.errors import Reason, SampleError, UsageError
from vtrap_data.samples import SourceSample
from vtrap_data.shards import cluster, measure
from vtrap_data.shards.doctor import doctor
from vtrap_data.shards.manifest import PackSettings
from vtrap_data.shards.measure import MeasureOptions, measure_options
from vtrap_data.shards.pack import pack
from vtrap_data.shards.spool import spool_name
from vtrap_data.sources.jsonl import read_jsonl

SETTINGS = PackSettings(
    name="many", budgets=(2, 4), slots=4, mean_frames=3, samples_per_shard=40, shard_bytes=400_000, short_side=48
)
KILLS = 25
HELD = 60
"""Results in the spool at which the driver of the cluster is killed."""
CLIPS, PHOTOS = 90, 115


def write_many(folder: Path) -> Path:
    """205 media items, two of them damaged and one a copy of another."""
    rows: list[dict[str, Any]] = []
    for number in range(CLIPS):
        write_clip(folder / f"c{number}.mp4", frames=6, seed=number)
        rows.append({"video": f"c{number}.mp4", "conversations": chat(f"What happens in clip {number}?")})
        if number % 3 == 0:
            rows.append({"video": f"c{number}.mp4", "conversations": chat("How often does it jump, and when?")})
    for number in range(PHOTOS):
        write_photo(folder / f"p{number}.png", seed=number)
        rows.append({"image": f"p{number}.png", "conversations": chat("What is this?")})
    (folder / "c7.mp4").write_bytes((folder / "c7.mp4").read_bytes()[:300])
    (folder / "p3.png").write_bytes(b"")
    (folder / "c9.mp4").write_bytes((folder / "c8.mp4").read_bytes())
    return write_rows(folder / "rows.jsonl", rows)


@pytest.fixture(scope="module")
def many(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_many(tmp_path_factory.mktemp("many"))


@pytest.fixture(scope="module")
def undisturbed(many: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("undisturbed") / "corpus"
    manifest = pack(read_jsonl(many).samples, out, settings=SETTINGS)
    assert manifest.counts["samples"] == CLIPS + PHOTOS - 3
    assert len(manifest.quarantine) == 2
    assert len(manifest.duplicates) == 1
    assert len(manifest.shards) > 3
    assert doctor(out) == []
    return out


SERVER = """
import os, sys
from pathlib import Path
import webdataset.writer  # half of a pack's time: paid once, here, and not in each of the children
from test_pack_everywhere import SETTINGS
from vtrap_data.shards.pack import pack
from vtrap_data.sources.jsonl import read_jsonl
rows, child = Path(sys.argv[1]), 0
print("ready", flush=True)
for line in sys.stdin:
    if child:
        os.waitpid(child, 0)  # only now: until then nobody else can get its number, and be killed in its place
    child = os.fork()
    if child == 0:
        os.setsid()
        try:
            pack(read_jsonl(rows).samples, Path(line.strip()), settings=SETTINGS)
        except BaseException as error:
            print(repr(error), file=sys.stderr, flush=True)
            os._exit(9)
        os._exit(0)
    print(child, flush=True)
    ended = os.waitid(os.P_PID, child, os.WEXITED | os.WNOWAIT)
    print(ended.si_status if ended.si_code == os.CLD_EXITED else -ended.si_status, flush=True)
"""


@pytest.fixture(scope="module")
def server(many: Path) -> Iterator[subprocess.Popen[str]]:
    """A process that packs in forked children: real processes that can be killed, without 50 slow imports."""
    env = {**os.environ, "PYTHONPATH": str(Path(__file__).parent)}
    command = [sys.executable, "-c", SERVER, str(many)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=env) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "ready\n"
        yield process
        process.stdin.close()  # type: ignore[union-attr]


def start(server: subprocess.Popen[str], out: Path) -> int:
    assert server.stdin is not None
    assert server.stdout is not None
    server.stdin.write(f"{out}\n")
    server.stdin.flush()
    return int(server.stdout.readline())


def end(server: subprocess.Popen[str]) -> int:
    assert server.stdout is not None
    return int(server.stdout.readline())


def test_kill_9_at_25_random_instants(undisturbed: Path, server: subprocess.Popen[str], tmp_path: Path) -> None:
    expected = tree(undisturbed)
    began = time.monotonic()
    start(server, tmp_path / "timed")
    assert end(server) == 0
    seconds = time.monotonic() - began
    assert tree(tmp_path / "timed") == expected
    chance = random.Random(0)
    stages = []
    for number in range(KILLS):
        killed = False
        while not killed:
            instant = (number + chance.random()) / KILLS * seconds  # one in each 25th of the time
            out = tmp_path / f"killed{number}"
            began = time.monotonic()
            child = start(server, out)
            if number < KILLS - 1:
                time.sleep(instant)
            else:  # writing is too short for chance to be sure of it: the last kill waits for it
                while stage(out) in ("starting", "measuring"):
                    time.sleep(0.0005)
            os.kill(child, signal.SIGKILL)
            code = end(server)
            killed = code == -signal.SIGKILL
            if not killed:  # the machine has become faster, and the pack was done before: aim earlier
                assert code == 0
                seconds = min(seconds, time.monotonic() - began) * 0.9
                shutil.rmtree(out)
        stages.append(stage(out))
        start(server, out)
        assert end(server) == 0
        assert tree(out) == expected, f"killed after {instant:.2f} s"
        shutil.rmtree(out)
    assert len(stages) == KILLS
    assert {"measuring", "writing"} <= set(stages)


def stage(out: Path) -> str:
    if (out / "manifest.json").exists():
        return "finished"
    return "writing" if (out / "data").exists() else "measuring" if (out / ".work").exists() else "starting"


def packing(folder: Path, source: Path, out: Path, how: str, *, before: str = "") -> subprocess.Popen[bytes]:
    """A process that packs `source` into `out`; `how` changes the settings, `before` is run before."""
    path = folder / "packing.py"
    path.write_text(
        "from pathlib import Path; from dataclasses import replace; import sys\n"
        "from test_pack_everywhere import SETTINGS, cluster, held, pack, read_jsonl, stand_in\n"
        "if __name__ == '__main__':\n"
        f"    {before}\n"
        f"    pack(read_jsonl(Path(sys.argv[1])).samples, Path(sys.argv[2]), settings=replace(SETTINGS, {how}))\n"
    )
    env = {**os.environ, "PYTHONPATH": str(Path(__file__).parent)}
    return subprocess.Popen([sys.executable, str(path), str(source), str(out)], env=env)


def wait_for(process: subprocess.Popen[bytes], reached: Callable[[], bool]) -> None:
    while process.poll() is None and not reached():
        time.sleep(0.0005)


def measured(out: Path) -> int:
    """Samples in the spool, and the note of the settings."""
    return len(list((out / ".work").glob("*.json")))


def test_kill_9_with_workers_leaves_none_behind(many: Path, undisturbed: Path, tmp_path: Path) -> None:
    """With worker processes of its own, killed again and again on its way to the end, the last time while writing."""
    out = tmp_path / "out"
    for number in (5, 150):
        process = packing(tmp_path, many, out, "workers=2")
        wait_for(process, lambda number=number: measured(out) >= number)
        children = [int(pid) for pid in children_of(process.pid)]
        process.kill()
        assert process.wait() == -signal.SIGKILL
        assert children
        until = time.monotonic() + 30
        while any(alive(pid) for pid in children):
            assert time.monotonic() < until, "a worker outlives its pack"
            time.sleep(0.05)
    shutil.copytree(out, tmp_path / "before")
    code, reached = 0, "finished"
    for _ in range(10):
        process = packing(tmp_path, many, out, "workers=2")
        wait_for(process, lambda: stage(out) == "writing")
        process.kill()
        code, reached = process.wait(), stage(out)
        if reached == "writing":
            break
        shutil.rmtree(out)  # writing is short: it was done before the signal came
        shutil.copytree(tmp_path / "before", out)
    assert (code, reached) == (-signal.SIGKILL, "writing")
    pack(read_jsonl(many).samples, out, settings=SETTINGS)
    assert tree(out) == tree(undisturbed)


def children_of(pid: int) -> list[str]:
    return Path(f"/proc/{pid}/task/{pid}/children").read_text().split()


def alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


@pytest.mark.parametrize("workers", [1, 4])
def test_any_number_of_workers(many: Path, undisturbed: Path, tmp_path: Path, workers: int) -> None:
    pack(read_jsonl(many).samples, tmp_path / "out", settings=replace(SETTINGS, workers=workers))
    assert tree(tmp_path / "out") == tree(undisturbed)


# --- Ray -------------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def two_machines() -> Iterator[None]:
    """A cluster of two nodes with one core each, on this machine."""
    ray = pytest.importorskip("ray", reason="Ray is not installed (extra: ray)")
    os.environ["RAY_USAGE_STATS_ENABLED"] = "0"
    from ray.cluster_utils import Cluster

    nodes = Cluster(initialize_head=True, head_node_args={"num_cpus": 1, "include_dashboard": False})
    nodes.add_node(num_cpus=1)
    nodes.wait_for_nodes()
    paths = os.pathsep.join([str(Path(__file__).parent), os.environ.get("PYTHONPATH", "")])
    ray.init(
        address=nodes.address,
        log_to_driver=False,
        runtime_env={"env_vars": {"PYTHONPATH": paths}},
        logging_level="ERROR",
    )
    yield
    ray.shutdown()
    nodes.shutdown()


@pytest.mark.usefixtures("two_machines")
def test_ray_gives_the_same_bytes(many: Path, undisturbed: Path, tmp_path: Path) -> None:
    import ray

    assert sum(node["Alive"] for node in ray.nodes()) == 2
    pack(read_jsonl(many).samples, tmp_path / "out", settings=replace(SETTINGS, executor="ray"))
    assert tree(tmp_path / "out") == tree(undisturbed)


@pytest.mark.usefixtures("two_machines")
def test_kill_9_of_the_driver_on_ray(many: Path, undisturbed: Path, tmp_path: Path) -> None:
    """The cluster outlives it; the next run goes on with what the tasks have left."""
    import ray

    out = tmp_path / "out"
    address = ray.get_runtime_context().gcs_address
    how = f"executor='ray', ray_address='{address}'"
    whole = "from ray import cloudpickle; cloudpickle.register_pickle_by_value(sys.modules[held.__module__])"
    process = packing(tmp_path, many, out, how, before=f"{whole}; cluster._measure = stand_in(held)")
    wait_for(process, lambda: measured(out) >= HELD)
    process.kill()
    assert process.wait() == -signal.SIGKILL
    assert stage(out) == "measuring"
    assert HELD <= measured(out) <= HELD + 2  # of two tasks at a time
    (tmp_path / "killed").touch()
    settings = replace(SETTINGS, executor="ray", ray_address=address)
    pack(read_jsonl(many).samples, out, settings=settings)
    assert tree(out) == tree(undisturbed)


def held(sample: SourceSample, options: MeasureOptions) -> SampleError | None:
    """Once the spool has `HELD` results nothing is measured until the driver was killed, however late that comes."""
    while len(list(options.spool.glob("*.json"))) >= HELD and not (options.spool.parents[1] / "killed").exists():
        time.sleep(0.02)
    return measure.measure(sample, options)


def crash(sample: SourceSample, options: MeasureOptions) -> SampleError | None:
    """Stands for a decoder that takes the process with it, or never comes back."""
    if "p5." in sample.id:
        os.kill(os.getpid(), signal.SIGSEGV)
    if "p6." in sample.id:
        time.sleep(3600)
    return measure.measure(sample, options)


def stand_in(function: Callable[..., Any]) -> Callable[..., Any]:
    def on_ray(sample: SourceSample, options: MeasureOptions) -> SampleError | None:
        cluster._start_mark(sample, options).touch()
        return measure.measure_in_worker(sample, options, function)

    return on_ray


@pytest.mark.usefixtures("two_machines")
def test_a_file_that_kills_its_process_costs_one_sample_on_ray(
    many: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(cluster, "_measure", stand_in(crash))
    wanted = [s for s in read_jsonl(many).samples if s.id in {"p4.png", "p5.png", "p6.png", "p8.png"}]
    settings = replace(SETTINGS, executor="ray", file_timeout=4.0, max_quarantine_rate=0.5)
    manifest = pack(wanted, tmp_path / "out", settings=settings)
    assert [(q.sample, q.reason) for q in manifest.quarantine] == [("p5.png", "corrupt"), ("p6.png", "timeout")]
    assert manifest.counts["samples"] == 2


@pytest.mark.usefixtures("two_machines")
def test_machines_without_shared_storage_are_noticed(
    many: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(cluster, "_measure", stand_in(elsewhere))
    monkeypatch.setattr(cluster, "PATIENCE", 1.0)
    with pytest.raises(UsageError, match="storage that all machines share"):
        pack(read_jsonl(many).samples[:4], tmp_path / "out", settings=replace(SETTINGS, executor="ray"))


def test_a_result_may_be_seen_late(many: Path, tmp_path: Path) -> None:
    """As on network storage, which remembers for a while that there was no such file."""
    sample = read_jsonl(many).samples[0]
    options = measure_options(SETTINGS, tmp_path)
    write = threading.Timer(1.0, (tmp_path / f"{spool_name(sample)}.json").touch)
    write.start()
    assert cluster._checked(None, sample, options) is None
    write.join()


def test_media_that_a_machine_alone_does_not_see_are_not_set_aside(many: Path, tmp_path: Path) -> None:
    sample, options = read_jsonl(many).samples[0], measure_options(SETTINGS, tmp_path)
    gone = SampleError(sample.id, Reason.MISSING, "no such file")
    with pytest.raises(UsageError, match=f"does not see the media of {sample.id}, which are here"):
        cluster._checked(gone, sample, options)
    nowhere = replace(sample, paths=(tmp_path / "nowhere.png",))
    assert cluster._checked(gone, nowhere, options) is gone


def elsewhere(sample: SourceSample, options: MeasureOptions) -> SampleError | None:
    """A machine whose folders are its own."""
    return None


@pytest.mark.usefixtures("two_machines")
def test_a_machine_that_is_lost_costs_no_sample(many: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The last of these tests: it costs the second machine."""
    import ray

    (tmp_path / "head").write_text(ray.get_runtime_context().get_node_id())
    monkeypatch.setattr(cluster, "_measure", stand_in(lose))
    wanted = [sample for sample in read_jsonl(many).samples if sample.kind == "images"][4:8]
    manifest = pack(wanted, tmp_path / "out", settings=replace(SETTINGS, executor="ray", workers=2))
    assert (tmp_path / "lost").exists()
    assert manifest.quarantine == () and manifest.counts["samples"] == 4


def lose(sample: SourceSample, options: MeasureOptions) -> SampleError | None:
    """Stands for power that fails: a machine goes away, once, with all that runs on it."""
    import ray

    folder = options.spool.parents[1]
    on_head = ray.get_runtime_context().get_node_id() == (folder / "head").read_text()
    if not on_head:
        with suppress(FileExistsError):
            (folder / "lost").touch(exist_ok=False)
            os.kill(os.getppid(), signal.SIGKILL)
            os.kill(os.getpid(), signal.SIGKILL)
    until = time.monotonic() + 20
    while not (folder / "lost").exists() and time.monotonic() < until:
        time.sleep(0.05)
    return measure.measure(sample, options)


def test_an_executor_that_is_not_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(UsageError, match="--executor must be"):
        pack([], tmp_path / "out", settings=replace(SETTINGS, executor="slurm"))  # type: ignore[arg-type]
    with pytest.raises(UsageError, match="needs --executor ray"):
        pack([], tmp_path / "out", settings=replace(SETTINGS, ray_address="auto"))
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(UsageError, match=r"vtrap\[ray\]"):
        pack([], tmp_path / "out", settings=replace(SETTINGS, executor="ray"))
