"""Modules as values: take an NNX module apart into plain parameters and put it together again.

Everywhere outside a network, parameters are a nested ``dict`` of arrays (a plain pytree). That is what
optimizers, checkpoints, sharding rules and converters work on; a dotted path such as
``aggregator.frame_blocks.attn.qkv.kernel`` names one leaf.
"""

import hashlib
from collections.abc import Callable, Mapping
from typing import Any, ClassVar, Literal, TypeVar

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jax.ad_checkpoint import checkpoint_name

from gen3r_jax.errors import UserError

Params = dict[str, Any]
Module = TypeVar("Module", bound=nnx.Module)
AnyNetwork = TypeVar("AnyNetwork", bound="Network")
Remat = Literal["none", "full", "dots", "offload"]


class Network(nnx.Module):
    """A module with weights of its own on disk, made from a description: ``Config`` is its class."""

    Config: ClassVar[type]

    def __init__(self, config: Any, *, rngs: nnx.Rngs) -> None:
        self.config = config


def split(module: Module) -> tuple[nnx.GraphDef[Module], Params]:
    """Returns the static part of a module and its parameters as a nested dict."""
    graphdef, state = nnx.split(module)
    return graphdef, _rename_keys(nnx.to_pure_dict(state), str)


def merge(graphdef: nnx.GraphDef[Module], params: Params) -> Module:
    """Inverse of :func:`split`; `params` may hold arrays, tracers or any other leaves."""
    return nnx.merge(graphdef, _rename_keys(params, lambda key: int(key) if key.isdigit() else key))


class _SameKey(nnx.RngStream):
    """Gives one key to every initialiser: shapes do not depend on it, and new keys are a third of the tracing."""

    def __call__(self) -> jax.Array:
        return self.key[...]


def abstract(build: Callable[[nnx.Rngs], Module]) -> tuple[nnx.GraphDef[Module], Params]:
    """:func:`split` of ``build(rngs)`` with ``jax.ShapeDtypeStruct`` leaves: nothing is allocated."""

    def shapes() -> Module:
        rngs = nnx.Rngs(0)
        rngs.default = _SameKey(0, tag="default")  # pyright: ignore[reportAttributeAccessIssue]: made by name
        return build(rngs)

    graphdef, state = nnx.split(nnx.eval_shape(shapes))
    return graphdef, _rename_keys(nnx.to_pure_dict(state), str)


def stack(build: Callable[[nnx.Rngs], Module], rngs: nnx.Rngs, count: int) -> Module:
    """Builds `count` equal modules with a leading layer axis on every parameter, to be walked by ``jax.lax.scan``."""
    return nnx.vmap(build)(rngs.split(count))


def rematerialised(function: Callable, remat: Remat) -> Callable:
    """`function` whose intermediate results are computed again for the gradient.

    "full": all of them; "dots": all but those of convolutions and of matrix products without batch axes, so that
    attention scores are never kept; "offload": all but the first argument, a block's input, which waits in the host's
    memory; "none": `function` itself.
    """
    if remat == "none":
        return function
    if remat == "offload":
        policy = jax.checkpoint_policies.save_and_offload_only_these_names(
            names_which_can_be_saved=[],
            names_which_can_be_offloaded=["input"],
            offload_src="device",
            offload_dst="pinned_host",
        )
        return jax.checkpoint(lambda x, *rest: function(checkpoint_name(x, "input"), *rest), policy=policy)
    return jax.checkpoint(function, policy=_is_large_product if remat == "dots" else None)


def _is_large_product(primitive: Any, *inputs: Any, **params: Any) -> bool:
    batched = primitive is jax.lax.dot_general_p and params["dimension_numbers"][1][0]
    return jax.checkpoint_policies.dots_saveable(primitive, *inputs, **params) and not batched


def cast(tree: Any, dtype: jnp.dtype) -> Any:
    """Casts the floating-point leaves of a pytree."""
    return jax.tree.map(lambda x: x.astype(dtype) if jnp.issubdtype(x.dtype, jnp.floating) else x, tree)


def flatten(params: Params) -> dict[str, Any]:
    """``{"a": {"b": leaf}}`` -> ``{"a.b": leaf}``; the keys of lists and tuples are their indices."""
    leaves, _ = jax.tree_util.tree_flatten_with_path(params)
    return {jax.tree_util.keystr(path, simple=True, separator="."): leaf for path, leaf in leaves}


def nest(flat: Mapping[str, Any]) -> Params:
    """The inverse of :func:`flatten` for nested dicts."""
    params: Params = {}
    for name, leaf in flat.items():
        *parents, key = name.split(".")
        part = params
        for parent in parents:
            part = part.setdefault(parent, {})
        part[key] = leaf
    return params


def fingerprint(params: Params) -> str:
    """A hash of names, shapes, dtypes and numbers: equal for equal parameters, wherever they lie."""
    digest = hashlib.sha256()
    for name, leaf in flatten(params).items():
        digest.update(f"{name} {leaf.shape} {leaf.dtype}".encode())
        digest.update(np.ascontiguousarray(leaf).reshape(-1).view(np.uint8).data)
    return digest.hexdigest()[:16]


class NotFinite(UserError):
    """Numbers that can be no result: infinite, or none at all."""


def require_finite(what: str, tree: Any) -> Any:
    """Returns `tree`. Raises NotFinite, a UserError that begins with `what`, where a number in it is not finite."""
    bad = [name for name, leaf in flatten(tree).items() if not _is_finite(leaf)]
    if bad:
        where = f" ({', '.join(bad[:3])}{', ...' * (len(bad) > 3)})" if any(bad) else ""
        raise NotFinite(f"{what} not finite{where}: the weights or the input are damaged or out of range")
    return tree


def _is_finite(x: Any) -> bool:
    if not jnp.issubdtype(x.dtype, jnp.floating):
        return True
    elsewhere = isinstance(x, jax.Array) and any(device.platform != "cpu" for device in x.devices())
    return bool((jnp if elsewhere else np).isfinite(x).all())  # on a CPU, NumPy has nothing to copy and to compile


def count_parameters(params: Params) -> int:
    return sum(leaf.size for leaf in jax.tree.leaves(params))


def _rename_keys(tree: Any, rename: Callable[[Any], Any]) -> Any:
    # `nnx.List` numbers its items with integers; Orbax and JSON know string keys only.
    return {rename(key): _rename_keys(value, rename) for key, value in tree.items()} if isinstance(tree, dict) else tree
