"""Do image and video gradients agree? Cosines and norms with intervals, from the inner products of batch gradients.

For one frame count and one group of parameters there are gradients of `images` image batches and of `videos` video
batches, each of the latter three times: as it is, with one frame repeated, with its frames shuffled. All that is asked
here follows from their inner products, so that gradients themselves need not be kept.

A mean over a few batches is signal plus noise. The noise of image and video batches is independent, so it leaves
their inner product alone but lengthens both vectors, and the plain cosine comes out too small, the more so the noisier
the gradients of a frame count are. The corrected one takes squared lengths from pairs of *different* batches only
(a U-statistic), which noise does not lengthen.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

Matrix = NDArray[np.float64]

VARIANTS = ("video", "repeated", "shuffled")
"""What is done to the frames of a video batch, in the order of the rows of a Gram matrix, after the image batches."""

PARTS: Mapping[str, tuple[int, int, int]] = {
    "video": (1, 0, 0),
    "shared": (0, 1, 0),
    "temporal": (1, -1, 0),
    "shuffled": (0, 0, 1),
    "order": (1, 0, -1),
}
"""Parts of the video gradient, each a combination of the variants: video = shared + temporal = shuffled + order."""


class Estimate(NamedTuple):
    """A number with its 95 % bootstrap interval over batches.

    None where a length it is divided by cannot be told from noise: nothing is left of it in more than 2.5 % of the
    draws.
    """

    value: float | None
    low: float | None
    high: float | None


class Weights(NamedTuple):
    """How often a bootstrap draw has each batch; the first row is the data as it is.

    Attributes:
        images: float [draws + 1, image batches].
        videos: float [draws + 1, video batches]; the variants of a batch are drawn together.
    """

    images: Matrix
    videos: Matrix


def draw_weights(*, images: int, videos: int, draws: int, seed: int) -> Weights:
    """Bootstrap draws over batches."""
    rng = np.random.default_rng(seed)
    found = [
        np.concatenate([np.ones((1, n)), rng.multinomial(n, np.full(n, 1 / n), size=draws).astype(np.float64)])
        for n in (images, videos)
    ]
    return Weights(*found)


def measure(gram: Matrix, weights: Weights) -> dict[str, Estimate]:
    """What the inner products of one group at one frame count say.

    Args:
        gram: float64 [images + 3 x videos, same]: inner products of the batch gradients; rows: image batches, then the
            video batches of each of `VARIANTS`.
        weights: From `draw_weights`.

    Returns:
        `cosine/PART` and `plain/PART`: between the image gradient and each of `PARTS`, corrected and not;
        `length/PART` and `plain-length/PART`: length of the part by that of the video gradient, corrected and not;
        `length/image` and `plain-length/image`: of the image gradient by that of the video gradient;
        `signal/image`, `signal/video`: share of the squared length of the mean gradient that is no noise.
    """
    images, videos = weights.images.shape[1], weights.videos.shape[1]
    own = gram[:images, :images]
    cross = gram[:images, images:].reshape(images, len(VARIANTS), videos)
    among = gram[images:, images:].reshape(len(VARIANTS), videos, len(VARIANTS), videos)
    image = _squared(own, weights.images)
    found: dict[str, Matrix] = {}
    squares = {}
    for name, mix in PARTS.items():
        c = np.asarray(mix, dtype=np.float64)
        dot = np.einsum("ri,ivj,rj,v->r", weights.images, cross, weights.videos, c) / (images * videos)
        squares[name] = _squared(np.einsum("viwj,v,w->ij", among, c, c), weights.videos)
        found[f"cosine/{name}"] = _ratio(dot, _root(image.clean) * _root(squares[name].clean))
        found[f"plain/{name}"] = _ratio(dot, _root(image.plain) * _root(squares[name].plain))
    length = _root(squares["video"].clean)
    plain_length = _root(squares["video"].plain)
    for name, square in [*squares.items(), ("image", image)]:
        if name != "video":
            found[f"length/{name}"] = _ratio(_root(square.clean), length)
            found[f"plain-length/{name}"] = _ratio(_root(square.plain), plain_length)
    found["signal/image"] = _ratio(image.clean, image.plain)
    found["signal/video"] = _ratio(squares["video"].clean, squares["video"].plain)
    return {name: _estimate(values) for name, values in found.items()}


class _Squared(NamedTuple):
    plain: Matrix
    clean: Matrix


def _squared(gram: Matrix, weights: Matrix) -> _Squared:
    """Squared length of the mean gradient for every draw [draws + 1]: as it is, and without pairs of equal batches.

    A draw may hold a batch several times; none of its copies is paired with another.
    """
    whole = np.einsum("ri,ij,rj->r", weights, gram, weights)
    same = (weights**2) @ np.diagonal(gram)
    count = weights.sum(axis=1)
    pairs = count**2 - (weights**2).sum(axis=1)
    return _Squared(whole / count**2, _ratio(whole - same, pairs))


def _root(squares: Matrix) -> Matrix:
    return np.sqrt(np.where(squares > 0, squares, np.nan))


def _ratio(top: Matrix, bottom: Matrix) -> Matrix:
    out: Matrix = np.full_like(top, np.nan)
    np.divide(top, bottom, out=out, where=np.isfinite(bottom) & (bottom > 0))
    return out


def _estimate(values: Matrix) -> Estimate:
    drawn = values[1:][np.isfinite(values[1:])]
    if not np.isfinite(values[0]) or len(drawn) < 0.975 * (len(values) - 1):
        return Estimate(None, None, None)
    low, high = np.quantile(drawn, (0.025, 0.975))
    return Estimate(float(values[0]), float(low), float(high))
