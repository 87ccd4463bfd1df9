"""How long the unit of a predicted scene is, from depth or cameras that are known (NumPy, float64).

A network's scenes are right up to their unit of length. Every confident pixel votes, and those that disagree with most
lose their weight (Geman and McClure), so that a wrong pixel here and there moves nothing.
"""

import numpy as np
from jaxtyping import Float, Num

from gen3r_jax.errors import UserError
from gen3r_jax.geometry.cameras import invert_se3

GRID = 32
"""A frame's pixels that vote lie on a grid of so many rows and columns."""
PARTNERS = 8
"""Frames that each frame is compared with, spread over the clip."""
LEAST_PARALLAX = 1e-3
"""Cameras that turn a pixel's line of sight by less, in radians, tell no length."""
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
    depth: Float[np.ndarray, "t h w"],
    confidence: Float[np.ndarray, "t h w"],
    predicted: tuple[Float[np.ndarray, "t 4 4"], Float[np.ndarray, "t 3 3"]],
    known: tuple[Float[np.ndarray, "t 4 4"], Float[np.ndarray, "t 3 3"]],
) -> float:
    """What predicted depths are to be multiplied by, so that known cameras see the same points at the same pixels.

    Predicted depth and cameras say which pixels of two frames show the same point. The known cameras triangulate it: a
    line of sight crosses the other at the inverse depth which, times the unknown scale, is the predicted one. That is
    linear in the inverse scale, whose least squares it takes over the confident half of the pixels.

    Args:
      predicted, known: world-to-camera matrices and intrinsics in pixels of the depth maps.

    Raises:
      UserError: the known cameras stand still, or no two frames show the same.
    """
    count, height, width = depth.shape
    rows, columns = (np.linspace(0, side - 1, min(GRID, side)).round().astype(int) for side in (height, width))
    row, column = (axis.ravel() for axis in np.meshgrid(rows, columns, indexing="ij"))
    pixels = np.stack([column + 0.5, row + 0.5, np.ones(len(row))], axis=-1)
    (w2c, k), (known_w2c, known_k) = ([np.asarray(x, np.float64) for x in pair] for pair in (predicted, known))
    sure = np.median(confidence[confidence > 0]) if (confidence > 0).any() else np.inf
    crossings, shifts = [], []
    for index in range(count):
        others = {round(x) for x in np.linspace(0, count - 1, min(PARTNERS + 1, count))} - {index}
        z = depth[index, row, column].astype(np.float64)
        good = (z > 0) & (confidence[index, row, column] >= sure)
        here, z = pixels[good], z[good]
        for other in sorted(others):
            motion = w2c[other] @ invert_se3(w2c[index])
            point = z[:, None] * (here @ np.linalg.inv(k[index]).T) @ motion[:3, :3].T + motion[:3, 3]
            there = point @ k[other].T
            with np.errstate(divide="ignore", invalid="ignore"):
                there = there / there[:, 2:]
            inside = (point[:, 2] > 0) & (there[:, :2] >= 0).all(axis=1) & (there[:, :2] < [width, height]).all(axis=1)
            cell = np.where(inside[:, None], there[:, 1::-1], 0).astype(int)
            seen = depth[other, cell[:, 0], cell[:, 1]]
            inside &= np.abs(seen - point[:, 2]) < 0.1 * point[:, 2]  # else something stands before it
            motion = known_w2c[other] @ invert_se3(known_w2c[index])
            rays = here[inside] @ np.linalg.inv(known_k[index]).T @ motion[:3, :3].T
            sights = there[inside] @ np.linalg.inv(known_k[other]).T
            crossings.append(np.cross(sights, rays))
            shifts.append(-np.cross(sights, motion[:3, 3]) / z[inside, None])
    crossing, shift = (np.concatenate([np.empty((0, 3)), *each]) for each in (crossings, shifts))
    if not len(shift):
        raise UserError("no two frames show the same, so cameras tell no lengths; give --scale_from DISTANCE")
    inverse = _robust_ratio(crossing, shift)
    parallax = float(np.sqrt(np.mean(np.sum((inverse * shift) ** 2, axis=1))))
    if not (inverse > 0 and parallax >= LEAST_PARALLAX):
        raise UserError(
            f"the given cameras turn lines of sight by {parallax:.1e} radians, too little to tell lengths by; "
            "give --scale_from depth or a DISTANCE"
        )
    return 1 / inverse


def _robust_ratio(values: Num[np.ndarray, "n c"], of: Num[np.ndarray, "n c"]) -> float:
    """The factor of `of` that comes nearest to `values`."""
    weights = np.ones(len(of))
    ratio = 0.0
    for _ in range(_ITERATIONS):
        squares = float(np.sum(weights[:, None] * of**2))
        if squares == 0:
            return 0.0
        ratio = float(np.sum(weights[:, None] * values * of)) / squares
        weights = _agreement(np.sum((values - ratio * of) ** 2, axis=1))
    return ratio


def _agreement(squares: Float[np.ndarray, "n"]) -> Float[np.ndarray, "n"]:
    """Weights of squared residuals: falling beyond twice the median residual; all equal where half are nothing."""
    width = 4 * float(np.median(squares))
    return 1 / (1 + squares / width) ** 2 if width > 0 else (squares == 0).astype(float)
