"""Image resizing in the ways that the pretrained networks were trained with. Axes are `... h w c`."""

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float


def resize_bicubic(x: Float[Array, "*b h w c"], size: tuple[int, int]) -> Float[Array, "*b p q c"]:
    """Bicubic with antialiasing: Keys' kernel with a = -0.5, weights renormalised at the borders."""
    return jax.image.resize(x, (*x.shape[:-3], *size, x.shape[-1]), "cubic", antialias=True)


def resize_align_corners(x: Float[Array, "*b h w c"], size: tuple[int, int]) -> Float[Array, "*b p q c"]:
    """Bilinear without antialiasing, with the centres of the corner pixels of both grids on one another."""
    # Two gathers an axis: about ten times faster on a CPU than products with weight matrices.
    return _interpolate(_interpolate(x, -2, size[1]), -3, size[0])


def _interpolate(x: Array, axis: int, size: int) -> Array:
    length = x.shape[axis]
    if size == length:
        return x
    position = np.linspace(0, length - 1, size)
    lower = np.minimum(position.astype(np.int32), max(length - 2, 0))
    fraction = (position - lower).astype(np.float32).reshape(-1, *(1,) * (-axis - 1))
    before = jnp.take(x, lower, axis=axis)
    after = jnp.take(x, np.minimum(lower + 1, length - 1), axis=axis)
    return before + (after - before) * fraction.astype(x.dtype)
