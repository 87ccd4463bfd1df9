"""What a door is, and what several of them read."""

import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from gen3r_jax.geometry.trajectories import camera_path
from tests.helpers.toy_scenes import write_root

FRAMES, SIZE = 4, (112, 112)


@dataclass(frozen=True)
class Door:
    """One way in.

    Attributes:
      write: writes valid files into a folder.
      read: what is read of the folder: numbers, texts and arrays, in lists and dictionaries.
      files: a pattern for those that are changed.
      truth: what the changed folder says, as far as anyone can tell: a part of what `read` gives. It raises where it
        says nothing that could be meant.
      sealed: whether every change is seen, or changes nothing.
      odd: whether only what the file says is changed, for it is no file of a user's but stands for what is typed.
      writes: whether reading writes beside what it reads.
      share: how often it is tried, relative to the others.
    """

    write: Callable[[Path], object]
    read: Callable[[Path], Any]
    files: str = "*"
    truth: Callable[[Path], Any] | None = None
    sealed: bool = False
    odd: bool = False
    writes: bool = False
    share: int = 2


def numbers() -> np.random.Generator:
    return np.random.default_rng(7)


def require_one_line(error: Exception) -> None:
    """Raises AssertionError for a message that is not a line of less than 400 characters."""
    assert str(error).strip() and "\n" not in str(error), f"a message of several lines: {str(error)[:300]!r}"
    assert len(f"error: {error}") < 400, f"a message of {len(str(error))} characters: {str(error)[:300]!r}"


C2W = camera_path("orbit_left", FRAMES).astype(np.float64)
INTRINSICS = np.tile([[100.0, 0, 56], [0, 90, 55], [0, 0, 1]], (FRAMES, 1, 1))
NAMES = [f"frame{number}.png" for number in (1, 2, 9, 10)]


def gradient() -> np.ndarray:
    y, x = np.mgrid[:40, :56]
    return np.stack([4 * x, 6 * y, 2 * (x + y)], -1).astype(np.uint8)


def write_copyable_root(folder: Path, frames: int) -> None:
    """A root whose lists name what lies beside them, so that it can be copied."""
    write_root(folder, {"re10k": 2}, frames=frames)
    for file in folder.rglob("train_*.txt"):
        lines = [os.path.relpath(line, file.parent) for line in file.read_text().split("\n") if line]
        file.write_text("\n".join(lines) + "\n")
