"""The objective of the diffusion transformer: the velocity of straight paths between latents and noise.

``z = (1 - sigma) x + sigma noise`` is walked from sigma 1 to 0, and ``noise - x`` is what the network predicts (Gen3R,
section 3.3; "Flow Matching for Generative Modeling"). Noise levels come from a table of 1000 (Wan).
"""

from typing import Literal

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

Density = Literal["none", "logit_normal", "mode"]
Weighting = Literal["none", "sigma_sqrt", "cosmap"]

# A velocity that is further off than this counts as zero error: one broken latent must not decide the step.
ERROR_LIMIT = 50.0
MODE_SCALE = 1.29


def training_table(
    count: int = 1000, shift: float = 2.0
) -> tuple[Float[np.ndarray, " count"], Float[np.ndarray, " count"]]:
    """Timesteps (1000 sigma) and noise levels sigma to train at, from noise to clean.

    shift: above 1 for more of the noisy levels; ``sigma = shift u / (1 + (shift - 1) u)`` for evenly spaced u.
    """
    u = np.arange(count, 0, -1, dtype=np.float32) / np.float32(count)
    sigmas = np.float32(shift) * u / (1 + np.float32(shift - 1) * u)
    return 1000 * sigmas, sigmas


def density(scheme: Density, draw: Float[Array, "*s"]) -> Float[Array, "*s"]:
    """Where in the table to train, from 0 (noise) to 1 (clean), from uniform (for "logit_normal" normal) numbers.

    "none": evenly; "logit_normal" and "mode" (with scale 1.29) favour the middle ("Scaling Rectified Flow
    Transformers", section 3.1).
    """
    match scheme:
        case "none":
            return draw
        case "logit_normal":
            return jax.nn.sigmoid(draw)
        case "mode":
            return 1 - draw - MODE_SCALE * (jnp.cos(jnp.pi / 2 * draw) ** 2 - 1 + draw)
    raise ValueError(f"density {scheme!r} is none of none, logit_normal, mode")


def add_noise(
    latents: Float[Array, "b *s"], noise: Float[Array, "b *s"], sigmas: Float[Array, " b"]
) -> Float[Array, "b *s"]:
    """The point of the path at each sample's noise level."""
    sigmas = _like(sigmas, latents)
    return (1 - sigmas) * latents + sigmas * noise


def velocity(latents: Float[Array, "b *s"], noise: Float[Array, "b *s"]) -> Float[Array, "b *s"]:
    """What the network is to predict, everywhere on the path."""
    return noise - latents


def loss_weight(scheme: Weighting, sigmas: Float[Array, " b"]) -> Float[Array, " b"]:
    """Weight of a sample by its noise level; the recipe's is "none", one for all."""
    match scheme:
        case "none":
            return jnp.ones_like(sigmas)
        case "sigma_sqrt":
            return sigmas**-2.0
        case "cosmap":
            return 2 / (jnp.pi * (1 - 2 * sigmas + 2 * sigmas**2))
    raise ValueError(f"weighting {scheme!r} is none of none, sigma_sqrt, cosmap")


def velocity_loss(
    predicted: Float[Array, "b *s"], target: Float[Array, "b *s"], weight: Float[Array, " b"]
) -> Float[Array, " b"]:
    """Mean squared error of each sample, in float32, times its weight.

    Entries that are off by more than ``ERROR_LIMIT`` add nothing, but count in the mean.
    """
    error = predicted.astype(jnp.float32) - target.astype(jnp.float32)
    error = jnp.where(jnp.abs(error) <= ERROR_LIMIT, error, 0.0)
    return weight * jnp.mean(error**2, axis=range(1, error.ndim))


def _like(x: Float[Array, " b"], other: Array) -> Array:
    return x.reshape(-1, *(1,) * (other.ndim - 1))
