"""COLMAP's reconstructions, as text and as binary files: cameras and poses, without the points."""

import struct
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
from jaxtyping import Float

from gen3r_jax.errors import UserError
from gen3r_jax.geometry.camera_files.contents import LENS_TERMS, CameraFile, pinhole
from gen3r_jax.geometry.cameras import Size, invert_se3, matrix_to_quaternion, quaternion_pose
from gen3r_jax.storage.files import read_lines, read_text, write_text

# Model -> its parameters. k are radial and p tangential terms, all as in OpenCV.
_MODELS = {
    "SIMPLE_PINHOLE": ("f", "cx", "cy"),
    "PINHOLE": ("fx", "fy", "cx", "cy"),
    "SIMPLE_RADIAL": ("f", "cx", "cy", "k1"),
    "RADIAL": ("f", "cx", "cy", "k1", "k2"),
    "OPENCV": ("fx", "fy", "cx", "cy", "k1", "k2", "p1", "p2"),
    "FULL_OPENCV": ("fx", "fy", "cx", "cy", "k1", "k2", "p1", "p2", "k3", "k4", "k5", "k6"),
}
_NUMBERS = (  # what binary files call the models
    "SIMPLE_PINHOLE", "PINHOLE", "SIMPLE_RADIAL", "RADIAL", "OPENCV", "OPENCV_FISHEYE", "FULL_OPENCV", "FOV",
    "SIMPLE_RADIAL_FISHEYE", "RADIAL_FISHEYE", "THIN_PRISM_FISHEYE", "RAD_TAN_THIN_PRISM_FISHEYE",
    "SIMPLE_DIVISION", "DIVISION", "SIMPLE_FISHEYE", "FISHEYE", "EUCM", "EQUIRECTANGULAR",
)  # fmt: skip
_FOLDERS = ("", "0", "sparse/0", "sparse", "colmap/sparse/0")
"""Where a model may lie in the folder that is given."""


class ColmapCamera(NamedTuple):
    """size: (height, width) that the intrinsics are for. distortion: k1, k2, p1, p2, and k3 to k6 if there are."""

    focal: tuple[float, float]
    centre: tuple[float, float]
    size: tuple[float, float]
    distortion: tuple[float, ...]


class ColmapImage(NamedTuple):
    """c2w: in OpenCV axes, not finite where the file has no rotation."""

    name: str
    camera: int
    c2w: Float[np.ndarray, "4 4"]


def find_model(folder: Path) -> Path | None:
    """The folder of the model in `folder`, which may be that of a whole project; None without one."""
    places = [folder / inner for inner in _FOLDERS]
    return next((place for place in places for kind in ("txt", "bin") if (place / f"images.{kind}").exists()), None)


def read_colmap(folder: Path) -> CameraFile:
    """Read the model of a folder, without judging its numbers. Raises UserError where it is damaged or there is none.

    Text is read where both forms are there.
    """
    model = find_model(folder)
    if model is None:
        raise UserError(f"{folder} holds no COLMAP model: cameras.txt and images.txt, or cameras.bin and images.bin")
    kind = "txt" if (model / "images.txt").exists() else "bin"
    cameras, images = read_cameras(model / f"cameras.{kind}"), read_images(model / f"images.{kind}")
    if not images:
        raise UserError(f"{model} holds no images")
    for image in images:
        if image.camera not in cameras:
            raise UserError(f"{model}: image {image.name} has camera {image.camera}, which cameras.{kind} lacks")
    used = [cameras[image.camera] for image in images]
    return CameraFile(
        model,
        np.stack([image.c2w for image in images]),
        tuple(image.name for image in images),
        intrinsics=np.stack([pinhole(*camera.focal, *camera.centre) for camera in used]),
        sizes=np.array([camera.size for camera in used], np.float64),
        lenses=tuple(camera.distortion if any(camera.distortion) else () for camera in used),
    )


def read_cameras(path: Path) -> dict[int, ColmapCamera]:
    """The cameras of ``cameras.txt`` or ``cameras.bin`` by id. Raises UserError for damaged files and other lenses."""
    return _read_text_cameras(path) if path.suffix == ".txt" else _read_binary_cameras(path)


def read_images(path: Path) -> list[ColmapImage]:
    """The posed images of ``images.txt`` or ``images.bin`` in the file's order. Raises UserError for damaged files."""
    return _read_text_images(path) if path.suffix == ".txt" else _read_binary_images(path)


def write_colmap_cameras(
    folder: Path,
    names: Sequence[str],
    w2c: Float[np.ndarray, "t 4 4"],
    intrinsics: Float[np.ndarray, "t 3 3"],
    size: Size,
) -> None:
    """Write ``cameras.txt`` and ``images.txt``, with a PINHOLE camera for each image of `size` (height, width)."""
    cameras = ["# CAMERA_ID MODEL WIDTH HEIGHT fx fy cx cy"]
    images = ["# IMAGE_ID QW QX QY QZ TX TY TZ CAMERA_ID NAME, then a line of points"]
    quaternions = matrix_to_quaternion(w2c[:, :3, :3].astype(np.float64))
    frames = zip(names, w2c, intrinsics, quaternions, strict=True)
    for number, (name, pose, k, (x, y, z, w)) in enumerate(frames, 1):
        cameras.append(f"{number} PINHOLE {size[1]} {size[0]} {to_text(k[0, 0], k[1, 1], k[0, 2], k[1, 2])}")
        images += [f"{number} {to_text(w, x, y, z, *pose[:3, 3])} {number} {name}", ""]
    for file, lines in (("cameras.txt", cameras), ("images.txt", images)):
        write_text(folder / file, "\n".join(lines) + "\n")


def to_text(*numbers: float | np.floating) -> str:
    """Numbers as COLMAP's text files have them, with the digits of float32."""
    return " ".join(f"{float(number):.9g}" for number in numbers)


def _camera(model: str, size: tuple[float, float], parameters: Sequence[float], where: str) -> ColmapCamera:
    names = _MODELS[model]
    if len(parameters) != len(names):
        raise UserError(f"{where} is {model} with {len(parameters)} parameters; it needs {', '.join(names)}")
    values = dict(zip(names, parameters, strict=True))
    fx, fy = (values[key if key in values else "f"] for key in ("fx", "fy"))
    terms = tuple(values.get(key, 0.0) for key in (LENS_TERMS if "k3" in values else LENS_TERMS[:4]))
    return ColmapCamera((fx, fy), (values["cx"], values["cy"]), size, terms)


def _require_known(model: str, where: str) -> None:
    if model not in _MODELS:
        known = ", ".join(_MODELS)
        raise UserError(f"{where} is {model}; undistort the pictures first (COLMAP: image_undistorter). Known: {known}")


def _read_text_cameras(path: Path) -> dict[int, ColmapCamera]:
    cameras = {}
    for line in _lines(path):
        number, model, *words = _words(line, 5, path)
        _require_known(model, f"{path}: camera {number}")
        width, height, *parameters = _numbers(words, path)
        cameras[_whole(number, path)] = _camera(model, (height, width), parameters, f"{path}: camera {number}")
    return cameras


def _read_text_images(path: Path) -> list[ColmapImage]:
    # Of every two lines the second lists points of the image, three numbers each; it may be empty.
    lines = "\n".join(line for line in read_text(path).splitlines() if not line.startswith("#")).lstrip().split("\n")
    if any(len(line.split()) % 3 for line in lines[1::2]):
        raise UserError(f"{path} needs a line of points, which may be empty, after the line of each image")
    images = []
    for line in filter(str.strip, lines[::2]):
        _, *pose, camera, name = _words(line, 10, path, most=10)
        w, x, y, z, *translation = _numbers(pose, path)
        c2w = _pose((w, x, y, z), translation, f"{path}: image {name}")
        images.append(ColmapImage(name, _whole(camera, path), c2w))
    return images


def _pose(wxyz: Sequence[float], translation: Sequence[float], where: str) -> Float[np.ndarray, "4 4"]:
    if not any(wxyz):
        raise UserError(f"{where} has the quaternion 0 0 0 0, which is no rotation")
    w, x, y, z = wxyz
    return invert_se3(quaternion_pose(np.array([x, y, z, w]), np.array(translation)))


class _Reader:
    """Takes numbers off a file's bytes. Raises UserError where there are too few."""

    def __init__(self, path: Path):
        self.path, self.content, self.position = path, path.read_bytes(), 0

    def take(self, kinds: str) -> tuple:
        kinds = f"<{kinds}"
        start = self.position
        self.skip(struct.calcsize(kinds))
        return struct.unpack_from(kinds, self.content, start)

    def take_text(self) -> str:
        start, end = self.position, self.content.find(b"\0", self.position)
        self.skip(end + 1 - start if end >= 0 else len(self.content))
        return self.content[start:end].decode(errors="replace")

    def skip(self, length: int) -> None:
        self.position += length
        if self.position > len(self.content):
            raise UserError(f"{self.path} is cut short")


def _read_binary_cameras(path: Path) -> dict[int, ColmapCamera]:
    reader, cameras = _Reader(path), {}
    for _ in range(*reader.take("Q")):
        number, kind, width, height = reader.take("iiQQ")
        model, where = _NUMBERS[kind] if 0 <= kind < len(_NUMBERS) else f"of model {kind}", f"{path}: camera {number}"
        _require_known(model, where)
        parameters = reader.take(f"{len(_MODELS[model])}d")
        cameras[number] = _camera(model, (height, width), parameters, where)
    return cameras


def _read_binary_images(path: Path) -> list[ColmapImage]:
    reader, images = _Reader(path), []
    for _ in range(*reader.take("Q")):
        _, w, x, y, z, *translation, camera = reader.take("i4d3di")
        name = reader.take_text()
        (points,) = reader.take("Q")
        reader.skip(points * struct.calcsize("<ddq"))
        w2c = quaternion_pose(np.array((x, y, z, w)), np.array(translation))
        images.append(ColmapImage(name, camera, invert_se3(w2c)))
    return images


def _lines(path: Path) -> list[str]:
    return [line for line in read_lines(path) if not line.startswith("#")]


def _words(line: str, least: int, path: Path, most: int = -1) -> list[str]:
    """The words of a line; the last of `most` is a name, which may hold spaces."""
    words = line.split(maxsplit=most - 1 if most > 0 else -1)
    if len(words) < least:
        raise UserError(f"{path}: {line[:80]!r} has {len(words)} columns; at least {least} are needed")
    return words


def _numbers(words: Sequence[str], path: Path) -> list[float]:
    try:
        return [float(word) for word in words]
    except ValueError:
        raise UserError(f"{path}: {' '.join(words)[:80]!r} are not numbers") from None


def _whole(word: str, path: Path) -> int:
    try:
        return int(word)
    except ValueError:
        raise UserError(f"{path}: {word[:80]!r} is no camera's number") from None
