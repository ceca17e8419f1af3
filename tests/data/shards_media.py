"""Small real media and the rows about them, for the tests of sources, shards and loading."""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import av
import numpy as np
from PIL import Image

from vtrap_data.loading.dataset import PackedDataset
from vtrap_data.samples import Example

SMALL = ["--scorer", "lexical", "--budgets", "2,4,8,16", "--slots", "16", "--mean-frames", "6", "--workers", "0"]


def write_clip(path: Path, *, frames: int = 24, fps: int = 8, seed: int = 0) -> Path:
    """A square that moves over a coloured ground: `frames` frames of 96x64."""
    path.parent.mkdir(parents=True, exist_ok=True)
    ground = np.random.default_rng(seed).integers(0, 200, 3)
    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx264", rate=fps, options={"crf": "20", "preset": "ultrafast"})
        stream.width, stream.height, stream.pix_fmt = 96, 64, "yuv420p"
        for number in range(frames):
            pixels = np.zeros((64, 96, 3), np.uint8) + ground.astype(np.uint8)
            left = 2 + 70 * number // max(1, frames - 1)
            pixels[20:40, left : left + 20] = 255
            for packet in stream.encode(av.VideoFrame.from_ndarray(pixels, format="rgb24")):
                container.mux(packet)
        for packet in stream.encode():
            container.mux(packet)
    return path


def write_photo(path: Path, *, seed: int = 0, size: tuple[int, int] = (40, 30)) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    pixels = np.random.default_rng(seed).integers(0, 255, (size[1], size[0], 3), dtype=np.uint8)
    Image.fromarray(pixels).save(path)
    return path


def chat(question: str, answer: str = "yes") -> list[dict[str, str]]:
    return [{"from": "human", "value": question}, {"from": "gpt", "value": answer}]


def write_rows(path: Path, rows: list[Any]) -> Path:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return path


def write_corpus(folder: Path) -> Path:
    """Three clips with seven questions, one of them too short for its pool; two photo samples; one text row."""
    for number in range(3):
        write_clip(folder / f"clips/c{number}.mp4", frames=5 if number == 2 else 24, seed=number)
    write_photo(folder / "photos/a.png", seed=1)
    write_photo(folder / "photos/b.jpg", seed=2, size=(30, 50))
    rows: list[Any] = []
    for number in range(3):
        clip = {"video": f"clips/c{number}.mp4", "source": "clips", "licence": "CC0-1.0", "redistributable": True}
        rows += [
            {
                **clip,
                "id": f"q{number}-order",
                "conversations": chat("<video>\nIn which order do things happen, and how often does the square jump?"),
                "needs": 16,
                "ability": "order",
            },
            {**clip, "id": f"q{number}-colour", "conversations": chat("<video>\nWhat colour is it?"), "needs": 1},
        ]
    rows += [
        {"image": "photos/a.png", "conversations": chat("<image>\nWhat is this?")},
        {"images": ["photos/a.png", "photos/b.jpg"], "conversations": chat("<image><image>\nWhich is larger?")},
        {
            "video": "clips/c0.mp4",
            "source": "clips",
            "licence": "CC0-1.0",
            "redistributable": True,
            "id": "bench",
            "messages": [{"role": "user", "content": "<video>Which way?"}],
            "options": ["left", "right"],
            "answer": "right",
        },
        {"id": "text", "conversations": chat("What is 2 + 2?", "4")},
    ]
    return write_rows(folder / "rows.jsonl", rows)


def tree(root: Path) -> dict[str, bytes]:
    """Every file below `root` with its bytes."""
    return {path.relative_to(root).as_posix(): path.read_bytes() for path in sorted(root.rglob("*")) if path.is_file()}


def fingerprint(batch: Iterable[Example]) -> list[list[str]]:
    """Which items, and a hash of every pixel of them."""
    found = []
    for example in batch:
        digest = hashlib.sha256()
        for image in (*(example.frames.images if example.frames else ()), *example.images):
            digest.update(image.tobytes())
        found.append([example.item.id, digest.hexdigest()])
    return found


def spoiled(source: Path, root: Path) -> tuple[Path, list[str]]:
    """A copy with one video no frame of which can be decoded, and the ids of its items."""
    shutil.copytree(source, root)
    data = PackedDataset(root)
    rows = data.rows.to_pylist()
    sample = data.sample(0)
    assert sample.video is not None
    with (root / rows[0]["shard"]).open("r+b") as file:
        for start in sample.video.frame_bytes[:-1]:
            file.seek(rows[0]["frames_offset"] + start)
            file.write(b"\0\0")
    return root, [item.id for item in sample.items]
