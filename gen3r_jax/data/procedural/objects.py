"""One thing, on a table, a floor or a field, and a camera on an arc around it."""

import math

import numpy as np

from gen3r_jax.data.procedural.builder import SMOOTH, TIMBER, Builder, Thing
from gen3r_jax.data.procedural.layout import SAMPLES, Layout
from gen3r_jax.data.procedural.outdoors import draw_landscape
from gen3r_jax.data.procedural.paths import Arc, Chord
from gen3r_jax.data.procedural.placing import Placer, build
from gen3r_jax.data.procedural.rooms import draw_interior, furnish
from gen3r_jax.data.procedural.style import CLEARANCE, Style

_OBJECTS = {  # metres, and what there is
    "table": ((0.5, 0.7), ("robot", "snowman", "tower", "plant", "chair", "car", "house", "lamp")),
    "floor": ((0.8, 1.15), ("robot", "snowman", "tower", "plant", "chair", "bench", "table")),
    "field": ((1.0, 1.6), ("robot", "snowman", "tower", "chair", "bench", "car", "table", "plant")),
}
_BEYOND = ("tree", "tree", "house", "bush", "rock", "fence", "box")


def draw_object(rng: np.random.Generator, style: Style) -> Layout:
    place = str(rng.choice(["table", "floor", "field"], p=[0.3, 0.3, 0.4]))
    sizes, names = _OBJECTS[place]
    thing = build(str(rng.choice(names)), rng, style.palette).resized(rng.uniform(*sizes))
    interior = None if place == "field" else draw_interior(rng, style)
    stand = [_stand(rng, style)] if place == "table" else []
    if stand:
        thing = thing.at(np.array([0, -stand[0].height, 0]))
    middle, size = thing.place - [0, 0.5 * thing.height, 0], max(thing.height, 2 * thing.radius)

    nearest = max(CLEARANCE + 0.15 + max(t.radius for t in (thing, *stand)), 1.1 * size)
    begin, turn = rng.uniform(0, 2 * np.pi), style.motion * rng.choice([-1, 1]) * math.radians(rng.uniform(45, 110))
    radii, heights = nearest * rng.uniform(1.0, 1.3, 2), nearest * rng.uniform(0.2, 0.6, 2)
    if not style.lateral:  # a level, nearly round arc
        radii[1], heights[1] = radii.mean(), heights[0]
    if interior:
        half = interior.shell.half.astype(float)
        radii, heights = (
            np.minimum(radii, half[[0, 2]].min() - 0.55),
            np.minimum(heights, 2 * half[1] - 0.55 + middle[1]),
        )
    position = Arc(middle, (begin, begin + turn), tuple(radii), tuple(heights))
    sway = 0.1 * size * rng.normal(size=(2, 3))
    target = Chord(middle + sway[0], middle + sway[1], np.zeros(3))

    halfway = begin + turn / 2
    sight = np.array([-math.sin(halfway), 0, math.cos(halfway)])  # where the camera looks
    if interior:

        def beyond(other: Thing) -> bool:
            return interior.holds(other) and bool(other.place @ sight > 0)

        placer = Placer(position(SAMPLES), (*stand, thing), beyond)
        furnish(rng, style, placer, interior, sight * half, int(rng.integers(3, 6)))
        world, facts = interior.world((*placer.standing, *placer.things)), dict(interior.facts)
    else:
        hills = int(rng.choice([0, 1, 2]))
        land = draw_landscape(rng, style, np.zeros(3), rng.uniform(14, 20), hills, heading=-halfway)
        placer = Placer(position(SAMPLES), (*land.hills, thing))
        across = np.array([sight[2], 0, -sight[0]])
        for _ in range(int(rng.integers(4, 8))):
            away = rng.uniform(4, 11)
            spot = away * sight + rng.uniform(-0.8, 0.8) * (away + 2) * across
            placer.place(build(str(rng.choice(_BEYOND)), rng, style.palette), lambda: spot, attempts=1)  # noqa: B023
        world, facts = land.world((thing, *placer.things)), dict(land.facts)
    facts |= {"thing": thing.words} | ({"table": stand[0].words} if stand else {})
    return Layout(world, position, target, tuple(placer.things), f"object on {place}", "object", "orbits", facts)


def _stand(rng: np.random.Generator, style: Style) -> Thing:
    """A square table."""
    table = Builder(rng, style.palette, rng.uniform(0, np.pi))
    paint, half, tall = table.paint(TIMBER, SMOOTH), rng.uniform(0.35, 0.45), rng.uniform(0.55, 0.75)
    table.box(paint, (0, tall - 0.04, 0), (2 * half, 0.08, 2 * half))
    table.legs(paint, half - 0.08, half - 0.08, tall - 0.04, 0.09)
    return table.thing("table", paint.words)
