"""Functions that take NumPy and JAX arrays alike. JAX itself, which is slow to import, is not needed for them."""

from types import ModuleType
from typing import TYPE_CHECKING, Any, TypeVar

import numpy as np

if TYPE_CHECKING:
    import jax

    SameArray = TypeVar("SameArray", jax.Array, np.ndarray)
    """One of the two throughout a signature: what comes in as NumPy goes out as NumPy, and JAX as JAX."""
else:
    SameArray = TypeVar("SameArray")


def picture_size(x: SameArray) -> tuple[int, int]:
    """Height and width of pictures or maps ``... h w c``."""
    height, width = x.shape[-3:-1]
    return height, width


def namespace(x: Any) -> ModuleType:
    """The module whose functions work on `x`: ``numpy`` or ``jax.numpy``."""
    return x.__array_namespace__()
