"""What steers the diffusion transformer beside text and image features, laid out as the released weights expect it.

Time comes in groups of four frames, the first frame four times: one group a latent frame. Latents, masks and cameras
are as wide as [A ; G], appearance left and geometry right (Gen3R, section 3.3).
"""

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float

from gen3r_jax.geometry.cameras import plucker_map
from gen3r_jax.sharding import shard, shortfall


def pack_time(x: Float[Array, "b t *rest c"]) -> Float[Array, "b f *rest 4*c"]:
    """4f-3 frames -> f groups of four; a channel's four values lie together (channel 4c + slot)."""
    x = jnp.concatenate([jnp.repeat(x[:, :1], 4, axis=1), x[:, 1:]], axis=1)
    x = x.reshape(x.shape[0], -1, 4, *x.shape[2:])
    x = jnp.moveaxis(x, 2, -1)
    return x.reshape(*x.shape[:-2], -1)


def given_condition(latents: Float[Array, "b f h w 16"], mask: Bool[Array, "b t"]) -> Float[Array, "b f h w 20"]:
    """What the transformer sees of the given frames on one half.

    Args:
      latents: video latents of the clip in which frames that are not given are black.
      mask: true at given frames; becomes four channels, one a frame of the group.
    """
    mask = pack_time(mask.astype(latents.dtype)[:, :, None, None, None])
    return jnp.concatenate([latents, jnp.broadcast_to(mask, (*latents.shape[:-1], 4))], axis=-1)


def condition(
    latents: Float[Array, "b f h w 16"],
    mask: Bool[Array, "b t"],
    geometry: Float[Array, "b f h w 16"] | None = None,
) -> Float[Array, "b f h 2*w 20"]:
    """:func:`given_condition` on the appearance half, and on the other half geometry without a mask.

    geometry: geometry latents of the clip, which the released trainer gives; None: zeros, as in the paper and at
      inference.
    """
    geometry = jnp.zeros_like(latents) if geometry is None else geometry
    unmasked = jnp.pad(geometry, ((0, 0),) * 4 + ((0, 4),))
    return jnp.concatenate([given_condition(latents, mask), unmasked], axis=-2)


def camera_condition(pluecker: Float[Array, "b t h w 6"]) -> Float[Array, "b f h 2*w 24"]:
    """Pluecker maps in pixels, for both halves: the same cameras see appearance and geometry."""
    packed = pack_time(pluecker)
    return jnp.concatenate([packed, packed], axis=-2)


def camera_maps(
    intrinsics: Float[Array, "b t 3 3"], c2w: Float[Array, "b t 4 4"], image_size: tuple[int, int]
) -> Float[Array, "b f h w 24"]:
    """Pluecker maps of cameras, packed, for one half.

    Devices that share a sample compute equally many groups; those added repeat the last and are cut off.
    """
    frames = c2w.shape[1]
    groups = (frames - 1) // 4 + 1
    filled = groups + shortfall(groups, "frames")
    frame = np.clip(4 * np.arange(filled)[:, None] + np.arange(4) - 3, 0, frames - 1)  # of each group and slot
    intrinsics, c2w = (shard(x[:, frame], "batch", "frames") for x in (intrinsics, c2w))  # [b f 4 ...]
    maps = jnp.moveaxis(plucker_map(intrinsics, c2w, image_size), 2, -1)  # [b f h w 6 4]
    return shard(maps.reshape(*maps.shape[:4], 24), "batch", "frames")[:, :groups]
