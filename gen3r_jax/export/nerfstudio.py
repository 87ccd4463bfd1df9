"""transforms.json and images/: a scene as nerfstudio and its kin take it."""

from pathlib import Path

import numpy as np

from gen3r_jax.export.images import image_names
from gen3r_jax.geometry.camera_files import transforms
from gen3r_jax.geometry.cameras import Cameras, invert_se3
from gen3r_jax.scene import Scene


def write_transforms(path: Path | str, scene: Scene) -> None:
    """Write camera-to-world matrices in OpenGL axes (x right, y up, z backward), intrinsics of every frame in pixels.

    The file names ``points.ply`` beside `path`, if it is there.
    """
    frames = len(scene.rgb)
    c2w = invert_se3(scene.w2c.astype(np.float64))
    cameras = Cameras(c2w, scene.intrinsics, np.tile(scene.rgb.shape[1:3], (frames, 1)))
    points = {"ply_file_path": "points.ply"} if Path(path).with_name("points.ply").exists() else {}
    names, others = image_names(frames), {"camera_model": "OPENCV", **points}
    transforms.write_transforms(Path(path), names, cameras, transforms.OPENGL, **others)
