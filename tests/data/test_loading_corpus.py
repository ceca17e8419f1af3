from __future__ import annotations

import json
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from shards_media import fingerprint, spoiled, write_corpus
from torch.utils.data import DataLoader

from vtrap_data.errors import Reason, SampleError, UsageError
from vtrap_data.loading.corpus import Corpus, Part
from vtrap_data.loading.dataset import PackedDataset
from vtrap_data.loading.loader import Loader
from vtrap_data.loading.order import Weight
from vtrap_data.shards.manifest import PackSettings
from vtrap_data.shards.pack import pack
from vtrap_data.sources.jsonl import read_jsonl

SETTINGS = PackSettings(name="tiny", budgets=(2, 4, 8, 16), slots=16, mean_frames=6, store=16, samples_per_shard=2)
ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def packed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("corpora")
    source = write_corpus(folder / "source")
    pack(read_jsonl(source).samples, folder / "a", settings=SETTINGS)
    pack(read_jsonl(source).samples, folder / "b", settings=replace(SETTINGS, name="other", strategy="fixed:4"))
    return folder


def mixture(packed: Path, **more: Any) -> Corpus:
    parts = [Part(root=packed / "a", weight=Weight(repeat=2.5)), Part(root=packed / "b", weight=Weight(choose=7))]
    return Corpus(parts, **{"seed": 3, **more})


def ids(batches: Any) -> list[list[str]]:
    return [[example.item.id for example in batch] for batch in batches]


def test_a_mixture_reads_its_parts_and_says_what_it_takes(packed: Path) -> None:
    corpus = mixture(packed)
    first = PackedDataset(packed / "a")
    assert len(corpus) == 20 and corpus.epoch_size == 25 + 7
    assert [(r.root.name, r.items, r.seen) for r in corpus.realised()] == [("a", 10, 25), ("b", 10, 7)]
    assert sum(r.share for r in corpus.realised()) == pytest.approx(1)
    assert fingerprint([corpus[3]]) == fingerprint([first[3]])
    assert corpus[13].item.budget == 4 != corpus[3].item.budget
    assert corpus.column("item_id") == first.column("item_id") * 2
    rows = corpus.order(0)
    assert (rows < 10).sum() == 25 and (rows >= 10).sum() == 7
    with pytest.raises(IndexError):
        corpus[20]
    plain = Corpus(packed / "a", shuffle=False)
    assert plain.order(0).tolist() == plain.order(7).tolist() == list(range(10))
    assert Corpus(packed / "a", frames=2)[0].item.budget == 2


@pytest.mark.parametrize("workers", [1, 3])
def test_workers_do_not_change_what_comes(packed: Path, workers: int) -> None:
    alone = [fingerprint(batch) for batch in Loader(mixture(packed), batch_size=4)]
    assert [fingerprint(batch) for batch in Loader(mixture(packed), batch_size=4, workers=workers)] == alone


def test_an_epoch_leaves_what_is_random_elsewhere_as_a_data_loader_does(packed: Path) -> None:
    before, after = torch.get_rng_state(), []
    for batches in (Loader(mixture(packed), batch_size=4), DataLoader(range(2))):
        torch.set_rng_state(before)
        assert len(list(batches)) == len(batches)
        after.append(torch.get_rng_state())
    assert torch.equal(*after) and not torch.equal(before, after[0])


def test_ranks_share_every_batch_of_the_same_order(packed: Path) -> None:
    lengths = mixture(packed).column("n_frames")
    for options in ({}, {"lengths": lengths, "window": 3}):
        whole = ids(Loader(mixture(packed), batch_size=8, **options))
        for ranks in (2, 4):
            parts = [
                ids(Loader(mixture(packed), batch_size=8, rank=rank, ranks=ranks, **options)) for rank in range(ranks)
            ]
            for number, batch in enumerate(whole):
                joined = [None] * len(batch)
                for rank in range(ranks):
                    joined[rank::ranks] = parts[rank][number]
                assert joined == batch


def test_length_grouping_keeps_the_items(packed: Path) -> None:
    corpus = mixture(packed)
    lengths = np.array(corpus.column("n_frames"))
    plain = Loader(mixture(packed), batch_size=4)
    grouped = Loader(corpus, batch_size=4, lengths=lengths, window=8)
    assert sorted(plain.order(1).tolist()) == sorted(grouped.order(1).tolist())

    def spread(loader: Loader[Any]) -> float:
        return float(np.ptp(lengths[loader.order(1)].reshape(-1, 4), axis=1).mean())

    assert spread(grouped) < spread(plain) / 2


def test_the_state_is_exact_at_every_batch_and_for_other_workers(packed: Path) -> None:
    whole = Loader(mixture(packed), batch_size=5)
    expected = [ids(whole), ids(whole)]  # two epochs
    assert whole.epoch == 2 and expected[0] != expected[1]
    for stop in range(8):
        loader = Loader(mixture(packed), batch_size=5, workers=stop % 3)
        batches = iter(loader)
        seen = [[e.item.id for e in next(batches)] for _ in range(min(stop, 7))]
        state = json.loads(json.dumps(loader.state_dict()))
        other = Loader(mixture(packed), batch_size=5, workers=2 if stop == 3 else 0)
        other.load_state_dict(state)
        assert seen + ids(other) == expected[0]
        assert ids(other) == expected[1]


def test_a_state_of_another_order_is_refused(packed: Path) -> None:
    state = Loader(mixture(packed), batch_size=4).state_dict()
    for corpus, options in (
        (mixture(packed, seed=4), {"batch_size": 4}),
        (mixture(packed), {"batch_size": 8}),
        (mixture(packed), {"batch_size": 4, "drop_last": True}),
        (mixture(packed, frames=2), {"batch_size": 4}),
        (Corpus(packed / "a", seed=3), {"batch_size": 4}),
    ):
        with pytest.raises(UsageError, match="belongs to another order"):
            Loader(corpus, **options).load_state_dict(state)


def test_a_state_is_of_the_lengths_that_it_was_made_with(packed: Path) -> None:
    """With others the rest of the epoch would see items twice, and others never."""
    lengths = mixture(packed).column("n_frames")
    options: dict[str, Any] = {"batch_size": 4, "window": 3}
    state = Loader(mixture(packed), lengths=lengths, **options).state_dict()
    Loader(mixture(packed), lengths=np.array(lengths, np.int32), **options).load_state_dict(state)
    with pytest.raises(UsageError, match=r"lengths was [0-9a-f]{16}, is [0-9a-f]{16}"):
        Loader(mixture(packed), lengths=lengths[::-1], **options).load_state_dict(state)


@pytest.mark.parametrize("workers", [0, 2])
def test_a_sample_that_is_bad_costs_its_batch_and_not_the_epoch(packed: Path, tmp_path: Path, workers: int) -> None:
    root, bad = spoiled(packed / "a", tmp_path / "a")
    loader = Loader(Corpus(root, seed=1), batch_size=1, workers=workers)
    expected = [loader.corpus.column("item_id")[row] for row in loader.order(0)]
    seen: list[str] = []
    failed: list[int] = []
    for _ in range(len(bad) + 1):
        try:
            for (example,) in loader:
                seen.append(example.item.id)
        except SampleError as error:
            assert error.reason == "corrupt" and error.sample.startswith("0000")
            failed.append(loader.batch)
            again = Loader(Corpus(root, seed=1), batch_size=1)
            again.load_state_dict(json.loads(json.dumps(loader.state_dict())))
            loader = again if workers == 0 else loader
    assert seen == [name for name in expected if name not in bad]
    assert failed == [place + 1 for place, name in enumerate(expected) if name in bad]


def too_large(batch: list[Any]) -> list[Any]:
    raise SampleError(batch[0].item.id, Reason.TOO_LONG, "9 tokens of 8")


@pytest.mark.parametrize("workers", [0, 1])
def test_errors_come_out_of_workers_as_they_are(packed: Path, tmp_path: Path, workers: int) -> None:
    loader = Loader(Corpus(packed / "a", shuffle=False), batch_size=2, workers=workers, transform=too_large)
    with pytest.raises(SampleError, match=r"^q0-order: too-long: 9 tokens of 8$"):
        next(iter(loader))
    shutil.copytree(packed / "a", tmp_path / "a")
    corpus = Corpus(tmp_path / "a", shuffle=False)
    for shard in (tmp_path / "a/data").iterdir():
        shard.unlink()
    broken = Loader(corpus, batch_size=2, workers=workers)
    for _ in range(2):
        with pytest.raises(UsageError, match="cannot be opened: No such file"):
            next(iter(broken))
        assert broken.batch == 0, "a shard that is put back is to be read"


def test_wrong_use_is_refused(packed: Path) -> None:
    corpus = mixture(packed)
    for said, options in (
        ("multiple of ranks", {"batch_size": 3, "ranks": 2}),
        ("rank 2 must be from 0 to 1", {"batch_size": 2, "ranks": 2, "rank": 2}),
        ("set drop_last", {"batch_size": 31 * 2, "ranks": 31}),
        ("3 lengths for 20 rows", {"batch_size": 1, "lengths": [1, 2, 3]}),
        ("workers -1", {"batch_size": 1, "workers": -1}),
    ):
        with pytest.raises(UsageError, match=said):
            Loader(corpus, **options)
    with pytest.raises(UsageError, match="at least one"):
        Corpus([])
    with pytest.raises(UsageError, match="seed"):
        Corpus(packed / "a", seed=-1)


CHILD = """
import json, sys
sys.path[:0] = [{tests!r}]
from pathlib import Path
from shards_media import fingerprint
from test_loading_corpus import mixture
from vtrap_data.loading.loader import Loader

folder, workers = Path(sys.argv[1]), int(sys.argv[2])
log = folder / "log.jsonl"
done = [json.loads(line) for line in log.read_text().splitlines() if line.endswith("}}")] if log.exists() else []
loader = Loader(mixture(folder), batch_size=3, workers=workers, lengths=mixture(folder).column("n_frames"), window=4)
if done:
    loader.load_state_dict(done[-1]["state"])
with log.open("a") as file:
    while loader.epoch < 2:
        for batch in loader:
            file.write(json.dumps({{"seen": fingerprint(batch), "state": loader.state_dict()}}) + "\\n")
            file.flush()
            print(loader.batch, flush=True)
            sys.stdin.readline()  # so that it is never further than the next sample when it is killed
"""


def run(folder: Path, workers: int, *, kill_after: int | None = None) -> None:
    code = CHILD.format(tests=str(Path(__file__).parent))
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    words = [sys.executable, "-c", code, str(folder), str(workers)]
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True}
    child = subprocess.Popen(words, env=environment, start_new_session=True, **pipes)
    assert child.stdin is not None and child.stdout is not None
    for lines, _ in enumerate(child.stdout, start=1):
        child.stdin.write("\n")
        child.stdin.flush()
        if lines == kill_after:
            time.sleep(random.random() / 100)
            os.killpg(child.pid, signal.SIGKILL)
            break
    child.wait(timeout=60)
    child.stdin.close()
    child.stdout.close()
    assert child.returncode == (0 if kill_after is None else -signal.SIGKILL)


def test_a_killed_epoch_goes_on_with_the_very_next_sample(packed: Path, tmp_path: Path) -> None:
    expected = []
    loader = Loader(mixture(packed), batch_size=3, lengths=mixture(packed).column("n_frames"), window=4)
    while loader.epoch < 2:
        expected += [fingerprint(batch) for batch in loader]
    for name in ("a", "b"):
        (tmp_path / name).symlink_to(packed / name)
    for workers, kill_after in ((2, 4), (0, 5), (3, 6), (1, None)):
        run(tmp_path, workers, kill_after=kill_after)
    seen = [json.loads(line)["seen"] for line in (tmp_path / "log.jsonl").read_text().splitlines()]
    assert seen == expected
