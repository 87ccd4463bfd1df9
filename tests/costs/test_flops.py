"""Counting what programs compute."""

import jax
import jax.numpy as jnp
import pytest
from flax import nnx

from gen3r_jax import module
from gen3r_jax.costs.flops import count_flops
from gen3r_jax.models.umt5 import UMT5Config, UMT5Encoder
from gen3r_jax.models.wan_dit import Block, Context, WanDiTConfig
from gen3r_jax.ops.attention import attend
from gen3r_jax.ops.rope import rotation_3d


def array(*shape):
    return jax.ShapeDtypeStruct(shape, jnp.float32)


@pytest.mark.parametrize(
    ("function", "shapes", "flops"),
    [
        (jnp.matmul, ((5, 7), (7, 3)), 2 * 5 * 7 * 3),
        (lambda q, k: jnp.einsum("bqkd,bnkd->bkqn", q, k), ((2, 5, 3, 4), (2, 6, 3, 4)), 2 * 2 * 3 * 5 * 6 * 4),
        (
            lambda x, k: jax.lax.conv_general_dilated(x, k, (1, 1), "SAME", dimension_numbers=("NHWC", "HWIO", "NHWC")),
            ((1, 8, 8, 4), (3, 3, 4, 6)),
            2 * 6 * 4 * (3 * 8 - 2) ** 2,  # not with the padding
        ),
        (lambda x, w: jax.lax.scan(lambda x, w: (x @ w, None), x, w)[0], ((2, 4), (10, 4, 4)), 10 * 2 * 2 * 16),
        (jax.jit(jax.checkpoint(lambda x, w: jnp.tanh(x @ w))), ((2, 4), (4, 4)), 2 * 2 * 16),
        (lambda x, w: jax.lax.cond(x[0, 0] > 0, lambda: x @ w, lambda: x), ((2, 4), (4, 4)), 2 * 2 * 16),
        (lambda x: x + 1, ((5,),), 0),
    ],
)
def test_counts(function, shapes, flops):
    assert count_flops(function, *(array(*shape) for shape in shapes)) == flops


def xla_flops(function, *arguments):
    """The compiler's count, which includes element-wise work and is right where there are no loops."""
    return jax.jit(function).lower(*arguments).compile().cost_analysis()["flops"]


def test_the_compilers_count_of_a_transformer_block():
    config = WanDiTConfig(dim=256, mlp_dim=1024, num_heads=2, image_dim=32, depth=1)
    graphdef, params = module.abstract(lambda rngs: Block(config, rngs=rngs))
    rotation = rotation_3d((1, 16, 16), 128)
    context = Context(*(array(1, n, 2, 128) for n in (128, 128, 64, 64)))

    def loss(params, x, modulation, context):
        return (module.merge(graphdef, params)(x, modulation, context, rotation) ** 2).sum()

    arguments = (params, array(1, 256, 256), array(1, 6, 256), context)
    for function in (loss, jax.grad(loss, (0, 1))):
        assert count_flops(function, *arguments) == pytest.approx(xla_flops(function, *arguments), rel=0.04)


def test_the_compilers_count_of_convolutions():
    """With strides, forward and backward, and a function with its own derivative between them."""

    def convolve(x, kernel, stride):
        return jax.lax.conv_general_dilated(
            x, kernel, (stride,) * 2, "SAME", dimension_numbers=("NHWC", "HWIO", "NHWC")
        )

    def loss(x, first, second):
        return (convolve(jax.nn.relu(convolve(x, first, 2)), second, 1) ** 2).sum()

    arguments = (array(2, 17, 17, 16), array(3, 3, 16, 32), array(3, 3, 32, 32))
    for function in (loss, jax.grad(loss, (0, 1, 2))):
        assert count_flops(function, *arguments) == pytest.approx(xla_flops(function, *arguments), rel=0.02)


def test_what_devices_share_counts_for_all_of_them():
    """Each of 2 x 4 devices has half of the rows, so 4 do the same work; the compiler divides what is outside."""
    mesh = jax.sharding.AbstractMesh((2, 4), ("a", "b"), axis_types=(jax.sharding.AxisType.Auto,) * 2)

    def function(x, w):
        spec = jax.sharding.PartitionSpec("a")
        return jax.shard_map(jnp.matmul, in_specs=(spec, jax.P()), out_specs=spec, check_vma=False)(x, w) @ w

    with jax.sharding.use_abstract_mesh(mesh):
        assert count_flops(function, array(6, 4), array(4, 4)) == (8 * 3 + 6) * 2 * 4 * 4


def test_attention_kernels():
    """A fused kernel does two products forward and seven backward, of which two were done before."""
    q = jax.ShapeDtypeStruct((3, 256, 2, 128), jnp.bfloat16)
    product = 2 * 3 * 2 * 256 * 256 * 128

    def total(q, k, v):
        return attend(q, k, v, impl="splash").astype(jnp.float32).sum()

    assert count_flops(total, q, q, q) == 2 * product
    assert count_flops(jax.grad(total, (0, 1, 2)), q, q, q) == pytest.approx(9 * product, rel=1e-3)


def test_a_network_at_full_size():
    """The text encoder on 512 tokens, against its parts: 4 attention products, scores, 3 products of the MLP."""
    config = UMT5Config.xxl()
    graphdef, params = module.abstract(lambda rngs: UMT5Encoder(config, rngs=rngs))
    ids, mask = jax.ShapeDtypeStruct((1, 512), jnp.int32), jax.ShapeDtypeStruct((1, 512), jnp.bool_)
    got = count_flops(lambda params, *x: nnx.merge(graphdef, params)(*x), params, ids, mask)
    layer = 4 * 4096**2 + 2 * 512 * 4096 + 3 * 4096 * 10240
    assert got == 2 * 512 * 24 * layer
    assert got == pytest.approx(4.8e12, rel=0.02)
