"""Similarities between coordinate frames, fitted to points that are known in both, and chains of them (NumPy, float64).

Long clips are reconstructed in windows that share frames. Each window has its own world and unit of length; a join maps
one window's world to that of the window before.
"""

from collections.abc import Sequence
from functools import reduce
from itertools import accumulate
from operator import matmul
from typing import NamedTuple, Self

import numpy as np
from jaxtyping import Float

from gen3r_jax.geometry.cameras import homogeneous

_ROBUST_ITERATIONS = 30
_LOOP_ITERATIONS = 50

# The directions in which a similarity can change, as 4 x 4 matrices: three turns, three shifts, growth.
_DIRECTIONS = np.zeros((7, 4, 4))
for _axis in range(3):
    _row, _column = (_axis + 2) % 3, (_axis + 1) % 3
    _DIRECTIONS[_axis, _row, _column], _DIRECTIONS[_axis, _column, _row] = 1, -1
    _DIRECTIONS[3 + _axis, _axis, 3] = 1
_DIRECTIONS[6, :3, :3] = np.eye(3)


class Similarity(NamedTuple):
    """``x -> scale * rotation @ x + translation``."""

    scale: float
    rotation: Float[np.ndarray, "3 3"]
    translation: Float[np.ndarray, "3"]

    @classmethod
    def identity(cls) -> Self:
        return cls(1.0, np.eye(3), np.zeros(3))

    @classmethod
    def from_matrix(cls, matrix: Float[np.ndarray, "4 4"]) -> Self:
        scale = float(np.cbrt(np.linalg.det(matrix[:3, :3])))
        return cls(scale, matrix[:3, :3] / scale, matrix[:3, 3])

    def matrix(self) -> Float[np.ndarray, "4 4"]:
        return homogeneous(np.column_stack([self.scale * self.rotation, self.translation]))

    def apply(self, points: Float[np.ndarray, "... 3"]) -> Float[np.ndarray, "... 3"]:
        return self.scale * np.asarray(points, np.float64) @ self.rotation.T + self.translation

    def move_cameras(self, w2c: Float[np.ndarray, "t 4 4"]) -> Float[np.ndarray, "t 4 4"]:
        """World-to-camera matrices for the mapped world; depths are to be multiplied by `scale`."""
        rotation = np.asarray(w2c, np.float64)[:, :3, :3] @ self.rotation.T
        translation = self.scale * w2c[:, :3, 3] - rotation @ self.translation
        return homogeneous(np.concatenate([rotation, translation[..., None]], axis=-1))

    def inverse(self) -> "Similarity":
        rotation = self.rotation.T
        return Similarity(1 / self.scale, rotation, -rotation @ self.translation / self.scale)

    def __matmul__(self, first: "Similarity") -> "Similarity":
        """`first`, then this one."""
        return Similarity(self.scale * first.scale, self.rotation @ first.rotation, self.apply(first.translation))


def umeyama(
    source: Float[np.ndarray, "n 3"],
    target: Float[np.ndarray, "n 3"],
    scale: str = "variance",
    weights: Float[np.ndarray, "n"] | None = None,
) -> Similarity:
    """The similarity that maps `source` onto the corresponding `target` points (Umeyama 1991); never a reflection.

    Args:
        scale: ``"variance"``: ratio of the two clouds' root mean square extents, as in Gen3R's released evaluation;
            ``"least_squares"``: Umeyama's eq. 42, which minimises the residual; ``"none"``: 1, a rigid motion.
        weights: of the squared residuals; by default all count the same.

    Returns:
        The identity for fewer than three points.
    """
    if scale not in ("variance", "least_squares", "none"):
        raise ValueError(f"scale {scale!r} is not one of variance, least_squares, none")
    if len(source) < 3:
        return Similarity.identity()
    source, target = np.asarray(source, np.float64), np.asarray(target, np.float64)
    source_mean, target_mean = (np.average(x, axis=0, weights=weights) for x in (source, target))
    source_centered, target_centered = source - source_mean, target - target_mean
    if weights is not None:
        root = np.sqrt(weights)[:, None]
        source_centered, target_centered = root * source_centered, root * target_centered
    u, singular, vt = np.linalg.svd(target_centered.T @ source_centered)
    signs = np.array([1.0, 1.0, np.sign(np.linalg.det(u @ vt))])
    rotation = (u * signs) @ vt
    variance = np.sum(source_centered**2)
    factor = 1.0
    if scale == "variance" and variance > 0:
        factor = float(np.sqrt(np.sum(target_centered**2) / variance))
    elif scale == "least_squares" and variance > 0:
        factor = float(np.sum(singular * signs) / variance)
    return Similarity(factor, rotation, target_mean - factor * rotation @ source_mean)


def robust_similarity(
    source: Float[np.ndarray, "n 3"], target: Float[np.ndarray, "n 3"], weights: Float[np.ndarray, "n"]
) -> Similarity:
    """The similarity between corresponding points of which some are wrong, or moved.

    Iteratively reweighted least squares (Geman and McClure's weights, whose width follows the median residual). The
    scale is the ratio of the two clouds' extents, which noise in both does not bias: least squares would shrink every
    join of a chain a little.

    Args:
        weights: of the squared residuals, such as a confidence over the squared distance; 0 leaves a pair out.

    Returns:
        The identity for fewer than three pairs with a weight.
    """
    pairs = weights > 0
    source, target, weights = (np.asarray(x, np.float64)[pairs] for x in (source, target, weights))
    if len(source) < 3:
        return Similarity.identity()
    fit = umeyama(source, target, weights=weights)
    for _ in range(_ROBUST_ITERATIONS):
        residual = weights * np.sum((fit.apply(source) - target) ** 2, axis=1)
        width = 4 * np.median(residual)
        if width <= np.finfo(np.float64).eps * np.median(weights * np.sum(target**2, axis=1)):
            break  # half of the pairs fit exactly
        before, fit = fit, umeyama(source, target, weights=weights / (1 + residual / width) ** 2)
        if np.allclose(before.matrix(), fit.matrix(), rtol=1e-10, atol=1e-12):
            break
    return fit


def window_starts(count: int, window: int, overlap: int) -> list[int]:
    """Where windows of one length begin so that neighbours share at least `overlap` of `count` frames.

    The last is shifted back so that it ends with the last frame.
    """
    if not 0 <= overlap < window:
        raise ValueError(f"windows of {window} frames cannot share {overlap}")
    last = max(count - window, 0)
    return [*range(0, last, window - overlap), last]


def chain(joins: Sequence[Similarity]) -> list[Similarity]:
    """What maps each window's world to that of the first; join i maps window i + 1 to window i."""
    return list(accumulate(joins, matmul, initial=Similarity.identity()))


def close_loop(
    joins: Sequence[Similarity], loop: Similarity, doubts: Float[np.ndarray, "n"] | None = None
) -> list[Similarity]:
    """The joins with the smallest changes that make the chain end where `loop` says that it does.

    Args:
        loop: maps the last window to the first, as the product of the joins should.
        doubts: how much each join, and last `loop` itself, may change: variances, up to a factor; by default equal.
    """
    from scipy.linalg import expm, logm

    edges = [join.matrix() for join in joins] + [loop.inverse().matrix()]
    doubts = np.ones(len(edges)) if doubts is None else np.asarray(doubts, np.float64)
    for _ in range(_LOOP_ITERATIONS):
        gap = _coordinates(np.real(np.asarray(logm(reduce(matmul, edges)))))
        if np.abs(gap).max() < 1e-12:
            break
        # What a change of each edge does to the whole ring: it is carried over the edges behind it.
        behind = list(accumulate(reversed(edges[1:]), lambda product, edge: edge @ product, initial=np.eye(4)))[::-1]
        effects = [_carried(np.linalg.inv(product)) for product in behind]
        normal = sum(doubt * effect @ effect.T for doubt, effect in zip(doubts, effects, strict=True))
        shares = np.linalg.lstsq(normal, -gap, rcond=None)[0]
        changes = [doubt * effect.T @ shares for doubt, effect in zip(doubts, effects, strict=True)]
        edges = [edge @ expm(np.tensordot(change, _DIRECTIONS, 1)) for edge, change in zip(edges, changes, strict=True)]
    return [Similarity.from_matrix(edge) for edge in edges[:-1]]


def _coordinates(change: Float[np.ndarray, "4 4"]) -> Float[np.ndarray, "7"]:
    """A combination of `_DIRECTIONS` as its factors."""
    turns = (change[2, 1] - change[1, 2], change[0, 2] - change[2, 0], change[1, 0] - change[0, 1])
    return np.array([*np.divide(turns, 2), *change[:3, 3], np.trace(change[:3, :3]) / 3])


def _carried(matrix: Float[np.ndarray, "4 4"]) -> Float[np.ndarray, "7 7"]:
    """The adjoint: what small changes are on the other side of a similarity."""
    inverse = np.linalg.inv(matrix)
    return np.stack([_coordinates(matrix @ direction @ inverse) for direction in _DIRECTIONS], axis=1)
