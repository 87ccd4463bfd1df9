"""Sky and what is far away, left out of a scene: its pixels become unknown, in every format that is written."""

import dataclasses

import numpy as np

from gen3r_jax.errors import UserError
from gen3r_jax.scene import Scene


def without_background(
    scene: Scene, least_confidence: float | None = None, far_percentile: float | None = None
) -> Scene:
    """The scene with the confidence 0 where a pixel is less confident, or farther, than is wanted.

    Args:
      least_confidence: networks give 1 where they know nothing, as in most of the sky, and have no upper end.
      far_percentile: pixels whose depth is above this percentile of the known ones are left out.

    Raises:
      UserError: numbers out of range, or nothing is left.
    """
    require_background(least_confidence, far_percentile)
    if least_confidence is None and far_percentile is None:
        return scene
    kept = scene.confidence > 0
    if least_confidence is not None:
        kept &= scene.confidence >= least_confidence
    if far_percentile is not None and kept.any():
        kept &= scene.depth <= np.percentile(scene.depth[kept], far_percentile)
    if least_confidence is not None and not kept.any():
        most = float(scene.confidence.max())
        raise UserError(f"--min_confidence {least_confidence} leaves nothing: the most confident pixel has {most:.3g}")
    return dataclasses.replace(scene, confidence=np.where(kept, scene.confidence, np.float32(0)))


def require_background(least_confidence: float | None, far_percentile: float | None) -> None:
    """Raises UserError for numbers out of range."""
    if least_confidence is not None and not 0 <= least_confidence < np.inf:
        raise UserError(f"--min_confidence {least_confidence} is not a number from 0 on; networks give 1 and more")
    if far_percentile is not None and not 0 < far_percentile <= 100:
        raise UserError(f"--far_percentile {far_percentile} is not above 0 and at most 100")
