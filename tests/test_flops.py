"""Counting what programs compute."""

import jax
import jax.numpy as jnp
import pytest
from flax import nnx

from gen3r_jax import module
from gen3r_jax.flops import count_flops
from gen3r_jax.models.umt5 import UMT5Config, UMT5Encoder


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
            2 * 64 * 6 * 9 * 4,
        ),
        (lambda x, w: jax.lax.scan(lambda x, w: (x @ w, None), x, w)[0], ((2, 4), (10, 4, 4)), 10 * 2 * 2 * 16),
        (jax.jit(jax.checkpoint(lambda x, w: jnp.tanh(x @ w))), ((2, 4), (4, 4)), 2 * 2 * 16),
        (lambda x, w: jax.lax.cond(x[0, 0] > 0, lambda: x @ w, lambda: x), ((2, 4), (4, 4)), 2 * 2 * 16),
        (lambda x: x + 1, ((5,),), 0),
    ],
)
def test_counts(function, shapes, flops):
    assert count_flops(function, *(array(*shape) for shape in shapes)) == flops


def test_a_network_at_full_size():
    """The text encoder on 512 tokens, against its parts: 4 attention products, scores, 3 products of the MLP."""
    config = UMT5Config.xxl()
    graphdef, params = module.abstract(lambda rngs: UMT5Encoder(config, rngs=rngs))
    ids, mask = jax.ShapeDtypeStruct((1, 512), jnp.int32), jax.ShapeDtypeStruct((1, 512), jnp.bool_)
    got = count_flops(lambda params, *x: nnx.merge(graphdef, params)(*x), params, ids, mask)
    layer = 4 * 4096**2 + 2 * 512 * 4096 + 3 * 4096 * 10240
    assert got == 2 * 512 * 24 * layer
    assert got == pytest.approx(4.8e12, rel=0.02)
