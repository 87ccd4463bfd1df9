"""DINOv2 with registers: the patch encoder of VGGT, and the transformer block that all of VGGT is made of."""

from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Float

from gen3r_jax import module
from gen3r_jax.arrays import picture_size
from gen3r_jax.errors import UserError
from gen3r_jax.module import Remat
from gen3r_jax.ops.attention import attend
from gen3r_jax.ops.context_parallel import Layout
from gen3r_jax.ops.resize import resize_bicubic
from gen3r_jax.ops.rope import Rotation, rotate_2d
from gen3r_jax.ops.shared import Conv, Linear, add, scale, spread

REGISTERS = 4


class Block(nnx.Module):
    """Pre-norm transformer block with a learned scale on both branches (LayerScale).

    Args:
      epsilon: of the two layer norms.
      branch_scale: initial value of both scales.
      qk_norm: layer norms of queries and keys over the features of a head, before the rotation.
    """

    def __init__(
        self,
        dim: int,
        heads: int,
        *,
        epsilon: float,
        branch_scale: float,
        qk_norm: bool = False,
        rngs: nnx.Rngs,
    ):
        self.norm1 = layer_norm(dim, epsilon, rngs)
        self.attn = Attention(dim, heads, qk_norm, rngs=rngs)
        self.scale1 = nnx.Param(jnp.full(dim, branch_scale))
        self.norm2 = layer_norm(dim, epsilon, rngs)
        self.mlp = MLP(dim, 4 * dim, dim, rngs=rngs)
        self.scale2 = nnx.Param(jnp.full(dim, branch_scale))

    def __call__(
        self,
        x: Float[Array, "b n c"],
        rotation: Rotation | None = None,
        *,
        layout: Layout = "frames",
        seen: int | None = None,
    ) -> Float[Array, "b n c"]:
        """layout, seen: of :func:`gen3r_jax.ops.attention.attend`."""
        x = x + scale(self.attn(self.norm1(x), rotation, layout, seen), self.scale1[...])
        return x + scale(self.mlp(self.norm2(x)), self.scale2[...])


class Attention(nnx.Module):
    """Self-attention; one product gives queries, keys and values (in this order, each by heads)."""

    def __init__(self, dim: int, heads: int, qk_norm: bool, *, rngs: nnx.Rngs):
        self.heads = heads
        self.qkv = Linear(dim, 3 * dim, rngs=rngs)
        self.q_norm = layer_norm(dim // heads, 1e-5, rngs) if qk_norm else None
        self.k_norm = layer_norm(dim // heads, 1e-5, rngs) if qk_norm else None
        self.proj = Linear(dim, dim, rngs=rngs)

    def __call__(
        self, x: Float[Array, "b n c"], rotation: Rotation | None, layout: Layout = "frames", seen: int | None = None
    ) -> Float[Array, "b n c"]:
        q, k, v = self.queries_keys_values(x, rotation)
        return self.proj(attend(q, k, v, layout=layout, seen=seen).reshape(x.shape))

    def queries_keys_values(
        self, x: Float[Array, "b n c"], rotation: Rotation | None
    ) -> tuple[Float[Array, "b n k d"], Float[Array, "b n k d"], Float[Array, "b n k d"]]:
        q, k, v = jnp.moveaxis(self.qkv(x).reshape(*x.shape[:2], 3, self.heads, -1), 2, 0)
        if self.q_norm is not None and self.k_norm is not None:
            q, k = self.q_norm(q), self.k_norm(k)
        if rotation is not None:
            q, k = rotate_2d(q, rotation), rotate_2d(k, rotation)
        return q, k, v


class MLP(nnx.Module):
    def __init__(self, inputs: int, hidden: int, outputs: int, *, rngs: nnx.Rngs):
        self.fc1 = Linear(inputs, hidden, rngs=rngs)
        self.fc2 = Linear(hidden, outputs, rngs=rngs)

    def __call__(self, x: Float[Array, "*b i"]) -> Float[Array, "*b o"]:
        return self.fc2(jax.nn.gelu(self.fc1(x), approximate=False))


class DINOv2(nnx.Module):
    """Vision transformer over patches, with a class token, four registers and a learned table of positions."""

    def __init__(
        self,
        *,
        image_size: int,
        patch_size: int,
        dim: int,
        depth: int,
        heads: int,
        remat: Remat,
        rngs: nnx.Rngs,
    ):
        self.patch_size = patch_size
        self.table_side = image_size // patch_size
        self.remat: Remat = remat
        patch = (patch_size, patch_size)
        self.patch_embed = Conv(3, dim, patch, strides=patch, padding="VALID", rngs=rngs)
        self.cls_token = nnx.Param(1e-6 * rngs.normal((1, 1, dim)))
        self.register_tokens = nnx.Param(1e-6 * rngs.normal((1, REGISTERS, dim)))
        self.pos_embed = nnx.Param(0.02 * rngs.truncated_normal(-2, 2, (1, 1 + self.table_side**2, dim)))
        self.blocks = module.stack(lambda r: Block(dim, heads, epsilon=1e-6, branch_scale=1.0, rngs=r), rngs, depth)
        self.norm = layer_norm(dim, 1e-6, rngs)

    def __call__(self, images: Float[Array, "b h w 3"]) -> Float[Array, "b n c"]:
        """Normalised tokens: class, registers, then the patches row by row.

        Images are already normalised by mean and standard deviation; sides are multiples of the patch size.
        """
        x = self.embed(images.astype(self.patch_embed.kernel.dtype))

        def body(x: Array, block: Block) -> tuple[Array, None]:
            return module.rematerialised(Block.__call__, self.remat)(block, x), None

        x, _ = jax.lax.scan(body, x, self.blocks)
        return self.norm(x)

    def embed(self, images: Float[Array, "b h w 3"]) -> Float[Array, "b n c"]:
        """Tokens before the first block: patches and class token with their positions, registers without."""
        grid = patch_grid(picture_size(images), self.patch_size)
        patches = self.patch_embed(images).reshape(images.shape[0], -1, self.cls_token.shape[-1])
        positions = self.position_embedding(grid)
        cls_token = self.cls_token + positions[:, :1].astype(patches.dtype)
        special = jnp.concatenate([cls_token, self.register_tokens[...]], axis=1)
        special = spread(special, (len(patches), *special.shape[1:]), patches.dtype)
        return jnp.concatenate([special, add(patches, positions[:, 1:])], axis=1)

    def position_embedding(self, grid: tuple[int, int]) -> Float[Array, "1 n c"]:
        """Positions of the class token and of a grid of patches: the table, resized in float32 where it differs."""
        side = self.table_side
        table = self.pos_embed.astype(jnp.float32)
        if grid == (side, side):
            return table
        patches = resize_bicubic(table[:, 1:].reshape(1, side, side, -1), grid)
        return jnp.concatenate([table[:, :1], patches.reshape(1, grid[0] * grid[1], -1)], axis=1)


def layer_norm(dim: int, epsilon: float, rngs: nnx.Rngs, **options: Any) -> nnx.LayerNorm:
    return nnx.LayerNorm(dim, epsilon=epsilon, use_fast_variance=False, rngs=rngs, **options)


def patch_grid(image_size: tuple[int, int], patch_size: int) -> tuple[int, int]:
    """Rows and columns of patches of an image of (height, width) pixels."""
    height, width = image_size
    if height % patch_size or width % patch_size:
        raise UserError(
            f"images of {height} x {width} pixels: both sides must be multiples of {patch_size}; crop or resize them"
        )
    return height // patch_size, width // patch_size
