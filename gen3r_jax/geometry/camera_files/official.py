"""cameras.json: Gen3R's file for given and for found cameras.

``{"extrinsics": t x 4x4 world-to-camera in OpenCV axes, "intrinsics": t x 3x3 in pixels}``, or one 3x3 for all. Files
written here also say ``"width"``, ``"height"`` (the image the intrinsics belong to) and ``"convention":
"opencv_w2c"``; other keys are ignored.
"""

from pathlib import Path
from typing import NamedTuple

import numpy as np
from jaxtyping import Float

from gen3r_jax.errors import UserError
from gen3r_jax.geometry.camera_files.contents import CameraFile, for_all, to_numbers, to_poses
from gen3r_jax.geometry.cameras import Size, pose_fault
from gen3r_jax.storage.files import read_json, write_json

CONVENTION = "opencv_w2c"


class FoundCameras(NamedTuple):
    """Cameras of a clip; `image_size` is (height, width), None where the file does not say it."""

    w2c: Float[np.ndarray, "t 4 4"]
    intrinsics: Float[np.ndarray, "t 3 3"]
    image_size: Size | None


def write_cameras(
    path: Path | str, w2c: Float[np.ndarray, "t 4 4"], intrinsics: Float[np.ndarray, "t 3 3"], image_size: Size
) -> None:
    """Write cameras of images of `image_size` (height, width)."""
    document = {
        "convention": CONVENTION,
        "width": image_size[1],
        "height": image_size[0],
        "extrinsics": np.asarray(w2c).tolist(),
        "intrinsics": np.asarray(intrinsics).tolist(),
    }
    write_json(path, document)


def read_cameras(path: Path | str) -> FoundCameras:
    """Read a file of this project or of the official one, in float64 and without judging the numbers.

    Raises:
      UserError: not such a file, matrices of the wrong shape, another convention than ``opencv_w2c``.
    """
    document = read_json(path, nan=True)  # numbers that are not finite are named with their camera
    w2c, intrinsics = (to_numbers(document.get(key)) for key in ("extrinsics", "intrinsics"))
    if w2c is None or intrinsics is None:
        raise UserError(
            f'{path} is no camera file; needed is JSON with "extrinsics" (4x4, world to camera) and "intrinsics" (3x3)'
        )
    poses = to_poses(w2c)
    of_each = None if poses is None else for_all(intrinsics, len(poses))
    if poses is None or of_each is None:
        raise UserError(
            f"{path} holds extrinsics {list(w2c.shape)} and intrinsics {list(intrinsics.shape)}; "
            "needed are as many 4x4 as 3x3 matrices, or one 3x3 for all"
        )
    if document.get("convention", CONVENTION) != CONVENTION:
        raise UserError(f"{path} says convention {str(document['convention'])[:40]!r}; only {CONVENTION!r} can be read")
    sides = [document[side] for side in ("height", "width") if side in document]
    if to_numbers(sides) is None or not all(isinstance(side, int | float) for side in sides):
        raise UserError(f"{path}: width and height must be numbers of pixels")
    return FoundCameras(poses, of_each, tuple(sides) if len(sides) == 2 else None)


def read_official(path: Path) -> CameraFile:
    """Read the file as :func:`read_cameras` does; a matrix that is no pose is not inverted, so that it can be named."""
    cameras = read_cameras(path)
    c2w = np.stack([w2c if pose_fault(w2c) else np.linalg.inv(w2c) for w2c in cameras.w2c])
    sizes = None if cameras.image_size is None else np.tile(np.array(cameras.image_size), (len(c2w), 1))
    return CameraFile(path, c2w, intrinsics=cameras.intrinsics, sizes=sizes)
