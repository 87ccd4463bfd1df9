"""Where cameras go and what they look at: smooth paths walked from s = 0 to 1, and poses along them."""

import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float

Path = Callable[[Float[np.ndarray, "t"]], Float[np.ndarray, "t 3"]]


@dataclass(frozen=True)
class Chord:
    """A straight way with a sideways bulge."""

    begin: Float[np.ndarray, "3"]
    end: Float[np.ndarray, "3"]
    bulge: Float[np.ndarray, "3"]

    def __call__(self, s: Float[np.ndarray, "t"]) -> Float[np.ndarray, "t 3"]:
        s = _eased(s)[:, None]
        return self.begin + s * (self.end - self.begin) + 4 * s * (1 - s) * self.bulge


@dataclass(frozen=True)
class Arc:
    """A part of a circle around `center`, from angle to angle (radians, 0 along -z, growing to +x); radius (metres)
    and height above the centre may change on the way."""

    center: Float[np.ndarray, "3"]
    angles: tuple[float, float]
    radii: tuple[float, float]
    heights: tuple[float, float]

    def __call__(self, s: Float[np.ndarray, "t"]) -> Float[np.ndarray, "t 3"]:
        s = _eased(s)
        angle, radius, height = (a + s * (b - a) for a, b in (self.angles, self.radii, self.heights))
        return self.center + np.stack([radius * np.sin(angle), -height, -radius * np.cos(angle)], axis=-1)


def _eased(s: Float[np.ndarray, "t"]) -> Float[np.ndarray, "t"]:
    """A gentle start and stop."""
    return s - np.sin(2 * np.pi * s) / (4 * np.pi)


def look_at(
    positions: Float[np.ndarray, "t 3"], targets: Float[np.ndarray, "t 3"], roll: Float[np.ndarray, "#t"] | float = 0.0
) -> Float[np.ndarray, "t 4 4"]:
    """Camera-to-world poses (OpenCV axes, +y down in the world too) that look from positions to targets.

    They are upright but for `roll`, in radians, clockwise around the line of sight.
    """
    forward = targets - positions
    forward /= np.linalg.norm(forward, axis=-1, keepdims=True)
    right = np.cross([0.0, 1.0, 0.0], forward)
    right /= np.linalg.norm(right, axis=-1, keepdims=True)
    down = np.cross(forward, right)
    cosine, sine = np.cos(roll)[..., None], np.sin(roll)[..., None]
    c2w = np.tile(np.eye(4), (len(positions), 1, 1))
    c2w[:, :3] = np.stack([cosine * right + sine * down, cosine * down - sine * right, forward, positions], axis=-1)
    return c2w


def draw_walk(
    rng: np.random.Generator,
    begin: Float[np.ndarray, "3"],
    focus: Float[np.ndarray, "3"],
    step: float,
    swing: float,
    bounds: tuple[Float[np.ndarray, "3"], Float[np.ndarray, "3"]],
    *,
    lateral: bool,
) -> tuple[Chord, Chord]:
    """A walk of about `step` metres from `begin`, looking at a point that wanders by up to `swing` around `focus`.

    bounds: lowest and highest coordinates of the camera. lateral: across the line of sight and in a wide arc, where
    walks otherwise go anywhere.
    """
    low, high = bounds
    begin = np.clip(begin, low, high)
    heading = rng.uniform(0, 2 * np.pi)
    if lateral:
        sight = focus - begin
        heading = math.atan2(sight[2], sight[0]) + rng.choice([-1, 1]) * rng.uniform(0.4, 0.6) * np.pi
    way = step * np.array([np.cos(heading), rng.uniform(-0.25, 0.25), np.sin(heading)])
    ends = [np.clip(begin + sign * way, low, high) for sign in (1, -1)]  # back where the bounds leave little way ahead
    end = max(ends, key=lambda end: min(float(np.linalg.norm(end - begin)), 0.9 * step))
    middle = (begin + end) / 2
    reach = (0.4 if lateral else 0.2) * step
    bulge = np.clip(middle + reach * rng.uniform(-1, 1, 3) * [1, 0.4, 1], low, high) - middle
    wander = swing * rng.uniform(-1, 1, 3) * [1, 0.15, 1]
    return Chord(begin, end, bulge), Chord(focus - wander / 2, focus + wander / 2, np.zeros(3))
