"""Trajectories as the TUM benchmark has them: lines of time tx ty tz qx qy qz qw, camera to world, OpenCV axes."""

from pathlib import Path

import numpy as np
from jaxtyping import Float

from gen3r_jax.errors import UserError
from gen3r_jax.geometry.camera_files.contents import CameraFile, to_numbers
from gen3r_jax.geometry.cameras import matrix_to_quaternion, quaternion_pose
from gen3r_jax.storage.files import read_text, write_text


def read_tum(path: Path) -> CameraFile:
    """Read poses and their times; the form has no intrinsics. Raises UserError for lines of anything else."""
    rows = [line.split() for line in read_text(path).splitlines() if line.strip() and not line.lstrip().startswith("#")]
    numbers = to_numbers(rows)
    if numbers is None or numbers.shape != (len(rows), 8) or not rows:
        raise UserError(f"{path}: each line needs 8 numbers: time tx ty tz qx qy qz qw")
    if not np.isfinite(numbers[:, 0]).all():
        raise UserError(f"{path}: its times must be finite numbers")
    poses = np.stack([quaternion_pose(row[4:], row[1:4]) for row in numbers])
    return CameraFile(path, poses, stamps=numbers[:, 0])


def write_tum(path: Path | str, stamps: Float[np.ndarray, "t"], c2w: Float[np.ndarray, "t 4 4"]) -> None:
    """Write poses with their times in seconds."""
    rows = np.column_stack([stamps, c2w[:, :3, 3], matrix_to_quaternion(c2w[:, :3, :3])]).tolist()
    lines = ["# time tx ty tz qx qy qz qw", *(" ".join(map(repr, row)) for row in rows)]
    write_text(path, "\n".join(lines) + "\n")
