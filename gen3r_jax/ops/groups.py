"""Work on the frames of a clip a few at a time, where a whole clip would not fit into memory."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array

from gen3r_jax import module
from gen3r_jax.sharding import parts


def chunks(count: int, limit: int) -> tuple[int, int]:
    """How many chunks of what size (half of `limit` to `limit`) hold `count` frames with the least padding.

    Where devices share the frames of a clip, each gets equally many of every chunk, at least one.
    """
    share = parts("frames")
    limit = max(1, min(-(-count // share), limit // share))
    sizes = (size * share for size in range((limit + 1) // 2, limit + 1))
    size = min(sizes, key=lambda size: (-(-count // size) * size, -size))
    return -(-count // size), size


def map_groups(function: Callable[[Any, Any], Any], shared: Any, clips: Any, limit: int) -> Any:
    """``function(shared, clips)`` for a function of independent frames, at most about `limit` frames at a time.

    `clips` and the result are trees of arrays ``b t ...``. For a gradient, each group is computed again, and the
    gradients of the parameters `shared` are added in float32 and rounded once.
    """
    frames = jax.tree.leaves(clips)[0].shape[1]
    count, size = chunks(frames, limit)
    if count == 1:
        return function(shared, clips)
    groups = jax.tree.map(lambda x: _group(x, count, size), clips)
    exact = module.cast(shared, jnp.float32)

    @jax.checkpoint
    def run(group: Any) -> Any:
        return function(jax.tree.map(lambda wide, like: wide.astype(like.dtype), exact, shared), group)

    return jax.tree.map(lambda x: _ungroup(x, frames), jax.lax.map(run, groups))


def _group(x: Array, count: int, size: int) -> Array:
    """[b t ...] -> [count b size ...], filled up with copies of the last frame.

    A group takes every count-th frame: where frames are split over devices, each group is too.
    """
    b, t, *rest = x.shape
    filled = jnp.pad(x, [(0, 0), (0, count * size - t), *[(0, 0)] * len(rest)], mode="edge")
    return jnp.moveaxis(filled.reshape(b, size, count, *rest), 2, 0)


def _ungroup(x: Array, frames: int) -> Array:
    """Inverse of :func:`_group`."""
    count, b, size, *rest = x.shape
    return jnp.moveaxis(x, 0, 2).reshape(b, size * count, *rest)[:, :frames]
