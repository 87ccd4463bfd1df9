"""The camera that every raw fixture encodes, and the pictures it takes: a static plane at world x = 3.

Three frames move half a metre each towards the plane, which is 2.0, 1.5 and 1.0 m away. The pictures are what such a
camera sees of a painted plane, so that reprojecting one into the next is a real test.
"""

from pathlib import Path

import numpy as np
from PIL import Image

SIZE = (48, 64)
FOCAL = (50.0, 50.0)
CENTRE = (33.0, 23.5)
FRAMES = 3
STEP = 0.5
"""Metres that the camera moves from a frame to the next."""


def c2w(index: float) -> np.ndarray:
    return np.array([[0, 0, 1, 1 + STEP * index], [0, 1, 0, 2], [-1, 0, 0, 3], [0, 0, 0, 1]], np.float64)


def w2c(index: float) -> np.ndarray:
    return np.array([[0, 0, -1, 3], [0, 1, 0, -2], [1, 0, 0, -1 - STEP * index], [0, 0, 0, 1]], np.float64)


def depth(index: float, size: tuple[int, int] = SIZE) -> np.ndarray:
    return np.full(size, 2 - STEP * index, np.float32)


def intrinsics() -> np.ndarray:
    return np.array([[FOCAL[0], 0, CENTRE[0]], [0, FOCAL[1], CENTRE[1]], [0, 0, 1]])


def picture(
    index: float,
    size: tuple[int, int] = SIZE,
    focal: tuple[float, float] = FOCAL,
    centre: tuple[float, float] = CENTRE,
) -> np.ndarray:
    """What the camera sees: smooth paint on the plane, different everywhere."""
    y, x = np.meshgrid(np.arange(size[0]) + 0.5, np.arange(size[1]) + 0.5, indexing="ij")
    distance = 2 - STEP * index
    return paint((x - centre[0]) / focal[0] * distance, (y - centre[1]) / focal[1] * distance)


def paint(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """The colour of the plane at a metres to the right of the camera's axis and b below it."""
    waves = np.stack([np.sin(5 * a + 2 * b), np.sin(3 * b - 4 * a + 1), np.cos(6 * a * b + 2 * a)], -1)
    return np.rint(127.5 + 110 * waves).astype(np.uint8)


def write_picture(path: Path, index: float, **camera) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(picture(index, **camera)).save(path, quality=95)


def assert_camera(cameras, *, frames: int = FRAMES) -> None:
    """The cameras of a prepared scene are those of this file."""
    np.testing.assert_allclose(cameras.c2w, np.stack([c2w(i) for i in range(frames)]), atol=1e-6)
    np.testing.assert_allclose(cameras.intrinsics, np.tile(intrinsics(), (frames, 1, 1)), rtol=1e-6)
    np.testing.assert_array_equal(cameras.sizes, np.tile(SIZE, (frames, 1)))
