"""Attention: every implementation gives the same numbers, and none holds a full score matrix."""

import logging

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from gen3r_jax.module import rematerialised
from gen3r_jax.ops import attention
from gen3r_jax.ops.attention import attend
from gen3r_jax.sharding import MeshOptions, make_mesh

FULL_SIZE = (1, 49 * 1605, 16, 64)  # global attention over 49 frames of 560 x 560


def _qkv(b, n, m, heads, d, dtype=jnp.float32):
    rng = np.random.default_rng(0)
    return tuple(jnp.asarray(rng.standard_normal((b, size, heads, d)), dtype) for size in (n, m, m))


def _value_and_gradients(function, qkv):
    return jax.jit(jax.value_and_grad(lambda *qkv: (function(*qkv) ** 2).sum(), argnums=(0, 1, 2)))(*qkv)


@pytest.mark.parametrize("platform", ["cpu", "gpu"])  # one head at a time, all heads together
def test_blocked_equals_dense(platform, monkeypatch):
    monkeypatch.setattr(attention, "_platform", lambda: platform)
    monkeypatch.setattr(attention, "_scores_at_once", lambda platform: 5000)  # several blocks, the last one padded
    qkv = _qkv(2, 83, 61, 3, 16)
    np.testing.assert_allclose(attend(*qkv, impl="blocked"), attend(*qkv, impl="dense"), atol=1e-6)  # measured 3e-7
    blocked = _value_and_gradients(lambda *qkv: attend(*qkv, impl="blocked"), qkv)
    dense = _value_and_gradients(lambda *qkv: attend(*qkv, impl="dense"), qkv)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-6, atol=3e-6), blocked, dense)  # measured 7e-7


@pytest.mark.parametrize("remat", ["none", "dots"])
def test_blocked_memory_stays_far_below_the_scores(remat):
    n, heads = 4096, 2
    shapes = [jax.ShapeDtypeStruct((1, n, heads, 64), jnp.float32)] * 3
    run = rematerialised(lambda *qkv: attend(*qkv, impl="blocked"), remat)
    compiled = jax.jit(jax.grad(lambda *qkv: run(*qkv).sum(), argnums=(0, 1, 2))).lower(*shapes).compile()
    # 18 MiB measured, most of it q, k, v and their gradients (2 MiB each); the scores would take 128 MiB.
    assert compiled.memory_analysis().temp_size_in_bytes < heads * n * n * 4 / 5


def test_half_precision_has_its_softmax_in_float32():
    q, k, v = _qkv(1, 64, 64, 2, 32, jnp.bfloat16)
    exact = attend(*(x.astype(jnp.float32) for x in (q, k, v)), impl="dense")
    for impl in ("dense", "blocked"):
        out = attend(q, k, v, impl=impl)
        assert out.dtype == jnp.bfloat16
        # Measured 4e-3: weights and result are rounded to bfloat16 (2^-9 relative), scores are not.
        np.testing.assert_allclose(out.astype(jnp.float32), exact, atol=8e-3)


@pytest.mark.parametrize(("n", "m"), [(100, 150), (150, 128), (130, 300)])
def test_splash_equals_dense_when_interpreted(n, m):
    qkv = _qkv(1, n, m, 2, 64)
    splash = _value_and_gradients(lambda *qkv: attention._splash(*qkv, interpret=True), qkv)
    dense = _value_and_gradients(lambda *qkv: attend(*qkv, impl="dense"), qkv)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-6, atol=1e-5), splash, dense)  # measured 2e-6


@pytest.mark.parametrize("mesh", [None, MeshOptions(data=2, fsdp=1, seq=2, tensor=2)])
def test_splash_lowers_for_tpus_at_full_size(mesh):
    shape = jax.ShapeDtypeStruct(FULL_SIZE if mesh is None else (4, 1605, 16, 64), jnp.bfloat16)
    function = jax.jit(lambda *qkv: attend(*qkv, impl="splash"))
    if mesh is None:
        lowered = function.trace(shape, shape, shape).lower(lowering_platforms=("tpu",))
    else:
        with jax.set_mesh(make_mesh(mesh)):
            lowered = function.trace(shape, shape, shape).lower(lowering_platforms=("tpu",))
    text = lowered.as_text()
    assert "tpu_custom_call" in text
    assert "78645x78645" not in text


@pytest.mark.parametrize(
    ("platform", "dtype", "n", "d", "impl"),
    [
        ("cpu", jnp.float32, 100, 64, "dense"),
        ("cpu", jnp.float32, 1605, 64, "blocked"),
        ("gpu", jnp.bfloat16, 1605, 64, "dense"),
        ("gpu", jnp.bfloat16, 78645, 64, "cudnn"),
        ("gpu", jnp.float32, 78645, 64, "blocked"),
        ("tpu", jnp.bfloat16, 78645, 64, "splash"),
        ("tpu", jnp.float32, 78645, 16, "blocked"),
    ],
)
def test_choice(platform, dtype, n, d, impl, monkeypatch):
    monkeypatch.setattr(attention, "_platform", lambda: platform)
    shape = jax.ShapeDtypeStruct((1, n, 16, d), dtype)
    assert attention._choose(shape, shape) == impl


def test_falling_back_is_said_once(monkeypatch, caplog):
    monkeypatch.setattr(attention, "_platform", lambda: "gpu")
    attention._warn_once.cache_clear()
    shape = jax.ShapeDtypeStruct((1, 78645, 16, 64), jnp.float32)
    with caplog.at_level(logging.WARNING):
        for _ in range(3):
            attention._choose(shape, shape)
    (record,) = caplog.records
    assert "no fused kernel on gpu: using blocked XLA" in record.message


def test_unknown_implementation():
    with pytest.raises(ValueError, match="'flash' is none of dense, blocked, cudnn, splash"):
        attend(*_qkv(1, 4, 4, 1, 4), impl="flash")


@pytest.mark.gpu
def test_cudnn_equals_dense():
    if jax.default_backend() != "gpu":
        pytest.skip("needs an NVIDIA GPU")
    qkv = _qkv(2, 1605, 257, 4, 64, jnp.bfloat16)
    exact = tuple(x.astype(jnp.float32) for x in qkv)
    np.testing.assert_allclose(attend(*qkv, impl="cudnn").astype(jnp.float32), attend(*exact, impl="dense"), atol=8e-3)
    _, gradients = _value_and_gradients(lambda *qkv: attend(*qkv, impl="cudnn"), qkv)
    _, expected = _value_and_gradients(lambda *qkv: attend(*qkv, impl="dense"), exact)
    for a, b in zip(gradients, expected, strict=True):
        np.testing.assert_allclose(a.astype(jnp.float32), b, atol=0.02 * np.abs(b).max())  # bfloat16: 2^-9 a rounding
