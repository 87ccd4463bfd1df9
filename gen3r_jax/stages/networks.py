"""The networks of a training stage: their sizes and weights, and VGGT's tokens as both stages keep them."""

from collections.abc import Callable
from dataclasses import replace
from functools import cached_property
from typing import Any

import jax
import jax.numpy as jnp
from etils import epath
from flax import nnx
from jaxtyping import Array, Float, UInt8

from gen3r_jax import module
from gen3r_jax.carried import ROOT
from gen3r_jax.errors import UserError
from gen3r_jax.generation import networks
from gen3r_jax.models.registry import EXACT, NETWORKS
from gen3r_jax.models.vggt import VGGT
from gen3r_jax.module import Params
from gen3r_jax.sharding import shard, shortfall
from gen3r_jax.stages.options import NetworkOptions
from gen3r_jax.stages.random_weights import random_network
from gen3r_jax.storage.checkpoint import load_network, read_config

# What random networks are drawn from.
SEEDS = {"vggt": 0, "wan_vae": 1, "geometry_adapter": 2, "wan_dit": 3, "umt5": 4, "clip_vision": 5}


class Networks:
    """Networks by their names in :data:`gen3r_jax.models.registry.NETWORKS`.

    Args:
      model: says their sizes.
      directory: a folder of converted weights, whose configs have the last word; empty: random ones, with the preset
        "tiny" only.
      fresh: names of those whose weights are not read, though `directory` may have them.
      changes: fields of configs that this training has otherwise, by network.
    """

    def __init__(
        self, model: NetworkOptions, directory: str, *, fresh: tuple[str, ...] = (), **changes: dict[str, Any]
    ):
        self._model, self._directory, self._fresh, self._changes = model, directory, fresh, changes

    @cached_property
    def configs(self) -> dict[str, Any]:
        def config(name: str) -> Any:
            path = epath.Path(self._directory) / name
            known = self._directory and name not in self._fresh and path.exists()
            found = self._model.config(name, read_config(path, NETWORKS[name]) if known else None)
            return replace(found, **self._changes.get(name, {}))

        return {name: config(name) for name in NETWORKS}

    def merge(self, name: str, params: Params) -> Any:
        """The network itself."""
        return module.merge(self.graph(name), params)

    def graph(self, name: str) -> nnx.GraphDef:
        return self._abstract[name][0]

    def shapes(self, name: str, dtype: Any) -> Params:
        """Its parameters as ``ShapeDtypeStruct`` leaves, as :meth:`load` gives them."""
        dtype = jnp.dtype(dtype)
        return _held(name, self._abstract[name][1], lambda leaf: jax.ShapeDtypeStruct(leaf.shape, dtype))

    def load(self, name: str, dtype: Any) -> Params:
        """Its weights. Raises UserError when they are missing or misfit."""
        if self._directory:
            return load_network(self.folder(name), NETWORKS[name], dtype=dtype, exact=EXACT.get(name, ()))[1]
        if self._model.preset != "tiny":
            raise UserError(
                f"preset {self._model.preset} needs trained weights of {name}, and weights.dir is empty: "
                f"{_advice(name)}"
            )
        params = random_network(NETWORKS[name], self.configs[name], SEEDS[name])
        return _held(name, params, lambda leaf: leaf.astype(dtype))

    def folder(self, name: str) -> epath.Path:
        path = epath.Path(self._directory) / name
        if not path.exists():
            raise UserError(f"no weights at {path}: {_advice(name)}")
        return path

    @cached_property
    def _abstract(self) -> dict[str, tuple[nnx.GraphDef, Params]]:
        def abstract(name: str) -> tuple[nnx.GraphDef, Params]:
            return module.abstract(lambda rngs: NETWORKS[name](self.configs[name], rngs=rngs))

        return {name: abstract(name) for name in NETWORKS}


def video_tokens(vggt: VGGT, frames: UInt8[Array, "b t h w 3"]) -> Float[Array, "b s hp wp c"]:
    """VGGT's tokens, packed, of clips that devices may share: then of more frames, so that each gets equally many."""
    packed = networks.encode_tokens(vggt, networks.to_unit_range(shard(frames, "batch", "frames")))
    return jnp.pad(packed, ((0, 0), (0, shortfall(packed.shape[1], "frames")), (0, 0), (0, 0), (0, 0)))


def _held(name: str, params: Params, cast: Callable[[Any], Any]) -> Params:
    """`params` with all leaves cast, but for the ``EXACT`` parts."""
    return jax.tree.map(cast, params) | {part: params[part] for part in EXACT.get(name, ()) if part in params}


def _advice(name: str) -> str:
    return (
        f"convert the official ones (gen3r convert {name} --source FILE_OR_DIR --output DIR/{name}, or all with "
        "gen3r convert gen3r) and give --config.weights.dir=DIR, or take the small model: --config.model.preset=nano "
        f"--config.weights.dir={ROOT / 'pretrained' / 'nano'}"
    )
