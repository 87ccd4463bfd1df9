"""What every kind of scene draws: a world, the camera's way through it, and the facts that captions tell."""

from dataclasses import dataclass, field

import numpy as np

from gen3r_jax.data.procedural.builder import Thing
from gen3r_jax.data.procedural.paths import Path
from gen3r_jax.data.procedural.raycast import World

SAMPLES = np.linspace(0, 1, 65)
"""Where a path is compared with what stands near it."""


@dataclass(frozen=True)
class Layout:
    """things: what captions may name. opening, where, verb: templates and the word for the movement, see
    ``captions.py``; facts: what is filled in."""

    world: World
    position: Path
    target: Path
    things: tuple[Thing, ...]
    opening: str
    where: str
    verb: str = "moves"
    facts: dict[str, str] = field(default_factory=dict)
