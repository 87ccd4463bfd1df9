"""What is known of a clip besides its pictures, and what a predicted scene becomes by it."""

import dataclasses
import math
from dataclasses import dataclass
from typing import Any

import numpy as np
from jaxtyping import Float

from gen3r_jax.errors import UserError, notice
from gen3r_jax.geometry.alignment import umeyama
from gen3r_jax.geometry.cameras import invert_se3
from gen3r_jax.geometry.points import unproject_depth
from gen3r_jax.geometry.scale import scale_from_cameras, scale_from_depth
from gen3r_jax.scene import Scene


@dataclass(frozen=True)
class KnownGeometry:
    """Any part of a clip's geometry, None where it is to be found.

    Attributes:
      c2w: camera-to-world matrices, OpenCV axes, in a world and unit of the user's own.
      intrinsics: in pixels of the frames.
      depth: along the optical axis, in the cameras' unit; 0 or not finite where it is not known.
    """

    c2w: Float[np.ndarray, "t 4 4"] | None = None
    intrinsics: Float[np.ndarray, "t 3 3"] | None = None
    depth: Float[np.ndarray, "t h w"] | None = None


def with_known(
    scene: Scene, known: KnownGeometry, scale_from: str | float | None = None
) -> tuple[Scene, dict[str, Any]]:
    """Puts what is known in the place of what was predicted, and the rest into its unit of length.

    Args:
      scale_from: "cameras", "depth", or the distance of the last camera from the first; by default the first of these
        that is known. Without any the unit stays the network's.

    Returns:
      The scene, and what is to be told: `scale`, by which predicted lengths were multiplied, and `scale_from`.

    Raises:
      UserError: arrays of other shapes than the scene's, or a scale that cannot be told.
    """
    _require_shapes(scene, known)
    source = require_scale_source(scale_from, known.c2w is not None, known.depth is not None)
    if source is None and known.intrinsics is None:
        return scene, {"scale": 1.0, "scale_from": None}
    intrinsics = scene.intrinsics if known.intrinsics is None else known.intrinsics.astype(np.float32)
    w2c = None if known.c2w is None else invert_se3(known.c2w.astype(np.float64))
    scale = 1.0
    if source == "depth":
        assert known.depth is not None
        scale = scale_from_depth(scene.depth, known.depth, scene.confidence)
    elif source == "cameras":
        assert w2c is not None
        scale = scale_from_cameras(scene.rgb, scene.depth, scene.confidence, w2c, intrinsics)
        if scale is None:
            notice("colours do not tell the scale of the given cameras; the places of the predicted ones do, inexactly")
            scale = umeyama(invert_se3(scene.w2c)[:, :3, 3], invert_se3(w2c)[:, :3, 3]).scale
    elif source is not None:
        scale = _scale_from_distance(scene, float(source))
    depth, confidence = np.float32(scale) * scene.depth, scene.confidence
    if known.depth is not None:
        given = np.isfinite(known.depth) & (known.depth > 0)
        depth = np.where(given, known.depth, depth).astype(np.float32)
        confidence = np.where(given & (confidence > 0), confidence.max(), confidence)
    if w2c is None:
        w2c = scene.w2c.copy()
        w2c[:, :3, 3] *= scale
    w2c = w2c.astype(np.float32)
    points = np.empty_like(scene.points)
    for index, cameras in enumerate(zip(depth, w2c, intrinsics, strict=True)):
        points[index] = unproject_depth(*cameras, offset=0.5)
    changed = {"depth": depth, "confidence": confidence, "w2c": w2c, "intrinsics": intrinsics, "points": points}
    return dataclasses.replace(scene, **changed), {"scale": scale, "scale_from": source}


def require_scale_source(scale_from: str | float | None, has_cameras: bool, has_depth: bool) -> str | float | None:
    """What the scale is taken from: "cameras", "depth", a distance, or None. Raises UserError where it cannot be."""
    known = {"cameras": has_cameras, "depth": has_depth}
    if scale_from is None:
        return next((name for name, has in known.items() if has), None)
    if isinstance(scale_from, str) and scale_from in known:
        if not known[scale_from]:
            raise UserError(f"--scale_from {scale_from} needs known {scale_from}: add --{scale_from}")
        return scale_from
    try:
        distance = float(scale_from)
    except ValueError:
        distance = math.nan
    if not 0 < distance < math.inf:
        raise UserError(f"--scale_from {scale_from} is neither cameras nor depth nor a distance above 0")
    if has_cameras:
        raise UserError("--scale_from DISTANCE: the cameras are given, and their unit with them; leave one of both out")
    return distance


def _scale_from_distance(scene: Scene, distance: float) -> float:
    centers = invert_se3(scene.w2c.astype(np.float64))[:, :3, 3]
    found = float(np.linalg.norm(centers[-1] - centers[0]))
    far = float(np.median(scene.depth))
    if found < 0.01 * far:
        notice(
            f"the last camera is only {found / far:.2%} of the median depth away from the first; a scale from that "
            "distance is inexact"
        )
    if found == 0:
        raise UserError("--scale_from DISTANCE: the last camera stands where the first does; give frames of two places")
    return distance / found


def _require_shapes(scene: Scene, known: KnownGeometry) -> None:
    frames = len(scene.depth)
    wanted = {"c2w": (frames, 4, 4), "intrinsics": (frames, 3, 3), "depth": scene.depth.shape}
    for name, shape in wanted.items():
        array = getattr(known, name)
        if array is not None and array.shape != shape:
            raise UserError(f"the known {name} has the shape {list(array.shape)}; this clip needs {list(shape)}")
