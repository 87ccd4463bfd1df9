"""Heads of VGGT: cameras by iterative refinement, depth and points by a dense prediction transformer (DPT).

Heads compute in float32 whatever the dtype of tokens and weights. Products of the camera head are exact; those of the
dense heads are as precise as the platform's default, which on TPUs and GPUs rounds their factors.
"""

import math
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jaxtyping import Array, Float

from gen3r_jax import module
from gen3r_jax.arrays import picture_size
from gen3r_jax.models.dinov2 import MLP, Block, layer_norm
from gen3r_jax.module import Remat
from gen3r_jax.ops.conv import convolution
from gen3r_jax.ops.groups import chunks
from gen3r_jax.ops.resize import resize_align_corners
from gen3r_jax.ops.shared import Conv, Linear, add
from gen3r_jax.sharding import shard

POSE_DIM = 9


class CameraHead(nnx.Module):
    """Refines the encodings of all cameras of a clip four times, from their camera tokens."""

    ITERATIONS = 4

    def __init__(self, dim: int, depth: int, heads: int, remat: Remat, *, rngs: nnx.Rngs):
        self.remat = remat
        self.token_norm = layer_norm(dim, 1e-5, rngs)
        self.empty_pose = nnx.Param(jnp.zeros((1, 1, POSE_DIM)))
        self.embed_pose = Linear(POSE_DIM, dim, rngs=rngs)
        self.modulation = Linear(dim, 3 * dim, rngs=rngs)
        self.modulated_norm = layer_norm(dim, 1e-6, rngs, use_scale=False, use_bias=False)
        # A list, not a stack: for a few tokens, copying the slices of a stack would cost more than using them.
        self.trunk = nnx.List([Block(dim, heads, epsilon=1e-5, branch_scale=0.01, rngs=rngs) for _ in range(depth)])
        self.trunk_norm = layer_norm(dim, 1e-5, rngs)
        self.pose_branch = MLP(dim, dim // 2, POSE_DIM, rngs=rngs)

    def __call__(self, tokens: Float[Array, "b t c"], iterations: int = ITERATIONS) -> Float[Array, "i b t 9"]:
        """Pose encodings (see :func:`gen3r_jax.geometry.cameras.encode_pose`) after every iteration.

        What is fed back is the raw encoding without its gradient; what is returned has its field of view clipped at 0.
        """
        self = module.cast(self, jnp.float32)
        tokens = self.token_norm(tokens.astype(jnp.float32))
        normalised = self.modulated_norm(tokens)

        def refine(pose: Array, is_first: Array) -> tuple[Array, Array]:
            previous = jax.lax.stop_gradient(pose)
            given = jnp.where(is_first, self.empty_pose[...], previous)
            shift, scale, gate = jnp.split(self.modulation(jax.nn.silu(self.embed_pose(given))), 3, axis=-1)
            x = tokens + gate * (normalised * (1 + scale) + shift)
            for block in self.trunk:
                x = block(x)
            pose = previous + self.pose_branch(self.trunk_norm(x))
            return pose, jnp.concatenate([pose[..., :7], jax.nn.relu(pose[..., 7:])], axis=-1)

        start = jnp.zeros((*tokens.shape[:2], POSE_DIM))
        refine = module.rematerialised(refine, self.remat)
        # TPUs and GPUs round factors by default, which turns cameras by up to 0.1 degrees; the products are small.
        with jax.default_matmul_precision("highest"):
            return jax.lax.scan(refine, start, jnp.arange(iterations) == 0)[1]


class DPTHead(nnx.Module):
    """Dense prediction from the tokens of four layers ("Vision Transformers for Dense Prediction"; as in VGGT).

    Args:
      dim: of the tokens.
      channels: of the four levels, at 4, 2, 1 and 1/2 times the patch grid.
      features: of the fused pyramid.
      outputs: predicted channels per pixel, the last one being the confidence.
      activation: of the predicted channels but the last.
    """

    def __init__(
        self,
        dim: int,
        channels: tuple[int, int, int, int],
        features: int,
        outputs: int,
        activation: Callable[[Array], Array],
        patch_size: int,
        remat: Remat,
        *,
        rngs: nnx.Rngs,
    ):
        self.activation = activation
        self.patch_size = patch_size
        self.remat = remat
        self.norm = layer_norm(dim, 1e-5, rngs)
        self.project = nnx.List([Linear(dim, c, rngs=rngs) for c in channels])
        self.resize = nnx.List(
            [
                ConvTranspose(channels[0], 4, rngs=rngs),
                ConvTranspose(channels[1], 2, rngs=rngs),
                conv3x3(channels[3], channels[3], rngs, strides=2),
            ]
        )
        self.lateral = nnx.List([conv3x3(c, features, rngs, use_bias=False) for c in channels])
        self.fuse = nnx.List([Fusion(features, has_deeper=level < 3, rngs=rngs) for level in range(4)])
        self.output1 = conv3x3(features, features // 2, rngs)
        self.output2 = conv3x3(features // 2, 32, rngs)
        self.output3 = Linear(32, outputs, rngs=rngs)

    def __call__(
        self, tokens: Float[Array, "4 b t p c"], image_size: tuple[int, int], frames_per_chunk: int
    ) -> tuple[Float[Array, "b t h w o"], Float[Array, "b t h w"]]:
        """Predictions and confidence (at least 1) for every pixel.

        Frames are independent; so many of each clip are computed at a time.
        """
        self = module.cast(self, jnp.float32)
        layers, b, t, *rest = tokens.shape
        count, size = chunks(t, frames_per_chunk)
        padded = jnp.pad(tokens, ((0, 0), (0, 0), (0, count * size - t), (0, 0), (0, 0)))
        # A chunk takes every count-th frame of every clip: however these are split over devices, each chunk is too.
        padded = jnp.moveaxis(padded.reshape(layers, b, size, count, *rest), 3, 0)
        padded = padded.reshape(count, layers, b * size, *rest)
        predict = module.rematerialised(lambda tokens: self.predict(tokens, image_size), self.remat)
        out = jax.lax.map(predict, padded) if count > 1 else predict(padded[0])[None]
        out = jnp.moveaxis(out.reshape(count, b, size, *out.shape[2:]), 0, 2)
        out = out.reshape(b, size * count, *out.shape[3:])[:, :t]
        return self.activation(out[..., :-1]), 1 + jnp.exp(out[..., -1])

    def predict(self, tokens: Float[Array, "4 b p c"], image_size: tuple[int, int]) -> Float[Array, "b h w o"]:
        """Raw channels of one chunk of frames, before their activations."""
        tokens = shard(tokens, None, "samples")
        x = self.output1(self.pyramid(tokens, image_size)[0])
        x = resize_align_corners(x, image_size)
        x = x + position_map(picture_size(x), x.shape[-1], image_size)
        return self.output3(jax.nn.relu(self.output2(x)))

    def pyramid(self, tokens: Float[Array, "4 b p c"], image_size: tuple[int, int]) -> list[Float[Array, "b _ _ f"]]:
        """The four levels fused from the deepest up; the first has 8 times the resolution of the patch grid."""
        laterals = [self.lateral[i](self.level(i, tokens[i], image_size)) for i in range(4)]
        height, width = picture_size(laterals[0])
        sizes = [(2 * height, 2 * width), *map(picture_size, laterals[:3])]
        fused, x = [], None
        for fuse, lateral, size in reversed(list(zip(self.fuse, laterals, sizes, strict=True))):
            x = fuse(x, lateral, size)
            fused.insert(0, x)
        return fused

    def level(self, i: int, tokens: Float[Array, "b p c"], image_size: tuple[int, int]) -> Float[Array, "b h w f"]:
        """Feature map of level `i`, at its own resolution."""
        x = self.project[i](self.norm(tokens.astype(jnp.float32)))
        grid = (image_size[0] // self.patch_size, image_size[1] // self.patch_size)
        x = x.reshape(x.shape[0], *grid, x.shape[-1])
        x = x + position_map(picture_size(x), x.shape[-1], image_size)
        resize = (self.resize[0], self.resize[1], None, self.resize[2])[i]
        return x if resize is None else resize(x)


class Fusion(nnx.Module):
    """Adds a lateral feature map to the deeper one (none at the bottom), refines the sum and enlarges it."""

    def __init__(self, features: int, has_deeper: bool, *, rngs: nnx.Rngs):
        self.unit1 = ResidualUnit(features, rngs=rngs) if has_deeper else None
        self.unit2 = ResidualUnit(features, rngs=rngs)
        self.out = Linear(features, features, rngs=rngs)

    def __call__(
        self, deeper: Float[Array, "b h w c"] | None, lateral: Float[Array, "b h w c"], size: tuple[int, int]
    ) -> Float[Array, "b p q c"]:
        x = lateral if self.unit1 is None or deeper is None else deeper + self.unit1(lateral)
        return self.out(resize_align_corners(self.unit2(x), size))


class ResidualUnit(nnx.Module):
    def __init__(self, features: int, *, rngs: nnx.Rngs):
        self.conv1 = conv3x3(features, features, rngs)
        self.conv2 = conv3x3(features, features, rngs)

    def __call__(self, x: Float[Array, "b h w c"]) -> Float[Array, "b h w c"]:
        x = jax.nn.relu(x)  # the skip carries this too: the pretrained weights rely on it
        return x + self.conv2(jax.nn.relu(self.conv1(x)))


class ConvTranspose(nnx.Module):
    """Transposed convolution whose stride is its kernel size: every pixel becomes a tile of its own."""

    def __init__(self, channels: int, factor: int, *, rngs: nnx.Rngs):
        init = nnx.initializers.lecun_normal(in_axis=2, out_axis=3, batch_axis=(0, 1))
        self.kernel = nnx.Param(init(rngs.params(), (factor, factor, channels, channels)))
        self.bias = nnx.Param(jnp.zeros(channels))

    def __call__(self, x: Float[Array, "b h w c"]) -> Float[Array, "b fh fw c"]:
        b, h, w, c = x.shape
        factor = self.kernel.shape[0]
        tiles = jnp.einsum("bhwc,ijco->bhiwjo", x, self.kernel[...])
        return add(tiles.reshape(b, factor * h, factor * w, c), self.bias[...])


def conv3x3(inputs: int, outputs: int, rngs: nnx.Rngs, **options: Any) -> Conv:
    convolve = convolution("frames")
    return Conv(inputs, outputs, (3, 3), padding=1, conv_general_dilated=convolve, rngs=rngs, **options)


def position_map(size: tuple[int, int], channels: int, image_size: tuple[int, int]) -> Float[Array, "h w c"]:
    """Sine-cosine code of the place in the image, times 0.1, for a feature map of `size` (height, width).

    Places are divided by half the image's diagonal, so that they keep its aspect ratio; the first half of the channels
    codes x, the second y. Computed in float64.
    """
    height, width = size
    diagonal = math.hypot(*image_size)
    frequencies = 100.0 ** -(np.arange(channels // 4) / (channels // 4))

    def code(size: int, side: int) -> Float[np.ndarray, "size c"]:
        places = side / diagonal * np.linspace(-(size - 1) / size, (size - 1) / size, size)
        angles = places[:, None] * frequencies
        return (0.1 * np.concatenate([np.sin(angles), np.cos(angles)], axis=-1)).astype(np.float32)

    across = jnp.broadcast_to(code(width, image_size[1])[None], (height, width, channels // 2))
    down = jnp.broadcast_to(code(height, image_size[0])[:, None], (height, width, channels // 2))
    return jnp.concatenate([across, down], axis=-1)


def inverse_log(x: Float[Array, "*b"]) -> Float[Array, "*b"]:
    """sign(x) (exp|x| - 1), the inverse of a symmetric logarithm."""
    return jnp.sign(x) * jnp.expm1(jnp.abs(x))
