"""RealEstate10K: clips of videos of houses on YouTube, with cameras that were found from the pictures.

    {train,test}/<clip>.txt                     here or one folder deeper: the archive, which holds no pictures
    {train,test}/<clip>/<stamp>.{png,jpg}       frames cut out of the videos; may be in frames/{train,test}/, too
    videos/<YouTube id>.{mp4,mkv,webm,...}      or the videos, from which frames are read by their time
    {train,test}/000000.torch                   or pixelSplat's chunks, which hold cameras and frames of many clips

The first line of a text is the video's address, the others are frames: a stamp in microseconds from the first frame
that the video shows; fx fy cx cy as parts of the picture's width and height, from its corner; two zeros; three rows of
the pose, world to camera in OpenCV axes, in a unit of the clip's own. ACID has the same format.
"""

import math
import re
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import get_args

import numpy as np
from jaxtyping import Float

from gen3r_jax.data.images import Picture, list_images
from gen3r_jax.data.prepare.recording import DataSet, RawFrame, ReadOptions, Recording, Split, Unit, steady
from gen3r_jax.data.prepare.torch_chunks import read_torch
from gen3r_jax.data.video import VIDEO_SUFFIXES, Video
from gen3r_jax.errors import UserError
from gen3r_jax.geometry.camera_files.realestate10k import read_rows
from gen3r_jax.geometry.cameras import invert_se3
from gen3r_jax.storage.files import read_lines

SPLITS = ("train", "test")

NEAR = 0.008
"""Seconds between a stamp and its video frame, less than. They differ by 1 ms at most where the video is the right one;
frames are 33 ms apart."""


def find(raw: Path, splits: Sequence[str] = ()) -> list[Unit]:
    """One unit for each clip of the folders called `splits` (by default of any): its text, and where pictures may be;
    or one for each chunk, where there are chunks.

    The folder is part of the key only where another has a clip of the same name.
    """

    def texts(pattern: str) -> list[Path]:
        return sorted(file for file in raw.glob(pattern) if not splits or file.parent.name in splits)

    if chunks := texts("*/*.torch"):
        return [Unit(f"{file.parent.name}/{file.stem}", (file, raw)) for file in chunks]
    clips = texts("*/*.txt") or texts("*/*/*.txt")
    often = Counter(file.stem for file in clips)
    keys = (file.stem if often[file.stem] == 1 else f"{file.parent.name}/{file.stem}" for file in clips)
    return [Unit(key, (file, raw)) for key, file in zip(keys, clips, strict=True)]


def read(unit: Unit, options: ReadOptions, official_split: bool = False) -> Iterator[Recording]:
    """official_split: whether the folder's name is the split."""
    text, raw = unit.paths
    if text.suffix == ".torch":
        yield from _read_chunk(text, _split(text) if official_split else None)
        return
    video, rows = _video_id(next(iter(read_lines(text)), ""), text), read_rows(text)
    scene, split = unit.key.replace("/", "_"), _split(text) if official_split else None
    if not len(rows.stamps):
        yield Recording(scene, video, (), split, unfit="its file lists no frames")
        return
    pictures = _pictures(text, raw, video, rows.stamps)
    if pictures is None:
        yield Recording(scene, video, (), split, unfit="neither its frames nor its video are there")
        return
    frames, missing = [], 0
    for stamp, (fx, fy, cx, cy), c2w in zip(*rows, strict=True):
        if stamp not in pictures:
            missing += 1
            continue
        frames.append(RawFrame(f"{stamp:.0f}", stamp / 1e6, pictures[stamp], c2w, (fx, fy), (cx, cy), size=(1, 1)))
    dropped = {"no picture of its time": missing} if missing else {}
    yield Recording(scene, video, frames, split, dropped, steady(frames))


def _split(text: Path) -> Split | None:
    return next((split for split in get_args(Split) if split == text.parent.name), None)


def _read_chunk(chunk: Path, split: Split | None) -> Iterator[Recording]:
    """The clips of a chunk; the names of their parts are pixelSplat's."""
    for clip in read_torch(chunk):
        try:
            scene, address, stamps, images = (clip[key] for key in ("key", "url", "timestamps", "images"))
            cameras = np.asarray(clip["cameras"], np.float64).reshape(len(stamps), 18)
        except (KeyError, TypeError, ValueError):
            raise UserError(
                f"{chunk} is no chunk of pixelSplat: a clip needs key, url, timestamps, cameras, images"
            ) from None
        c2w = invert_se3(cameras[:, 6:].reshape(-1, 3, 4))
        frames = [
            RawFrame(f"{stamp}", stamp / 1e6, image.tobytes, where, (fx, fy), (cx, cy), size=(1, 1))
            for stamp, image, where, (fx, fy, cx, cy, *_) in zip(stamps.tolist(), images, c2w, cameras, strict=True)
        ]
        yield Recording(str(scene), _video_id(str(address), chunk), frames, split, continues=steady(frames))


def _video_id(address: str, source: Path) -> str:
    """``w`` of ``https://www.youtube.com/watch?v=w`` and ``https://youtu.be/w``."""
    if found := re.search(r"[?&]v=([\w-]+)", address) or re.search(r"://.+/([\w-]+)$", address):
        return found[1]
    raise UserError(f"{source} does not begin with the address of a video, but with {address[:80]!r}")


def _pictures(
    text: Path, raw: Path, video: str, stamps: Float[np.ndarray, "n"]
) -> Mapping[float, Path | Callable[[], Picture]] | None:
    """Stamp -> picture; None if there are neither frames nor a video."""
    clip = Path(text.parent.name, text.stem)
    for folder in (text.with_suffix(""), raw / clip, raw / "frames" / clip):
        images = list_images(folder) if folder.is_dir() else ()
        if images:
            return {float(image.stem): image for image in images if image.stem.isdigit()}
    for suffix in VIDEO_SUFFIXES:
        if (file := raw / "videos" / f"{video}{suffix}").exists():
            seconds = stamps / 1e6  # a clip is a short part of its video
            return _frames_near(Video(file, (seconds.min() - NEAR, seconds.max() + NEAR)), stamps)
    return None


def _frames_near(video: Video, stamps: Float[np.ndarray, "n"]) -> dict[float, Callable[[], Picture]]:
    """Stamp -> the frame that is shown at this time. A frame belongs to the nearest stamp only."""
    times, chosen = video.times, {}
    for stamp in stamps:
        distances = np.abs(times - stamp / 1e6)
        number = int(distances.argmin())
        match = (distances[number], stamp)
        if match[0] < NEAR:
            chosen[number] = min(match, chosen.get(number, match))
    frames = _Frames(video, chosen)
    return {stamp: partial(frames.read, number) for number, (_, stamp) in chosen.items()}


class _Frames:
    """Frames of a video that are asked for in the order of time: each is decoded once, and one is in memory."""

    def __init__(self, video: Video, numbers: Iterable[int]):
        self._path, self._decoded = video.path, video.stream(numbers)
        self._number: float = -1
        self._picture: Picture | None = None

    def read(self, number: int) -> Picture:
        while self._number < number:
            self._number, self._picture = next(self._decoded, (math.inf, None))
        if self._number > number or self._picture is None:
            raise UserError(f"{self._path}: frame {number} is damaged")
        return self._picture


DATA_SET = DataSet(
    name="re10k",
    title="RealEstate10K",
    site="https://google.github.io/realestate10k/download.html",
    licence="CC BY 4.0 (cameras); videos: their owners'",
    scale="sfm",
    layout="{train,test}/<clip>.txt, here or one folder deeper, or {train,test}/<number>.torch",
    find=partial(find, splits=SPLITS),
    read=partial(read, official_split=True),
    evaluation_scenes=200,
)
