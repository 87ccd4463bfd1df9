"""MVImgNet as its archives unpack, with COLMAP's binary files."""

import struct
from pathlib import Path

import numpy as np
from PIL import Image

from tests.helpers.raw_sets import shared


def write(
    raw: Path,
    *,
    frames: int = shared.FRAMES,
    instance: str = "7/0a1b2c3d",
    model: int = 2,
    parameters: tuple[float, ...] = (50, 33, 23.5, 0),
    camera_size: tuple[int, int] = shared.SIZE,
    scale: int = 1,
) -> Path:
    """scale: of the files; the camera's numbers stay. The pictures of a SIMPLE_RADIAL camera are distorted by its k."""
    folder = raw / instance
    (folder / "images").mkdir(parents=True)
    size = (scale * shared.SIZE[0], scale * shared.SIZE[1])
    for i in range(frames):
        Image.fromarray(distorted_picture(i, parameters[3] if model == 2 else 0, size)).save(
            folder / "images" / f"{i + 1:03d}.jpg", quality=95, subsampling=0
        )
    Image.new("RGB", size[::-1]).save(folder / "images" / "001_bg_removed.png")
    sparse = folder / "sparse" / "0"
    sparse.mkdir(parents=True)
    (sparse / "cameras.bin").write_bytes(cameras_file(model, parameters, camera_size))
    (sparse / "images.bin").write_bytes(images_file([frames - 1, *range(frames - 1)]))
    (sparse / "points3D.bin").write_bytes(struct.pack("<Q", 0))
    (sparse / "project.ini").write_text("")
    return raw


def cameras_file(model: int, parameters: tuple[float, ...], size: tuple[int, int] = shared.SIZE) -> bytes:
    camera = struct.pack("<iiQQ", 1, model, size[1], size[0])
    return struct.pack("<Q", 1) + camera + struct.pack(f"<{len(parameters)}d", *parameters)


def images_file(indices: list[int], quaternion: tuple[float, ...] = (0.70710678, 0, -0.70710678, 0)) -> bytes:
    """Frame i is called ``00<i + 1>.jpg``, and has two points."""
    content = struct.pack("<Q", len(indices))
    for number, i in enumerate(indices):
        content += struct.pack("<i4d3di", number + 1, *quaternion, 3, -2, -1 - 0.5 * i, 1)
        content += f"{i + 1:03d}.jpg".encode() + b"\0"
        content += struct.pack("<QddqddQ", 2, 1.0, 2.0, -1, 3.0, 4.0, 7)
    return content


def distorted_picture(index: int, k: float, size: tuple[int, int] = shared.SIZE) -> np.ndarray:
    """What a camera whose lens has the radial term k sees of the plane: the rays of its pixels, solved for."""
    scale, distance = size[0] / shared.SIZE[0], 2 - 0.5 * index
    y, x = np.meshgrid(np.arange(size[0]) + 0.5, np.arange(size[1]) + 0.5, indexing="ij")
    u, v = (x / scale - shared.CENTRE[0]) / 50, (y / scale - shared.CENTRE[1]) / 50
    straight_u, straight_v = u, v
    for _ in range(30):
        factor = 1 + k * (straight_u**2 + straight_v**2)
        straight_u, straight_v = u / factor, v / factor
    return shared.paint(straight_u * distance, straight_v * distance)
