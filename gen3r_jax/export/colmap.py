"""A COLMAP model in text form: cameras.txt, images.txt, points3D.txt."""

from pathlib import Path

import numpy as np
from jaxtyping import Float, UInt8

from gen3r_jax.export.images import image_names
from gen3r_jax.export.pointcloud import at_most
from gen3r_jax.geometry.camera_files.colmap import write_colmap_cameras
from gen3r_jax.scene import Scene
from gen3r_jax.storage.files import write_text

MOST_POINTS = 200_000  # trainers of splats begin with fewer


def write_colmap(
    directory: Path | str, scene: Scene, points: Float[np.ndarray, "n 3"], colors: UInt8[np.ndarray, "n 3"]
) -> None:
    """Write a model with a PINHOLE camera for each frame, and at most ``MOST_POINTS`` points.

    Points have no tracks: nothing was triangulated.
    """
    directory, names = Path(directory), image_names(len(scene.rgb))
    write_colmap_cameras(directory, names, scene.w2c, scene.intrinsics, scene.rgb.shape[1:3])
    points, colors = at_most(MOST_POINTS, points, colors)
    rows = zip(range(1, len(points) + 1), *points.T.tolist(), *colors.T.tolist(), strict=True)
    cloud = [f"{i} {x:.9g} {y:.9g} {z:.9g} {r} {g} {b} 0" for i, x, y, z, r, g, b in rows]
    write_text(directory / "points3D.txt", "\n".join(["# POINT3D_ID X Y Z R G B ERROR", *cloud]) + "\n")
