"""Things for outdoors. Each function builds one and gives the words for its looks."""

import math

import numpy as np

from gen3r_jax.data.procedural.builder import CLOTH, SMOOTH, TIMBER


def _tree(b, rng):
    bark, leaves = b.paint(("brown", "grey"), ("plain", "wooden")), b.leaves(0.8)
    tall, size = rng.uniform(1.2, 2.4), rng.uniform(0.7, 1.3)
    b.box(bark, (0, tall / 2, 0), (0.22, tall, 0.22))
    b.ball(leaves, (0, tall + 0.7 * size, 0), size)
    for _ in range(int(rng.integers(0, 3))):
        turn = rng.uniform(0, 2 * np.pi)
        offset = np.array([math.cos(turn), rng.uniform(0.4, 1.8), math.sin(turn)]) * 0.65 * size
        b.ball(leaves, (offset[0], offset[1] + tall, offset[2]), rng.uniform(0.5, 0.75) * size)
    return leaves.words


def _bush(b, rng):
    leaves, size = b.leaves(), rng.uniform(0.35, 0.6)
    b.ball(leaves, (0, 0.6 * size, 0), size)
    b.ball(leaves, (0.9 * size, 0.4 * size, 0.1), 0.7 * size)
    return leaves.words


def _rock(b, rng):
    paint, size = (
        b.paint(
            ("grey", "brown", "black"), ("plain", "speckled", "shaded"), seconds=("grey", "white", "brown", "black")
        ),
        rng.uniform(0.3, 0.55),
    )
    b.ball(paint, (0, 0.2 * size, 0), size)
    b.box(paint, (0.5 * size, 0.3 * size, 0.2 * size), (size, size, 1.2 * size), 0.5)
    return paint.words


def _house(b, rng):
    walls = b.paint(
        ("white", "cream", "red", "yellow", "grey", "pink", "blue"), ("brick", "plain", "wooden", "tiled"), 0.9
    )
    roof = b.paint(("red", "brown", "grey", "black", "orange"), ("tiled", "plain", "wooden"), 0.7)
    x, y, z = rng.uniform(1.6, 2.4), rng.uniform(2.0, 3.2), rng.uniform(1.3, 1.8)
    b.box(walls, (0, y / 2, 0), (2 * x, y, 2 * z))
    if rng.random() < 0.75:  # a beam on its edge, its lower half inside the house
        side = math.sqrt(2) * (z + 0.12)
        b.box(roof, (0, y, 0), (2 * x + 0.2, side, side), np.pi / 4)
        b.box(b.paint(("red", "grey"), ("brick",)), (0.5 * x, y + z, 0.25 * z), (0.4, 0.9, 0.4))
    else:
        b.box(roof, (0, y + 0.1, 0), (2 * x + 0.3, 0.2, 2 * z + 0.3))
    frame, pane = b.paint(("white", "brown", "green"), ("plain",)), b.paint(("blue", "black"), ("plain",))
    b.box(frame, (0, 0.85, -z), (0.8, 1.7, 0.1))
    for side in (-0.6, 0.6):
        b.box(frame, (side * x, 1.25, -z), (0.95, 0.95, 0.08))
        b.box(pane, (side * x, 1.25, -z), (0.75, 0.75, 0.14))
    return walls.words


def _car(b, rng):
    paint, glass, tyre = (
        b.paint(patterns=("plain", "striped", "shaded")),
        b.paint(("black", "blue"), ("plain",)),
        b.paint(("black",), ("plain",)),
    )
    b.box(paint, (0, 0.5, 0), (1.5, 0.5, 3.2))
    b.box(glass, (0, 0.92, 0.2), (1.3, 0.4, 1.6))
    b.box(paint, (0, 1.15, 0.2), (1.34, 0.08, 1.5))
    for x in (-0.7, 0.7):
        for z in (-1.0, 1.0):
            b.ball(tyre, (x, 0.3, z), 0.3)
    return paint.words


def _pole(b, rng):
    paint, tall = b.paint(("grey", "black", "white", "green"), ("plain", "striped")), rng.uniform(2.6, 3.6)
    b.box(paint, (0, tall / 2, 0), (0.14, tall, 0.14))
    b.box(paint, (0, tall, -0.4), (0.12, 0.12, 0.9))
    b.ball(b.paint(("white", "yellow"), ("plain",)), (0, tall - 0.15, -0.75), 0.17)
    return paint.words


def _fence(b, rng):
    paint, x = b.paint(("white", "brown", "grey"), SMOOTH), rng.uniform(1.0, 1.6)
    for y in (0.35, 0.75):
        b.box(paint, (0, y, 0), (2 * x, 0.14, 0.06))
    for side in np.linspace(-x, x, 5):
        b.box(paint, (side, 0.5, 0), (0.12, 1.0, 0.1))
    return paint.words


def _bench(b, rng):
    paint = b.paint((*TIMBER, "green", "red"), SMOOTH)
    b.box(paint, (0, 0.45, 0), (1.4, 0.08, 0.45))
    b.box(paint, (0, 0.8, 0.22), (1.4, 0.4, 0.06))
    b.legs(paint, 0.6, 0.18, 0.45, 0.09)
    return paint.words


def _snowman(b, rng):
    body, dark, nose = (
        b.paint(("white", "cream"), ("plain", "plain", "speckled", "shaded")),
        b.paint(("black", "blue", "red"), CLOTH),
        b.paint(("orange",), ("plain",)),
    )
    b.ball(body, (0, 0.42, 0), 0.45)
    b.ball(body, (0, 1.0, 0), 0.33)
    b.ball(body, (0, 1.45, 0), 0.23)
    b.box(nose, (0, 1.45, -0.26), (0.07, 0.07, 0.2))
    b.box(dark, (0, 1.64, 0), (0.5, 0.05, 0.5))
    b.box(dark, (0, 1.78, 0), (0.3, 0.28, 0.3))
    for x in (-0.09, 0.09):
        b.ball(dark, (x, 1.53, -0.19), 0.04)
    return body.words


def _robot(b, rng):
    body, limbs, eyes = b.paint(), b.paint(patterns=("plain",)), b.paint(("black", "white"), ("plain",))
    for x in (-0.17, 0.17):
        b.box(limbs, (x, 0.28, 0), (0.2, 0.56, 0.24))
        b.box(limbs, (2.35 * x, 0.82, rng.uniform(-0.15, 0.05)), (0.15, 0.6, 0.18), rng.uniform(-0.6, 0.6))
        b.ball(eyes, (0.6 * x, 1.43, -0.2), 0.06)
    b.box(body, (0, 0.85, 0), (0.6, 0.65, 0.38))
    b.box(body, (0, 1.4, 0), (0.42, 0.36, 0.36))
    b.ball(limbs, (0, 1.66, 0), 0.1)
    return body.words


SIGHTS = {
    "tree": _tree,
    "bush": _bush,
    "rock": _rock,
    "house": _house,
    "car": _car,
    "pole": _pole,
    "fence": _fence,
    "bench": _bench,
    "snowman": _snowman,
    "robot": _robot,
}
