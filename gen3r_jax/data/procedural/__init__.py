"""Procedural scenes for any seed, with exact depth, cameras and captions: the data set that ships as code.

Rooms with furniture, fields, single objects and streets, made of boxes and balls in different paints; the camera moves
on a smooth path and never comes closer than 0.4 m to anything. Everything follows from the seed.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from jaxtyping import Float, UInt8

from gen3r_jax.data.clips import default_intrinsics
from gen3r_jax.data.procedural.captions import VOCABULARY, describe
from gen3r_jax.data.procedural.objects import draw_object
from gen3r_jax.data.procedural.outdoors import draw_field, draw_street
from gen3r_jax.data.procedural.paths import Path, look_at
from gen3r_jax.data.procedural.raycast import World
from gen3r_jax.data.procedural.rooms import draw_room
from gen3r_jax.data.procedural.style import CLEARANCE, STYLES, Difficulty
from gen3r_jax.errors import UserError

__all__ = [
    "CLEARANCE", "KINDS", "VOCABULARY", "Clip", "Difficulty", "ProceduralScene",
    "look_at", "make_scene", "render_clip", "require_choices",
]  # fmt: skip

_DRAW = {"rooms": draw_room, "outdoors": draw_field, "objects": draw_object, "drives": draw_street}
KINDS = tuple(_DRAW)
"""Kinds of scenes: walks in rooms and over fields, arcs around an object, drives along streets."""


@dataclass(frozen=True)
class ProceduralScene:
    """A world, a way through it (where the camera is, what it looks at), and words for it.

    roll: radians by which the camera leans at the beginning and at the end.
    fov_degrees: angle seen across the longer side of the image.
    """

    kind: str
    world: World
    position: Path
    target: Path
    roll: tuple[float, float]
    fov_degrees: float
    captions: tuple[str, ...]

    def cameras(
        self, num_frames: int, size: tuple[int, int]
    ) -> tuple[Float[np.ndarray, "t 4 4"], Float[np.ndarray, "t 3 3"]]:
        """Camera-to-world poses (OpenCV axes, metres, gravity along +y) along the way, and pixel intrinsics."""
        c2w = _views(self.position, self.target, self.roll, num_frames)
        return c2w, np.repeat(default_intrinsics(size, self.fov_degrees)[None], num_frames, axis=0)

    def render(
        self, c2w: Float[np.ndarray, "4 4"], intrinsics: Float[np.ndarray, "3 3"], size: tuple[int, int]
    ) -> tuple[UInt8[np.ndarray, "h w 3"], Float[np.ndarray, "h w"]]:
        """8-bit RGB and z-depth (float32 metres, 0 where sky is seen) from any camera in the free space."""
        return self.world.render(c2w, intrinsics, size)


class Clip(NamedTuple):
    """A rendered clip: every pixel's depth and every camera are exact; the sky's depth is 0, not known."""

    frames: UInt8[np.ndarray, "t h w 3"]
    depth: Float[np.ndarray, "t h w"]
    c2w: Float[np.ndarray, "t 4 4"]
    intrinsics: Float[np.ndarray, "t 3 3"]
    captions: tuple[str, ...]


def render_clip(
    seed: int,
    num_frames: int,
    size: tuple[int, int],
    difficulty: Difficulty = "easy",
    kinds: Sequence[str] = KINDS,
) -> Clip:
    """Renders the whole way of the scene with this seed in `num_frames` frames of `size` (height, width)."""
    scene = make_scene(seed, difficulty, kinds)
    c2w, intrinsics = scene.cameras(num_frames, size)
    views = [scene.render(pose, camera, size) for pose, camera in zip(c2w, intrinsics, strict=True)]
    frames, depth = (np.stack(arrays) for arrays in zip(*views, strict=True))
    return Clip(frames, depth, c2w, intrinsics, scene.captions)


def make_scene(seed: int, difficulty: Difficulty = "easy", kinds: Sequence[str] = KINDS) -> ProceduralScene:
    """Draws a scene of one of `kinds`.

    "easy": slow cameras, coarse soft-edged patterns, fields of view of 60 to 75 degrees. "full": three times the motion
    (in rooms about 1.4 m and 35 degrees from end to end), small patterns with hard edges, 55 to 80 degrees.
    "shifted", for tests away from what was trained on: other shades and patterns, faster cameras that go sideways, in
    wide arcs and spirals, and lean.

    Raises UserError for a difficulty or kinds that do not exist.
    """
    require_choices(difficulty, kinds)
    rng, style = np.random.default_rng(seed), STYLES[difficulty]
    kind = str(rng.choice(list(kinds)))
    layout = _DRAW[kind](rng, style)
    roll = tuple(np.radians(style.tilt) * rng.uniform(-1, 1, 2))
    captions = describe(layout, _views(layout.position, layout.target, roll, 2))
    fov_degrees = float(rng.uniform(*style.fov_degrees))
    return ProceduralScene(kind, layout.world, layout.position, layout.target, roll, fov_degrees, captions)


def require_choices(difficulty: str, kinds: Sequence[str]) -> None:
    """Raises UserError for a difficulty that does not exist, and where `kinds` is empty or has one that does not."""
    if difficulty not in STYLES:
        raise UserError(f"difficulty of procedural scenes: {difficulty}; it is one of {' '.join(STYLES)}")
    if not kinds or isinstance(kinds, str) or set(kinds) - set(KINDS):
        given = kinds if isinstance(kinds, str) else " ".join(map(str, kinds)) or "none"
        raise UserError(f"kinds of procedural scenes: {given}; they are some of {' '.join(KINDS)}, as a tuple")


def _views(position: Path, target: Path, roll: tuple[float, float], num_frames: int) -> Float[np.ndarray, "t 4 4"]:
    s = np.linspace(0, 1, num_frames)
    return look_at(position(s), target(s), np.interp(s, (0, 1), roll))
