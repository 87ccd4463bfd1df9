"""Attention over tokens that several devices share.

Each device holds some tokens of every head. An all-to-all exchange gives it all tokens of some heads, with which it
attends alone, and a second one brings the tokens back (DeepSpeed-Ulysses). A layer's activations travel once in each
direction, however many devices there are, and no device ever holds a whole one. Where the heads do not divide, keys and
values are gathered instead.
"""

from collections.abc import Callable
from functools import partial
from typing import Literal

import jax
from jax.sharding import PartitionSpec
from jaxtyping import Array, Float

from gen3r_jax.sharding import partition

Layout = Literal["clip", "context", "frames"]
Kernel = Callable[[Array, Array, Array], Array]


def on_every_device(
    kernel: Kernel, q: Float[Array, "b n k d"], k: Float[Array, "b m k d"], v: Float[Array, "b m k d"], layout: Layout
) -> Float[Array, "b n k d"]:
    """``kernel(q, k, v)`` on the parts of every device; see :func:`gen3r_jax.ops.attention.attend` for the layouts.

    The compiler cannot split a fused kernel by itself, and would gather keys and values for any other.
    """
    mesh = jax.sharding.get_abstract_mesh()
    if mesh.empty or mesh.are_all_axes_manual:
        return kernel(q, k, v)
    axes = ("samples", None, "heads") if layout == "frames" else ("batch", "tokens", "heads")
    queries = keys = partition(q.shape[:3], axes, mesh)
    if layout == "context":
        keys = PartitionSpec(queries[0], None, queries[2])
    elif queries[1]:
        kernel = partial(_exchanged, kernel, queries[1])
    return jax.shard_map(kernel, in_specs=(queries, keys, keys), out_specs=queries, check_vma=False)(q, k, v)


def _exchanged(kernel: Kernel, axes: str | tuple[str, ...], q: Array, k: Array, v: Array) -> Array:
    """`kernel` on this device's tokens ``b n/p k d`` of p devices along the mesh axes."""
    if q.shape[2] % jax.lax.axis_size(axes):
        k, v = (jax.lax.all_gather(x, axes, axis=1, tiled=True) for x in (k, v))
        return kernel(q, k, v)
    q, k, v = (jax.lax.all_to_all(x, axes, split_axis=2, concat_axis=1, tiled=True) for x in (q, k, v))
    return jax.lax.all_to_all(kernel(q, k, v), axes, split_axis=1, concat_axis=2, tiled=True)
