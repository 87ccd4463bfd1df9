"""Peak signal-to-noise ratio of pictures in [0, 1], for NumPy and JAX arrays."""

import jax
import numpy as np
from jaxtyping import Float

from gen3r_jax.arrays import namespace
from gen3r_jax.ops.leaves import AnyArray

LARGEST = 100.0
"""Decibels of equal frames, for which it is infinite: one of them would otherwise decide the mean of a clip."""


def psnr(predicted: Float[AnyArray, "*b h w c"], target: Float[AnyArray, "*b h w c"]) -> jax.Array | np.floating:
    """The mean over the frames of what each frame scores, in decibels; a frame scores at most ``LARGEST``."""
    xp = namespace(predicted)
    errors = xp.square(predicted - target).mean(axis=(-3, -2, -1))
    return (-10 * xp.log10(xp.maximum(errors, 10 ** (-LARGEST / 10)))).mean()
