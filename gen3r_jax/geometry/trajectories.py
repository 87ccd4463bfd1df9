"""Camera paths: Gen3R's presets and movements that do what their names say, and poses resampled along their path."""

from typing import Annotated

import numpy as np
from jaxtyping import Float

from gen3r_jax.errors import UserError, notice
from gen3r_jax.options import Range, nearest, read_value

# Name -> what the camera does. Despite their names, Gen3R's `arc_*` pans and `translate_*` tilts in place.
PRESETS = {
    "free": "not told: the model chooses",
    "zoom_in": "Gen3R: forward by a scene scale",
    "zoom_out": "Gen3R: backward by a scene scale",
    "arc_left": "Gen3R: turns left by 15 degrees in place",
    "arc_right": "Gen3R: turns right by 15 degrees in place",
    "translate_up": "Gen3R: turns up by 15 degrees in place",
    "translate_down": "Gen3R: turns down by 15 degrees in place",
    "static": "does not move",
    "orbit_left": "around the scene's middle, moving left by an angle",
    "orbit_right": "around the scene's middle, moving right by an angle",
    "truck_left": "sideways to the left",
    "truck_right": "sideways to the right",
    "pedestal_up": "straight up",
    "pedestal_down": "straight down",
    "dolly_in": "forward",
    "dolly_out": "backward",
    "spiral": "forward on a helix around the optical axis, looking at the scene's middle",
}
EASINGS = {
    "none": "at an even speed",
    "ends": "beginning and ending slowly",
    "keys": "slowing down at every given pose",
}
_TURNS = {"arc_left": -15, "arc_right": 15, "translate_up": 15, "translate_down": -15}
# Direction in OpenCV axes (x right, y down, z forward) and usual distance in scene scales.
_MOVES = {
    "zoom_in": ((0, 0, 1), 1.0),
    "zoom_out": ((0, 0, -1), 1.0),
    "truck_left": ((-1, 0, 0), 0.3),
    "truck_right": ((1, 0, 0), 0.3),
    "pedestal_up": ((0, -1, 0), 0.3),
    "pedestal_down": ((0, 1, 0), 0.3),
    "dolly_in": ((0, 0, 1), 0.4),
    "dolly_out": ((0, 0, -1), 0.4),
}
_ORBITS = {"orbit_left": 30, "orbit_right": -30}
_BOUNDS = {"angle": Range(above=0, at_most=360), "distance": Range(above=0, at_most=100)}


def options_of(name: str) -> set[str]:
    """Which of "angle" and "distance" a preset has; none for what is no preset."""
    turns, moves = name in _TURNS or name in _ORBITS, name in _MOVES or name == "spiral"
    return {option for option, there in (("angle", turns), ("distance", moves)) if there}


def camera_path(
    name: str,
    num_frames: int,
    scene_scale: float = 1.0,
    *,
    angle: float | None = None,
    distance: float | None = None,
    easing: str = "none",
) -> Float[np.ndarray, "t 4 4"]:
    """Camera-to-world matrices (OpenCV axes) of a preset; the first is the identity, the last the end of the path.

    Args:
      name: one of :data:`PRESETS`.
      num_frames: at least 1.
      scene_scale: the unit of length; Gen3R takes 0.8 times the median depth. The scene's middle lies so far ahead.
      angle: of presets that turn, in degrees, at most 360; 15 for Gen3R's, 30 for orbits.
      distance: of presets that move, in scene scales, at most 100; for the spiral its radius, 0.1.
      easing: one of :data:`EASINGS`; a preset has its first and last pose given.

    Raises:
      UserError: an unknown name or easing; an angle or distance that is out of range or that the preset does not use.
    """
    if name not in PRESETS:
        raise UserError(
            f"camera path {name!r} is not known{nearest(name, PRESETS)}; choose one of {', '.join(PRESETS)}"
        )
    if num_frames < 1:
        raise UserError(f"a camera path needs at least 1 frame, not {num_frames}")
    if not 0 < scene_scale < np.inf:
        raise UserError(f"scene scale {scene_scale} is not a positive number")
    for option, value in (("angle", angle), ("distance", distance)):
        if value is not None and option not in options_of(name):
            raise UserError(f"camera path {name} has no {option}")
        read_value(value, Annotated[float | None, _BOUNDS[option]], f"camera_{option}")
    progress = frame_places(2, num_frames, easing)
    c2w = np.tile(np.eye(4), (num_frames, 1, 1))
    if name in _TURNS:
        turn = np.deg2rad(np.sign(_TURNS[name]) * (angle or 15)) * progress
        c2w[:, :3, :3] = _about_y(turn) if name.startswith("arc") else _about_x(turn)
    elif name in _MOVES:
        direction, usual = _MOVES[name]
        c2w[:, :3, 3] = progress[:, None] * np.array(direction) * (distance or usual) * scene_scale
    elif name in _ORBITS:
        turn = np.deg2rad(np.sign(_ORBITS[name]) * (angle or abs(_ORBITS[name]))) * progress
        c2w[:, :3, :3] = _about_y(turn)
        c2w[:, 0, 3], c2w[:, 2, 3] = -np.sin(turn) * scene_scale, (1 - np.cos(turn)) * scene_scale
    elif name == "spiral":
        radius = (distance or 0.1) * scene_scale * np.sin(np.pi * progress)  # begins and ends on the axis
        phase = 4 * np.pi * progress
        c2w[:, 0, 3], c2w[:, 1, 3] = radius * np.cos(phase), radius * np.sin(phase)
        c2w[:, 2, 3] = 0.2 * scene_scale * progress
        c2w[:, :3, :3] = _looking_at(np.array([0, 0, scene_scale]) - c2w[:, :3, 3])
    return c2w


def frame_places(
    poses: int, num_frames: int, easing: str = "none", stamps: Float[np.ndarray, "n"] | None = None
) -> Float[np.ndarray, " t"]:
    """Say where on a path of `poses` its frames are: 0 is the first pose, 0.5 midway between the first two.

    Args:
      easing: one of :data:`EASINGS`.
      stamps: ascending times of the poses, which the frames follow evenly; by default all poses are equally far apart.
    """
    if easing not in EASINGS:
        raise UserError(f"camera_easing {easing!r} is none of {', '.join(EASINGS)}")
    time = np.linspace(0.0, 1.0, num_frames)
    if easing == "ends":
        time = _smooth(time)
    places = (poses - 1) * time
    if stamps is not None and stamps[-1] > stamps[0]:
        places = np.interp(time, (stamps - stamps[0]) / (stamps[-1] - stamps[0]), np.arange(poses))
    if easing == "keys":
        places = np.floor(places) + _smooth(places % 1)
    return places


def resampled(
    c2w: Float[np.ndarray, "n 4 4"],
    intrinsics: Float[np.ndarray, "n 3 3"] | None,
    num_frames: int,
    name: object,
    easing: str = "none",
    stamps: Float[np.ndarray, "n"] | None = None,
) -> tuple[Float[np.ndarray, "t 4 4"], Float[np.ndarray, "t 3 3"] | None]:
    """Poses and intrinsics of the frames of a clip, from those of a path; a line says so, and `name` whose they are.

    As many poses as frames stay as they are, without an easing. Else positions and intrinsics are mixed linearly,
    rotations on the sphere, at the places that :func:`frame_places` gives.
    """
    places = frame_places(len(c2w), num_frames, easing, stamps)
    if len(c2w) == num_frames and easing == "none":
        return c2w, intrinsics
    if len(c2w) != num_frames:
        notice(f"{name}: {len(c2w)} poses are resampled along their path to {num_frames} frames")
    before = np.clip(np.floor(places).astype(int), 0, max(len(c2w) - 2, 0))
    after = np.minimum(before + 1, len(c2w) - 1)
    share = (places - before)[:, None, None]
    result = c2w[before] + share * (c2w[after] - c2w[before])
    if len(c2w) > 1:
        from scipy.spatial.transform import Rotation, Slerp  # slow to import

        result[:, :3, :3] = Slerp(np.arange(len(c2w)), Rotation.from_matrix(c2w[:, :3, :3]))(places).as_matrix()
    if intrinsics is not None:
        intrinsics = intrinsics[before] + share * (intrinsics[after] - intrinsics[before])
    return result, intrinsics


def _smooth(time: Float[np.ndarray, " t"]) -> Float[np.ndarray, " t"]:
    """From 0 to 1 with no speed at either end."""
    return time * time * (3 - 2 * time)


def _about_x(turn: Float[np.ndarray, " t"]) -> Float[np.ndarray, "t 3 3"]:
    one, zero, cos, sin = np.ones_like(turn), np.zeros_like(turn), np.cos(turn), np.sin(turn)
    return np.moveaxis(np.array([[one, zero, zero], [zero, cos, -sin], [zero, sin, cos]]), -1, 0)


def _about_y(turn: Float[np.ndarray, " t"]) -> Float[np.ndarray, "t 3 3"]:
    one, zero, cos, sin = np.ones_like(turn), np.zeros_like(turn), np.cos(turn), np.sin(turn)
    return np.moveaxis(np.array([[cos, zero, sin], [zero, one, zero], [-sin, zero, cos]]), -1, 0)


def _looking_at(forward: Float[np.ndarray, "t 3"]) -> Float[np.ndarray, "t 3 3"]:
    """Rotations whose third column is `forward` and whose second stays near the first camera's down."""
    forward = forward / np.linalg.norm(forward, axis=-1, keepdims=True)
    right = np.cross(np.array([0.0, 1, 0]), forward)
    right /= np.linalg.norm(right, axis=-1, keepdims=True)
    return np.stack([right, np.cross(forward, right), forward], axis=-1)
