"""Types of what a function of JAX may be given for an array."""

from typing import TYPE_CHECKING

import jax
import numpy as np

AnyArray = jax.Array | np.ndarray

Leaf = jax.Array
"""A field of a dataclass that is a tree: JAX fills it with shapes and dtypes in place of an array, as it traces."""
if not TYPE_CHECKING:
    Leaf = jax.Array | jax.ShapeDtypeStruct | jax.stages.ArgInfo
