from __future__ import annotations

import io
import json
import os
import resource
import shutil
import subprocess
import sys
import tarfile
import threading
from collections.abc import Iterator
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from itertools import islice
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import fsspec  # type: ignore[import-untyped]
import pyarrow.compute as pc
import pytest
from fsspec.implementations.local import LocalFileSystem  # type: ignore[import-untyped]
from shards_media import fingerprint, spoiled, write_corpus

from vtrap_data.errors import SampleError, UnreachableError, UsageError
from vtrap_data.loading import remote
from vtrap_data.loading.dataset import PackedDataset
from vtrap_data.loading.remote import open_remote
from vtrap_data.loading.stream import Stream
from vtrap_data.media.tars import tar_members
from vtrap_data.shards.index import read_index
from vtrap_data.shards.manifest import PackSettings
from vtrap_data.shards.pack import pack
from vtrap_data.sources.jsonl import read_jsonl

SETTINGS = PackSettings(name="tiny", budgets=(2, 4, 8, 16), slots=16, mean_frames=6, store=8, samples_per_shard=2)


@pytest.fixture(scope="module")
def packed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("stream")
    pack(read_jsonl(write_corpus(folder / "source")).samples, folder / "corpus", settings=SETTINGS)
    return folder / "corpus"


class Quiet(SimpleHTTPRequestHandler):
    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture(scope="module")
def address(packed: Path) -> Iterator[str]:
    server = ThreadingHTTPServer(("127.0.0.1", 0), partial(Quiet, directory=str(packed)))
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_address[1]}"
    server.shutdown()


def test_the_stream_gives_what_the_local_reader_gives(packed: Path) -> None:
    for frames in ("hybrid", 4):
        local = PackedDataset(packed, frames=frames)  # type: ignore[arg-type]
        streamed = list(Stream(packed, frames=frames, shuffle=False, block=2))  # type: ignore[arg-type]
        assert fingerprint(streamed) == fingerprint([local[i] for i in range(len(local))])
        assert [e.item for e in streamed] == [local[i].item for i in range(len(local))]


def test_every_item_once_an_epoch_in_an_order_of_its_own(packed: Path) -> None:
    stream = Stream(packed, seed=5, block=3)
    epochs = [[e.item.id for e in stream] for _ in range(3)]
    assert stream.epoch == 3
    assert len({tuple(sorted(epoch)) for epoch in epochs}) == 1 and len(set(epochs[0])) == 10
    assert epochs[0] != epochs[1] != epochs[2]
    parts = [[e.item.id for e in Stream(packed, seed=5, rank=rank, ranks=3)] for rank in range(3)]
    assert sorted(name for part in parts for name in part) == sorted(epochs[0])


def test_the_state_is_exact_after_every_item(packed: Path) -> None:
    expected = [e.item.id for e in Stream(packed, seed=1, block=2)]
    for stop in range(11):
        stream = Stream(packed, seed=1, block=2)
        items = iter(stream)
        seen = [next(items).item.id for _ in range(stop)]
        other = Stream(packed, seed=1, block=2)
        other.load_state_dict(json.loads(json.dumps(stream.state_dict())))
        items = iter(other)
        seen += [e.item.id for e in islice(items, min(2, 10 - stop))]  # and gone on with twice
        third = Stream(packed, seed=1, block=2)
        third.load_state_dict(json.loads(json.dumps(other.state_dict())))
        assert seen + [e.item.id for e in items] == expected
        assert seen + [e.item.id for e in third] == expected
    with pytest.raises(UsageError, match="belongs to another order"):
        Stream(packed, seed=2, block=2).load_state_dict(stream.state_dict())


CHILD = """
import json, sys
sys.path.insert(0, {tests!r})
from itertools import islice
from shards_media import fingerprint
from vtrap_data.loading.stream import Stream
stream = Stream(sys.argv[1], seed=1, block=2, frames=4)
state = json.loads(sys.argv[2])
if state:
    stream.load_state_dict(state)
seen = fingerprint(islice(stream, int(sys.argv[3])))
print(json.dumps([seen, stream.state_dict()]))
"""


def child(location: str, state: object, items: int, environment: dict[str, str]) -> tuple[list[list[str]], object]:
    code = CHILD.format(tests=str(Path(__file__).parent))
    done = subprocess.run(
        [sys.executable, "-c", code, location, json.dumps(state), str(items)],
        env=environment, capture_output=True, text=True, timeout=300, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-2000:]
    seen, state = json.loads(done.stdout.splitlines()[-1])
    return seen, state


def test_http_resumes_exactly_in_another_process(packed: Path, address: str, tmp_path: Path) -> None:
    environment = {**os.environ, "HF_HUB_OFFLINE": "0", "HF_HOME": str(tmp_path), "OMP_NUM_THREADS": "1"}
    environment["PYTHONPATH"] = str(Path(__file__).parents[2])
    expected = fingerprint(list(Stream(packed, seed=1, block=2, frames=4)))
    first, state = child(address, None, 5, environment)
    second, _ = child(address, state, 99, environment)
    assert first + second == expected and len(first) == 5


def test_the_hub_resumes_exactly_in_another_process(packed: Path, tmp_path: Path) -> None:
    from standin.running import running

    upload = "import sys; from huggingface_hub import HfApi; api = HfApi(); api.create_repo('ann/tiny', "
    upload += (
        "repo_type='dataset'); api.upload_folder(repo_id='ann/tiny', repo_type='dataset', folder_path=sys.argv[1])"
    )
    with running(tmp_path / "hub") as hub:
        environment = {**hub.environment(tmp_path / "home"), "OMP_NUM_THREADS": "1"}
        done = subprocess.run(
            [sys.executable, "-c", upload, str(packed)], env=environment, capture_output=True, text=True, check=False
        )
        assert done.returncode == 0, done.stderr[-2000:]
        first, state = child("hf://datasets/ann/tiny", None, 4, environment)
        second, _ = child("hf://datasets/ann/tiny", state, 99, environment)
    assert first + second == fingerprint(list(Stream(packed, seed=1, block=2, frames=4)))


def test_a_bucket_resumes_exactly(packed: Path) -> None:
    """A store that knows objects and no folders, behind fsspec as s3:// and gs:// are."""
    import fsspec

    bucket = fsspec.filesystem("memory")
    for path in packed.rglob("*"):
        if path.is_file():
            bucket.pipe(f"/bucket/corpus/{path.relative_to(packed)}", path.read_bytes())
    try:
        expected = fingerprint(list(Stream(packed, seed=1, block=2, frames=4)))
        stream = Stream("memory://bucket/corpus", seed=1, block=2, frames=4)
        first = fingerprint(list(islice(stream, 5)))
        state = json.loads(json.dumps(stream.state_dict()))
        again = Stream("memory://bucket/corpus", seed=1, block=2, frames=4)
        again.load_state_dict(state)
        assert first + fingerprint(list(again)) == expected
    finally:
        bucket.rm("/bucket", recursive=True)


@pytest.fixture(scope="module")
def s3(packed: Path) -> Iterator[str]:
    """A server that speaks S3, with the corpus in a bucket; gives its address. Needs the extra `dev`."""
    for name in ("s3fs", "moto.server"):
        pytest.importorskip(name, reason=f"{name} is not installed (extra: dev)")
    from moto.server import ThreadedMotoServer  # type: ignore[import-not-found,import-untyped,unused-ignore]

    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    address = f"http://{host}:{port}"
    import boto3  # type: ignore[import-not-found,import-untyped,unused-ignore]

    with pytest.MonkeyPatch.context() as patch:
        for name in ("ACCESS_KEY_ID", "SECRET_ACCESS_KEY"):
            patch.setenv(f"AWS_{name}", "ann")
        client = boto3.client("s3", endpoint_url=address, region_name="us-east-1")
        client.create_bucket(Bucket="lab")
        for path in packed.rglob("*"):
            if path.is_file():
                client.upload_file(str(path), "lab", f"corpus/{path.relative_to(packed)}")
        yield address
    server.stop()


def test_s3_resumes_exactly_in_another_process(packed: Path, s3: str, tmp_path: Path) -> None:
    environment = {**os.environ, "HF_HOME": str(tmp_path), "OMP_NUM_THREADS": "1", "AWS_ENDPOINT_URL": s3}
    environment["PYTHONPATH"] = str(Path(__file__).parents[2])
    first, state = child("s3://lab/corpus", None, 5, environment)
    second, _ = child("s3://lab/corpus", state, 99, environment)
    assert first + second == fingerprint(list(Stream(packed, seed=1, block=2, frames=4))) and len(first) == 5


def test_s3_takes_its_endpoint_as_an_option_and_says_what_is_wrong(packed: Path, s3: str) -> None:
    options = {"key": "ann", "secret": "ann", "client_kwargs": {"endpoint_url": s3}}
    streamed = Stream("s3://lab/corpus", shuffle=False, storage_options=options)
    assert fingerprint(list(streamed)) == fingerprint(list(Stream(packed, shuffle=False)))
    for place in ("s3://lab/nothing", "s3://nobody/corpus"):
        with pytest.raises(UsageError, match=r"manifest.json cannot be read \(FileNotFoundError: .*may you read it"):
            Stream(place, storage_options=options)
    options["client_kwargs"] = {"endpoint_url": "http://127.0.0.1:9"}
    with pytest.raises(UsageError, match=r"manifest.json cannot be read \(\w+: .*may you read it"):
        Stream("s3://lab/corpus", storage_options={**options, "config_kwargs": {"retries": {"max_attempts": 0}}})


def test_s3_is_read_by_position(packed: Path, s3: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_ENDPOINT_URL", s3)
    opened = open_remote("s3://lab/corpus", cache=tmp_path, keep=1)
    there, here = PackedDataset(opened.root, fetch=opened.fetch), PackedDataset(packed)
    assert fingerprint([there[i] for i in range(len(there))]) == fingerprint([here[i] for i in range(len(here))])
    with pytest.raises(UsageError, match="cannot be read"):
        open_remote("s3://lab/nothing", cache=tmp_path, keep=1)


def test_a_server_that_is_busy_at_the_start_is_asked_again(
    packed: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    waits: list[float] = []
    asked: list[str] = []

    class Busy(Quiet):
        def do_GET(self) -> None:
            asked.append(self.path)
            if asked.count(self.path) == 1:
                self.send_error(503)
            elif asked.count(self.path) <= 3:
                self.close_connection = True  # not a word, also when aiohttp at once asks again
            else:
                super().do_GET()

    monkeypatch.setattr(remote.time, "sleep", waits.append)
    with ThreadingHTTPServer(("127.0.0.1", 0), partial(Busy, directory=str(packed))) as server:
        thread = threading.Thread(target=server.serve_forever, daemon=True)
        thread.start()
        url = f"http://127.0.0.1:{server.server_address[1]}"
        assert open_remote(url, cache=tmp_path, keep=1).manifest.counts["samples"] == 6
        assert {asked.count(name) for name in ("/manifest.json", "/index.parquet")} == {4} and {1, 2} <= {*waits}
        for begin in (asked, waits):
            begin.clear()
        assert Stream(url).manifest.counts["samples"] == 6
        assert asked == ["/manifest.json"] * 4 and {1, 2} <= {*waits}
        waits.clear()
        with pytest.raises(UsageError, match=r"cannot be read \(FileNotFoundError: .*may you read it"):
            asked.clear()
            open_remote(f"{url}/elsewhere", cache=tmp_path, keep=1)
        server.shutdown()
    with pytest.raises(UsageError, match="cannot be read"):
        waits.clear()
        open_remote("gopher://x/c", cache=tmp_path, keep=1)
    assert not waits, "an address that is none is no reason to wait"


def test_an_address_where_nobody_answers_is_told_sooner_than_one_that_is_busy(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    now = 0.0

    def sleep(seconds: float) -> None:
        nonlocal now
        now += seconds

    monkeypatch.setattr(remote, "time", SimpleNamespace(sleep=sleep, monotonic=lambda: now))
    for address in ("http://127.0.0.1:9/c", "http://no-such-host.invalid/c"):
        now = 0.0
        with pytest.raises(UsageError, match=r"cannot be read .*Cannot connect"):
            open_remote(address, cache=tmp_path, keep=1)
        assert now == 7
        with pytest.raises(UsageError, match=r"cannot be read .*Cannot connect"):
            Stream(address)
        assert now == 14


@pytest.mark.parametrize("keep", [0, -1])
def test_a_place_for_no_shard_is_refused(packed: Path, tmp_path: Path, keep: int) -> None:
    with pytest.raises(UsageError, match=f"keep is {keep}; it must be 1 or more"):
        open_remote(f"file://{packed}", cache=tmp_path / "cache", keep=keep)


def test_a_disk_that_takes_nothing_is_not_told_as_a_corpus_that_is_not_there(packed: Path, tmp_path: Path) -> None:
    (tmp_path / "cache").write_text("a file")
    with pytest.raises(OSError, match="cache"):
        open_remote(f"file://{packed}", cache=tmp_path / "cache", keep=1)
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (100, before[1]))
    try:
        with pytest.raises(OSError, match="File too large"):
            open_remote(f"file://{packed}", cache=tmp_path / "other", keep=1)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


def test_wrong_use_is_refused(packed: Path, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"manifest.json cannot be read .* may you read it"):
        Stream(tmp_path)
    with pytest.raises(UsageError, match="too few for 4 ranks"):
        Stream(packed, ranks=4)
    with pytest.raises(UsageError, match="budget of 3 frames does not fit"):
        Stream(packed, frames=3)
    with pytest.raises(UsageError, match="frames is 'hybird'; allowed are 'hybrid'"):
        Stream(packed, frames="hybird")
    with pytest.raises(UsageError, match=r"q0-order: .* are not stored.*--store 16"):
        list(Stream(packed, frames=16, shuffle=False))
    with pytest.raises(UsageError, match="block 0"):
        Stream(packed, block=0)


@pytest.mark.parametrize(
    ("member", "content", "said"),
    [
        ("json", None, "its json is missing"),
        ("json", b'{"format": 1}', "'key': is None, not str"),
        ("frames.mp", None, "its frames.mp is missing"),
        ("frames.mp", b"\x90", "index out of range"),
        ("frames.mp", b"\x92\xc0\xc0", "its frames.mp holds what are no bytes"),
        ("images.mp", None, "its images.mp is missing"),
        ("images.mp", b"\x90", "0 images of 1"),
    ],
)
def test_a_damaged_sample_is_named(
    packed: Path, tmp_path: Path, member: str, content: bytes | None, said: str
) -> None:
    shutil.copytree(packed, tmp_path / "c")
    index = read_index(packed)
    row = (
        index.filter(pc.equal(index["kind"], "images" if member == "images.mp" else "video"))
        .slice(0, 1)
        .to_pylist()[0]
    )
    path, key = tmp_path / "c" / row["shard"], row["key"]
    with tarfile.open(path) as tar:
        found = [(info, tar.extractfile(info).read()) for info in tar]  # type: ignore[union-attr]
    with tarfile.open(path, "w") as tar:
        for info, data in found:
            if info.name == f"{key}.{member}":
                if content is None:
                    continue
                data, info.size = content, len(content)
            tar.addfile(info, io.BytesIO(data))
    with pytest.raises(UsageError, match=rf"sample {key} of {path.name} is damaged \(.*{said}"):
        list(Stream(tmp_path / "c", shuffle=False))


def test_a_frame_that_cannot_be_decoded_is_got_past(packed: Path, tmp_path: Path) -> None:
    root, bad = spoiled(packed, tmp_path / "c")
    expected = [e.item.id for e in Stream(packed, seed=1, block=2)]
    stream = Stream(root, seed=1, block=2)
    seen: list[str] = []
    failed = 0
    for _ in range(len(bad) + 1):
        try:
            for example in stream:
                seen.append(example.item.id)
        except SampleError as error:
            assert error.reason == "corrupt"
            failed += 1
            again = Stream(root, seed=1, block=2)
            again.load_state_dict(json.loads(json.dumps(stream.state_dict())))
            stream = again
    assert seen == [name for name in expected if name not in bad] and failed == len(bad) > 0


@pytest.mark.parametrize("cut", ["after a sample", "after a member", "in a member", "in a header", "to nothing"])
def test_a_shard_that_is_cut_off_is_told(packed: Path, tmp_path: Path, cut: str) -> None:
    shutil.copytree(packed, tmp_path / "c")
    path = tmp_path / "c/data/train-00001.tar"
    members = list(tar_members(path))
    second = next(number for number, (name, _) in enumerate(members) if name[:8] != members[0][0][:8])
    ends = [span.offset + -(-span.size // 512) * 512 for _, span in members]
    places = {
        "after a sample": ends[second - 1],
        "after a member": ends[second],
        "in a member": members[second][1].offset + 5,
        "in a header": ends[second - 1] + 100,
        "to nothing": 0,
    }
    os.truncate(path, places[cut])
    stream = Stream(tmp_path / "c", shuffle=False, block=1)
    seen: list[str] = []
    said = r"data/train-00001.tar gives \d of its 2 samples \(.*"
    if cut == "after a member":
        said = r"sample 0000\S+ of train-00001.tar is damaged \(its (frames|images).mp is missing.*"
    with pytest.raises(UsageError, match=said + "run `doctor` on it"):
        for example in stream:
            seen.append(example.item.id)
    assert 0 < len(seen) < 10 and seen == [e.item.id for e in islice(Stream(packed, shuffle=False), len(seen))]
    # Gone on with once the shard is whole again: nothing is missing.
    shutil.copyfile(packed / "data/train-00001.tar", path)
    assert len(seen + [e.item.id for e in stream]) == 10


def test_a_folder_with_brackets_in_its_name_is_no_pattern(packed: Path, tmp_path: Path) -> None:
    shutil.copytree(packed, tmp_path / "my [1] [a-z]")
    found = [e.item.id for e in Stream(tmp_path / "my [1] [a-z]", seed=1)]
    assert found == [e.item.id for e in Stream(packed, seed=1)]


class BrokenError(Exception):
    """Of a client whose errors are no OSErrors, as those of aiohttp are not."""


class Breaking(LocalFileSystem):  # type: ignore[misc]
    """A file system from which shards do not come whole while `TOO_FAR` is set."""

    protocol = "breaking"
    TOO_FAR: int | None = None

    @classmethod
    def _strip_protocol(cls, path: str) -> str:
        return "/" + path.removeprefix("breaking://").lstrip("/")

    def _open(self, path: str, mode: str = "rb", **options: Any) -> Any:
        file = super()._open(path, mode, **options)
        if path.endswith("train-00001.tar") and self.TOO_FAR is not None:
            stock, most = file.f.read, self.TOO_FAR

            def read(size: int = -1) -> bytes:
                if file.f.tell() >= most:
                    raise BrokenError("Response payload is not completed: https://x/y?token=hf_secretsecret")
                return stock(size)  # type: ignore[no-any-return]

            file.read = read
        return file


def test_a_shard_that_stops_coming_is_told_and_gone_on_with(packed: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    fsspec.register_implementation("breaking", Breaking, clobber=True)
    monkeypatch.setattr(Breaking, "TOO_FAR", 4096)
    stream = Stream(f"breaking://{packed}", shuffle=False, block=1)
    seen: list[str] = []
    said = r"data/train-00001.tar did not come whole \(BrokenError: .*token=\*\*\*\): iterate again, or from the state"
    with pytest.raises(UnreachableError, match=said):
        for example in stream:
            seen.append(example.item.id)
    monkeypatch.setattr(Breaking, "TOO_FAR", None)
    assert seen and seen + [e.item.id for e in stream] == [e.item.id for e in Stream(packed, shuffle=False)]


def test_shards_of_another_pack_and_none_at_all_are_told(packed: Path, tmp_path: Path) -> None:
    shutil.copytree(packed, tmp_path / "c")
    manifest = json.loads((tmp_path / "c/manifest.json").read_text())
    for shard, said in (
        (2, r"data/train-00002.tar gives 1 of its 1 samples \(and more come\)"),
        (0, r"data/train-00001.tar gives 0 of its 2 samples \(then comes train-00000.tar\)"),
    ):
        changed = json.loads(json.dumps(manifest))
        changed["shards"][shard]["samples"] -= 1
        (tmp_path / "c/manifest.json").write_text(json.dumps(changed))
        with pytest.raises(UsageError, match=said):
            list(Stream(tmp_path / "c", shuffle=False))
    (tmp_path / "c/manifest.json").write_text(json.dumps(manifest))
    (tmp_path / "c/data/train-00001.tar").unlink()
    with pytest.raises(UsageError, match=r"Unable to find .*train-00001.tar': run `doctor` on it; try again"):
        list(Stream(tmp_path / "c", shuffle=False))


def test_a_larger_budget_where_it_is_stored(packed: Path) -> None:
    assert {e.item.budget for e in Stream(packed, frames=8)} == {0, 8}
