"""Colours from VGGT's tokens: what its geometry features still know of appearance (Gen3R, Table 9)."""

from dataclasses import dataclass
from typing import Self

import jax
from flax import nnx
from jaxtyping import Array, Float

from gen3r_jax.models.vggt import VGGTConfig
from gen3r_jax.models.vggt_heads import DPTHead
from gen3r_jax.module import Network, Remat


@dataclass(frozen=True)
class RGBHeadConfig:
    """dim: channels of VGGT's tokens. The others as those of VGGT's own heads, see :class:`VGGTConfig`."""

    dim: int = 2048
    dpt_features: int = 256
    dpt_channels: tuple[int, int, int, int] = (256, 512, 1024, 1024)
    patch_size: int = 14
    remat: Remat = "none"

    @classmethod
    def beside(cls, vggt: VGGTConfig, remat: Remat) -> Self:
        """As large as the dense heads that this VGGT has."""
        return cls(2 * vggt.embed_dim, vggt.dpt_features, vggt.dpt_channels, vggt.patch_size, remat)


class RGBHead(Network):
    """One more dense head for VGGT, whose three values are colours; its confidence is neither trained nor read."""

    Config = RGBHeadConfig

    def __init__(self, config: RGBHeadConfig, *, rngs: nnx.Rngs):
        self.config = config
        sizes = (config.dim, config.dpt_channels, config.dpt_features)
        self.dpt = DPTHead(*sizes, 4, jax.nn.sigmoid, config.patch_size, config.remat, rngs=rngs)

    def __call__(
        self, patch_tokens: Float[Array, "4 b t p c"], image_size: tuple[int, int], frames_per_chunk: int = 8
    ) -> Float[Array, "b t h w 3"]:
        """Frames in [0, 1] of (height, width) pixels, so many of each clip at a time; in float32."""
        return self.dpt(patch_tokens, image_size, frames_per_chunk)[0]
