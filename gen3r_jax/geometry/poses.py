"""How well cameras are estimated or followed: errors of relative poses (Gen3R section 4.1, Tables 5 and 8).

As VGGT defines them: relative poses are free of the choice of the world frame, directions of the scale, so nothing is
aligned.
"""

from typing import NamedTuple

import numpy as np
from jaxtyping import Bool, Float

# Cameras stand still that are nearer to each other than this part of their distance from the origin: float32's digits.
_STILL = 1e-6


class PoseErrors(NamedTuple):
    """Of every pair of frames (i, j), i < j, in degrees.

    Attributes:
      rotation: angle of the rotation between the true and the predicted relative rotation, 0 to 180.
      translation: angle between the lines along which the second camera is seen from the first, 0 to 90 (a direction
        and its opposite count as equal). 90 where the prediction stands still and the truth does not. NaN where the
        truth stands still: it has no direction then. (VGGT's code calls that an error of 90, for any prediction.)
    """

    rotation: Float[np.ndarray, "pairs"]
    translation: Float[np.ndarray, "pairs"]

    def rra(self, degrees: float) -> float:
        """Relative rotation accuracy: the fraction of pairs with a smaller rotation error."""
        return float(np.mean(self.rotation < degrees))

    def rta(self, degrees: float) -> float:
        """Relative translation accuracy, of the pairs whose true camera moves. NaN if there are none."""
        known = self.translation[~np.isnan(self.translation)]
        return float(np.mean(known < degrees)) if len(known) else float("nan")

    def auc(self, degrees: int) -> float:
        """Area under the curve of accuracy over threshold: its mean over the thresholds 1, 2, ... `degrees`.

        A pair counts by the larger of its errors, by that of the rotation where the truth stands still.
        """
        worst = np.fmax(self.rotation, self.translation)
        # The last bin of a histogram holds its upper edge, too.
        counts, _ = np.histogram(worst, bins=np.arange(degrees + 1))
        return float(np.mean(np.cumsum(counts)) / len(worst))


def pose_errors(predicted_c2w: Float[np.ndarray, "t r 4"], target_c2w: Float[np.ndarray, "t s 4"]) -> PoseErrors:
    """Compares the relative poses of all unordered pairs of cameras (OpenCV axes, ``[t, 3, 4]`` or ``[t, 4, 4]``)."""
    if len(predicted_c2w) != len(target_c2w) or len(target_c2w) < 2:
        raise ValueError(
            f"{len(predicted_c2w)} predicted and {len(target_c2w)} true cameras: equal numbers, at least 2"
        )
    (rotation, step, moves), (true_rotation, true_step, true_moves) = map(_relative_poses, (predicted_c2w, target_c2w))
    difference = np.swapaxes(true_rotation, 1, 2) @ rotation
    # From sine and cosine, as the arc cosine alone is inexact near 0 and 180 degrees.
    sine = np.linalg.norm(difference - np.swapaxes(difference, 1, 2), axis=(1, 2)) / np.sqrt(8)
    cosine = (np.trace(difference, axis1=1, axis2=2) - 1) / 2
    across = np.linalg.norm(np.cross(step, true_step), axis=1)
    translation = np.degrees(np.arctan2(across, np.abs(np.sum(step * true_step, axis=1))))
    translation = np.where(moves, translation, 90.0)
    return PoseErrors(np.degrees(np.arctan2(sine, cosine)), np.where(true_moves, translation, np.nan))


def _relative_poses(
    c2w: Float[np.ndarray, "t r 4"],
) -> tuple[Float[np.ndarray, "pairs 3 3"], Float[np.ndarray, "pairs 3"], Bool[np.ndarray, "pairs"]]:
    """Rotation and place of the second camera of each pair in the axes of the first, and whether they are apart."""
    rotations, centres = np.asarray(c2w, np.float64)[:, :3, :3], np.asarray(c2w, np.float64)[:, :3, 3]
    first, second = np.triu_indices(len(c2w), k=1)
    to_first = np.swapaxes(rotations[first], 1, 2)
    steps = centres[second] - centres[first]
    apart = np.linalg.norm(steps, axis=1) > _STILL * np.linalg.norm(centres, axis=1).max()
    return to_first @ rotations[second], (to_first @ steps[..., None])[..., 0], apart
