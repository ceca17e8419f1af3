"""Why do lmms-eval and vtrap answer differently? A part of `bench_harness.py`.

What lmms-eval gave its model is kept, call by call. Then each question is asked again in this process, first as vtrap
asks it, then with one thing after another exchanged for lmms-eval's, until everything is theirs (pictures have no
frames and no seconds to exchange):

* which frames: those that lmms-eval chose, decoded and stored as vtrap does it;
* pixels: what lmms-eval made of the same frames (its decoder, no JPEG in between, its way of scaling);
* seconds: what it tells the model a step in time spans. vtrap takes the distance of the frames shown; lmms-eval
  duration / frames, though its frames reach from the first to the last and lie further apart than that;
* positions: the numbering of transformers instead of the original one (`vtrap_data.encoding.positions`);
* prompt: its tokens;
* generation: its arguments, over those the checkpoint suggests.

An answer is counted where it changes. What still differs from lmms-eval's own answer in the end is left over.
"""

from __future__ import annotations

import io
import json
from collections.abc import Mapping, Sequence
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from typing import Any, NamedTuple

import torch
from PIL import Image
from safetensors import safe_open
from torch import Tensor
from transformers import GenerationConfig

from vtrap_bench.answer import read_answer
from vtrap_bench.backends import BackendSettings
from vtrap_bench.backends.transformers_backend import TransformersBackend
from vtrap_bench.tasks import TASKS
from vtrap_data.encoding import collate, encode
from vtrap_data.encoding.models import resolve
from vtrap_data.loading.dataset import PackedDataset
from vtrap_data.media import jpeg
from vtrap_data.media.decode import decode
from vtrap_data.media.probe import probe
from vtrap_data.samples import Example, Frames

STEPS = ("which frames", "pixels", "seconds", "positions", "prompt", "generation")
_NAMES = {False: ("pixel_values", "image_grid_thw"), True: ("pixel_values_videos", "video_grid_thw")}
"""Of the numbers, and of how many patches they are; of a picture, of a video."""
_SECONDS = "second_per_grid_ts"


class Call(NamedTuple):
    """What lmms-eval gave to `generate`.

    Attributes:
        inputs: Tensors.
        settings: The other arguments.
        frames: Which of the file's frames it shows.
    """

    inputs: dict[str, Tensor]
    settings: dict[str, Any]
    frames: list[int]


class Apart(NamedTuple):
    """The differences of one row of the table.

    Attributes:
        changed: Answers that each of `STEPS` changed.
        scores: Accuracy in points before the first step and after each.
        left: Answers that are not lmms-eval's although everything is.
        scored: Answers, of both, that the two scorers judge differently.
    """

    changed: list[int]
    scores: list[float]
    left: int
    scored: int


def read_calls(folder: Path) -> dict[str, Call]:
    """What was kept, by the id of the question."""
    found = {}
    for path in sorted(folder.glob("*.safetensors")):
        with safe_open(path, framework="pt") as file:
            about = json.loads(file.metadata()["about"])
            inputs = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 (it is no mapping)
        found[about["id"]] = Call(inputs, about["settings"], about["frames"])
    return found


def take_apart(
    calls: Mapping[str, Call],
    *,
    model: Path,
    packed: Path,
    task: str,
    frames: int,
    rows: Sequence[Mapping[str, str]],
    ours: Mapping[str, str],
    theirs: Mapping[str, str],
    their_scorer: Any,
) -> Apart:
    """Exchange one thing after another.

    Args:
        calls: From `read_calls`.
        model: Folder of the checkpoint.
        task: Whose questions they are.
        packed: The packed videos or pictures.
        frames: Shown per video.
        rows: The questions as lmms-eval has them: id, media, answer.
        ours: Answers of vtrap's run, by id.
        theirs: Answers of lmms-eval's.
        their_scorer: (row, [text]) -> {"accuracy": 0 or 1}.

    Raises:
        SystemExit: A question asked again as vtrap asks it is answered in another way than in its run.
    """
    asking = _Asking(model, longest=TASKS[task].max_new_tokens)
    data = PackedDataset(packed, frames=frames)
    number = {name: n for n, name in enumerate(data.column("item_id"))}
    profile = TASKS[task].profiles["vtrap"]
    changed, right, left, scored = [0] * len(STEPS), [0] * (len(STEPS) + 1), 0, 0
    for row in rows:
        name, call = row["id"], calls[row["id"]]
        example = data[number[name]]
        item = example.item

        def is_right(text: str, item: Any = item) -> bool:
            return read_answer(text, item, profile.form)[1]

        asked = replace(example, item=replace(item, messages=profile.messages(item)))
        said = asking.ladder(asked, call, Path(row["media"]), short_side=data.manifest.settings.short_side)
        if said[0] != ours[name]:
            raise SystemExit(f"{name}: asked again, vtrap says {said[0]!r}; in its run it said {ours[name]!r}")
        right = [n + is_right(text) for n, text in zip(right, said, strict=True)]
        changed = [n + (a != b) for n, a, b in zip(changed, said[:-1], said[1:], strict=True)]
        left += said[-1] != theirs[name]
        both = (ours[name], theirs[name])
        scored += sum(is_right(text) != bool(their_scorer(row, [text])["accuracy"]) for text in both)
    return Apart(changed, [100 * n / len(rows) for n in right], left, scored)


class _Asking:
    """The model, asked as vtrap or as lmms-eval asks it."""

    def __init__(self, model: Path, *, longest: int) -> None:
        self._longest = {"max_new_tokens": longest}
        settings = BackendSettings(model=resolve(str(model)), dtype="bfloat16", device="cpu")
        self._backend = TransformersBackend(settings)
        self._processor = self._backend.processor
        self._model = self._backend.model
        self._numbering = self._model.model.get_rope_index
        self._own = self._model.generation_config
        self._suggested = GenerationConfig.from_pretrained(model)

    def ladder(self, example: Example, call: Call, media: Path, *, short_side: int | None) -> list[str]:
        """Answers as vtrap asks and after each of `STEPS`."""
        inputs = [self._inputs(example)]
        if example.frames is not None:
            example = replace(example, frames=_stored(media, call.frames, short_side=short_side))
        inputs.append(self._inputs(example))
        numbers, grid = _NAMES[example.frames is not None]
        # Pictures of another size bring other numbers of patches, and of tokens that stand for them.
        same_size = torch.equal(inputs[-1][grid], call.inputs[grid])
        pixels = (numbers,) if same_size else (*call.inputs.keys() - {_SECONDS},)
        for names in (pixels, (_SECONDS,)):
            inputs.append({**inputs[-1], **{name: call.inputs[name] for name in names if name in call.inputs}})
        said = [self._ask(inputs[0])]
        for before, now in pairwise(inputs):
            said.append(said[-1] if _equal(before, now) else self._ask(now))
        said.append(self._ask(inputs[-1], stock=True))
        said.append(said[-1] if _equal(inputs[-1], call.inputs) else self._ask(call.inputs, stock=True))
        said.append(self._ask(call.inputs, stock=True, settings=call.settings))
        return said

    def _inputs(self, example: Example) -> dict[str, Tensor]:
        batch = collate([encode(example, self._processor, train=False)], self._processor, pad="left")
        del batch["labels"]
        return batch

    def _ask(
        self, inputs: Mapping[str, Tensor], *, stock: bool = False, settings: Mapping[str, Any] | None = None
    ) -> str:
        inner = self._model.model
        inner.__dict__.pop("get_rope_index", None)  # what is left is the class's own
        if not stock:
            inner.get_rope_index = self._numbering
        self._model.generation_config = self._own if settings is None else self._suggested
        with torch.inference_mode():
            out = self._model.generate(**inputs, **(self._longest if settings is None else settings))
        written = out[:, inputs["input_ids"].shape[1] :]
        (text,) = self._processor.tokenizer.batch_decode(
            written, skip_special_tokens=True, clean_up_tokenization_spaces=False
        )
        return str(text).strip()


def _stored(media: Path, frames: Sequence[int], *, short_side: int | None) -> Frames:
    """These frames of a file, as packing stores them."""
    info = probe(media)
    kept = sorted(set(frames))
    shown = {}
    for number, image in zip(kept, decode(info, kept, short_side=short_side).images, strict=True):
        shown[number] = Image.open(io.BytesIO(jpeg.encode(image)))
        shown[number].load()
    return Frames.of([shown[i] for i in frames], times=[float(info.pts[i]) for i in frames])


def _equal(a: Mapping[str, Tensor], b: Mapping[str, Tensor]) -> bool:
    return a.keys() == b.keys() and all(torch.equal(a[name], b[name].to(a[name].dtype)) for name in a)


def table(found: Mapping[str, Apart], *, items: int) -> list[str]:
    """Lines of Markdown: a row per step, a column per kind of items."""
    lines = [
        f"Answers that change when one thing after another is exchanged for lmms-eval's, of {items}; in brackets the "
        "score then.",
        "",
        f"| | {' | '.join(found)} |",
        f"|---|{'---:|' * len(found)}",
        f"| all as vtrap | {' | '.join(f'({one.scores[0]:.1f})' for one in found.values())} |",
    ]
    for number, step in enumerate(STEPS):
        cells = [f"{one.changed[number]} ({one.scores[number + 1]:.1f})" for one in found.values()]
        lines.append(f"| {step} | {' | '.join(cells)} |")
    lines.append(f"| left over | {' | '.join(str(one.left) for one in found.values())} |")
    lines.append(f"| scorers disagree | {' | '.join(str(one.scored) for one in found.values())} |")
    return lines
