"""Cameras from files of other tools. Axes are never guessed: the form of a file tells them, or the user does."""

from pathlib import Path

import numpy as np
from jaxtyping import Float

from gen3r_jax.errors import UserError
from gen3r_jax.geometry.camera_files.official import read_cameras as read_official
from gen3r_jax.geometry.camera_files.transforms import read_transforms
from gen3r_jax.geometry.cameras import OPENGL_AXES, crop_intrinsics, quaternion_to_matrix
from gen3r_jax.storage.files import natural_key, read_json, read_lines, read_text

# Name -> what it is.
FORMATS = {
    "official": "Gen3R's cameras.json: world to camera, OpenCV axes",
    "nerfstudio": "transforms.json with OpenGL axes (x right, y up, z backward), camera to world",
    "opencv-transforms": "transforms.json with OpenCV axes, camera to world, as Gen3R's training data have it",
    "colmap": "a folder with cameras.txt and images.txt",
    "tum": "lines of: time tx ty tz qx qy qz qw, camera to world, OpenCV axes; no intrinsics",
}
# What a transforms.json may say of its axes as "camera_convention".
_AXES = {"opencv_c2w": "opencv-transforms", "opengl_c2w": "nerfstudio"}
# Where it says of a lens that is not a pinhole's.
_DISTORTION = ("k1", "k2", "k3", "k4", "p1", "p2")
Poses, Intrinsics = Float[np.ndarray, "t 4 4"], Float[np.ndarray, "t 3 3"]


def read_camera_file(
    path: Path, num_frames: int, size: tuple[int, int], camera_format: str | None = None
) -> tuple[Poses, Intrinsics | None]:
    """Camera-to-world matrices (OpenCV axes) and intrinsics of the first frames of a file.

    Args:
      size: (height, width) that images are scaled and cropped to; so are the intrinsics, where the file says of what
        size they are. Otherwise they must be meant for `size`.
      camera_format: one of ``FORMATS``; by default what the file cannot but be.

    Returns:
      Matrices, and None instead of intrinsics where the form has none.

    Raises:
      UserError: no such file or form, axes that are not told, too few or impossible cameras; one line.
    """
    if camera_format is not None and camera_format not in FORMATS:
        raise UserError(f"camera format {camera_format!r} is none of {', '.join(FORMATS)}")
    if not path.exists():
        raise UserError(f"no camera file at {path}")
    read = {
        "official": _read_official,
        "nerfstudio": lambda path: _read_transforms(path, opengl=True),
        "opencv-transforms": lambda path: _read_transforms(path, opengl=False),
        "colmap": _read_colmap,
        "tum": _read_tum,
    }[camera_format or _recognise(path)]
    c2w, intrinsics, sizes = read(path)
    if len(c2w) < num_frames:
        raise UserError(f"{path} has {len(c2w)} cameras, {num_frames} are needed; ask for fewer with --num_frames")
    c2w = c2w[:num_frames]
    _require_rigid(c2w, path)
    if intrinsics is None:
        return c2w, None
    intrinsics = intrinsics[:num_frames]
    if not np.isfinite(intrinsics).all() or (intrinsics[:, [0, 1], [0, 1]] <= 0).any():
        raise UserError(f"{path}: intrinsics must be finite numbers with positive focal lengths")
    if np.abs(intrinsics[:, [0, 1, 2, 2, 2], [1, 0, 0, 1, 2]] - [0, 0, 0, 0, 1]).max() > 1e-6:
        raise UserError(f"{path}: intrinsics must be [[fx, 0, cx], [0, fy, cy], [0, 0, 1]], without skew")
    if sizes is not None:
        if not np.isfinite(sizes).all() or (sizes < 1).any():
            raise UserError(f"{path}: the image size must be positive numbers")
        pairs = zip(intrinsics, sizes[:num_frames], strict=True)
        intrinsics = np.stack([crop_intrinsics(k, tuple(map(int, of)), size) for k, of in pairs])
    centre = intrinsics[:, [1, 0], 2] / np.array(size)
    if (np.abs(centre - 0.5) > 0.25).any():
        seem = " x ".join(f"{2 * x:.0f}" for x in intrinsics[0, [0, 1], 2])
        raise UserError(
            f"{path}: the intrinsics seem to be for images of {seem}, not of {size[1]} x {size[0]}; give "
            "--width and --height, or a file that says its image size"
        )
    return c2w, intrinsics


def _recognise(path: Path) -> str:
    if path.is_dir():
        if (path / "images.txt").exists():
            return "colmap"
        raise UserError(f"{path} holds no COLMAP text model (cameras.txt, images.txt)")
    lines = [line.split() for line in _lines(path)]
    if lines and all(len(line) == 8 for line in lines):
        return "tum"
    if not (lines and lines[0][0].startswith(("{", "["))):
        raise UserError(f"{path} has none of the forms {', '.join(FORMATS)}")
    document = read_json(path, nan=True)
    if {"extrinsics", "intrinsics"} <= document.keys():
        return "official"
    if "frames" in document:
        if told := _AXES.get(str(document.get("camera_convention"))):
            return told
        raise UserError(
            f"{path} does not say its axes: add --camera_format nerfstudio (OpenGL axes) or opencv-transforms"
        )
    raise UserError(f"{path} has none of the forms {', '.join(FORMATS)}")


def _read_official(path: Path) -> tuple[Poses, Intrinsics, np.ndarray | None]:
    cameras = read_official(path)
    _require_rigid(cameras.w2c, path)
    sizes = None if cameras.image_size is None else np.tile(np.array(cameras.image_size), (len(cameras.w2c), 1))
    return np.linalg.inv(cameras.w2c), cameras.intrinsics, sizes


def _read_transforms(path: Path, opengl: bool) -> tuple[Poses, Intrinsics, np.ndarray]:
    _, cameras = read_transforms(path)
    document = read_json(path, nan=True)
    told = _AXES.get(str(document.get("camera_convention")))
    if told and (told == "nerfstudio") != opengl:
        raise UserError(f"{path} says that it is {told}; leave --camera_format away")
    model = str(document.get("camera_model"))
    if any(kind in model for kind in ("FISHEYE", "EQUIRECTANGULAR")):
        raise UserError(f"{path}: its camera is no pinhole ({model}); undistort the images first")
    if any(frame.get(key) for frame in (document, *document["frames"]) for key in _DISTORTION):
        raise UserError(f"{path}: its lens is distorted (k1, ...); undistort the images first")
    return cameras.c2w @ OPENGL_AXES if opengl else cameras.c2w, cameras.intrinsics, cameras.sizes


def _read_colmap(path: Path) -> tuple[Poses, Intrinsics, np.ndarray]:
    """Images in the order of their names, numbers counted as numbers."""
    models = {}
    for line in _lines(path / "cameras.txt"):
        number, model, width, height, *numbers = _words(line, 5, path / "cameras.txt")
        if model not in ("PINHOLE", "SIMPLE_PINHOLE"):
            raise UserError(f"{path}: camera {number} is {model}; undistort the images first (PINHOLE is needed)")
        width, height, *numbers = _numbers([width, height, *numbers], path / "cameras.txt")
        if len(numbers) != (4 if model == "PINHOLE" else 3):
            raise UserError(f"{path}: camera {number} is {model} with {len(numbers)} parameters")
        fx, fy, cx, cy = numbers if model == "PINHOLE" else (numbers[0], *numbers)
        models[number] = np.array([[fx, 0, cx], [0, fy, cy], [0, 0, 1]]), (height, width)
    # Of every two lines the second lists points of the image; it may be empty.
    text = "\n".join(line for line in read_text(path / "images.txt").splitlines() if not line.startswith("#"))
    images = []
    for line in filter(str.strip, text.lstrip().split("\n")[::2]):
        _, *pose, camera, name = _words(line, 10, path / "images.txt")
        qw, qx, qy, qz, *translation = _numbers(pose, path / "images.txt")
        if camera not in models:
            raise UserError(f"{path}: image {name} has camera {camera}, which cameras.txt does not have")
        if not any((qw, qx, qy, qz)):
            raise UserError(f"{path}: image {name} has the quaternion 0 0 0 0, which is no rotation")
        w2c = np.eye(4)
        w2c[:3, :3], w2c[:3, 3] = quaternion_to_matrix(np.array([qx, qy, qz, qw])), translation
        images.append((name, np.linalg.inv(w2c), *models[camera]))
    if not images:
        raise UserError(f"{path} holds no images")
    _, c2w, intrinsics, sizes = zip(*sorted(images, key=lambda image: natural_key(Path(image[0]))), strict=True)
    return np.stack(c2w), np.stack(intrinsics), np.array(sizes)


def _read_tum(path: Path) -> tuple[Poses, None, None]:
    rows = [_numbers(line.split(), path) for line in _lines(path)]
    if not rows or any(len(row) != 8 for row in rows):
        raise UserError(f"{path}: each line needs 8 numbers: time tx ty tz qx qy qz qw")
    rows = np.array(rows)
    c2w = np.tile(np.eye(4), (len(rows), 1, 1))
    with np.errstate(invalid="ignore", divide="ignore"):  # refused below, with its place
        c2w[:, :3, :3] = quaternion_to_matrix(rows[:, 4:])
    c2w[:, :3, 3] = rows[:, 1:4]
    return c2w, None, None


def _lines(path: Path) -> list[str]:
    return [line for line in read_lines(path) if not line.startswith("#")]


def _words(line: str, least: int, path: Path) -> list[str]:
    """The words of a line; the tenth is a name, which may hold spaces."""
    words = line.split(maxsplit=9)
    if len(words) < least:
        raise UserError(f"{path}: {line!r} has {len(words)} columns; at least {least} are needed")
    return words


def _numbers(words: list[str], path: Path) -> list[float]:
    try:
        return [float(word) for word in words]
    except ValueError:
        raise UserError(f"{path}: {' '.join(words)!r} are not numbers") from None


def _require_rigid(poses: Poses, path: Path) -> None:
    """Raises UserError for the first matrix that is not a rotation and a translation."""
    for index, pose in enumerate(poses):
        rotation = pose[:3, :3]
        if not np.isfinite(pose).all():
            raise UserError(f"{path}: camera {index} has numbers that are not finite")
        if np.abs(rotation @ rotation.T - np.eye(3)).max() > 1e-3 or np.linalg.det(rotation) < 0:
            raise UserError(f"{path}: camera {index} is no rotation with a translation (it cannot be inverted as one)")
        if np.abs(pose[3] - [0, 0, 0, 1]).max() > 1e-6:
            raise UserError(f"{path}: the last row of camera {index} is not 0 0 0 1")
