"""How a VGGT begins that is to learn from nothing in a short run; the official one began otherwise, and had weeks.

All branches count and tokens differ from the first step on. Attention over the clip begins with looking for what is
alike, and with subtracting it: how a place moves from frame to frame is then seen before anything is learned.
"""

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Key

from gen3r_jax.models.vggt_heads import CameraHead
from gen3r_jax.module import Params

TOKEN_STD = 0.5  # of the special tokens
WAVES = 0.5  # amplitude of the table of positions


def begin(params: Params, key: Key[Array, ""]) -> Params:
    """Changes what a new VGGT is initialised with."""
    aggregator, camera_head = params["aggregator"], params["camera_head"]
    camera_key, register_key, matching_key = jax.random.split(key, 3)
    for blocks in (aggregator["frame_blocks"], aggregator["global_blocks"], *camera_head["trunk"].values()):
        blocks.update({name: jnp.ones_like(blocks[name]) for name in ("scale1", "scale2")})
    for name, token_key in (("camera_token", camera_key), ("register_token", register_key)):
        aggregator[name] = TOKEN_STD * jax.random.normal(token_key, aggregator[name].shape)
    table = aggregator["patch_embed"]["pos_embed"]
    side, channels = round((table.shape[1] - 1) ** 0.5), table.shape[2]
    aggregator["patch_embed"]["pos_embed"] = table.at[:, 1:].set(WAVES * waves(side, channels))
    match(aggregator["global_blocks"]["attn"], matching_key)
    # All cameras begin with the first one's pose and see one radian; the head adds its output up.
    last = camera_head["pose_branch"]["fc2"]
    pose = jnp.array([0, 0, 0, 0, 0, 0, 1, 1, 1]) / CameraHead.ITERATIONS
    last.update(kernel=0.01 * last["kernel"], bias=last["bias"] + pose)
    return params


def match(attention: Params, key: Key[Array, ""]) -> None:
    """Lets tokens look for tokens like them and subtract these: equal queries and keys, inverse values and output."""
    kernel = attention["qkv"]["kernel"]
    layers, channels = kernel.shape[:2]
    values = jax.random.orthogonal(key, channels, (layers,))
    query = kernel[..., :channels]
    attention["qkv"]["kernel"] = jnp.concatenate([query, query, values], axis=-1)
    attention["proj"]["kernel"] = -values.swapaxes(1, 2)


def waves(side: int, channels: int) -> Float[np.ndarray, "1 p c"]:
    """Sines and cosines of the column, then of the row, over a square grid; from half a period a side to four."""
    places = (np.arange(side) + 0.5) / side * 2 - 1
    angles = places[:, None] * np.pi * 2.0 ** np.linspace(-1, 2, channels // 4)
    code = np.concatenate([np.sin(angles), np.cos(angles)], axis=-1)
    across, down = np.broadcast_to(code[None], (side, side, channels // 2)), np.repeat(code[:, None], side, axis=1)
    return np.concatenate([across, down], axis=-1).reshape(1, side**2, channels).astype(np.float32)
