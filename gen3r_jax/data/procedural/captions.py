"""Captions of procedural scenes, of a small closed vocabulary: what there is, where, and how the camera moves."""

import math
import re

import numpy as np
from jaxtyping import Float

from gen3r_jax.data.procedural.builder import Thing
from gen3r_jax.data.procedural.layout import Layout
from gen3r_jax.data.procedural.paint import COLORS, PATTERNS, SHIFTED_PATTERNS
from gen3r_jax.data.procedural.placing import THINGS

OPENINGS = {
    "room": "A room with a {floor} floor and {walls} walls.",
    "field": "A {ground} field under a {sky} sky.",
    "hills": "A {ground} field with hills under a {sky} sky.",
    "street": "A street with a {road} road under a {sky} sky.",
    "object on floor": "A {thing} on the {floor} floor of a room with {walls} walls.",
    "object on table": "A {thing} on a {table} in a room with {walls} walls.",
    "object on field": "A {thing} on a {ground} field under a {sky} sky.",
}
WHERE = {
    "room": "in a room with {walls} walls",
    "field": "over a {ground} field",
    "street": "along a {road} street",
    "object": "around a {thing}",
}
SIDES = ("on the left", "ahead", "on the right")
DIRECTIONS = ("to the left", "to the right", "up", "down", "backward", "forward")
VERBS = ("moves", "drives", "orbits")
_LISTING = "From near to far there is {things}."
_CAMERA = "The camera {movement}."
_SHORT = "The camera {movement} {where}."
_STILL, _TURNS, _AND, _NEAREST = "stands still", ("turns left", "turns right"), " and ", "There is {thing}."

_TEXTS = (
    *OPENINGS.values(), *WHERE.values(), *SIDES, *DIRECTIONS, *VERBS, _LISTING, _CAMERA, _SHORT, _STILL, *_TURNS, _AND,
    _NEAREST, "an", *COLORS, *PATTERNS, *SHIFTED_PATTERNS, *THINGS,
)  # fmt: skip
VOCABULARY = tuple(
    sorted({word for text in _TEXTS for word in re.findall(r"[a-z]+", re.sub(r"{\w+}", "", text).lower())})
)
"""Every word that captions can have, in lower case."""

LONGEST = 60
"""Words and marks of a caption at most."""


def describe(layout: Layout, views: Float[np.ndarray, "t 4 4"]) -> tuple[str, str]:
    """A long caption that says where things stand in the first view, from near to far, and a short one."""
    facts, movement = layout.facts, _movement(views, layout.verb)
    seen = _seen(layout.things, views[0])
    opening, camera = OPENINGS[layout.opening].format(**facts), _CAMERA.format(movement=movement)
    for count in range(min(4, len(seen)), -1, -1):
        listing = [_LISTING.format(things=_list([words for _, words in seen[:count]]))] if count else []
        long = _polished(" ".join((opening, *listing, camera)))
        if len(re.findall(r"\w+|[^\w\s]", long)) <= LONGEST:
            break
    short = [_SHORT.format(movement=movement, where=WHERE[layout.where].format(**facts))]
    if seen:
        short.append(_NEAREST.format(thing=max(seen)[1]))
    return long, _polished(" ".join(short))


def _seen(things: tuple[Thing, ...], c2w: Float[np.ndarray, "4 4"]) -> list[tuple[float, str]]:
    """Things in view from near to far: how large each looks, and words that say what it is and where."""
    found = []
    for thing in things:
        middle = np.asarray(thing.place) - [0, thing.height / 2, 0]
        x, _, z = (middle - c2w[:3, 3]) @ c2w[:3, :3]
        if z > 0.3 and abs(x) < 0.6 * z:
            side = SIDES[0 if x < -0.2 * z else 2 if x > 0.2 * z else 1]
            found.append((z, max(thing.radius, thing.height / 2) / z, f"a {thing.words} {side}"))
    return [(size, words) for _, size, words in sorted(found)]


def _movement(views: Float[np.ndarray, "t 4 4"], verb: str) -> str:
    relative = np.linalg.inv(views[0]) @ views[-1]
    step, yaw = relative[:3, 3], math.atan2(relative[0, 2], relative[2, 2])
    axis = 0 if verb == "orbits" else int(np.abs(step).argmax())
    names = (DIRECTIONS[:2], ("up", "down"), ("backward", "forward"))
    words = f"{verb} {names[axis][int(step[axis] > 0)]}" if np.linalg.norm(step) > 0.05 else _STILL
    if abs(yaw) > math.radians(6) and verb != "orbits":
        words += _AND + _TURNS[int(yaw > 0)]
    return words


def _list(parts: list[str]) -> str:
    return _AND.join([", ".join(parts[:-1]), parts[-1]] if len(parts) > 1 else parts)


def _polished(text: str) -> str:
    return re.sub(r"\b([Aa]) (?=[aeiou])", r"\1n ", text)
