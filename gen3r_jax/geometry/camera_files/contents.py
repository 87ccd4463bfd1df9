"""What the files of every format give, and what of it can be used: one result, one check, one order."""

import dataclasses
import itertools
import os
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float, Real

from gen3r_jax.errors import UserError, notice
from gen3r_jax.geometry.cameras import Cameras, homogeneous, intrinsics_fault, pose_fault
from gen3r_jax.storage.files import natural_key

LENS_TERMS = ("k1", "k2", "p1", "p2", "k3", "k4", "k5", "k6")
"""The terms of a lens in OpenCV's order."""

PAUSE = 1.5
"""A step of numbers or stamps so many times the usual one is a gap."""


@dataclass(frozen=True)
class CameraFile:
    """The cameras of a file as it states them, frame by frame: :meth:`require_sound` judges them.

    Attributes:
      path: the file, for messages.
      c2w: camera to world, OpenCV axes.
      names: the pictures' names with their folders, as the file has them; empty where its form names none.
      stamps: times in seconds, of forms that have them.
      intrinsics: in pixels of pictures of `sizes`; None where the form has none.
      sizes: height and width of the pictures; None where the file does not say them.
      lenses: of each frame OpenCV's distortion terms k1, k2, p1, p2, ...; none where no frame has any.
    """

    path: Path
    c2w: Float[np.ndarray, "t 4 4"]
    names: tuple[str, ...] = ()
    stamps: Float[np.ndarray, "t"] | None = None
    intrinsics: Float[np.ndarray, "t 3 3"] | None = None
    sizes: Real[np.ndarray, "t 2"] | None = None
    lenses: tuple[tuple[float, ...], ...] = ()

    def __len__(self) -> int:
        return len(self.c2w)

    def take(self, indices: Sequence[int]) -> "CameraFile":
        """The frames with these numbers."""
        chosen = {}
        for key in ("c2w", "names", "stamps", "intrinsics", "sizes", "lenses"):
            values = getattr(self, key)
            if isinstance(values, np.ndarray):
                chosen[key] = values[indices]
            elif values:
                chosen[key] = tuple(values[index] for index in indices)
        return dataclasses.replace(self, **chosen)

    def in_order(self) -> "CameraFile":
        """The frames by their stamps; else by their names with folders, numbers as numbers; else as they stand."""
        if self.stamps is not None:
            return self.take(np.argsort(self.stamps, kind="stable").tolist())
        return self.take(sorted(range(len(self.names)), key=lambda i: name_key(self.names[i]))) if self.names else self

    def tell_gaps(self) -> None:
        """Tell the user where frames are missing between those of this file, which are in order."""
        if gaps := self.gaps():
            more = f" and at {len(gaps) - 1} more places" if len(gaps) > 1 else ""
            notice(f"{self.path}: its frames are not evenly spaced: {gaps[0]}{more}; they are taken as neighbours")

    def gaps(self) -> list[str]:
        """Where steps between frames are longer than usual, or another series of names begins, in words."""
        return _gaps(self.names, self.stamps)

    def faults(self) -> Iterator[tuple[int, str]]:
        """The numbers of cameras that cannot be meant, each with its first fault in words that follow its name."""
        for index, pose in enumerate(self.c2w):
            if fault := pose_fault(pose) or self.lens_fault(index) or self.intrinsics_fault(index):
                yield index, fault

    def lens_fault(self, index: int) -> str:
        """What :meth:`faults` says of the lens."""
        if not any(terms := self.lens(index)):
            return ""
        told = ", ".join(f"{name} = {term:.3g}" for name, term in zip(LENS_TERMS, terms, strict=False) if term)
        return f"has a distorted lens ({told}); undistort the pictures first (COLMAP: image_undistorter)"

    def intrinsics_fault(self, index: int) -> str:
        """What :meth:`faults` says of the intrinsics, where the file says their picture's size."""
        if self.intrinsics is None or self.sizes is None:
            return ""
        intrinsics, (height, width) = self.intrinsics[index], self.sizes[index].tolist()
        if fault := intrinsics_fault(intrinsics, (height, width)):
            return fault
        cx, cy = intrinsics[:2, 2].tolist()
        inside = 0 < cx < width and 0 < cy < height
        return "" if inside else f"has its principal point ({cx:g}, {cy:g}) outside of {width:g} x {height:g} pixels"

    def lens(self, index: int) -> tuple[float, ...]:
        """The distortion terms of a frame; none of a pinhole."""
        return self.lenses[index] if self.lenses else ()

    def require_sound(self) -> None:
        """Raise UserError, in one line, for the first camera that cannot be meant."""
        for index, fault in self.faults():
            name = f" ({self.names[index]})" if self.names else ""
            raise UserError(f"{self.path}: camera {index}{name} {fault}")

    def cameras(self) -> Cameras:
        """The cameras of a file that states intrinsics and sizes."""
        assert self.intrinsics is not None and self.sizes is not None
        return Cameras(self.c2w, self.intrinsics, self.sizes.astype(int))


def name_key(name: str) -> list[list[tuple[int, int | str]]]:
    """The key that sorts pictures by their whole names, numbers counted as numbers."""
    return [natural_key(part) for part in name.split("/")]


def to_poses(value: Any) -> Float[np.ndarray, "t 4 4"] | None:
    """Lists of 4 x 4 or 3 x 4 numbers as 4 x 4 matrices; None for anything else."""
    poses = to_numbers(value)
    if poses is None or poses.ndim != 3 or poses.shape[1:] not in ((3, 4), (4, 4)):
        return None
    return homogeneous(poses) if poses.shape[1] == 3 else poses


def to_numbers(value: Any) -> Float[np.ndarray, "..."] | None:
    """An array of numbers, also written as text; None where `value` is none."""
    if value is None:
        return None
    try:
        return np.array(value, np.float64)
    except (TypeError, ValueError, OverflowError):
        return None


def for_all(intrinsics: Float[np.ndarray, "..."], count: int) -> Float[np.ndarray, "t 3 3"] | None:
    """Intrinsics of `count` cameras from one matrix for all or one for each; None for anything else."""
    if intrinsics.shape == (3, 3):
        return np.tile(np.asarray(intrinsics, np.float64), (count, 1, 1))
    return np.asarray(intrinsics, np.float64) if intrinsics.shape == (count, 3, 3) else None


def pinhole(fx: float, fy: float, cx: float, cy: float) -> Float[np.ndarray, "3 3"]:
    """The matrix of a pinhole's intrinsics."""
    return np.array([[fx, 0, cx], [0, fy, cy], [0, 0, 1]], np.float64)


def _gaps(names: Sequence[str], stamps: Float[np.ndarray, "t"] | None) -> list[str]:
    """Where steps are longer than usual, or another series of names begins, in words; none where steps mean nothing."""
    if stamps is not None:
        names, steps = [f"{stamp:g} s" for stamp in stamps], np.diff(stamps).tolist()
    else:
        steps = [_step(before, after) for before, after in itertools.pairwise(names)]
    known = [step for step in steps if step is not None and step > 0]
    if 2 * len(known) < len(steps) or not known:
        return []
    longest, pairs = PAUSE * float(np.median(known)), itertools.pairwise(names)
    return [
        f"{after} follows {before}"
        for (before, after), step in zip(pairs, steps, strict=True)
        if step is None or step > longest
    ]


def _step(before: str, after: str) -> float | None:
    """How far the last numbers of two names are apart; None where the names differ in anything else."""
    first, second = (re.fullmatch(r"(.*?)(\d+(?:\.\d+)?)(\D*)", os.path.splitext(x)[0]) for x in (before, after))
    if first is None or second is None or first.group(1, 3) != second.group(1, 3):
        return None
    return float(second[2]) - float(first[2])
