"""Things for rooms. Each function builds one and gives the words for its looks."""

import numpy as np

from gen3r_jax.data.procedural.builder import CLOTH, SMOOTH, TIMBER


def _box(b, rng):
    paint, (x, y, z) = b.paint(), rng.uniform(0.35, 1.0, 3)
    b.box(paint, (0, y / 2, 0), (x, y, z))
    return paint.words


def _column(b, rng):
    paint, side, tall = b.paint(), rng.uniform(0.25, 0.45), rng.uniform(1.3, 2.0)
    b.box(paint, (0, tall / 2, 0), (side, tall, side))
    return paint.words


def _ball(b, rng):
    paint, radius = b.paint(patterns=CLOTH), rng.uniform(0.18, 0.5)
    b.ball(paint, (0, radius, 0), radius)
    return paint.words


def _table(b, rng):
    paint, x, z, y = b.paint(TIMBER, SMOOTH), rng.uniform(0.5, 0.8), rng.uniform(0.35, 0.5), rng.uniform(0.6, 0.8)
    b.box(paint, (0, y, 0), (2 * x, 0.07, 2 * z))
    b.legs(paint, x - 0.08, z - 0.08, y, 0.09)
    top, things = y + 0.035, rng.integers(0, 3)
    for side in (-0.5, 0.5)[:things]:
        look, size = b.paint(patterns=CLOTH), rng.uniform(0.12, 0.2)
        if rng.random() < 0.5:
            b.ball(look, (side * x, top + size, 0), size)
        else:
            b.box(look, (side * x, top + size, 0), (1.6 * size, 2 * size, 1.6 * size))
    return paint.words


def _chair(b, rng):
    paint, y = b.paint((*TIMBER, "red", "blue", "green"), SMOOTH), rng.uniform(0.42, 0.5)
    b.box(paint, (0, y, 0), (0.5, 0.07, 0.5))
    b.box(paint, (0, y + 0.33, 0.22), (0.5, 0.6, 0.06))
    b.legs(paint, 0.21, 0.21, y, 0.07)
    return paint.words


def _stool(b, rng):
    paint, y = b.paint(patterns=SMOOTH), rng.uniform(0.45, 0.7)
    b.box(paint, (0, y, 0), (0.4, 0.09, 0.4))
    b.legs(paint, 0.14, 0.14, y, 0.07)
    return paint.words


def _shelf(b, rng):
    paint, x, y = b.paint(TIMBER, SMOOTH), rng.uniform(0.4, 0.7), rng.uniform(1.2, 1.9)
    b.box(paint, (0, y / 2, 0.16), (2 * x, y, 0.04))
    for side in (-x, x):
        b.box(paint, (side, y / 2, 0), (0.05, y, 0.36))
    boards = int(rng.integers(3, 5))
    for level in np.linspace(0.06, y, boards):
        b.box(paint, (0, level, 0), (2 * x, 0.05, 0.35))
        if level < y and rng.random() < 0.8:
            size, side = rng.uniform(0.09, 0.14), rng.uniform(-0.6, 0.6) * x
            b.box(b.paint(scale=0.3), (side, level + 0.025 + size, -0.02), (2.5 * size, 2 * size, 0.2))
    return paint.words


def _cupboard(b, rng):
    paint, x, y = b.paint((*TIMBER, "blue", "green"), SMOOTH), rng.uniform(0.4, 0.7), rng.uniform(0.9, 1.8)
    b.box(paint, (0, y / 2, 0), (2 * x, y, 0.5))
    knob = b.paint(("black", "yellow", "white"), ("plain",))
    for side in (-1, 1):
        b.box(paint, (side * x / 2, y / 2, -0.26), (0.9 * x, 0.9 * y, 0.03))
        b.ball(knob, (side * 0.12, y / 2, -0.29), 0.035)
    return paint.words


def _sofa(b, rng):
    paint, x = b.paint(patterns=CLOTH), rng.uniform(0.7, 1.0)
    b.box(paint, (0, 0.21, 0), (2 * x, 0.42, 0.8))
    b.box(paint, (0, 0.45, 0.35), (2 * x, 0.85, 0.22))
    for side in (-x, x):
        b.box(paint, (side, 0.3, 0), (0.2, 0.6, 0.85))
    cushion = b.paint(patterns=CLOTH, scale=0.3)
    b.box(cushion, (rng.uniform(-0.4, 0.4) * x, 0.58, 0.16), (0.4, 0.36, 0.14), 0.35)
    return paint.words


def _bed(b, rng):
    paint, frame, x = b.paint(patterns=CLOTH), b.paint(TIMBER, SMOOTH), rng.uniform(0.45, 0.75)
    b.box(frame, (0, 0.16, 0), (2 * x + 0.1, 0.22, 2.0))
    b.box(frame, (0, 0.45, 1.0), (2 * x + 0.1, 0.9, 0.08))
    b.box(paint, (0, 0.36, -0.05), (2 * x, 0.22, 1.86))
    b.box(b.paint(("white", "cream"), ("plain",)), (0, 0.5, 0.7), (1.4 * x, 0.14, 0.36))
    return paint.words


def _lamp(b, rng):
    paint, foot, tall = (
        b.paint(("white", "yellow", "cream", "red", "orange")),
        b.paint(TIMBER, SMOOTH),
        rng.uniform(1.2, 1.6),
    )
    b.box(foot, (0, 0.03, 0), (0.34, 0.06, 0.34))
    b.box(foot, (0, tall / 2, 0), (0.06, tall, 0.06))
    b.ball(paint, (0, tall, 0), rng.uniform(0.18, 0.24))
    return paint.words


def _plant(b, rng):
    pot, leaves, size = b.paint(("red", "brown", "white", "blue")), b.leaves(0.3), rng.uniform(0.22, 0.32)
    b.box(pot, (0, 0.17, 0), (0.34, 0.34, 0.34))
    b.box(b.paint(("brown",), ("plain",)), (0, 0.45, 0), (0.06, 0.4, 0.06))
    b.ball(leaves, (0, 0.45 + size, 0), size)
    b.ball(leaves, (0.3 * size, 0.5 + 2.1 * size, 0.2 * size), 0.7 * size)
    return leaves.words


def _tower(b, rng):
    """Blocks and a ball on each other."""
    paint, y, side = b.paint(), 0.0, rng.uniform(0.6, 0.8)
    for level in range(int(rng.integers(3, 5))):
        tall = rng.uniform(0.25, 0.45)
        b.box(b.paint() if level else paint, (rng.uniform(-0.05, 0.05), y + tall / 2, 0), (side, tall, side))
        y, side = y + tall, side * rng.uniform(0.65, 0.9)
    b.ball(b.paint(patterns=CLOTH), (0, y + side / 2, 0), side / 2)
    return paint.words


FURNITURE = {
    "box": _box,
    "column": _column,
    "ball": _ball,
    "table": _table,
    "chair": _chair,
    "stool": _stool,
    "shelf": _shelf,
    "cupboard": _cupboard,
    "sofa": _sofa,
    "bed": _bed,
    "lamp": _lamp,
    "plant": _plant,
    "tower": _tower,
}
