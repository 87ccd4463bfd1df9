"""A COLMAP model in text form: cameras.txt, images.txt, points3D.txt."""

from pathlib import Path

import numpy as np
from jaxtyping import Float, UInt8

from gen3r_jax.export.images import image_names
from gen3r_jax.export.pointcloud import at_most
from gen3r_jax.geometry.cameras import matrix_to_quaternion
from gen3r_jax.scene import Scene
from gen3r_jax.storage.files import write_text

MOST_POINTS = 200_000  # trainers of splats begin with fewer


def write_colmap(
    directory: Path | str, scene: Scene, points: Float[np.ndarray, "n 3"], colors: UInt8[np.ndarray, "n 3"]
) -> None:
    """Writes a model with a PINHOLE camera for each frame, and at most ``MOST_POINTS`` points.

    Points have no tracks: nothing was triangulated.
    """
    directory = Path(directory)
    points, colors = at_most(MOST_POINTS, points, colors)
    height, width = scene.rgb.shape[1:3]
    cameras, images = [], []
    quaternions = matrix_to_quaternion(scene.w2c[:, :3, :3].astype(np.float64))
    frames = zip(image_names(len(scene.rgb)), scene.w2c, scene.intrinsics, quaternions, strict=True)
    for number, (name, w2c, k, (x, y, z, w)) in enumerate(frames, 1):
        cameras.append(f"{number} PINHOLE {width} {height} {_text(k[0, 0], k[1, 1], k[0, 2], k[1, 2])}")
        images += [f"{number} {_text(w, x, y, z, *w2c[:3, 3])} {number} {name}", ""]
    rows = zip(points, colors, strict=True)
    cloud = [f"{i} {_text(*point)} {r} {g} {b} 0" for i, (point, (r, g, b)) in enumerate(rows, 1)]
    files = {
        "cameras.txt": ["# CAMERA_ID MODEL WIDTH HEIGHT fx fy cx cy", *cameras],
        "images.txt": ["# IMAGE_ID QW QX QY QZ TX TY TZ CAMERA_ID NAME, then a line of points", *images],
        "points3D.txt": ["# POINT3D_ID X Y Z R G B ERROR", *cloud],
    }
    for name, lines in files.items():
        write_text(directory / name, "\n".join(lines) + "\n")


def _text(*numbers: float) -> str:
    return " ".join(f"{float(number):.9g}" for number in numbers)
