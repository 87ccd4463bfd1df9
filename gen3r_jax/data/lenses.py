"""Lens distortion taken out of pictures, and out of the cameras of a file with them."""

import dataclasses
import functools

import cv2
import numpy as np

from gen3r_jax.data.colour import Picture
from gen3r_jax.data.images import Clip
from gen3r_jax.errors import UserError
from gen3r_jax.geometry.camera_files.contents import CameraFile


def without_lenses(contents: CameraFile) -> CameraFile:
    """The pinholes of a file whose pictures are undistorted; its other numbers must be sound."""
    assert contents.intrinsics is not None and contents.sizes is not None
    intrinsics, sizes = contents.intrinsics.copy(), contents.sizes.copy()
    for index in range(len(contents)):
        if any(lens := contents.lens(index)):
            height, width = sizes[index].astype(int).tolist()
            camera = tuple(intrinsics[index, :2, :3].ravel().tolist())
            top, left, bottom, right = _undistortion(camera, lens, (height, width))[2]
            intrinsics[index, :2, 2] -= left, top
            sizes[index] = bottom - top, right - left
    return dataclasses.replace(contents, intrinsics=intrinsics, sizes=sizes, lenses=())


def undistort_clip(clip: Clip, cameras: CameraFile) -> Clip:
    """Frames, and where they are known, without the lenses of their cameras; frames may have other sizes than those."""
    assert cameras.intrinsics is not None and cameras.sizes is not None
    frames, masks = [], []
    for index, (frame, mask) in enumerate(zip(clip.frames, clip.masks, strict=True)):
        scale_y, scale_x = np.divide(frame.shape[:2], cameras.sizes[index])
        intrinsics = np.diag([scale_x, scale_y, 1]) @ cameras.intrinsics[index]
        known = None if mask is None else mask.astype(np.float32)
        if any(lens := cameras.lens(index)):
            frame, known, _ = undistort(frame, known, intrinsics, lens)
        frames.append(frame)
        masks.append(None if known is None else known >= 0.5)
    return clip._replace(frames=frames, masks=masks)


def undistort(
    picture: Picture, depth: np.ndarray | None, intrinsics: np.ndarray, distortion: tuple[float, ...]
) -> tuple[Picture, np.ndarray | None, np.ndarray]:
    """The picture that a pinhole with the same focal lengths would have taken, without the pixels nobody saw.

    Returns the picture, its depth if there is one, and its intrinsics. Raises UserError where little would be left.
    """
    map_x, map_y, (top, left, bottom, right) = _undistortion(
        tuple(intrinsics[:2, :3].ravel().tolist()), distortion, picture.shape[:2]
    )
    result = intrinsics.copy()
    result[:2, 2] -= left, top
    cut = np.s_[top:bottom, left:right]
    # Places up to half a pixel outside belong to the picture; without its edge repeated they would be dark.
    undistorted = cv2.remap(picture, map_x, map_y, cv2.INTER_CUBIC, borderMode=cv2.BORDER_REPLICATE)
    picture = np.ascontiguousarray(undistorted[cut])
    if depth is not None:
        depth = np.ascontiguousarray(cv2.remap(depth, map_x, map_y, cv2.INTER_NEAREST)[cut])
    return picture, depth, result


@functools.lru_cache(maxsize=4)
def _undistortion(
    camera: tuple[float, ...], distortion: tuple[float, ...], size: tuple[int, int]
) -> tuple[np.ndarray, np.ndarray, tuple[int, int, int, int]]:
    """Where each pixel of the pinhole's picture is found in the distorted one, and the box of pixels that all are.

    OpenCV counts from the centre of the first pixel, hence the halves.
    """
    height, width = size
    matrix = np.array([*camera, 0, 0, 1]).reshape(3, 3)
    matrix[:2, 2] -= 0.5
    map_x, map_y = cv2.initUndistortRectifyMap(
        matrix, np.array(distortion), None, matrix, (width, height), cv2.CV_32FC1
    )
    seen = (map_x >= -0.5) & (map_x <= width - 0.5) & (map_y >= -0.5) & (map_y <= height - 0.5)
    box = _seen_box(seen)
    if (box[2] - box[0]) * (box[3] - box[1]) < 0.25 * height * width:
        raise UserError(
            f"undistorting by {distortion} leaves less than a quarter of the picture; is it the right lens?"
        )
    return map_x, map_y, box


def _seen_box(seen: np.ndarray) -> tuple[int, int, int, int]:
    """Top, left, bottom, right of a box without unseen pixels: the edge with most of them goes first."""
    top, left = 0, 0
    bottom, right = seen.shape
    while top < bottom and left < right:
        box = seen[top:bottom, left:right]
        unseen = [1 - edge.mean() for edge in (box[0], box[:, 0], box[-1], box[:, -1])]
        worst = int(np.argmax(unseen))
        if unseen[worst] == 0:
            break
        top, left, bottom, right = (
            top + (worst == 0), left + (worst == 1), bottom - (worst == 2), right - (worst == 3),
        )  # fmt: skip
    return top, left, bottom, right
