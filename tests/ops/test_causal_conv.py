"""Causal convolutions and convolutions of resized maps against their plain definitions."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from gen3r_jax import module
from gen3r_jax.ops import causal_conv as ops
from gen3r_jax.ops.resized_conv import DoublingConv, EnlargingConv, ReducingConv


def random(*shape, seed=0):
    return jnp.asarray(np.random.default_rng(seed).standard_normal(shape), jnp.float32)


def error(ours, plain):
    """Largest difference relative to the largest value, over all leaves."""
    pairs = zip(jax.tree.leaves(ours), jax.tree.leaves(plain), strict=True)
    return max(float(jnp.abs(a - b).max() / jnp.abs(b).max()) for a, b in pairs)


def plain_causal(x, kernel, history):
    frames = jnp.concatenate([jnp.zeros((x.shape[0], 2, *x.shape[2:])) if history is None else history, x], axis=1)
    return jax.lax.conv_general_dilated(
        frames, kernel, (1, 1, 1), ((0, 0), (1, 1), (1, 1)), dimension_numbers=("NDHWC", "DHWIO", "NDHWC")
    )


@pytest.mark.parametrize("form", [ops._summed, ops._concatenated])
@pytest.mark.parametrize("with_history", [False, True])
@pytest.mark.parametrize("frames", [1, 2, 5])
def test_forms_are_the_3d_convolution(form, with_history, frames):
    x, kernel = random(2, frames, 4, 5, 6), random(3, 3, 3, 6, 7, seed=1)
    history = random(2, 2, 4, 5, 6, seed=2) if with_history else None
    weight = random(2, frames, 4, 5, 7, seed=3)

    def gradients(function):
        return jax.grad(lambda x, kernel: jnp.sum(weight * function(x, kernel, history)), (0, 1))(x, kernel)

    assert error(form(x, kernel, history), plain_causal(x, kernel, history)) < 1e-6  # 3e-7
    assert error(gradients(form), gradients(plain_causal)) < 2e-6  # 6e-7


def test_choice_of_form(monkeypatch):
    def concatenated(frames, channels):
        return ops._concatenate(jnp.zeros((1, frames, 1, 1, channels)))

    assert concatenated(5, 8) and not concatenated(1, 8) and not concatenated(5, 96)
    monkeypatch.setattr(ops, "target_platform", lambda: "tpu")
    assert concatenated(49, 96) and not concatenated(8, 8)


@pytest.mark.parametrize(("frames", "chunk"), [(1, 8), (5, 8), (9, 8), (13, 4)])
def test_layers_in_chunks_equal_the_whole(frames, chunk):
    x = random(2, frames, 3, 2, 6)
    conv, down, up = (
        ops.CausalConv(6, 4, rngs=nnx.Rngs(0)),
        ops.TimeDown(6, rngs=nnx.Rngs(0)),
        ops.TimeUp(6, rngs=nnx.Rngs(0)),
    )
    zeros = jnp.zeros((2, 2, 3, 2, 6))
    for layer, history in ((conv, zeros), (down, zeros[:, :1]), (up, zeros)):
        whole, _ = layer(x)
        chunked = ops.scan_chunks(layer, history, x, chunk)
        assert error(chunked[:, -whole.shape[1] :], whole) < 1e-6  # 0


def test_first_frame_passes_through_time_resampling():
    x = random(1, 5, 2, 2, 6)
    down, up = ops.TimeDown(6, rngs=nnx.Rngs(0)), ops.TimeUp(6, rngs=nnx.Rngs(0))
    np.testing.assert_array_equal(down(x)[0][:, 0], x[:, 0])
    np.testing.assert_array_equal(up(x)[0][:, 0], x[:, 0])
    # The down-sampling convolution sees frame 0 again, the up-sampling one never does.
    other = x.at[:, 0].add(1.0)
    assert jnp.abs(down(other)[0][:, 1] - down(x)[0][:, 1]).max() > 0.1
    np.testing.assert_array_equal(up(other)[0][:, 1:], up(x)[0][:, 1:])


def test_time_up_interleaves_even_and_odd_frames():
    up, x = ops.TimeUp(6, rngs=nnx.Rngs(0)), random(1, 3, 2, 2, 6)
    both = up.conv(jnp.pad(x[:, 1:], ((0, 0), (2, 0), (0, 0), (0, 0), (0, 0))))
    expected = [x[:, 0], both[:, 0, ..., :6], both[:, 0, ..., 6:], both[:, 1, ..., :6], both[:, 1, ..., 6:]]
    np.testing.assert_allclose(up(x)[0], jnp.stack(expected, axis=1), atol=1e-6)


def plain_resized(x, conv, size, strides, padding):
    """Nearest-exact resizing, then a 3x3 convolution: the definition."""
    for axis, length in zip((2, 3), size, strict=True):
        source = np.floor((np.arange(length) + 0.5) * x.shape[axis] / length).astype(int)
        x = jnp.take(x, source, axis=axis)
    b, t, *frame = x.shape
    out = jax.lax.conv_general_dilated(
        x.reshape(b * t, *frame), conv.kernel[...], strides, padding, dimension_numbers=("NHWC", "HWIO", "NHWC")
    )
    return out.reshape(b, t, *out.shape[1:]) + conv.bias[...]


RESIZED = {
    DoublingConv: ((3, 5), (6, 10), (1, 1), "SAME"),
    EnlargingConv: ((8, 12), (14, 21), (1, 1), "SAME"),
    ReducingConv: ((14, 21), (16, 24), (2, 2), ((0, 1), (0, 1))),
}


@pytest.mark.parametrize("cls", RESIZED)
def test_resized_convolutions(cls):
    grid, size, strides, padding = RESIZED[cls]
    conv, x = cls(4, 3, rngs=nnx.Rngs(0)), random(2, 3, *grid, 4)
    weight = random(*conv(x).shape, seed=1)

    def plain(conv, x):
        return plain_resized(x, conv, size, strides, padding)

    def gradients(function):
        graphdef, params = module.split(conv)
        return jax.grad(lambda p, x: jnp.sum(weight * function(module.merge(graphdef, p), x)), (0, 1))(params, x)

    assert error(conv(x), plain(conv, x)) < 1e-6  # 3e-7
    assert error(gradients(cls.__call__), gradients(plain)) < 2e-6  # 8e-7


def test_enlarging_adds_in_float32():
    conv, x = EnlargingConv(64, 16, rngs=nnx.Rngs(0)), random(1, 1, 8, 8, 64).astype(jnp.bfloat16)
    graphdef, params = module.split(conv)
    params = module.cast(params, jnp.bfloat16)
    out = module.merge(graphdef, params)(x)
    exact = module.merge(graphdef, module.cast(params, jnp.float32))(x.astype(jnp.float32))
    assert out.dtype == jnp.bfloat16
    # One rounding of the sum and one of the bias: at most a unit in the last place (2^-8).
    assert jnp.max(jnp.abs(out - exact) / jnp.abs(exact).max()) < 2**-8
