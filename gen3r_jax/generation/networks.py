"""How the networks fit together: frames -> tokens -> latents -> tokens -> geometry.

The functions of the first part take networks (modules) and arrays and are to be called inside a jitted function;
training walks the same ones. :func:`reconstruct` is the whole way from a video to a :class:`Scene`.
"""

from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jaxtyping import Array, Float, Key, UInt8

from gen3r_jax import module
from gen3r_jax.geometry.cameras import decode_pose, homogeneous
from gen3r_jax.geometry.points import unproject_depth
from gen3r_jax.models.causal_autoencoder import DiagonalGaussian
from gen3r_jax.models.geometry_adapter import pack_tokens, unpack_tokens
from gen3r_jax.models.vggt import VGGT
from gen3r_jax.models.wan_vae import WanVAE
from gen3r_jax.scene import Scene

# A network outside of functions: its static part and its weights, as `load_network` gives them.
Network = tuple[nnx.GraphDef, module.Params]


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class Geometry:
    """What VGGT's heads read from tokens; all fp32.

    Attributes:
      pose_encs: camera encodings of all refinement iterations i; the last is the result.
      depth, confidence: maps as large as the frames.
      points: world points of the point head, None if VGGT has none.
    """

    pose_encs: Float[Array, "i b t 9"]
    depth: Float[Array, "b t h w"]
    confidence: Float[Array, "b t h w"]
    points: Float[Array, "b t h w 3"] | None


def finite(network: str, given: Any) -> Any:
    """What a network gave, once it is there. Raises UserError that names the network where numbers are not finite."""
    return module.require_finite(f"what the network {network} gave is", jax.block_until_ready(given))


def to_unit_range(frames: UInt8[Array, "b t h w 3"]) -> Float[Array, "b t h w 3"]:
    """Stored frames -> [0, 1]."""
    return frames.astype(jnp.float32) / 255.0


def encode_video(
    wan_vae: WanVAE, frames: Float[Array, "b t h w 3"], chunk_frames: int | None = None
) -> DiagonalGaussian:
    """Posterior of the appearance latents A of frames in [0, 1]."""
    return wan_vae.encode(2.0 * frames - 1.0, chunk_frames)


def encode_tokens(vggt: VGGT, frames: Float[Array, "b t h w 3"]) -> Float[Array, "b t hp wp c"]:
    """VGGT's tokens V of frames in [0, 1], packed on the patch grid as the geometry adapter takes them."""
    h, w = frames.shape[2:4]
    patch = vggt.config.patch_size
    return pack_tokens(vggt.aggregate(frames), (h // patch, w // patch))


def decode_tokens(vggt: VGGT, packed: Float[Array, "b t hp wp c"], with_points: bool = False) -> Geometry:
    """Runs VGGT's heads on packed tokens, whether they come from frames or out of the adapter."""
    hp, wp = packed.shape[2:4]
    image_size = (hp * vggt.config.patch_size, wp * vggt.config.patch_size)
    patch_tokens, camera_tokens = unpack_tokens(packed)
    depth, confidence = vggt.depth(patch_tokens, image_size)
    points = vggt.points(patch_tokens, image_size)[0] if with_points else None
    return Geometry(vggt.camera(camera_tokens), depth, confidence, points)


def to_scene(frames: UInt8[np.ndarray, "t h w 3"], geometry: Geometry, sample: int = 0, prompt: str = "") -> Scene:
    """Puts frames and the geometry of one sample of a batch together; points are its depth at pixel centres."""
    w2c, intrinsics = decode_pose(geometry.pose_encs[-1, sample], frames.shape[1:3])
    depth = geometry.depth[sample]
    points = unproject_depth(depth, w2c, intrinsics, offset=0.5)
    return Scene(
        rgb=frames,
        depth=np.asarray(depth),
        confidence=np.asarray(geometry.confidence[sample]),
        w2c=homogeneous(np.asarray(w2c)),
        intrinsics=np.asarray(intrinsics),
        points=np.asarray(points),
        prompt=prompt,
    )


def reconstruct(
    frames: UInt8[np.ndarray, "t h w 3"],
    vggt: Network,
    adapter: Network | None = None,
    *,
    key: Key[Array, ""] | None = None,
    prompt: str = "",
) -> Scene:
    """Cameras, depth and points of a video by VGGT; with `adapter`, after a trip of the tokens through its latents.

    Args:
      frames: sides are multiples of VGGT's patch size; for the trip, of 112, and there are 4k+1 frames.
      vggt, adapter: networks as :func:`gen3r_jax.storage.checkpoint.load_network` gives them.
      key: draws the latents from the posterior; by default they are its mode.
      prompt: kept with the scene.
    """
    packed = finite("vggt", _encode_tokens(vggt, frames[None]))
    if adapter is not None:
        packed = finite("geometry_adapter", _through_adapter(adapter, packed, key))
    return to_scene(frames, finite("vggt", _decode_tokens(vggt, packed)), prompt=prompt)


# Three programs rather than one: the first and the last are the same with and without the adapter.
@jax.jit
def _encode_tokens(vggt: Network, frames: UInt8[Array, "b t h w 3"]) -> Float[Array, "b t hp wp c"]:
    return encode_tokens(module.merge(*vggt), to_unit_range(frames))


@jax.jit
def _through_adapter(adapter: Network, packed: Float[Array, "b t hp wp c"], key: Key[Array, ""] | None):
    network = module.merge(*adapter)
    posterior = network.encode(packed)
    z = posterior.mode() if key is None else posterior.sample(jax.random.normal(key, posterior.mean.shape))
    return network.decode(z)


@jax.jit
def _decode_tokens(vggt: Network, packed: Float[Array, "b t hp wp c"]) -> Geometry:
    return decode_tokens(module.merge(*vggt), packed)
