"""Stock `datasets`, stock `webdataset` and our readers: the same items, the same pixels, rows of several megabytes."""

from __future__ import annotations

import hashlib
import io
import json
import os
import subprocess
import sys
from pathlib import Path

import av
import numpy as np
import pytest
from PIL import Image
from shards_media import chat, fingerprint, write_corpus, write_photo, write_rows

from vtrap_data.loading.corpus import Corpus
from vtrap_data.loading.dataset import PackedDataset
from vtrap_data.loading.loader import Loader
from vtrap_data.loading.stream import Stream
from vtrap_data.shards.manifest import PackSettings
from vtrap_data.shards.pack import pack
from vtrap_data.sources.jsonl import read_jsonl

SETTINGS = PackSettings(name="big", budgets=(2, 4, 8, 16), slots=16, mean_frames=6, store=16, samples_per_shard=3)
Print = list[list[str]]


@pytest.fixture(scope="module")
def packed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("stock")
    rows = [json.loads(line) for line in write_corpus(folder).read_text().splitlines()]
    for number in range(3):  # noise does not compress: 3 MB each, several in a row
        write_photo(folder / f"photos/n{number}.png", seed=number, size=(1100, 900))
    write_storm(folder / "clips/storm.mp4")
    big = [f"photos/n{number}.png" for number in range(3)]
    rows += [
        {"id": "storm", "video": "clips/storm.mp4", "conversations": chat("In which order do things happen?")},
        {"id": "big", "images": big, "conversations": chat("<image><image><image>\nWhich is the noisiest?")},
        {"id": "one", "image": big[0], "conversations": chat("<image>\nWhat is this?")},
    ]
    source = write_rows(folder / "rows.jsonl", rows)
    pack(read_jsonl(source).samples, folder / "corpus", settings=SETTINGS)
    data = PackedDataset(folder / "corpus")
    assert max(data.column("images_size")) > 8_000_000
    assert max(data.sample(number).video.frame_bytes[-1] for number in storms(data)) > 3_000_000  # type: ignore[union-attr]
    return folder / "corpus"


def write_storm(path: Path) -> None:
    """16 frames of noise in 640x448."""
    chance = np.random.default_rng(0)
    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx264", rate=4, options={"crf": "10", "preset": "ultrafast"})
        stream.width, stream.height, stream.pix_fmt = 640, 448, "yuv420p"
        for _ in range(16):
            pixels = chance.integers(0, 255, (448, 640, 3), dtype=np.uint8)
            container.mux(stream.encode(av.VideoFrame.from_ndarray(pixels, format="rgb24")))
        container.mux(stream.encode(None))


def storms(data: PackedDataset) -> list[int]:
    return [number for number, name in enumerate(data.column("item_id")) if name == "storm"]


@pytest.fixture(scope="module")
def expected(packed: Path) -> Print:
    data = PackedDataset(packed)
    return fingerprint([data[number] for number in range(len(data))])


STOCK = """
import hashlib, json, sys
class Wall:
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0].startswith(("vtrap", "hub_cards")):
            raise ImportError("vtrap is not installed here")
sys.meta_path.insert(0, Wall())
from datasets import load_dataset, load_dataset_builder
where = sys.argv[1]
out = []
# With data_files `datasets` does not read the card, so the features that it declares have to be handed over.
declared = load_dataset_builder(where).info.features
for options in ({}, {"data_files": {"train": "data/*.tar"}, "features": declared}):
    for streaming in (True, False):
        seen = []
        for row in load_dataset(where, split="train", streaming=streaming, **options):
            for item in row["json"]["items"]:
                pictures = [row["frames.mp"][i] for i in item["frame_ids"]] or row["images.mp"] or []
                digest = hashlib.sha256()
                for picture in pictures:
                    digest.update(picture.convert("RGB").tobytes())
                seen.append([item["id"], digest.hexdigest()])
        out.append(seen)
print(json.dumps(out))
"""


def test_stock_datasets_by_folder_and_by_files_streaming_and_not(
    packed: Path, expected: Print, tmp_path: Path
) -> None:
    environment = {**os.environ, "HF_HOME": str(tmp_path), "HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        [sys.executable, "-c", STOCK, str(packed)],
        env=environment,
        capture_output=True,
        text=True,
        cwd=tmp_path,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    ways = json.loads(done.stdout.splitlines()[-1])
    assert len(ways) == 4
    for way in ways:
        assert way == expected


def test_stock_webdataset(packed: Path, expected: Print) -> None:
    import webdataset

    tars = [str(path) for path in sorted((packed / "data").glob("*.tar"))]
    assert len(tars) > 1
    seen = []
    for sample in webdataset.WebDataset(tars, shardshuffle=False).decode():
        for item in sample["json"]["items"]:
            blobs = [sample["frames.mp"][i] for i in item["frame_ids"]] or sample.get("images.mp", [])
            digest = hashlib.sha256()
            for blob in blobs:
                digest.update(np.asarray(Image.open(io.BytesIO(blob)).convert("RGB")).tobytes())
            seen.append([item["id"], digest.hexdigest()])
    assert seen == expected


def test_our_other_readers(packed: Path, expected: Print) -> None:
    assert fingerprint(list(Stream(packed, shuffle=False, block=2))) == expected
    loader = Loader(Corpus(packed, shuffle=False), batch_size=5, workers=1)
    assert [row for batch in loader for row in fingerprint(batch)] == expected
