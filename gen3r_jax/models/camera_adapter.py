"""Camera adapter of the Wan DiT: Pluecker maps in pixels -> what is added to the patches of the latents."""

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Float

from gen3r_jax.ops.causal_conv import conv2d, linear
from gen3r_jax.ops.patches import to_patches
from gen3r_jax.sharding import shard, shortfall

PIXELS = 16  # side of a token in pixels: the VAE reduces by 8, the transformer's patches by 2


class CameraAdapter(nnx.Module):
    """Projects the pixels of every token and lets neighbouring tokens see each other in one residual block.

    The two halves of a doubled width are one image here: near the seam each half sees the other, and the output of the
    one is not a copy of the other. For cameras that are all zero the output is not zero.
    """

    def __init__(self, channels: int, dim: int, *, rngs: nnx.Rngs):
        # Officially a pixel-unshuffle by 8 and a 2x2 convolution of stride 2.
        self.project = linear(PIXELS * PIXELS * channels, dim, rngs=rngs)
        self.conv1 = conv2d(dim, dim, split="frames", rngs=rngs)
        self.conv2 = conv2d(dim, dim, split="frames", rngs=rngs)

    def __call__(
        self, cameras: Float[Array, "b f H W i"], repeat: int = 1
    ) -> Float[Array, "b f H//16 {repeat}*W//16 c"]:
        """repeat: the maps stand so often side by side."""
        frames = cameras.shape[1]
        filling = ((0, 0), (0, shortfall(frames, "frames")), (0, 0), (0, 0), (0, 0))
        x = shard(self.embed(shard(jnp.pad(cameras, filling), "batch", "frames")), "batch", "frames")
        x = jnp.concatenate([x] * repeat, axis=3)
        flat = x.reshape(-1, *x.shape[2:])
        flat = flat + self.conv2(jax.nn.relu(self.conv1(flat)))
        return shard(flat.reshape(x.shape), "batch", "frames")[:, :frames]

    def embed(self, cameras: Float[Array, "b f H W i"]) -> Float[Array, "b f H/16 W/16 c"]:
        """The projection alone."""
        return self.project(to_patches(cameras.astype(self.project.kernel.dtype), PIXELS))
