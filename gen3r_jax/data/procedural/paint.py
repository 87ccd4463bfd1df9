"""Paint for procedural scenes: named colours, patterns, and fine texture that makes every spot recognisable.

A surface's colour is a function of the world point. Waves, joints and dots are faded where they are finer than a
pixel: no shimmer, and no supersampling. Inside this file `u, v` are coordinates on a surface in units of the
pattern's size, and `du, dv` how far a pixel reaches in them.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float, Int

BLUR = 0.3
"""Standard deviation of a pixel's footprint, in pixels."""

COLORS = {  # sRGB
    "white": (0.93, 0.92, 0.90),
    "cream": (0.93, 0.87, 0.72),
    "grey": (0.55, 0.56, 0.58),
    "black": (0.14, 0.14, 0.17),
    "red": (0.78, 0.17, 0.15),
    "orange": (0.92, 0.52, 0.14),
    "yellow": (0.93, 0.80, 0.22),
    "olive": (0.48, 0.50, 0.20),
    "green": (0.22, 0.56, 0.28),
    "teal": (0.13, 0.52, 0.53),
    "blue": (0.18, 0.35, 0.72),
    "purple": (0.46, 0.28, 0.62),
    "pink": (0.90, 0.55, 0.62),
    "brown": (0.45, 0.29, 0.18),
}
SHIFTED_COLORS = {  # other shades of the same names
    "white": (0.86, 0.90, 0.97),
    "cream": (0.85, 0.76, 0.60),
    "grey": (0.40, 0.42, 0.37),
    "black": (0.20, 0.13, 0.12),
    "red": (0.62, 0.05, 0.28),
    "orange": (0.80, 0.38, 0.22),
    "yellow": (0.82, 0.86, 0.40),
    "olive": (0.36, 0.37, 0.26),
    "green": (0.45, 0.72, 0.20),
    "teal": (0.35, 0.72, 0.68),
    "blue": (0.42, 0.62, 0.92),
    "purple": (0.66, 0.36, 0.80),
    "pink": (0.95, 0.38, 0.72),
    "brown": (0.60, 0.44, 0.30),
}
PATTERNS = ("plain", "striped", "chequered", "shaded", "speckled", "tiled", "brick", "wooden")
SHIFTED_PATTERNS = ("plain", "wavy", "zigzag", "ringed")
DETAIL_WAVES = 10

Line = Float[np.ndarray, "n"]


@dataclass(frozen=True)
class Surface:
    """Two colours in a pattern, under fine waves.

    colors: linear RGB of the pattern's two extremes. pattern: one of PATTERNS and SHIFTED_PATTERNS.
    axes: the directions u and v of the pattern, repeats a metre. offset: u and v of the world's origin.
    sharpness: slope of the pattern's edges.
    detail_waves (radians a metre), detail_phases, detail_amplitudes: the fine texture, relative changes of brightness.
    """

    colors: Float[np.ndarray, "2 3"]
    pattern: str
    axes: Float[np.ndarray, "2 3"]
    offset: Float[np.ndarray, "2"]
    sharpness: float
    detail_waves: Float[np.ndarray, "m 3"]
    detail_phases: Float[np.ndarray, "m"]
    detail_amplitudes: Float[np.ndarray, "m"]

    def albedo(
        self, points: Float[np.ndarray, "3 n"], footprint: Float[np.ndarray, "2 3 n"]
    ) -> Float[np.ndarray, "3 n"]:
        """Linear colour at world points; `footprint` is the step in the world from pixel to pixel, in x and in y."""
        phases = self.detail_waves @ points + self.detail_phases[:, None]
        phases[:-1] += np.float32(1.5) * np.sin(phases[-1])  # bends the wave fronts, or they would look like combs
        blur = np.square(self.detail_waves @ footprint[0]) + np.square(self.detail_waves @ footprint[1])
        waves = np.sin(phases) * np.exp(np.float32(-0.5 * BLUR**2) * blur)
        shade = np.maximum(1 + self.detail_amplitudes @ waves, np.float32(0.1))
        if self.pattern == "plain":
            return self.colors[0][:, None] * shade
        (u, v), (du, dv) = self.axes @ points + self.offset[:, None], np.hypot(*(self.axes @ footprint))
        mix, brightness = _PATTERNS[self.pattern](u, v, du, dv, np.float32(self.sharpness))
        return (self.colors[0][:, None] + (self.colors[1] - self.colors[0])[:, None] * mix) * (shade * brightness)


@dataclass(frozen=True)
class Paint:
    """What all faces of one thing share. words: "red" or "red and white striped"."""

    words: str
    colors: Float[np.ndarray, "2 3"]
    pattern: str
    size: float
    sharpness: float
    roughness: float
    finest: float

    def surface(self, rng: np.random.Generator, axes: Float[np.ndarray, "2 3"]) -> Surface:
        """Paints one face whose pattern runs along `axes`; phases and fine texture are drawn anew."""
        directions = rng.normal(size=(DETAIL_WAVES, 3))
        directions /= np.linalg.norm(directions, axis=-1, keepdims=True)
        lengths = np.geomspace(self.finest, 1.0, DETAIL_WAVES) * rng.uniform(0.8, 1.2, DETAIL_WAVES)
        amplitudes = self.roughness * rng.uniform(0.6, 1.4, DETAIL_WAVES)
        return Surface(
            self.colors.astype(np.float32),
            self.pattern,
            (axes / self.size).astype(np.float32),
            rng.uniform(0, 2, 2).astype(np.float32),
            self.sharpness,
            (2 * np.pi / lengths[:, None] * directions).astype(np.float32),
            rng.uniform(0, 2 * np.pi, DETAIL_WAVES).astype(np.float32),
            amplitudes.astype(np.float32),
        )

    def faces(self, rng: np.random.Generator, rotation: Float[np.ndarray, "3 3"]) -> tuple[Surface, ...]:
        """The six faces (-x, +x, -y, +y, -z, +z) of a box whose axes are the columns of `rotation`; rows of bricks and
        tiles lie level."""
        x, y, z = rotation.T
        sides, ends, top = (self.surface(rng, np.stack(axes)) for axes in ((z, y), (x, y), (x, z)))
        return sides, sides, top, top, ends, ends


@dataclass(frozen=True)
class Palette:
    """What a difficulty paints with. scale: size of the patterns relative to 0.25 to 0.6 m; sharpness: of edges;
    finest: length of the shortest waves of the fine texture in metres."""

    colors: dict[str, tuple[float, float, float]]
    patterns: tuple[str, ...]
    scale: float
    sharpness: float
    finest: float = 0.05

    def draw(
        self,
        rng: np.random.Generator,
        colors: Sequence[str] = tuple(COLORS),
        patterns: Sequence[str] = PATTERNS,
        scale: float = 1.0,
        seconds: Sequence[str] = tuple(COLORS),
    ) -> Paint:
        """Draws a paint of one of `colors`, with one of `seconds`, in one of `patterns` as far as the palette has
        these."""
        first, second = str(rng.choice(list(colors))), str(rng.choice(list(seconds)))
        pattern = str(rng.choice([name for name in patterns if name in self.patterns] or list(self.patterns)))
        tints = np.array([self.colors[first], self.colors[second]]) ** 2.2
        words = first
        if pattern in ("tiled", "brick", "wooden"):
            light = pattern != "wooden" and tints[0].mean() < 0.15
            tints[1] = tints[0] * 0.5 + 0.25 if light else tints[0] * 0.35  # the joints
            words = f"{first} {pattern}"
        elif second == first:
            pattern = "plain"
        elif pattern != "plain":
            words = f"{first} and {second} {pattern}"
        size = scale * self.scale * float(rng.uniform(0.25, 0.6))
        return Paint(words, tints, pattern, size, self.sharpness, float(rng.uniform(0.06, 0.11)), self.finest)


def _wave(u: Line, du: Line, sharpness: np.float32) -> Line:
    """A square wave between -1 and 1 with soft edges."""
    blur = np.float32(2 * np.pi * BLUR) * du
    slope = sharpness / np.hypot(1, sharpness * blur)  # an edge is one pixel wide at least
    # What is left of a blurred square wave, once the slope has done its part.
    fade = np.exp(-0.3 * np.maximum(blur * blur - 1, 0))
    return np.tanh(slope * np.sin(np.float32(2 * np.pi) * u)) * fade


def _striped(u, v, du, dv, sharpness):
    return 0.5 + 0.5 * _wave(u, du, sharpness), np.float32(1)


def _chequered(u, v, du, dv, sharpness):
    return 0.5 + 0.5 * _wave(u, du, sharpness) * _wave(v, dv, sharpness), np.float32(1)


def _shaded(u, v, du, dv, sharpness):
    """From one colour to the other and back over some metres."""
    return 0.5 + 0.5 * _wave(u / 4 + v / 5, du / 4, np.float32(0.8)), np.float32(1)


def _wavy(u, v, du, dv, sharpness):
    return _striped(u + 0.3 * np.sin(np.float32(np.pi) * v), v, np.hypot(du, 0.9 * dv), dv, sharpness)


def _zigzag(u, v, du, dv, sharpness):
    return _striped(u + np.abs(v - np.rint(v)), v, np.hypot(du, dv), dv, sharpness)


def _ringed(u, v, du, dv, sharpness):
    return _striped(np.hypot(u - 1, v - 1), v, np.maximum(du, dv), dv, sharpness)


def _tiled(u, v, du, dv, sharpness):
    return _cells(u, v, du, dv, sharpness)


def _brick(u, v, du, dv, sharpness):
    v, dv = 1.5 * v, 1.5 * dv
    return _cells(u / 2 + 0.5 * np.floor(v), v, du / 2, dv, sharpness, 2)


def _wooden(u, v, du, dv, sharpness):
    """Long boards, each of its own shade."""
    v, dv = 1.5 * v, 1.5 * dv
    row = np.floor(v).astype(np.int32)
    return _cells(u / 5 + _hash(row, row), v, du / 5, dv, sharpness, 5)


def _cells(u, v, du, dv, sharpness, length=1):
    """Cells with joints between them; `length`: of a cell, in units of its height."""
    soft = np.float32(0.2) / sharpness
    joint = np.maximum(_joint(u, np.hypot(du, soft / length), 0.1 / length), _joint(v, np.hypot(dv, soft), 0.1))
    shade = _hash(np.floor(u).astype(np.int32), np.floor(v).astype(np.int32)) - 0.5
    return joint, 1 + np.float32(0.4) * shade * np.clip(2 - 4 * np.maximum(du, dv), 0, 1)


def _joint(u, du, width):
    """How much of a pixel that reaches `du` is covered by lines of `width` at whole u."""
    drawn = np.maximum(np.float32(width), du)  # a line is one pixel wide at least, and then the paler
    cover = np.clip((0.5 * drawn - np.abs(u - np.rint(u))) / du + 0.5, 0, 1) * (np.float32(width) / drawn)
    return cover + (np.float32(width) - cover) * np.clip(2 * du - 0.5, 0, 1)


def _speckled(u, v, du, dv, sharpness):
    """A dot in every cell, of its own size and at its own place."""
    u, v, du, dv = 2 * u, 2 * v, 2 * du, 2 * dv
    column, row = np.floor(u), np.floor(v)
    numbers = column.astype(np.int32), row.astype(np.int32)
    radius = 0.15 + 0.2 * _hash(*numbers)
    across, down = (0.5 + (0.5 - radius) * (2 * _hash(numbers[0] + k, numbers[1] - k) - 1) for k in (7, 19))
    reach = np.maximum(du, dv)
    soft = np.hypot(reach, np.float32(0.5) / sharpness)
    cover = np.clip((radius - np.hypot(u - column - across, v - row - down)) / soft + 0.5, 0, 1)
    mean = np.float32(np.pi * 0.25**2)
    return cover + (mean - cover) * np.clip(2 * reach - 0.5, 0, 1), np.float32(1)


def _hash(i: Int[np.ndarray, "n"], j: Int[np.ndarray, "n"]) -> Line:
    """A number from 0 to 1 for each pair of numbers."""
    x = i.astype(np.uint32) * np.uint32(0x9E3779B1) ^ j.astype(np.uint32) * np.uint32(0x85EBCA77)
    x = (x ^ (x >> np.uint32(15))) * np.uint32(0x2C1B3C6D)
    return (x >> np.uint32(8)).astype(np.float32) * np.float32(2**-24)


_PATTERNS = {
    "striped": _striped,
    "chequered": _chequered,
    "shaded": _shaded,
    "speckled": _speckled,
    "tiled": _tiled,
    "brick": _brick,
    "wooden": _wooden,
    "wavy": _wavy,
    "zigzag": _zigzag,
    "ringed": _ringed,
}
