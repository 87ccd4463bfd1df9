"""How long the unit of a predicted scene is, from depth or cameras that are known (NumPy, float64).

A network's scenes are right up to their unit of length. Confident pixels vote by least squares in which those that
disagree with most lose their weight (Geman and McClure), so that a wrong pixel here and there moves nothing.
"""

import itertools
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from jaxtyping import Bool, Float, UInt8

from gen3r_jax.errors import UserError
from gen3r_jax.geometry.cameras import invert_se3

GRID = 32
"""A frame's pixels that vote lie on a grid of so many rows and columns."""
MOST_FRAMES = 16
"""Frames whose pixels are moved to others, spread over the clip."""
SIDE = 112
"""Pictures are compared at about so many pixels a side: small errors of depth do not count there."""
NEAREST, FARTHEST = 0.5, 500.0
"""Of the scene's middle depth, in units of how far the cameras are apart."""
_STEPS = 121
_ALIKE = 16.0  # of 255
_LEAST_GAIN = 0.004
_ITERATIONS = 20


def scale_from_depth(
    predicted: Float[np.ndarray, "*n"], known: Float[np.ndarray, "*n"], confidence: Float[np.ndarray, "*n"]
) -> float:
    """What predicted depths are to be multiplied by: least squares of the logarithms of the confident half.

    Args:
      known: 0 or not finite where it is not known.

    Raises:
      UserError: nothing is known where something was predicted.
    """
    valid = np.isfinite(known) & (known > 0) & np.isfinite(predicted) & (predicted > 0) & (confidence > 0)
    if not valid.any():
        raise UserError("the known depth has no pixel above 0 where depth was found; check its unit and its pictures")
    valid &= confidence >= np.median(confidence[valid])
    ratios = np.log(known[valid].astype(np.float64)) - np.log(predicted[valid])
    fit = float(np.median(ratios))
    for _ in range(_ITERATIONS):
        fit = float(np.average(ratios, weights=_agreement((ratios - fit) ** 2)))
    return float(np.exp(fit))


def scale_from_cameras(
    rgb: UInt8[np.ndarray, "t h w 3"],
    depth: Float[np.ndarray, "t h w"],
    confidence: Float[np.ndarray, "t h w"],
    w2c: Float[np.ndarray, "t 4 4"],
    intrinsics: Float[np.ndarray, "t 3 3"],
) -> float | None:
    """What predicted depths are to be multiplied by, so that known cameras see the same colours at the same points.

    The confident half of the pixels is moved by depth from frame to frame, as the cameras say. The scale with the least
    difference of colours (squares; those beyond `_ALIKE` count less) is looked for from near to far, in frames that are
    1, 2, 4, ... apart; where colours fit worse than infinitely far away, frames so far apart do not count, for those of
    a fast camera have too little in common. Predicted cameras play no part: their turns and shifts are mixed up more
    easily than depth is wrong.

    Args:
      w2c, intrinsics: the known cameras, world to camera and in pixels of the frames.

    Returns:
      None where colours fit about as well infinitely far away: frames move too little or too much to be compared.

    Raises:
      UserError: the cameras stand still.
    """
    centers = invert_se3(np.asarray(w2c, np.float64))[:, :3, 3]
    reach = float(np.sqrt(np.mean(np.sum((centers - centers.mean(axis=0)) ** 2, axis=1))))
    good = (depth > 0) & np.isfinite(depth) & (confidence > 0)
    if not good.any() or reach <= 1e-6 * np.abs(centers).max():
        raise UserError("the given cameras stand still, which tells no lengths; give --scale_from depth or a DISTANCE")
    good &= confidence >= np.median(confidence[good])
    groups = _moving_pixels(_small(rgb), depth, good, np.asarray(w2c, np.float64), np.asarray(intrinsics, np.float64))
    unit = reach / float(np.median(depth[good]))
    scales = unit * np.geomspace(NEAREST, FARTHEST, _STEPS)
    curves = np.array([[_gain(pairs, scale) for scale in scales] for pairs in groups])
    gains = np.mean(np.maximum(curves, 0), axis=0)
    if max(gains) < _LEAST_GAIN:
        return None
    telling = curves[:, int(np.argmax(gains))] > 0
    pairs = [pair for group in itertools.compress(groups, telling) for pair in group]
    for _ in range(2):  # around the best, in steps a sixth as long each time
        best = int(np.argmax(gains))
        scales = np.geomspace(scales[max(best - 1, 0)], scales[min(best + 1, len(scales) - 1)], 13)
        gains = [_fit(pairs, scale) for scale in scales]
    return float(scales[int(np.argmax(gains))])


class _Pixels(NamedTuple):
    """Pixels of one frame in another: where they are at depth z is ``z * turned + shift``, in its pixels times z."""

    turned: Float[np.ndarray, "n 3"]
    shift: Float[np.ndarray, "3"]
    depth: Float[np.ndarray, "n"]
    colors: Float[np.ndarray, "n 3"]
    other: Float[np.ndarray, "h w 3"]

    def moved(self, scale: float) -> Float[np.ndarray, "n 3"]:
        """Where the pixels are in the other picture, homogeneously."""
        return (scale * self.depth)[:, None] * self.turned + self.shift

    def inside(self, place: Float[np.ndarray, "n 3"]) -> Bool[np.ndarray, "n"]:
        """Whether homogeneous places are within the other picture."""
        x, y, z = place.T
        height, width = self.other.shape[:2]
        return (z > 0) & (x >= 0) & (x < width * z) & (y >= 0) & (y < height * z)

    def difference(self, place: Float[np.ndarray, "n 3"], which: Bool[np.ndarray, "n"]) -> Float[np.ndarray, "m"]:
        """How the colours of `which` pixels differ from those at homogeneous places of the other, from 0 to 1."""
        there = _look_up(self.other, place[which, :2] / place[which, 2:])
        squares = np.mean((there - self.colors[which]) ** 2, axis=1)
        return squares / (squares + _ALIKE**2)


def _moving_pixels(
    pictures: Float[np.ndarray, "t a b 3"],
    depth: Float[np.ndarray, "t h w"],
    good: Bool[np.ndarray, "t h w"],
    w2c: Float[np.ndarray, "t 4 4"],
    intrinsics: Float[np.ndarray, "t 3 3"],
) -> list[list[_Pixels]]:
    """Pixels on a grid of frames over the whole clip, with frames that are 1, then 2, 4, ... before and after them."""
    count, height, width = depth.shape
    small = np.array(pictures.shape[2:0:-1])  # width, height
    shrink = np.diag([*small / [width, height], 1.0])
    rows, columns = (np.linspace(0, side - 1, min(GRID, side)).round().astype(int) for side in (height, width))
    row, column = (axis.ravel() for axis in np.meshgrid(rows, columns, indexing="ij"))
    pixels = np.stack([column + 0.5, row + 0.5, np.ones(len(row))], axis=-1)
    groups: list[list[_Pixels]] = [[] for _ in range((count - 1).bit_length())]
    for index in sorted({round(x) for x in np.linspace(0, count - 1, min(MOST_FRAMES, count))}):
        chosen = good[index, row, column]
        here = pixels[chosen]
        colors = _look_up(pictures[index], here[:, :2] * small / [width, height])
        rays = here @ np.linalg.inv(intrinsics[index]).T
        for power, pairs in enumerate(groups):
            for other in (index - 2**power, index + 2**power):
                if 0 <= other < count:
                    motion, project = w2c[other] @ invert_se3(w2c[index]), shrink @ intrinsics[other]
                    turned, shift = rays @ (project @ motion[:3, :3]).T, project @ motion[:3, 3]
                    pairs.append(_Pixels(turned, shift, depth[index, row, column][chosen], colors, pictures[other]))
    return groups


def _gain(pairs: Sequence[_Pixels], scale: float) -> float:
    """How much less colours differ at a scale than infinitely far away, where cameras only turn: from -1 to 1.

    Only pixels that are within the picture at both count, so that it does not matter which leave it.
    """
    gain, count = 0.0, 0
    for pair in pairs:
        moved = pair.moved(scale)
        inside = pair.inside(moved) & pair.inside(pair.turned)
        gain += float(np.sum(pair.difference(pair.turned, inside) - pair.difference(moved, inside)))
        count += len(inside)
    return gain / max(count, 1)


def _fit(pairs: Sequence[_Pixels], scale: float) -> float:
    """How little colours differ in the mean, at scales near the right one, where the same pixels are seen."""
    differences = [pair.difference(moved, pair.inside(moved)) for pair in pairs for moved in [pair.moved(scale)]]
    return -float(np.mean(np.concatenate(differences)))


def _look_up(picture: Float[np.ndarray, "h w 3"], place: Float[np.ndarray, "n 2"]) -> Float[np.ndarray, "n 3"]:
    """Colours at places (x, y) in pixels, between pixels by linear interpolation."""
    from scipy.ndimage import map_coordinates

    at = (place[:, ::-1] - 0.5).T
    return np.stack(
        [map_coordinates(channel, at, order=1, mode="nearest") for channel in np.moveaxis(picture, -1, 0)], -1
    )


def _small(rgb: UInt8[np.ndarray, "t h w 3"]) -> Float[np.ndarray, "t a b 3"]:
    """The pictures, means of blocks of pixels, so that no side is much longer than `SIDE`."""
    block = max(1, round(max(rgb.shape[1:3]) / SIDE))
    t, height, width = len(rgb), rgb.shape[1] // block, rgb.shape[2] // block
    cut = rgb[:, : height * block, : width * block].reshape(t, height, block, width, block, 3)
    return cut.mean(axis=(2, 4)) if block > 1 else rgb.astype(np.float64)


def _agreement(squares: Float[np.ndarray, "n"]) -> Float[np.ndarray, "n"]:
    """Weights of squared residuals: falling beyond twice the median residual; all equal where half are nothing."""
    width = 4 * float(np.median(squares))
    return 1 / (1 + squares / width) ** 2 if width > 0 else (squares == 0).astype(float)
