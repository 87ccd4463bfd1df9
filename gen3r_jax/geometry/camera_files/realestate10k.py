"""Cameras as RealEstate10K and ACID have them: a line with a video's address, then one of 19 numbers for each frame.

The numbers are a stamp in microseconds; fx fy cx cy as parts of the picture's width and height; two zeros; three rows
of the pose, world to camera in OpenCV axes. The form does not say how large pictures are.
"""

from pathlib import Path
from typing import NamedTuple

import numpy as np
from jaxtyping import Float

from gen3r_jax.geometry.camera_files.contents import CameraFile, pinhole
from gen3r_jax.geometry.cameras import invert_se3
from gen3r_jax.storage.files import read_table, write_text

HEIGHT = 720
"""Pixels of the pictures that :func:`read_realestate10k` gives intrinsics for; their width follows from the form."""


class Rows(NamedTuple):
    """stamps: in microseconds. pinholes: fx, fy, cx, cy as parts of the picture's sides. c2w: in OpenCV axes."""

    stamps: Float[np.ndarray, "t"]
    pinholes: Float[np.ndarray, "t 4"]
    c2w: Float[np.ndarray, "t 4 4"]


def read_rows(path: Path) -> Rows:
    """Read the frames of a file, which may be none. Raises UserError for lines of anything but 19 numbers."""
    table = read_table(path, 19, header=1)
    return Rows(table[:, 0], table[:, 1:5], invert_se3(table[:, 7:].reshape(-1, 3, 4)))


def read_realestate10k(path: Path) -> CameraFile:
    """Read cameras of pictures with square pixels: their width is to their height as the parts fy to fx are."""
    stamps, pinholes, c2w = read_rows(path)
    with np.errstate(divide="ignore", invalid="ignore", over="ignore"):
        aspects = np.nan_to_num(pinholes[:, 1] / pinholes[:, 0], nan=0, posinf=0)
    sizes = np.stack([np.full(len(c2w), HEIGHT), np.rint(HEIGHT * aspects)], axis=-1)
    heights, widths = sizes.T
    matrices = [
        pinhole(fx * width, fy * height, cx * width, cy * height)
        for (fx, fy, cx, cy), width, height in zip(pinholes, widths, heights, strict=True)
    ]
    names = tuple(f"{stamp:.0f}" for stamp in stamps)
    intrinsics = np.array(matrices).reshape(-1, 3, 3)
    return CameraFile(path, c2w, names, stamps / 1e6, intrinsics=intrinsics, sizes=sizes)


def write_realestate10k(path: Path | str, address: str, rows: Rows) -> None:
    """Write frames that :func:`read_rows` reads back; `address` is that of their video."""
    w2c = invert_se3(rows.c2w)[:, :3].reshape(-1, 12)
    table = np.concatenate([rows.pinholes, np.zeros((len(w2c), 2)), w2c], axis=1).tolist()
    lines = [f"{stamp:.0f} {' '.join(map(repr, row))}" for stamp, row in zip(rows.stamps, table, strict=True)]
    write_text(path, "\n".join([address, *lines]) + "\n")
