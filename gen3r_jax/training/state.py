"""Everything that one update changes, made where it will live."""

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
import optax
from jax.sharding import Mesh, NamedSharding, PartitionSpec
from jaxtyping import Array, Int

from gen3r_jax.module import Params
from gen3r_jax.sharding import param_shardings
from gen3r_jax.storage.checkpoint import refuse_mismatch
from gen3r_jax.training.stage import Stage


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class TrainState:
    """step: updates made so far, over all phases. params: fp32 master weights. ema: their moving average, or None."""

    step: Int[Array, ""]
    params: Params
    opt_state: Any
    ema: Params | None

    @property
    def best(self) -> Params:
        """The weights to judge and to hand on: the moving average where there is one."""
        return self.params if self.ema is None else self.ema


def abstract_state(stage: Stage, tx: optax.GradientTransformation, mesh: Mesh, with_ema: bool) -> TrainState:
    """The state as ``ShapeDtypeStruct`` leaves that carry their shardings; nothing is allocated."""
    params = jax.eval_shape(lambda: stage.init(jax.random.key(0)))
    places = param_shardings(params, mesh)
    everywhere: Any = NamedSharding(mesh, PartitionSpec())
    step: Any = jax.ShapeDtypeStruct((), jnp.int32)
    state = TrainState(step, params, jax.eval_shape(tx.init, params), params if with_ema else None)
    shardings = TrainState(
        everywhere, places, _opt_state_shardings(tx, params, places, mesh), places if with_ema else None
    )
    return jax.tree.map(
        lambda leaf, place: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=place), state, shardings
    )


def create_state(stage: Stage, tx: optax.GradientTransformation, abstract: TrainState, seed: int) -> TrainState:
    """Step 0: the stage's starting weights, or random ones; every device makes only its own part."""
    params = stage.load_trainable()
    places = shardings(abstract)
    if params is None:
        params = jax.jit(stage.init, out_shardings=places.params)(jax.random.key(seed))
    else:
        refuse_mismatch("starting weights do not fit the stage", abstract.params, params)
        params = jax.tree.map(
            lambda value, want: jax.device_put(value.astype(want.dtype), want.sharding), params, abstract.params
        )
    step = jax.device_put(jnp.zeros((), jnp.int32), places.step)
    ema = None if abstract.ema is None else jax.tree.map(jnp.copy, params)
    return TrainState(step, params, fresh_opt_state(tx, params, abstract), ema)


def fresh_opt_state(tx: optax.GradientTransformation, params: Params, abstract: TrainState) -> Any:
    return jax.jit(tx.init, out_shardings=shardings(abstract).opt_state)(params)


def shardings(abstract: Any) -> Any:
    return jax.tree.map(lambda leaf: leaf.sharding, abstract)


def _opt_state_shardings(tx: optax.GradientTransformation, params: Any, shardings: Any, mesh: Mesh) -> Any:
    """A tree of shardings like ``tx.init(params)``: moments lie as their parameters do, the rest is everywhere.

    Without this, ``jit(tx.init)`` would put a whole copy of every moment on every device.
    """
    state = jax.eval_shape(tx.init, params)
    everywhere = NamedSharding(mesh, PartitionSpec())

    def masked(leaf: Any) -> bool:
        return isinstance(leaf, optax.MaskedNode)  # a parameter that another of several optimizers moves

    return optax.tree_map_params(
        tx,
        lambda leaf, sharding: leaf if masked(leaf) else sharding,
        state,
        shardings,
        transform_non_params=lambda _: everywhere,
        is_leaf=masked,
    )
