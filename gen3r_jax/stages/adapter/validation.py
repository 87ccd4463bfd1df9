"""What a validation of the geometry adapter shows: the same clip with VGGT's own tokens and with decoded ones.

* ``depth.png``, ``depth.mp4``: frames, depth from VGGT's tokens, depth through the adapter, in the same colours.
* ``latents.png``: the first three principal components of the video's latents A and of the adapter's latents G as
  colours. Each has its own components, found over the clip; the last row shows G in the components and the range of A,
  where equal colours mean equal latents.
* ``points_vggt.ply``, ``points_adapter.ply``: both point clouds.
"""

from dataclasses import dataclass, replace
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, UInt8

from gen3r_jax.evaluation.geometry import aligned_chamfer
from gen3r_jax.export.grid import spread, write_grid
from gen3r_jax.export.pointcloud import scene_cloud, write_ply
from gen3r_jax.export.video import colorize_depth, depth_limits, write_video
from gen3r_jax.generation import networks
from gen3r_jax.models.causal_autoencoder import DiagonalGaussian
from gen3r_jax.models.geometry_adapter import GeometryAdapter
from gen3r_jax.models.vggt import VGGT
from gen3r_jax.scene import Scene
from gen3r_jax.stages.adapter.losses import cosine_distance, kl_divergence, smooth_l1

CLOUD_SIDE = 140  # clouds are compared on a grid of about so many pixels a side


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class Views:
    """What there is to see of clips.

    Attributes:
      direct, through: geometry from VGGT's tokens, and from the tokens that the adapter decodes.
      appearance, geometry: the video's latents A and the adapter's latents G.
    """

    direct: networks.Geometry
    through: networks.Geometry
    appearance: Float[Array, "b f h w c"]
    geometry: Float[Array, "b f h w c"]


def judge(
    vggt: VGGT, adapter: GeometryAdapter, packed: Float[Array, "b t hp wp c"], video: DiagonalGaussian
) -> tuple[dict[str, Float[Array, ""]], Views]:
    """Takes tokens through the mode of the adapter's posterior and compares; to be called inside a jitted function."""
    posterior = adapter.encode(packed)
    decoded = adapter.decode(posterior.mode())
    both = networks.decode_tokens(vggt, jnp.concatenate([packed, decoded.astype(packed.dtype)]))
    b = len(packed)
    direct, through = (
        replace(both, pose_encs=both.pose_encs[:, part], depth=both.depth[part], confidence=both.confidence[part])
        for part in (slice(b), slice(b, None))
    )
    decoded, packed = (x.astype(jnp.float32) for x in (decoded, packed))
    metrics = {
        "token_loss": smooth_l1(decoded, packed, beta=0.15).mean(),
        "token_distance": cosine_distance(decoded, packed).mean(),
        "kl": kl_divergence(posterior, video).mean(),
    }
    return metrics, Views(direct, through, video.mode(), posterior.mode())


def write(directory: Path, frames: UInt8[np.ndarray, "b t h w 3"], views: Views) -> dict[str, float]:
    """Writes the files of the module's docstring for the first clip; returns the means of :func:`compare` over all."""
    pairs = [
        (networks.to_scene(clip, views.direct, sample), networks.to_scene(clip, views.through, sample))
        for sample, clip in enumerate(frames)
    ]
    _write_pictures(directory, *pairs[0], np.asarray(views.appearance[0]), np.asarray(views.geometry[0]))
    differences = [compare(*pair) for pair in pairs]
    return {name: float(np.mean([one[name] for one in differences])) for name in differences[0]}


def _write_pictures(directory: Path, direct: Scene, through: Scene, appearance: np.ndarray, geometry: np.ndarray):
    frames, limits = direct.rgb, depth_limits(direct.depth)
    depths = [colorize_depth(scene.depth, limits) for scene in (direct, through)]
    times = spread(len(frames))
    rows = {"frames": frames[times], "depth, VGGT": depths[0][times], "depth, adapter": depths[1][times]}
    write_grid(directory / "depth.png", rows)
    write_video(directory / "depth.mp4", np.concatenate([frames, *depths], axis=2))

    times = spread(len(appearance))
    rows = {name: colors[times] for name, colors in latent_colors(appearance, geometry).items()}
    # The first latent stands for one frame, each other one for four, of which the last is shown.
    write_grid(directory / "latents.png", {"frames": frames[4 * times], **rows})

    for name, scene in (("vggt", direct), ("adapter", through)):
        write_ply(directory / f"points_{name}.ply", *scene_cloud(scene))


def compare(direct: Scene, through: Scene) -> dict[str, float]:
    """Relative depth error, Chamfer distance in percent of the cloud's size, and camera differences.

    ``translation`` is in units of the median depth.
    """
    stride = max(1, direct.depth.shape[1] // CLOUD_SIDE)
    clouds = [scene.points[:, ::stride, ::stride] for scene in (through, direct)]
    relative = direct.w2c @ np.linalg.inv(through.w2c)
    cosine = (np.trace(relative[:, :3, :3], axis1=1, axis2=2) - 1) / 2
    shift = np.linalg.norm(direct.w2c[:, :3, 3] - through.w2c[:, :3, 3], axis=1)
    return {
        "depth_relative_error": float(np.mean(np.abs(through.depth - direct.depth) / direct.depth)),
        "chamfer_percent": aligned_chamfer(*clouds, num_points=5000).relative_percent,
        "rotation_degrees": float(np.degrees(np.arccos(np.clip(cosine, -1, 1))).mean()),
        "translation": float(shift.mean() / np.median(direct.depth)),
    }


def latent_colors(
    appearance: Float[np.ndarray, "f h w c"], geometry: Float[np.ndarray, "f h w c"]
) -> dict[str, UInt8[np.ndarray, "f h w 3"]]:
    """Principal components as colours: A and G in their own, and G in those of A."""
    own, foreign = _Components(appearance), _Components(geometry)
    return {"A (video)": own(appearance), "G (geometry)": foreign(geometry), "G as A": own(geometry)}


class _Components:
    """The first three principal components of latents, with the range (1st to 99th percentile) they have there."""

    def __init__(self, latents: np.ndarray):
        x = latents.reshape(-1, latents.shape[-1]).astype(np.float64)
        self.mean = x.mean(axis=0)
        self.axes = np.linalg.eigh(np.cov(x, rowvar=False))[1][:, :-4:-1]
        self.low, self.high = np.percentile((x - self.mean) @ self.axes, (1, 99), axis=0)

    def __call__(self, latents: np.ndarray) -> np.ndarray:
        scaled = ((latents - self.mean) @ self.axes - self.low) / np.maximum(self.high - self.low, 1e-12)
        return np.round(255 * np.clip(scaled, 0, 1)).astype(np.uint8)
