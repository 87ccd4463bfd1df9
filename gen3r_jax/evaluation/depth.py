"""How well depth is predicted: relative error and inliers, after alignment of the scale.

Gen3R reports no depth metrics; these are the usual ones, for the depth that its point clouds are made of.
"""

from typing import NamedTuple

import numpy as np
from jaxtyping import Bool, Float


class DepthErrors(NamedTuple):
    """Means over the valid pixels of a clip.

    Attributes:
      abs_rel: ``|predicted - true| / true``.
      delta: fraction of pixels with ``max(predicted / true, true / predicted) < 1.25``.
      scale: by which the prediction was multiplied.
    """

    abs_rel: float
    delta: float
    scale: float


def depth_errors(
    predicted: Float[np.ndarray, "t h w"],
    target: Float[np.ndarray, "t h w"],
    mask: Bool[np.ndarray, "t h w"] | None = None,
    scale: float | None = None,
) -> DepthErrors:
    """Compares depth maps of a clip under one scale for all of its frames: the true median over the predicted one.

    Args:
      mask: pixels with a true depth; by default those where it is finite and above 0.
      scale: by which the prediction is multiplied instead, where `mask` is a part of the clip.

    There is no shift: it would bend the points that depth stands for. A prediction that is not finite or not above 0
    counts as 0 depth: an error of 1, and no inlier.
    """
    predicted, target = np.asarray(predicted, np.float64), np.asarray(target, np.float64)
    if predicted.shape != target.shape:
        raise ValueError(f"predicted depth {predicted.shape} and true depth {target.shape} do not pair up")
    valid = np.isfinite(target) & (target > 0)
    valid = valid if mask is None else valid & mask
    if not valid.any():
        raise ValueError("no pixel has a true depth; check the mask")
    predicted, target = predicted[valid], target[valid]
    positive = np.isfinite(predicted) & (predicted > 0)
    predicted = np.where(positive, predicted, 0.0)
    factor = 1.0 if scale is None else scale
    if scale is None and positive.any():
        factor = float(np.median(target[positive]) / np.median(predicted[positive]))
    predicted = factor * predicted
    inlier = (predicted < 1.25 * target) & (target < 1.25 * predicted)
    return DepthErrors(float(np.mean(np.abs(predicted - target) / target)), float(np.mean(inlier)), factor)
