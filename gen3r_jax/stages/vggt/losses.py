"""Regression losses of VGGT's own training, which weigh errors by a predicted confidence and drop the largest ones."""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float

from gen3r_jax.models.vggt import Aggregator
from gen3r_jax.ops.rope import rotation_2d
from gen3r_jax.stages.adapter.losses import ERROR_LIMIT, distance, replace_nonfinite


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


def gradient_loss(
    prediction: Float[Array, "*s h w"], target: Float[Array, "*s h w"], mask: Bool[Array, "*s h w"]
) -> Float[Array, ""]:
    """Mean absolute error of the differences of neighbouring pixels, where both are known."""
    error, total, count = prediction - target, 0.0, 0
    for axis in (-1, -2):
        known = jax.lax.slice_in_dim(mask, 1, None, axis=axis) & jax.lax.slice_in_dim(mask, 0, -1, axis=axis)
        total += jnp.sum(jnp.where(known, jnp.abs(jnp.diff(error, axis=axis)), 0.0))
        count += jnp.sum(known)
    return total / jnp.maximum(count, 1)


def places_in_first(
    points: Float[Array, "t y x 3"], depth: Float[Array, "t y x"], intrinsics: Float[Array, "3 3"], patch_size: int
) -> tuple[Float[Array, "t h w 2"], Bool[Array, "t h w"]]:
    """Where the middle pixel of every patch is seen in the first frame, as (row, column) in patches, and whether it is.

    Whole numbers are the middle pixels of patches. Not seen is what is hidden there, outside or unknown.

    Args:
      points: in the coordinates of the first camera, which has `intrinsics`.
      depth: 0 where it is not known.
    """
    middles = (slice(None), *[slice(patch_size // 2, None, patch_size)] * 2)
    middle, known = points[middles], depth[middles] > 0
    z = jnp.maximum(middle[..., 2], 1e-3)
    x, y = (intrinsics[i, i] * middle[..., i] / z + intrinsics[i, 2] for i in range(2))
    height, width = depth.shape[1:]
    inside = (x > 0) & (x < width) & (y > 0) & (y < height) & (middle[..., 2] > 1e-3)
    row, column = (jnp.clip(p, 0, n - 1).astype(int) for p, n in ((y, height), (x, width)))
    seen = known & inside & (jnp.abs(z - depth[0, row, column]) < 0.05 * z)
    return (jnp.stack([y, x], axis=-1) - patch_size // 2 - 0.5) / patch_size, seen


def attention_scores(
    aggregator: Aggregator, within: Float[Array, "b t n c"], layer: int, image_size: tuple[int, int]
) -> Float[Array, "b k tn tn"]:
    """Attention scores of the block over the clip of a layer, before their softmax over the last axis.

    within: tokens that enter the block: the first half of the channels of that layer's tokens.
    """
    b, t, n, c = within.shape
    block = jax.tree.map(lambda p: p[layer], aggregator.global_blocks)
    rotation = rotation_2d(aggregator.positions(image_size), c // aggregator.config.num_heads)
    rotation = jax.tree.map(lambda table: jnp.tile(table, (t, 1, 1)), rotation)
    q, k, _ = block.attn.queries_keys_values(block.norm1(within.reshape(b, t * n, c)), rotation)
    return jnp.einsum("bnkd,bmkd->bknm", q, k, preferred_element_type=jnp.float32) * q.shape[-1] ** -0.5


def match_loss(
    scores: Float[Array, "k tn tn"], places: Float[Array, "t h w 2"], seen: Bool[Array, "t h w"]
) -> Float[Array, "t h w"]:
    """How little of the attention of a patch goes to its place in the first frame; 0 where it is not seen.

    Cross-entropy over all tokens of the clip, mean over heads. The target is shared between the four nearest patches.

    Args:
      scores: of queries and keys, frame by frame; the last tokens of a frame are its patches.
      places, seen: of :func:`places_in_first`.
    """
    t, h, w = seen.shape
    tokens = scores.shape[-1] // t
    rows, columns = (
        jnp.maximum(1 - jnp.abs(jnp.clip(places[..., i, None], 0, n - 1) - jnp.arange(n)), 0)
        for i, n in enumerate((h, w))
    )
    target = (rows[..., :, None] * columns[..., None, :]).reshape(t, h * w, h * w)
    found = jax.nn.log_softmax(scores).reshape(-1, t, tokens, t, tokens).mean(axis=0)
    losses = -jnp.sum(target * found[:, -h * w :, 0, -h * w :], axis=-1)
    return jnp.where(seen, losses.reshape(seen.shape), 0.0)


def track_loss(
    prediction: Float[Array, "t h w 2"], places: Float[Array, "t h w 2"], seen: Bool[Array, "t h w"]
) -> Float[Array, "t h w"]:
    """Distance in patches between predicted and true ways of every patch to its place in the first frame."""
    own = jnp.stack(jnp.meshgrid(*map(jnp.arange, seen.shape[1:]), indexing="ij"), axis=-1)
    return jnp.where(seen, distance(prediction, places - own), 0.0)
