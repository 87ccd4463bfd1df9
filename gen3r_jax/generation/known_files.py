"""Known cameras, intrinsics and depth, in the forms that users have them, for the frames that are used."""

import os
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float

from gen3r_jax.carried import user_path
from gen3r_jax.data.depth_maps import STEPS, read_depth_maps
from gen3r_jax.data.images import Clip
from gen3r_jax.errors import UserError
from gen3r_jax.generation.cameras import as_file
from gen3r_jax.generation.inputs import as_paths
from gen3r_jax.generation.known import KnownGeometry
from gen3r_jax.geometry.camera_files.contents import CameraFile, for_all, pinhole, to_numbers, to_poses
from gen3r_jax.geometry.camera_files.read import cameras_for, read_contents
from gen3r_jax.geometry.cameras import Cameras, Size, crop_intrinsics, intrinsics_fault


def read_known(
    clip: Clip,
    size: Size,
    pad: bool = False,
    cameras: Any = None,
    camera_format: str | None = None,
    intrinsics: Any = None,
    depth: Any = None,
    depth_steps: float = STEPS,
) -> KnownGeometry:
    """What is known of the frames of `clip` once they are cropped, or padded, to `size`.

    Args:
      cameras: a file, :class:`Cameras` or camera-to-world matrices [t, 4, 4], with a camera for each frame there is, or
        for each that is used, or for each by its name.
      intrinsics: a camera file whose poses are ignored, or fx fy cx cy, or matrices, in pixels of the pictures; by
        default those of `cameras`, where it has them.
      depth, depth_steps: as :func:`gen3r_jax.data.depth_maps.read_depth_maps` takes them.

    Raises:
      UserError: files or arrays that are missing or do not fit.
    """
    c2w = k = maps = None
    if cameras is not None:
        c2w, k = _cameras(_contents(cameras, camera_format), clip, size, pad)
    if intrinsics is not None and (paths := as_paths(intrinsics, "intrinsics")) and len(paths) == 1:
        _, k = _cameras(read_contents(paths[0]), clip, size, pad)
        if k is None:
            raise UserError(f"{paths[0]} has no intrinsics; give --intrinsics FX FY CX CY")
    elif intrinsics is not None:
        k = _pinholes(intrinsics, clip, size, pad)
    if depth is not None:
        sizes = [picture.shape[:2] for picture in clip.frames]
        given = as_paths(depth, "depth") or np.asarray(depth)
        maps = read_depth_maps(given, clip.numbers, clip.available, sizes, size, depth_steps)
    return KnownGeometry(c2w, k, maps)


def _contents(cameras: Any, camera_format: str | None) -> CameraFile:
    """Cameras of any form, as if a file had held them."""
    if isinstance(cameras, (str, os.PathLike)):
        return read_contents(user_path(cameras, "cameras"), camera_format)
    if isinstance(cameras, Cameras):
        return as_file(cameras)
    if (poses := to_poses(cameras)) is None:
        raise UserError(f"cameras of the shape {list(np.shape(cameras))}: give a file, Cameras, or matrices [t, 4, 4]")
    return CameraFile(Path("cameras"), poses)


def _cameras(contents: CameraFile, clip: Clip, size: Size, pad: bool):
    return cameras_for(len(clip.frames), size, _of_frames(contents, clip), clip.stored, pad=pad)


def _of_frames(contents: CameraFile, clip: Clip) -> CameraFile:
    """The cameras of the frames that are used: known ones stay as they are, so none is made up between others."""
    numbers = {Path(name).name: index for index, name in enumerate(contents.names)}
    if clip.names and len(numbers) == len(contents) and numbers.keys() >= set(clip.names):
        return contents.take([numbers[name] for name in clip.names])
    if len(contents) == clip.available:
        return contents.take(list(clip.numbers))
    if len(contents) == len(clip.frames):
        return contents
    raise UserError(
        f"{contents.path} has {len(contents)} cameras for {clip.available} frames, of which {len(clip.frames)} are "
        "used; give one for each"
    )


def _pinholes(given: Any, clip: Clip, size: Size, pad: bool) -> Float[np.ndarray, "t 3 3"]:
    numbers, count = to_numbers(given), len(clip.frames)
    k = None
    if numbers is not None:
        k = for_all(pinhole(*numbers) if numbers.shape == (4,) else numbers, count)
    if k is None and numbers is not None and clip.available > count:
        k = for_all(numbers, clip.available)
        k = None if k is None else k[list(clip.numbers)]
    if k is None:
        told = " ".join(map(str, given)) if numbers is None or numbers.ndim == 1 else f"of {list(numbers.shape)}"
        raise UserError(f"--intrinsics {told}: give FX FY CX CY in pixels, or a camera file")
    for one, picture in zip(k, clip.frames, strict=True):
        if fault := intrinsics_fault(one, picture.shape[:2]):
            raise UserError(
                f"--intrinsics: a camera of {' '.join(f'{x:g}' for x in one[[0, 1, 0, 1], [0, 1, 2, 2]])} {fault}"
            )
    return np.stack([crop_intrinsics(one, of.shape[:2], size, pad=pad) for one, of in zip(k, clip.frames, strict=True)])
