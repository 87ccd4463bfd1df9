"""Coloured point clouds: which points of a scene are kept, and the PLY file."""

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
from jaxtyping import Bool, Float, UInt8

from gen3r_jax.geometry.points import radius_inliers, statistical_inliers, voxel_downsample
from gen3r_jax.scene import Scene
from gen3r_jax.storage.files import replacing


@dataclass(frozen=True)
class CloudFilter:
    """What is kept of a scene's points. The default is quick and clean; :meth:`official` is Gen3R's own routine.

    Attributes:
      confidence_percentile: the least confident pixels, in percent of all frames' pixels, are left out.
      far_percentile: points whose world z is above this percentile are left out; None keeps all.
      outliers: drop points that stand apart (25 neighbours, mean + 1.25 standard deviations).
      near_percentile: points whose z is not above this percentile must also have more than ten points, themselves
        included, within four median nearest-neighbour distances. 0 (upstream's setting) drops nothing.
      voxel_size: one mean point a voxel of this size; None keeps every point; "auto" is 0.5 % of the median depth,
        which is the official 0.005 in a scene of VGGT's own scale.
      voxels_first: average voxels before the outlier filter. That filter takes minutes on the 15 million points of 49
        frames at 560 x 560, and seconds on their voxels.
      max_points: of more points than these, a random choice of as many goes to the outlier filter; None keeps all.
      max_pixels: of more pixels than these, a random choice of about as many becomes points, so that long clips do not
        need more memory (about 120 bytes a pixel); more than 49 frames at 560 x 560 have. None takes all.
    """

    confidence_percentile: float = 20.0
    far_percentile: float | None = None
    outliers: bool = True
    near_percentile: float = 0.0
    voxel_size: float | Literal["auto"] | None = "auto"
    voxels_first: bool = True
    max_points: int | None = 2_000_000
    max_pixels: int | None = 16_000_000

    @classmethod
    def official(cls, remove_far_points: bool = False) -> "CloudFilter":
        """The released command's settings, with and without its ``--remove_far_points``."""
        return cls(
            confidence_percentile=0.0,
            far_percentile=80.0 if remove_far_points else None,
            voxel_size=0.003 if remove_far_points else 0.005,
            voxels_first=False,
            max_points=None,
            max_pixels=None,
        )


DEFAULT_FILTER = CloudFilter()


def confident_pixels(scene: Scene, percentile: float) -> Bool[np.ndarray, "t h w"]:
    """The pixels that are known, without the least confident of them (in percent)."""
    known = np.isfinite(scene.points).all(axis=-1) & (scene.depth > 0) & (scene.confidence > 0)
    if percentile > 0 and known.any():
        known &= scene.confidence >= np.percentile(scene.confidence[known], percentile)
    return known


def median_depth(scene: Scene) -> float:
    """Of the pixels whose depth is known; 1 where none is."""
    known = scene.depth[np.isfinite(scene.depth) & (scene.depth > 0)]
    return float(np.median(known)) if len(known) else 1.0


def scene_cloud(
    scene: Scene, keep: CloudFilter = DEFAULT_FILTER
) -> tuple[Float[np.ndarray, "n 3"], UInt8[np.ndarray, "n 3"]]:
    """The points and colours of a scene that `keep` lets through, in world coordinates."""
    valid = confident_pixels(scene, keep.confidence_percentile)
    voxel_size = None if keep.voxel_size == "auto" else keep.voxel_size
    if keep.voxel_size == "auto":
        voxel_size = 0.005 * float(np.median(scene.depth[valid])) if valid.any() else None
    if keep.max_pixels is not None and (count := np.count_nonzero(valid)) > keep.max_pixels:
        valid &= np.random.default_rng(0).random(valid.shape, np.float32) < keep.max_pixels / count
    points, colors = filter_cloud(scene.points[valid], scene.rgb[valid] / np.float32(255), keep, voxel_size)
    return points, np.round(255 * colors).astype(np.uint8)


def filter_cloud(
    points: Float[np.ndarray, "n 3"],
    colors: Float[np.ndarray, "n 3"],
    keep: CloudFilter,
    voxel_size: float | None,
    seed: int = 0,
) -> tuple[Float[np.ndarray, "m 3"], Float[np.ndarray, "m 3"]]:
    """:func:`scene_cloud` of a bare cloud with colours in [0, 1]; `seed` for what is drawn at random."""
    colors = np.clip(colors, 0.0, 1.0)
    if keep.far_percentile is not None and len(points):
        selected = points[:, 2] <= np.percentile(points[:, 2], keep.far_percentile)
        points, colors = points[selected], colors[selected]
    if keep.voxels_first and voxel_size is not None:
        points, colors = voxel_downsample(points, voxel_size, colors)
    if keep.max_points is not None and len(points) > keep.max_points:
        selected = np.random.default_rng(seed).choice(len(points), keep.max_points, replace=False, shuffle=False)
        points, colors = points[selected], colors[selected]
    if keep.outliers and len(points):
        selected = statistical_inliers(points)
        points, colors = points[selected], colors[selected]
        selected = _near_inliers(points, keep.near_percentile, seed)
        points, colors = points[selected], colors[selected]
    if not keep.voxels_first and voxel_size is not None:
        points, colors = voxel_downsample(points, voxel_size, colors)
    return points, colors


def _near_inliers(points: np.ndarray, percentile: float, seed: int) -> np.ndarray:

    from scipy.spatial import KDTree

    keep = np.ones(len(points), bool)
    if len(points) == 0:
        return keep
    limit = np.percentile(points[:, 2], percentile)
    near = points[:, 2] <= limit
    if np.all(points[near, 2] == limit):
        return keep
    cloud = points[near]
    # NumPy's legacy generator: the one the official routine draws from.
    sample = np.random.RandomState(seed).choice(len(cloud), min(2000, len(cloud)), replace=False)
    distance, _ = KDTree(cloud).query(cloud[sample], k=2)
    keep[near] = radius_inliers(cloud, 4 * float(np.median(distance[:, 1])), neighbors=10)
    return keep


def at_most(
    count: int, points: Float[np.ndarray, "n 3"], colors: UInt8[np.ndarray, "n 3"]
) -> tuple[Float[np.ndarray, "m 3"], UInt8[np.ndarray, "m 3"]]:
    """A cloud, or `count` of its points, drawn at random but always the same."""
    if len(points) <= count:
        return points, colors
    chosen = np.random.default_rng(0).choice(len(points), count, replace=False, shuffle=False)
    return points[chosen], colors[chosen]


def write_ply(path: Path | str, points: Float[np.ndarray, "n 3"], colors: UInt8[np.ndarray, "n 3"]) -> None:
    """Writes a coloured cloud as a binary little-endian PLY (float32 positions, 8-bit colours)."""
    import trimesh

    with replacing(path) as temporary:
        trimesh.PointCloud(points, colors=colors).export(temporary, file_type="ply")
