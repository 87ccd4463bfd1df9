"""Checksums of arrays, computed where they lie. Equal numbers have equal sums, on whatever mesh they are spread."""

import json
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import xxhash
from jaxtyping import Array, UInt32

from gen3r_jax.sharding import fetch


def array_checksums(arrays: Mapping[str, Array]) -> dict[str, int]:
    """A 32-bit sum of each array, by name. One changed element is always seen; all processes must call it."""
    return {name: int(value) for name, value in fetch(_checksums(dict(arrays))).items()}


def json_checksum(value: Any) -> str:
    """A hash of what JSON can hold."""
    return xxhash.xxh3_64(json.dumps(value, sort_keys=True).encode()).hexdigest()


@jax.jit
def _checksums(arrays: dict[str, Array]) -> dict[str, UInt32[Array, ""]]:
    return {name: _checksum(x) for name, x in arrays.items()}


def _checksum(x: Array) -> UInt32[Array, ""]:
    """The sum, modulo 2^32 and so in any order, of each element's bits mixed with its position (as murmur3 does)."""
    x = x.astype(jnp.uint8) if x.dtype == bool else x
    bits = jax.lax.bitcast_convert_type(x, jnp.dtype(f"uint{8 * min(x.dtype.itemsize, 4)}")).astype(jnp.uint32)
    position = jnp.zeros((), jnp.uint32)
    for axis, size in enumerate(bits.shape):
        position = position * jnp.uint32(size) + jax.lax.broadcasted_iota(jnp.uint32, bits.shape, axis)
    mixed = bits ^ (position * jnp.uint32(0x9E3779B1))
    for shift, factor in ((16, 0x85EBCA6B), (13, 0xC2B2AE35)):
        mixed = (mixed ^ (mixed >> shift)) * jnp.uint32(factor)
    return jnp.sum(mixed ^ (mixed >> 16), dtype=jnp.uint32)
