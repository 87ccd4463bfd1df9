"""Built-in camera paths."""

import numpy as np
from jaxtyping import Float

from gen3r_jax.errors import UserError

# Gen3R's presets. Despite their names, `arc_*` pans and `translate_*` tilts in place; `zoom_*` travels along z.
PRESETS = ("zoom_in", "zoom_out", "arc_left", "arc_right", "translate_up", "translate_down", "free")
_MAX_ANGLE = np.deg2rad(15.0)


def preset_path(name: str, num_frames: int, scene_scale: float = 1.0) -> Float[np.ndarray, "t 4 4"]:
    """Camera-to-world matrices (OpenCV axes) of a preset, linear in time from the identity to its end.

    Args:
        name: one of :data:`PRESETS`; ``free`` stays at the identity.
        num_frames: at least 1; both ends of the path are included.
        scene_scale: how far ``zoom_*`` travels (Gen3R: 0.8 times the median depth); the rotations do not use it.
    """
    if name not in PRESETS:
        raise UserError(f"camera path {name!r} is not known; choose one of {', '.join(PRESETS)}")
    if num_frames < 1:
        raise UserError(f"a camera path needs at least 1 frame, not {num_frames}")
    progress = np.linspace(0.0, 1.0, num_frames)
    c2w = np.tile(np.eye(4), (num_frames, 1, 1))
    sign = 1.0 if name in ("zoom_in", "arc_right", "translate_up") else -1.0
    cos, sin = np.cos(progress * _MAX_ANGLE), sign * np.sin(progress * _MAX_ANGLE)
    if name.startswith("zoom"):
        c2w[:, 2, 3] = sign * scene_scale * progress
    elif name.startswith("arc"):  # about y
        c2w[:, 0, 0], c2w[:, 0, 2] = cos, sin
        c2w[:, 2, 0], c2w[:, 2, 2] = -sin, cos
    elif name.startswith("translate"):  # about x
        c2w[:, 1, 1], c2w[:, 1, 2] = cos, -sin
        c2w[:, 2, 1], c2w[:, 2, 2] = sin, cos
    return c2w.astype(np.float32)
