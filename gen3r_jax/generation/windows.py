"""Clips of any length, reconstructed in windows of one shape and joined on the frames that windows share.

The networks see one window at a time, so their memory does not grow with the clip, and one program serves all. What is
kept of a clip is its depth and confidence, and a coarse grid of points of every frame for the joins.
"""

from collections.abc import Callable, Sequence
from itertools import pairwise
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Float, Float32, UInt8

from gen3r_jax.errors import notice
from gen3r_jax.generation.settings import MOST_FRAMES
from gen3r_jax.geometry.alignment import Similarity, chain, close_loop, robust_similarity, window_starts
from gen3r_jax.geometry.cameras import Size
from gen3r_jax.geometry.points import unproject_depth
from gen3r_jax.models.sizes import longest_clip
from gen3r_jax.scene import Scene

SHORTEST_WINDOW = 4
MOST_PIXELS = MOST_FRAMES * 560**2
"""A window whose length nobody says has at most the pixels of a clip of the released weights."""
LARGEST_ERROR = 0.1
"""A join whose points are farther apart than this part of their distance is told, and closes no loop."""
GRID = 24
"""A frame's points for joins lie on a grid of so many rows and columns."""
_SEEN = 0.3  # of the last frames' points, where a loop is closed
_ALIKE = 0.5  # correlation of the colours of points that are seen twice


class _Window(NamedTuple):
    """What is kept of a window: the numbers of its frames, its cameras, and points on a grid in its own world."""

    frames: Sequence[int]
    w2c: Float32[np.ndarray, "t 4 4"]
    intrinsics: Float32[np.ndarray, "t 3 3"]
    points: Float32[np.ndarray, "t n 3"]
    depth: Float32[np.ndarray, "t n"]
    confidence: Float32[np.ndarray, "t n"]
    colors: Float32[np.ndarray, "t n 3"]

    @classmethod
    def of(cls, scene: Scene, frames: Sequence[int]) -> "_Window":
        rows, columns = (np.linspace(0, side - 1, GRID).round().astype(int) for side in scene.depth.shape[1:])

        def on_grid(array: np.ndarray, *channels: int) -> np.ndarray:
            return array[:, rows[:, None], columns].reshape(len(array), -1, *channels).astype(np.float32)

        points, colors = on_grid(scene.points, 3), on_grid(scene.rgb, 3)
        cameras = scene.w2c, scene.intrinsics
        return cls(frames, *cameras, points, on_grid(scene.depth), on_grid(scene.confidence), colors)


class _Join(NamedTuple):
    """What maps one window's world to another's, and the median distance of their points, in parts of their depth."""

    similarity: Similarity
    error: float


def default_window(count: int, size: Size) -> int:
    """Frames of a window of a clip of `count` frames of `size`: at most 49, and as many as MOST_PIXELS allow."""
    window = min(MOST_FRAMES, longest_clip(max(MOST_PIXELS // (size[0] * size[1]), SHORTEST_WINDOW + 1)))
    if window >= count:
        return count
    notice(
        f"{count} frames are reconstructed {window} at a time, no more pixels than 49 frames of 560 x 560 have; "
        "--window says otherwise",
        kind="window",
    )
    return window


def reconstruct_in_windows(
    frames: UInt8[np.ndarray, "t h w 3"], size: int, reconstruct: Callable[[UInt8[np.ndarray, "f h w 3"]], Scene]
) -> tuple[Scene, dict[str, Any]]:
    """Reconstructs a clip, `size` frames at a time; neighbouring windows share at least half of theirs.

    Each window is joined to the one before by the similarity that brings the points of the shared frames together.
    Where the last frames see what the first see, a window of both closes the loop, and the joins share what is amiss.

    Args:
      size: frames of a window. A clip that is not longer is reconstructed at once.
      reconstruct: gives the scene of a window.

    Returns:
      The scene, in the world and unit of length of the first window, and what is to be told of the joins.
    """
    if len(frames) <= size:
        return reconstruct(frames), {}
    starts = window_starts(len(frames), size, size // 2)
    # Each frame is taken from the window in which it has the more neighbours.
    cuts = [0, *((earlier + size + later) // 2 for earlier, later in pairwise(starts)), len(frames)]
    depth, confidence = np.empty(frames.shape[:3], np.float32), np.empty(frames.shape[:3], np.float32)
    windows = []
    for start, (begin, end) in zip(starts, pairwise(cuts), strict=True):
        scene = reconstruct(frames[start : start + size])
        depth[begin:end] = scene.depth[begin - start : end - start]
        confidence[begin:end] = scene.confidence[begin - start : end - start]
        windows.append(_Window.of(scene, range(start, start + size)))
    joins = [_join(later, earlier) for earlier, later in pairwise(windows)]
    for join, window in zip(joins, windows[1:], strict=True):
        if join.error > LARGEST_ERROR:
            notice(
                f"frames {window.frames[0]} to {window.frames[-1]} hardly join those before: their points are "
                f"{join.error:.0%} of their distance apart; the camera may have moved too fast there",
                kind="join",
            )
    similarities, told = [join.similarity for join in joins], {"closed": False}
    if len(windows) > 2:
        similarities, told = _close(frames, size, reconstruct, windows, joins)
    w2c, intrinsics = np.empty((len(frames), 4, 4), np.float32), np.empty((len(frames), 3, 3), np.float32)
    for window, world, (begin, end) in zip(windows, chain(similarities), pairwise(cuts), strict=True):
        kept = slice(begin - window.frames[0], end - window.frames[0])
        w2c[begin:end], intrinsics[begin:end] = world.move_cameras(window.w2c[kept]), window.intrinsics[kept]
        depth[begin:end] *= np.float32(world.scale)
    points = np.empty((*depth.shape, 3), np.float32)
    for index, cameras in enumerate(zip(depth, w2c, intrinsics, strict=True)):
        points[index] = unproject_depth(*cameras, offset=0.5)
    report = {
        "window": size,
        "joins": [
            {"frames": [window.frames[0], window.frames[-1]], "scale": join.similarity.scale, "error": join.error}
            for join, window in zip(joins, windows[1:], strict=True)
        ],
        "loop": told,
    }
    return Scene(frames, depth, confidence, w2c, intrinsics, points), report


def _join(source: _Window, target: _Window) -> _Join:
    """Joins two windows on their shared frames. Errors of points grow with their depth, so weights fall with it."""
    shared = sorted(set(source.frames) & set(target.frames))
    here, there = ([window.frames.index(frame) for frame in shared] for window in (source, target))
    points, others = source.points[here].reshape(-1, 3), target.points[there].reshape(-1, 3)
    depth = _mean(source.depth[here], target.depth[there])
    confidence = _mean(source.confidence[here], target.confidence[there])
    known = (depth > 0) & np.isfinite(points).all(axis=1) & np.isfinite(others).all(axis=1)
    weights = np.where(known, confidence, 0) / np.where(known, depth, 1) ** 2
    fit = robust_similarity(points, others, weights)
    apart = np.linalg.norm(fit.apply(points) - others, axis=1)[weights > 0] / target.depth[there].ravel()[weights > 0]
    return _Join(fit, float(np.median(apart)) if len(apart) else np.inf)


def _mean(a: Float32[np.ndarray, "t n"], b: Float32[np.ndarray, "t n"]) -> Float[np.ndarray, "m"]:
    """The geometric mean, which favours neither window; 0 where one is not known."""
    return np.sqrt(np.maximum(a, 0).ravel() * np.maximum(b, 0).ravel().astype(np.float64))


def _close(
    frames: UInt8[np.ndarray, "t h w 3"],
    size: int,
    reconstruct: Callable[[UInt8[np.ndarray, "f h w 3"]], Scene],
    windows: Sequence[_Window],
    joins: Sequence[_Join],
) -> tuple[list[Similarity], dict[str, Any]]:
    """The joins with the loop closed, where there is one, and what is to be told of it.

    One more window holds first and last frames. They show the same place if its points of the last frames lie where
    the first frames see points, too, and have their colours.
    """
    begin = size // 2
    chosen = [*range(begin), *range(len(frames) - size + begin, len(frames))]
    around = _Window.of(reconstruct(frames[chosen]), chosen)
    start, end = _join(around, windows[0]), _join(windows[-1], around)
    seen, alike = _seen_again(around, begin)
    error = max(start.error, end.error)
    closed = bool(seen >= _SEEN and alike >= _ALIKE and error <= LARGEST_ERROR)
    told = {"closed": closed, "error": error, "seen": seen, "alike": alike}
    similarities = [join.similarity for join in joins]
    if not closed:
        return similarities, told
    doubts = np.square([join.error for join in joins] + [error])
    return close_loop(similarities, start.similarity @ end.similarity, doubts + 1e-3 * doubts.mean() + 1e-12), told


def _seen_again(window: _Window, begin: int) -> tuple[float, float]:
    """Of the points of the frames from `begin` on: the part that the frames before see, and how alike colours are.

    A frame sees a point that lies within its picture, no more than a tenth nearer or farther than what it shows there.
    """
    points, colors = window.points[begin:].reshape(-1, 3), window.colors[begin:].reshape(-1, 3).mean(axis=1)
    seen, pairs = np.zeros(len(points), bool), []
    for index in range(begin):
        w2c, k, depth = window.w2c[index], window.intrinsics[index], window.depth[index]
        x, y, z = (points @ w2c[:3, :3].T + w2c[:3, 3]).T
        ahead = np.maximum(z, 1e-6)
        # The grid spans the picture, whose middle is the principal point.
        column = np.rint((k[0, 0] * x / ahead / (2 * k[0, 2]) + 0.5) * (GRID - 1))
        row = np.rint((k[1, 1] * y / ahead / (2 * k[1, 2]) + 0.5) * (GRID - 1))
        inside = (z > 0) & (row >= 0) & (row < GRID) & (column >= 0) & (column < GRID)
        cell = np.where(inside, row * GRID + column, 0).astype(int)
        sees = inside & (np.abs(depth[cell] - z) < 0.1 * z)
        pairs.append((colors[sees], window.colors[index].mean(axis=1)[cell[sees]]))
        seen |= sees
    ours, theirs = np.concatenate([pair[0] for pair in pairs]), np.concatenate([pair[1] for pair in pairs])
    deviation = ours.std() * theirs.std() if len(ours) else 0.0
    alike = float(np.mean((ours - ours.mean()) * (theirs - theirs.mean())) / deviation) if deviation > 0 else 0.0
    return float(seen.mean()), alike
