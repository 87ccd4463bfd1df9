"""Similarities between coordinate frames, fitted to points that are known in both (NumPy, float64)."""

from typing import NamedTuple

import numpy as np
from jaxtyping import Float


class Similarity(NamedTuple):
    """``x -> scale * rotation @ x + translation``."""

    scale: float
    rotation: Float[np.ndarray, "3 3"]
    translation: Float[np.ndarray, "3"]

    def apply(self, points: Float[np.ndarray, "... 3"]) -> Float[np.ndarray, "... 3"]:
        return self.scale * np.asarray(points, np.float64) @ self.rotation.T + self.translation


def umeyama(source: Float[np.ndarray, "n 3"], target: Float[np.ndarray, "n 3"], scale: str = "variance") -> Similarity:
    """The similarity that maps `source` onto the corresponding `target` points (Umeyama 1991); never a reflection.

    Args:
        scale: ``"variance"``: ratio of the two clouds' root mean square extents, as in Gen3R's released evaluation;
            ``"least_squares"``: Umeyama's eq. 42, which minimises the residual; ``"none"``: 1, a rigid motion.

    Returns:
        The identity for fewer than three points.
    """
    if scale not in ("variance", "least_squares", "none"):
        raise ValueError(f"scale {scale!r} is not one of variance, least_squares, none")
    if len(source) < 3:
        return Similarity(1.0, np.eye(3), np.zeros(3))
    source, target = np.asarray(source, np.float64), np.asarray(target, np.float64)
    source_mean, target_mean = source.mean(axis=0), target.mean(axis=0)
    source_centered, target_centered = source - source_mean, target - target_mean
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
