"""What the difficulties of procedural scenes change."""

from dataclasses import dataclass
from typing import Literal

from gen3r_jax.data.procedural.paint import COLORS, PATTERNS, SHIFTED_COLORS, SHIFTED_PATTERNS, Palette

Difficulty = Literal["easy", "full", "shifted"]

CLEARANCE = 0.4
"""Metres that the camera keeps from everything."""


@dataclass(frozen=True)
class Style:
    """motion: of the camera, relative to "full". lateral: walks go sideways in wide arcs. tilt: degrees at most by
    which the camera leans."""

    palette: Palette
    motion: float
    fov_degrees: tuple[float, float]
    lateral: bool = False
    tilt: float = 0.0


STYLES: dict[Difficulty, Style] = {
    "easy": Style(Palette(COLORS, PATTERNS, scale=4.0, sharpness=1.5, finest=0.2), motion=0.35, fov_degrees=(60, 75)),
    "full": Style(Palette(COLORS, PATTERNS, scale=1.0, sharpness=8.0), motion=1.0, fov_degrees=(55, 80)),
    "shifted": Style(
        Palette(SHIFTED_COLORS, SHIFTED_PATTERNS, scale=1.5, sharpness=5.0),
        motion=1.2,
        fov_degrees=(60, 75),
        lateral=True,
        tilt=10.0,
    ),
}
