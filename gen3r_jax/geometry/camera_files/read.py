"""Cameras from files of other tools. Axes are never guessed: the form of a file tells them, or the user does."""

from collections.abc import Callable
from functools import partial
from pathlib import Path

import numpy as np
from jaxtyping import Float

from gen3r_jax.errors import UserError
from gen3r_jax.geometry.camera_files.colmap import find_model, read_colmap
from gen3r_jax.geometry.camera_files.contents import CameraFile
from gen3r_jax.geometry.camera_files.official import read_official
from gen3r_jax.geometry.camera_files.orientation import StoredPicture, turned_with
from gen3r_jax.geometry.camera_files.transforms import read_capture
from gen3r_jax.geometry.camera_files.tum import is_tum, read_tum
from gen3r_jax.geometry.cameras import Size, crop_intrinsics, intrinsics_fault
from gen3r_jax.storage.files import read_json, read_text

# What is read, with axes that the form fixes; docs/cameras.md describes the files.
FORMATS: dict[str, Callable[[Path], CameraFile]] = {
    "official": read_official,  # Gen3R's cameras.json: world to camera, OpenCV axes
    "nerfstudio": partial(read_capture, opengl=True),  # transforms.json: camera to world, OpenGL axes
    "opencv-transforms": partial(read_capture, opengl=False),  # the same with OpenCV axes, as in Gen3R's training data
    "colmap": read_colmap,  # a folder with cameras and images, .txt or .bin
    "tum": read_tum,  # lines of: time tx ty tz qx qy qz qw, camera to world, OpenCV axes; no intrinsics
}
Poses = Float[np.ndarray, "t 4 4"]
Intrinsics = Float[np.ndarray, "t 3 3"]


def read_camera_file(
    path: Path,
    num_frames: int,
    size: Size,
    camera_format: str | None = None,
    picture: StoredPicture | None = None,
) -> tuple[Poses, Intrinsics | None]:
    """Camera-to-world matrices (OpenCV axes) and intrinsics of the first frames of a file.

    Frames are in the order of their times or of their pictures' names, where the file has them.

    Args:
      size: (height, width) that images are scaled and cropped to; so are the intrinsics, where the file says of what
        size they are. Otherwise they must be meant for `size`.
      camera_format: one of ``FORMATS``; by default what the file cannot but be.
      picture: the given picture as its file stores it. If a camera is for the stored pixels, and the picture is shown
        turned, the camera is turned with it.

    Returns:
      Matrices, and None instead of intrinsics where the form has none.

    Raises:
      UserError: no such file or form, axes that are not told, too few or impossible cameras; one line.
    """
    if camera_format is not None and camera_format not in FORMATS:
        raise UserError(f"camera format {camera_format!r} is none of {', '.join(FORMATS)}")
    if not path.exists():
        raise UserError(f"no camera file at {path}")
    contents = (FORMATS[camera_format] if camera_format else _recognise(path))(path).in_order()
    if len(contents) < num_frames:
        raise UserError(f"{path} has {len(contents)} cameras, {num_frames} are needed; ask for fewer with --num_frames")
    contents.require_sound()
    contents = contents.take(range(num_frames))
    contents.tell_gaps()
    if picture is not None:
        contents = turned_with(picture, contents)
    if contents.intrinsics is None:
        return contents.c2w, None
    intrinsics = contents.intrinsics
    if contents.sizes is not None:
        pairs = zip(intrinsics, contents.sizes.astype(int).tolist(), strict=True)
        intrinsics = np.stack([crop_intrinsics(k, tuple(of), size) for k, of in pairs])
    for index, k in enumerate(intrinsics):
        if fault := intrinsics_fault(k, size):
            raise UserError(f"{path}: camera {index} {fault}")
    if (np.abs(intrinsics[:, [1, 0], 2] / np.array(size) - 0.5) > 0.25).any():
        seem = " x ".join(f"{2 * x:.0f}" for x in intrinsics[0, [0, 1], 2])
        raise UserError(
            f"{path}: the intrinsics seem to be for images of {seem}, not of {size[1]} x {size[0]}; give "
            "--width and --height, or a file that says its image size"
        )
    return contents.c2w, intrinsics


def _recognise(path: Path) -> Callable[[Path], CameraFile]:
    """The reader of a file whose form tells what it is."""
    if path.is_dir():
        if find_model(path) is None:
            raise UserError(f"{path} holds no COLMAP model (cameras.txt and images.txt, or cameras.bin and images.bin)")
        return read_colmap
    text = read_text(path)
    if is_tum(text):
        return read_tum
    if not text.lstrip().startswith("{"):
        raise UserError(f"{path} has none of the forms {', '.join(FORMATS)}")
    document = read_json(path, nan=True)
    if {"extrinsics", "intrinsics"} <= document.keys():
        return read_official
    if "frames" in document:
        return partial(read_capture, opengl=None)
    raise UserError(f"{path} has none of the forms {', '.join(FORMATS)}")
