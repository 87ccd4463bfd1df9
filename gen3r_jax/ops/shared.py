"""Parameters that many cells share, with gradients that are summed in float32 and rounded once.

JAX adds the gradients of all cells in the dtype of the cells. In bfloat16 such a sum stops growing as soon as it is 256
times as large as what is added: of a bias under a causal convolution of 49 x 70 x 70 cells it kept a quarter. Here the
forward pass is what it would be otherwise, bit for bit, and so are gradients in float32.
"""

import jax
import jax.numpy as jnp
from flax import nnx
from flax.nnx.nn.dtypes import promote_dtype
from flax.nnx.nn.linear import canonicalize_padding
from jaxtyping import Array, Float


def spread(param: Float[Array, "..."], shape: tuple[int, ...], dtype: jnp.dtype) -> Float[Array, "..."]:
    """Broadcasts a parameter to the cells that share it."""
    return jnp.broadcast_to(param.astype(jnp.float32), shape).astype(dtype)


def add(x: Float[Array, "*b c"], param: Float[Array, "..."]) -> Float[Array, "*b c"]:
    """Adds a parameter, such as a bias or a table of positions, that broadcasts to the shape of `x`."""
    return x + spread(param, x.shape, x.dtype)


@jax.custom_vjp
def scale(x: Float[Array, "*b c"], param: Float[Array, "c"]) -> Float[Array, "*b c"]:
    """Multiplies every channel by its number. The gradient's products are in float32, too, and `x` is all it keeps."""
    return x * param


def _scale_forward(x: Array, param: Array) -> tuple[Array, tuple[Array, Array]]:
    return x * param, (x, param)


def _scale_backward(inputs: tuple[Array, Array], grad: Array) -> tuple[Array, Array]:
    x, param = inputs
    products = grad.astype(jnp.float32) * x.astype(jnp.float32)
    return (grad * param).astype(x.dtype), products.sum(range(x.ndim - 1)).astype(param.dtype)


scale.defvjp(_scale_forward, _scale_backward)


class SidePath(nnx.Module):
    """``scale * (x @ down) @ up``: a change of small rank, computed beside the kernel that it belongs to."""

    def __init__(self, down: Float[Array, "*l i r"], up: Float[Array, "*l r o"], scale: float):
        self.down, self.up, self.scale = nnx.Param(down), nnx.Param(up), scale

    def __call__(self, x: Float[Array, "*b i"]) -> Float[Array, "*b o"]:
        """In float32."""
        x = jnp.matmul(x, self.down[...]).astype(x.dtype)
        return self.scale * jnp.matmul(x, self.up[...], preferred_element_type=jnp.float32)


class Linear(nnx.Linear):
    """``nnx.Linear`` whose bias is added by :func:`add`.

    side: what is added to the product before it is rounded. Added to the kernel instead, a change that is smaller than
    the kernel's rounding would be lost; here it moves as many results as it should.
    """

    side: SidePath | None = None

    def __call__(self, x: Float[Array, "*b i"]) -> Float[Array, "*b o"]:
        x, kernel = promote_dtype((x, self.kernel[...]))
        exact = None if self.side is None else jnp.float32
        dimensions = (((x.ndim - 1,), (0,)), ((), ()))
        y = jax.lax.dot_general(x, kernel, dimensions, precision=self.precision, preferred_element_type=exact)
        if self.side is not None:
            y = (y + self.side(x)).astype(x.dtype)
        return y if self.bias is None else add(y, self.bias[...])


class Conv(nnx.Conv):
    """``nnx.Conv`` of pictures, whose bias is added by :func:`add`."""

    def __call__(self, x: Float[Array, "*b h w i"]) -> Float[Array, "*b y x o"]:
        batch, (x, kernel) = x.shape[:-3], promote_dtype((x, self.kernel[...]))
        y = self.conv_general_dilated(
            x.reshape(-1, *x.shape[-3:]),
            kernel,
            (self.strides,) * 2 if isinstance(self.strides, int) else self.strides,
            canonicalize_padding(self.padding, 2),
            dimension_numbers=("NHWC", "HWIO", "NHWC"),
            precision=self.precision,
        )
        y = y if self.bias is None else add(y, self.bias[...])
        return y.reshape(*batch, *y.shape[1:])
