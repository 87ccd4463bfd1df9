"""Cameras from files of other tools. Axes are never guessed: the form of a file tells them, or the user does."""

from collections.abc import Callable
from functools import partial
from pathlib import Path

import numpy as np
from jaxtyping import Float

from gen3r_jax.errors import UserError
from gen3r_jax.geometry.camera_files.camera_path import read_camera_path
from gen3r_jax.geometry.camera_files.colmap import find_model, read_colmap
from gen3r_jax.geometry.camera_files.contents import CameraFile
from gen3r_jax.geometry.camera_files.kitti import read_kitti
from gen3r_jax.geometry.camera_files.matrices import read_archive, read_matrices
from gen3r_jax.geometry.camera_files.official import read_official
from gen3r_jax.geometry.camera_files.orientation import StoredPicture, turned_with
from gen3r_jax.geometry.camera_files.realestate10k import read_realestate10k
from gen3r_jax.geometry.camera_files.transforms import read_capture
from gen3r_jax.geometry.camera_files.tum import read_tum
from gen3r_jax.geometry.cameras import Size, crop_intrinsics, intrinsics_fault
from gen3r_jax.geometry.trajectories import resampled
from gen3r_jax.storage.files import read_json, read_lines

# What is read, with axes that the form fixes; docs/cameras.md describes the files.
FORMATS: dict[str, Callable[[Path], CameraFile]] = {
    "official": read_official,  # Gen3R's cameras.json: world to camera, OpenCV axes
    "nerfstudio": partial(read_capture, opengl=True),  # transforms.json: camera to world, OpenGL axes
    "opencv-transforms": partial(read_capture, opengl=False),  # the same with OpenCV axes, as in Gen3R's training data
    "camera-path": read_camera_path,  # nerfstudio's camera_path.json: camera to world, OpenGL axes
    "colmap": read_colmap,  # a folder with cameras and images, .txt or .bin
    "tum": read_tum,  # lines of: time tx ty tz qx qy qz qw, camera to world, OpenCV axes; no intrinsics
    "kitti": read_kitti,  # lines of 3 x 4 numbers: camera to world, OpenCV axes; no intrinsics
    "realestate10k": read_realestate10k,  # an address, then lines of 19 numbers: world to camera, OpenCV axes
    "npz": read_archive,  # arrays whose keys tell what they are, as VGGT and Depth Anything 3 save them
    "c2w": partial(read_matrices, w2c=False),  # .npy or text with 3 x 4 or 4 x 4 matrices, OpenCV axes; no intrinsics
    "w2c": partial(read_matrices, w2c=True),
}
Poses = Float[np.ndarray, "t 4 4"]
Intrinsics = Float[np.ndarray, "t 3 3"]


def read_camera_file(
    path: Path,
    num_frames: int,
    size: Size,
    camera_format: str | None = None,
    picture: StoredPicture | None = None,
    easing: str = "none",
    pad: bool = False,
) -> tuple[Poses, Intrinsics | None]:
    """Camera-to-world matrices (OpenCV axes) and intrinsics of a file, resampled along its path to `num_frames`.

    Poses are in the order of their times or of their pictures' names, where the file has them. As many poses as frames
    stay as they are; of fewer or more the frames are spread evenly in time from the first pose to the last.

    Args:
      size: (height, width) that images are scaled and cropped to; so are the intrinsics, where the file says of what
        size they are. Otherwise they must be meant for `size`.
      camera_format: one of ``FORMATS``; by default what the file cannot but be.
      picture: the given picture as its file stores it. If a camera is for the stored pixels, and the picture is shown
        turned, the camera is turned with it.
      easing: one of :data:`gen3r_jax.geometry.trajectories.EASINGS`.
      pad: whether images are padded to `size`, not cropped.

    Returns:
      Matrices, and None instead of intrinsics where the form has none.

    Raises:
      UserError: no such file or form, axes that are not told, impossible cameras; one line.
    """
    return cameras_for(num_frames, size, read_contents(path, camera_format), picture, easing, pad)


def read_contents(path: Path, camera_format: str | None = None) -> CameraFile:
    """The cameras of a file as it states them, in order. Raises UserError as :func:`read_camera_file` does."""
    if camera_format is not None and camera_format not in FORMATS:
        raise UserError(f"camera format {camera_format!r} is none of {', '.join(FORMATS)}")
    if not path.exists():
        raise UserError(f"no camera file at {path}")
    return (FORMATS[camera_format] if camera_format else _recognise(path))(path).in_order()


def cameras_for(
    num_frames: int,
    size: Size,
    contents: CameraFile,
    picture: StoredPicture | None = None,
    easing: str = "none",
    pad: bool = False,
) -> tuple[Poses, Intrinsics | None]:
    """What :func:`read_camera_file` gives, of cameras that are in order. Raises UserError where it does."""
    if not len(contents):
        raise UserError(f"{contents.path} holds no cameras")
    contents.require_sound()
    contents.tell_gaps()
    if picture is not None:
        contents = turned_with(picture, contents)
    intrinsics = _fitted_intrinsics(contents, size, pad)
    return resampled(contents.c2w, intrinsics, num_frames, contents.path, easing, contents.stamps)


def _fitted_intrinsics(contents: CameraFile, size: Size, pad: bool) -> Intrinsics | None:
    """Intrinsics in pixels of pictures that were cropped or padded to `size`; None where the form has none."""
    intrinsics = contents.intrinsics
    if intrinsics is None:
        return None
    if contents.sizes is not None:
        pairs = zip(intrinsics, contents.sizes.astype(int).tolist(), strict=True)
        intrinsics = np.stack([crop_intrinsics(k, tuple(of), size, pad=pad) for k, of in pairs])
    for index, k in enumerate(intrinsics):
        if fault := intrinsics_fault(k, size):
            raise UserError(f"{contents.path}: camera {index} {fault}")
    if (np.abs(intrinsics[:, [1, 0], 2] / np.array(size) - 0.5) > 0.25).any():
        seem = " x ".join(f"{2 * x:.0f}" for x in intrinsics[0, [0, 1], 2])
        raise UserError(
            f"{contents.path}: the intrinsics seem to be for images of {seem}, not of {size[1]} x {size[0]}; give "
            "--width and --height, or a file that says its image size"
        )
    return intrinsics


def _recognise(path: Path) -> Callable[[Path], CameraFile]:
    """The reader of a file whose form tells what it is."""
    if path.is_dir():
        if find_model(path) is None:
            raise UserError(f"{path} holds no COLMAP model (cameras.txt and images.txt, or cameras.bin and images.bin)")
        return read_colmap
    unknown = UserError(f"{path} has none of the forms {', '.join(FORMATS)}")
    if path.suffix == ".npz":
        return read_archive
    if path.suffix == ".npy":
        raise UserError(f"{path} does not say which way its matrices map; add --camera_format c2w or w2c")
    lines = [line for line in read_lines(path) if not line.startswith("#")]
    if lines and lines[0].startswith(("{", "[")):
        document = read_json(path, object, nan=True)
        if not isinstance(document, dict):
            raise unknown
        if {"extrinsics", "intrinsics"} <= document.keys():
            return read_official
        if "camera_path" in document:
            return read_camera_path
        if "frames" in document:
            return partial(read_capture, opengl=None)
        raise unknown
    columns = [len(line.split()) for line in lines]
    if len(columns) > 1 and set(columns[1:]) == {19} and columns[0] == 1:
        return read_realestate10k
    if set(columns) == {8}:
        return read_tum
    if set(columns) == {12}:
        return read_kitti
    if columns and set(columns) <= {4, 16}:
        raise UserError(f"{path} does not say which way its matrices map; add --camera_format c2w or w2c")
    raise unknown
