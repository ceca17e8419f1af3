"""Reproduce the base checkpoint of toy-vl: the image abilities, and the form of the video questions but no answers.

    python scripts/train_toy_base.py --out runs/toy-base            # about 40 minutes on one core
    python scripts/train_toy_base.py --out vtrap_data/toy_vl/checkpoint

Three stages, each with an optimiser and a stream of data of its own:
1. The vision tower alone: every visual token is told, through two throw-away heads, which shape and which colour its
   16 x 16 pixels show; from questions alone a tower of this size takes hours to learn that.
2. The whole model: 80 % pictures with one to three questions of the five image abilities, few things on them at first;
   8 % one or two identical frames as a video with static questions; 12 % the same with a question about time and an
   answer drawn at random from its options.
3. Half pictures as in 2, half clips of 2 to 16 frames, with two questions: what something looks like, whenever it
   shows; one about time gets a random one of its options for an answer. So the base can watch a clip from end to end
   and knows what an answer about time looks like, but has nothing to base it on: it starts at chance. In three cycles
   of the learning rate.
From the second half of 2 on, any picture is also asked where things are, which takes longest to learn.
In 2 and 3, half the questions about what lasts are asked about the end ("In the end, where is ..."): it makes no
difference there.
Pictures and frames pass through JPEG as in the shards. A plain loop, not the Video-SFT trainer: this is pre-training,
and its data is endless and never stored.
"""

from __future__ import annotations

import argparse
import dataclasses
import functools
import io
import random
from collections.abc import Iterator, Sequence
from pathlib import Path

import torch
from PIL import Image
from torch.utils.data import DataLoader, IterableDataset
from tqdm import tqdm

from vtrap_data.encoding import Encoded, collate, encode, load_model, resolve
from vtrap_data.encoding.tokens import pixels_of
from vtrap_data.media.jpeg import encode as jpeg
from vtrap_data.media.select import subset_slots
from vtrap_data.samples import IMAGE_MARK, VIDEO_MARK, Example, Frames, Message, PackedItem
from vtrap_data.sources.toyworld.draw import draw
from vtrap_data.sources.toyworld.questions import (
    DIGITS,
    IMAGE_ABILITIES,
    SLOTS,
    TEMPORAL_ABILITIES,
    at_the_end,
    clear_of_middle,
    clip,
    picture,
    place_of,
)
from vtrap_data.sources.toyworld.scene import COLOURS, FPS, SHAPES, SIDE, Scene, Thing
from vtrap_data.toy_vl.build import MERGE, PATCH, build_model, build_processor

ROLES = ("user", "assistant")
KINDS = (*SHAPES, *DIGITS)


@functools.lru_cache(maxsize=100_000)
def tokens(frames: int, turns: tuple[tuple[str, str], ...]) -> Encoded:
    """Tokens depend on the words and the number of frames alone (every picture has one size), so they are kept."""
    blank = Image.new("RGB", (SIDE, SIDE))
    messages = [Message(role=role, content=text) for turn in turns for role, text in zip(ROLES, turn, strict=True)]
    mark = VIDEO_MARK if frames else IMAGE_MARK
    messages[0] = dataclasses.replace(messages[0], content=mark + messages[0].content)
    example = Example(
        item=PackedItem(id="base", messages=tuple(messages)),
        key="base",
        source="toyworld",
        kind="video" if frames else "images",
        frames=Frames.of((blank,) * frames, times=range(frames)) if frames else None,
        images=() if frames else (blank,),
    )
    return encode(example, processor(), train=True)


@functools.cache
def processor():
    return build_processor()


class Cells(IterableDataset):
    """Pictures with the shape and colour that each visual token mostly shows."""

    def __init__(self, *, seed: int, batch: int, steps: int) -> None:
        self.seed, self.batch, self.steps = seed, batch, steps

    def __iter__(self) -> Iterator[tuple[torch.Tensor, torch.Tensor, torch.Tensor]]:
        for step in range(self.steps):
            rng = random.Random(f"toy-base-vision:{self.seed}:{step}")
            scenes = [picture(rng, rng.choice((*IMAGE_ABILITIES, "digit", "digit")))[0] for _ in range(self.batch)]
            done = processor().image_processor(images=[pixels_of(_jpeg(draw(s))) for s in scenes], return_tensors="pt")
            yield done["pixel_values"], done["image_grid_thw"], torch.tensor([cells(s) for s in scenes])


def cells(scene: Scene) -> list[list[tuple[int, int]]]:
    """(shape, colour) of the thing that covers most of each token's pixels; 0 where nothing covers an eighth of it."""
    side = PATCH * MERGE
    found = []
    for row in range(SIDE // side):
        for column in range(SIDE // side):
            best, label = side * side / 8, (0, 0)
            for thing in scene.things:
                across = min(thing.x + thing.size, (column + 1) * side) - max(thing.x - thing.size, column * side)
                down = min(thing.y + thing.size, (row + 1) * side) - max(thing.y - thing.size, row * side)
                if across > 0 and down > 0 and across * down > best:
                    best = across * down
                    label = (1 + KINDS.index(thing.shape), 1 + list(COLOURS).index(thing.colour))
            found.append(label)
    return found


def warm_up(model, *, seed: int, steps: int, batch: int, learning_rate: float) -> None:
    """The first stage."""
    width = model.config.vision_config.out_hidden_size
    heads = torch.nn.ModuleList([torch.nn.Linear(width, 1 + n) for n in (len(KINDS), len(COLOURS))])
    parameters = [*model.model.visual.parameters(), *heads.parameters()]
    optimizer = torch.optim.AdamW(parameters, lr=learning_rate, weight_decay=0.01, betas=(0.9, 0.98))
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, learning_rate, steps, pct_start=0.1)
    loader = DataLoader(Cells(seed=seed, batch=batch, steps=steps), batch_size=None, num_workers=1)
    right = 0.0
    with tqdm(loader, total=steps, mininterval=5, desc="vision") as bar:
        for pixels, grid, labels in bar:
            tokens = torch.cat(tuple(model.model.get_image_features(pixels, grid).pooler_output))
            guesses = [head(tokens) for head in heads]
            targets = labels.flatten(0, 1).unbind(1)
            loss = sum(torch.nn.functional.cross_entropy(g, t) for g, t in zip(guesses, targets, strict=True))
            optimizer.zero_grad()
            loss.backward()
            torch.nn.utils.clip_grad_norm_(parameters, 1.0)
            optimizer.step()
            schedule.step()
            shown = targets[0] > 0
            right = 0.98 * right + 0.02 * (guesses[0].argmax(-1) == targets[0])[shown].float().mean().item()
            bar.set_postfix(loss=f"{loss.item():.3f}", shapes=f"{right:.3f}", refresh=False)


class Stream(IterableDataset):
    """Batches of the second stage, or with `clips` of the third, from step `first` on."""

    def __init__(self, *, seed: int, batch: int, steps: int, clips: bool, first: int = 0) -> None:
        self.seed, self.batch, self.steps, self.clips, self.first = seed, batch, steps, clips, first

    def __iter__(self) -> Iterator[dict[str, torch.Tensor]]:
        for step in range(self.first, self.first + self.steps):
            if self.clips:
                rng = random.Random(f"toy-base-clips:{self.seed}:{step}")
                frames = rng.choice((2, 4, 8, 16))
                made = [watch(rng, frames) if i % 2 else sample(rng, pictures=1) for i in range(self.batch)]
            else:
                rng = random.Random(f"toy-base:{self.seed}:{step}")
                made = [sample(rng, progress=step / self.steps) for _ in range(self.batch)]
            yield collate(made, processor())


def watch(rng: random.Random, frames: int) -> Encoded:
    scene, (temporal, *_) = clip(rng, rng.choice(TEMPORAL_ABILITIES))
    times = [int((s + 0.5) / SLOTS * scene.frames) / scene.frames for s in subset_slots(SLOTS, frames, smallest=2)]
    shots = [pixels_of(_jpeg(draw(scene, t))) for t in times]
    seen = facts(rng, [thing for thing in scene.things if any(thing.at(t) for t in times)])
    turns = [(temporal.text, rng.choice(temporal.options)), *rng.sample(seen, min(2, len(seen)))]
    turns = [(at_some_time(rng, text) if turn else text, answer) for turn, (text, answer) in enumerate(turns)]
    spacing = scene.frames / FPS / frames
    return dataclasses.replace(
        tokens(frames, tuple(rng.sample(turns, 2))), video=torch.stack(shots), seconds_per_grid=2 * spacing
    )


def sample(rng: random.Random, *, progress: float = 1.0, pictures: float = 0.8) -> Encoded:
    roll = rng.random()
    if roll < pictures:
        scene, turns = quiz(rng, progress)
        return dataclasses.replace(tokens(0, turns), images=(pixels_of(_jpeg(draw(scene))),))
    scene, (temporal, *static) = clip(rng, rng.choice(TEMPORAL_ABILITIES))
    shot = pixels_of(_jpeg(draw(scene, rng.random())))
    frames = rng.randint(1, 2)
    if roll < 0.88 and static:
        turns = tuple((at_some_time(rng, q.text), q.answer) for q in static)
    else:
        turns = ((temporal.text, rng.choice(temporal.options)),)
    return dataclasses.replace(tokens(frames, turns), video=torch.stack([shot] * frames))


def quiz(rng: random.Random, progress: float) -> tuple[Scene, tuple[tuple[str, str], ...]]:
    """A picture with up to four questions in a row: looking once and answering often teaches more per second."""
    ability = rng.choices(IMAGE_ABILITIES, weights=(1.3, 1.3, 1.0, 1.3, 1.4))[0]
    while True:
        scene, question = picture(rng, ability)
        # Begin with few things on the picture: finding the one that is asked about is what takes longest to learn.
        if len(scene.things) <= 1 + 12 * progress or rng.random() < 0.1:
            break
    turns = [(question.text, question.answer)]
    places = progress > 0.5
    if ability in ("colour", "shape", "position"):
        turns.append(("How many shapes are there?", str(len(scene.things))))
    if ability != "count":
        turns += facts(rng, scene.things, places=places)
    first, *rest = dict.fromkeys(turns)
    rng.shuffle(rest)
    kept = (first, *rest[: 3 if places else 2])
    return scene, tuple((at_some_time(rng, text), answer) for text, answer in kept)


def facts(rng: random.Random, things: Sequence[Thing], *, places: bool = False) -> list[tuple[str, str]]:
    """Of each thing that is alone in its shape and its colour, one of the two; with `places`, where it is, too."""
    found = []
    for thing in things:
        alike = {(one.shape, one.colour) for one in things if one.shape == thing.shape or one.colour == thing.colour}
        if thing.shape not in SHAPES or len(alike) > 1:
            continue
        colour_of = (f"What colour is the {thing.shape}?", thing.colour)
        found.append(rng.choice((colour_of, (f"What shape is {thing.colour}?", thing.shape))))
        if places and clear_of_middle(thing):
            where = place_of(thing)
            found.append((where.text, where.answer))
    return list(dict.fromkeys(found))


def at_some_time(rng: random.Random, text: str) -> str:
    """Half the time, ask about the end: what lasts is the same then, so the base learns the words and not the time."""
    return at_the_end(text) if rng.random() < 0.5 else text


def _jpeg(image: Image.Image) -> Image.Image:
    return Image.open(io.BytesIO(jpeg(image))).convert("RGB")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--vision-steps", type=int, default=1500, help="of the first stage")
    parser.add_argument("--steps", type=int, default=3000, help="of the second stage")
    parser.add_argument("--batch", type=int, default=32)
    parser.add_argument("--learning-rate", type=float, default=1.5e-3)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument(
        "--clip-steps", type=int, nargs="+", default=[600, 1000, 1000], help="of the third stage's cycles"
    )
    parser.add_argument("--go-on-from", type=Path, help="a checkpoint from after the second stage: only do the third")
    parser.add_argument("--cycle", type=int, default=0, help="with --go-on-from: the cycle of the third to begin with")
    parser.add_argument("--threads", type=int, default=1, help="more are only faster on idle cores")
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    if args.go_on_from:
        model = load_model(resolve(str(args.go_on_from)))
    else:
        model = build_model(processor().tokenizer, seed=args.seed)
        model.train()
        warm_up(model, seed=args.seed, steps=args.vision_steps, batch=64, learning_rate=args.learning_rate)
        train(model, Stream(seed=args.seed, batch=args.batch, steps=args.steps, clips=False), args.learning_rate)
        save(model, args.out)
    for cycle in range(args.cycle, len(args.clip_steps)):
        model.train()
        steps, first = args.clip_steps[cycle], sum(args.clip_steps[:cycle])
        clips = Stream(seed=args.seed, batch=args.batch, steps=steps, clips=True, first=first)
        train(model, clips, args.learning_rate / 2)
        save(model, args.out)


def train(model, stream: Stream, learning_rate: float) -> None:
    optimizer = torch.optim.AdamW(model.parameters(), lr=learning_rate, weight_decay=0.01, betas=(0.9, 0.98))
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, learning_rate, stream.steps, pct_start=0.1)
    running = 0.0
    loader = DataLoader(stream, batch_size=None, num_workers=1)  # one: the order of batches is part of the recipe
    with tqdm(loader, total=stream.steps, mininterval=5, desc="clips" if stream.clips else "pictures") as bar:
        for step, batch in enumerate(bar):
            loss = model(**batch).loss
            optimizer.zero_grad()
            loss.backward()
            torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
            optimizer.step()
            schedule.step()
            running = 0.98 * running + 0.02 * loss.item() if step else loss.item()
            bar.set_postfix(loss=f"{running:.3f}", refresh=False)


def save(model, out: Path) -> None:
    out.mkdir(parents=True, exist_ok=True)
    model.save_pretrained(out)
    processor().save_pretrained(out)
    for path in out.iterdir():
        path.chmod(0o644)


if __name__ == "__main__":
    main()
