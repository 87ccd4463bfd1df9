"""Points in space: from depth, and thinned or cleaned as clouds (NumPy, float64).

A cloud is an array ``[n, 3]``; filters return a boolean mask of the points to keep, so that colours follow.
"""

from typing import overload

import numpy as np
from jaxtyping import Bool, Float, Int

from gen3r_jax.arrays import SameArray, namespace

# Points per k-d tree query: bounds the memory of the neighbour table (25 neighbours: about 40 MB).
_QUERY_CHUNK = 100_000


def unproject_depth(
    depth: Float[SameArray, "... h w"],
    w2c: Float[SameArray, "... r 4"],
    intrinsics: Float[SameArray, "... 3 3"],
    offset: float = 0.0,
) -> Float[SameArray, "... h w 3"]:
    """World points of a depth map: ``R^T (K^-1 [u, v, 1] depth - t)``.

    Pixel ``(row v, column u)`` sits at the integer coordinates ``(u, v)``, as VGGT does (its rays, in contrast, pass
    through pixel centres at +0.5), or at `offset` from them. Skew is ignored. JAX in, JAX out; NumPy in, NumPy out.

    Args:
        depth: distance along the optical axis, in units of the cameras' translations.
        w2c: world-to-camera, OpenCV axes, ``[..., 3, 4]`` or ``[..., 4, 4]``.
        intrinsics: pinhole matrices in pixels of the depth map.
        offset: 0.5 for the centres of pixels, where other tools have the points of what we write.
    """
    xp = namespace(depth)
    h, w = depth.shape[-2:]
    u, v = xp.arange(w), xp.arange(h)[:, None]
    fx, fy, cx, cy = (intrinsics[..., i, j, None, None] for i, j in ((0, 0), (1, 1), (0, 2), (1, 2)))
    camera = xp.stack([(u - (cx - offset)) * depth / fx, (v - (cy - offset)) * depth / fy, depth], axis=-1)
    moved = camera - w2c[..., None, None, :3, 3]
    # A sum rather than a matrix product, which accelerators would round to fewer digits.
    x, y, z = (moved[..., i, None] * w2c[..., None, None, i, :3] for i in range(3))
    return (x + y + z).astype(depth.dtype)


def depth_mask(depth: Float[np.ndarray, "... h w"], percentiles: bool) -> Bool[np.ndarray, "... h w"]:
    """Valid depths, per frame: above 1e-8, and with `percentiles` also strictly inside (0.1 %, min(98 %, 50))."""
    depth = np.asarray(depth)
    if not percentiles:
        return depth > 1e-8
    low, high = np.percentile(depth, (0.1, 98.0), axis=(-2, -1), keepdims=True)
    return (depth > np.maximum(low, 1e-8)) & (depth < np.minimum(high, 50.0))


@overload
def voxel_downsample(
    points: Float[np.ndarray, "n 3"],
    voxel_size: float,
    attributes: Float[np.ndarray, "n c"],
    origin: Float[np.ndarray, "3"] | None = None,
) -> tuple[Float[np.ndarray, "m 3"], Float[np.ndarray, "m c"]]: ...


@overload
def voxel_downsample(
    points: Float[np.ndarray, "n 3"],
    voxel_size: float,
    attributes: None = None,
    origin: Float[np.ndarray, "3"] | None = None,
) -> tuple[Float[np.ndarray, "m 3"], None]: ...


def voxel_downsample(
    points: Float[np.ndarray, "n 3"],
    voxel_size: float,
    attributes: Float[np.ndarray, "n c"] | None = None,
    origin: Float[np.ndarray, "3"] | None = None,
) -> tuple[Float[np.ndarray, "m 3"], Float[np.ndarray, "m c"] | None]:
    """One point per occupied cubic voxel: the mean of its points, and of their attributes (colours, for instance).

    Args:
        origin: a corner of the grid; by default the minimum corner of the cloud.
    """
    points = np.asarray(points, np.float64)
    if len(points) == 0:
        return points, attributes
    cells = np.floor((points - (points.min(axis=0) if origin is None else origin)) / voxel_size).astype(np.int64)
    cells -= cells.min(axis=0)
    voxel, size = cells[:, 0], float(cells[:, 0].max() + 1)
    for column in (cells[:, 1], cells[:, 2]):
        if size * (column.max() + 1) > 2**62:  # renumber before the product overflows
            _, voxel = np.unique(voxel, return_inverse=True)
            size = float(len(points))
        voxel = voxel * (column.max() + 1) + column
        size *= float(column.max() + 1)
    _, voxel = np.unique(voxel, return_inverse=True)
    counts = np.bincount(voxel)

    def mean(values: np.ndarray) -> np.ndarray:
        return np.stack([np.bincount(voxel, weights=column) / counts for column in values.T], axis=-1)

    return mean(points), None if attributes is None else mean(np.asarray(attributes))


def statistical_inliers(
    points: Float[np.ndarray, "n 3"], neighbors: int = 25, std_ratio: float = 1.25
) -> Bool[np.ndarray, "n"]:
    """Points whose mean distance d to their nearest neighbours (themselves included) is unremarkable.

    Kept are 0 < d < mean(d) + `std_ratio` std(d), so a point that coincides with all its neighbours goes, too.
    """
    from scipy.spatial import KDTree

    neighbors = min(neighbors, len(points))
    tree = KDTree(points)
    mean_distance = np.empty(len(points))
    for start in range(0, len(points), _QUERY_CHUNK):
        chunk = slice(start, start + _QUERY_CHUNK)
        distance, _ = tree.query(points[chunk], k=neighbors, workers=-1)
        mean_distance[chunk] = distance.reshape(-1, neighbors).mean(axis=1)
    if len(points) < 2:
        return np.zeros(len(points), bool)
    limit = mean_distance.mean() + std_ratio * mean_distance.std(ddof=1)
    return (mean_distance > 0) & (mean_distance < limit)


def radius_inliers(points: Float[np.ndarray, "n 3"], radius: float, neighbors: int) -> Bool[np.ndarray, "n"]:
    """Points with more than `neighbors` points, themselves included, within `radius`."""
    from scipy.spatial import KDTree

    counts = KDTree(points).query_ball_point(points, radius, return_length=True, workers=-1)
    return counts > neighbors


def farthest_points(points: Float[np.ndarray, "n 3"], count: int) -> Int[np.ndarray, "k"]:
    """Indices of ``min(count, n)`` points: point 0, then always the one farthest from those already chosen.

    The points lie in boxes, and only boxes that a new point may be near to are looked at, as in QuickFPS (Han et al.
    2023): 20 000 of 200 000 points take 1.4 s on one core, of three million 18 s. Distances are float32; where several
    points are farthest, any of them may come.
    """
    count = min(count, len(points))
    chosen = np.zeros(count, np.int64)
    if count < 2:
        return chosen
    # Centred first: float32 distances then keep their digits far from the origin.
    points = np.asarray(points - np.mean(points, axis=0), np.float32)
    boxes = _equal_boxes(points)
    inside = points[boxes].transpose(0, 2, 1).copy()  # [b, 3, s]: long rows, for speed
    low, high = inside.min(axis=2), inside.max(axis=2)
    distance = np.full(boxes.shape, np.inf, np.float32)  # squared, from the chosen points
    farthest = np.full(len(boxes), np.inf, np.float32)
    for i in range(1, count):
        new = points[chosen[i - 1]]
        outside = np.maximum(np.maximum(low - new, new - high), 0)
        near = np.flatnonzero(np.einsum("bc,bc->b", outside, outside) < farthest)
        step = inside[near] - new[:, None]
        distance[near] = np.minimum(distance[near], np.einsum("bcs,bcs->bs", step, step))
        farthest[near] = distance[near].max(axis=1)
        box = np.argmax(farthest)
        chosen[i] = boxes[box, np.argmax(distance[box])]
    return chosen


def _equal_boxes(points: Float[np.ndarray, "n 3"]) -> Int[np.ndarray, "b s"]:
    """Indices of neighbouring points, about 256 together, by halving at the median of the longest side.

    Every box holds as many; what is missing is point 0 again.
    """
    halvings = max(0, int(np.ceil(np.log2(len(points) / 256))))
    boxes = np.zeros((1, -(-len(points) // 2**halvings) * 2**halvings), np.int64)
    boxes[0, : len(points)] = np.arange(len(points))
    for _ in range(halvings):
        inside = points[boxes]
        side = np.argmax(np.ptp(inside, axis=1), axis=1)
        along = np.take_along_axis(inside, side[:, None, None], axis=2)[..., 0]
        halves = np.argpartition(along, boxes.shape[1] // 2, axis=1)
        boxes = np.take_along_axis(boxes, halves, axis=1).reshape(2 * len(boxes), -1)
    return boxes
