"""Videos read by frame number; each frame as it should be seen: upright, in sRGB, with square pixels, one moment."""

import itertools
import math
from bisect import bisect_right
from collections import Counter, deque
from collections.abc import Iterable, Iterator
from fractions import Fraction
from functools import cached_property
from pathlib import Path
from typing import Any, NamedTuple

import av
import numpy as np
from av.container import InputContainer
from av.error import FFmpegError
from av.filter import Graph
from av.stream import Disposition
from av.video.frame import PictureType
from jaxtyping import Float64

from gen3r_jax.data.colour import FrameColours, Picture
from gen3r_jax.errors import UserError, notice, one_line
from gen3r_jax.geometry.camera_files.orientation import UPRIGHT
from gen3r_jax.storage.files import natural_key

VIDEO_SUFFIXES = (".mp4", ".mov", ".m4v", ".mkv", ".webm", ".avi")

STILLS = Disposition.attached_pic | Disposition.timed_thumbnails
"""Streams of these dispositions are covers and previews of a film, not the film."""

_TURNS = {  # by EXIF's orientation: whether rows and columns change places, then left and right, then top and bottom
    1: (False, False, False),
    2: (False, True, False),
    3: (False, True, True),
    4: (False, False, True),
    5: (True, False, False),
    6: (True, True, False),
    7: (True, True, True),
    8: (True, False, True),
}


def is_video(path: Path) -> bool:
    return path.suffix.lower() in VIDEO_SUFFIXES and not path.name.startswith(".") and path.is_file()


def list_videos(folder: Path) -> list[Path]:
    """The videos of a folder in the order of their names, numbers counted as numbers."""
    return sorted((path for path in folder.iterdir() if is_video(path)), key=natural_key)


class _Index(NamedTuple):
    """What the packets' headers tell of a video; times are in units of `unit` seconds.

    times: when each frame is shown, ascending; `start`: when the first frame of the whole file is.
    keys: times of the frames that decoding may be able to begin at. What turns out not to be one is removed.
    stream: its number in the file.
    counted: whether the times are others than those of the decoded frames, so that only counting frames from the
      beginning finds one: AVI and what was copied from it hold times of decoding where frames refer to later ones.
    """

    times: list[int]
    start: int
    keys: list[int]
    unit: Fraction
    stream: int
    counted: bool


class Video:
    """A video file whose frames are read by number; holds no open file, so it can go to another process.

    window: seconds from the first frame, from and to; frames outside may be left out of the count, and then their part
      of the file is not read.
    Raises UserError when the file is not a video, or is damaged so that no frame can be found.
    """

    def __init__(self, path: Path, window: tuple[float, float] = (-math.inf, math.inf)):
        self.path, self._window = Path(path), window
        self._damaged: set[int] = set()
        if not self._index.times:
            raise UserError(f"{self.path} has no video frames; give a playable video file")

    def __len__(self) -> int:
        return len(self._index.times)

    @property
    def times(self) -> Float64[np.ndarray, "frames"]:
        """When each frame is shown, in seconds from the first frame of the file."""
        return (np.array(self._index.times) - self._index.start) * float(self._index.unit)

    @cached_property
    def tag(self) -> int:
        """How its frames are turned to be shown, as EXIF's orientation says it."""
        return next((_orientation(frame) for _, _, frame in self._decode_from(None)), UPRIGHT)

    def read(self, indices: Iterable[int]) -> list[Picture | None]:
        """Decodes the frames with these numbers (any order, repeats allowed); None where a frame is damaged."""
        indices = list(indices)
        decoded = dict(self.stream(indices))
        return [decoded.get(index) for index in indices]

    def stream(self, indices: Iterable[int]) -> Iterator[tuple[int, Picture]]:
        """Decodes the frames with these numbers one by one in the order of time; damaged ones are left out.

        Decoding begins at the key frame before the first of them and stops after the last. A frame that does not come
        is looked for again from the beginning of the file; it is damaged if it does not come then, either.
        """
        index = self._index
        wanted = {i if index.counted else index.times[i]: i for i in indices if i not in self._damaged}
        show = _Shown(self.path)
        left = deque(sorted(wanted))
        if not left:
            return
        for place, stream, frame in self._decode_from(left[0]):
            lost = [left.popleft() for _ in range(sum(other < place for other in left))]
            yield from self._search(lost, wanted, show)
            if left and place == left[0]:
                yield wanted[left.popleft()], show(stream, frame)
            if not left:
                return
        yield from self._search(list(left), wanted, show)

    def _search(self, lost: list[int], wanted: dict[int, int], show: "_Shown") -> Iterator[tuple[int, Picture]]:
        """Decodes frames that did not come from the beginning of the file; those missing again are damaged."""
        self._damaged.update(wanted[place] for place in lost)
        for place, stream, frame in self._decode_from(None) if lost else ():
            if place in lost:
                self._damaged.discard(wanted[place])
                yield wanted[place], show(stream, frame)
            if place >= lost[-1]:
                return

    def _decode_from(self, place: int | None) -> Iterator[tuple[int, av.VideoStream, av.VideoFrame]]:
        """Decoded frames in the order of time, from one at or before `place`, or from the beginning; and their places,
        which are their times, or their numbers where they are counted."""
        try:
            if place is not None and not self._index.counted:
                with open_container(self.path) as container:
                    stream = _stream(container, self._index.stream)
                    if frames := self._enter(container, stream, place):
                        yield from ((frame.pts, stream, frame) for frame in frames if frame.pts is not None)
                        return
            with open_container(self.path) as container:
                stream = _stream(container, self._index.stream)
                for number, frame in enumerate(_decode(container.demux(stream))):
                    at = number if self._index.counted else frame.pts
                    if at is not None:
                        yield at, stream, frame
        except (OSError, FFmpegError):
            pass  # a file cut short: what was decoded counts

    def _enter(self, container: InputContainer, stream: av.VideoStream, place: int) -> Iterator[av.VideoFrame] | None:
        """The frames from the last key frame before `place`; None where there is none that decoding can begin at.

        Containers call recovery points key frames, too, from which pictures become whole only by and by, and seeking in
        a transport stream may end after the place: what comes is compared with what was asked for.
        """
        keys = self._index.keys
        for target in keys[: bisect_right(keys, place)][::-1]:
            container.seek(target, stream=stream)
            packets = itertools.dropwhile(lambda packet: not packet.is_keyframe, container.demux(stream))
            key = next(packets, None)
            if key is None or key.pts is None or key.pts > place:
                continue
            time = key.pts
            frames = _decode(itertools.chain([key], packets))
            first = next((frame for frame in frames if frame.pts is not None and frame.pts >= time), None)
            if first and first.pts == time and first.pict_type not in (PictureType.P, PictureType.B):
                return itertools.chain([first], frames)
            if time in keys:
                keys.remove(time)
        return None

    @cached_property
    def _index(self) -> _Index:
        times, keys, number, unit, start, counted = set(), [], 0, Fraction(1), None, False
        try:
            with open_container(self.path) as container:
                number = _film(container, self.path)
            with open_container(self.path) as container:
                stream = _stream(container, number)
                unit, start = stream.time_base or Fraction(1), stream.start_time
                counted = container.format.name == "avi" and stream.codec_context.has_b_frames
                first, last = (seconds / float(unit) + (start or 0) for seconds in self._window)
                packets = container.demux(stream)
                if not counted and first > (start or 0):
                    packets = _packets_before(container, stream, first)
                for packet in packets:
                    if not counted and packet.dts is not None and packet.dts > last:
                        break  # what follows is shown later still
                    if not packet.size or packet.is_discard:
                        continue
                    time = packet.dts if packet.pts is None else packet.pts
                    if time is not None:
                        counted = counted or packet.pts is None
                        times.add(time)
                        if packet.is_keyframe:
                            keys.append(time)
        except FileNotFoundError:
            raise UserError(f"{self.path} does not exist") from None
        except (OSError, FFmpegError) as error:
            if not times:
                raise UserError(f"cannot read the video {self.path}: {one_line(error)}") from None
        if start is None or counted or self._window[0] <= 0:
            start = min(times, default=0)
        return _Index(sorted(times), start, sorted(keys), unit, number, counted)


class _Shown:
    """Makes pictures of one video's decoded frames, as they should be seen."""

    def __init__(self, path: Path):
        self._path, self._colours = path, FrameColours(path)

    def __call__(self, stream: av.VideoStream, frame: av.VideoFrame) -> Picture:
        tag = _orientation(frame)
        if frame.interlaced_frame:
            notice(f"{self._path}: its frames are interlaced; one field of each is kept", kind="interlaced video")
            frame = _deinterlaced(frame)
        width = round(frame.width * (stream.sample_aspect_ratio or 1))
        if width != frame.width:
            shown = f"{frame.width} x {frame.height} are shown as {width} x {frame.height}"
            notice(f"{self._path}: its pixels are not square; frames of {shown}", kind="pixel aspect")
        return _turned(self._colours(frame, width), tag)


def open_container(path: Path) -> InputContainer:
    """Opens a video; titles and other words in it may be in any encoding."""
    # From PyAV 19 on, which needs Python 3.12, that is so without asking.
    options: dict[str, Any] = {"metadata_errors": "ignore"} if int(av.__version__.partition(".")[0]) < 19 else {}
    return av.open(path, **options)


def _film(container: InputContainer, path: Path) -> int:
    """The number of the stream that is the film: one that moves, is marked as the default, is large, in this order."""
    moving = [stream for stream in container.streams.video if not stream.disposition & STILLS]
    streams = [stream for stream in moving if stream.codec_context is not None]  # of others nobody knows the codec
    if not streams:
        readable = " that can be decoded" if moving else ""
        raise UserError(f"{path} has no video stream{readable}; give a playable video file")
    if len(streams) == 1:
        return streams[0].index
    heads = Counter(packet.stream.index for packet in itertools.islice(container.demux(streams), 64) if packet.size)

    def rank(stream: av.VideoStream) -> tuple[bool, bool, int]:
        default = bool(stream.disposition & Disposition.default)
        return heads[stream.index] > 1, default, stream.codec_context.width * stream.codec_context.height

    best = max(streams, key=rank)
    shape = f"{best.codec_context.width} x {best.codec_context.height}"
    notice(f"{path}: of its {len(streams)} video streams, number {best.index} of {shape} is read", kind="video streams")
    return best.index


def _stream(container: InputContainer, number: int) -> av.VideoStream:
    stream = container.streams[number]
    assert isinstance(stream, av.VideoStream)
    return stream


def _packets_before(container: InputContainer, stream: av.VideoStream, time: float) -> Iterator[av.Packet]:
    """The packets from a key frame at or before `time`."""
    start, back = stream.start_time or 0, 1
    while True:
        target = max(int(time - (back - 1) / Fraction(stream.time_base or 1)), start)
        container.seek(target, stream=stream)
        packets = itertools.dropwhile(lambda packet: not packet.is_keyframe, container.demux(stream))
        key = next(packets, None)
        if target <= start or (key is not None and key.pts is not None and key.pts <= time):
            return itertools.chain([key] if key else [], packets)
        back *= 2


def _decode(packets: Iterable[av.Packet]) -> Iterator[av.VideoFrame]:
    """The frames of packets; damaged packets give none."""
    for packet in packets:
        try:
            yield from packet.decode()
        except FFmpegError:
            continue


def _deinterlaced(frame: av.VideoFrame) -> av.VideoFrame:
    """The moment of a frame's first field. Only this frame is looked at, so a frame is the same however it is found."""
    graph = Graph()
    source = graph.add_buffer(
        width=frame.width, height=frame.height, format=frame.format, time_base=frame.time_base or Fraction(1)
    )
    graph.link_nodes(source, graph.add("estdif", "mode=frame"), graph.add("buffersink")).configure()
    graph.push(frame)
    graph.push(None)
    first_field = graph.pull()
    assert isinstance(first_field, av.VideoFrame)
    return first_field


def _orientation(frame: av.VideoFrame) -> int:
    """EXIF's orientation for what the display matrix does: (x, y) of the frame, times it, is shown."""
    data = frame.side_data.get("DISPLAYMATRIX")
    if not data:
        return UPRIGHT
    matrix = np.frombuffer(bytes(data), np.int32).reshape(3, 3)[:2, :2].astype(np.int64)
    quarter = bool(abs(matrix[0, 1]) > abs(matrix[0, 0]))
    matrix = matrix[::-1] if quarter else matrix
    turn = (quarter, bool(matrix[0, 0] < 0), bool(matrix[1, 1] < 0))
    return next(tag for tag, other in _TURNS.items() if other == turn)


def _turned(picture: Picture, tag: int) -> Picture:
    quarter, left_right, up_down = _TURNS[tag]
    picture = picture.swapaxes(0, 1) if quarter else picture
    picture = picture[:, ::-1] if left_right else picture
    return np.ascontiguousarray(picture[::-1] if up_down else picture)
