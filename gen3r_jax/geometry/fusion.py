"""Depth maps fused to a truncated signed distance, and the surface where it is zero, in NumPy.

Curless and Levoy's "A Volumetric Method for Building Complex Models from Range Images", on voxels near what is seen.
"""

from typing import NamedTuple

import numpy as np
from jaxtyping import Bool, Float, Int, UInt8

from gen3r_jax.geometry.points import unproject_depth

TRUNCATION = 4  # voxels before and behind a surface in which the distance is measured
MOST_VOXELS = 1 << 25  # of the box around everything; its distances take 128 MiB
_AT_ONCE = 1 << 18  # voxels whose arrays stay in the cache
_BLOCK = TRUNCATION  # voxels along a side: the neighbours of a block that holds points reach far enough
_SMALLEST = 0.005  # share of all vertices that a piece of the surface has; noise makes smaller ones


class Mesh(NamedTuple):
    """Triangles; seen from where the cameras were, their corners go round counterclockwise."""

    vertices: Float[np.ndarray, "v 3"]
    faces: Int[np.ndarray, "f 3"]
    colors: UInt8[np.ndarray, "v 3"]


_NOTHING = Mesh(np.zeros((0, 3)), np.zeros((0, 3), np.int64), np.zeros((0, 3), np.uint8))


def fuse_depth(
    depth: Float[np.ndarray, "t h w"],
    rgb: UInt8[np.ndarray, "t h w 3"],
    known: Bool[np.ndarray, "t h w"],
    w2c: Float[np.ndarray, "t 4 4"],
    intrinsics: Float[np.ndarray, "t 3 3"],
    voxel_size: float,
) -> Mesh:
    """The surface that depth maps agree on, in world coordinates.

    A voxel averages, over the pixels that show it, how far it lies before the surface along the optical axis; near
    views count more, by the square of the depth. What lies behind a surface by more than the truncation is not seen.
    Pieces of less than 0.5 % of the surface are left out.

    Args:
      depth: along the optical axis, for the centres of pixels (+0.5).
      known: pixels that count.
      voxel_size: side of a voxel, in the unit of the depth. A scene that would have more than ``MOST_VOXELS`` of them
        gets larger ones.
    """
    points = unproject_depth(depth, w2c, intrinsics, offset=0.5)[known]
    if not len(points):
        return _NOTHING
    # Single points far away would make the box, and with it the voxels, large.
    low, high = np.percentile(points, 0.5, axis=0), np.percentile(points, 99.5, axis=0)
    margin = 0.05 * (high - low).max()
    low, high = np.maximum(low - margin, points.min(axis=0)), np.minimum(high + margin, points.max(axis=0))
    voxel_size = max(voxel_size, float(np.prod(high - low + voxel_size) / MOST_VOXELS) ** (1 / 3))
    origin = low - 2 * _BLOCK * voxel_size
    blocks = np.ceil((high - origin) / (_BLOCK * voxel_size)).astype(int) + 2
    index = _voxels_near(points, origin, _BLOCK * voxel_size, blocks)
    shape = tuple(_BLOCK * blocks)
    centers = origin + voxel_size * np.stack(np.unravel_index(index, shape), axis=-1)
    parts = [
        _average(centers[start : start + _AT_ONCE], depth, rgb, known, w2c, intrinsics, TRUNCATION * voxel_size)
        for start in range(0, len(index), _AT_ONCE)
    ]
    distance, colors, weights = (np.concatenate(part) for part in zip(*parts, strict=True))
    seen = weights > 0
    mesh = _without_specks(_zero(index[seen], distance[seen], colors[seen], shape))
    return mesh._replace(vertices=origin + voxel_size * mesh.vertices)


def _voxels_near(points, origin, side, blocks) -> Int[np.ndarray, "n"]:
    """Flat indices, in order, of the voxels of all blocks that hold points, and of the blocks around these."""
    from scipy.ndimage import binary_dilation

    held = np.zeros(blocks, bool)
    cells = np.floor((points - origin) / side).astype(int)
    held[tuple(cells[((cells >= 0) & (cells < blocks)).all(axis=1)].T)] = True
    held = binary_dilation(held, np.ones((3, 3, 3), bool))
    within = np.stack(np.meshgrid(*[np.arange(_BLOCK)] * 3, indexing="ij"), axis=-1).reshape(-1, 3)
    voxels = (_BLOCK * np.argwhere(held)[:, None] + within).reshape(-1, 3)
    return np.sort(np.ravel_multi_index(tuple(voxels.T), tuple(_BLOCK * blocks)))


def _average(centers, depth, rgb, known, w2c, intrinsics, truncation):
    """Of every voxel the mean distance in truncations, the mean colour near a surface, and the sum of weights."""
    height, width = depth.shape[1:]
    total, weights = np.zeros(len(centers), np.float32), np.zeros(len(centers), np.float32)
    tint, tinted = np.zeros((len(centers), 3), np.float32), np.zeros(len(centers), np.float32)
    for frame in range(len(depth)):
        local = (centers @ w2c[frame, :3, :3].T + w2c[frame, :3, 3]).astype(np.float32)
        before = np.flatnonzero(local[:, 2] > 1e-6)
        x, y, z = local[before].T
        k = intrinsics[frame]
        column = np.floor(k[0, 0] * x / z + k[0, 2]).astype(np.int64)
        row = np.floor(k[1, 1] * y / z + k[1, 2]).astype(np.int64)
        shown = (column >= 0) & (column < width) & (row >= 0) & (row < height)
        before, z, pixel = before[shown], z[shown], row[shown] * width + column[shown]
        far = depth[frame].reshape(-1)[pixel]
        counts = known[frame].reshape(-1)[pixel] & (far - z > -truncation)
        before, pixel, far, ahead = before[counts], pixel[counts], far[counts], (far - z)[counts]
        weight = 1 / np.square(far)
        total[before] += weight * np.minimum(ahead / truncation, 1)
        weights[before] += weight
        near = np.abs(ahead) < truncation
        before, weight = before[near], weight[near]
        tint[before] += weight[:, None] * rgb[frame].reshape(-1, 3)[pixel[near]]
        tinted[before] += weight
    return total / np.maximum(weights, 1e-30), tint / np.maximum(tinted, 1e-30)[:, None], weights


def _zero(index, distance, colors, shape) -> Mesh:
    """The surface between voxels of different signs; its vertices are in voxels."""
    from skimage.measure import marching_cubes  # pyright: ignore[reportMissingImports]

    volume, position = np.ones(shape, np.float32), np.full(shape, -1, np.int32)
    volume.reshape(-1)[index] = distance
    position.reshape(-1)[index] = np.arange(len(index))
    # A cube counts where all of its corners were seen; marching_cubes asks the last of them.
    cubes = position >= 0
    for axis in range(3):
        shifted = np.roll(cubes, 1, axis)
        np.moveaxis(shifted, axis, 0)[0] = False
        cubes = cubes & shifted
    if not (cubes.any() and distance.min() < 0 < distance.max()):
        return _NOTHING
    vertices, faces, _, _ = marching_cubes(volume, 0.0, mask=cubes, gradient_direction="descent")
    # A vertex lies on an edge between two voxels, and so does its colour.
    ends = np.floor(vertices).astype(int), np.ceil(vertices).astype(int)
    share = (vertices - ends[0]).max(axis=1, keepdims=True)
    first, last = (colors[position[tuple(end.T)]] for end in ends)
    return Mesh(vertices, faces.astype(np.int64), np.rint(first + share * (last - first)).astype(np.uint8))


def _without_specks(mesh: Mesh) -> Mesh:
    from scipy.sparse import coo_array
    from scipy.sparse.csgraph import connected_components

    count = len(mesh.vertices)
    edges = np.concatenate([mesh.faces[:, :2], mesh.faces[:, 1:]])
    graph = coo_array((np.ones(len(edges), bool), tuple(edges.T)), shape=(count, count))
    _, piece = connected_components(graph, directed=False)
    kept = (np.bincount(piece, minlength=1) >= _SMALLEST * count)[piece]
    number = np.cumsum(kept) - 1
    return Mesh(mesh.vertices[kept], number[mesh.faces[kept[mesh.faces[:, 0]]]], mesh.colors[kept])
