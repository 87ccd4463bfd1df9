"""Wan 2.1 causal VAE: videos of 4k+1 frames <-> latents at 1/4 of the frame rate and 1/8 of the side."""

from dataclasses import dataclass
from typing import Annotated, Self

import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Float

from gen3r_jax.errors import UserError
from gen3r_jax.models.causal_autoencoder import CausalAutoencoder, Decoder, DiagonalGaussian, Down, Encoder, Up
from gen3r_jax.models.sizes import PIXELS_PER_LATENT, require_multiple
from gen3r_jax.module import Remat
from gen3r_jax.ops.causal_conv import BlockDown, BlockUp, conv2d
from gen3r_jax.ops.patches import from_patches, to_patches
from gen3r_jax.ops.resized_conv import DoublingConv
from gen3r_jax.options import Count, Range

# fmt: off
LATENT_MEAN = (
    -0.7571, -0.7089, -0.9113, 0.1075, -0.1745, 0.9653, -0.1517, 1.5508,
    0.4134, -0.0715, 0.5517, -0.3632, -0.1922, -0.9497, 0.2503, -0.2921,
)
LATENT_STD = (
    2.8184, 1.4541, 2.3275, 2.6558, 1.2196, 1.7708, 2.6052, 2.0743,
    3.2687, 2.1526, 2.8652, 1.5579, 1.6382, 1.1253, 2.8251, 1.9160,
)
# fmt: on


@dataclass(frozen=True)
class WanVAEConfig:
    """Sizes of the VAE.

    Attributes:
      width: channels at the highest resolution.
      factors: channels at each resolution in units of `width`; each is half the one before.
      blocks: residual blocks of the encoder at each resolution; the decoder has one more.
      patch: side of the squares of pixels that the network sees as one: 1 with four factors, 2 with three.
      shortcut: whether blocks of 8x8x4 pixels are also coded linearly, beside the convolutions, which then learn what a
        linear code cannot do. From nothing, the nano network is 1.3 dB ahead with it after three minutes on one core.
      latent_mean, latent_std: statistics of the latents, one number a channel; the posterior's mean is normalised.
      remat: what is computed again for the gradient, see :func:`gen3r_jax.module.rematerialised`.
    """

    width: Count = 96
    factors: Annotated[tuple[int, ...], Range(at_least=1)] = (1, 2, 4, 4)
    blocks: Count = 2
    patch: Count = 1
    shortcut: bool = False
    latent_channels: Count = 16
    latent_mean: tuple[float, ...] = LATENT_MEAN
    latent_std: Annotated[tuple[float, ...], Range(above=0)] = LATENT_STD
    remat: Remat = "none"

    @classmethod
    def wan21(cls) -> Self:
        return cls()

    @classmethod
    def tiny(cls) -> Self:
        return cls(width=8, latent_mean=(0.0,) * 16, latent_std=(1.0,) * 16)

    @classmethod
    def nano(cls) -> Self:
        return cls(
            width=16,
            factors=(1, 2, 4),
            blocks=1,
            patch=2,
            shortcut=True,
            latent_mean=(0.0,) * 16,
            latent_std=(1.0,) * 16,
        )


class WanVAE(CausalAutoencoder):
    Config = WanVAEConfig

    def __init__(self, config: WanVAEConfig, *, rngs: nnx.Rngs) -> None:
        if (config.patch, len(config.factors)) not in ((1, 4), (2, 3)):
            raise UserError(
                f"patch {config.patch} with {len(config.factors)} factors does not make latents of 8x8x4 pixels; "
                "allowed: patch 1 with 4 factors, patch 2 with 3"
            )
        widths = tuple(config.width * factor for factor in config.factors)

        def down(features: int, temporal: bool) -> Down:
            space = conv2d(features, features, strides=2, padding=((0, 1), (0, 1)), rngs=rngs)
            return Down(space, features, 2, temporal, rngs=rngs)

        def up(features: int, temporal: bool) -> Up:
            return Up(DoublingConv(features, features // 2, rngs=rngs), features, 2, temporal, rngs=rngs)

        latent = config.latent_channels
        pixels = 3 * config.patch**2
        side = 8 // config.patch
        below = BlockDown(pixels, 2 * latent, side, rngs=rngs) if config.shortcut else None
        above = BlockUp(latent, pixels, side, rngs=rngs) if config.shortcut else None
        encoder = Encoder(pixels, widths, 2 * latent, down, config.remat, config.blocks, below, rngs=rngs)
        decoder = Decoder(latent, widths[::-1], pixels, up, config.remat, config.blocks, above, rngs=rngs)
        super().__init__(config, encoder, decoder, rngs=rngs)

    def encode(self, video: Float[Array, "b t h w 3"], chunk_frames: int | None = None) -> DiagonalGaussian:
        """Posterior over the latents of a video.

        Args:
          video: RGB in [-1, 1]; t = 4k+1, h and w multiples of 8.
          chunk_frames: None takes the clip as a whole; a multiple of 4 takes that many frames at a time, with memory
            that does not grow with the clip. Same result.

        Returns:
          Gaussian over ``b k+1 h/8 w/8 c`` in float32: normalised mean, raw log-variance in [-30, 20].

        Raises:
          UserError: the number of frames or a side does not fit.
        """
        for name, side in (("height", video.shape[2]), ("width", video.shape[3])):
            require_multiple(name, side, PIXELS_PER_LATENT)
        return self.posterior(self.encode_features(video, chunk_frames))

    def decode(self, z: Float[Array, "b f h w c"], chunk_frames: int | None = None) -> Float[Array, "b t 8*h 8*w 3"]:
        """Normalised latents -> RGB video in [-1, 1] of 4f-3 frames.

        `chunk_frames` counts latents here: None takes the clip as a whole, a number that many latents at a time.
        """
        return self._decode(z, chunk_frames, self.leave)

    def enter(self, frames: Float[Array, "b t h w 3"]) -> Float[Array, "b t y x p"]:
        return frames if self.config.patch == 1 else to_patches(frames, self.config.patch)

    def leave(self, features: Float[Array, "b t y x p"]) -> Float[Array, "b t h w 3"]:
        return jnp.clip(self.pixels(features), -1.0, 1.0)

    def pixels(self, features: Float[Array, "b t y x p"]) -> Float[Array, "b t h w 3"]:
        """RGB as the decoder gives it, which may leave [-1, 1]."""
        return features if self.config.patch == 1 else from_patches(features, self.config.patch)
