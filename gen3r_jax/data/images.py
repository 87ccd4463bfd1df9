"""Pictures in, 8-bit RGB out: image files of any kind, and what a user names as frames."""

import importlib
import io
import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import NamedTuple

import numpy as np
from jaxtyping import Float64
from PIL import Image

from gen3r_jax.data.colour import Picture
from gen3r_jax.data.decoding import MOST_PIXELS, TURNS, Mask, decode, orientation
from gen3r_jax.data.video import VIDEO_SUFFIXES, Video, is_video
from gen3r_jax.errors import UserError, notice, one_line
from gen3r_jax.geometry.camera_files.orientation import ASPECT_TOLERANCE, UPRIGHT, StoredPicture, stored_as
from gen3r_jax.storage.files import natural_key

HEIF_SUFFIXES = (".heic", ".heif")
IMAGE_SUFFIXES = (".png", ".jpg", ".jpeg", ".webp", ".bmp", ".tif", ".tiff", ".avif", ".gif", *HEIF_SUFFIXES)
MOVING = ("GIF", "WEBP", "AVIF", "PNG")
"""Formats of pictures that may be clips: several pages of others, such as those of phones, are no frames."""


def read_image(source: Path | bytes | Image.Image, upright: bool = True) -> Picture:
    """Reads an image file (or its bytes, or a PIL image) as it should be seen, in 8-bit sRGB.

    Grey and palette images are expanded, 16 and 32 bits scaled to 8, embedded colour profiles converted, transparent
    pixels shown on white, and pictures of more than FULL_PIXELS shrunk. What changes the picture is told once.

    Args:
      upright: whether EXIF's orientation is followed. Poses that were found on the pixels as they are stored need them
        as they are stored.

    Raises UserError for anything that cannot be decoded whole, floating-point pixels and more than MOST_PIXELS.
    """
    return read_image_and_mask(source, upright)[0]


def read_posed_image(source: Path | bytes, camera_size: Sequence[float] | None = None) -> Picture:
    """Reads an image file (or its bytes) whose pose was found on the pixels as they are stored: EXIF does not turn it.

    Args:
      camera_size: height and width that its camera is for. A picture that fits them only as EXIF turns it is turned.
    """
    picture = read_orientation(source)
    as_shown = picture.as_shown(camera_size) if camera_size else False
    if as_shown is None and picture.tag != UPRIGHT:
        told = "EXIF turns it, and its size does not tell whether its pose is for the stored pixels, as is assumed"
        notice(f"{picture.name}: {told}", kind="EXIF of posed pictures")
    return read_image(source, upright=bool(as_shown))


def read_orientation(source: Path | bytes | Image.Image) -> StoredPicture:
    """The size of a picture, in any form as above, as it is stored, and how EXIF says that it is shown."""
    name = source if isinstance(source, Path) else "image"
    with _refusing_damage(name):
        if isinstance(source, Image.Image):
            return _stored(source, name)
        with _open(source) as file:
            return _stored(file, name)


def read_image_and_mask(source: Path | bytes | Image.Image, upright: bool = True) -> tuple[Picture, Mask | None]:
    """Reads an image like :func:`read_image`, and where it is at least half opaque; None where it is so everywhere."""
    name = source if isinstance(source, Path) else "image"
    with _refusing_damage(name):
        if isinstance(source, Image.Image):
            return decode(source, name, upright)
        with open_whole(source) as file:
            return decode(file, name, upright)


@contextmanager
def _refusing_damage(name: object) -> Iterator[None]:
    """Turns whatever the block raises over a picture into a UserError of one line."""
    try:
        yield
    except UserError:
        raise
    except FileNotFoundError:
        raise UserError(f"{name} does not exist") from None
    except Image.DecompressionBombError:
        raise UserError(f"{name} has over {MOST_PIXELS // 10**6} megapixels; shrink it and try again") from None
    except Exception as error:  # damaged files make Pillow raise nearly anything, SyntaxError included
        raise UserError(f"cannot read {name}: {one_line(error)}") from None


@contextmanager
def open_whole(source: Path | bytes) -> Iterator[Image.Image]:
    """Opens an image file or its bytes. Of a PNG all checksums are compared, which Pillow does not do by itself."""
    with _open(source) as file:
        if file.format == "PNG":
            file.verify()  # after which it cannot be read
    with _open(source) as file:
        yield file


def _open(source: Path | bytes) -> Image.Image:
    if isinstance(source, Path) and source.suffix.lower() in HEIF_SUFFIXES:
        _learn_heif(source)
    return Image.open(io.BytesIO(source) if isinstance(source, bytes) else source)


def _stored(file: Image.Image, name: object) -> StoredPicture:
    tag = orientation(file, name)
    return StoredPicture(str(name), (file.height, file.width), tag if tag in TURNS else UPRIGHT)


def _learn_heif(path: Path) -> None:
    """Have Pillow read HEIC, which needs a package of another licence than this one's."""
    try:
        importlib.import_module("pi_heif").register_heif_opener()
    except ImportError:
        raise UserError(
            f"{path} is HEIC: install pi-heif to read it (pip install 'gen3r-jax[heic]'; its libheif is LGPL), or save "
            "the picture as JPEG or PNG"
        ) from None


def encode_image(image: Picture, suffix: str = ".jpg", quality: int = 95) -> bytes:
    """Encodes an 8-bit RGB image as ``.jpg`` or ``.png``."""
    buffer = io.BytesIO()
    if suffix == ".png":
        Image.fromarray(image).save(buffer, "PNG")
    else:
        Image.fromarray(image).save(buffer, "JPEG", quality=quality, subsampling=0)
    return buffer.getvalue()


def list_images(folder: Path) -> list[Path]:
    """The images of a folder in the order of their names, numbers counted as numbers (`2.png` before `10.png`)."""
    return sorted((path for path in folder.iterdir() if is_image(path)), key=natural_key)


def is_image(path: Path) -> bool:
    return path.suffix.lower() in IMAGE_SUFFIXES and not path.name.startswith(".") and path.is_file()


class Clip(NamedTuple):
    """Frames that a user named.

    masks: where a picture is known, None where it is known everywhere.
    fps: how many of these frames a video shows in a second; None where they are not a row of a video's frames.
    stored: the first of them as its file stores it; None where no file is known.
    names: of their files; none where they are not files each.
    numbers: which they are of the `available` frames.
    """

    frames: list[Picture]
    masks: list[Mask | None]
    fps: float | None
    stored: StoredPicture | None
    names: Sequence[str] = ()
    numbers: Sequence[int] = ()
    available: int = 0


def read_frames(
    inputs: Sequence[Path],
    num_frames: int | None = None,
    *,
    stride: int | None = None,
    first: int | None = None,
    at_most: int | None = None,
    at: Sequence[int] | None = None,
) -> list[Picture]:
    """The frames of :func:`read_clip` alone."""
    return read_clip(inputs, num_frames, stride=stride, first=first, at_most=at_most, at=at).frames


def read_clip(
    inputs: Sequence[Path],
    num_frames: int | None = None,
    *,
    stride: int | None = None,
    first: int | None = None,
    at_most: int | None = None,
    at: Sequence[int] | None = None,
    masks: Sequence[Path] = (),
) -> Clip:
    """Reads what a user names as frames: one video or moving picture, one folder of images, or images in order.

    Where not all frames are read, a line on standard error tells which.

    Args:
      num_frames: how many to read; by default all there are, up to `at_most`.
      stride, first: read every `stride`-th from number `first` on. Without both the frames are spread evenly, from the
        first there is to the last.
      at: the numbers of those to read instead; -1 is the last. All are read where there are just as many.
      masks: of all frames there are, in the same forms as `inputs`: white where a frame is known, black where not.

    Returns:
      RGB images, whose sizes may differ. Raises UserError when there are fewer than asked for or one is unreadable.
    """
    name, available, read = _frames_of(inputs)
    chosen, how = _choose(name, available, num_frames, stride, first, at_most, at)
    if len(chosen) < available:
        notice(f"{name}: {len(chosen)} of {available} frames are used, {how}")
    clip = read(chosen)._replace(numbers=chosen, available=available)
    if masks:
        of, count, read_masks = _frames_of(masks)
        if count != available:
            raise UserError(f"{of} has {count} masks for {available} frames of {name}; each frame needs its own")
        shown = read_masks(chosen)
        each = zip(clip.frames, clip.masks, shown.frames, shown.masks, strict=True)
        clip = clip._replace(masks=[_joined(*of_one) for of_one in each])
    return clip if at is None and len(chosen) > 1 else clip._replace(fps=None)


def _frames_of(inputs: Sequence[Path]) -> tuple[str, int, Callable[[Sequence[int]], Clip]]:
    """What the inputs are called, how many frames they have, and what reads those of some numbers."""
    inputs = [Path(path) for path in inputs]
    name = str(inputs[0]) if len(inputs) == 1 else f"{len(inputs)} images"
    if len(inputs) == 1 and not inputs[0].exists():
        raise UserError(f"{name} does not exist")
    if len(inputs) == 1 and is_video(inputs[0]):
        video = Video(inputs[0])
        return name, len(video), partial(_read_video, video)
    files = inputs
    if len(inputs) == 1 and inputs[0].is_dir():
        files = list_images(inputs[0])
        if not files:
            raise UserError(f"{name} holds no images ({' '.join(IMAGE_SUFFIXES)})")
    for path in files:
        if path.exists() and not is_image(path):
            kinds = " ".join(IMAGE_SUFFIXES if len(files) > 1 else VIDEO_SUFFIXES + IMAGE_SUFFIXES)
            raise UserError(f"{path} is of a kind that cannot be read; known are {kinds}")
    if len(inputs) == 1 and (count := _count_moving(files[0])) > 1:
        return name, count, partial(_read_moving, files[0])
    return name, len(files), partial(_read_files, files)


def _read_video(video: Video, chosen: Sequence[int]) -> Clip:
    frames = video.read(chosen)
    whole = [frame for frame in frames if frame is not None]
    if len(whole) < len(frames):
        damaged = next(index for index, frame in zip(chosen, frames, strict=True) if frame is None)
        raise UserError(f"{video.path}: frame {damaged} is damaged; re-encode the video")
    stored = stored_as(str(video.path), whole[0].shape[:2], video.tag)
    return Clip(whole, [None] * len(whole), _speed(video.times[list(chosen)]), stored)


def _read_files(files: Sequence[Path], chosen: Sequence[int]) -> Clip:
    frames, masks = zip(*(read_image_and_mask(files[index]) for index in chosen), strict=True)
    names = [files[index].name for index in chosen]
    return Clip(list(frames), list(masks), None, read_orientation(files[chosen[0]]), names)


def _count_moving(path: Path) -> int:
    """How many frames a picture has that moves (GIF, WebP, AVIF, PNG); 1 of every other."""
    if path.suffix.lower() in HEIF_SUFFIXES:
        return 1
    with _refusing_damage(path), Image.open(path) as file:
        return getattr(file, "n_frames", 1) if file.format in MOVING else 1


def _read_moving(path: Path, chosen: Sequence[int]) -> Clip:
    """Frames of a moving picture, each as it is shown: whole, whatever of it the file stores."""
    decoded, time, times = {}, 0.0, {}
    with _refusing_damage(path), open_whole(path) as file:
        for index in range(max(chosen) + 1):
            file.seek(index)
            file.load()  # WebP and AVIF say how long a frame is shown once it is decoded
            times[index], time = time, time + (file.info.get("duration") or 0) / 1000
            if index in chosen:
                decoded[index] = decode(file.copy(), path, upright=True)
    frames, masks = zip(*(decoded[index] for index in chosen), strict=True)
    speed = _speed(np.array([times[index] for index in chosen]))
    return Clip(list(frames), list(masks), speed, read_orientation(path))


def _speed(times: Float64[np.ndarray, "n"]) -> float | None:
    """How many frames with these times, in seconds, are shown in a second; None where the times do not tell."""
    return float((len(times) - 1) / (times[-1] - times[0])) if times[-1] > times[0] else None


def _joined(frame: Picture, alpha: Mask | None, mask: Picture, mask_alpha: Mask | None) -> Mask:
    """Where a frame is known: where its mask is white, and neither of them transparent."""
    height, width = frame.shape[:2]
    if abs(math.log(mask.shape[0] / mask.shape[1] * width / height)) > ASPECT_TOLERANCE:
        given = f"{mask.shape[1]} x {mask.shape[0]}"
        raise UserError(f"a mask of {given} for a frame of {width} x {height}: a mask must show the whole frame")
    if mask_alpha is not None:
        mask = mask * mask_alpha[..., None]
    white = np.array(Image.fromarray(mask).convert("L").resize((width, height), Image.Resampling.BOX)) >= 128
    return white if alpha is None else white & alpha


def _choose(
    name: str,
    available: int,
    num_frames: int | None,
    stride: int | None,
    first: int | None,
    at_most: int | None,
    at: Sequence[int] | None,
) -> tuple[Sequence[int], str]:
    """The numbers of the frames that :func:`read_clip` reads, and which they are in words."""
    if at is not None and len(at) < available:
        require_frames(name, available, max(at) + 1)
        chosen = [index % available for index in at]
        return chosen, f"those with the numbers {' '.join(map(str, chosen[:9]))}{' ...' * (len(chosen) > 9)}"
    if at is None and (stride, first) != (None, None):
        stride, first = stride or 1, first or 0
        chosen = range(first, available, stride)
        how = f"{stride} apart from number {first} on"
        require_frames(name if len(chosen) == available else f"{name}, {how},", len(chosen), num_frames or 1)
        return chosen[: num_frames or at_most], how
    count = num_frames or min(available, at_most or available)
    require_frames(name, available, count)
    spread = [round(i * (available - 1) / max(count - 1, 1)) for i in range(count)]
    return spread, "spread evenly from the first to the last; --stride and --first choose others"


def require_choice(stride: int | None, first: int | None) -> None:
    """Raises UserError for numbers that no frames can be chosen by."""
    if stride is not None and stride < 1:
        raise UserError(f"--stride {stride} is not a positive number")
    if first is not None and first < 0:
        raise UserError(f"--first {first} is negative; frames are numbered from 0")


def require_frames(name: object, available: int, needed: int | None) -> None:
    if needed is not None and available < needed:
        raise UserError(f"{name} has {available} frames, {needed} are needed: ask for fewer or give more")
