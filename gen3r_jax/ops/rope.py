"""Rotary position embeddings. Angles and rotations are float32 whatever the dtype of the features."""

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int

Rotation = tuple[Float[Array, "*#b n 2 r"], Float[Array, "*#b n 2 r"]]
PairRotation = tuple[Float[Array, "*#b n d"], Float[Array, "*#b n d"]]


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


def axis_angles(
    grid: tuple[int, int, int], head_dim: int, *, shared_halves: bool = False, base: float = 10_000.0
) -> tuple[Float[np.ndarray, "f r"], Float[np.ndarray, "h s"], Float[np.ndarray, "w s"]]:
    """Angles, in float64, by which feature pairs of a head turn at every frame, row and column (RoPE-3D as in Wan).

    A third of the d/2 pairs (rounded down) turns with the row, as many with the column and the rest with the frame; an
    axis with r pairs has the frequencies ``base**(-i / r)``.

    Args:
      shared_halves: the columns of the left and of the right half are both counted from zero (Gen3R's [A ; G], whose
        halves show the same pixels).
    """
    frames, rows, columns = map(np.arange, grid)
    if shared_halves:
        columns %= grid[2] // 2
    third = head_dim // 2 // 3
    axes = ((frames, head_dim // 2 - 2 * third), (rows, third), (columns, third))
    f, h, w = (positions[:, None] * base ** (-np.arange(pairs) / pairs) for positions, pairs in axes)
    return f, h, w


def rotation_3d(grid: tuple[int, int, int], head_dim: int, *, shared_halves: bool = False) -> PairRotation:
    """Cosines and sines for :func:`rotate_pairs` of the tokens of a grid of (frames, rows, columns), in this order."""
    angles = [np.repeat(table, 2, axis=1) for table in axis_angles(grid, head_dim, shared_halves=shared_halves)]

    # Spread over the grid on the device: at full size the whole table would put megabytes into the program.
    def table(function: np.ufunc) -> Float[Array, "n d"]:
        f, h, w = (jnp.asarray(function(x), jnp.float32) for x in angles)
        parts = (f[:, None, None], h[None, :, None], w[None, None])
        return jnp.concatenate([jnp.broadcast_to(x, (*grid, x.shape[-1])) for x in parts], -1).reshape(-1, head_dim)

    return table(np.cos), table(np.sin)


def rotate_pairs(x: Float[Array, "*b n k d"], rotation: PairRotation) -> Float[Array, "*b n k d"]:
    """Turns the feature pairs (2i, 2i + 1) of every head."""
    cos, sin = (table[..., None, :] for table in rotation)  # [n 1 d], the same for every head
    wide = x.astype(jnp.float32)
    # Neighbours change places by two shifts: an axis of length two of its own would waste most of a TPU's lanes.
    first = np.arange(x.shape[-1]) % 2 == 0
    partner = jnp.where(first, -jnp.roll(wide, -1, axis=-1), jnp.roll(wide, 1, axis=-1))
    return (wide * cos + partner * sin).astype(x.dtype)
