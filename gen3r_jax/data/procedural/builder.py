"""A thing made of boxes and balls, and how one is built."""

import math
from dataclasses import dataclass, replace

import numpy as np
from jaxtyping import Float

from gen3r_jax.data.procedural.paint import COLORS, PATTERNS, Paint, Palette
from gen3r_jax.data.procedural.solids import Ball, Box, Solid

BRIGHT = ("white", "red", "orange", "yellow", "green", "teal", "blue", "purple", "pink")
TIMBER = ("brown", "cream", "grey", "white", "black", "orange")
LEAVES = ("green", "green", "olive", "orange", "yellow")
SMOOTH = ("plain", "shaded", "wooden")
CLOTH = ("plain", "striped", "chequered", "speckled", "shaded")


@dataclass(frozen=True)
class Thing:
    """words: "red ball". radius: of the upright cylinder around `place`, on the floor, that holds it; height: its."""

    words: str
    solids: tuple[Solid, ...]
    place: Float[np.ndarray, "3"]
    radius: float
    height: float

    def at(self, place: Float[np.ndarray, "3"]) -> "Thing":
        moved = tuple(replace(solid, center=solid.center + (place - self.place)) for solid in self.solids)
        return replace(self, solids=moved, place=np.asarray(place))

    def resized(self, size: float) -> "Thing":
        """Shrunk or grown, patterns too, so that its height or width, whichever is larger, is `size`."""
        factor = size / max(self.height, 2 * self.radius)
        solids = []
        for solid in self.solids:
            surfaces = tuple(replace(surface, axes=surface.axes / np.float32(factor)) for surface in solid.surfaces)
            center = self.place + factor * (solid.center - self.place)
            extent = {"half": factor * solid.half} if isinstance(solid, Box) else {"radius": factor * solid.radius}
            solids.append(replace(solid, center=center, surfaces=surfaces, **extent))
        return replace(self, solids=tuple(solids), radius=factor * self.radius, height=factor * self.height)

    def distance(self, points: Float[np.ndarray, "n 3"]) -> float:
        """From the nearest of the points."""
        return float(min(solid.distance(points).min() for solid in self.solids))


class Builder:
    """Collects the parts of one thing. Coordinates: x to the thing's right, y up from the floor, z to its back, in
    metres; its front looks along -z, turned by `yaw`."""

    def __init__(self, rng: np.random.Generator, palette: Palette, yaw: float = 0.0):
        self.rng, self.palette = rng, palette
        self.solids: list[Solid] = []
        self._painted: dict[tuple, tuple] = {}
        self._rotation = np.array([[math.cos(yaw), 0, math.sin(yaw)], [0, 1, 0], [-math.sin(yaw), 0, math.cos(yaw)]])

    def paint(self, colors=BRIGHT, patterns=PATTERNS, scale: float = 0.5, seconds=tuple(COLORS)) -> Paint:
        """See :meth:`Palette.draw`."""
        return self.palette.draw(self.rng, colors, patterns, scale, seconds)

    def leaves(self, scale: float = 0.5) -> Paint:
        return self.paint(LEAVES, ("speckled", "shaded", "plain"), scale, LEAVES)

    def box(self, paint: Paint, center, size, tip: float = 0.0) -> None:
        """size: its whole sides along x, y, z; tip: radians by which it is turned around x."""
        turn = np.array([[1, 0, 0], [0, math.cos(tip), -math.sin(tip)], [0, math.sin(tip), math.cos(tip)]])
        rotation = self._rotation @ turn
        if (key := (id(paint), tip)) not in self._painted:  # all parts in one paint share their faces' texture
            self._painted[key] = (paint, paint.faces(self.rng, rotation))
        half = np.asarray(size) / 2
        self.solids.append(Box(self._world(center), half, rotation, self._painted[key][1]))

    def ball(self, paint: Paint, center, radius: float) -> None:
        if (key := (id(paint), "ball")) not in self._painted:
            self._painted[key] = (paint, (paint.surface(self.rng, np.eye(3)[[0, 1]]),))
        self.solids.append(Ball(self._world(center), radius, self._painted[key][1]))

    def legs(self, paint: Paint, half_x: float, half_z: float, height: float, thick: float) -> None:
        for x in (-half_x, half_x):
            for z in (-half_z, half_z):
                self.box(paint, (x, height / 2, z), (thick, height, thick))

    def thing(self, name: str, looks: str) -> Thing:
        corners = np.concatenate([solid.corners() for solid in self.solids])
        radius = float(np.hypot(corners[:, 0], corners[:, 2]).max())
        return Thing(f"{looks} {name}", tuple(self.solids), np.zeros(3), radius, float(-corners[:, 1].min()))

    def _world(self, center):
        x, y, z = center
        return self._rotation @ np.array([x, -y, z])
