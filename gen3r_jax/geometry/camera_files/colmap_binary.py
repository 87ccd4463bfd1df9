"""COLMAP's binary files of a reconstruction: cameras and poses, without the points."""

import struct
from pathlib import Path
from typing import NamedTuple

import numpy as np
from jaxtyping import Float

from gen3r_jax.errors import UserError
from gen3r_jax.geometry.cameras import invert_se3, quaternion_pose

# Model -> its parameters in the file. k1 and k2 are radial, p1 and p2 tangential, all as in OpenCV.
_MODELS = {
    0: ("f", "cx", "cy"),
    1: ("fx", "fy", "cx", "cy"),
    2: ("f", "cx", "cy", "k1"),
    3: ("f", "cx", "cy", "k1", "k2"),
    4: ("fx", "fy", "cx", "cy", "k1", "k2", "p1", "p2"),
}


class ColmapCamera(NamedTuple):
    """size: (height, width) that the intrinsics are given for. distortion: k1, k2, p1, p2."""

    focal: tuple[float, float]
    centre: tuple[float, float]
    size: tuple[int, int]
    distortion: tuple[float, float, float, float]


class ColmapImage(NamedTuple):
    """c2w: in OpenCV axes, not finite where the file has no rotation."""

    name: str
    camera: int
    c2w: Float[np.ndarray, "4 4"]


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


def read_cameras(path: Path) -> dict[int, ColmapCamera]:
    """The cameras of ``cameras.bin`` by id. Raises UserError for a damaged file and for models other than 0 to 4."""
    reader, cameras = _Reader(path), {}
    for _ in range(*reader.take("Q")):
        number, model, width, height = reader.take("iiQQ")
        if model not in _MODELS:
            raise UserError(f"{path}: camera model {model} is not supported; models 0 to 4 are")
        names = _MODELS[model]
        values = dict(zip(names, reader.take(f"{len(names)}d"), strict=True))
        cameras[number] = ColmapCamera(
            (values.get("fx", values.get("f")), values.get("fy", values.get("f"))),
            (values["cx"], values["cy"]),
            (height, width),
            tuple(values.get(key, 0.0) for key in ("k1", "k2", "p1", "p2")),
        )
    return cameras


def read_images(path: Path) -> list[ColmapImage]:
    """The posed images of ``images.bin``, in the order of the file. Raises UserError for a damaged file."""
    reader, images = _Reader(path), []
    for _ in range(*reader.take("Q")):
        _, w, x, y, z, *translation, camera = reader.take("i4d3di")
        name = reader.take_text()
        (points,) = reader.take("Q")
        reader.skip(points * struct.calcsize("<ddq"))
        images.append(ColmapImage(name, camera, invert_se3(quaternion_pose((x, y, z, w), translation))))
    return images
