"""What a validation of VGGT shows: depth and cameras of whole clips, beside those of predictions that know nothing.

``depth.png``: frames, true depth and predicted depth of the first clips, in the same colours.
"""

from pathlib import Path

import numpy as np
from jaxtyping import Float

from gen3r_jax.errors import UserError
from gen3r_jax.evaluation.depth import depth_errors
from gen3r_jax.export.grid import spread, write_grid
from gen3r_jax.export.video import colorize_depth, depth_limits
from gen3r_jax.geometry.cameras import decode_pose, invert_se3
from gen3r_jax.geometry.poses import pose_errors
from gen3r_jax.training.stage import Batch

SHOWN = 3  # clips in the picture


def judge(
    directory: Path, clips: Batch, pose_enc: Float[np.ndarray, "b t 9"], depth: Float[np.ndarray, "b t h w"]
) -> dict[str, float]:
    """Means over clips; writes the picture.

    ``abs_rel`` and ``delta_1.25`` of depth after one scale a clip; ``auc_30``, and the mean ``rotation_degrees`` and
    ``translation_degrees``, of all pairs of frames; ``..._constant`` of the same depth everywhere, ``..._identity`` of
    cameras that stand still (of which only the rotation says something).
    """
    frames, true_depth = clips["frames"], np.asarray(clips["depth"], np.float32)
    rows, results = {}, []
    for i, clip in enumerate(frames):
        w2c, _ = decode_pose(np.asarray(pose_enc[i]), clip.shape[1:3])
        cameras = pose_errors(invert_se3(w2c), clips["c2w"][i])
        still = pose_errors(np.tile(np.eye(4), (len(clip), 1, 1)), clips["c2w"][i])
        if not (true_depth[i] > 0).any():
            raise UserError(
                f"no depth is known in clip {i} of the validation; give fewer config.validation.clips, or others"
            )
        found = depth_errors(depth[i], true_depth[i])
        constant = depth_errors(np.ones_like(true_depth[i]), true_depth[i])
        results.append(
            {
                "abs_rel": found.abs_rel,
                "abs_rel_constant": constant.abs_rel,
                "delta_1.25": found.delta,
                "auc_30": cameras.auc(30),
                "rotation_degrees": cameras.rotation.mean(),
                "rotation_degrees_identity": still.rotation.mean(),
                "translation_degrees": np.nanmean(cameras.translation),
            }
        )
        if i < SHOWN:
            times, limits = spread(len(clip)), depth_limits(true_depth[i])
            rows[f"clip {i}"] = clip[times]
            rows[f"clip {i}, true depth"] = colorize_depth(true_depth[i][times], limits)
            rows[f"clip {i}, predicted"] = colorize_depth(found.scale * depth[i][times], limits)
    write_grid(directory / "depth.png", rows)
    return {name: float(np.mean([result[name] for result in results])) for name in results[0]}
