"""2D convolution whose gradient is fast inside loops on the CPU, and right where pictures are split over devices."""

import functools
from collections.abc import Callable, Sequence
from typing import Any, Literal

import jax
import jax.numpy as jnp
from jax.sharding import AbstractMesh, PartitionSpec
from jaxtyping import Array, Float

from gen3r_jax.ops.platform import target_platform
from gen3r_jax.sharding import partition, shard

Pads = tuple[tuple[int, int], ...]  # zeros before and behind, for rows and for columns


def convolve(
    x: Float[Array, "b h w i"],
    kernel: Float[Array, "p q i o"],
    strides: Sequence[int] = (1, 1),
    padding: str | Sequence[tuple[int, int]] = "SAME",
    split: Literal["tiles", "frames"] = "tiles",
    **_: Any,
) -> Float[Array, "b y x o"]:
    """``jax.lax.conv_general_dilated`` for channels last, as ``Conv(conv_general_dilated=convolve)`` takes it.

    XLA's CPU compiler brings convolutions into the layout of its fast kernels only outside of loops, and the gradients
    that JAX derives are in another layout: within ``lax.scan`` or ``lax.map`` they ran 25 times slower (10x14x14, 32
    channels). Here the gradients are written in the fast layout; the numbers are the same.

    split: how devices share a sample: they hold tiles of each picture, or whole pictures.
    """
    strides = tuple(strides)
    if isinstance(padding, str):
        padding = jax.lax.padtype_to_pads(x.shape[1:3], kernel.shape[:2], strides, padding)
    pads = tuple((int(low), int(high)) for low, high in padding)
    mesh = jax.sharding.get_abstract_mesh()
    if split == "tiles" and not mesh.empty and mesh.shape["rows"] * mesh.shape["columns"] > 1:
        return _convolve_tiles(x, kernel, strides, pads, mesh)
    # Said in so many words: where the kernel lies in slices, the compiler might rather gather the pictures.
    return _convolve_here(shard(x, "samples"), shard(kernel), strides, pads)


@functools.cache
def convolution(split: Literal["tiles", "frames"]) -> Callable[..., Array]:
    """:func:`convolve` with this `split`, always the same object: modules that hold it are compared by it."""
    return functools.partial(convolve, split=split)


def _convolve_tiles(x: Array, kernel: Array, strides: tuple[int, ...], pads: Pads, mesh: AbstractMesh) -> Array:
    """Each device convolves its tile and the edge of the neighbours' tiles that the kernel reaches.

    XLA's own split of a convolution over rows cannot be trusted (jax 0.10.2 and 0.11.2): where another mesh axis holds
    copies of `x` it counts every copy into the kernel's gradient, and with the kernel split over output channels even
    the value is wrong.
    """
    spec = partition(x.shape, ("batch", "rows", "columns"), mesh)

    def divides(axis: int, name: str) -> bool:
        size, stride, (before, after) = x.shape[1 + axis], strides[axis], pads[axis]
        outputs = (size + before + after - kernel.shape[axis]) // stride + 1
        reach = kernel.shape[axis] - stride - before  # beyond the tile's end
        return size % (stride * mesh.shape[name]) == 0 and outputs * stride == size and reach >= 0

    split = [(axis, name) for axis, name in enumerate(("rows", "columns")) if mesh.shape[name] > 1]
    if not all(divides(*one) for one in split):
        # Said of the result, too, or what splits it later would have XLA split the convolution.
        return shard(_convolve_here(shard(x, "batch"), shard(kernel), strides, pads), "batch")

    def convolve_tile(x: Array, kernel: Array) -> Array:
        left = list(pads)
        for axis, name in split:  # the second exchange brings the corners along
            before = pads[axis][0]
            x = _with_edges(x, 1 + axis, name, before, kernel.shape[axis] - strides[axis] - before)
            left[axis] = (0, 0)
        return _convolve_here(x, kernel, strides, tuple(left))

    run = jax.shard_map(convolve_tile, in_specs=(spec, PartitionSpec()), out_specs=spec, check_vma=False)
    return run(x, kernel)


def _with_edges(x: Array, axis: int, name: str, before: int, after: int) -> Array:
    """`x` with so many lines of the neighbours along a mesh axis; at the picture's border zeros, its padding."""
    count, size = jax.lax.axis_size(name), x.shape[axis]
    tiles = [x]
    if before:
        edge = jax.lax.slice_in_dim(x, size - before, size, axis=axis)
        tiles.insert(0, jax.lax.ppermute(edge, name, [(i, i + 1) for i in range(count - 1)]))
    if after:
        edge = jax.lax.slice_in_dim(x, 0, after, axis=axis)
        tiles.append(jax.lax.ppermute(edge, name, [(i + 1, i) for i in range(count - 1)]))
    return jnp.concatenate(tiles, axis=axis)


def _convolve_here(x: Array, kernel: Array, strides: tuple[int, ...], pads: Pads) -> Array:
    return (_convolve_on_cpu if target_platform() == "cpu" else _convolve)(x, kernel, strides, pads)


def _convolve(
    x: Array, kernel: Array, strides: tuple[int, ...], pads: Pads, spread: tuple[int, ...] = (1, 1), **dilation: Any
) -> Array:
    """`spread`: the input's cells are put so far apart, with zeros between them."""
    return jax.lax.conv_general_dilated(
        x, kernel, strides, pads, spread, dimension_numbers=("NHWC", "HWIO", "NHWC"), **dilation
    )


@functools.partial(jax.custom_vjp, nondiff_argnums=(2, 3))
def _convolve_on_cpu(x: Array, kernel: Array, strides: tuple[int, ...], pads: Pads) -> Array:
    return _convolve(x, kernel, strides, pads)


def _forward(x: Array, kernel: Array, strides: tuple[int, ...], pads: Pads) -> tuple[Array, tuple[Array, Array]]:
    return _convolve(x, kernel, strides, pads), (x, kernel)


def _backward(strides: tuple[int, ...], pads: Pads, inputs: tuple[Array, Array], grad: Array) -> tuple[Array, Array]:
    x, kernel = inputs
    # Per axis: cells of the output's gradient once spread by the stride, and zeros put around in each convolution.
    spread = [stride * (n - 1) + 1 for stride, n in zip(strides, grad.shape[1:3], strict=True)]
    axes = list(zip(kernel.shape[:2], x.shape[1:3], spread, pads, strict=True))
    around = tuple((k - 1 - low, n + low - s) for k, n, s, (low, _) in axes)
    to_x = _convolve(grad, jnp.flip(kernel, (0, 1)).swapaxes(2, 3), (1, 1), around, strides)
    # Channels of x take the place of samples, samples that of channels, and the gradient that of the kernel.
    around = tuple((low, k - 1 + s - n - low) for k, n, s, (low, _) in axes)
    if any(s > n for _, n, s, _ in axes):
        # XLA would let the larger of the two be the input, in a layout without a fast kernel: 20 to 40 times slower.
        edges = [(0, 0, 0), *((low, high, 0) for low, high in around), (0, 0, 0)]
        x, around = jax.lax.pad(x, jnp.zeros((), x.dtype), edges), ((0, 0), (0, 0))
    x, grad = x.transpose(3, 1, 2, 0), grad.transpose(1, 2, 0, 3)
    to_kernel = _convolve(x, grad, (1, 1), around, rhs_dilation=strides)
    return to_x, to_kernel.transpose(1, 2, 0, 3)


_convolve_on_cpu.defvjp(_forward, _backward)
