"""3x3 convolutions of nearest-neighbour resized maps, computed without making the resized map.

Neighbouring cells of an enlarged map are copies of each other, so most products of the plain form are computed several
times over. All forms here are exact: they only add the same products in another order.
"""

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jaxtyping import Array, Float

from gen3r_jax.ops.causal_conv import uniform
from gen3r_jax.ops.conv import convolve
from gen3r_jax.ops.shared import add
from gen3r_jax.sharding import shard

EXACT = jax.lax.Precision.HIGHEST  # products with 0 and 1 must not be rounded


class ResizedConv(nnx.Module):
    """A 3x3 convolution of a resized map: the parameters, in one of the forms below."""

    def __init__(self, inputs: int, outputs: int, *, rngs: nnx.Rngs) -> None:
        kernel, bias = uniform((3, 3), inputs, outputs, rngs)
        self.kernel, self.bias = nnx.Param(kernel), nnx.Param(bias)


class DoublingConv(ResizedConv):
    """Nearest x2, then 3x3 convolution with padding 1, as one 2x2 convolution of the small map.

    An output cell sees 3x3 cells of the doubled map, which are 2x2 cells of the small one. Which ones, and which taps
    fall together, depends on its row and column being even or odd: four kernels of 2x2, 2.25 times fewer products.
    """

    def __call__(self, x: Float[Array, "b t h w i"]) -> Float[Array, "b t 2*h 2*w o"]:
        b, t, h, w, c = x.shape
        kernel = self.kernel[...]
        # [parity, tap of the 2x2 window, tap of the 3x3 window]
        merge = np.array([[[1, 0, 0], [0, 1, 1]], [[1, 1, 0], [0, 0, 1]]], np.float32)
        kernels = jnp.einsum("ayi,bxj,ijco->yxcabo", merge, merge, kernel.astype(jnp.float32), precision=EXACT)
        kernels = kernels.reshape(2, 2, c, -1).astype(kernel.dtype)
        corners = convolve(x.reshape(b * t, h, w, c), kernels, padding=((1, 1), (1, 1)))
        corners = corners.reshape(b, t, h + 1, w + 1, 2, 2, -1)
        # Even rows look up and own the window that starts a row earlier; odd rows look down.
        rows = [jnp.stack([corners[:, :, i : i + h, j : j + w, i, j] for j in (0, 1)], axis=4) for i in (0, 1)]
        return add(jnp.stack(rows, axis=3).reshape(b, t, 2 * h, 2 * w, -1), self.bias[...])


class EnlargingConv(ResizedConv):
    """Nearest-exact enlargement by 7/4, then 3x3 convolution with padding 1.

    The nine taps act on the small map as nine 1x1 projections; their results are then fetched and added (in float32).
    3.06 times fewer products.
    """

    def __call__(self, x: Float[Array, "b t h w i"]) -> Float[Array, "b t 7*h/4 7*w/4 o"]:
        x = shard(x, "batch", "frames")  # whole pictures: their parts differ in what they see of the others
        h, w = x.shape[2:4]
        rows, columns = (tap_sources(n, 7 * n // 4, 7 * n // 4, stride=1, before=1) for n in (h, w))
        kernel = self.kernel[...]
        projected = jnp.einsum("bthwc,yxco->bthwyxo", x, kernel, preferred_element_type=jnp.float32)
        out = jnp.einsum("bthwyxo,xWw->bthyWo", projected, columns, precision=EXACT)
        out = jnp.einsum("bthyWo,yHh->btHWo", out, rows, precision=EXACT)
        return shard(add(out.astype(kernel.dtype), self.bias[...]), "batch", "frames")


class ReducingConv(ResizedConv):
    """Nearest-exact resizing by 8/7, zero padding at the bottom and right, then 3x3 convolution of stride 2.

    The map shrinks, so the 3x3 windows are fetched first and multiplied by the kernel at once.
    """

    def __call__(self, x: Float[Array, "b t h w i"]) -> Float[Array, "b t 4*h/7 4*w/7 o"]:
        # From tiles to whole pictures, here and not before: of a group of frames, not of the clip that it is cut from.
        x = shard(shard(x, "batch", None, "rows", "columns"), "batch", "frames")
        h, w = x.shape[2:4]
        rows, columns = (tap_sources(n, 8 * n // 7, 4 * n // 7, stride=2, before=0) for n in (h, w))
        windows = jnp.einsum("bthwc,xWw->bthWxc", x, columns.astype(x.dtype), precision=EXACT)
        windows = jnp.einsum("bthWxc,yHh->btHWyxc", windows, rows.astype(x.dtype), precision=EXACT)
        kernel = self.kernel[...]
        out = windows.reshape(*windows.shape[:4], -1) @ kernel.reshape(-1, kernel.shape[-1])
        return shard(add(out, self.bias[...]), "batch", "frames")


def tap_sources(inputs: int, resized: int, outputs: int, *, stride: int, before: int) -> np.ndarray:
    """Where the three taps of a convolution over a nearest-exact resized axis read: 0/1 matrices.

    Args:
      inputs, resized, outputs: lengths of the axis before resizing, after it, and after the convolution.
      before: zeros padded in front (and as many as needed behind).

    Returns:
      ``[3, outputs, inputs]``: one where tap k of an output reads an input, a row of zeros where it reads padding.
    """
    source = np.floor((np.arange(resized) + 0.5) * inputs / resized).astype(int)
    position = stride * np.arange(outputs) + np.arange(3)[:, None] - before
    inside = (position >= 0) & (position < resized)
    chosen = source[np.clip(position, 0, resized - 1)]
    return ((chosen[..., None] == np.arange(inputs)) & inside[..., None]).astype(np.float32)
