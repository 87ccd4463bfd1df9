"""Trajectories as KITTI's odometry benchmark has them: 3 x 4 numbers a line, camera to world, OpenCV axes."""

from pathlib import Path

import numpy as np
from jaxtyping import Float

from gen3r_jax.geometry.camera_files.contents import CameraFile
from gen3r_jax.geometry.cameras import homogeneous
from gen3r_jax.storage.files import read_table, write_text


def read_kitti(path: Path) -> CameraFile:
    """Read poses; the form has no intrinsics. Raises UserError for lines of anything but 12 numbers."""
    return CameraFile(path, homogeneous(read_table(path, 12).reshape(-1, 3, 4)))


def write_kitti(path: Path | str, c2w: Float[np.ndarray, "t 4 4"]) -> None:
    """Write poses that :func:`read_kitti` reads back exactly."""
    rows = np.asarray(c2w, np.float64)[:, :3].reshape(-1, 12).tolist()
    write_text(path, "".join(" ".join(map(repr, row)) + "\n" for row in rows))
