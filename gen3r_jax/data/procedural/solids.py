"""What rays can meet: boxes and balls from outside, a room from inside, round flat ground.

World axes are those of an upright OpenCV camera: x right, y down, z forward; metres. Inside this file vectors stand in
columns, `3 n`: numpy walks those fastest.
"""

from dataclasses import dataclass

import numpy as np
from jaxtyping import Float, Int

from gen3r_jax.data.procedural.paint import Surface


@dataclass(frozen=True)
class Box:
    """A solid box. rotation: columns are its axes in the world; half: half its size along them."""

    center: Float[np.ndarray, "3"]
    half: Float[np.ndarray, "3"]
    rotation: Float[np.ndarray, "3 3"]
    surfaces: tuple[Surface, ...]  # -x, +x, -y, +y, -z, +z

    def __post_init__(self):
        _single_precision(self, "center", "half", "rotation")

    @property
    def reach(self) -> float:
        """Radius of the ball around the centre that holds the solid."""
        return float(np.linalg.norm(self.half))

    def corners(self) -> Float[np.ndarray, "8 3"]:
        return self.center + (_CUBE * self.half) @ self.rotation.T

    def distance(self, points: Float[np.ndarray, "n 3"]) -> Float[np.ndarray, "n"]:
        """Distance of points to the box, 0 inside."""
        outside = np.maximum(np.abs((points - self.center) @ self.rotation) - self.half, 0)
        return np.linalg.norm(outside, axis=-1)

    def enter(self, origin: Float[np.ndarray, "3 #n"], directions: Float[np.ndarray, "3 n"]) -> Float[np.ndarray, "n"]:
        """Where rays from outside enter the box, as a parameter along `directions`; infinite for a miss."""
        return self._entrance(*self._crossings(origin, directions))

    def enter_face(
        self, origin: Float[np.ndarray, "3 1"], directions: Float[np.ndarray, "3 n"]
    ) -> tuple[Float[np.ndarray, "n"], Int[np.ndarray, "n"]]:
        """:meth:`enter`, with the number of the face that is met."""
        near, far = self._crossings(origin, directions)
        return self._entrance(near, far), self._face(near, self.rotation.T @ directions < 0)

    def normal(self, face: int, points: Float[np.ndarray, "3 n"]) -> Float[np.ndarray, "3 1"]:
        return self.rotation[:, face // 2, None] * np.float32(2 * (face % 2) - 1)

    def _crossings(self, origin, directions):
        start = self.rotation.T @ (origin - self.center[:, None])
        inverse = 1 / _nonzero(self.rotation.T @ directions)
        middle, reach = -start * inverse, np.abs(inverse) * self.half[:, None]
        return middle - reach, middle + reach

    @staticmethod
    def _entrance(near, far):
        enter, leave = _largest(near), -_largest(-far)
        return np.where((enter < leave) & (enter > 0), enter, np.float32(np.inf))

    @staticmethod
    def _face(crossings, positive):
        axis = np.where(crossings[1] > crossings[0], 1, 0)
        axis = np.where(crossings[2] > np.maximum(crossings[0], crossings[1]), 2, axis)
        return 2 * axis + np.where(axis == 0, positive[0], np.where(axis == 1, positive[1], positive[2]))


@dataclass(frozen=True)
class Ball:
    """A solid ball; it has one face."""

    center: Float[np.ndarray, "3"]
    radius: float
    surfaces: tuple[Surface, ...]

    def __post_init__(self):
        _single_precision(self, "center")

    @property
    def reach(self) -> float:
        return self.radius

    def corners(self) -> Float[np.ndarray, "8 3"]:
        return self.center + _CUBE * np.float32(self.radius)

    def distance(self, points: Float[np.ndarray, "n 3"]) -> Float[np.ndarray, "n"]:
        """Distance of points to the ball, 0 inside."""
        return np.maximum(np.linalg.norm(points - self.center, axis=-1) - self.radius, 0)

    def enter(self, origin: Float[np.ndarray, "3 #n"], directions: Float[np.ndarray, "3 n"]) -> Float[np.ndarray, "n"]:
        """Like :meth:`Box.enter`."""
        offset = origin - self.center[:, None]
        a, b = dot(directions, directions), dot(directions, offset)
        discriminant = b * b - a * (dot(offset, offset) - np.float32(self.radius**2))
        enter = (-b - np.sqrt(np.maximum(discriminant, 0))) / a
        return np.where((discriminant > 0) & (enter > 0), enter, np.float32(np.inf))

    def enter_face(
        self, origin: Float[np.ndarray, "3 1"], directions: Float[np.ndarray, "3 n"]
    ) -> tuple[Float[np.ndarray, "n"], Int[np.ndarray, "n"]]:
        return self.enter(origin, directions), np.zeros(directions.shape[1], np.int64)

    def normal(self, face: int, points: Float[np.ndarray, "3 n"]) -> Float[np.ndarray, "3 n"]:
        return (points - self.center[:, None]) / np.float32(self.radius)


class Room(Box):
    """A box that is seen from inside."""

    def enter_face(
        self, origin: Float[np.ndarray, "3 1"], directions: Float[np.ndarray, "3 n"]
    ) -> tuple[Float[np.ndarray, "n"], Int[np.ndarray, "n"]]:
        """Where rays from inside meet the walls, and which wall."""
        _, far = self._crossings(origin, directions)
        return -_largest(-far), self._face(-far, self.rotation.T @ directions > 0)

    def normal(self, face: int, points: Float[np.ndarray, "3 n"]) -> Float[np.ndarray, "3 1"]:
        return -super().normal(face, points)

    def distance(self, points: Float[np.ndarray, "n 3"]) -> Float[np.ndarray, "n"]:
        """Distance of points inside to the nearest wall."""
        return (self.half - np.abs((points - self.center) @ self.rotation)).min(-1)


@dataclass(frozen=True)
class Ground:
    """A round piece of the plane y = 0, seen from above."""

    center: Float[np.ndarray, "3"]
    radius: float
    surfaces: tuple[Surface, ...]

    def __post_init__(self):
        _single_precision(self, "center")

    def enter_face(
        self, origin: Float[np.ndarray, "3 1"], directions: Float[np.ndarray, "3 n"]
    ) -> tuple[Float[np.ndarray, "n"], Int[np.ndarray, "n"]]:
        hit = -origin[1] / np.maximum(directions[1], np.float32(1e-6))
        x, _, z = origin - self.center[:, None] + hit * directions
        inside = (directions[1] > 1e-6) & (np.square(x) + np.square(z) < self.radius**2)
        return np.where(inside, hit, np.float32(np.inf)), np.zeros(hit.size, np.int64)

    def normal(self, face: int, points: Float[np.ndarray, "3 n"]) -> Float[np.ndarray, "3 1"]:
        return np.array([[0], [-1], [0]], np.float32)

    def distance(self, points: Float[np.ndarray, "n 3"]) -> Float[np.ndarray, "n"]:
        """Height of points above the ground."""
        return -points[:, 1]


Solid = Box | Ball
Backdrop = Room | Ground

_CUBE = np.array([[x, y, z] for x in (-1, 1) for y in (-1, 1) for z in (-1, 1)], np.float32)


def _single_precision(instance: object, *names: str) -> None:
    for name in names:
        object.__setattr__(instance, name, np.asarray(getattr(instance, name), np.float32))


def dot(a: Float[np.ndarray, "3 #n"], b: Float[np.ndarray, "3 #n"]) -> Float[np.ndarray, "n"]:
    return a[0] * b[0] + a[1] * b[1] + a[2] * b[2]


def _largest(x: Float[np.ndarray, "3 n"]) -> Float[np.ndarray, "n"]:
    return np.maximum(np.maximum(x[0], x[1]), x[2])


def _nonzero(x: np.ndarray) -> np.ndarray:
    return np.where(np.abs(x) < 1e-7, np.float32(1e-7), x)
