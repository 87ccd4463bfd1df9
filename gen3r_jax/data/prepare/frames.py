"""One raw frame made ready for training: decoded, undistorted, with intrinsics in pixels of the picture it becomes."""

import math
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
from jaxtyping import Float, Float32

from gen3r_jax.data.images import Picture, encode_image, read_orientation, read_posed_image
from gen3r_jax.data.lenses import undistort
from gen3r_jax.data.prepare.recording import RawFrame
from gen3r_jax.errors import UserError
from gen3r_jax.geometry.camera_files.orientation import UPRIGHT
from gen3r_jax.geometry.cameras import intrinsics_fault

cv2.setNumThreads(1)  # the preparers run in as many processes as the user wants

ASPECT_TOLERANCE = 0.02
"""A file whose aspect differs by more from that of its intrinsics was turned or cropped: they do not belong to it."""


@dataclass(frozen=True)
class Developing:
    """How frames are written.

    undistort: whether lens distortion is taken out; without it the picture is taken for a pinhole's, as Gen3R's loader
    does. format: jpg or png, for frames that are not JPEG files already. short_side: larger pictures are scaled down to
    it (0: never).
    """

    undistort: bool = True
    format: str = "jpg"
    short_side: int = 0


@dataclass(frozen=True)
class DevelopedFrame:
    """An image file (bytes and suffix), its size (height, width), its pinhole intrinsics and its depth."""

    encoded: bytes
    suffix: str
    size: tuple[int, int]
    intrinsics: Float[np.ndarray, "3 3"]
    depth: Float32[np.ndarray, "h w"] | None


def develop(frame: RawFrame, how: Developing) -> DevelopedFrame:
    """Reads a frame and makes of it what is written.

    A JPEG file of which nothing has to be changed is taken as it is. Raises UserError (or OSError) where the picture
    or its depth cannot be read, or does not fit its intrinsics.
    """
    source = frame.image.read_bytes() if isinstance(frame.image, Path) else frame.image()
    encoded = source if isinstance(source, bytes) else b""
    picture = read_posed_image(source, frame.size) if isinstance(source, bytes) else source
    depth = None if frame.depth is None else _checked_depth(frame)
    height, width = picture.shape[:2]
    given_height, given_width = frame.size or (height, width)
    scale_y, scale_x = height / given_height, width / given_width
    if frame.size != (1, 1) and abs(math.log(scale_x / scale_y)) > ASPECT_TOLERANCE:
        raise UserError(f"the picture is {width} x {height}, its camera {given_width:g} x {given_height:g}")
    intrinsics = np.array(
        [
            [frame.focal[0] * scale_x, 0, frame.centre[0] * scale_x],
            [0, frame.focal[1] * scale_y, frame.centre[1] * scale_y],
            [0, 0, 1],
        ]
    )
    if fault := intrinsics_fault(intrinsics, (height, width)):
        raise UserError(f"its camera {fault}")
    if not (0 < intrinsics[0, 2] < width and 0 < intrinsics[1, 2] < height):
        raise UserError("the principal point is outside the picture")
    if depth is not None and depth.shape != (height, width):
        raise UserError(f"the picture is {width} x {height}, its depth {depth.shape[1]} x {depth.shape[0]}")
    changed = bool(encoded) and read_orientation(encoded).tag != UPRIGHT  # what is written carries no such tag
    if how.undistort and any(frame.distortion):
        picture, depth, intrinsics = undistort(picture, depth, intrinsics, frame.distortion)
        changed = True
    if how.short_side and min(picture.shape[:2]) > how.short_side:
        picture, depth, intrinsics = _shrink(picture, depth, intrinsics, how.short_side)
        changed = True
    if encoded.startswith(b"\xff\xd8") and not changed:
        suffix = ".jpg"
    else:
        suffix = f".{how.format}"
        encoded = encode_image(picture, suffix)
    return DevelopedFrame(encoded, suffix, picture.shape[:2], intrinsics, depth)


def _checked_depth(frame: RawFrame) -> Float32[np.ndarray, "h w"]:
    assert frame.depth is not None
    depth = np.asarray(frame.depth(), np.float32)
    if depth.ndim != 2:
        raise UserError(f"the depth has the shape {depth.shape}, not [height, width]")
    return np.where(np.isfinite(depth) & (depth > 0), depth, 0)


def _shrink(
    picture: Picture, depth: np.ndarray | None, intrinsics: np.ndarray, short_side: int
) -> tuple[Picture, np.ndarray | None, np.ndarray]:
    height, width = picture.shape[:2]
    ratio = short_side / min(height, width)
    size = (round(width * ratio), round(height * ratio))
    result = np.diag([size[0] / width, size[1] / height, 1]) @ intrinsics
    picture = cv2.resize(picture, size, interpolation=cv2.INTER_AREA)
    if depth is not None:
        depth = cv2.resize(depth, size, interpolation=cv2.INTER_NEAREST_EXACT)
    return picture, depth, result
