"""Ray casting: exact depth and antialiased pixels of textured solids in a room or under a sky, in numpy.

World axes are those of an upright OpenCV camera: x right, y down, z forward; metres. A pixel's ray passes through its
centre, at (column + 0.5, row + 0.5). Inside this file vectors stand in columns, `3 n`: numpy walks those fastest.
"""

from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Float, Int, UInt8

from gen3r_jax.data.procedural.paint import Surface
from gen3r_jax.data.procedural.solids import Backdrop, Solid, dot

PIXELS_AT_ONCE = 1 << 14  # rows are rendered in bands whose arrays stay in the cache


@dataclass(frozen=True)
class Light:
    """A lamp with sharp shadows, and light from everywhere; 1 shows a surface in its own colour.

    place: of the lamp; the sun is a lamp far away. color: of the lamp. fading: how it falls with the square of the
    distance. ambient: colour of the rest, which is brighter from above.
    """

    place: Float[np.ndarray, "3"]
    color: Float[np.ndarray, "3"]
    fading: float
    ambient: Float[np.ndarray, "3"]


@dataclass(frozen=True)
class Sky:
    """What is seen where nothing is near: sky, clouds, and a skyline of distant land. Its depth is not known.

    zenith, horizon, land: linear RGB. skyline: amplitudes of the land's height (tangents of elevations) over
    2, 3, 5, ... waves around the horizon. phases: theirs, then the clouds'. clouds: how white they are.
    """

    zenith: Float[np.ndarray, "3"]
    horizon: Float[np.ndarray, "3"]
    land: Float[np.ndarray, "3"]
    skyline: Float[np.ndarray, "m"]
    phases: Float[np.ndarray, "m+4"]
    clouds: float

    def color(self, rays: Float[np.ndarray, "3 n"], pixel: float) -> Float[np.ndarray, "3 n"]:
        """Linear colour along rays; `pixel`: tangent of the angle between neighbours."""
        x, y, z = rays
        level = np.hypot(x, z)
        up, azimuth = -y / level, np.arctan2(x, z)
        blue = np.clip(up / 0.7, 0, 1)[None] ** np.float32(0.6)
        color = self.horizon[:, None] + (self.zenith - self.horizon)[:, None] * blue
        if self.clouds:
            # Waves on a layer of clouds; low clouds melt into the haze.
            across, along = x / level / (up.clip(0) + 0.25), z / level / (up.clip(0) + 0.25)
            a, b, c, d = self.phases[-4:]
            field = np.sin(2.1 * across + a + np.sin(1.7 * along + b)) + np.sin(
                3.1 * along + c + np.sin(2.9 * across + d)
            )
            cover = self.clouds * np.clip(field - 0.3, 0, 1) * np.clip(4 * up, 0, 1)
            color += (np.float32(0.9) - color) * cover
        waves = np.array((2, 3, 5, 8, 13, 21, 34)[: len(self.skyline)], np.float32)
        height = self.skyline @ (1 + np.sin(waves[:, None] * azimuth + self.phases[: len(waves), None]))
        ground = np.clip((height - up) / np.float32(pixel) + 0.5, 0, 1)
        haze = self.land[:, None] + (self.horizon - self.land)[:, None] * (0.35 + 2 * np.clip(up, 0, 0.2))
        return color + (haze - color) * ground


@dataclass(frozen=True)
class World:
    """Solids inside a room, or on a ground under a sky. haze: share of the sky's colour that a metre of air adds."""

    backdrop: Backdrop
    solids: tuple[Solid, ...]
    light: Light
    sky: Sky | None = None
    haze: float = 0.0

    def render(
        self, c2w: Float[np.ndarray, "4 4"], intrinsics: Float[np.ndarray, "3 3"], size: tuple[int, int]
    ) -> tuple[UInt8[np.ndarray, "h w 3"], Float[np.ndarray, "h w"]]:
        """One view: 8-bit sRGB and z-depth in metres (float32; 0 is sky). The camera must be outside of all solids."""
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
        depth, label = self._nearest(rays, origin, c2w, intrinsics, rows)

        order = np.argsort(label, axis=None, kind="stable")  # pixels of a face together
        depth, label, rays = depth.reshape(-1)[order], label.reshape(-1)[order], rays.reshape(3, -1)[:, order]
        sky = int(np.searchsorted(label, 0))
        color = np.empty((3, depth.size), np.float32)
        if sky and self.sky is not None:
            color[:, :sky] = self.sky.color(rays[:, :sky], 1 / focal_x)
        if sky < depth.size:
            steps = c2w[:3, :2] / intrinsics[[0, 1], [0, 1]]  # of a ray, from pixel to pixel in x and in y
            color[:, sky:] = self._surfaces(origin, rays[:, sky:], depth[sky:], label[sky:], steps)
        depth[:sky] = 0
        rgb, image = np.empty((depth.size, 3), np.uint8), np.empty_like(depth)
        rgb[order] = np.rint(255 * np.clip(color, 0, 1) ** np.float32(1 / 2.2)).astype(np.uint8).T
        image[order] = depth
        return rgb.reshape(len(rows), width, 3), image.reshape(len(rows), width)

    def _nearest(self, rays, origin, c2w, intrinsics, rows) -> tuple[Float[np.ndarray, "h w"], Int[np.ndarray, "h w"]]:
        """Depth of the nearest surface (infinite without one) and its number: 8 times the solid's, plus the face's."""
        width = rays.shape[2]
        depth, face = (a.reshape(rays.shape[1:]) for a in self.backdrop.enter_face(origin, rays.reshape(3, -1)))
        label = np.where(np.isfinite(depth), face, -1).astype(np.int16)
        for number, solid in enumerate(self.solids, 1):
            window = _window(solid.corners(), c2w, intrinsics, rows, width)
            if window is not None:
                seen = rays[:, *window]
                hit, face = (a.reshape(seen.shape[1:]) for a in solid.enter_face(origin, seen.reshape(3, -1)))
                nearer = hit < depth[window]
                depth[window] = np.where(nearer, hit, depth[window])
                label[window] = np.where(nearer, face + 8 * number, label[window])
        return depth, label

    def _surfaces(self, origin, rays, depth, label, steps) -> Float[np.ndarray, "3 n"]:
        """Linear colours of the points at `depth` along `rays`, which are sorted by `label`."""
        points = origin + depth * rays
        normals, albedo = np.empty_like(points), np.empty_like(points)
        ends = np.flatnonzero(np.diff(label, append=-1)) + 1
        for begin, end in zip((0, *ends[:-1]), ends, strict=True):
            number, face = divmod(int(label[begin]), 8)
            owner, part = self.solids[number - 1] if number else self.backdrop, slice(begin, end)
            normals[:, part] = owner.normal(face, points[:, part])
            albedo[:, part] = _albedo(
                owner.surfaces[face], normals[:, part], points[:, part], rays[:, part], depth[part], steps
            )
        color = albedo * self._brightness(normals, points, label >> 3)
        if self.haze and self.sky is not None:
            air = 1 - np.exp(np.float32(-self.haze) * depth)
            color += (self.sky.horizon[:, None] - color) * air
        return color

    def _brightness(self, normals, points, owners) -> Float[np.ndarray, "3 n"]:
        """The light at points of the solids `owners` (0: the backdrop)."""
        to_lamp = self.light.place[:, None] - points
        squared = dot(to_lamp, to_lamp)
        away = np.sqrt(squared)
        lit = np.maximum(dot(normals, to_lamp), 0) / (away * (1 + np.float32(self.light.fading) * squared))
        facing = np.flatnonzero(lit)
        lit[facing[self._shadowed(points[:, facing], to_lamp[:, facing], away[facing], owners[facing])]] = 0
        # Light from everywhere comes mostly from above, and hardly into the corner where a wall stands on the floor.
        corner = 1 - 0.4 * np.exp(points[1] / np.float32(0.15)) * (1 - np.abs(normals[1]))
        ambient = (1 - np.float32(0.25) * normals[1]) * corner
        return self.light.ambient[:, None] * ambient + self.light.color[:, None] * lit

    def _shadowed(self, points, to_lamp, away, owners) -> Bool[np.ndarray, "n"]:
        shadow = np.zeros(points.shape[1], bool)
        if not self.solids or not shadow.size:
            return shadow
        # Only points inside the cone of a solid's bounding ball, and behind it, can be in its shadow.
        centers, reach = np.stack([s.center for s in self.solids]), np.array([s.reach for s in self.solids], np.float32)
        outward = self.light.place - centers
        distance = np.linalg.norm(outward, axis=-1)
        cosine = np.sqrt(np.maximum(1 - np.square(reach / np.maximum(distance, 1e-3)), 0)) - np.float32(1e-5)
        cosine[reach >= distance] = -1
        # einsum, for a product of matrices would start threads for nothing
        inside = np.einsum("sk,kn->sn", outward / distance[:, None], to_lamp / away) > cosine[:, None]
        inside &= away > (distance - reach)[:, None]
        for number, solid in enumerate(self.solids):
            # A solid is convex: what it hides from itself is turned away from the lamp.
            near = np.flatnonzero(inside[number] & (owners != number + 1) & ~shadow)
            if near.size:
                shadow[near] = solid.enter(points[:, near], to_lamp[:, near]) < 1
        return shadow


def _albedo(surface: Surface, normal, points, rays, depth, steps) -> Float[np.ndarray, "3 n"]:
    # One pixel on, the ray has moved by `step * depth`; the hit point slides on along the ray to the tangent plane.
    facing = np.minimum(dot(normal, rays), np.float32(-1e-3))
    footprint = [depth * (step[:, None] - (dot(normal, step[:, None]) / facing) * rays) for step in steps.T]
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
