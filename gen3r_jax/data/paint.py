"""Paint for procedural scenes: named colours, patterns, and fine texture that makes every spot recognisable.

A surface's colour is a function of the world point made of sinusoids only, so that each can be faded where it is
finer than a pixel: no shimmer, and no supersampling.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float

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
PATTERNS = ("plain", "striped", "chequered")
DETAIL_WAVES = 10


@dataclass(frozen=True)
class Surface:
    """Two colours in a pattern, under fine waves.

    colors: linear RGB of the pattern's two extremes.
    pattern_waves: wave vectors (radians a metre) whose sines are multiplied to the pattern: two for a chequered
      surface, one for stripes, none for a plain one. pattern_phases: their phases.
    sharpness: slope of the pattern's edges.
    detail_waves, detail_phases, detail_amplitudes: the fine texture, as relative changes of brightness.
    """

    colors: Float[np.ndarray, "2 3"]
    pattern_waves: Float[np.ndarray, "p 3"]
    pattern_phases: Float[np.ndarray, "p"]
    sharpness: float
    detail_waves: Float[np.ndarray, "m 3"]
    detail_phases: Float[np.ndarray, "m"]
    detail_amplitudes: Float[np.ndarray, "m"]

    def albedo(
        self, points: Float[np.ndarray, "3 n"], footprint: Float[np.ndarray, "2 3 n"]
    ) -> Float[np.ndarray, "3 n"]:
        """Linear colour at world points; `footprint` is the step in the world from pixel to pixel, in x and in y."""
        pattern = np.ones(points.shape[1], np.float32)
        for wave, phase in zip(self.pattern_waves, self.pattern_phases, strict=True):
            blur = BLUR * np.hypot(wave @ footprint[0], wave @ footprint[1])  # radians
            slope = self.sharpness / np.hypot(1, self.sharpness * blur)  # an edge is one pixel wide at least
            # What is left of a blurred square wave, once the slope has done its part.
            fade = np.exp(-0.3 * np.maximum(blur * blur - 1, 0))
            pattern *= np.tanh(slope * np.sin(wave @ points + phase)) * fade
        phases = self.detail_waves @ points + self.detail_phases[:, None]
        phases[:-1] += np.float32(1.5) * np.sin(phases[-1])  # bends the wave fronts, or they would look like combs
        blur = np.square(self.detail_waves @ footprint[0]) + np.square(self.detail_waves @ footprint[1])
        waves = np.sin(phases) * np.exp(np.float32(-0.5 * BLUR**2) * blur)
        mix = 0.5 + 0.5 * pattern
        color = self.colors[0][:, None] + (self.colors[1] - self.colors[0])[:, None] * mix
        return color * np.maximum(1 + self.detail_amplitudes @ waves, 0.1)


@dataclass(frozen=True)
class Paint:
    """What all faces of one thing share. words: "red" or "red and white striped"."""

    words: str
    colors: Float[np.ndarray, "2 3"]
    pattern: str
    wavelength: float
    sharpness: float
    roughness: float

    def surface(self, rng: np.random.Generator, axes: Float[np.ndarray, "2 3"]) -> Surface:
        """Paints one face whose pattern runs along `axes`; phases and fine texture are drawn anew."""
        count = PATTERNS.index(self.pattern)
        waves = 2 * np.pi / self.wavelength * axes[:count]
        directions = rng.normal(size=(DETAIL_WAVES, 3))
        directions /= np.linalg.norm(directions, axis=-1, keepdims=True)
        lengths = np.geomspace(0.05, 1.0, DETAIL_WAVES) * rng.uniform(0.8, 1.2, DETAIL_WAVES)
        amplitudes = self.roughness * rng.uniform(0.6, 1.4, DETAIL_WAVES)
        phases = rng.uniform(0, 2 * np.pi, count + DETAIL_WAVES)
        return Surface(
            self.colors.astype(np.float32),
            waves.astype(np.float32),
            phases[:count].astype(np.float32),
            self.sharpness,
            (2 * np.pi / lengths[:, None] * directions).astype(np.float32),
            phases[count:].astype(np.float32),
            amplitudes.astype(np.float32),
        )

    def faces(self, rng: np.random.Generator, rotation: Float[np.ndarray, "3 3"]) -> tuple[Surface, ...]:
        """The six faces (-x, +x, -y, +y, -z, +z) of a box whose axes are the columns of `rotation`."""
        return tuple(self.surface(rng, np.delete(rotation.T, face // 2, axis=0)) for face in range(6))


def draw_paint(
    rng: np.random.Generator, colors: Sequence[str], patterns: Sequence[str], scale: float, sharpness: float
) -> Paint:
    """Draws a paint. scale: size of the patterns relative to 0.2 to 0.5 m; sharpness: slope of their edges."""
    first, second = str(rng.choice(list(colors))), str(rng.choice(list(COLORS)))
    pattern = str(rng.choice(list(patterns)))
    if pattern == "plain" or second == first:
        pattern, words, second = "plain", first, first
    else:
        words = f"{first} and {second} {pattern}"
    linear = np.array([COLORS[first], COLORS[second]]) ** 2.2
    return Paint(
        words,
        linear,
        pattern,
        scale * float(rng.uniform(0.25, 0.6)),
        sharpness,
        float(rng.uniform(0.06, 0.11)),
    )
