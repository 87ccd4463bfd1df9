"""What each data set's file says about it: where its recordings are, and their frames with raw cameras.

A file of this package that describes a set defines ``DATA_SET``. It only reads: deciding which frames and scenes are
good, undistorting, cutting and writing are the same for all sets (``frames.py``, ``scenes.py``, ``run.py``).
"""

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

import numpy as np
from jaxtyping import Float

from gen3r_jax.data.images import Picture

Split = Literal["train", "test"]

LONGEST_STEP = 5
"""Frames, where they are numbered one by one; see :func:`successive`."""

GAP = 1.5
"""A pause so many times the usual one of a recording is a gap; see :func:`steady`."""

JUMP = 10
"""A step so many times the usual one of a recording is one that the reconstruction got wrong, or a cut."""


@dataclass(frozen=True)
class RawFrame:
    """One frame as its set stores it.

    name: how the set names it. order: when it was filmed: an index, or a time in seconds.
    image: the image file; or a function that gives the bytes of one, or a picture (frames of a video).
    c2w: camera to world, OpenCV axes, float64, in the set's own unit of length. May be invalid: that is found later.
    focal, centre: (fx, fy) and (cx, cy) in pixels of an image of `size`, measured from its corner.
    size: (height, width) that the intrinsics are given for, if it may differ from the picture's; (1, 1) for normalised
      ones.
    distortion: OpenCV's k1, k2, p1, p2[, k3]; empty for a pinhole.
    depth: gives the distance along the optical axis in the unit of `c2w`, float32 [h w], 0 where it is not known.
    """

    name: str
    order: float
    image: Path | Callable[[], bytes | Picture]
    c2w: Float[np.ndarray, "4 4"]
    focal: tuple[float, float]
    centre: tuple[float, float]
    size: tuple[float, float] | None = None
    distortion: tuple[float, ...] = ()
    depth: Callable[[], Float[np.ndarray, "h w"]] | None = None


def always(before: RawFrame, after: RawFrame) -> bool:
    return True


def successive(before: RawFrame, after: RawFrame) -> bool:
    """For frames that are numbered one by one: a few may be missing between two."""
    return after.order - before.order <= LONGEST_STEP


def steady(frames: Sequence[RawFrame]) -> Callable[[RawFrame, RawFrame], bool]:
    """For frames whose times and steps are much alike: whether one follows another without a pause or a jump."""
    ordered = sorted(frames, key=lambda frame: frame.order)
    times = np.array([frame.order for frame in ordered])
    centres = np.array([frame.c2w[:3, 3] for frame in ordered]).reshape(-1, 3)
    longest_pause = GAP * _median_above_0(np.diff(times))
    longest_step = JUMP * _median_above_0(np.linalg.norm(np.diff(centres, axis=0), axis=1))

    def continues(before: RawFrame, after: RawFrame) -> bool:
        step = np.linalg.norm(after.c2w[:3, 3] - before.c2w[:3, 3])
        return bool(after.order - before.order <= longest_pause and step <= longest_step)

    return continues


def _median_above_0(values: Float[np.ndarray, "n"]) -> float:
    """The median of those that are numbers above 0; infinite if none is."""
    above = values[values > 0]
    return float(np.median(above)) if len(above) else math.inf


@dataclass(frozen=True)
class Recording:
    """Frames of one camera in the order of time.

    id: unique within its set; names the scene's folder. group: what shares content and therefore a split.
    split: the official one, if there is one. dropped: frames that were left out while reading, by reason.
    continues: whether a frame follows another without a gap; a scene ends where it does not.
    unfit: why the whole recording is skipped; empty if it is not.
    damaged: why the whole recording cannot be read, which should not be so; empty if it can.
    looks_ahead: whether the camera looks where it moves, as those at the front of cars do; the check makes use of it.
    found_by: what found the cameras, where that is not the set's own way.
    """

    id: str
    group: str
    frames: Sequence[RawFrame]
    split: Split | None = None
    dropped: dict[str, int] = field(default_factory=dict)
    continues: Callable[[RawFrame, RawFrame], bool] = always
    unfit: str = ""
    damaged: str = ""
    looks_ahead: bool = False
    found_by: str = ""


@dataclass(frozen=True)
class Unit:
    """A piece of the raw data that is read in one go; holds names only, so that it can go to another process.

    key: unique and the same in every run. paths: what `DataSet.read` needs to find it again.
    """

    key: str
    paths: tuple[Path, ...]


@dataclass(frozen=True)
class ReadOptions:
    """cameras: which of the set's cameras are wanted. half_pixel: whether principal points that count from the centre
    of the first pixel are moved to count from its corner. depth: whether depth is wanted."""

    cameras: tuple[str, ...] = ()
    half_pixel: bool = True
    depth: bool = True


@dataclass(frozen=True)
class DataSet:
    """A data set as its site hands it out.

    name: of its folder and in configs. title, site, licence: for people. scale: of its translations.
    layout: what `find` looks for below the raw folder, in words, for the error when there is none.
    find: raw folder -> its units, in an order that does not change; none where the folder is not this set's.
    read: the recordings of a unit. Raises UserError (or OSError) for a unit that is damaged as a whole.
    cameras: names of all cameras; the first is the one that is used by default. Empty where there is one only.
    min_frames: a scene with fewer is skipped. chunk_frames: longer ones are cut in parts of so many (0: never).
    split_by_chunk: for sets of few recordings: parts of `group` go to train or test, with a gap between the two.
    split_salt: is hashed with the name of a part, for sets of so few that else their share would be far from a tenth.
    min_path: a scene whose camera moves less is skipped (unit of length of the set).
    evaluation_scenes: test scenes in the paper's evaluation.
    """

    name: str
    title: str
    site: str
    licence: str
    scale: Literal["metric", "sfm"]
    layout: str
    find: Callable[[Path], list[Unit]]
    read: Callable[[Unit, ReadOptions], Iterable[Recording]]
    cameras: tuple[str, ...] = ()
    min_frames: int = 9
    chunk_frames: int = 0
    split_by_chunk: bool = False
    split_salt: str = ""
    min_path: float = 0.0
    evaluation_scenes: int = 0
