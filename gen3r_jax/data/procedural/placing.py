"""Building things by name, and finding free places for them."""

from collections.abc import Callable, Sequence

import numpy as np
from jaxtyping import Float

from gen3r_jax.data.procedural.builder import Builder, Thing
from gen3r_jax.data.procedural.furniture import FURNITURE
from gen3r_jax.data.procedural.paint import Palette
from gen3r_jax.data.procedural.sights import SIGHTS
from gen3r_jax.data.procedural.style import CLEARANCE

THINGS = FURNITURE | SIGHTS
"""What there is, by the name that captions use."""


def build(name: str, rng: np.random.Generator, palette: Palette, yaw: float | None = None) -> Thing:
    """A thing of one of :data:`THINGS` at the origin, turned at random unless `yaw` is given."""
    builder = Builder(rng, palette, rng.uniform(0, 2 * np.pi) if yaw is None else yaw)
    return builder.thing(name, THINGS[name](builder, rng))


class Placer:
    """Puts things where they touch neither each other nor those that stand there already, where `fits` has no
    objection, and so far from the camera's `walk` that none fills the view."""

    def __init__(
        self,
        walk: Float[np.ndarray, "n 3"],
        standing: Sequence[Thing] = (),
        fits: Callable[[Thing], bool] = lambda thing: True,
    ):
        self.walk, self.standing, self.fits = walk, tuple(standing), fits
        self.things: list[Thing] = []

    def place(self, thing: Thing, propose: Callable[[], Float[np.ndarray, "3"]], attempts: int = 15) -> bool:
        """Tries places; a thing that finds no free one is left out."""
        for _ in range(attempts):
            if self._is_free(moved := thing.at(propose())):
                self.things.append(moved)
                return True
        return False

    def _is_free(self, thing: Thing) -> bool:
        others = (*self.standing, *self.things)
        gaps = (np.hypot(*(thing.place - other.place)[[0, 2]]) - thing.radius - other.radius for other in others)
        if not self.fits(thing) or any(gap < 0.05 for gap in gaps):
            return False
        return thing.distance(self.walk) > max(CLEARANCE + 0.05, 0.7 * max(thing.radius, thing.height / 2))
