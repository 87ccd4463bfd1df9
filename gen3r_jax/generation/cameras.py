"""Where the cameras of a generation are: presets, files and :class:`Cameras`, made ready for the networks."""

import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Annotated, Any

import jax
import numpy as np
from jaxtyping import Float

from gen3r_jax.arrays import picture_size
from gen3r_jax.carried import user_path
from gen3r_jax.errors import UserError
from gen3r_jax.geometry.camera_files.contents import CameraFile
from gen3r_jax.geometry.camera_files.orientation import StoredPicture
from gen3r_jax.geometry.camera_files.read import cameras_for, read_contents
from gen3r_jax.geometry.cameras import Cameras, Size, plucker_map, rebase_to_first
from gen3r_jax.geometry.trajectories import PRESETS, camera_path
from gen3r_jax.options import Range, nearest, read_value

Reconstruct = Callable[
    [Float[np.ndarray, "k h w 3"]], tuple[Float[np.ndarray, "k 3 4"], Float[np.ndarray, "k 3 3"], float]
]
"""Gives world-to-camera matrices, intrinsics in pixels and the median depth of pictures, as VGGT sees them."""


def open_cameras(cameras: Any, camera_format: str | None = None) -> Any:
    """The content of a camera file, or of :class:`Cameras` as if a file had held them; None where cameras are free.

    Names of presets and Plücker maps stay as they are.

    Args:
      camera_format: of a file, one of :data:`gen3r_jax.geometry.camera_files.FORMATS`.

    Raises:
      UserError: neither a file nor a preset, a damaged file, arrays of other shapes.
    """
    if cameras is None or isinstance(cameras, (np.ndarray, jax.Array)):
        return cameras
    if isinstance(cameras, str) and cameras in PRESETS:
        return None if cameras == "free" else cameras
    if isinstance(cameras, Cameras):
        return as_file(cameras)
    return read_contents(camera_file(cameras), camera_format)


def camera_poses(
    cameras: str | CameraFile,
    images: Float[np.ndarray, "k h w 3"],
    num_frames: int,
    reconstruct: Reconstruct,
    picture: StoredPicture | None = None,
    *,
    pad: bool = False,
    camera_angle: float | None = None,
    camera_distance: float | None = None,
    camera_easing: str | None = None,
    camera_scale: float | None = None,
) -> tuple[Float[np.ndarray, "t 4 4"], Float[np.ndarray, "t 3 3"]]:
    """Camera-to-world matrices, the first the identity, and intrinsics in pixels of the given images.

    Cameras are turned with `picture`, the first of the images, if they are for its stored pixels. Fewer or
    more poses than frames are resampled along their path.

    The scale of a preset is VGGT's median depth; so are intrinsics VGGT's where the cameras have none.

    Args:
      cameras: as :func:`open_cameras` gives them.
      pad: whether the images were padded to their size, not cropped.
      camera_angle, camera_distance: of presets, as :func:`gen3r_jax.geometry.trajectories.camera_path` takes them.
      camera_easing: how fast the camera moves when, one of :data:`gen3r_jax.geometry.trajectories.EASINGS`.
      camera_scale: what the translations of given cameras are multiplied by.

    Raises:
      UserError: cameras that cannot be meant, options that do not belong to such cameras.
    """
    size = picture_size(images)
    easing = camera_easing or "none"
    if isinstance(cameras, str):
        options: dict[str, Any] = {"angle": camera_angle, "distance": camera_distance, "easing": easing}
        camera_path(cameras, num_frames, 1.0, **options)  # says what is wrong before VGGT runs
        _, intrinsics, depth = reconstruct(images)
        return camera_path(cameras, num_frames, 0.8 * depth, **options), np.repeat(intrinsics[:1], num_frames, axis=0)
    c2w, intrinsics = cameras_for(num_frames, size, cameras, picture, easing, pad)
    if intrinsics is None:  # the form has none
        intrinsics = np.repeat(reconstruct(images)[1][:1], num_frames, axis=0)
    c2w = rebase_to_first(c2w)
    c2w[:, :3, 3] *= 1 if camera_scale is None else camera_scale
    return c2w, intrinsics


def as_file(cameras: Cameras) -> CameraFile:
    """Cameras, as if a file had held them. Raises UserError where their arrays have other shapes."""
    shapes = [np.shape(array) for array in (cameras.c2w, cameras.intrinsics, cameras.sizes)]
    count = shapes[0][:1]
    if shapes != [(*count, 4, 4), (*count, 3, 3), (*count, 2)]:
        wanted = "c2w [t, 4, 4], intrinsics [t, 3, 3] and sizes [t, 2]"
        raise UserError(f"cameras need {wanted}, not {', '.join(str(list(shape)) for shape in shapes)}")
    c2w, intrinsics, sizes = (np.asarray(array, np.float64) for array in vars(cameras).values())
    return CameraFile(Path("cameras"), c2w, intrinsics=intrinsics, sizes=sizes)


def camera_file(name: Any) -> Path:
    """The camera file of a name. Raises UserError, with the preset that is most alike, where there is none."""
    path = user_path(name, "cameras")
    if not os.path.exists(path):  # a name that is too long for a path included
        hint = nearest(str(name), PRESETS)
        raise UserError(f"cameras {str(name)[:60]!r}{hint} is neither a file nor one of {', '.join(PRESETS)}")
    return path


def refuse_other_options(
    cameras: Any,
    camera_format: str | None = None,
    camera_angle: float | None = None,
    camera_distance: float | None = None,
    camera_easing: str | None = None,
    camera_scale: float | None = None,
) -> None:
    """Raises UserError for options of presets where the cameras are a file, and the other way round."""
    preset = isinstance(cameras, str) and cameras in PRESETS
    free = cameras is None or (preset and cameras == "free")
    if camera_easing is not None and (free or isinstance(cameras, (np.ndarray, jax.Array))):
        raise UserError("camera_easing is of presets, files and Cameras; these cameras have no path to resample")
    read_value(camera_scale, Annotated[float | None, Range(above=0)], "camera_scale")
    if camera_scale is not None and (free or preset or isinstance(cameras, (np.ndarray, jax.Array))):
        raise UserError(f"camera_scale is of files and Cameras, cameras is {str(cameras)[:80]!r}")
    if not (preset and cameras != "free") and (camera_angle, camera_distance) != (None, None):
        raise UserError(f"camera_angle and camera_distance are of presets, cameras is {str(cameras)!r}")
    if camera_format and (preset or cameras is None):
        raise UserError(f"camera_format is of camera files, cameras is {str(cameras)!r}")


def camera_maps(
    poses: Sequence[tuple[Float[np.ndarray, "t 4 4"], Float[np.ndarray, "t 3 3"]]], size: Size
) -> Float[np.ndarray, "b t h w 6"]:
    """Plücker maps (moment, direction) of the cameras of every sample."""
    return np.stack([plucker_map(intrinsics, c2w, size) for c2w, intrinsics in poses]).astype(np.float32)
