"""From the frames of a scene to a clip: which frames, what they lose to the crop, what that does to the cameras.

Numpy and Pillow only: these functions run in the loader's worker processes. Image coordinates are pixels measured from
the image's corner (the centre of the first pixel is at 0.5, 0.5), as in OpenCV-style `cx, cy = w / 2, h / 2`.
"""

import math

import numpy as np
from jaxtyping import Bool, Float, Int, UInt8
from PIL import Image

from gen3r_jax.errors import notice
from gen3r_jax.geometry.cameras import Size, cover_size


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
    planes = np.moveaxis(image, -1, 0).astype(np.float32)
    return np.stack(
        [
            np.asarray(Image.fromarray(plane).resize((right - left, bottom - top), Image.Resampling.BILINEAR, box))
            for plane in planes
        ],
        axis=-1,
    )


def tell_fit(size: Size, target: Size) -> None:
    """Tells on standard error what :func:`resize_crop` to `target` takes from a picture, and how it enlarges it."""
    height, width = cover_size(size, target)
    done = []
    if height > size[0]:
        done.append(f"enlarged by {height / size[0]:.2f}")
    if (height, width) != tuple(target):
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


def default_intrinsics(size: Size, fov_degrees: float = 60.0) -> Float[np.ndarray, "3 3"]:
    """Intrinsics of a centred pinhole camera whose longer side sees `fov_degrees`."""
    focal = 0.5 * max(size) / math.tan(math.radians(fov_degrees) / 2)
    return np.array([[focal, 0, size[1] / 2], [0, focal, size[0] / 2], [0, 0, 1]])
