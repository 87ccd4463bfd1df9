"""Ray casting of rooms: exact depth and antialiased pixels of textured planes, boxes and balls, in numpy.

World axes are those of an upright OpenCV camera: x right, y down, z forward; metres. A pixel's ray passes through its
centre, at (column + 0.5, row + 0.5). Inside this file vectors stand in columns, `3 n`: numpy walks those fastest.
"""

from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Float, Int, UInt8

from gen3r_jax.data.paint import Surface

PIXELS_AT_ONCE = 1 << 14  # rows are rendered in bands whose arrays stay in the cache


@dataclass(frozen=True)
class Box:
    """A solid box. rotation: columns are its axes in the world; half: half its size along them."""

    center: Float[np.ndarray, "3"]
    half: Float[np.ndarray, "3"]
    rotation: Float[np.ndarray, "3 3"]
    surfaces: tuple[Surface, ...]  # -x, +x, -y, +y, -z, +z

    def __post_init__(self):
        _single_precision(self, "center", "half", "rotation")

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

    def leave_face(
        self, origin: Float[np.ndarray, "3 1"], directions: Float[np.ndarray, "3 n"]
    ) -> tuple[Float[np.ndarray, "n"], Int[np.ndarray, "n"]]:
        """Where rays from inside meet the box, and which face."""
        _, far = self._crossings(origin, directions)
        return -_largest(-far), self._face(-far, self.rotation.T @ directions > 0)

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

    def corners(self) -> Float[np.ndarray, "8 3"]:
        return self.center + _CUBE * np.float32(self.radius)

    def distance(self, points: Float[np.ndarray, "n 3"]) -> Float[np.ndarray, "n"]:
        """Distance of points to the ball, 0 inside."""
        return np.maximum(np.linalg.norm(points - self.center, axis=-1) - self.radius, 0)

    def enter(self, origin: Float[np.ndarray, "3 #n"], directions: Float[np.ndarray, "3 n"]) -> Float[np.ndarray, "n"]:
        """Like :meth:`Box.enter`."""
        offset = origin - self.center[:, None]
        a, b = _dot(directions, directions), _dot(directions, offset)
        discriminant = b * b - a * (_dot(offset, offset) - np.float32(self.radius**2))
        enter = (-b - np.sqrt(np.maximum(discriminant, 0))) / a
        return np.where((discriminant > 0) & (enter > 0), enter, np.float32(np.inf))

    def enter_face(
        self, origin: Float[np.ndarray, "3 1"], directions: Float[np.ndarray, "3 n"]
    ) -> tuple[Float[np.ndarray, "n"], Int[np.ndarray, "n"]]:
        return self.enter(origin, directions), np.zeros(directions.shape[1], np.int64)

    def normal(self, face: int, points: Float[np.ndarray, "3 n"]) -> Float[np.ndarray, "3 n"]:
        return (points - self.center[:, None]) / np.float32(self.radius)


Solid = Box | Ball


@dataclass(frozen=True)
class Room:
    """An axis-aligned empty box seen from inside, what stands in it, a lamp, and light from everywhere.

    ambient: the light that reaches every surface, where 1 shows it in its own colour.
    """

    shell: Box
    solids: tuple[Solid, ...]
    lamp: Float[np.ndarray, "3"]
    ambient: float

    def __post_init__(self):
        _single_precision(self, "lamp")

    def render(
        self, c2w: Float[np.ndarray, "4 4"], intrinsics: Float[np.ndarray, "3 3"], size: tuple[int, int]
    ) -> tuple[UInt8[np.ndarray, "h w 3"], Float[np.ndarray, "h w"]]:
        """One view: 8-bit sRGB and z-depth in metres (float32). The camera is inside the room and outside of solids."""
        height, width = size
        c2w, intrinsics = np.asarray(c2w, np.float32), np.asarray(intrinsics, np.float32)
        rgb = np.empty((height, width, 3), np.uint8)
        depth = np.empty((height, width), np.float32)
        count = max(1, PIXELS_AT_ONCE // width)
        for top in range(0, height, count):
            rows = range(top, min(top + count, height))
            rgb[rows.start : rows.stop], depth[rows.start : rows.stop] = self._render_rows(c2w, intrinsics, rows, width)
        return rgb, depth

    def _render_rows(self, c2w, intrinsics, rows, width):
        (focal_x, focal_y), (center_x, center_y) = intrinsics[[0, 1], [0, 1]], intrinsics[:2, 2]
        x = (np.arange(width, dtype=np.float32) + 0.5 - center_x) / focal_x
        y = (np.arange(rows.start, rows.stop, dtype=np.float32) + 0.5 - center_y) / focal_y
        # Directions have unit z in the camera, so that the parameter along a ray is the z-depth.
        axes, origin = c2w[:3, :3, None, None], c2w[:3, 3, None]
        rays = axes[:, 0] * x + axes[:, 1] * y[:, None] + axes[:, 2]  # [3 h w]

        depth, label = (a.reshape(rays.shape[1:]) for a in self.shell.leave_face(origin, rays.reshape(3, -1)))
        owners = [(self.shell, np.float32(-1), face) for face in range(6)]
        for solid in self.solids:
            window = _window(solid.corners(), c2w, intrinsics, rows, width)
            if window is not None:
                seen = rays[:, *window]
                hit, face = (a.reshape(seen.shape[1:]) for a in solid.enter_face(origin, seen.reshape(3, -1)))
                nearer = hit < depth[window]
                depth[window] = np.where(nearer, hit, depth[window])
                label[window] = np.where(nearer, face + len(owners), label[window])
            owners += [(solid, np.float32(1), face) for face in range(len(solid.surfaces))]

        depth, label, rays = depth.reshape(-1), label.reshape(-1), rays.reshape(3, -1)
        steps = c2w[:3, :2] / intrinsics[[0, 1], [0, 1]]  # of a ray, from pixel to pixel in x and in y
        color = np.empty((3, depth.size), np.float32)
        order = np.argsort(label, kind="stable")
        for pixels in np.split(order, np.flatnonzero(np.diff(label[order])) + 1):
            solid, sign, face = owners[label[pixels[0]]]
            points = origin + depth[pixels] * rays[:, pixels]
            normal = sign * solid.normal(face, points)
            color[:, pixels] = self._light(solid, normal, points) * _albedo(
                solid.surfaces[face], normal, points, rays[:, pixels], depth[pixels], steps
            )
        rgb = np.rint(255 * np.clip(color, 0, 1) ** np.float32(1 / 2.2)).astype(np.uint8)
        return rgb.T.reshape(len(rows), width, 3), depth.reshape(len(rows), width)

    def _light(self, owner: Solid, normal, points) -> Float[np.ndarray, "n"]:
        """Brightness at points of `owner`: the lamp with its shadows, and a sky that is brighter from above."""
        to_lamp = self.lamp[:, None] - points
        squared = _dot(to_lamp, to_lamp)
        lit = np.maximum(_dot(normal, to_lamp), 0) * np.float32(1.6) / (np.sqrt(squared) * (1 + 0.12 * squared))
        if lit.any():
            lit *= ~self._shadowed(owner, points, to_lamp)
        return self.ambient * (1 - np.float32(0.25) * normal[1]) + lit

    def _shadowed(self, owner: Solid, points, to_lamp) -> Bool[np.ndarray, "n"]:
        shadow = np.zeros(points.shape[1], bool)
        for solid in self.solids:
            if solid is not owner:  # convex: what a solid hides from itself is turned away from the lamp
                shadow |= solid.enter(points, to_lamp) < 1
        return shadow


def _albedo(surface: Surface, normal, points, rays, depth, steps) -> Float[np.ndarray, "3 n"]:
    # One pixel on, the ray has moved by `step * depth`; the hit point slides on along the ray to the tangent plane.
    facing = np.minimum(_dot(normal, rays), np.float32(-1e-3))
    footprint = [depth * (step[:, None] - (_dot(normal, step[:, None]) / facing) * rays) for step in steps.T]
    return surface.albedo(points, np.stack(footprint))


def _window(corners, c2w, intrinsics, rows, width) -> tuple[slice, slice] | None:
    """The part of the band of rows that can see a solid with these corners; None where there is none."""
    camera = (corners - c2w[:3, 3]) @ c2w[:3, :3]
    if camera[:, 2].max() <= 0:
        return None
    if camera[:, 2].min() < 1e-2:
        return slice(0, len(rows)), slice(0, width)
    pixels = camera[:, :2] / camera[:, 2:] * intrinsics[[0, 1], [0, 1]] + intrinsics[:2, 2]
    limits = np.array([width, len(rows)])
    low = np.clip(np.floor(pixels.min(0)) - 1 - [0, rows.start], 0, limits).astype(int)
    high = np.clip(np.ceil(pixels.max(0)) + 1 - [0, rows.start], 0, limits).astype(int)
    return (slice(low[1], high[1]), slice(low[0], high[0])) if (low < high).all() else None


_CUBE = np.array([[x, y, z] for x in (-1, 1) for y in (-1, 1) for z in (-1, 1)], np.float32)


def _single_precision(instance: object, *names: str) -> None:
    for name in names:
        object.__setattr__(instance, name, np.asarray(getattr(instance, name), np.float32))


def _dot(a: Float[np.ndarray, "3 #n"], b: Float[np.ndarray, "3 #n"]) -> Float[np.ndarray, "n"]:
    return a[0] * b[0] + a[1] * b[1] + a[2] * b[2]


def _largest(x: Float[np.ndarray, "3 n"]) -> Float[np.ndarray, "n"]:
    return np.maximum(np.maximum(x[0], x[1]), x[2])


def _nonzero(x: np.ndarray) -> np.ndarray:
    return np.where(np.abs(x) < 1e-7, np.float32(1e-7), x)
