"""Regression losses of VGGT's own training, which weigh errors by a predicted confidence and drop the largest ones."""

import jax.numpy as jnp
from jaxtyping import Array, Bool, Float

from gen3r_jax.stages.adapter_losses import ERROR_LIMIT, distance, replace_nonfinite


def nearest_quantile(x: Float[Array, "*s"], q: float, mask: Bool[Array, "*s"] | None = None) -> Float[Array, ""]:
    """The entry of `x` (where `mask`) whose rank is nearest to the quantile `q` in [0, 1]; no interpolation."""
    mask = jnp.ones(x.shape, bool) if mask is None else mask
    ordered = jnp.sort(jnp.where(mask, x, jnp.inf).ravel())
    rank = jnp.round(q * (jnp.sum(mask) - 1)).astype(int)
    return ordered[rank]


def trimmed_mean(
    errors: Float[Array, "*s"],
    quantile: float | None = None,
    mask: Bool[Array, "*s"] | None = None,
    min_elements: int = 1000,
) -> Float[Array, ""]:
    """Mean of the errors (where `mask`) below their `quantile`; of all if at most `min_elements` would remain."""
    mask = jnp.ones(errors.shape, bool) if mask is None else mask
    if quantile is not None:
        kept = mask & (errors < jnp.minimum(nearest_quantile(errors, quantile, mask), ERROR_LIMIT))
        mask = jnp.where(jnp.sum(kept) > min_elements, kept, mask)
    return jnp.sum(jnp.where(mask, errors, 0.0)) / jnp.maximum(jnp.sum(mask), 1)


def regression_loss(
    prediction: Float[Array, "*s c"],
    target: Float[Array, "*s c"],
    mask: Bool[Array, "*s"] | None = None,
    quantile: float | None = None,
    squared: bool = False,
) -> Float[Array, ""]:
    """Mean distance (or squared distance) between depths (c = 1) or points (c = 3), each clipped at 100."""
    return trimmed_mean(_errors(prediction, target, squared), quantile, mask)


def confidence_loss(
    prediction: Float[Array, "*s c"],
    target: Float[Array, "*s c"],
    confidence: Float[Array, "*s"],
    mask: Bool[Array, "*s"] | None = None,
    quantile: float | None = None,
    squared: bool = False,
    gamma: float = 1.0,
    alpha: float = 0.2,
) -> Float[Array, ""]:
    """``gamma * error * confidence - alpha * log(confidence)``: confident where right, hesitant where wrong."""
    weighted = gamma * _errors(prediction, target, squared) * confidence - alpha * jnp.log(confidence)
    return trimmed_mean(replace_nonfinite(weighted), quantile, mask)


def _errors(prediction: Array, target: Array, squared: bool) -> Array:
    error = distance(prediction, target)
    return replace_nonfinite(error**2 if squared else error)
