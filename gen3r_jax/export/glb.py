"""scene.glb: points and cameras, as any glTF viewer shows them."""

from pathlib import Path

import numpy as np
from jaxtyping import Float, UInt8

from gen3r_jax.export.gltf import LINES, POINTS, Primitive, linear_colors, write_gltf
from gen3r_jax.export.pointcloud import at_most, median_depth
from gen3r_jax.geometry.cameras import invert_se3
from gen3r_jax.scene import Scene

MOST_POINTS = 500_000


def write_glb(
    path: Path | str, scene: Scene, points: Float[np.ndarray, "n 3"], colors: UInt8[np.ndarray, "n 3"]
) -> None:
    """Writes at most ``MOST_POINTS`` points and the frustum of every camera."""
    points, colors = at_most(MOST_POINTS, points, colors)
    edges, tints = frusta(scene, frustum_size(scene))
    lines = {"COLOR_0": np.repeat(linear_colors(tints), 2, axis=0)}
    cloud = Primitive("points", POINTS, points, {"COLOR_0": linear_colors(colors)})
    write_gltf(path, [cloud, Primitive("cameras", LINES, edges.reshape(-1, 3), lines)])


def frustum_size(scene: Scene) -> float:
    """How deep cameras are drawn."""
    return 0.1 * median_depth(scene)


def frusta(scene: Scene, size: float) -> tuple[Float[np.ndarray, "e 2 3"], UInt8[np.ndarray, "e 3"]]:
    """The eight edges of every camera's frustum, `size` deep, from green (first) to red (last)."""
    height, width = scene.rgb.shape[1:3]
    corners = np.array([[0, 0], [width, 0], [width, height], [0, height]], np.float64)
    edges, tints = [], []
    for index, (pose, k) in enumerate(zip(invert_se3(scene.w2c.astype(np.float64)), scene.intrinsics, strict=True)):
        focal = np.maximum(k[[0, 1], [0, 1]], 1e-6)
        far = np.column_stack([(corners - k[:2, 2]) / focal, np.ones(4)]) * size
        far = far @ pose[:3, :3].T + pose[:3, 3]
        edges += [(pose[:3, 3], corner) for corner in far]
        edges += [(far[i], far[(i + 1) % 4]) for i in range(4)]
        progress = index / max(1, len(scene.rgb) - 1)
        tints += [(int(40 + 200 * progress), int(200 - 160 * progress), 60)] * 8
    return np.array(edges), np.array(tints, np.uint8)
