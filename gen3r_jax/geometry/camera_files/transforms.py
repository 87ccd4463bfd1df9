"""transforms.json: cameras as nerfstudio and Gen3R's training data have them.

Both look alike; the training data's ``transform_matrix`` is camera-to-world in OpenCV axes (x right, y down,
z forward), nerfstudio's in OpenGL axes.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float

from gen3r_jax.errors import UserError
from gen3r_jax.geometry.cameras import Cameras
from gen3r_jax.storage.files import read_json, write_json

INTRINSIC_KEYS = ("w", "h", "fl_x", "fl_y", "cx", "cy")


def read_transforms(path: Path) -> tuple[list[str], Cameras]:
    """Reads a ``transforms.json``: the frames' file names (without folders) and their cameras, in the file's order.

    Intrinsics stand in each frame or, for all frames, at the top. Raises UserError that names what is wrong.
    """
    frames = (document := read_json(path, nan=True)).get("frames")
    if not isinstance(frames, list) or not frames:
        raise UserError(f"{path} lists no frames: it needs `frames`, a list that is not empty")
    shared = {key: document[key] for key in INTRINSIC_KEYS if key in document}
    names, poses, numbers = [], [], []
    for index, frame in enumerate(frames):
        frame = shared | frame if isinstance(frame, dict) else {}
        missing = [key for key in (*INTRINSIC_KEYS, "file_path", "transform_matrix") if key not in frame]
        if missing:
            raise UserError(f"{path}: frame {index} lacks {', '.join(missing)}")
        names.append(str(frame["file_path"]).replace("\\", "/").rsplit("/", 1)[-1])
        poses.append(_pose(frame["transform_matrix"], f"{path}: frame {index}"))
        try:
            numbers.append([float(frame[key]) for key in INTRINSIC_KEYS])
        except (TypeError, ValueError):
            raise UserError(f"{path}: frame {index} has intrinsics that are not numbers") from None
    w, h, fl_x, fl_y, cx, cy = np.array(numbers).T
    intrinsics = np.tile(np.eye(3), (len(names), 1, 1))
    intrinsics[:, 0, 0], intrinsics[:, 1, 1], intrinsics[:, 0, 2], intrinsics[:, 1, 2] = fl_x, fl_y, cx, cy
    return names, Cameras(np.stack(poses), intrinsics, np.stack([h, w], axis=-1).astype(int))


def write_transforms(path: Path, names: Sequence[str], cameras: Cameras) -> None:
    """Writes a ``transforms.json`` that :func:`read_transforms` and Gen3R's own loader read back exactly."""
    frames = []
    for name, c2w, matrix, (height, width) in zip(names, cameras.c2w, cameras.intrinsics, cameras.sizes, strict=True):
        numbers = (width, height, matrix[0, 0], matrix[1, 1], matrix[0, 2], matrix[1, 2])
        intrinsics = dict(zip(INTRINSIC_KEYS, (number.item() for number in numbers), strict=True))
        frames.append({"file_path": f"images/{name}", **intrinsics, "transform_matrix": c2w.tolist()})
    write_json(path, {"camera_convention": "opencv_c2w", "frames": frames}, indent=None)


def _pose(matrix: Any, where: str) -> Float[np.ndarray, "4 4"]:
    try:
        pose = np.array(matrix, np.float64)
    except (TypeError, ValueError):
        pose = np.empty(0)
    if pose.shape not in ((4, 4), (3, 4)) or not np.isfinite(pose).all():
        raise UserError(f"{where} has a transform_matrix that is not 4 x 4 finite numbers")
    return np.vstack([pose[:3], [0, 0, 0, 1]])
