"""`python -m vtrap_train.gradients`: does training on video pull a checkpoint where its images want it?

For image batches and for the same video batches at each frame count: the cosine between their gradients in vision
tower, projector and language model, and how the video gradient divides. Its shared part is what stays when one frame
is repeated, so that as many tokens show no change at all; the rest is temporal. Shuffled frames are a second control:
they show every frame and no order. `cosines` says how numbers come from gradients, `gradient_figure` draws them.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import random
import sys
import zlib
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from tqdm import tqdm

from vtrap_data.encoding import collate, encode, load_model, load_processor, preprocessing, resolve
from vtrap_data.errors import SampleError, UsageError, VtrapError, printable, storage_full, wrong_path
from vtrap_data.files import sha256_file, write_bytes
from vtrap_data.interruption import interruption_told
from vtrap_data.loading.dataset import PackedDataset
from vtrap_data.samples import Example
from vtrap_data.shards.manifest import INDEX
from vtrap_train.command_line import Parser, refused_by_library
from vtrap_train.cosines import PARTS, VARIANTS, Estimate, Matrix, draw_weights, measure
from vtrap_train.data import locate
from vtrap_train.groups import GROUPS, group_of
from vtrap_train.ledger import write_text

FORMAT = 1
SKETCH_ABOVE = 8_000_000
"""Parameters from which on a group's gradient is sketched instead of kept."""
SKETCH_WIDTH = 2**20
WHOLE = "all"
"""Name of the group of all parameters."""

EPILOG = """\
examples:
  python -m vtrap_train.gradients --model toy-vl --images runs/images --videos runs/videos64 --out runs/gradients
  python -m vtrap_train.gradients --model runs/hybrid --images A --videos B --frames 8,16,32,64 --batches 32 --out DIR

--videos must store the frames that are asked for (pack with --budgets 1,2,4,8,16,32,64 --slots 64 --store 64). OUT
gets gradients.json, gradients.png and a file per frame count; the same command goes on where it was interrupted.
"""


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command. Returns the exit code: 0 done, 1 failed, 2 wrong use, 130 interrupted."""
    try:
        with interruption_told():
            args = _parser().parse_args(argv)
            found = run(args)
    except VtrapError as error:
        print(f"vtrap-train gradients: {printable(error)}", file=sys.stderr)
        return 2 if isinstance(error, UsageError) else 1
    except OSError as error:
        if not (wrong_path(error) or storage_full(error)):
            raise
        print(f"vtrap-train gradients: {printable(error)}", file=sys.stderr)
        return 2 if wrong_path(error) else 1
    except KeyboardInterrupt:
        print("vtrap-train gradients: interrupted; the same command goes on from here", file=sys.stderr)
        return 130
    print(json.dumps(found, indent=2) if args.json else table(found))
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = Parser(
        prog="python -m vtrap_train.gradients",
        description="Do image and video gradients of a checkpoint agree, per module group and frame count?",
        epilog=EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--model", required=True, help="named model, directory or Hub id")
    parser.add_argument(
        "--images", required=True, help="packed dataset whose image items are used: directory or Hub id"
    )
    parser.add_argument("--videos", required=True, help="packed dataset with video items")
    parser.add_argument("--frames", default="1,2,4,8,16,32,64", help="frame counts (default: %(default)s)")
    parser.add_argument("--batches", type=int, default=16, help="batches of each kind (default: %(default)s)")
    parser.add_argument("--batch-size", type=int, default=8, help="items of a batch (default: %(default)s)")
    parser.add_argument("--image-batch-size", type=int, help="items of an image batch (default: --batch-size)")
    parser.add_argument("--draws", type=int, default=2000, help="bootstrap draws over batches (default: %(default)s)")
    parser.add_argument("--seed", type=int, default=0, help="of the choice of items, shuffling and bootstrap")
    parser.add_argument("--dtype", choices=["float32", "bfloat16"], default="float32", help="of weights and gradients")
    parser.add_argument("--attn-implementation", default="sdpa", help="as in transformers (default: %(default)s)")
    parser.add_argument("--out", type=Path, required=True, help="folder of the results")
    parser.add_argument("--json", action="store_true", help="print the result as JSON instead of a table")
    return parser


def run(args: argparse.Namespace) -> dict[str, Any]:
    """Measure, write `gradients.json` and `gradients.png`, and return what is in the former.

    Raises:
        UsageError: Too few items, frames that are not stored, a value that makes no sense.
    """
    frames = _frame_counts(args.frames)
    if args.batches < 2 or args.batch_size < 1 or args.draws < 100:
        raise UsageError("--batches must be at least 2, --batch-size at least 1 and --draws at least 100")
    if not 0 <= args.seed < 2**32:
        raise UsageError(f"--seed {args.seed} is not in 0 to {2**32 - 1}")
    if args.image_batch_size is None:
        args.image_batch_size = args.batch_size
    if args.image_batch_size < 1:
        raise UsageError("--image-batch-size must be at least 1")
    ref = resolve(args.model)
    images = PackedDataset(locate(args.images, setting="--images"))
    corpora = {count: PackedDataset(locate(args.videos, setting="--videos"), frames=count) for count in frames}
    some = corpora[frames[0]]
    shape = {"count": args.batches, "seed": args.seed}
    image_batches = batches(images, "images", size=args.image_batch_size, setting="--images", **shape)
    video_batches = batches(some, "video", size=args.batch_size, setting="--videos", **shape)
    processor = load_processor(ref)
    out: Path = args.out
    out.mkdir(parents=True, exist_ok=True)
    key = _key(args, ref, preprocessing(ref, processor), (images.root, some.root))

    done = {count: kept for count in frames if (kept := _kept(out / f"gram-{count}.json", key)) is not None}
    if missing := [count for count in frames if count not in done]:
        model: Any
        with refused_by_library():
            model = load_model(ref, dtype=getattr(torch, args.dtype), attn_implementation=args.attn_implementation)
        model.to("cuda" if torch.cuda.is_available() else "cpu").eval()
        total = len(image_batches) + len(missing) * len(video_batches) * len(VARIANTS)
        with tqdm(total=total, desc="gradients", unit="batch", dynamic_ncols=True) as bar:
            own = [_gradient(model, processor, [images[i] for i in b], bar) for b in image_batches]
            for count in missing:
                rows = list(own)
                for variant in VARIANTS:
                    for b in video_batches:
                        shown = [alter(corpora[count][i], variant, seed=args.seed) for i in b]
                        rows.append(_gradient(model, processor, shown, bar))
                grams = {group: _gram([row.vectors[group] for row in rows]) for group in own[0].vectors}
                grams[WHOLE] = np.sum(list(grams.values()), axis=0)
                used = [corpora[count].column("n_frames")[i] for b in video_batches for i in b]
                done[count] = {
                    "key": key,
                    "mean_frames": float(np.mean(used)),
                    "losses": _losses([row.loss for row in rows], len(own)),
                    "gram": {group: gram.tolist() for group, gram in grams.items()},
                }
                write_text(out / f"gram-{count}.json", json.dumps(done[count]) + "\n")

    weights = draw_weights(images=len(image_batches), videos=len(video_batches), draws=args.draws, seed=args.seed)
    found = {
        "format": FORMAT,
        "model": args.model,
        "images": args.images,
        "videos": args.videos,
        "batches": args.batches,
        "batch_size": args.batch_size,
        "image_batch_size": args.image_batch_size,
        "seed": args.seed,
        "draws": args.draws,
        "frames": {
            str(count): {
                "mean_frames": done[count]["mean_frames"],
                "losses": done[count]["losses"],
                "groups": {
                    group: {name: estimate._asdict() for name, estimate in measure(np.asarray(gram), weights).items()}
                    for group, gram in done[count]["gram"].items()
                },
            }
            for count in frames
        },
    }
    write_text(out / "gradients.json", json.dumps(found, indent=2) + "\n")
    from vtrap_train.gradient_figure import figure_bytes

    write_bytes(out / "gradients.png", figure_bytes(found))
    return found


def alter(example: Example, variant: str, *, seed: int) -> Example:
    """What a variant shows: the same times and tokens, other pixels.

    `repeated` puts the middle one of the frames in every place; `shuffled` is a permutation that follows from seed,
    item and number of frames.
    """
    frames = example.frames
    if frames is None or variant == "video":
        return example
    order = list(range(len(frames)))
    if variant == "repeated":
        order = [len(order) // 2] * len(order)
    else:
        random.Random(f"{seed}:{example.item.id}:{len(order)}").shuffle(order)
    return replace(example, frames=replace(frames, pixels=frames.pixels[order]))


def batches(
    dataset: PackedDataset, kind: str, *, count: int, size: int, seed: int, setting: str
) -> list[tuple[int, ...]]:
    """Disjoint batches of items of one kind (numbers in the dataset), chosen by the seed.

    Raises:
        UsageError: There are too few.
    """
    columns = zip(dataset.column("kind"), dataset.column("benchmark"), strict=True)
    usable = [i for i, (found, benchmark) in enumerate(columns) if found == kind and not benchmark]
    if len(usable) < count * size:
        raise UsageError(
            f"{setting} {str(dataset.root)!r} has {len(usable)} items of kind {kind!r} with an answer to learn from, "
            f"and {count} batches of {size} take {count * size}: lower --batches or --batch-size"
        )
    random.Random(f"{seed}:{kind}").shuffle(usable)
    return [tuple(usable[at : at + size]) for at in range(0, count * size, size)]


COLUMNS = {
    "plain/video": "video",
    "plain/shared": "one frame repeated",
    "plain/temporal": "temporal rest",
    "plain/shuffled": "shuffled",
    "cosine/video": "video, corrected",
    "plain-length/temporal": "|temporal|/|video|",
}


def table(found: Mapping[str, Any]) -> str:
    """The result for people."""
    lines = [
        f"gradients of {found['model']}: {found['batches']} batches of {found['image_batch_size']} images and of "
        f"{found['batch_size']} clips; cosine with the image gradient, 95 % bootstrap intervals over batches; signal: "
        "share of the squared length that is no noise, image / video",
        f"{'group':<11}{'frames':>6} {'signal':>11} " + " ".join(f"{title:>20}" for title in COLUMNS.values()),
    ]
    for group in (WHOLE, *GROUPS):
        for count, entry in found["frames"].items():
            if group in entry["groups"]:
                row = {name: Estimate(**values) for name, values in entry["groups"][group].items()}
                signal = "/".join(
                    "-" if (v := row[f"signal/{k}"].value) is None else f"{v:.2f}" for k in ("image", "video")
                )
                cells = " ".join(f"{_cell(row[name]):>20}" for name in COLUMNS)
                lines.append(f"{group:<11}{count:>6} {signal:>11} {cells}")
    return "\n".join(lines)


def _cell(estimate: Estimate) -> str:
    if estimate.value is None:
        return "-"
    return f"{estimate.value:.2f} [{estimate.low:.2f}, {estimate.high:.2f}]"


class _Gradient(NamedTuple):
    """Gradient of one batch: a float32 vector on the CPU per group, and the loss."""

    vectors: dict[str, torch.Tensor]
    loss: float


def _gradient(model: Any, processor: Any, examples: Sequence[Example], bar: Any) -> _Gradient:
    try:
        encoded = [encode(e, processor, train=True) for e in examples]
    except SampleError as error:
        raise UsageError(
            f"an item that was chosen cannot be encoded ({error}): mend the data or change --seed"
        ) from error
    batch = {k: v.to(model.device) for k, v in collate(encoded, processor).items()}
    model.zero_grad(set_to_none=True)
    loss = model(**batch, use_cache=False).loss
    loss.backward()
    bar.update()
    return _Gradient(vectors(model), float(loss.detach()))


def vectors(model: torch.nn.Module) -> dict[str, torch.Tensor]:
    """The gradients that `model` holds, float32 [width] per module group, on the CPU.

    A group above `SKETCH_ABOVE` parameters is sketched: every parameter is added, with a random sign, to one of
    `SKETCH_WIDTH` places (CountSketch; Charikar, Chen and Farach-Colton 2002). Inner products stay unbiased, and a
    cosine moves by about a thousandth. Parameters without a gradient count as zero.
    """
    sizes = dict.fromkeys(GROUPS, 0)
    for name, parameter in model.named_parameters():
        sizes[group_of(name)] += parameter.numel()
    pieces: dict[str, list[torch.Tensor]] = {group: [] for group in GROUPS}
    sketches = {g: torch.zeros(SKETCH_WIDTH) for g, size in sizes.items() if size > SKETCH_ABOVE}
    for name, parameter in model.named_parameters():
        group = group_of(name)
        if group not in sketches:
            gradient = torch.zeros_like(parameter) if parameter.grad is None else parameter.grad
            pieces[group].append(gradient.detach().float().flatten().cpu())
        elif parameter.grad is not None:
            sketches[group] += sketch(parameter.grad.detach().float().flatten(), name).cpu()
    exact = {group: torch.cat(p) for group, p in pieces.items() if p}
    return {str(group): vector for group, vector in (exact | sketches).items()}


def sketch(values: torch.Tensor, name: str) -> torch.Tensor:
    """CountSketch [SKETCH_WIDTH] of one parameter's gradient; places and signs follow from its name."""
    generator = torch.Generator(device=values.device).manual_seed(zlib.crc32(name.encode()))
    places = torch.randint(2 * SKETCH_WIDTH, values.shape, generator=generator, device=values.device)
    signs = torch.where(places >= SKETCH_WIDTH, 1.0, -1.0)
    return torch.zeros(SKETCH_WIDTH, device=values.device).index_add_(0, places % SKETCH_WIDTH, values * signs)


def _gram(rows: Sequence[torch.Tensor]) -> Matrix:
    # Piece by piece: in double precision all rows at once would take twice the memory.
    gram = torch.zeros(len(rows), len(rows), dtype=torch.float64)
    for piece in zip(*(torch.split(row, 2**18) for row in rows), strict=True):
        part = torch.stack(piece).double()
        gram += part @ part.T
    whole: Matrix = gram.numpy()
    return whole


def _losses(losses: Sequence[float], images: int) -> dict[str, float]:
    videos = np.asarray(losses[images:]).reshape(len(VARIANTS), -1)
    return {
        "images": float(np.mean(losses[:images])),
        **dict(zip(VARIANTS, videos.mean(axis=1).tolist(), strict=True)),
    }


def _frame_counts(text: str) -> list[int]:
    try:
        found = sorted({int(part) for part in text.split(",")})
    except ValueError:
        found = [0]
    if found[0] < 1:
        raise UsageError(f"--frames {text!r} is no list of positive numbers such as 1,2,4,8")
    return found


def _key(args: argparse.Namespace, ref: Any, manifest: Mapping[str, Any], roots: Sequence[Path]) -> str:
    """What an earlier result must have in common to be used again: weights, data, how it is shown, which batches."""
    folder = Path(ref.path)
    weights = [sha256_file(p) for p in sorted(folder.glob("*.safetensors"))]
    data = [sha256_file(root / INDEX) for root in roots]
    settings = [args.batches, args.batch_size, args.image_batch_size, args.seed, args.dtype, args.attn_implementation]
    parts = [FORMAT, PARTS, weights or ref.path, ref.revision, data, settings, manifest]
    return hashlib.sha256(json.dumps(parts, sort_keys=True, default=str).encode()).hexdigest()


def _kept(path: Path, key: str) -> dict[str, Any] | None:
    try:
        kept: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    return kept if kept.get("key") == key else None


if __name__ == "__main__":
    if not torch.cuda.is_available():
        os.environ.setdefault("DS_ACCELERATOR", "cpu")
    sys.exit(main())
