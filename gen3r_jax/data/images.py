"""Pictures in, 8-bit RGB out: image files of any kind, and videos read by frame number."""

import io
import itertools
import math
from bisect import bisect_right
from collections.abc import Iterable, Iterator, Sequence
from fractions import Fraction
from functools import cached_property
from pathlib import Path

import av
import numpy as np
from jaxtyping import Float64, UInt8
from PIL import Image, ImageOps

from gen3r_jax.errors import UserError
from gen3r_jax.storage.files import natural_key

Picture = UInt8[np.ndarray, "h w 3"]

IMAGE_SUFFIXES = (".png", ".jpg", ".jpeg", ".webp", ".bmp", ".tif", ".tiff")
VIDEO_SUFFIXES = (".mp4", ".mov", ".m4v", ".mkv", ".webm", ".avi")


def read_image(source: Path | bytes) -> Picture:
    """Reads an image file (or its bytes) as it should be seen: turned upright by its EXIF tag, in 8-bit RGB.

    Grey and palette images are expanded, 16-bit ones scaled to 8, transparency is dropped (not blended), as Gen3R does.
    Raises UserError for anything that cannot be decoded whole.
    """
    name = "image" if isinstance(source, bytes) else source
    try:
        with Image.open(io.BytesIO(source) if isinstance(source, bytes) else source) as file:
            image = ImageOps.exif_transpose(file)
            if image.mode == "F":
                raise ValueError("its pixels are floating-point numbers; convert it to 8 or 16 bits")
            if image.mode.startswith("I"):
                return _grey_to_rgb(np.clip(np.rint(np.asarray(image, np.float64) / 257), 0, 255))
            return np.array(image.convert("RGB"))
    except FileNotFoundError:
        raise UserError(f"{name} does not exist") from None
    except Exception as error:  # damaged files make Pillow raise nearly anything, SyntaxError included
        raise UserError(f"cannot read {name}: {_one_line(error)}") from None


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


def list_videos(folder: Path) -> list[Path]:
    """The videos of a folder, ordered like :func:`list_images`."""
    return sorted((path for path in folder.iterdir() if is_video(path)), key=natural_key)


def is_image(path: Path) -> bool:
    return path.suffix.lower() in IMAGE_SUFFIXES and not path.name.startswith(".") and path.is_file()


def is_video(path: Path) -> bool:
    return path.suffix.lower() in VIDEO_SUFFIXES and not path.name.startswith(".") and path.is_file()


class Video:
    """A video file whose frames are read by number; holds no open file, so it can go to another process.

    window: seconds, from and to; frames outside may be left out of the count, and then their part of the file is not
      read.
    Raises UserError when the file is not a video, or is damaged so that no frame can be found.
    """

    def __init__(self, path: Path, window: tuple[float, float] = (-math.inf, math.inf)):
        self.path, self._window = Path(path), window
        self._times, self._key_times, self._unit, self._shown_times = self._index
        if not self._times:
            raise UserError(f"{self.path} has no video frames; give a playable video file")

    def __len__(self) -> int:
        return len(self._times)

    @property
    def times(self) -> Float64[np.ndarray, "frames"]:
        """When each frame is shown, in seconds."""
        return np.array(self._times) * float(self._unit)

    @cached_property
    def _index(self) -> tuple[list[int], list[int], Fraction, bool]:
        """Presentation times of all frames and of the key frames, from the packets' headers: nothing is decoded; their
        unit in seconds; and whether they are what they are called. AVI holds times of decoding, which are others where
        frames refer to later ones."""
        times, key_times, unit, shown = set(), [], Fraction(1), True
        try:
            with av.open(self.path) as container:
                if not container.streams.video:
                    raise UserError(f"{self.path} has no video stream; give a playable video file")
                stream = container.streams.video[0]
                unit, shown = stream.time_base, container.format.name != "avi" or not stream.codec_context.has_b_frames
                first, last = (seconds / float(unit) for seconds in self._window) if shown else (-math.inf, math.inf)
                if first > 0:
                    container.seek(int(first), stream=stream)  # to the key frame before
                for packet in container.demux(stream):
                    if packet.dts is not None and packet.dts > last:  # what follows is shown later still
                        break
                    if packet.pts is not None and packet.size and not packet.is_discard:
                        times.add(packet.pts)
                        if packet.is_keyframe:
                            key_times.append(packet.pts)
        except FileNotFoundError:
            raise UserError(f"{self.path} does not exist") from None
        except (OSError, av.FFmpegError) as error:
            if not times:
                raise UserError(f"cannot read the video {self.path}: {_one_line(error)}") from None
        return sorted(times), sorted(key_times), unit, shown

    def read(self, indices: Iterable[int]) -> list[Picture | None]:
        """Decodes the frames with these numbers (any order, repeats allowed); None where a frame is damaged."""
        indices = list(indices)
        decoded = dict(self.stream(indices))
        return [decoded.get(index) for index in indices]

    def stream(self, indices: Iterable[int]) -> Iterator[tuple[int, Picture]]:
        """Decodes the frames with these numbers one by one in the order of time; damaged ones are left out.

        Decoding starts at the key frame before the first of them, or at the beginning where times of showing are not
        known, and stops after the last.
        """
        wanted = {self._times[index] if self._shown_times else index: index for index in indices}
        count = itertools.count()
        try:
            with av.open(self.path) as container:
                stream = container.streams.video[0]
                stream.thread_type = "AUTO"
                if self._shown_times:
                    before = bisect_right(self._key_times, min(wanted))
                    container.seek(self._key_times[before - 1] if before else 0, stream=stream)
                for packet in container.demux(stream):
                    try:
                        frames = packet.decode()
                    except av.FFmpegError:
                        continue
                    places = [frame.pts if self._shown_times else next(count) for frame in frames]
                    for place, frame in zip(places, frames, strict=True):
                        if place in wanted:
                            yield wanted[place], _upright(frame)
                    if places and places[-1] is not None and places[-1] >= max(wanted):
                        break
        except (OSError, av.FFmpegError):
            pass  # a file cut short: what was decoded counts


def read_frames(
    inputs: Sequence[Path],
    num_frames: int | None = None,
    *,
    stride: int = 1,
    at_most: int | None = None,
    at: Sequence[int] | None = None,
) -> list[Picture]:
    """Reads what a user names as frames: one video, one folder of images, or images in the given order.

    Args:
      num_frames: how many to read, `stride` apart, from the beginning; by default all there are, up to `at_most`.
      at: which are read instead; -1 is the last. All where there are just as many.

    Returns:
      RGB images, whose sizes may differ. Raises UserError when there are fewer than asked for or one is unreadable.
    """
    inputs = [Path(path) for path in inputs]
    name = str(inputs[0]) if len(inputs) == 1 else f"{len(inputs)} images"

    def choose(available: int) -> Sequence[int]:
        if at is not None and len(at) < available:
            require_frames(name, available, max(at) + 1)
            return [index % available for index in at]
        chosen = range(0, available, stride)
        require_frames(name if stride == 1 else f"{name}, {stride} frames apart,", len(chosen), num_frames)
        return chosen[: num_frames or at_most]

    if len(inputs) == 1 and not inputs[0].exists():
        raise UserError(f"{name} does not exist")
    if len(inputs) == 1 and is_video(inputs[0]):
        video = Video(inputs[0])
        chosen = choose(len(video))
        frames = video.read(chosen)
        damaged = [index for index, frame in zip(chosen, frames, strict=True) if frame is None]
        if damaged:
            raise UserError(f"{name}: frame {damaged[0]} is damaged; re-encode the video")
        return frames
    files = inputs
    if len(inputs) == 1 and inputs[0].is_dir():
        files = list_images(inputs[0])
        if not files:
            raise UserError(f"{name} holds no images ({' '.join(IMAGE_SUFFIXES)})")
    for path in files:
        if path.exists() and not is_image(path):
            kinds = " ".join(IMAGE_SUFFIXES if len(files) > 1 else VIDEO_SUFFIXES + IMAGE_SUFFIXES)
            raise UserError(f"{path} is of a kind that cannot be read; known are {kinds}")
    return [read_image(files[index]) for index in choose(len(files))]


def require_frames(name: object, available: int, needed: int | None) -> None:
    if needed is not None and available < needed:
        raise UserError(f"{name} has {available} frames, {needed} are needed: ask for fewer or give more")


def _upright(frame: av.VideoFrame) -> Picture:
    """The frame as RGB, turned as the file's display matrix says (phones store portrait video lying down)."""
    return np.ascontiguousarray(np.rot90(frame.to_ndarray(format="rgb24"), round(frame.rotation / 90)))


def _grey_to_rgb(grey: np.ndarray) -> Picture:
    return np.repeat(grey.astype(np.uint8)[..., None], 3, axis=-1)


def _one_line(error: Exception) -> str:
    return " ".join(str(error).split()) or type(error).__name__
