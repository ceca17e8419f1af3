"""How do toy scenes become a corpus? Real JPEG and H.264 files with a JSONL of questions beside them.

File i of a corpus depends on (kind, purpose, seed, i) alone, so any number of workers gives the same corpus, and
training and benchmark scenes are drawn from streams that never meet.
"""

from __future__ import annotations

import json
import random
import re
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from dataclasses import asdict, dataclass
from multiprocessing import get_context
from pathlib import Path
from typing import Any, Literal, NamedTuple

import av
import numpy as np
from tqdm import tqdm

from vtrap_data.errors import UsageError
from vtrap_data.files import write_bytes
from vtrap_data.interruption import no_interruption
from vtrap_data.samples import IMAGE_MARK, VIDEO_MARK
from vtrap_data.sources.toyworld.draw import draw
from vtrap_data.sources.toyworld.questions import (
    IMAGE_ABILITIES,
    SLOTS,
    TEMPORAL_ABILITIES,
    Question,
    clip,
    frames_needed,
    picture,
)
from vtrap_data.sources.toyworld.scene import SIDE, Scene

TOYWORLD_VERSION = 3
JPEG_QUALITY = 92
MOST = 1_000_000
"""Media files: their numbers have six digits."""
RECIPE = "recipe.json"
"""Of which recipe the media in a folder are: of every one of them but its count, and of which version of this."""

_ID = re.compile(
    r"toy-(?P<kind>images|videos)(-(?P<slots>\d+))?-(?P<purpose>bench|train)-(?P<seed>\d+)-(?P<index>\d{6})-(?P<number>\d+)"
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Recipe:
    """Which corpus: `count` media files of one kind, for training (answers in the conversation) or as a benchmark.

    `slots` is how many frames the hardest questions about a clip take.
    """

    kind: Literal["images", "videos"]
    purpose: Literal["train", "bench"]
    count: int
    seed: int = 0
    slots: int = SLOTS

    def item_id(self, index: int, number: int) -> str:
        """Id of a question of a scene; `of_id` reads it back."""
        world = self.kind if self.slots == SLOTS else f"{self.kind}-{self.slots}"
        return f"toy-{world}-{self.purpose}-{self.seed}-{index:06d}-{number}"

    @classmethod
    def of_id(cls, item_id: str) -> Made | None:
        """Which question of which scene an id names; None if it is none of the toy world's."""
        found = _ID.fullmatch(item_id)
        if found is None:
            return None
        recipe = cls(
            kind="images" if found["kind"] == "images" else "videos",
            purpose="train" if found["purpose"] == "train" else "bench",
            count=int(found["index"]) + 1,
            seed=int(found["seed"]),
            slots=int(found["slots"] or SLOTS),
        )
        return Made(recipe, int(found["index"]), int(found["number"]))

    def scene(self, index: int) -> tuple[Scene, list[Question]]:
        """Scene `index` with its questions: one for a picture; for a clip one about time and one static."""
        rng = random.Random(f"toyworld-{TOYWORLD_VERSION}:{self.kind}:{self.purpose}:{self.seed}:{index}")
        if self.kind == "images":
            scene, question = picture(rng, IMAGE_ABILITIES[index % len(IMAGE_ABILITIES)])
            return scene, [question]
        scene, questions = clip(rng, TEMPORAL_ABILITIES[index % len(TEMPORAL_ABILITIES)], slots=self.slots)
        return scene, questions[:2]


class Made(NamedTuple):
    """A question: `number` of those about a `scene`, with a recipe that holds that scene."""

    recipe: Recipe
    scene: int
    number: int


def generate(recipe: Recipe, out: Path, *, workers: int = 0) -> Path:
    """Write `out/media/*` and, last, `out/<purpose>.jsonl`; files that are already there are kept.

    Returns:
        Path of the JSONL.

    Raises:
        UsageError: Media of another recipe are there.
    """
    media = out / "media"
    media.mkdir(parents=True, exist_ok=True)
    _check_recipe(recipe, out, media)
    jobs = [(recipe, index, media) for index in range(recipe.count)]
    rows: list[dict[str, Any]] = []
    with tqdm(total=len(jobs), desc=f"toyworld {recipe.kind}", unit="file", mininterval=0.5) as bar:
        for made in _each(jobs, workers):
            rows += made
            bar.update()
    path = out / f"{recipe.purpose}.jsonl"
    write_bytes(path, "".join(json.dumps(row, sort_keys=True) + "\n" for row in rows).encode())
    return path


def _check_recipe(recipe: Recipe, out: Path, media: Path) -> None:
    """Refuse a folder whose media are of another recipe: they would be kept, under questions about other scenes."""
    facts = {name: value for name, value in asdict(recipe).items() if name != "count"}
    data = json.dumps({"version": TOYWORLD_VERSION, **facts}, sort_keys=True).encode() + b"\n"
    path = out / RECIPE
    if path.exists():
        same, found = path.read_bytes() == data, path.read_text(encoding="utf-8", errors="replace").strip()[:200]
    else:  # made before recipes were written: the first and the last are compared
        there = sorted(media.glob("[0-9]" * 6 + ".*"))
        same, found = all(_is_of(recipe, one) for one in {*there[:1], *there[-1:]}), "not noted, and other pictures"
    if not same:
        raise UsageError(
            f"--out {out} has media of another recipe ({found}), not of {data.decode().strip()}: choose another"
        )
    write_bytes(path, data)


def _is_of(recipe: Recipe, path: Path) -> bool:
    """Whether a medium is the one that the recipe gives for its number."""
    if path.name != _name(recipe, int(path.stem)):
        return False
    again = _unfinished(path)
    try:
        _draw(recipe, recipe.scene(int(path.stem))[0], again)
        return again.read_bytes() == path.read_bytes()
    finally:
        again.unlink(missing_ok=True)


def _each(jobs: list[tuple[Recipe, int, Path]], workers: int) -> Iterator[list[dict[str, Any]]]:
    if workers <= 1:
        yield from map(_make, jobs)
        return
    with ProcessPoolExecutor(workers, mp_context=get_context("spawn")) as pool:
        with no_interruption():
            made = pool.map(_make, jobs, chunksize=16)
        yield from made


def _unfinished(path: Path) -> Path:
    """How a medium is called until it is whole. The extension stays: the muxer is chosen by it."""
    return path.with_name(f".{path.name}")


def _make(job: tuple[Recipe, int, Path]) -> list[dict[str, Any]]:
    recipe, index, media = job
    scene, questions = recipe.scene(index)
    path = media / _name(recipe, index)
    if not path.exists():
        partial = _unfinished(path)
        _draw(recipe, scene, partial)
        partial.replace(path)
    return [_row(recipe, index, number, question, scene) for number, question in enumerate(questions)]


def _name(recipe: Recipe, index: int) -> str:
    return f"{index:06d}.{'jpg' if recipe.kind == 'images' else 'mp4'}"


def _draw(recipe: Recipe, scene: Scene, path: Path) -> None:
    if recipe.kind == "images":
        draw(scene).save(path, quality=JPEG_QUALITY)
    else:
        encode_clip(scene, path)


def _row(recipe: Recipe, index: int, number: int, question: Question, scene: Scene) -> dict[str, Any]:
    still = recipe.kind == "images"
    messages = [{"role": "user", "content": f"{IMAGE_MARK if still else VIDEO_MARK}{question.text}"}]
    if recipe.purpose == "train":
        messages.append({"role": "assistant", "content": question.answer})
    return {
        "id": recipe.item_id(index, number),
        "images" if still else "videos": [f"media/{_name(recipe, index)}"],
        "messages": messages,
        "question": question.text,
        "options": list(question.options),
        "answer": question.answer,
        "ability": question.ability,
        "needs": None if still else frames_needed(question, frames=scene.frames, slots=recipe.slots),
        "source": "toyworld",
        "licence": "CC0-1.0",
        "redistributable": True,
    }


def encode_clip(scene: Scene, path: Path) -> None:
    """Render a scene to H.264, with ordinary keyframe intervals and B-frames, as in files people have."""
    # asm=0: with x264's vector code, a few clips in a thousand come out differently from one time to the next.
    options = {"crf": "16", "preset": "veryfast", "threads": "1", "x264-params": "asm=0"}
    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx264", rate=scene.fps, options=options)
        stream.width = stream.height = SIDE
        stream.pix_fmt = "yuv420p"
        for i in range(scene.frames):
            frame = av.VideoFrame.from_ndarray(np.asarray(draw(scene, i / scene.frames)), format="rgb24")
            container.mux(stream.encode(frame))
        container.mux(stream.encode())
