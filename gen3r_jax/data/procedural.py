"""Procedural rooms: scenes for any seed, with exact depth, cameras and captions. The data set that ships as code.

A room of five to eight metres holds boxes and balls in different paints under one lamp; the camera moves on a smooth
path and never comes closer than 0.4 m to anything. Everything follows from the seed.
"""

import math
from dataclasses import dataclass
from typing import Literal, NamedTuple

import numpy as np
from jaxtyping import Float, UInt8

from gen3r_jax.data.clips import default_intrinsics
from gen3r_jax.data.paint import COLORS, PATTERNS, draw_paint
from gen3r_jax.data.raycast import Ball, Box, Room, Solid

Difficulty = Literal["easy", "full"]

CLEARANCE = 0.4
"""Metres that the camera keeps from walls and solids."""

_WALL_COLORS = ("white", "cream", "grey", "yellow", "pink", "teal", "olive", "blue")
_FLOOR_COLORS = ("brown", "grey", "cream", "olive", "black", "red")


@dataclass(frozen=True)
class _Style:
    """What a difficulty changes."""

    motion: float
    pattern_scale: float
    sharpness: float
    fov_degrees: tuple[float, float]


_STYLES = {
    "easy": _Style(motion=0.5, pattern_scale=2.0, sharpness=3.0, fov_degrees=(60, 75)),
    "full": _Style(motion=1.0, pattern_scale=1.0, sharpness=8.0, fov_degrees=(55, 80)),
}


@dataclass(frozen=True)
class Path:
    """A smooth path: a chord with a sideways bulge, walked from s = 0 to 1 with a gentle start and stop."""

    begin: Float[np.ndarray, "3"]
    end: Float[np.ndarray, "3"]
    bulge: Float[np.ndarray, "3"]

    def __call__(self, s: Float[np.ndarray, "t"]) -> Float[np.ndarray, "t 3"]:
        s = (s - np.sin(2 * np.pi * s) / (4 * np.pi))[:, None]
        return self.begin + s * (self.end - self.begin) + 4 * s * (1 - s) * self.bulge


@dataclass(frozen=True)
class ProceduralScene:
    """A room, a walk through it (where the camera is, what it looks at), and words for it.

    fov_degrees: angle seen across the longer side of the image.
    """

    room: Room
    position: Path
    target: Path
    fov_degrees: float
    captions: tuple[str, ...]

    def cameras(
        self, num_frames: int, size: tuple[int, int]
    ) -> tuple[Float[np.ndarray, "t 4 4"], Float[np.ndarray, "t 3 3"]]:
        """Camera-to-world poses (OpenCV axes, metres, gravity along +y) along the walk, and pixel intrinsics."""
        s = np.linspace(0, 1, num_frames)
        intrinsics = default_intrinsics(size, self.fov_degrees)
        return look_at(self.position(s), self.target(s)), np.repeat(intrinsics[None], num_frames, axis=0)

    def render(
        self, c2w: Float[np.ndarray, "4 4"], intrinsics: Float[np.ndarray, "3 3"], size: tuple[int, int]
    ) -> tuple[UInt8[np.ndarray, "h w 3"], Float[np.ndarray, "h w"]]:
        """8-bit RGB and z-depth (float32 metres) from any camera in the room's free space."""
        return self.room.render(c2w, intrinsics, size)


class Clip(NamedTuple):
    """A rendered clip: every pixel's depth and every camera are exact."""

    frames: UInt8[np.ndarray, "t h w 3"]
    depth: Float[np.ndarray, "t h w"]
    c2w: Float[np.ndarray, "t 4 4"]
    intrinsics: Float[np.ndarray, "t 3 3"]
    captions: tuple[str, ...]


def render_clip(seed: int, num_frames: int, size: tuple[int, int], difficulty: Difficulty = "easy") -> Clip:
    """Renders the whole walk of the scene with this seed in `num_frames` frames of `size` (height, width)."""
    scene = make_scene(seed, difficulty)
    c2w, intrinsics = scene.cameras(num_frames, size)
    views = [scene.render(pose, camera, size) for pose, camera in zip(c2w, intrinsics, strict=True)]
    frames, depth = (np.stack(arrays) for arrays in zip(*views, strict=True))
    return Clip(frames, depth, c2w, intrinsics, scene.captions)


def look_at(positions: Float[np.ndarray, "t 3"], targets: Float[np.ndarray, "t 3"]) -> Float[np.ndarray, "t 4 4"]:
    """Upright camera-to-world poses (OpenCV axes, +y down in the world too) that look from positions to targets."""
    forward = targets - positions
    forward /= np.linalg.norm(forward, axis=-1, keepdims=True)
    right = np.cross([0.0, 1.0, 0.0], forward)
    right /= np.linalg.norm(right, axis=-1, keepdims=True)
    c2w = np.tile(np.eye(4), (len(positions), 1, 1))
    c2w[:, :3] = np.stack([right, np.cross(forward, right), forward, positions], axis=-1)
    return c2w


def make_scene(seed: int, difficulty: Difficulty = "easy") -> ProceduralScene:
    """Draws a scene.

    "easy": slow cameras, coarse soft-edged patterns, fields of view of 60 to 75 degrees. "full": twice the motion
    (about 1.4 m and 35 degrees from end to end), patterns half as large with hard edges, 55 to 80 degrees.
    """
    rng, style = np.random.default_rng(seed), _STYLES[difficulty]
    half = np.array([rng.uniform(2.5, 4.0), rng.uniform(1.25, 1.6), rng.uniform(2.5, 4.0)])
    position, target = _draw_walk(rng, half, style.motion)

    def paint(colors, patterns=PATTERNS):
        return draw_paint(rng, colors, patterns, style.pattern_scale, style.sharpness)

    floor, wall, other_wall = paint(_FLOOR_COLORS, PATTERNS[1:]), paint(_WALL_COLORS), paint(_WALL_COLORS, ["plain"])
    ceiling = paint(("white", "cream"), ["plain"])
    looks = (wall, other_wall, ceiling, floor, other_wall, wall)
    faces = tuple(look.surface(rng, np.delete(np.eye(3), face // 2, axis=0)) for face, look in enumerate(looks))
    shell = Box(np.array([0, -half[1], 0]), half, np.eye(3), faces)  # the floor is y = 0

    walk, focus = position(np.linspace(0, 1, 65)), target(np.array([0.5]))[0]
    solids: list[Solid] = []
    words: list[str] = []
    for _ in range(int(rng.integers(5, 9))):
        look = paint(tuple(COLORS))
        kind = rng.choice(["box", "column", "ball"], p=[0.5, 0.15, 0.35])
        size = rng.choice(["small", "large"])
        for _ in range(30):  # a thing that finds no free place is left out
            if kind == "ball":
                solid: Solid = _draw_ball(rng, look, focus, size, solids)
            else:
                solid = _draw_box(rng, look, focus, size, kind)
            if _fits(solid, half, walk, solids):
                solids.append(solid)
                words.append(f"{size} {look.words} {kind}")
                break
    lamp = np.array([rng.uniform(-0.5, 0.5), -1.9, rng.uniform(-0.5, 0.5)]) * half
    room = Room(shell, tuple(solids), lamp, ambient=float(rng.uniform(0.25, 0.4)))
    first_view = look_at(position(np.zeros(1)), target(np.zeros(1)))[0]
    captions = _describe(first_view, solids, words, floor.words, wall.words)
    return ProceduralScene(room, position, target, float(rng.uniform(*style.fov_degrees)), captions)


def _draw_walk(rng: np.random.Generator, half: np.ndarray, motion: float) -> tuple[Path, Path]:
    """A path near one side of the room, and a point that wanders on the far side, to look at."""
    low = np.array([0.7 - half[0], 0.7 - 2 * half[1], 0.7 - half[2]])
    high = np.array([half[0] - 0.7, -0.7, half[2] - 0.7])
    heading = rng.uniform(0, 2 * np.pi)
    outward = np.array([np.cos(heading), 0, np.sin(heading)])
    begin = np.clip(outward * high * rng.uniform(0.6, 1.0) - [0, rng.uniform(1.0, 1.7), 0], low, high)
    turn = rng.uniform(0, 2 * np.pi)
    step = motion * rng.uniform(0.8, 2.7) * np.array([np.cos(turn), rng.uniform(-0.25, 0.25), np.sin(turn)])
    end = np.clip(begin + step, low, high)
    middle = (begin + end) / 2
    bulge = np.clip(middle + motion * rng.uniform(-0.35, 0.35, 3) * [1, 0.4, 1], low, high) - middle
    focus = -outward * half * rng.uniform(0.35, 0.7) - [0, rng.uniform(0.3, 0.9), 0]
    swing = motion * rng.uniform(-3.4, 3.4, 3) * [1, 0.15, 1]
    return Path(begin, end, bulge), Path(focus - swing / 2, focus + swing / 2, np.zeros(3))


def _draw_box(rng, paint, focus, size, kind) -> Box:
    sides = rng.uniform(0.15, 0.3, 2) if size == "small" else rng.uniform(0.3, 0.6, 2)
    tall = rng.uniform(0.7, 1.0) if kind == "column" else rng.uniform(0.18, 0.5)
    yaw = rng.uniform(0, np.pi)
    rotation = np.array([[np.cos(yaw), 0, np.sin(yaw)], [0, 1, 0], [-np.sin(yaw), 0, np.cos(yaw)]])
    center = np.array([focus[0], -tall, focus[2]]) + rng.normal(0, 1.2, 3) * [1, 0, 1]
    return Box(center, np.array([sides[0], tall, sides[1]]), rotation, paint.faces(rng, rotation))


def _draw_ball(rng, paint, focus, size, solids) -> Ball:
    """A ball on the floor, or on a box that is wide enough."""
    radius = rng.uniform(0.15, 0.28) if size == "small" else rng.uniform(0.3, 0.5)
    tables = [solid for solid in solids if isinstance(solid, Box) and solid.half[[0, 2]].min() > radius]
    place = np.array([focus[0], 0, focus[2]]) + rng.normal(0, 1.2, 3) * [1, 0, 1]
    if tables and rng.random() < 0.6:
        table = tables[rng.integers(len(tables))]
        place = table.center - [0, table.half[1], 0]
    return Ball(place - [0, radius, 0], radius, (paint.surface(rng, np.eye(3)[[1, 0]]),))


def _fits(solid: Solid, half: np.ndarray, walk: np.ndarray, solids: list[Solid]) -> bool:
    """Inside the room, off the other solids, and so far from the camera's walk that it does not fill the view."""
    corners = solid.corners()
    reach = np.linalg.norm(corners - solid.center, axis=-1).max()
    in_room = np.all(np.abs(corners[:, [0, 2]]) < half[[0, 2]] - 0.02) and corners[:, 1].min() > 0.1 - 2 * half[1]
    apart = all(_separation(solid, other) > 0.02 for other in solids)
    return bool(in_room and apart and solid.distance(walk).min() > max(CLEARANCE + 0.05, reach))


def _separation(a: Solid, b: Solid) -> float:
    """A lower bound of the gap between two solids; a ball resting on a box counts as apart."""
    if isinstance(a, Ball):
        return float(b.distance(a.center[None])[0]) - a.radius + 0.03
    if isinstance(b, Ball):
        return _separation(b, a)
    reach = [math.hypot(*box.half[[0, 2]]) for box in (a, b)]
    return float(np.linalg.norm((a.center - b.center)[[0, 2]])) - sum(reach)


def _describe(c2w, solids, words, floor, wall) -> tuple[str, str]:
    """Two captions: a long one that says where things stand in the first view, and a short one."""
    centers = np.array([solid.center for solid in solids]).reshape(-1, 3)
    x, _, z = ((centers - c2w[:3, 3]) @ c2w[:3, :3]).T
    seen = [i for i in np.argsort(z) if z[i] > 0 and abs(x[i]) < 0.6 * z[i]]
    if not seen:
        return f"A room with {_a(floor)} floor and {wall} walls.", f"An empty part of a room with {wall} walls."
    sides = ["on the left" if x[i] < -0.2 * z[i] else "on the right" if x[i] > 0.2 * z[i] else "ahead" for i in seen]
    things = [f"{_a(words[i])} {side}" for i, side in zip(seen[:4], sides[:4], strict=True)]
    listing = " and ".join([", ".join(things[:-1]), things[-1]] if len(things) > 1 else things)
    return (
        f"A room with {_a(floor)} floor and {wall} walls. From near to far: {listing}.",
        f"The camera moves through a room towards {_a(words[seen[-1]])}; the floor is {floor}.",
    )


def _a(words: str) -> str:
    return f"{'an' if words[0] in 'aeiou' else 'a'} {words}"
