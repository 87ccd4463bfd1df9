"""VGGT: cameras, depth and points of a clip in one pass ("VGGT: Visual Geometry Grounded Transformer").

Patches of every frame (DINOv2) and five special tokens a frame go through blocks that attend within frames and over
the whole clip in turn. Heads read the tokens of four layers; the same tokens are what the geometry adapter compresses.
"""

from dataclasses import dataclass
from typing import Annotated, ClassVar, Self

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jaxtyping import Array, Float

from gen3r_jax import module
from gen3r_jax.arrays import picture_size
from gen3r_jax.models.dinov2 import REGISTERS, Block, DINOv2, patch_grid
from gen3r_jax.models.sizes import require_heads
from gen3r_jax.models.vggt_heads import CameraHead, DPTHead, inverse_log
from gen3r_jax.module import Remat
from gen3r_jax.ops.leaves import AnyArray, Leaf
from gen3r_jax.ops.rope import rotation_2d
from gen3r_jax.ops.shared import spread
from gen3r_jax.options import Count, Range
from gen3r_jax.sharding import shard, shortfall

SPECIAL_TOKENS = 1 + REGISTERS  # camera, registers
IMAGE_MEAN = (0.485, 0.456, 0.406)
IMAGE_STD = (0.229, 0.224, 0.225)


@dataclass(frozen=True)
class VGGTConfig:
    """Attributes:
    image_size: side of the square images whose grid the table of positions has; any other size works too.
    dino_depth, dino_heads: of the patch encoder.
    depth, num_heads: of the aggregator; one of `depth` rounds is a block within frames and one over the clip.
    layers: rounds (from 0, ascending) whose tokens are kept; heads need four.
    camera_depth, camera_heads: blocks and attention heads of the camera head.
    dpt_features, dpt_channels: of the dense heads, see :class:`DPTHead`.
    point_head: whether there is a head for points; depth and cameras give points without it.
    """

    RETIRED: ClassVar = ("branch_scale", "token_std", "position_waves", "matching")
    """Keys of older folders, which said how their training began."""

    image_size: Count = 518
    patch_size: Count = 14
    embed_dim: Count = 1024
    dino_depth: Count = 24
    dino_heads: Count = 16
    depth: Count = 24
    num_heads: Count = 16
    layers: Annotated[tuple[int, ...], Range(at_least=0)] = (4, 11, 17, 23)
    camera_depth: Count = 4
    camera_heads: Count = 16
    dpt_features: Count = 256
    dpt_channels: Annotated[tuple[int, int, int, int], Range(at_least=1)] = (256, 512, 1024, 1024)
    point_head: bool = True
    remat: Remat = "none"

    def __post_init__(self) -> None:
        require_heads("vggt.embed_dim", self.embed_dim, self.dino_heads)
        require_heads("vggt.embed_dim", self.embed_dim, self.num_heads, 4)
        require_heads("twice vggt.embed_dim", 2 * self.embed_dim, self.camera_heads)

    @classmethod
    def vggt_1b(cls) -> Self:
        return cls()

    @classmethod
    def nano(cls) -> Self:
        return cls(
            image_size=112,
            embed_dim=128,
            dino_depth=2,
            dino_heads=4,
            depth=4,
            num_heads=4,
            layers=(0, 1, 2, 3),
            camera_depth=1,
            camera_heads=8,
            dpt_features=32,
            dpt_channels=(32, 48, 64, 64),
        )

    @classmethod
    def tiny(cls) -> Self:
        return cls(
            image_size=56,
            embed_dim=32,
            dino_depth=2,
            dino_heads=2,
            depth=4,
            num_heads=2,
            layers=(0, 1, 2, 3),
            camera_depth=2,
            camera_heads=4,
            dpt_features=16,
            dpt_channels=(8, 12, 16, 20),
        )


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class VGGTOutput:
    """Cameras and dense predictions of a clip, in float32.

    Attributes:
      pose_enc: camera encodings, see :func:`gen3r_jax.geometry.cameras.decode_pose`.
      depth: along the optical axis, up to one scale per clip.
      depth_confidence, points_confidence: at least 1, larger is surer.
      points: in the coordinates of the first camera; None without a point head, as is its confidence.
    """

    pose_enc: Float[Leaf, "b t 9"]
    depth: Float[Leaf, "b t h w"]
    depth_confidence: Float[Leaf, "b t h w"]
    points: Float[Leaf, "b t h w 3"] | None
    points_confidence: Float[Leaf, "b t h w"] | None


class VGGT(module.Network):
    """The network. Its weights decide the dtype of the aggregator; heads always compute in float32."""

    Config = VGGTConfig

    def __init__(self, config: VGGTConfig, *, rngs: nnx.Rngs):
        self.config = config
        dim = 2 * config.embed_dim
        self.aggregator = Aggregator(config, rngs=rngs)
        self.camera_head = CameraHead(dim, config.camera_depth, config.camera_heads, config.remat, rngs=rngs)

        def dpt_head(outputs: int, activation) -> DPTHead:
            channels, features = config.dpt_channels, config.dpt_features
            return DPTHead(dim, channels, features, outputs, activation, config.patch_size, config.remat, rngs=rngs)

        self.depth_head = dpt_head(2, jnp.exp)
        self.point_head = dpt_head(4, inverse_log) if config.point_head else None

    def __call__(self, images: Float[Array, "b t h w 3"]) -> VGGTOutput:
        """Everything at once, from images in [0, 1] whose sides are multiples of the patch size."""
        image_size = picture_size(images)
        tokens = self.aggregate(images)
        patch_tokens = tokens[..., SPECIAL_TOKENS:, :]
        depth, depth_confidence = self.depth(patch_tokens, image_size)
        points = points_confidence = None
        if self.config.point_head:
            points, points_confidence = self.points(patch_tokens, image_size)
        pose_enc = self.camera(tokens[-1, :, :, 0])[-1]
        return VGGTOutput(pose_enc, depth, depth_confidence, points, points_confidence)

    def aggregate(self, images: Float[Array, "b t h w 3"]) -> Float[Array, "l b t n c"]:
        """Tokens of the kept layers, from images in [0, 1] whose sides are multiples of the patch size.

        The n tokens of a frame are its camera token, four registers and its patches row by row; the first half of the
        channels comes from the block within frames, the second from the block over the clip.
        """
        return self.aggregator(images)

    def camera(self, camera_tokens: Float[Array, "b t c"]) -> Float[Array, "4 b t 9"]:
        """Pose encodings after each of the four refinements, from the camera tokens of the last kept layer."""
        return self.camera_head(camera_tokens)

    def depth(
        self, patch_tokens: Float[Array, "4 b t p c"], image_size: tuple[int, int], frames_per_chunk: int = 8
    ) -> tuple[Float[Array, "b t h w"], Float[Array, "b t h w"]]:
        """Depth and confidence for images of (height, width) pixels, so many frames of each clip at a time."""
        depth, confidence = self.depth_head(patch_tokens, image_size, frames_per_chunk)
        return depth[..., 0], confidence

    def points(
        self, patch_tokens: Float[Array, "4 b t p c"], image_size: tuple[int, int], frames_per_chunk: int = 8
    ) -> tuple[Float[Array, "b t h w 3"], Float[Array, "b t h w"]]:
        """Points in the coordinates of the first camera, and their confidence. Needs a point head."""
        assert self.point_head is not None
        return self.point_head(patch_tokens, image_size, frames_per_chunk)


class Aggregator(nnx.Module):
    """Alternating attention within frames and over all frames."""

    def __init__(self, config: VGGTConfig, *, rngs: nnx.Rngs):
        self.config = config
        dim = config.embed_dim
        self.patch_embed = DINOv2(
            image_size=config.image_size,
            patch_size=config.patch_size,
            dim=dim,
            depth=config.dino_depth,
            heads=config.dino_heads,
            remat=config.remat,
            rngs=rngs,
        )
        # Row 0 is for the first frame, which sets the coordinates, row 1 for all others.
        self.camera_token = nnx.Param(1e-6 * rngs.normal((1, 2, 1, dim)))
        self.register_token = nnx.Param(1e-6 * rngs.normal((1, 2, REGISTERS, dim)))

        def block(rngs: nnx.Rngs) -> Block:
            return Block(dim, config.num_heads, epsilon=1e-5, branch_scale=0.01, qk_norm=True, rngs=rngs)

        self.frame_blocks = module.stack(block, rngs, config.depth)
        self.global_blocks = module.stack(block, rngs, config.depth)

    def __call__(self, images: Float[Array, "b t h w 3"]) -> Float[Array, "l b t n c"]:
        """See :meth:`VGGT.aggregate`."""
        config = self.config
        frames = images.shape[1]
        # Devices that share a clip get equally many frames. Those that are added see the others and are not seen.
        images = jnp.pad(images, ((0, 0), (0, shortfall(frames, "frames")), (0, 0), (0, 0), (0, 0)))
        x = shard(self.embed(shard(images, "batch", "frames")), "batch", "frames")
        b, t, n, c = x.shape
        rotation = rotation_2d(self.positions(picture_size(images)), c // config.num_heads)
        rotation_of_clip = jax.tree.map(lambda table: jnp.tile(table, (t, 1, 1)), rotation)

        def attend_twice(x: Array, frame_block: Block, global_block: Block) -> tuple[Array, Array]:
            within = frame_block(x.reshape(b * t, n, c), rotation)
            over = global_block(within.reshape(b, t * n, c), rotation_of_clip, layout="clip", seen=frames * n)
            within, over = (shard(x.reshape(b, t, n, c), "batch", "frames") for x in (within, over))
            return over, jnp.concatenate([within, over], axis=-1)

        attend_twice = module.rematerialised(attend_twice, config.remat)

        def body(carry: tuple[Array, Array], layer: tuple[Block, Block, AnyArray]) -> tuple[tuple[Array, Array], None]:
            x, kept = carry
            frame_block, global_block, slot = layer
            x, both = attend_twice(x, frame_block, global_block)
            return (x, jax.lax.dynamic_update_index_in_dim(kept, both, slot, 0)), None

        # Every layer writes its tokens to the slot of the next kept layer, so the last to write there is that layer.
        depth = config.layers[-1] + 1
        frame_blocks, global_blocks = jax.tree.map(lambda p: p[:depth], (self.frame_blocks, self.global_blocks))
        slots = np.searchsorted(config.layers, np.arange(depth))
        kept = shard(jnp.zeros((len(config.layers), b, t, n, 2 * c), x.dtype), None, "batch", "frames")
        (_, kept), _ = jax.lax.scan(body, (x, kept), (frame_blocks, global_blocks, slots))
        return kept[:, :, :frames]

    def embed(self, images: Float[Array, "b t h w 3"]) -> Float[Array, "b t n c"]:
        """Special tokens and encoded patches of every frame."""
        b, t = images.shape[:2]
        images = (images - jnp.asarray(IMAGE_MEAN, images.dtype)) / jnp.asarray(IMAGE_STD, images.dtype)
        patches = self.patch_embed(images.reshape(b * t, *images.shape[2:]))[:, 1 + REGISTERS :]
        special = jnp.concatenate([self.camera_token[...], self.register_token[...]], axis=2)  # [1 2 5 c]
        special = special.astype(jnp.float32)[:, np.minimum(np.arange(t), 1)]
        special = spread(special, (b, *special.shape[1:]), patches.dtype)
        return jnp.concatenate([special, patches.reshape(b, t, *patches.shape[1:])], axis=2)

    def positions(self, image_size: tuple[int, int]) -> np.ndarray:
        """(row, column) of every token: zero for special tokens, from one for patches."""
        grid = patch_grid(image_size, self.config.patch_size)
        patches = 1 + np.stack(np.meshgrid(*map(np.arange, grid), indexing="ij"), axis=-1).reshape(-1, 2)
        return np.concatenate([np.zeros((SPECIAL_TOKENS, 2), int), patches])
