"""Rooms with furniture under a lamp."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float

from gen3r_jax.data.procedural.builder import Builder, Thing
from gen3r_jax.data.procedural.layout import SAMPLES, Layout
from gen3r_jax.data.procedural.paths import draw_walk
from gen3r_jax.data.procedural.placing import Placer, build
from gen3r_jax.data.procedural.raycast import Light, World
from gen3r_jax.data.procedural.solids import Room, Solid
from gen3r_jax.data.procedural.style import Style

_WALLS = ("white", "cream", "grey", "yellow", "pink", "teal", "olive", "blue")
_FLOORS = ("brown", "grey", "cream", "olive", "black", "red")
_AT_WALLS = ("shelf", "cupboard", "sofa", "bed")
_ANYWHERE = ("box", "column", "ball", "ball", "table", "table", "chair", "chair", "stool", "lamp", "plant", "tower")


@dataclass(frozen=True)
class Interior:
    """An empty room: its shell, what hangs on the walls and lies on the floor, a lamp, and words for the paints."""

    shell: Room
    fixtures: tuple[Solid, ...]
    light: Light
    facts: dict[str, str]

    def world(self, things: Sequence[Thing]) -> World:
        return World(self.shell, (*self.fixtures, *(solid for thing in things for solid in thing.solids)), self.light)

    def holds(self, thing: Thing) -> bool:
        corners, half = np.concatenate([solid.corners() for solid in thing.solids]), self.shell.half
        return bool(np.all(np.abs(corners[:, [0, 2]]) < half[[0, 2]] - 0.05) and thing.height < 2 * half[1] - 0.1)


def draw_interior(rng: np.random.Generator, style: Style) -> Interior:
    half = np.array([rng.uniform(2.5, 4.0), rng.uniform(1.25, 1.6), rng.uniform(2.5, 4.0)])
    palette = style.palette
    floor = palette.draw(rng, _FLOORS, ("striped", "chequered", "tiled", "wooden", "wooden", "speckled", "shaded"))
    wall = palette.draw(
        rng, _WALLS, ("plain", "striped", "chequered", "brick", "tiled", "speckled", "shaded", "wooden")
    )
    other, ceiling = palette.draw(rng, _WALLS, ("plain",)), palette.draw(rng, ("white", "cream"), ("plain",))
    right, down, ahead = np.eye(3)
    faces = (
        *(look.surface(rng, np.stack([ahead, down])) for look in (wall, other)),
        *(look.surface(rng, np.stack([right, ahead])) for look in (ceiling, floor)),
        *(look.surface(rng, np.stack([right, down])) for look in (other, wall)),
    )
    shell = Room(np.array([0, -half[1], 0]), half, np.eye(3), faces)  # the floor is y = 0
    lamp = np.array([rng.uniform(-0.5, 0.5), -1.9, rng.uniform(-0.5, 0.5)]) * half
    light = Light(lamp, 1.6 * np.array([1, 0.97, 0.9]), 0.12, float(rng.uniform(0.25, 0.4)) * np.array([0.97, 1, 1.06]))
    return Interior(shell, tuple(_fixtures(rng, style, half)), light, {"floor": floor.words, "walls": wall.words})


def _fixtures(rng, style, half) -> list[Solid]:
    """A rug, and a window, a picture or a door on some walls."""
    solids: list[Solid] = []
    if rng.random() < 0.5:
        rug = Builder(rng, style.palette, rng.uniform(0, np.pi))
        rug.box(rug.paint(), (0, 0.005, 0), (*rng.uniform(1.2, 2.0, 1), 0.01, rng.uniform(0.9, 1.4)))
        solids += rug.thing("rug", "").at(rng.uniform(-0.3, 0.3, 3) * half * [1, 0, 1]).solids
    for number in range(4):
        wall = Builder(rng, style.palette, number * np.pi / 2)
        reach, away = half[[0, 2]] if number % 2 == 0 else half[[2, 0]]
        x, what = rng.uniform(-0.6, 0.6) * reach, rng.choice(["window", "picture", "picture", "door", "nothing"])
        frame = wall.paint(("white", "brown", "black", "cream"), ("plain",))
        if what == "window":
            wall.box(frame, (x, 1.5, away - 0.01), (1.2, 1.0, 0.06))
            wall.box(wall.paint(("blue", "white"), ("shaded", "plain"), 1), (x, 1.5, away - 0.02), (1.05, 0.85, 0.07))
            wall.box(frame, (x, 1.5, away - 0.03), (0.06, 0.9, 0.08))
        elif what == "picture":
            size = rng.uniform(0.4, 0.9, 2)
            wall.box(frame, (x, 1.45, away - 0.01), (size[0] + 0.1, size[1] + 0.1, 0.06))
            wall.box(wall.paint(scale=0.4), (x, 1.45, away - 0.02), (*size, 0.07))
        elif what == "door":
            wall.box(
                wall.paint(("brown", "white", "blue", "red"), ("wooden", "plain")), (x, 1.0, away), (0.9, 2.0, 0.08)
            )
            wall.box(frame, (x + 0.35, 1.0, away - 0.06), (0.12, 0.04, 0.06))
        solids += wall.solids
    return solids


def furnish(
    rng: np.random.Generator,
    style: Style,
    placer: Placer,
    interior: Interior,
    focus: Float[np.ndarray, "3"],
    count: int,
) -> None:
    """Puts up to `count` things around `focus`: large ones stand with their backs to a wall."""
    half = interior.shell.half
    for _ in range(count):
        if rng.random() < 0.35:
            wall = int(rng.choice(np.flatnonzero([focus[2] > 0, focus[0] > 0, focus[2] <= 0, focus[0] <= 0])))
            yaw = wall * np.pi / 2
            thing = build(str(rng.choice(_AT_WALLS)), rng, style.palette, yaw)
            back = np.array([np.sin(yaw), 0, np.cos(yaw)])
            depth = max(float((solid.corners() @ back).max()) for solid in thing.solids)
            side, away = np.abs(back[[2, 1, 0]]), float(np.abs(back) @ half) - depth - 0.07
            placer.place(thing, lambda: side * half * rng.uniform(-0.9, 0.9) + away * back)  # noqa: B023
        else:
            thing = build(str(rng.choice(_ANYWHERE)), rng, style.palette)
            placer.place(thing, lambda: focus * [1, 0, 1] + rng.normal(0, 1.2, 3) * [1, 0, 1])


def draw_room(rng: np.random.Generator, style: Style) -> Layout:
    """A walk near one side of a room, looking at the furniture on the other."""
    interior = draw_interior(rng, style)
    half = interior.shell.half.astype(float)
    bounds = np.array([0.7 - half[0], 0.7 - 2 * half[1], 0.7 - half[2]]), np.array([half[0] - 0.7, -0.7, half[2] - 0.7])
    heading = rng.uniform(0, 2 * np.pi)
    outward = np.array([np.cos(heading), 0, np.sin(heading)])
    begin = outward * bounds[1] * rng.uniform(0.6, 1.0) - [0, rng.uniform(1.0, 1.7), 0]
    focus = -outward * half * rng.uniform(0.3, 0.6) - [0, rng.uniform(0.3, 0.8), 0]
    motion = style.motion
    position, target = draw_walk(
        rng, begin, focus, motion * rng.uniform(0.8, 2.7), 1.7 * motion, bounds, lateral=style.lateral
    )
    placer = Placer(position(SAMPLES), fits=interior.holds)
    furnish(rng, style, placer, interior, focus, int(rng.integers(6, 10)))
    things = tuple(placer.things)
    return Layout(interior.world(placer.things), position, target, things, "room", "room", facts=interior.facts)
