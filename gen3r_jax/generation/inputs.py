"""What a generation is given, in any form that people have it, made ready for the networks.

Pictures are files, PIL images or arrays. Cameras are presets, files, :class:`gen3r_jax.geometry.cameras.Cameras` or
Plücker maps (:mod:`gen3r_jax.generation.cameras`).
"""

import dataclasses
import operator
import os
from collections.abc import Sequence
from dataclasses import dataclass
from numbers import Real
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np
from jaxtyping import Bool, Float, Num
from PIL import Image

from gen3r_jax.carried import find_file
from gen3r_jax.data.clips import FITS, fit_mask, fit_picture, tell_fit
from gen3r_jax.data.decoding import Mask
from gen3r_jax.data.images import Clip, read_clip, read_image_and_mask, read_orientation
from gen3r_jax.diffusion.tasks import frame_mask
from gen3r_jax.errors import UserError, notice
from gen3r_jax.generation.settings import require_text
from gen3r_jax.geometry.camera_files.contents import CameraFile
from gen3r_jax.geometry.camera_files.orientation import UPRIGHT, StoredPicture
from gen3r_jax.geometry.cameras import Size
from gen3r_jax.models.sizes import require_side, whole_size

VGGT_WIDTH, VGGT_PATCH = 518, 14
"""The width that VGGT's own loader scales pictures to, and the multiple that their height is cut to."""

Picture = Num[np.ndarray, "h w 3"]
Images = Any
"""A path, a PIL image, an array ``h w 3`` or ``k h w 3`` (uint8, or floats in [0, 1]), a list of these, or a clip."""


@dataclass(frozen=True)
class Inputs:
    """What the networks are given.

    Attributes:
      images: the given frames in [0, 1]; sides are multiples of 112.
      given: which frames of the clip they are.
      known: where the given frames are opaque; None where they are so everywhere.
      poses: camera-to-world matrices and intrinsics of every sample, where they are known as such.
      maps: Plücker maps (moment, direction) of every frame; None leaves the cameras free.
    """

    prompts: tuple[str, ...]
    images: Float[np.ndarray, "b k h w 3"]
    given: tuple[int, ...]
    num_frames: int
    known: Bool[np.ndarray, "b k h w"] | None = None
    poses: Sequence[tuple[Float[np.ndarray, "t 4 4"], Float[np.ndarray, "t 3 3"]]] = ()
    maps: Float[np.ndarray, "b t h w 6"] | None = None

    def __post_init__(self) -> None:
        for prompt in self.prompts:
            require_text("prompt", prompt)


class Given(NamedTuple):
    """The given frames of every sample.

    images, known, places: the fields `images`, `known` and `given` of :class:`Inputs`.
    cameras: as they were given, but pinholes where their lenses were taken out of the pictures.
    stored: of each sample the first picture as its file stores it.
    """

    images: Float[np.ndarray, "b k h w 3"]
    known: Bool[np.ndarray, "b k h w"] | None
    places: tuple[int, ...]
    stored: Sequence[StoredPicture | None]
    cameras: Any = None


def load_images(images: Images, size: int | Size | None = None) -> Float[np.ndarray, "t h w 3"]:
    """Reads pictures, turned upright, scaled to cover `size` and cut to its middle.

    Args:
      images: a path of a picture, a folder or a video, a PIL image, an array, or a list of pictures.
      size: side, or (height, width), in pixels; by default as VGGT's own loader: 518 wide and as high as the first
        picture's aspect asks for, at most 518, in multiples of 14.

    Returns:
      float32 in [0, 1].

    Raises:
      UserError: a picture that does not exist or cannot be read, an array that holds no picture.
    """
    pictures = read_pictures(images).frames
    if size is None:
        height, width = pictures[0].shape[:2]
        scaled = round(height * VGGT_WIDTH / width / VGGT_PATCH) * VGGT_PATCH
        size = (min(max(scaled, VGGT_PATCH), VGGT_WIDTH), VGGT_WIDTH)
    size = as_size(size)
    if min(size) < 1:
        raise UserError(f"size {size} holds no pixels")
    return np.stack([_fit(picture, size) for picture in pictures])


def as_size(size: int | Sequence[int]) -> Size:
    """(height, width) of a side or of both. Raises UserError for other numbers."""
    sides = list(size) if isinstance(size, (Sequence, np.ndarray)) else [size, size]
    if len(sides) != 2 or not all(map(_is_whole, sides)):
        raise UserError(f"size {size!r} is neither a side nor (height, width) in pixels")
    return int(sides[0]), int(sides[1])


def _is_whole(number: Any) -> bool:
    return isinstance(number, Real) and not isinstance(number, bool) and float(number).is_integer()


def as_prompts(prompt: Any) -> tuple[str, ...]:
    """The text of every sample, without the space around it, of one text or a list. Raises UserError for all else."""
    prompts = [prompt] if isinstance(prompt, str) else prompt
    if not isinstance(prompts, Sequence) or not prompts or not all(isinstance(text, str) for text in prompts):
        raise UserError(f"prompt must be a text, or a list of at least one, not {str(prompt)[:60]!r}")
    return tuple(text.strip() for text in prompts)


def read_pictures(images: Images, at: Sequence[int] | None = None, at_most: int | None = None) -> Clip:
    """Pictures of any form.

    Args:
      at: which frames are taken where there are more, -1 is the last.
      at_most: so many, spread evenly, are taken of a longer video or folder, without `at`.
    """
    if isinstance(images, Clip):
        return images
    if paths := as_paths(images, "images"):
        return read_clip(paths, at=at, at_most=at_most if len(paths) == 1 else None)
    if isinstance(images, (np.ndarray, jax.Array)) and images.ndim == 4:
        images = list(np.asarray(images))
    if not isinstance(images, Sequence):
        images = [images]
    if not len(images):
        raise UserError("no images: give a path, a PIL image, an array, or a list of these")
    images = [find_file(image, "images") if isinstance(image, (str, os.PathLike)) else image for image in images]
    frames, masks = zip(*map(_picture, images), strict=True)
    stored = read_orientation(images[0]) if isinstance(images[0], (Path, Image.Image)) else None
    return Clip(list(frames), list(masks), None, stored, numbers=range(len(frames)), available=len(frames))


def as_paths(given: Any, name: str) -> list[Path] | None:
    """One path or several; None for anything else. Raises UserError, which calls it `name`, for what is no path."""
    given = [given] if isinstance(given, (str, os.PathLike)) else given
    is_paths = isinstance(given, Sequence) and given and all(isinstance(one, (str, os.PathLike)) for one in given)
    return [find_file(one, name) for one in given] if is_paths else None


def _picture(image: Any) -> tuple[Picture, Mask | None]:
    if isinstance(image, (Path, Image.Image)):
        return read_image_and_mask(image)
    array = np.asarray(image)
    if array.ndim != 3 or array.shape[-1] != 3 or not array.size:
        raise UserError(f"an image of the shape {list(array.shape)}: needed is [height, width, 3]")
    if array.dtype == np.uint8:
        return array, None
    if not np.issubdtype(array.dtype, np.floating) or not (array.min() >= 0 and array.max() <= 1):
        raise UserError(f"an image of {array.dtype}: needed are bytes, or floating-point numbers from 0 to 1")
    return array.astype(np.float32), None


def _fit(picture: Picture, size: Size, pad: bool = False) -> Float[np.ndarray, "h w 3"]:
    tell_fit(picture.shape[:2], size, pad)
    scaled = fit_picture(picture, size, pad)
    return (scaled / 255 if picture.dtype == np.uint8 else np.clip(scaled, 0, 1)).astype(np.float32)


def given_images(
    images: Images,
    samples: int,
    size: Size,
    num_frames: int,
    control_frames: Sequence[int] | None,
    fit: str = "crop",
    cameras: Any = None,
) -> Given:
    """The given frames of every sample.

    Args:
      images: of one sample, or a list with those of every sample; an array ``b k h w 3`` in [0, 1] keeps its size.
      control_frames: by default the first, the first and the last, or all, by the number of pictures; all of a longer
        video or folder are spread evenly over it.
      fit: one of :data:`gen3r_jax.data.clips.FITS`; with "whole" the first picture says what `size` becomes.
      cameras: a file's lenses are taken out of pictures that it names.
    """
    control_frames = _frame_numbers(control_frames)
    require_fit(fit)
    if isinstance(images, (np.ndarray, jax.Array)) and images.ndim == 5:
        batch, known, stored = check_batch(images, samples), None, [None] * samples
    else:
        clips = [read_pictures(one, control_frames, num_frames) for one in _of_each(images, samples)]
        if len({len(clip.frames) for clip in clips}) > 1:
            counts = ", ".join(str(len(clip.frames)) for clip in clips)
            raise UserError(f"samples with {counts} images: each needs as many")
        if isinstance(cameras, CameraFile) and any(map(any, cameras.lenses)):
            clips, cameras = _undistorted(clips, cameras)
        size = whole_size(clips[0].frames[0].shape[:2], size) if fit == "whole" else size
        pad = fit == "pad"
        batch = np.stack([[_fit(picture, size, pad) for picture in clip.frames] for clip in clips])
        pairs = [zip(clip.frames, clip.masks, strict=True) for clip in clips]
        known = np.stack([[fit_mask(mask, frame.shape[:2], size, pad) for frame, mask in pair] for pair in pairs])
        known, stored = None if known.all() else known, [clip.stored for clip in clips]
    require_side(batch.shape[2])
    require_side(batch.shape[3])
    return Given(batch, known, _places(batch.shape[1], num_frames, control_frames), stored, cameras)


def _undistorted(clips: Sequence[Clip], cameras: CameraFile) -> tuple[Sequence[Clip], CameraFile]:
    """Pictures and cameras without lenses, where the file names all pictures; else as they are: the lens is refused."""
    numbers = {Path(name).name: index for index, name in enumerate(cameras.names)}
    turned = any(clip.stored is None or clip.stored.tag != UPRIGHT for clip in clips)
    named = all(clip.names and numbers.keys() >= set(clip.names) for clip in clips)
    if turned or not named or len(numbers) < len(cameras.names):
        return clips, cameras
    dataclasses.replace(cameras, lenses=()).require_sound()
    try:
        from gen3r_jax.data.lenses import undistort_clip, without_lenses
    except ImportError:
        raise UserError(
            f"{cameras.path} has distorted lenses; to take them out of the pictures, pip install 'gen3r-jax[prepare]'"
        ) from None
    notice(f"{cameras.path}: its lens distortion is taken out of the pictures")
    straight = [undistort_clip(clip, cameras.take([numbers[name] for name in clip.names])) for clip in clips]
    return straight, without_lenses(cameras)


def require_fit(fit: str) -> None:
    """Raises UserError for what is no way to bring pictures to a size."""
    if fit not in FITS:
        raise UserError(f"fit {fit!r} is none of {', '.join(FITS)}")


def _of_each(images: Images, samples: int) -> Sequence[Images]:
    """The images of every sample; those of a single one may stand in a list, too."""
    is_list = isinstance(images, (list, tuple)) and not isinstance(images, Clip)
    if samples == 1 and not (is_list and len(images) == 1 and isinstance(images[0], (list, tuple))):
        return [images]
    if (not is_list and not isinstance(images, (np.ndarray, jax.Array))) or len(images) != samples:
        raise UserError(f"{samples} prompts need a list with the images of each")
    return list(images)


def _frame_numbers(control_frames: Any) -> tuple[int, ...] | None:
    try:
        return None if control_frames is None else tuple(map(operator.index, control_frames))
    except TypeError:
        told = f"such as [0, 8], not {str(control_frames)[:60]!r}"
        raise UserError(f"control_frames must be a list of numbers of frames, {told}") from None


def check_batch(images: np.ndarray | jax.Array, samples: int) -> Float[np.ndarray, "b k h w 3"]:
    """An array of the given frames of every sample, in float32. Raises UserError unless it is one, in [0, 1]."""
    images = np.asarray(images)
    if images.ndim != 5 or images.shape[-1] != 3:
        raise UserError(f"control_images need the shape [b, k, h, w, 3], not {list(images.shape)}")
    if not images.size:
        raise UserError(f"control_images hold nothing: their shape is {list(images.shape)}")
    if not np.issubdtype(images.dtype, np.floating) or not (images.min() >= 0 and images.max() <= 1):
        raise UserError("control_images must be numbers from 0 to 1; divide colours of 8 bits by 255")
    if len(images) != samples:
        raise UserError(f"{samples} prompts for {len(images)} samples of control_images")
    return images.astype(np.float32)


def _places(count: int, num_frames: int, control_frames: Sequence[int] | None) -> tuple[int, ...]:
    if control_frames is None:
        if count not in (1, 2, num_frames):
            raise UserError(
                f"{count} images for {num_frames} frames: give 1, 2 or all {num_frames}, or say in control_frames "
                "which they are"
            )
        control_frames = {1: (0,), 2: (0, num_frames - 1)}.get(count)
    places = tuple(range(num_frames) if control_frames is None else control_frames)
    if len(places) != count:
        raise UserError(f"{count} images and {len(places)} control_frames")
    frame_mask(places, num_frames)
    return places


def tell_other_sizes(size: Size, num_frames: int, made_for: tuple[Size, int]) -> None:
    """Tells once where weights are used at other sizes than those that they were made for."""
    if (tuple(size), num_frames) != made_for:
        (height, width), frames = made_for
        notice(
            f"the weights were made for {frames} frames of {width} x {height}; {num_frames} frames of "
            f"{size[1]} x {size[0]} may look worse"
        )


def fill_clip(images: np.ndarray, given: Sequence[int], num_frames: int) -> Float[np.ndarray, "b t h w 3"]:
    """The whole clip, black where nothing is given."""
    clip = np.zeros((images.shape[0], num_frames, *images.shape[2:]), np.float32)
    clip[:, list(given)] = images
    return clip
