"""The diffusion transformer of Gen3R: Wan 2.1 with image and camera conditions ("Fun Control-Camera", 1.3B).

It sees noisy latents whose left half is appearance and whose right half is geometry, and predicts the velocity of the
flow (noise minus clean latents) for both. What does not depend on the noise is computed once, before sampling:
:meth:`WanDiT.encode_context` and :meth:`WanDiT.encode_cameras`.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Annotated, Any, Self

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jaxtyping import Array, Float

from gen3r_jax import module
from gen3r_jax.arrays import picture_size
from gen3r_jax.errors import UserError
from gen3r_jax.models.camera_adapter import CameraAdapter
from gen3r_jax.models.sizes import require_heads, require_multiple
from gen3r_jax.module import Remat
from gen3r_jax.ops.attention import attend
from gen3r_jax.ops.leaves import Leaf
from gen3r_jax.ops.patches import from_patches, to_patches
from gen3r_jax.ops.rope import PairRotation, rotate_pairs, rotation_3d
from gen3r_jax.ops.shared import Linear
from gen3r_jax.options import Count, Range
from gen3r_jax.sharding import shard, shortfall

PATCH = 2  # side of a token in latents
EPSILON = 1e-6


@dataclass(frozen=True)
class WanDiTConfig:
    """Attributes:
    in_channels: noisy latents and what is given of the clip: 16 + 16 latents + 4 of the mask.
    mlp_dim: hidden width of the blocks' MLPs.
    time_dim: width of the sinusoids of the timestep.
    text_dim, text_len: width and number of text features; prompts are padded with zeros to this number.
    image_dim: width of image features; None: no image branch ("t2v").
    camera_channels: of the packed Pluecker maps; None: no camera adapter.
    shared_halves: tokens of the left and the right half have the same positions.
    """

    in_channels: Count = 36
    out_channels: Count = 16
    dim: Count = 1536
    mlp_dim: Count = 8960
    depth: Count = 30
    num_heads: Count = 12
    time_dim: Count = 256
    text_dim: Count = 4096
    text_len: Count = 512
    image_dim: Annotated[int | None, Range(at_least=1)] = 1280
    camera_channels: Annotated[int | None, Range(at_least=1)] = 24
    shared_halves: bool = True
    remat: Remat = "none"

    def __post_init__(self) -> None:
        require_heads("wan_dit.dim", self.dim, self.num_heads, 2)
        require_multiple("wan_dit.time_dim", self.time_dim, 2)

    @classmethod
    def fun_1_3b(cls) -> Self:
        return cls()

    @classmethod
    def tiny(cls) -> Self:
        return cls(dim=48, mlp_dim=96, depth=2, num_heads=3, time_dim=32, text_dim=24, text_len=12, image_dim=32)

    @classmethod
    def nano(cls) -> Self:
        return cls(dim=144, mlp_dim=512, depth=6, num_heads=4, time_dim=64, text_dim=64, text_len=64, image_dim=64)


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class Context:
    """Keys and values of the text and of the image for the cross-attention of every layer; see `encode_context`."""

    text_keys: Float[Leaf, "*l b n k d"]
    text_values: Float[Leaf, "*l b n k d"]
    image_keys: Float[Leaf, "*l b m k d"] | None
    image_values: Float[Leaf, "*l b m k d"] | None


class WanDiT(module.Network):
    """The network. Matrix products are in the dtype of its weights; the residual stream, norms, modulation and the
    embedding of the timestep are in float32."""

    Config = WanDiTConfig

    def __init__(self, config: WanDiTConfig, *, rngs: nnx.Rngs):
        self.config = config
        dim, small = config.dim, nnx.initializers.normal(0.02)
        self.patch_embed = linear(PATCH**2 * config.in_channels, dim, rngs)
        self.text_mlp = MLP(config.text_dim, dim, dim, jax.nn.gelu, rngs=rngs, kernel_init=small)
        # A handful of rows, of which every feature depends: never worth rounding.
        exact = {"precision": jax.lax.Precision.HIGHEST}
        self.time_mlp = MLP(config.time_dim, dim, dim, jax.nn.silu, rngs=rngs, kernel_init=small, **exact)
        self.time_projection = linear(dim, 6 * dim, rngs, **exact)
        self.image_embed = ImageEmbedding(config.image_dim, dim, rngs=rngs) if config.image_dim else None
        channels = config.camera_channels
        self.camera_adapter = CameraAdapter(channels, dim, rngs=rngs) if channels else None
        self.blocks = module.stack(lambda rngs: Block(config, rngs=rngs), rngs, config.depth)
        self.head_modulation = nnx.Param(rngs.normal((2, dim)) * dim**-0.5)
        self.head = linear(dim, PATCH**2 * config.out_channels, rngs, kernel_init=nnx.initializers.zeros)

    def __call__(
        self,
        latents: Float[Array, "b f h w i"],
        condition: Float[Array, "b f h w j"],
        timesteps: Float[Array, " b"],
        context: Context,
        cameras: Float[Array, "b f h//2 w//2 c"] | None = None,
    ) -> Float[Array, "b f h w o"]:
        """Velocity of the flow, in float32.

        Args:
          latents: noisy; w covers both halves.
          condition: latents of the frames that are given, and their mask.
          timesteps: 0 (clean) to 1000 (noise).
          context: from :meth:`encode_context`.
          cameras: from :meth:`encode_cameras`, also where cameras are unknown: then of zeros.

        Raises:
          UserError: sides that are not made of patches, or halves that are not.
        """
        x = self.embed(latents, condition, cameras)
        frames, (rows, columns) = x.shape[1], picture_size(x)
        grid = (frames, rows, columns)
        if self.config.shared_halves and columns % 2:
            raise UserError(f"latents {latents.shape[3]} wide: two halves of whole patches need a multiple of 4")
        rotation = rotation_3d(grid, self.config.dim // self.config.num_heads, shared_halves=self.config.shared_halves)
        time, modulation = self.embed_time(timesteps)

        # Devices that share a sample get equally many tokens. Those that are added see the others and are not seen.
        count = math.prod(grid)
        missing = ((0, shortfall(count, "tokens")), (0, 0))
        rotation = jax.tree.map(lambda table: jnp.pad(table, missing), rotation)
        x = jnp.pad(x.reshape(x.shape[0], count, -1), ((0, 0), *missing))

        def run(x: Array, block: Block, context: Context) -> Array:
            return shard(block(x, modulation, context, rotation, count), "batch", "tokens")

        run = module.rematerialised(run, self.config.remat)
        x, _ = jax.lax.scan(
            lambda x, layer: (run(x, *layer), None), shard(x, "batch", "tokens"), (self.blocks, context)
        )
        return from_patches(self.predict(x, time)[:, :count].reshape(x.shape[0], *grid, -1), PATCH)

    def encode_context(self, text: Float[Array, "b n c"], image: Float[Array, "b m e"] | None = None) -> Context:
        """What cross-attention needs of text and image features; the same for every step of sampling.

        Args:
          text: features of the prompts, zero behind their ends. Those rows are attended like all others.
          image: features of the first given frame; None without an image branch.
        """
        if text.shape[1] != self.config.text_len:
            raise UserError(f"{text.shape[1]} rows of text features: pad with zeros to {self.config.text_len}")
        if (image is None) != (self.image_embed is None):
            raise UserError(
                f"image features are {'needed' if image is None else 'given, but there is no image branch'}"
            )
        # In float32: every layer reads the text, and adds to its gradient.
        text = shard(self.text_mlp(shard(text, "batch")).astype(jnp.float32), "batch")
        if image is not None and self.image_embed is not None:
            image = shard(self.image_embed(shard(image, "batch")), "batch")

        def body(_: None, block: Block) -> tuple[None, Context]:
            return None, block.encode_context(text, image)

        return jax.lax.scan(body, None, self.blocks)[1]

    def encode_cameras(
        self, cameras: Float[Array, "b f H W i"], repeat: int = 1
    ) -> Float[Array, "b f H//16 {repeat}*W//16 c"]:
        """What cameras add to the patches; the same for every step of sampling.

        Args:
          cameras: packed Pluecker maps in pixels; see :mod:`gen3r_jax.diffusion.conditioning`.
          repeat: so often they stand side by side, once for each half.
        """
        assert self.camera_adapter is not None
        return self.camera_adapter(cameras, repeat)

    def embed(
        self,
        latents: Float[Array, "b f h w i"],
        condition: Float[Array, "b f h w j"],
        cameras: Float[Array, "b f h//2 w//2 c"] | None,
    ) -> Float[Array, "b f h//2 w//2 c"]:
        """Patches before the first block, in float32."""
        if (cameras is None) != (self.camera_adapter is None):
            problem = (
                "needed; for unknown cameras encode zeros" if cameras is None else "given, but there is no adapter"
            )
            raise UserError(f"encoded cameras are {problem}")
        x = to_patches(jnp.concatenate([latents, condition.astype(latents.dtype)], axis=-1), PATCH)
        x = self.patch_embed(x.astype(self.patch_embed.kernel.dtype)).astype(jnp.float32)
        return x if cameras is None else x + cameras

    def embed_time(self, timesteps: Float[Array, " b"]) -> tuple[Float[Array, "b c"], Float[Array, "b 6 c"]]:
        """Embedding of the timestep, which modulates the head, and its projection, which modulates the blocks."""
        time = module.cast(self.time_mlp, jnp.float32)(timestep_embedding(timesteps, self.config.time_dim))
        modulation = self.time_projection(jax.nn.silu(time)).reshape(time.shape[0], 6, -1)
        return shard(time, "batch"), shard(modulation, "batch")

    def predict(self, x: Float[Array, "b n c"], time: Float[Array, "b c"]) -> Float[Array, "b n p"]:
        """The head, in float32: a patch of velocities for every token."""
        shift, scale = jnp.moveaxis(self.head_modulation + time[:, None], 1, 0)
        return self.head(modulate(x, shift, scale))


class Block(nnx.Module):
    """Self-attention, cross-attention and an MLP, the first and the last modulated by the timestep."""

    def __init__(self, config: WanDiTConfig, *, rngs: nnx.Rngs):
        dim, heads = config.dim, config.num_heads
        self.modulation = nnx.Param(rngs.normal((6, dim)) * dim**-0.5)
        self.self_attn = SelfAttention(dim, heads, rngs=rngs)
        self.cross_norm = layer_norm(dim, EPSILON, rngs)
        self.cross_attn = CrossAttention(dim, heads, rngs=rngs)
        self.text_attn = KeysValues(dim, heads, rngs=rngs)
        self.image_attn = KeysValues(dim, heads, rngs=rngs) if config.image_dim else None
        self.mlp = MLP(dim, config.mlp_dim, dim, jax.nn.gelu, rngs=rngs)

    def __call__(
        self,
        x: Float[Array, "b n c"],
        modulation: Float[Array, "b 6 c"],
        context: Context,
        rotation: PairRotation,
        count: int | None = None,
    ) -> Float[Array, "b n c"]:
        """`x` is float32.

        Args:
          context: that of this layer, without the layer axis.
          count: tokens from here on are not seen by any.
        """
        shift1, scale1, gate1, shift2, scale2, gate2 = jnp.moveaxis(self.modulation + modulation, 1, 0)
        x = x + gate1[:, None] * self.self_attn(modulate(x, shift1, scale1), rotation, count)
        x = x + self.cross_attn(self.cross_norm(x), context)
        return x + gate2[:, None] * self.mlp(modulate(x, shift2, scale2))

    def encode_context(self, text: Float[Array, "b n c"], image: Float[Array, "b m c"] | None) -> Context:
        """Keys and values of this layer, from embedded text and image."""
        of_image = (None, None) if image is None or self.image_attn is None else self.image_attn(image)
        return Context(*self.text_attn(text), *of_image)


class SelfAttention(nnx.Module):
    def __init__(self, dim: int, heads: int, *, rngs: nnx.Rngs):
        self.heads = heads
        self.q, self.k, self.v, self.out = (linear(dim, dim, rngs) for _ in range(4))
        self.q_norm, self.k_norm = RMSNorm(dim), RMSNorm(dim)

    def __call__(
        self, x: Float[Array, "b n c"], rotation: PairRotation, count: int | None = None
    ) -> Float[Array, "b n c"]:
        """Tokens from `count` on are not seen by any."""
        dtype = self.q.kernel.dtype
        x = x.astype(dtype)
        q, k = (
            rotate_pairs(split_heads(norm(layer(x)), self.heads), rotation).astype(dtype)
            for layer, norm in ((self.q, self.q_norm), (self.k, self.k_norm))
        )
        return self.out(attend(q, k, split_heads(self.v(x), self.heads), seen=count).reshape(x.shape))


class CrossAttention(nnx.Module):
    """Queries and output of the attention to text and image: two softmaxes, whose results are added."""

    def __init__(self, dim: int, heads: int, *, rngs: nnx.Rngs):
        self.heads = heads
        self.q, self.out = linear(dim, dim, rngs), linear(dim, dim, rngs)
        self.q_norm = RMSNorm(dim)

    def __call__(self, x: Float[Array, "b n c"], context: Context) -> Float[Array, "b n c"]:
        x = x.astype(self.q.kernel.dtype)
        q = split_heads(self.q_norm(self.q(x)).astype(x.dtype), self.heads)
        seen = attend(q, context.text_keys, context.text_values, layout="context")
        if context.image_keys is not None and context.image_values is not None:
            seen = seen + attend(q, context.image_keys, context.image_values, layout="context")
        return self.out(seen.reshape(x.shape))


class KeysValues(nnx.Module):
    """Keys and values of one source of cross-attention."""

    def __init__(self, dim: int, heads: int, *, rngs: nnx.Rngs):
        self.heads = heads
        self.k, self.v = linear(dim, dim, rngs), linear(dim, dim, rngs)
        self.k_norm = RMSNorm(dim)

    def __call__(self, x: Float[Array, "b n c"]) -> tuple[Float[Array, "b n k d"], Float[Array, "b n k d"]]:
        x = x.astype(self.k.kernel.dtype)
        keys = self.k_norm(self.k(x)).astype(x.dtype)
        return split_heads(keys, self.heads), split_heads(self.v(x), self.heads)


class ImageEmbedding(nnx.Module):
    """Image features to the width of the transformer."""

    def __init__(self, inputs: int, dim: int, *, rngs: nnx.Rngs):
        self.norm1 = layer_norm(inputs, 1e-5, rngs)
        self.mlp = MLP(inputs, inputs, dim, exact_gelu, rngs=rngs)
        self.norm2 = layer_norm(dim, 1e-5, rngs)

    def __call__(self, x: Float[Array, "b m e"]) -> Float[Array, "b m c"]:
        return self.norm2(self.mlp(self.norm1(x.astype(jnp.float32))).astype(jnp.float32))


class MLP(nnx.Module):
    def __init__(
        self,
        inputs: int,
        hidden: int,
        outputs: int,
        activation: Callable[[Array], Array],
        *,
        rngs: nnx.Rngs,
        **options: Any,
    ):
        self.activation = activation
        self.up = linear(inputs, hidden, rngs, **options)
        self.down = linear(hidden, outputs, rngs, **options)

    def __call__(self, x: Float[Array, "*b i"]) -> Float[Array, "*b o"]:
        return self.down(self.activation(self.up(x.astype(self.up.kernel.dtype))))


class RMSNorm(nnx.Module):
    """Over all channels, that is over all heads at once; in float32."""

    def __init__(self, dim: int):
        self.scale = nnx.Param(jnp.ones(dim))

    def __call__(self, x: Float[Array, "*b c"]) -> Float[Array, "*b c"]:
        x = x.astype(jnp.float32)
        return x * jax.lax.rsqrt(jnp.mean(x**2, axis=-1, keepdims=True) + EPSILON) * self.scale


def timestep_embedding(timesteps: Float[Array, " b"], dim: int) -> Float[Array, "b dim"]:
    """Cosines, then sines, of the timestep at the dim / 2 frequencies ``10000**(-2 i / dim)`` (radians a step).

    In float32, yet within 1e-6 for timesteps from 0 to 1024, where float32 angles would be off by 6e-5: the whole turns
    are taken off a product that is exact, of two numbers with 12 bits each.
    """
    turns_per_step = 10_000.0 ** (-np.arange(dim // 2) / (dim // 2)) / (2 * np.pi)
    coarse = np.round(turns_per_step * 2**14) / 2**14
    fine = turns_per_step - coarse
    t = timesteps.astype(jnp.float32)[:, None]
    quarters = jnp.round(4 * t) / 4
    exact = quarters * np.float32(coarse)
    rest = quarters * np.float32(fine) + (t - quarters) * np.float32(turns_per_step)
    angles = 2 * np.pi * (exact - jnp.round(exact) + rest)
    return jnp.concatenate([jnp.cos(angles), jnp.sin(angles)], axis=-1)


def modulate(x: Float[Array, "b n c"], shift: Float[Array, "b c"], scale: Float[Array, "b c"]) -> Float[Array, "b n c"]:
    """Layer norm without parameters of its own; `scale` (0: none) and `shift` take their place."""
    x = x - jnp.mean(x, axis=-1, keepdims=True)
    x = x * jax.lax.rsqrt(jnp.mean(x**2, axis=-1, keepdims=True) + EPSILON)
    return x * (1 + scale[:, None]) + shift[:, None]


def split_heads(x: Float[Array, "b n c"], heads: int) -> Float[Array, "b n k d"]:
    return x.reshape(*x.shape[:2], heads, -1)


def exact_gelu(x: Array) -> Array:
    return jax.nn.gelu(x, approximate=False)


def linear(inputs: int, outputs: int, rngs: nnx.Rngs, **options: Any) -> Linear:
    """Xavier's uniform kernel unless `options` say otherwise, and no bias to begin with."""
    return Linear(inputs, outputs, rngs=rngs, **{"kernel_init": nnx.initializers.xavier_uniform(), **options})


def layer_norm(dim: int, epsilon: float, rngs: nnx.Rngs) -> nnx.LayerNorm:
    return nnx.LayerNorm(dim, epsilon=epsilon, use_fast_variance=False, rngs=rngs)
