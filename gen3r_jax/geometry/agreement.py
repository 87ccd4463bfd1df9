"""Two readings of one clip's geometry: brought to one scale, compared, and mixed (NumPy).

What a diffusion model generates beside a video, and what a network reads from that video, err in different ways: where
the two agree, both are likely right.
"""

from typing import NamedTuple

import numpy as np
from jaxtyping import Float, Float32

from gen3r_jax.geometry.cameras import invert_se3
from gen3r_jax.geometry.poses import pose_errors


class Agreement(NamedTuple):
    """How far two readings of a clip agree, from 0 to 1; 1: they are equal but for the scale.

    Attributes:
      depth: mean of `map`.
      poses: AUC@30° of the relative poses, see :class:`gen3r_jax.geometry.poses.PoseErrors`; 1 for a single frame.
      map: at each pixel the smaller depth as a part of the larger; 0 where one is not finite and above 0.
    """

    depth: float
    poses: float
    map: Float32[np.ndarray, "t h w"]


def common_scale(depth: Float[np.ndarray, "t h w"], reference: Float[np.ndarray, "t h w"]) -> float:
    """By what to multiply `depth` so that half of it lies before `reference`: the median ratio of both.

    It is 1 where no pixel has two depths that are finite and above 0.
    """
    known = _known(depth) & _known(reference)
    return float(np.median(reference[known] / depth[known])) if known.any() else 1.0


def compare(
    depth: Float[np.ndarray, "t h w"],
    w2c: Float[np.ndarray, "t r 4"],
    other_depth: Float[np.ndarray, "t h w"],
    other_w2c: Float[np.ndarray, "t s 4"],
) -> Agreement:
    """Compares two readings of a clip whose depths have one scale."""
    near, far = np.minimum(depth, other_depth), np.maximum(depth, other_depth)
    known = _known(depth) & _known(other_depth)
    ratio = np.divide(near, far, out=np.zeros(depth.shape, np.float32), where=known)
    poses = pose_errors(invert_se3(w2c), invert_se3(other_w2c)).auc(30) if len(w2c) > 1 else 1.0
    return Agreement(float(ratio.mean()), poses, ratio)


def mix(
    depth: Float[np.ndarray, "*b h w"],
    confidence: Float[np.ndarray, "*b h w"],
    other_depth: Float[np.ndarray, "*b h w"],
    other_confidence: Float[np.ndarray, "*b h w"],
) -> tuple[Float[np.ndarray, "*b h w"], Float[np.ndarray, "*b h w"]]:
    """The mean of two depths of one scale, weighted by their confidence, and its confidence: the weighted mean, too."""
    share = other_confidence / (confidence + other_confidence)
    return depth + share * (other_depth - depth), confidence + share * (other_confidence - confidence)


def _known(depth: Float[np.ndarray, "t h w"]) -> np.ndarray:
    return np.isfinite(depth) & (depth > 0)
