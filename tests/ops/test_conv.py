"""The convolution with gradients of its own equals XLA's, in value and gradients."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from gen3r_jax import module
from gen3r_jax.ops.causal_conv import conv2d
from gen3r_jax.ops.conv import convolve
from gen3r_jax.ops.resized_conv import DoublingConv
from gen3r_jax.sharding import MeshOptions, make_mesh, param_shardings, shard


def _plain(x, kernel, strides=(1, 1), padding="SAME"):
    return jax.lax.conv_general_dilated(x, kernel, strides, padding, dimension_numbers=("NHWC", "HWIO", "NHWC"))


@pytest.mark.parametrize(
    ("size", "stride", "padding"),
    [
        ((3, 3), 1, "SAME"),
        ((3, 3), 2, ((0, 1), (0, 1))),
        ((3, 3), 2, ((1, 1), (1, 1))),
        ((2, 2), 1, ((1, 1), (1, 1))),
        ((2, 4), 3, ((2, 0), (0, 3))),
    ],
    ids=str,
)
def test_value_and_gradients(size, stride, padding):
    keys = jax.random.split(jax.random.key(0), 3)
    x, kernel = jax.random.normal(keys[0], (2, 8, 9, 3)), jax.random.normal(keys[1], (*size, 3, 5))
    shape = _plain(x, kernel, (stride, stride), padding).shape
    weights = jax.random.normal(keys[2], shape)

    @jax.jit
    def value_and_gradients(x, kernel):
        def run(convolution):
            out, pull = jax.vjp(lambda x, kernel: convolution(x, kernel, (stride, stride), padding), x, kernel)
            return out, pull(weights)

        return run(_plain), run(convolve)

    (wanted, their_gradients), (got, our_gradients) = value_and_gradients(x, kernel)
    np.testing.assert_array_equal(got, wanted)
    # Measured: 2e-6 absolute on sums of up to 160 products (another order of adding).
    for mine, theirs in zip(our_gradients, their_gradients, strict=True):
        np.testing.assert_allclose(mine, theirs, atol=1e-5)


@pytest.mark.parametrize(("size", "padding"), [(3, "SAME"), (2, ((1, 1), (1, 1)))], ids=str)
def test_in_a_loop_the_gradients_keep_the_layout_of_the_fast_kernels(size, padding):
    """Also where there are more outputs than inputs."""

    def scanned(x, kernels):
        def body(x, kernel):
            return convolve(x, kernel, padding=padding)[:, : x.shape[1], : x.shape[2]], None

        return jax.lax.scan(body, x, kernels)[0].sum()

    x, kernels = jnp.ones((2, 6, 6, 4)), jnp.ones((3, size, size, 4, 4))
    compiled = jax.jit(jax.grad(scanned, (0, 1))).lower(x, kernels).compile().as_text()
    layouts = [line.split("dim_labels=")[1].split(",")[0] for line in compiled.splitlines() if " convolution(" in line]
    assert layouts == ["b01f_01io->b01f"] * 3


@pytest.mark.parametrize("padding", ["SAME", ((0, 1), (0, 1)), ((1, 1), (1, 1))], ids=str)
@pytest.mark.parametrize("stride", [1, 2])
@pytest.mark.parametrize(
    "options",
    [
        MeshOptions(data=1, fsdp=1, seq=2, tensor=4),
        MeshOptions(data=2, fsdp=2, seq=2),
        MeshOptions(data=1, fsdp=2, seq=4),
    ],
    ids=str,
)
def test_pictures_split_over_devices(options, stride, padding):
    """XLA's own split gives wrong gradients in the first mesh and wrong values in the second."""
    keys = jax.random.split(jax.random.key(0), 2)
    x = jax.random.normal(keys[0], (2, 16, 8, 4))
    params = {"kernel": jax.random.normal(keys[1], (2 if padding == ((1, 1), (1, 1)) else 3, 3, 4, 4))}

    def loss(convolve, params, x):
        x = shard(convolve(x, params["kernel"], (stride, stride), padding), "batch", "rows")
        return (convolve(jax.nn.silu(x), params["kernel"]) ** 2).mean(), x

    def step(convolve):
        return jax.jit(jax.value_and_grad(lambda *inputs: loss(convolve, *inputs), (0, 1), has_aux=True))

    wanted = step(_plain)(params, x)
    mesh = make_mesh(options)
    with jax.set_mesh(mesh):
        got = step(convolve)(jax.device_put(params, param_shardings(params, mesh)), x)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=1e-5 * np.abs(b).max()), got, wanted)  # 5e-7


@pytest.mark.parametrize(
    ("layer", "options"),
    [
        (lambda rngs: conv2d(4, 4, rngs=rngs), MeshOptions(data=1, fsdp=1, seq=8)),  # 14 rows in 4 parts
        (lambda rngs: DoublingConv(4, 4, rngs=rngs), MeshOptions(data=1, fsdp=1, seq=2, tensor=4)),
        (lambda rngs: DoublingConv(4, 4, rngs=rngs), MeshOptions(data=1, fsdp=2, seq=2, tensor=2)),
    ],
    ids=["conv2d", "DoublingConv", "DoublingConv of two samples"],
)
def test_gradients_where_tiles_do_not_divide(layer, options):
    graph, params = module.split(layer(nnx.Rngs(0)))
    x = jax.random.normal(jax.random.key(1), (2, 1, 14, 14, 4))

    def loss(params, x):
        tiles = ("batch", None, "rows", "columns")
        return (shard(module.merge(graph, params)(shard(x, *tiles)), *tiles) ** 2).mean()

    wanted = jax.jit(jax.grad(loss))(params, x)
    mesh = make_mesh(options)
    with jax.set_mesh(mesh):
        got = jax.jit(jax.grad(loss))(jax.device_put(params, param_shardings(params, mesh)), x)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=1e-5 * np.abs(b).max()), got, wanted)  # 4e-7
