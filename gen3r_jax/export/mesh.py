"""mesh.glb: the surface that the depth of all frames agrees on, as coloured triangles."""

from pathlib import Path

from gen3r_jax.export.gltf import TRIANGLES, Primitive, linear_colors, write_gltf
from gen3r_jax.export.pointcloud import confident_pixels, median_depth
from gen3r_jax.geometry.fusion import Mesh, fuse_depth
from gen3r_jax.scene import Scene

VOXEL = 0.01
"""Side of a voxel, in median depths of the scene."""


def scene_mesh(scene: Scene, confidence_percentile: float = 20.0) -> Mesh:
    """The surface in world coordinates, without the least confident pixels."""
    known = confident_pixels(scene, confidence_percentile)
    return fuse_depth(scene.depth, scene.rgb, known, scene.w2c, scene.intrinsics, VOXEL * median_depth(scene))


def write_mesh(path: Path | str, mesh: Mesh) -> None:
    """Writes triangles with a colour for each vertex, to be shown without lights."""
    colors = {"COLOR_0": linear_colors(mesh.colors)}
    write_gltf(path, [Primitive("surface", TRIANGLES, mesh.vertices, colors, mesh.faces)])
