"""Softmax attention with one signature. The implementation follows the platform; none ever holds a full score matrix.

========  ============================================================================================================
dense     one einsum; only where the scores are few
blocked   XLA, queries in blocks; forward and backward keep the scores of one block only
cudnn     fused attention on NVIDIA GPUs, bfloat16 and float16
splash    Pallas "splash attention" kernel on TPUs
========  ============================================================================================================
"""

import functools
import logging
import math
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from gen3r_jax.ops.context_parallel import Layout, on_every_device
from gen3r_jax.ops.platform import target_platform as _platform

_log = logging.getLogger(__name__)


def attend(
    q: Float[Array, "b n k d"],
    k: Float[Array, "b m k d"],
    v: Float[Array, "b m k d"],
    *,
    layout: Layout = "clip",
    seen: int | None = None,
    impl: str | None = None,
) -> Float[Array, "b n k d"]:
    """``softmax(q k^T / sqrt(d)) v`` for every head, with the softmax in float32; the result has the dtype of `q`.

    Args:
      layout: how devices share the work under ``jax.set_mesh``. "clip": queries, keys and values are of the same
        tokens, which are split over devices (:mod:`gen3r_jax.ops.context_parallel`); "context": only the queries are,
        and every device has all keys; "frames": whole sequences are dealt out.
      seen: the number of keys that are seen; those behind fill up what devices share. None: all.
      impl: "dense", "blocked", "cudnn" or "splash"; None takes what suits the platform, size and dtype.
    """
    if impl not in (None, *_KERNELS):
        raise ValueError(f"attention implementation {impl!r} is none of {', '.join(_KERNELS)}")

    def here(q: Array, k: Array, v: Array) -> Array:
        k, v = k[:, :seen], v[:, :seen]
        return _KERNELS[impl or _choose(q, k)](q, k, v)

    return on_every_device(here, q, k, v, layout)


def _choose(q: Array | jax.ShapeDtypeStruct, k: Array | jax.ShapeDtypeStruct) -> str:
    platform = _platform()
    b, n, heads, d = q.shape
    if b * n * heads * k.shape[1] <= _scores_at_once(platform):
        return "dense"
    if platform == "cpu":
        return "blocked"
    if _has_cudnn_attention(platform) and q.dtype in (jnp.bfloat16, jnp.float16) and d <= 128 and d % 8 == 0:
        return "cudnn"
    if platform == "tpu" and d >= 64:
        return "splash"
    _warn_once(f"attention of {q.dtype} with head dimension {d} has no fused kernel on {platform}: using blocked XLA")
    return "blocked"


def _has_cudnn_attention(platform: str) -> bool:
    """On NVIDIA GPUs from Ampere on. GPUs that one only compiles for, and that are not here, are such."""
    capability = getattr(jax.devices()[0], "compute_capability", "9.0")
    return platform in ("gpu", "cuda") and capability.replace(".", "").isdigit() and float(capability) >= 8


def _scores_at_once(platform: str) -> int:
    # A CPU core works on one head at a time and is fastest while a block of scores (1 MiB) stays in its cache.
    return 2**18 if platform == "cpu" else 2**26


def _dense(q: Array, k: Array, v: Array) -> Array:
    scores = jnp.einsum("bnkd,bmkd->bknm", q, k, preferred_element_type=jnp.float32)
    weights = jax.nn.softmax(scores * q.shape[-1] ** -0.5, axis=-1).astype(v.dtype)
    return jnp.einsum("bknm,bmkd->bnkd", weights, v, preferred_element_type=jnp.float32).astype(q.dtype)


def _blocked(q: Array, k: Array, v: Array) -> Array:
    b, n, heads, d = q.shape
    m = k.shape[1]
    platform = _platform()
    heads_at_once = 1 if platform == "cpu" else b * heads
    rows = min(n, max(16, _scores_at_once(platform) // (heads_at_once * m)))
    blocks = math.ceil(n / rows)
    rows = math.ceil(n / blocks)

    @jax.checkpoint  # the backward pass computes the scores of a block again
    def block(q: Float[Array, "r d"], k: Float[Array, "d m"], v: Float[Array, "m d"]) -> Float[Array, "r d"]:
        scores = jnp.matmul(q, k, preferred_element_type=jnp.float32) * d**-0.5
        weights = jnp.exp(scores - jax.lax.stop_gradient(scores.max(axis=-1, keepdims=True)))
        values = jnp.matmul(weights.astype(v.dtype), v, preferred_element_type=jnp.float32)
        return (values / weights.sum(axis=-1, keepdims=True)).astype(q.dtype)

    def head(q: Float[Array, "n d"], k: Float[Array, "d m"], v: Float[Array, "m d"]) -> Float[Array, "n d"]:
        q = jnp.pad(q, ((0, blocks * rows - n), (0, 0))).reshape(blocks, rows, d)
        return jax.lax.map(lambda q: block(q, k, v), q).reshape(-1, d)[:n]

    q, k, v = (x.transpose(axes).reshape(-1, heads_at_once, *tail) for x, axes, tail in (
        (q, (0, 2, 1, 3), (n, d)), (k, (0, 2, 3, 1), (d, m)), (v, (0, 2, 1, 3), (m, d)),
    ))  # fmt: skip
    out = jax.lax.map(lambda qkv: jax.vmap(head)(*qkv), (q, k, v))
    return jnp.swapaxes(out.reshape(b, heads, n, d), 1, 2)


@jax.custom_vjp
def _cudnn(q: Array, k: Array, v: Array) -> Array:
    return jax.nn.dot_product_attention(q, k, v, implementation="cudnn")


def _cudnn_forward(q: Array, k: Array, v: Array) -> tuple[Array, Callable[[Array], tuple[Array, Array, Array]]]:
    # Gradients are only there for even lengths (jax 0.10.2): odd ones get a row that no query sees.
    n, m = q.shape[1], k.shape[1]
    lengths = jnp.full(k.shape[0], m, jnp.int32) if m % 2 else None

    def even(q: Array, k: Array, v: Array) -> Array:
        q, k, v = (jnp.pad(x, ((0, 0), (0, x.shape[1] % 2), (0, 0), (0, 0))) for x in (q, k, v))
        return jax.nn.dot_product_attention(q, k, v, key_value_seq_lengths=lengths, implementation="cudnn")[:, :n]

    return jax.vjp(even, q, k, v)


_cudnn.defvjp(_cudnn_forward, lambda vjp, gradient: vjp(gradient))


def _splash(q: Array, k: Array, v: Array, *, interpret: bool = False) -> Array:
    from jax.experimental.pallas.ops.tpu import splash_attention  # slow to import, and only TPUs need it

    n, m, heads, d = q.shape[1], k.shape[1], q.shape[2], q.shape[3]
    block_q, block_kv = _tile(n), _tile(m)
    padded_n, padded_m = (math.ceil(size / block) * block for size, block in ((n, block_q), (m, block_kv)))
    kernel = splash_attention.make_splash_mha_single_device(
        splash_attention.MultiHeadMask([splash_attention.FullMask((padded_n, padded_m))] * heads),
        block_sizes=splash_attention.BlockSizes(
            block_q=block_q, block_kv=block_kv, block_q_dkv=block_q, block_kv_dkv=block_kv, block_q_dq=block_q,
            block_kv_dq=block_kv,
        ),
        interpret=interpret,
    )  # fmt: skip
    # Padding forms a segment of its own, which real queries do not see. A padded query must see something: where no key
    # is padded it shares the segment of the real ones.
    q_ids = (jnp.arange(padded_n) >= n).astype(jnp.int32) if padded_m > m else jnp.zeros(padded_n, jnp.int32)
    ids = splash_attention.SegmentIds(q_ids, (jnp.arange(padded_m) >= m).astype(jnp.int32))

    def pad(x: Float[Array, "b n k d"], size: int) -> Float[Array, "b k {size} d"]:
        return jnp.pad(x, ((0, 0), (0, size - x.shape[1]), (0, 0), (0, 0))).swapaxes(1, 2)

    q = pad((q * d**-0.5).astype(q.dtype), padded_n)
    out: Any = jax.vmap(kernel, in_axes=(0, 0, 0, None))(q, pad(k, padded_m), pad(v, padded_m), ids)
    return out.swapaxes(1, 2)[:, :n]


def _tile(size: int) -> int:
    return 512 if size >= 4096 else 256 if size > 128 else 128


_KERNELS = {"dense": _dense, "blocked": _blocked, "cudnn": _cudnn, "splash": _splash}


@functools.cache
def _warn_once(message: str) -> None:
    _log.warning(message)
