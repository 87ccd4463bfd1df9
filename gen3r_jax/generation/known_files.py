"""Known cameras, intrinsics and depth from the files that a user names, for the frames that are used."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from jaxtyping import Float

from gen3r_jax.data.depth_maps import read_depth_maps
from gen3r_jax.data.images import Clip
from gen3r_jax.errors import UserError
from gen3r_jax.generation.known import KnownGeometry
from gen3r_jax.geometry.camera_files.contents import CameraFile
from gen3r_jax.geometry.camera_files.read import cameras_for, read_contents
from gen3r_jax.geometry.cameras import Size, crop_intrinsics, intrinsics_fault


def read_known(
    clip: Clip,
    size: Size,
    pad: bool = False,
    cameras: Path | None = None,
    camera_format: str | None = None,
    intrinsics: Sequence[str] = (),
    depth: Sequence[Path] = (),
    depth_steps: float = 1000.0,
) -> KnownGeometry:
    """What is known of the frames of `clip` once they are cropped, or padded, to `size`.

    Args:
      cameras: a file with a camera for each frame there is, or for each that is used, or for each by its name.
      intrinsics: a camera file whose poses are ignored, or fx fy cx cy in pixels of the pictures; by default those of
        `cameras`, where it has them.
      depth, depth_steps: as :func:`gen3r_jax.data.depth_maps.read_depth_maps` takes them.

    Raises:
      UserError: files that are missing or do not fit.
    """
    c2w = k = None
    if cameras is not None:
        c2w, k = _read(cameras, camera_format, clip, size, pad)
    if len(intrinsics) == 1:
        _, k = _read(Path(intrinsics[0]), None, clip, size, pad)
        if k is None:
            raise UserError(f"{intrinsics[0]} has no intrinsics; give --intrinsics FX FY CX CY")
    elif intrinsics:
        k = _pinholes(intrinsics, clip, size, pad)
    sizes = [picture.shape[:2] for picture in clip.frames]
    maps = read_depth_maps(depth, clip.numbers, clip.available, sizes, size, depth_steps) if depth else None
    return KnownGeometry(c2w, k, maps)


def _read(path: Path, camera_format: str | None, clip: Clip, size: Size, pad: bool):
    contents = _of_frames(read_contents(path, camera_format), clip)
    return cameras_for(len(clip.frames), size, contents, clip.stored, pad=pad)


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


def _pinholes(numbers: Sequence[str], clip: Clip, size: Size, pad: bool) -> Float[np.ndarray, "t 3 3"]:
    try:
        fx, fy, cx, cy = map(float, numbers)
    except ValueError:
        raise UserError(f"--intrinsics {' '.join(numbers)}: give FX FY CX CY in pixels, or a camera file") from None
    k = np.array([[fx, 0, cx], [0, fy, cy], [0, 0, 1]])
    sizes = [picture.shape[:2] for picture in clip.frames]
    if fault := intrinsics_fault(k, sizes[0]):
        raise UserError(f"--intrinsics {' '.join(numbers)}: a camera of these {fault}")
    return np.stack([crop_intrinsics(k, of, size, pad=pad) for of in sizes])
