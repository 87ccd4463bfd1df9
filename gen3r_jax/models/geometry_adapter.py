"""Geometry adapter: VGGT tokens <-> latents of the same shape as the VAE's (paper, section 3.2).

An asymmetric causal autoencoder. Tokens of four VGGT layers and the camera token, packed into one map per frame on
the patch grid P, become latents on the grid 7P/4, the VAE's latent grid for the same image (14 against 8 pixels a
cell). Time is compressed by 4 as in the VAE, space is not.
"""

from dataclasses import dataclass
from typing import Annotated, Self

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Float

from gen3r_jax.arrays import picture_size
from gen3r_jax.errors import UserError
from gen3r_jax.models.causal_autoencoder import CausalAutoencoder, Decoder, DiagonalGaussian, Down, Encoder, Up
from gen3r_jax.models.vggt import SPECIAL_TOKENS
from gen3r_jax.module import Remat
from gen3r_jax.ops.causal_conv import conv2d
from gen3r_jax.ops.groups import map_groups
from gen3r_jax.ops.resized_conv import EnlargingConv, ReducingConv
from gen3r_jax.options import Count, Range
from gen3r_jax.sharding import shard

FRAMES_AT_ONCE = 8  # in the input and output block, whose intermediate maps have nine times the channels

# Measured on clips of 49 frames with the released weights.
# fmt: off
LATENT_MEAN = (
    0.14257538, 0.18577661, 0.14208488, 0.06298031, 0.09738383, -0.06001362, -0.04728968, -0.12326089,
    -0.04308648, -0.10522724, 0.08278389, -0.00270301, -0.09203526, 0.03170688, 0.11458898, 0.10679868,
)
LATENT_STD = (
    0.56929547, 0.61451489, 0.68560797, 0.78598368, 0.51151282, 0.75570852, 0.80284864, 0.63438177,
    0.82458758, 0.59266430, 0.75781488, 0.70593017, 0.70382243, 0.57837099, 0.73155540, 0.71971470,
)
# fmt: on


@dataclass(frozen=True)
class GeometryAdapterConfig:
    """Sizes of the adapter.

    Attributes:
      hidden_dim: narrowest width; the others are 2 and 4 times as wide.
      input_dim: channels of a packed map, five times those of a VGGT token.
      resample_scale: the input block divides the channels by it, the output block multiplies them.
      latent_mean, latent_std: statistics of the latents, one number a channel; the posterior's mean is normalised.
      remat: what is computed again for the gradient, see :func:`gen3r_jax.module.rematerialised`.
    """

    latent_channels: Count = 16
    hidden_dim: Count = 128
    input_dim: Count = 10240
    resample_scale: Count = 10
    latent_mean: tuple[float, ...] = LATENT_MEAN
    latent_std: Annotated[tuple[float, ...], Range(above=0)] = LATENT_STD
    remat: Remat = "none"

    @classmethod
    def gen3r(cls) -> Self:
        return cls()

    @classmethod
    def tiny(cls) -> Self:
        return cls(hidden_dim=8, input_dim=160, latent_mean=(0.0,) * 16, latent_std=(1.0,) * 16)

    @classmethod
    def nano(cls) -> Self:
        return cls(hidden_dim=16, input_dim=1280, resample_scale=40, latent_mean=(0.0,) * 16, latent_std=(1.0,) * 16)


class GeometryAdapter(CausalAutoencoder):
    Config = GeometryAdapterConfig

    def __init__(self, config: GeometryAdapterConfig, *, rngs: nnx.Rngs) -> None:
        if config.input_dim % config.resample_scale:
            raise UserError(f"input_dim {config.input_dim} is not a multiple of resample_scale {config.resample_scale}")
        features = config.input_dim // config.resample_scale
        widths = tuple(config.hidden_dim * factor for factor in (4, 2, 1, 1))

        def down(features: int, temporal: bool) -> Down:
            return Down(conv2d(features, features, rngs=rngs), features, 1, temporal, rngs=rngs)

        def up(features: int, temporal: bool) -> Up:
            return Up(conv2d(features, features // 2, rngs=rngs), features, 1, temporal, rngs=rngs)

        latent = config.latent_channels
        self.input = EnlargingConv(config.input_dim, features, rngs=rngs)
        encoder = Encoder(features, widths, 2 * latent, down, config.remat, rngs=rngs)
        decoder = Decoder(latent, widths[::-1], features, up, config.remat, rngs=rngs)
        super().__init__(config, encoder, decoder, rngs=rngs)
        self.output = ReducingConv(features, config.input_dim, rngs=rngs)

    def encode(self, packed: Float[Array, "b t hp wp c"], chunk_frames: int | None = None) -> DiagonalGaussian:
        """Posterior over the geometry latents of a clip.

        Args:
          packed: tokens as :func:`pack_tokens` gives them; t = 4k+1, hp and wp multiples of 4.
          chunk_frames: None takes the clip as a whole; a multiple of 4 takes that many frames at a time, with memory
            that does not grow with the clip. Same result.

        Returns:
          Gaussian over ``b k+1 7*hp/4 7*wp/4 c`` in float32: normalised mean, raw log-variance in [-30, 20].

        Raises:
          UserError: the number of frames or a side of the grid does not fit.
        """
        _check_grid(picture_size(packed), 4, "patch grid")
        return self.posterior(self.encode_features(packed, chunk_frames))

    def decode(self, z: Float[Array, "b f h w c"], chunk_frames: int | None = None) -> Float[Array, "b t hp wp o"]:
        """Normalised latents -> packed tokens of 4f-3 frames; h and w are multiples of 7.

        `chunk_frames` counts latents here: None takes the clip as a whole, a number that many latents at a time.
        """
        _check_grid(picture_size(z), 7, "latent grid")
        return self._decode(z, chunk_frames, self.leave)

    def decode_features(
        self, z: Float[Array, "b f h w c"], chunk_frames: int | None = None
    ) -> Float[Array, "b t h w o"]:
        """:meth:`decode` up to the output block, whose result has ten times the channels."""
        _check_grid(picture_size(z), 7, "latent grid")
        return super().decode_features(z, chunk_frames)

    def output_block(self, features: Float[Array, "b t h w f"]) -> Float[Array, "b t hp wp c"]:
        """Features -> packed tokens, frame by frame: any part of a clip can be finished alone."""
        return self.output(features)

    def enter(self, frames: Float[Array, "b t hp wp c"]) -> Float[Array, "b t h w f"]:
        block = jax.tree.map(shard, self.input)  # its large kernel is gathered once, not for every group

        def enlarge(block: EnlargingConv, frames: Array) -> Array:
            return shard(block(frames), "batch", None, "rows", "columns")

        return map_groups(enlarge, block, frames, FRAMES_AT_ONCE)

    def leave(self, features: Float[Array, "b t h w f"]) -> Float[Array, "b t hp wp c"]:
        return map_groups(ReducingConv.__call__, jax.tree.map(shard, self.output), features, FRAMES_AT_ONCE)


def pack_tokens(tokens: Float[Array, "4 b t n c"], grid: tuple[int, int]) -> Float[Array, "b t hp wp 5*c"]:
    """Tokens of four VGGT layers -> one map per frame.

    Channels are the four layers' patch tokens, then the camera token of the last layer, the same in every cell.

    Args:
      tokens: camera token, registers, then ``hp * wp`` patches in row-major order.
      grid: (hp, wp).
    """
    layers, b, t, _, c = tokens.shape
    patches = jnp.moveaxis(tokens[:, :, :, SPECIAL_TOKENS:], 0, 3)  # [b t n 4 c]
    patches = patches.reshape(b, t, *grid, layers * c)
    camera = jnp.broadcast_to(tokens[-1, :, :, 0][:, :, None, None], (b, t, *grid, c))
    return jnp.concatenate([patches, camera], axis=-1)


def unpack_tokens(
    packed: Float[Array, "b t hp wp c"],
) -> tuple[Float[Array, "4 b t hp*wp c//5"], Float[Array, "b t c//5"]]:
    """Inverse of :func:`pack_tokens`, less the registers: patch tokens of four layers and the camera token.

    The camera token is the mean over the grid, taken in float32.
    """
    b, t, h, w, channels = packed.shape
    layers = packed.reshape(b, t, h * w, 5, channels // 5)
    patches = jnp.moveaxis(layers[:, :, :, :4], 3, 0)
    camera = jnp.mean(layers[:, :, :, 4], axis=2, dtype=jnp.float32).astype(packed.dtype)
    return patches, camera


def _check_grid(grid: tuple[int, int], multiple: int, name: str) -> None:
    if any(side % multiple or not side for side in grid):
        h, w = grid
        nearest = [max(1, round(side / multiple)) * multiple for side in grid]
        raise UserError(f"{name} {h}x{w}: sides must be multiples of {multiple}; nearest: {nearest[0]}x{nearest[1]}")
