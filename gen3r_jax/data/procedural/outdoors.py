"""Fields and streets under a sky."""

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
from jaxtyping import Float

from gen3r_jax.data.procedural.builder import Builder, Thing
from gen3r_jax.data.procedural.layout import SAMPLES, Layout
from gen3r_jax.data.procedural.paths import Chord, draw_walk
from gen3r_jax.data.procedural.placing import Placer, build
from gen3r_jax.data.procedural.raycast import Light, Sky, World
from gen3r_jax.data.procedural.solids import Ground, Solid
from gen3r_jax.data.procedural.style import Style

_SKIES = {  # sRGB of zenith and horizon, strength of the sun and of the light from the sky
    "blue": ((0.30, 0.52, 0.86), (0.78, 0.87, 0.95), 0.85, 0.36),
    "grey": ((0.62, 0.65, 0.70), (0.84, 0.85, 0.86), 0.30, 0.62),
    "orange": ((0.45, 0.48, 0.72), (0.97, 0.76, 0.52), 0.75, 0.36),
    "pink": ((0.55, 0.52, 0.78), (0.97, 0.80, 0.80), 0.60, 0.42),
}
_GRASS = ("green", "green", "olive", "brown", "cream", "yellow")
_EARTH = ("green", "olive", "brown", "cream", "yellow", "grey")
_STREET_SIDE = ("house", "house", "house", "tree", "tree", "pole", "bush", "box", "fence", "bench", "car")
_FIELD = ("tree", "tree", "tree", "house", "bush", "rock", "fence", "bench", "pole", "box", "ball", "car", "snowman")


@dataclass(frozen=True)
class Landscape:
    """Ground, hills, sky and sun, and words for them."""

    ground: Ground
    hills: tuple[Thing, ...]
    sky: Sky
    light: Light
    facts: dict[str, str]

    def world(self, things: Sequence[Thing], fixtures: Sequence[Solid] = ()) -> World:
        solids = (*fixtures, *(solid for thing in (*self.hills, *things) for solid in thing.solids))
        return World(self.ground, solids, self.light, self.sky, haze=0.006)


def draw_landscape(
    rng: np.random.Generator,
    style: Style,
    center: Float[np.ndarray, "3"],
    radius: float,
    hills: int = 0,
    heading: float = 0.0,
) -> Landscape:
    """Ground of `radius` metres around `center`, and land without depth beyond; `hills` at its edge, in the
    direction `heading` (radians from +z to +x)."""
    grass = style.palette.draw(rng, _GRASS, ("speckled", "shaded", "shaded", "plain"), 1.2, _EARTH)
    weather = str(rng.choice(list(_SKIES), p=[0.55, 0.15, 0.15, 0.15]))
    zenith, horizon, sun, ambient = _SKIES[weather]
    zenith, horizon = (np.array(color) ** 2.2 for color in (zenith, horizon))
    land = 0.55 * grass.colors.mean(0) + 0.45 * np.array([0.16, 0.24, 0.30])
    skyline = rng.uniform(0, 0.05) * rng.uniform(0.2, 1, 7) / np.sqrt((2, 3, 5, 8, 13, 21, 34))
    sky = Sky(*(np.asarray(a, np.float32) for a in (zenith, horizon, land, skyline, rng.uniform(0, 2 * np.pi, 11))),
              clouds=float(rng.choice([0.0, 0.6, 0.9])))  # fmt: skip
    turn, height = rng.uniform(0, 2 * np.pi), rng.uniform(0.5, 1.3)
    direction = np.array([np.cos(turn) * np.cos(height), -np.sin(height), np.sin(turn) * np.cos(height)])
    warm = np.array([1.0, 0.93, 0.82]) if weather in ("orange", "pink") else np.array([1.0, 0.98, 0.93])
    place, color = (np.asarray(a, np.float32) for a in (center + 100 * direction, sun * warm))
    light = Light(place, color, 0.0, ambient * np.array([0.94, 1.0, 1.1], np.float32))
    ground = Ground(center, radius, (grass.surface(rng, np.eye(3)[[0, 2]]),))
    facts = {"ground": grass.words, "sky": weather}
    return Landscape(ground, tuple(_hill(rng, style, center, radius, heading) for _ in range(hills)), sky, light, facts)


def _hill(rng, style, center, radius, heading) -> Thing:
    """The top of a ball of many metres, at the edge of the ground, somewhere around the direction `heading`."""
    size, sunk = rng.uniform(6, 10), rng.uniform(0.70, 0.85)
    hill = Builder(rng, style.palette)
    paint = hill.paint(("green", "olive", "grey", "brown"), ("shaded", "plain", "speckled"), 3, _EARTH)
    hill.ball(paint, (0, -sunk * size, 0), size)
    angle = heading + rng.uniform(-0.8, 0.8)
    thing = replace(hill.thing("hill", ""), radius=math.sqrt(1 - sunk**2) * size)
    return thing.at(center + (radius + 0.3 * size) * np.array([math.sin(angle), 0, math.cos(angle)]))


def draw_field(rng: np.random.Generator, style: Style) -> Layout:
    """A walk over a field, looking at trees, houses and rocks that stand before the camera."""
    motion, eye = style.motion, rng.uniform(1.3, 2.2)
    bounds = np.array([-8, -3.0, -8]), np.array([8, -1.0, 8])
    begin, focus = np.array([0, -eye, 0]), np.array([0, -rng.uniform(0.2, 0.9), rng.uniform(6, 9)])
    step = motion * rng.uniform(1.5, 4.5)
    position, target = draw_walk(rng, begin, focus, step, 3.0 * motion, bounds, lateral=style.lateral)
    center = position(np.array([0.5]))[0] * [1, 0, 1] + [0, 0, 6.0]
    land = draw_landscape(rng, style, center, rng.uniform(18, 24), hills=int(rng.choice([0, 0, 1, 2, 3])))
    placer = Placer(position(SAMPLES), land.hills)

    def before_the_camera():
        away = rng.uniform(2.5, 15)
        return np.array([rng.uniform(-0.75, 0.75) * away, 0, away])

    for _ in range(int(rng.integers(8, 13))):
        placer.place(build(str(rng.choice(_FIELD)), rng, style.palette), before_the_camera)
    opening = "hills" if land.hills else "field"
    return Layout(land.world(placer.things), position, target, tuple(placer.things), opening, "field", facts=land.facts)


def draw_street(rng: np.random.Generator, style: Style) -> Layout:
    """A drive along a street, with a slight turn; "shifted" looks more to the side."""
    motion, palette = style.motion, style.palette
    length, lane = motion * rng.uniform(4, 11), rng.uniform(-1.0, 1.0)
    drift, turn = motion * rng.uniform(-1.2, 1.2), motion * rng.uniform(-4, 4)
    eye = np.array([lane, -rng.uniform(1.2, 1.9), 0])
    position = Chord(eye, eye + np.array([drift, 0, length]), np.array([motion * rng.uniform(-0.4, 0.4), 0, 0]))
    ahead = np.array([0, rng.uniform(0.6, 1.5), 9.0])
    aside = float(rng.choice([-1, 1]) * rng.uniform(3, 7)) if style.lateral else 0.0
    target = Chord(eye + ahead + [aside - turn / 2, 0, 0], eye + ahead + [aside + turn, 0, length], np.zeros(3))
    land = draw_landscape(rng, style, np.array([0, 0, 12.0]), 30.0)

    wide = rng.uniform(2.0, 2.8)  # half of the road
    works = Builder(rng, palette)
    road = works.paint(("grey", "black", "brown"), ("plain", "shaded", "tiled"), 1.0, ("grey", "black", "brown"))
    curb, line = works.paint(("grey", "cream", "white"), ("tiled",), 1.0), works.paint(("white", "yellow"), ("plain",))
    works.box(road, (0, 0.01, 12), (2 * wide, 0.02, 40))
    for side in (-1, 1):
        works.box(curb, (side * (wide + 0.4), 0.05, 12), (0.8, 0.1, 40))
    for z in np.arange(-2, 28, 3.0):
        works.box(line, (0, 0.0125, z), (0.15, 0.025, 1.5))

    placer = Placer(position(SAMPLES))
    for side in (-1, 1):
        z = rng.uniform(-1, 3)
        while z < 26:
            name = str(rng.choice(_STREET_SIDE))
            thing = build(name, rng, palette, yaw=0.0 if name == "car" else side * np.pi / 2)  # fronts to the street
            place = np.array([side * (wide + 0.9 + thing.radius * rng.uniform(0.85, 1.2)), 0, z + thing.radius])
            if name in ("pole", "car"):
                place[0] = side * (wide + (0.4 if name == "pole" else -0.6))
            if placer.place(thing, lambda: place, attempts=1):  # noqa: B023
                z += 2 * thing.radius
            z += rng.uniform(0.3, 1.5)
    return Layout(land.world(placer.things, works.solids), position, target, tuple(placer.things), "street", "street",
                  "drives", land.facts | {"road": road.words})  # fmt: skip
