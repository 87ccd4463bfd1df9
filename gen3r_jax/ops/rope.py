"""Rotary position embeddings. Angles and rotations are float32 whatever the dtype of the features."""

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int

Rotation = tuple[Float[Array, "*b n 2 r"], Float[Array, "*b n 2 r"]]


def rotation_2d(positions: Int[np.ndarray, "*b n 2"], head_dim: int, base: float = 100.0) -> Rotation:
    """Cosines and sines for :func:`rotate_2d` of tokens at integer (row, column) positions.

    Half of the features turn with the row and half with the column, each at the head_dim / 4 frequencies
    ``base**(-4 i / head_dim)`` (RoPE-2D as in VGGT).
    """
    frequencies = base ** (-np.arange(0, head_dim // 2, 2) / (head_dim // 2))
    angles = np.asarray(positions)[..., None] * frequencies
    return jnp.asarray(np.cos(angles), jnp.float32), jnp.asarray(np.sin(angles), jnp.float32)


def rotate_2d(x: Float[Array, "*b n k d"], rotation: Rotation) -> Float[Array, "*b n k d"]:
    """Turns feature pairs (i, i + d/4) within the first half of a head by the row, within the second by the column."""
    cos, sin = (table[..., None, :, :] for table in rotation)  # [n 1 2 r], the same for every head
    pairs = x.astype(jnp.float32).reshape(*x.shape[:-1], 2, 2, -1)  # (row or column, first or second of a pair, r)
    first, second = pairs[..., 0, :], pairs[..., 1, :]
    turned = jnp.stack([first * cos - second * sin, second * cos + first * sin], axis=-2)
    return turned.reshape(x.shape).astype(x.dtype)
