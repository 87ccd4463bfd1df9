"""The terms of the geometry adapter's loss, as in the released training code where it differs from the paper.

Every term averages over all axes it is given; ``jax.vmap`` makes it one number a sample or a frame. All are fp32.
"""

from typing import Literal

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from gen3r_jax.models.causal_autoencoder import DiagonalGaussian

Penalty = Literal["l1", "l2", "smooth_l1", "huber"]

# An error at one pixel or pose entry beyond this is cut off: a broken target must not decide the step.
ERROR_LIMIT = 100.0


def smooth_l1(prediction: Float[Array, "*s"], target: Float[Array, "*s"], beta: float) -> Float[Array, "*s"]:
    """``d^2 / (2 beta)`` where the absolute difference ``d < beta``, else ``d - beta / 2``; element by element."""
    error = jnp.abs(prediction - target)
    return jnp.where(error < beta, 0.5 * error**2 / beta, error - 0.5 * beta)


def cosine_distance(prediction: Float[Array, "*s c"], target: Float[Array, "*s c"]) -> Float[Array, "*s"]:
    """One minus the cosine of the angle between two vectors along the last axis; 1 where either is (almost) zero."""
    dot = jnp.sum(prediction * target, axis=-1)
    # The floor stands under the root, where it keeps the gradient at zero finite.
    norms = [jnp.sqrt(jnp.maximum(jnp.sum(x**2, axis=-1), 1e-16)) for x in (prediction, target)]
    return 1.0 - dot / (norms[0] * norms[1])


def replace_nonfinite(x: Float[Array, "*s"], limit: float | None = ERROR_LIMIT) -> Float[Array, "*s"]:
    """NaN and infinite entries become 0, then all are clipped to ``[-limit, limit]``."""
    x = jnp.where(jnp.isfinite(x), x, 0.0)
    return x if limit is None else jnp.clip(x, -limit, limit)


def distance(prediction: Float[Array, "*s c"], target: Float[Array, "*s c"]) -> Float[Array, "*s"]:
    """Euclidean distance along the last axis; its gradient at distance 0 and where the distance is not finite is 0."""
    difference = prediction - target
    difference = jnp.where(jnp.all(jnp.isfinite(difference), axis=-1, keepdims=True), difference, 0.0)
    squared = jnp.sum(difference**2, axis=-1)
    return jnp.where(squared > 0, jnp.sqrt(jnp.where(squared > 0, squared, 1.0)), 0.0)


def distance_loss(prediction: Float[Array, "*s c"], target: Float[Array, "*s c"]) -> Float[Array, ""]:
    """Depth (c = 1) and point (c = 3) loss: mean Euclidean distance, not squared, each clipped at 100.

    Entries without a finite distance count as zeros, in the mean too.
    """
    return jnp.mean(replace_nonfinite(distance(prediction, target)))


def camera_errors(
    prediction: Float[Array, "*s 9"], target: Float[Array, "*s 9"], penalty: Penalty = "l1", beta: float = 1.0
) -> Float[Array, "3"]:
    """Mean error of the translation, the quaternion and the fields of view of pose encodings.

    The recipe's penalty is "l1"; the others ("l2": Euclidean norm of each part; "smooth_l1"; "huber") exist for
    training on other targets. `beta` is the width of the quadratic part of the last two.
    """
    parts = []
    for part in (slice(0, 3), slice(3, 7), slice(7, 9)):
        a, b = prediction[..., part], target[..., part]
        if penalty == "l1":
            error = jnp.abs(a - b)
        elif penalty == "l2":
            error = distance(a, b)
        elif penalty in ("smooth_l1", "huber"):
            error = jnp.mean(smooth_l1(a, b, beta)) * (beta if penalty == "huber" else 1.0)
        else:
            raise ValueError(f"penalty {penalty!r} is none of l1, l2, smooth_l1, huber")
        parts.append(jnp.mean(replace_nonfinite(error)))
    return jnp.stack(parts)


def camera_loss(
    prediction: Float[Array, "i *s 9"],
    target: Float[Array, "i *s 9"],
    penalty: Penalty = "l1",
    beta: float = 1.0,
    decay: float = 0.6,
    weights: tuple[float, float, float] = (1.0, 1.0, 0.5),
) -> Float[Array, ""]:
    """Camera loss over the refinement iterations i of the camera head.

    Iteration i of n has weight ``decay ** (n - 1 - i) / n``; translation, quaternion and fields of view have `weights`.
    """
    n = len(prediction)
    stages = [decay ** (n - 1 - i) * camera_errors(prediction[i], target[i], penalty, beta) for i in range(n)]
    return jnp.dot(sum(stages) / n, jnp.asarray(weights))


def kl_divergence(q: DiagonalGaussian, p: DiagonalGaussian | None = None) -> Float[Array, "b w"]:
    """KL(q || p) of posteriors over latents ``b t h w c``, summed over time, height and channels.

    Width stays: the released code sums three of the four axes, and the adaptive weight depends on the size of the sum.
    ``p=None`` is the standard normal distribution.
    """
    variance = jnp.exp(q.logvar)
    if p is None:
        terms = q.mean**2 + variance - 1.0 - q.logvar
    else:
        terms = ((q.mean - p.mean) ** 2 + variance) * jnp.exp(-p.logvar) - 1.0 - q.logvar + p.logvar
    return 0.5 * jnp.sum(terms, axis=(1, 2, 4))


def adaptive_weight(target: Float[Array, "*s"], current: Float[Array, "*s"]) -> Float[Array, "*s"]:
    """The largest power of ten, at most 1, that brings the loss `current` down to `target` or below; no gradient.

    Both are not negative. The smallest weight is 1e-30.
    """
    # Comparing with exact powers avoids the rounding of a logarithm at the edges: (1, 10) must give 0.1, not 0.01.
    powers = np.arange(30)
    below = jnp.asarray(target)[..., None] * (10.0**powers).astype(np.float32) < jnp.asarray(current)[..., None]
    weights = jnp.asarray((10.0 ** -np.arange(31.0)).astype(np.float32))
    return jax.lax.stop_gradient(weights[jnp.sum(below, axis=-1)])
