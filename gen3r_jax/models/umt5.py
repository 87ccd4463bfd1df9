"""umT5 encoder: text features of Wan ("UniMax"; the encoder half of a T5 whose every layer has its own positions)."""

from dataclasses import dataclass
from typing import Self

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jaxtyping import Array, Bool, Float, Int

from gen3r_jax import module
from gen3r_jax.ops.leaves import AnyArray
from gen3r_jax.ops.shared import Linear, scale
from gen3r_jax.options import Count
from gen3r_jax.sharding import shard

EPSILON = 1e-6


@dataclass(frozen=True)
class UMT5Config:
    """Attributes:
    head_dim: `num_heads` times this is the width of attention.
    num_buckets: classes of distances between tokens; half of them for each direction.
    max_distance: from here on all distances share a class.
    """

    vocab_size: Count = 256384
    dim: Count = 4096
    head_dim: Count = 64
    num_heads: Count = 64
    mlp_dim: Count = 10240
    depth: Count = 24
    num_buckets: Count = 32
    max_distance: Count = 128

    @classmethod
    def xxl(cls) -> Self:
        return cls()

    @classmethod
    def tiny(cls) -> Self:
        return cls(vocab_size=64, dim=24, head_dim=6, num_heads=4, mlp_dim=40, depth=2)

    @classmethod
    def nano(cls) -> Self:
        return cls(vocab_size=512, dim=64, head_dim=16, num_heads=4, mlp_dim=128, depth=2)


class UMT5Encoder(module.Network):
    """The network. Its weights decide the dtype; norms and softmax are in float32."""

    Config = UMT5Config

    def __init__(self, config: UMT5Config, *, rngs: nnx.Rngs):
        self.config = config
        self.embedding = nnx.Param(rngs.normal((config.vocab_size, config.dim)))
        self.blocks = module.stack(lambda rngs: Block(config, rngs=rngs), rngs, config.depth)
        self.norm = RMSNorm(config.dim)

    def __call__(self, token_ids: Int[Array, "b n"], mask: Bool[Array, "b n"]) -> Float[Array, "b n c"]:
        """Features of padded texts; zero where `mask` says that there is no token."""
        return jnp.where(mask[..., None], self.hidden_states(token_ids, mask), 0)

    def hidden_states(self, token_ids: Int[Array, "b n"], mask: Bool[Array, "b n"]) -> Float[Array, "b n c"]:
        """Features of every row, padding included. Tokens attend to what `mask` allows."""
        buckets = distance_buckets(token_ids.shape[1], self.config.num_buckets, self.config.max_distance)

        def body(x: Array, block: Block) -> tuple[Array, None]:
            return shard(block(x, mask, buckets), "batch", "tokens"), None

        x, _ = jax.lax.scan(body, self.embedding[token_ids], self.blocks)
        return self.norm(x)


class Block(nnx.Module):
    def __init__(self, config: UMT5Config, *, rngs: nnx.Rngs):
        self.norm1 = RMSNorm(config.dim)
        self.attn = Attention(config, rngs=rngs)
        self.norm2 = RMSNorm(config.dim)
        self.mlp = GatedMLP(config.dim, config.mlp_dim, rngs=rngs)

    def __call__(
        self, x: Float[Array, "b n c"], mask: Bool[Array, "b n"], buckets: Int[AnyArray, "n n"]
    ) -> Float[Array, "b n c"]:
        x = x + self.attn(self.norm1(x), mask, buckets)
        return x + self.mlp(self.norm2(x))


class Attention(nnx.Module):
    """Self-attention with a learned bias for each class of distances, and without the usual 1/sqrt(d)."""

    def __init__(self, config: UMT5Config, *, rngs: nnx.Rngs):
        self.heads = config.num_heads
        width = config.num_heads * config.head_dim
        self.q, self.k, self.v = (Linear(config.dim, width, use_bias=False, rngs=rngs) for _ in range(3))
        self.out = Linear(width, config.dim, use_bias=False, rngs=rngs)
        self.distance_bias = nnx.Param(0.02 * rngs.normal((config.num_buckets, config.num_heads)))

    def __call__(
        self, x: Float[Array, "b n c"], mask: Bool[Array, "b n"], buckets: Int[AnyArray, "n n"]
    ) -> Float[Array, "b n c"]:
        q, k, v = (layer(x).reshape(*x.shape[:2], self.heads, -1) for layer in (self.q, self.k, self.v))
        scores = jnp.einsum("bqkd,bnkd->bkqn", q, k, preferred_element_type=jnp.float32)
        scores = scores + jnp.moveaxis(self.distance_bias.astype(jnp.float32)[buckets], -1, 0)
        scores = jnp.where(mask[:, None, None], scores, jnp.finfo(jnp.float32).min)
        weights = jax.nn.softmax(scores).astype(v.dtype)
        return self.out(jnp.einsum("bkqn,bnkd->bqkd", weights, v).reshape(*x.shape[:2], -1))


class GatedMLP(nnx.Module):
    def __init__(self, dim: int, hidden: int, *, rngs: nnx.Rngs):
        self.gate = Linear(dim, hidden, use_bias=False, rngs=rngs)
        self.up = Linear(dim, hidden, use_bias=False, rngs=rngs)
        self.down = Linear(hidden, dim, use_bias=False, rngs=rngs)

    def __call__(self, x: Float[Array, "b n c"]) -> Float[Array, "b n c"]:
        return self.down(self.up(x) * jax.nn.gelu(self.gate(x), approximate=True))


class RMSNorm(nnx.Module):
    def __init__(self, dim: int):
        self.scale = nnx.Param(jnp.ones(dim))

    def __call__(self, x: Float[Array, "*b c"]) -> Float[Array, "*b c"]:
        exact = x.astype(jnp.float32)
        exact = exact * jax.lax.rsqrt(jnp.mean(jnp.square(exact), axis=-1, keepdims=True) + EPSILON)
        return scale(exact.astype(self.scale.dtype), self.scale[...])


def distance_buckets(length: int, num_buckets: int, max_distance: int) -> Int[np.ndarray, "length length"]:
    """Class of the distance from every query (row) to every key (column): exact when near, logarithmic further off."""
    distance = np.arange(length)[None] - np.arange(length)[:, None]
    half = num_buckets // 2
    exact = half // 2
    far = np.maximum(np.abs(distance), 1).astype(np.float32)
    # Single precision: at exact powers the recorded classes depend on it.
    octave = np.log(far / np.float32(exact)) / np.float32(np.log(max_distance / exact)) * np.float32(half - exact)
    far = np.minimum(exact + octave.astype(np.int32), half - 1)
    return half * (distance > 0) + np.where(np.abs(distance) < exact, np.abs(distance), far)
