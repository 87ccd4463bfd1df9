"""From the frames of a scene to a clip: which frames, what they lose to the crop, what that does to the cameras.

Numpy and Pillow only: these functions run in the loader's worker processes. Image coordinates are pixels measured from
the image's corner (the centre of the first pixel is at 0.5, 0.5), as in OpenCV-style `cx, cy = w / 2, h / 2`.
"""

import math

import numpy as np
from jaxtyping import Bool, Float, Int, Num, UInt8
from PIL import Image

from gen3r_jax.errors import notice
from gen3r_jax.geometry.cameras import Size, cover_size, inner_size, offset

FITS = {
    "crop": "covered and cut to its middle",
    "whole": "shown as a whole, nearly, at about as many pixels",
    "pad": "shown as a whole, with white around it",
}
"""How a picture is brought to the size that the networks take."""

EDGE = 1.05
"""Depths that differ by a larger factor are not of one surface."""


def sample_indices(
    length: int,
    num_frames: int,
    stride: int,
    rng: np.random.Generator | None = None,
    *,
    start: int | None = None,
    front: int | None = None,
) -> Int[np.ndarray, "t"]:
    """Chooses `num_frames` of a scene's `length` frames, `stride` apart (Gen3R's rule for both training stages).

    The stride falls back to 1 where the scene is too short for it; where it is still too short, copies of the first
    and last frame are put before and after it. `rng` draws the start, and how many of the copies come first; without
    it both are 0. `start` (counted with the copies in front) and `front` fix them.
    """
    if length < num_frames * stride:
        stride = 1
    missing = max(0, num_frames * stride - length)
    if front is None:
        front = int(rng.integers(missing + 1)) if rng else 0
    if start is None:
        start = int(rng.integers(length + missing - num_frames * stride + stride)) if rng else 0
    return np.clip(start - front + stride * np.arange(num_frames), 0, length - 1)


def repair_indices(readable: Bool[np.ndarray, "t"], rng: np.random.Generator | None = None) -> Int[np.ndarray, "t"]:
    """Positions within a clip that replace its unreadable frames: the readable ones in order, then the first and the
    last of them repeated to the old length; `rng` splits the repeats between both ends (without it all come last).

    One frame at least must be readable. Apply the result to frames and cameras alike, then re-base the cameras.
    """
    good = np.flatnonzero(readable)
    missing = len(readable) - len(good)
    front = int(rng.integers(missing + 1)) if rng and missing else 0
    return np.concatenate([np.full(front, good[0]), good, np.full(missing - front, good[-1])])


def crop_box(size: Size, target: Size) -> tuple[int, int, int, int]:
    """Top, left, bottom, right of the centre crop; an image smaller than `target` keeps all its pixels."""
    (h, w), (target_h, target_w) = size, target
    return (
        max(0, (h - target_h) // 2),
        max(0, (w - target_w) // 2),
        min(h, (h + target_h) // 2),
        min(w, (w + target_w) // 2),
    )


def resize_crop(image: UInt8[np.ndarray, "h w c"], target: Size) -> Float[np.ndarray, "h2 w2 c"]:
    """Scales an image to cover `target` (bilinear, antialiased, like PyTorch's) and cuts the centre; stays on 0..255.

    Only the crop is computed; Pillow's single-channel float mode keeps the fractions that its RGB mode would round.
    """
    if image.shape[:2] == tuple(target):
        return image.astype(np.float32)
    height, width = cover_size(image.shape[:2], target)
    top, left, bottom, right = crop_box((height, width), target)
    scale_y, scale_x = image.shape[0] / height, image.shape[1] / width
    box = (left * scale_x, top * scale_y, right * scale_x, bottom * scale_y)
    return _resized(image, (bottom - top, right - left), box)


def resize_pad(image: Num[np.ndarray, "h w c"], target: Size, fill: float = 255) -> Float[np.ndarray, "h2 w2 c"]:
    """Scales an image to fit inside of `target`, as :func:`resize_crop` does, and fills what is left around it."""
    inner = inner_size(image.shape[:2], target)
    top, left = (-place for place in offset(inner, target))
    result = np.full((*target, image.shape[2]), fill, np.float32)
    whole = (0, 0, image.shape[1], image.shape[0])
    result[top : top + inner[0], left : left + inner[1]] = _resized(image, inner, whole)
    return result


def fitted_places(size: Size, target: Size, pad: bool = False) -> tuple[Float[np.ndarray, "h"], Float[np.ndarray, "w"]]:
    """Where the centres of an image's rows and columns are in pixels of what was cropped, or padded, from it."""
    resized = inner_size(size, target) if pad else cover_size(size, target)
    rows, columns = (
        (np.arange(side) + 0.5) * (scaled / side) - begin
        for side, scaled, begin in zip(size, resized, offset(resized, target), strict=True)
    )
    return rows, columns


def _resized(
    image: Num[np.ndarray, "h w c"], size: Size, box: tuple[float, float, float, float]
) -> Float[np.ndarray, "h2 w2 c"]:
    """The part of an image in a box (left, top, right, bottom), scaled to a size."""
    planes = np.moveaxis(image, -1, 0).astype(np.float32)
    scaled = [Image.fromarray(plane).resize((size[1], size[0]), Image.Resampling.BILINEAR, box) for plane in planes]
    return np.stack([np.asarray(plane) for plane in scaled], axis=-1)


def fit_picture(picture: Num[np.ndarray, "h w c"], target: Size, pad: bool = False) -> Float[np.ndarray, "h2 w2 c"]:
    """A picture cropped, or padded with white, to `target`; it stays on 0..255, and one of floats on 0..1."""
    return resize_pad(picture, target, 255 if picture.dtype == np.uint8 else 1) if pad else resize_crop(picture, target)


def fit_mask(
    mask: Bool[np.ndarray, "h w"] | None, size: Size, target: Size, pad: bool = False
) -> Bool[np.ndarray, "h2 w2"]:
    """Where a picture of `size` is known once :func:`fit_picture` has brought it to `target`; None: everywhere."""
    if mask is None and not pad:
        return np.ones(target, bool)
    known = np.full((*size, 1), 255, np.uint8) if mask is None else mask[..., None] * np.uint8(255)
    return (resize_pad(known, target, fill=0) if pad else resize_crop(known, target))[..., 0] >= 128


def tell_fit(size: Size, target: Size, pad: bool = False) -> None:
    """Tells on standard error what :func:`fit_picture` takes from a picture or adds to it, and how it enlarges it."""
    height, width = inner_size(size, target) if pad else cover_size(size, target)
    done = []
    if height > size[0]:
        done.append(f"enlarged by {height / size[0]:.2f}")
    if pad and (height, width) != tuple(target):
        done.append(f"scaled to {width} x {height} and padded to {target[1]} x {target[0]}")
    elif (height, width) != tuple(target):
        lost = 1 - target[0] * target[1] / (height * width)
        done.append(f"scaled to {width} x {height} and cut to {target[1]} x {target[0]}, which loses {lost:.1%}")
    if done:
        notice(f"pictures of {size[1]} x {size[0]} are {' and '.join(done)}", kind=f"fit to {target}")


def quantize(frames: Float[np.ndarray, "*b"]) -> UInt8[np.ndarray, "*b"]:
    """Rounds values on 0..255 to bytes."""
    return np.clip(np.rint(frames), 0, 255).astype(np.uint8)


def crop_depth(depth: Float[np.ndarray, "h w"], target: Size) -> Float[np.ndarray, "h2 w2"]:
    """The depth of the pixels of :func:`resize_crop`: that of the nearest pixel, for depths must not be mixed."""
    (h, w), covered = depth.shape, cover_size(depth.shape, target)
    top, left, bottom, right = crop_box(covered, target)
    rows = ((np.arange(top, bottom) + 0.5) * h / covered[0]).astype(int)
    columns = ((np.arange(left, right) + 0.5) * w / covered[1]).astype(int)
    return depth[np.ix_(rows, columns)]


def uncrop_depth(depth: Float[np.ndarray, "h w"], size: Size, pad: bool = False) -> Float[np.ndarray, "h2 w2"]:
    """The depth of an image of `size` from that of what was cropped, or padded, from it; 0 where that shows nothing.

    Neighbours are mixed, but not across an edge (EDGE): there the nearest pixel's depth is taken.
    """
    places = fitted_places(size, depth.shape, pad)
    inside = [(place >= 0) & (place <= side) for place, side in zip(places, depth.shape, strict=True)]
    y, x = (np.clip(place - 0.5, 0, side - 1) for place, side in zip(places, depth.shape, strict=True))
    top, left = np.floor(y).astype(int), np.floor(x).astype(int)
    bottom, right = np.minimum(top + 1, depth.shape[0] - 1), np.minimum(left + 1, depth.shape[1] - 1)
    corners = [depth[np.ix_(row, column)] for row in (top, bottom) for column in (left, right)]
    down, across = (y - top)[:, None], x - left
    upper, lower = ((1 - across) * corners[i] + across * corners[i + 1] for i in (0, 2))
    mixed = (1 - down) * upper + down * lower
    is_edge = np.maximum.reduce(corners) > EDGE * np.minimum.reduce(corners)
    nearest = depth[np.ix_(np.rint(y).astype(int), np.rint(x).astype(int))]
    return (np.where(is_edge, nearest, mixed) * np.outer(*inside)).astype(depth.dtype)


def default_intrinsics(size: Size, fov_degrees: float = 60.0) -> Float[np.ndarray, "3 3"]:
    """Intrinsics of a centred pinhole camera whose longer side sees `fov_degrees`."""
    focal = 0.5 * max(size) / math.tan(math.radians(fov_degrees) / 2)
    return np.array([[focal, 0, size[1] / 2], [0, focal, size[0] / 2], [0, 0, 1]])
