"""Square patches of images as vectors, and back."""

import jax.numpy as jnp
from jaxtyping import Array, Float

from gen3r_jax.errors import UserError


def to_patches(x: Float[Array, "b f h w c"], side: int) -> Float[Array, "b f h//{side} w//{side} {side}*{side}*c"]:
    """Square patches, each row by row, channels fastest. Raises UserError if the patches do not fit."""
    b, f, h, w, c = x.shape
    if h % side or w % side:
        raise UserError(f"a grid of {h} x {w} (height x width): both must be multiples of {side}")
    x = x.reshape(b, f, h // side, side, w // side, side, c)
    return jnp.swapaxes(x, 3, 4).reshape(b, f, h // side, w // side, -1)


def from_patches(x: Float[Array, "b f h w p"], side: int) -> Float[Array, "b f {side}*h {side}*w c"]:
    """Inverse of :func:`to_patches`."""
    b, f, h, w, _ = x.shape
    x = jnp.swapaxes(x.reshape(b, f, h, w, side, side, -1), 3, 4)
    return x.reshape(b, f, h * side, w * side, -1)
