"""Image encoder of CLIP ViT-H/14 as Wan conditions on it: all blocks but the last, and neither final norm nor head."""

from dataclasses import dataclass
from typing import Self

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jaxtyping import Array, Float

from gen3r_jax import module
from gen3r_jax.models.dinov2 import MLP, Attention, layer_norm
from gen3r_jax.models.sizes import require_heads
from gen3r_jax.ops.leaves import AnyArray
from gen3r_jax.ops.shared import Conv, add, spread
from gen3r_jax.options import Count
from gen3r_jax.sharding import shard

EPSILON = 1e-5
IMAGE_MEAN = (0.48145466, 0.4578275, 0.40821073)
IMAGE_STD = (0.26862954, 0.26130258, 0.27577711)


@dataclass(frozen=True)
class CLIPVisionConfig:
    """depth: blocks of the official network; one less is run."""

    image_size: Count = 224
    patch_size: Count = 14
    dim: Count = 1280
    num_heads: Count = 16
    depth: Count = 32

    def __post_init__(self) -> None:
        require_heads("clip_vision.dim", self.dim, self.num_heads)

    @classmethod
    def vit_h14(cls) -> Self:
        return cls()

    @classmethod
    def tiny(cls) -> Self:
        return cls(dim=32, num_heads=2, depth=2)

    @classmethod
    def nano(cls) -> Self:
        return cls(image_size=56, dim=64, num_heads=4, depth=2)


class CLIPVision(module.Network):
    """The network. Its weights decide the dtype; layer norms are in float32."""

    Config = CLIPVisionConfig

    def __init__(self, config: CLIPVisionConfig, *, rngs: nnx.Rngs):
        self.config = config
        patch, dim = (config.patch_size, config.patch_size), config.dim
        tokens = 1 + (config.image_size // config.patch_size) ** 2
        self.patch_embed = Conv(3, dim, patch, strides=patch, padding="VALID", use_bias=False, rngs=rngs)
        self.cls_token = nnx.Param(dim**-0.5 * rngs.normal((1, 1, dim)))
        self.pos_embed = nnx.Param(dim**-0.5 * rngs.normal((1, tokens, dim)))
        self.pre_norm = layer_norm(dim, EPSILON, rngs)
        self.blocks = module.stack(lambda rngs: Block(dim, config.num_heads, rngs=rngs), rngs, config.depth - 1)

    def __call__(self, images: Float[Array, "b h w 3"]) -> Float[Array, "b n c"]:
        """Features of images in [0, 1] of any size: the class token, then the patches row by row."""
        x = self.embed(preprocess(images, self.config.image_size))

        def body(x: Array, block: Block) -> tuple[Array, None]:
            return shard(block(x), "batch"), None

        return jax.lax.scan(body, x, self.blocks)[0]

    def embed(self, images: Float[Array, "b s s 3"]) -> Float[Array, "b n c"]:
        """Tokens before the first block, from preprocessed images."""
        patches = self.patch_embed(images.astype(self.patch_embed.kernel.dtype))
        patches = patches.reshape(len(patches), -1, patches.shape[-1])
        cls_token = spread(self.cls_token[...], (len(patches), 1, patches.shape[-1]), patches.dtype)
        return self.pre_norm(add(jnp.concatenate([cls_token, patches], axis=1), self.pos_embed[...]))


class Block(nnx.Module):
    def __init__(self, dim: int, heads: int, *, rngs: nnx.Rngs):
        self.norm1 = layer_norm(dim, EPSILON, rngs)
        self.attn = Attention(dim, heads, qk_norm=False, rngs=rngs)
        self.norm2 = layer_norm(dim, EPSILON, rngs)
        self.mlp = MLP(dim, 4 * dim, dim, rngs=rngs)

    def __call__(self, x: Float[Array, "b n c"]) -> Float[Array, "b n c"]:
        x = x + self.attn(self.norm1(x), None)
        return x + self.mlp(self.norm2(x))


def preprocess(images: Float[AnyArray, "b h w 3"], size: int) -> Float[Array, "b size size 3"]:
    """Images in [0, 1] as the encoder takes them: cut to 8 bits, stretched to a square, normalised; in float32.

    The resize is bicubic with a = -0.75, without antialiasing and with the border repeated, as upstream's.
    """
    images = jnp.floor(255 * images.astype(jnp.float32)) / 255
    rows, columns = (_bicubic_matrix(side, size) for side in images.shape[1:3])
    exact = jax.lax.Precision.HIGHEST
    images = jnp.einsum("ph,bhwc,qw->bpqc", rows, images, columns, precision=exact)
    return (images - np.asarray(IMAGE_MEAN, np.float32)) / np.asarray(IMAGE_STD, np.float32)


def _bicubic_matrix(length: int, size: int) -> Float[np.ndarray, "size length"]:
    a = -0.75
    centre = (np.arange(size) + 0.5) * length / size - 0.5
    first = np.floor(centre).astype(int) - 1
    matrix = np.zeros((size, length), np.float32)
    for tap in range(4):
        d = np.abs(centre - (first + tap))
        near = (a + 2) * d**3 - (a + 3) * d**2 + 1
        far = a * (d**3 - 5 * d**2 + 8 * d - 4)
        np.add.at(matrix, (np.arange(size), np.clip(first + tap, 0, length - 1)), np.where(d <= 1, near, far))
    return matrix
