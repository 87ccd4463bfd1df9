"""LPIPS 0.1, a learned distance between images (Zhang et al., CVPR 2018): features of a classifier, compared per pixel.

The features are those after five of the classifier's convolutions. Each is normalised to unit length over the channels;
the squared differences are weighted by channel, averaged over the image and added up.
"""

from dataclasses import dataclass
from functools import reduce
from operator import add
from typing import Literal, NamedTuple, Self

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Float

from gen3r_jax.module import Network
from gen3r_jax.ops.shared import Conv

# Mean and deviation of ImageNet's colours, for pixels in [-1, 1].
SHIFT = (-0.030, -0.088, -0.188)
SCALE = (0.458, 0.448, 0.450)
EPSILON = 1e-10


class Stage(NamedTuple):
    """Convolutions and what comes before them; the last one's output, after its ReLU, is compared.

    Attributes:
      convs: their numbers among the layers of torchvision's classifier.
      pool: side of the window of the max pooling before, with stride 2; 0: there is none.
    """

    convs: tuple[int, ...]
    pool: int
    side: int = 3
    stride: int = 1
    padding: int = 1


STAGES = {
    "vgg": (
        Stage((0, 2), pool=0),
        Stage((5, 7), pool=2),
        Stage((10, 12, 14), pool=2),
        Stage((17, 19, 21), pool=2),
        Stage((24, 26, 28), pool=2),
    ),
    "alex": (
        Stage((0,), pool=0, side=11, stride=4, padding=2),
        Stage((3,), pool=3, side=5, padding=2),
        Stage((6,), pool=3),
        Stage((8,), pool=0),
        Stage((10,), pool=0),
    ),
}


@dataclass(frozen=True)
class LPIPSConfig:
    """backbone: VGG16 or AlexNet. channels: of each stage."""

    backbone: Literal["vgg", "alex"] = "vgg"
    channels: tuple[int, ...] = (64, 128, 256, 512, 512)

    @classmethod
    def vgg(cls) -> Self:
        return cls()

    @classmethod
    def alex(cls) -> Self:
        return cls("alex", (64, 192, 384, 256, 256))

    @classmethod
    def tiny(cls, backbone: Literal["vgg", "alex"] = "vgg") -> Self:
        return cls(backbone, (4, 6, 8, 6, 4))


class LPIPS(Network):
    """The network. Fresh weights are random: it is a metric with the official ones only."""

    Config = LPIPSConfig

    def __init__(self, config: LPIPSConfig, *, rngs: nnx.Rngs):
        self.config = config
        self.features = nnx.Dict()
        self.weights = nnx.Dict()
        inputs = 3
        for number, (stage, width) in enumerate(zip(STAGES[config.backbone], config.channels, strict=True)):
            for conv in stage.convs:
                # Exact on every device: a metric must not depend on where it is taken.
                self.features[f"conv{conv}"] = Conv(
                    inputs,
                    width,
                    (stage.side, stage.side),
                    strides=stage.stride,
                    padding=stage.padding,
                    precision="highest",
                    rngs=rngs,
                )
                inputs = width
            self.weights[f"stage{number}"] = nnx.Param(jnp.full(width, 1 / width))

    def __call__(self, images: Float[Array, "b h w 3"], others: Float[Array, "b h w 3"]) -> Float[Array, "b"]:
        """Distance of each pair of images in [0, 1], of any size: 0 for equal ones, less than 1 for most."""
        pairs = zip(self._stages(images), self._stages(others), strict=True)
        distances = [
            (jnp.square(x - y) * self.weights[f"stage{number}"]).sum(axis=-1).mean(axis=(1, 2))
            for number, (x, y) in enumerate(pairs)
        ]
        return reduce(add, distances)

    def _stages(self, images: Float[Array, "b h w 3"]) -> list[Float[Array, "b _ _ _"]]:
        """Features of unit length over the channels, a stage after the other."""
        x = (2 * images - 1 - jnp.array(SHIFT)) / jnp.array(SCALE)
        found = []
        for stage in STAGES[self.config.backbone]:
            if stage.pool:
                x = nnx.max_pool(x, (stage.pool, stage.pool), strides=(2, 2))
            for conv in stage.convs:
                x = jax.nn.relu(self.features[f"conv{conv}"](x))
            found.append(x / (jnp.linalg.norm(x, axis=-1, keepdims=True) + EPSILON))
        return found
