"""Do the poses of a scene mean what the format says? Depth, or the motion of a car, tells.

Mistakes in poses give pictures as good as before; only geometry shows them. So the poses are read in every way that
they are commonly mixed up, and the stored way has to fit best.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from typing import Literal

import numpy as np
from jaxtyping import Float, Float32

from gen3r_jax.data.images import Picture
from gen3r_jax.geometry.cameras import OPENGL_AXES, Cameras, invert_se3

Poses = Float[np.ndarray, "t 4 4"]


Measure = Literal["depths", "colors", ""]


@dataclass(frozen=True)
class Reading:
    """A way to understand the cameras of a file. words: after "better"; mistake: what is wrong where it fits best.

    poses: stored ones -> c2w in OpenCV axes. swapped: x and y of the intrinsics (and of the principal point) are.
    """

    words: str
    mistake: str
    poses: Callable[[Poses], Poses]
    swapped: bool = False


READINGS = (
    Reading("as they are", "", lambda c2w: c2w),
    Reading("with the poses inverted", "c2w and w2c are mixed up", invert_se3),
    Reading("with OpenGL axes", "the poses are OpenGL's (y up, z back), not OpenCV's", lambda c2w: c2w @ OPENGL_AXES),
    Reading(
        "with the poses inverted and OpenGL axes",
        "the poses are w2c of OpenGL cameras (y up, z back)",
        lambda c2w: invert_se3(c2w) @ OPENGL_AXES,
    ),
    Reading("with swapped intrinsics", "fl_x, cx and fl_y, cy are mixed up", lambda c2w: c2w, swapped=True),
)
"""The stored one comes first."""

PAIRS = 8
MOTION = 0.05
"""How far the two cameras of a pair are apart: in median depths, or in radians between their directions."""
LEAST_MOTION = MOTION / 5
POINTS = 20_000

CLEARLY = 2.0
"""The stored poses are wrong where another reading's error is so many times smaller."""
NOTABLY = 1.5
"""They are right where the errors of all other readings of the poses are so many times larger, and none's is so many
times smaller."""
DEPTH_FLOOR, COLOR_FLOOR = 0.002, 4.0
"""Relative depth and 8-bit levels: errors below are those of rounding to pixels, and equal."""
FITTING = 0.1
"""Relative depth error above which nothing fits."""


@dataclass(frozen=True)
class Verdict:
    """Of one scene. best: the reading that fits best; times: how many times better than the stored one.

    depth, color: error of each of READINGS: relative, and in 8-bit levels; empty where the camera does not move.
    by: what decided. why: of an undecided one.
    """

    state: Literal["agree", "wrong", "undecided"]
    best: int = 0
    times: float = 1.0
    by: Measure = ""
    why: str = ""
    depth: tuple[float, ...] = ()
    color: tuple[float, ...] = ()

    @property
    def misfit(self) -> bool:
        """No reading explains the depth."""
        return bool(self.depth) and min(self.depth) > FITTING


def judge(
    cameras: Cameras, view: Callable[[int], tuple[Float32[np.ndarray, "h w"], Picture]], pairs: int = PAIRS
) -> Verdict:
    """Compares what neighbouring frames see of the same points, for every reading of the cameras.

    Args:
      view: frame number -> its depth (along the optical axis, in the unit of the poses, 0 unknown) and its picture.
    """
    errors = []
    for i, j in _pairs(cameras.c2w, lambda i: view(i)[0], pairs):
        (depth, picture), (other_depth, other_picture) = view(i), view(j)
        readings = []
        for reading in READINGS:
            poses, intrinsics = reading.poses(cameras.c2w[[i, j]]), cameras.intrinsics[[i, j]]
            intrinsics = intrinsics[:, [1, 0, 2]][:, :, [1, 0, 2]] if reading.swapped else intrinsics
            to_other = invert_se3(poses[1]) @ poses[0]
            readings.append(_compare(depth, picture, other_depth, other_picture, to_other, intrinsics))
        errors.append(readings)
    if not errors:
        return Verdict("undecided", why="the camera hardly moves")
    depth, color = np.median(errors, axis=0).T
    verdict = partial(Verdict, depth=tuple(depth.tolist()), color=tuple(color.tolist()))
    measures: tuple[tuple[Measure, np.ndarray, float], ...] = (
        ("depths", depth, DEPTH_FLOOR),
        ("colors", color, COLOR_FLOOR),
    )
    for by, values, floor in measures:
        values = np.maximum(values, floor)
        best = int(values.argmin())
        times = float(values[0] / values[best])
        if times >= CLEARLY:
            return verdict("wrong", best, times, by)
        if times >= NOTABLY:
            why = f"{by} agree {times:.1f} times better {READINGS[best].words}"
            return verdict("undecided", best, times, why=why)
        others = [value for value, reading in zip(values[1:], READINGS[1:], strict=True) if not reading.swapped]
        if min(others) >= NOTABLY * values[0]:
            return verdict("agree", by=by)
    return verdict("undecided", why="the camera moves too little, or along a line, to tell")


def forward_share(c2w: Poses, shortest: float = 0.1) -> float | None:
    """How much a camera looks where it goes: median of z / |d| over its steps d, in camera axes, above `shortest`.

    1: straight ahead, as in a car. None with fewer than five such steps.
    """
    steps = np.einsum("tji,tj->ti", c2w[:-1, :3, :3], np.diff(c2w[:, :3, 3], axis=0))
    lengths = np.linalg.norm(steps, axis=-1)
    long = lengths > shortest
    return float(np.median(steps[long, 2] / lengths[long])) if long.sum() >= 5 else None


def _pairs(c2w: Poses, depth: Callable[[int], np.ndarray], count: int) -> Iterator[tuple[int, int]]:
    """Up to `count` frames, evenly spread, each with the next one from where the view differs."""
    for i in np.unique(np.linspace(0, len(c2w) - 2, count).astype(int)).tolist():
        known = depth(i)
        known = known[known > 0]
        if not known.size:
            continue
        relative = invert_se3(c2w[i]) @ c2w[i + 1 :]
        distance = np.linalg.norm(relative[:, :3, 3], axis=-1) / np.median(known)
        angle = np.arccos(np.clip((np.trace(relative[:, :3, :3], axis1=1, axis2=2) - 1) / 2, -1, 1))
        motion = np.maximum(distance, angle)
        step = int((motion >= MOTION).argmax() if (motion >= MOTION).any() else motion.argmax())
        if motion[step] >= LEAST_MOTION:
            yield i, i + 1 + step


def _compare(depth, picture, other_depth, other_picture, to_other, intrinsics) -> tuple[float, float]:
    """Median relative error of depth (at most 1) and median difference of colour (8-bit levels) of the points of one
    frame in another. Medians pass over points that something hides or that move, while these are fewer than half."""
    rows, columns = np.nonzero(depth)
    every = -(-len(rows) // POINTS)
    rows, columns = rows[::every], columns[::every]
    ahead = depth[rows, columns].astype(np.float64)
    pixels = np.stack([columns + 0.5, rows + 0.5, np.ones(len(rows))])
    points = to_other[:3, :3] @ (np.linalg.inv(intrinsics[0]) @ pixels * ahead) + to_other[:3, 3:]
    in_front = points[2] > 1e-3 * np.median(ahead)
    expected = np.where(in_front, points[2], 1.0)
    column, row = np.floor(np.clip((intrinsics[1] @ (points / expected))[:2], -1, 1 << 20)).astype(int)
    height, width = other_depth.shape
    inside = in_front & (column >= 0) & (column < width) & (row >= 0) & (row < height)
    row, column = row * inside, column * inside
    seen = other_depth[row, column]
    common = inside & (seen > 0)
    if inside.mean() < 0.05 or common.sum() < 30:
        return 1.0, 255.0  # hardly anything of one frame is in the other
    error = np.abs(seen[common] / expected[common] - 1)
    color = np.abs(picture[rows, columns][common].astype(int) - other_picture[row, column][common])
    return min(float(np.median(error)), 1.0), float(np.median(color))
