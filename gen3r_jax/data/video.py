"""Videos read by frame number."""

import itertools
import math
from bisect import bisect_right
from collections.abc import Iterable, Iterator
from fractions import Fraction
from functools import cached_property
from pathlib import Path

import av
import numpy as np
from jaxtyping import Float64

from gen3r_jax.data.colour import Picture
from gen3r_jax.errors import UserError, one_line
from gen3r_jax.storage.files import natural_key

VIDEO_SUFFIXES = (".mp4", ".mov", ".m4v", ".mkv", ".webm", ".avi")


def is_video(path: Path) -> bool:
    return path.suffix.lower() in VIDEO_SUFFIXES and not path.name.startswith(".") and path.is_file()


def list_videos(folder: Path) -> list[Path]:
    """The videos of a folder in the order of their names, numbers counted as numbers."""
    return sorted((path for path in folder.iterdir() if is_video(path)), key=natural_key)


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
                raise UserError(f"cannot read the video {self.path}: {one_line(error)}") from None
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


def _upright(frame: av.VideoFrame) -> Picture:
    """The frame as RGB, turned as the file's display matrix says (phones store portrait video lying down)."""
    return np.ascontiguousarray(np.rot90(frame.to_ndarray(format="rgb24"), round(frame.rotation / 90)))
