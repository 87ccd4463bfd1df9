"""Functions that take NumPy and JAX arrays alike."""

from types import ModuleType
from typing import TYPE_CHECKING, TypeVar

import jax
import jax.numpy as jnp
import numpy as np

AnyArray = jax.Array | np.ndarray

SameArray = TypeVar("SameArray", jax.Array, np.ndarray)
"""One of the two throughout a signature: what comes in as NumPy goes out as NumPy, and JAX as JAX."""

Leaf = jax.Array
"""A field of a dataclass that is a tree: JAX fills it with shapes and dtypes in place of an array, as it traces."""
if not TYPE_CHECKING:
    Leaf = jax.Array | jax.ShapeDtypeStruct | jax.stages.ArgInfo


def picture_size(x: AnyArray) -> tuple[int, int]:
    """Height and width of pictures or maps ``... h w c``."""
    height, width = x.shape[-3:-1]
    return height, width


def namespace(x: AnyArray) -> ModuleType:
    """The module whose functions work on `x`: ``numpy`` or ``jax.numpy``."""
    return np if isinstance(x, np.ndarray) else jnp
