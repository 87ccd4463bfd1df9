"""The geometry of a scene: that which was generated, what VGGT reads from the generated video, or a mix of both.

Both worlds are the frame of the first camera, so what VGGT reads is brought into the generated world by a scale alone.
"""

from dataclasses import replace

import numpy as np

from gen3r_jax.errors import UserError
from gen3r_jax.generation.networks import Geometry
from gen3r_jax.generation.output import Gen3RPipelineOutput
from gen3r_jax.geometry.agreement import common_scale, compare, mix
from gen3r_jax.geometry.cameras import decode_pose
from gen3r_jax.geometry.points import depth_mask, unproject_depth


def require_source(source: str, joint: bool) -> None:
    """Raises UserError for another source than "generated" where the transformer generates the video alone."""
    if source != "generated" and not joint:
        raise UserError(
            f"geometry {source!r}: these weights generate the video alone, and VGGT reads the geometry from it in any "
            "case; leave geometry away"
        )


def reread(
    generated: Gen3RPipelineOutput,
    video: Geometry,
    source: str,
    *,
    free_cameras: bool,
    min_max_depth_mask: bool = False,
) -> Gen3RPipelineOutput:
    """A scene with the geometry of another source, and how far the two agree.

    Args:
      video: what VGGT reads from the frames of `generated`.
      source: "video" takes its depth, in the unit of the generated geometry; "both" the mean of the two depths,
        weighted by their confidence.
      free_cameras: whether nobody asked for cameras; they are then VGGT's, which belong to the frames. Cameras that
        were asked for stay as they were generated, which follow them more closely.
    """
    depth, confidence = generated.depth_maps[..., 0], generated.depth_confidence
    w2c, intrinsics = generated.cameras
    read_w2c, read_intrinsics = (np.asarray(x) for x in decode_pose(video.pose_encs[-1], depth.shape[2:]))
    scales = np.array([common_scale(*pair) for pair in zip(np.asarray(video.depth), depth, strict=True)], np.float32)
    read_depth = scales[:, None, None, None] * video.depth
    read_w2c[..., 3] *= scales[:, None, None]
    agreement = tuple(compare(*sample) for sample in zip(depth, w2c, read_depth, read_w2c, strict=True))
    read_confidence = np.asarray(video.confidence)
    if source == "both":
        read_depth, read_confidence = mix(depth, confidence, read_depth, read_confidence)
    cameras = (read_w2c, read_intrinsics) if free_cameras else (w2c, intrinsics)
    return replace(
        generated,
        depth_maps=read_depth[..., None],
        depth_confidence=read_confidence,
        pcds=unproject_depth(read_depth, *cameras),
        point_masks=depth_mask(read_depth, min_max_depth_mask),
        cameras=cameras,
        agreement=agreement,
    )
