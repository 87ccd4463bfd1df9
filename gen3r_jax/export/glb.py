"""scene.glb: points and cameras, as any glTF viewer shows them."""

from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from jaxtyping import Float, UInt8

from gen3r_jax.export.pointcloud import at_most, median_depth
from gen3r_jax.geometry.cameras import OPENGL_AXES, invert_se3
from gen3r_jax.scene import Scene
from gen3r_jax.storage.files import replacing

if TYPE_CHECKING:  # imported where it is used: it takes half a second
    import trimesh

MOST_POINTS = 500_000


def write_glb(
    path: Path | str, scene: Scene, points: Float[np.ndarray, "n 3"], colors: UInt8[np.ndarray, "n 3"]
) -> None:
    """Writes at most ``MOST_POINTS`` points and the frustum of every camera; axes as glTF has them (y up)."""
    with replacing(path) as temporary:
        build_scene(scene, points, colors, MOST_POINTS, linear=True).export(temporary, file_type="glb")


def to_linear(colors: UInt8[np.ndarray, "n 3"]) -> UInt8[np.ndarray, "n 3"]:
    """From sRGB to linear light, which colours of vertices are in (glTF 2.0, section 3.9.2)."""
    srgb = np.arange(256) / 255
    linear = np.where(srgb <= 0.04045, srgb / 12.92, ((srgb + 0.055) / 1.055) ** 2.4)
    return np.rint(255 * linear).astype(np.uint8)[colors]


def build_scene(
    scene: Scene,
    points: Float[np.ndarray, "n 3"],
    colors: UInt8[np.ndarray, "n 3"],
    most_points: int,
    linear: bool = False,
) -> "trimesh.Scene":
    """Points (a random choice, if there are more) and frusta in the first camera's frame, turned to y up.

    linear: colours are of linear light, as glTF has them.
    """
    import trimesh
    from trimesh.path import Path3D
    from trimesh.path.entities import Line

    points, colors = at_most(most_points, points, colors)
    edges, tints = frusta(scene, frustum_size(scene))
    if linear:
        colors, tints = to_linear(colors), np.column_stack([to_linear(tints[:, :3]), tints[:, 3]])
    built = trimesh.Scene()
    if len(points):
        built.add_geometry(trimesh.PointCloud(points, colors=colors), geom_name="points")
    lines = [Line([2 * i, 2 * i + 1]) for i in range(len(edges))]
    path = Path3D(entities=lines, vertices=edges.reshape(-1, 3), colors=tints, process=False)
    built.add_geometry(path, geom_name="cameras")
    built.apply_transform(OPENGL_AXES)
    return built


def frustum_size(scene: Scene) -> float:
    """How deep cameras are drawn."""
    return 0.1 * median_depth(scene)


def frusta(scene: Scene, size: float) -> tuple[Float[np.ndarray, "e 2 3"], UInt8[np.ndarray, "e 4"]]:
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
        tints += [(int(40 + 200 * progress), int(200 - 160 * progress), 60, 255)] * 8
    return np.array(edges), np.array(tints, np.uint8)
