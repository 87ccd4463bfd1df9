"""camera_path.json: the paths that nerfstudio's viewer draws, camera to world in OpenGL axes, with a vertical angle."""

import math
from pathlib import Path
from typing import Any

import numpy as np

from gen3r_jax.errors import UserError
from gen3r_jax.geometry.camera_files.contents import CameraFile, pinhole, to_numbers
from gen3r_jax.geometry.cameras import OPENGL_AXES, Cameras
from gen3r_jax.storage.files import read_json, write_json


def read_camera_path(path: Path) -> CameraFile:
    """Read the rendered frames of a path. Raises UserError for damaged files and cameras that are no pinholes."""
    document = read_json(path, nan=True)  # numbers that are not finite are named with their camera
    frames = document.get("camera_path")
    if not isinstance(frames, list) or not frames:
        raise UserError(f"{path} lists no cameras: it needs `camera_path`, a list that is not empty")
    if (kind := document.get("camera_type", "perspective")) != "perspective":
        raise UserError(f"{path}: its camera is no pinhole ({str(kind)[:40]}); only perspective can be read")
    size = to_numbers([document.get("render_height"), document.get("render_width")])
    if size is None or not np.isfinite(size).all():
        raise UserError(f"{path} needs render_height and render_width in pixels")
    height, width = size.tolist()
    poses, matrices = [], []
    for index, frame in enumerate(frames):
        pose, fov = _numbers(frame, f"{path}: camera {index}")
        focal = height / 2 / math.tan(math.radians(fov) / 2)
        poses.append(pose @ OPENGL_AXES)
        matrices.append(pinhole(focal, focal, width / 2, height / 2))
    return CameraFile(path, np.stack(poses), intrinsics=np.stack(matrices), sizes=np.tile(size, (len(poses), 1)))


def write_camera_path(path: Path | str, cameras: Cameras, fps: float) -> None:
    """Write a path that nerfstudio's ``ns-render camera-path`` renders, in pictures of the first camera's size.

    The form has square pixels and no principal point but the middle: only vertical focal lengths are kept.
    """
    height, width = cameras.sizes[0].tolist()
    frames = [
        {
            "camera_to_world": (c2w @ OPENGL_AXES).ravel().tolist(),
            "fov": math.degrees(2 * math.atan(height / 2 / focal)),
            "aspect": width / height,
        }
        for c2w, focal in zip(cameras.c2w, cameras.intrinsics[:, 1, 1].tolist(), strict=True)
    ]
    document = {"camera_type": "perspective", "render_height": height, "render_width": width, "fps": fps}
    write_json(path, {**document, "seconds": len(frames) / fps, "camera_path": frames}, indent=None)


def _numbers(frame: Any, where: str) -> tuple[np.ndarray, float]:
    """The matrix of a camera and its vertical angle of view in degrees."""
    frame = frame if isinstance(frame, dict) else {}
    pose, fov = (to_numbers(frame.get(key)) for key in ("camera_to_world", "fov"))
    if pose is None or pose.size != 16:
        raise UserError(f"{where} needs camera_to_world, 16 numbers")
    if fov is None or fov.shape or not 0 < fov < 180:
        raise UserError(f"{where} needs fov, its vertical angle of view in degrees, above 0 and below 180")
    return pose.reshape(4, 4), fov.item()
