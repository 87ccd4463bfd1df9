"""How close a reconstructed cloud is to the true one, after alignment (Gen3R section 4.2, Tables 2 and 3)."""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from jaxtyping import Bool, Float
from scipy.spatial import KDTree

from gen3r_jax.geometry.alignment import umeyama
from gen3r_jax.geometry.points import farthest_points, voxel_downsample


class CloudDistance(NamedTuple):
    """Mean nearest-neighbour distances, in units of the true cloud.

    Attributes:
      accuracy: from the predicted points to the true ones.
      completeness: from the true points to the predicted ones.
      chamfer: the mean of the two.
      relative_percent: chamfer in percent of the diagonal of the true cloud's bounding box.
    """

    accuracy: float
    completeness: float
    chamfer: float
    relative_percent: float


def cloud_distance(
    predicted: Float[np.ndarray, "n 3"], target: Float[np.ndarray, "m 3"], squared: bool = False
) -> CloudDistance:
    """Compares two clouds point by point; `squared` averages squared distances."""
    if len(predicted) == 0 or len(target) == 0:
        raise ValueError("a cloud without points has no distance to another; check the masks")
    power = 2 if squared else 1
    accuracy = float(np.mean(KDTree(target).query(predicted)[0] ** power))
    completeness = float(np.mean(KDTree(predicted).query(target)[0] ** power))
    chamfer = (accuracy + completeness) / 2
    diagonal = float(np.linalg.norm(target.max(axis=0) - target.min(axis=0)))
    return CloudDistance(accuracy, completeness, chamfer, 100 * chamfer / max(diagonal, np.finfo(float).tiny))


def aligned_chamfer(
    predicted: Float[np.ndarray, "f h w 3"],
    target: Float[np.ndarray, "t h w 3"],
    mask: Bool[np.ndarray, "t h w"] | None = None,
    *,
    frames: Sequence[int] | None = None,
    target_cloud: Float[np.ndarray, "m 3"] | None = None,
    scale: str = "variance",
    voxel_size: float | None = 0.005,
    num_points: int = 20_000,
    pad_with_origin: bool = False,
    squared: bool = False,
) -> CloudDistance:
    """Aligns a predicted point map to the true one, thins both and compares them.

    The similarity is fitted to the valid pixel pairs (:func:`gen3r_jax.geometry.alignment.umeyama`); then one mean
    point a voxel is kept, and of those `num_points` by farthest point sampling.

    Args:
      mask: pixels with a true point; by default every pixel where both maps are finite. Where the predicted point is
        not finite there is no pair, but the true point is still to be reached.
      frames: which true frames `predicted` holds; by default all. The comparison is with the whole true cloud.
      target_cloud: the true points as :func:`thin` leaves them, where many predictions are compared with the same.
      scale: ``variance`` (the released evaluation), ``least_squares`` (Umeyama 1991) or ``none``.
      voxel_size: in units of the true cloud; None compares all valid points, without sampling.
      pad_with_origin: fill clouds smaller than `num_points` up with zero points, as the released code does by
        accident. They then count as points; published numbers of small clouds contain them.
      squared: average squared distances.
    """
    predicted, target = np.asarray(predicted, np.float64), np.asarray(target, np.float64)
    seen = np.arange(len(target)) if frames is None else np.asarray(frames)
    if predicted.shape != target[seen].shape:
        raise ValueError(f"the predicted points {predicted.shape} and true points {target[seen].shape} do not pair up")
    if mask is None:
        mask = np.asarray(np.isfinite(target).all(axis=-1))
        mask[seen] &= np.isfinite(predicted).all(axis=-1)
    pairs = mask[seen] & np.isfinite(predicted).all(axis=-1)
    predicted_cloud = umeyama(predicted[pairs], target[seen][pairs], scale).apply(predicted[pairs])
    predicted_cloud = thin(predicted_cloud, voxel_size, num_points, pad_with_origin)
    if target_cloud is None:
        target_cloud = thin(target[mask], voxel_size, num_points, pad_with_origin)
    return cloud_distance(predicted_cloud, target_cloud, squared)


def thin(
    cloud: Float[np.ndarray, "n 3"], voxel_size: float | None, num_points: int, pad_with_origin: bool = False
) -> Float[np.ndarray, "m 3"]:
    """Keeps one mean point a voxel, and `num_points` of those; see :func:`aligned_chamfer`."""
    if len(cloud) == 0 or voxel_size is None:
        return cloud
    # The grid begins half a voxel before the cloud, where Open3D's voxel filter has it.
    cloud, _ = voxel_downsample(cloud, voxel_size, origin=cloud.min(axis=0) - voxel_size / 2)
    cloud = cloud[farthest_points(cloud, num_points)]
    if pad_with_origin:
        cloud = np.concatenate([cloud, np.zeros((num_points - len(cloud), 3))])
    return cloud
