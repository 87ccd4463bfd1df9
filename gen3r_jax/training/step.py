"""One optimizer step, compiled: micro-batches, gradients, clipping, AdamW, moving average."""

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax.sharding import Mesh

from gen3r_jax import module
from gen3r_jax.errors import UserError
from gen3r_jax.sharding import batch_sharding, data_parallel_size
from gen3r_jax.training.optim import OptimOptions, learning_rate, make_optimizer, update_ema
from gen3r_jax.training.stage import Metrics, Stage
from gen3r_jax.training.state import TrainState, shardings

DTYPES = {"float32": jnp.float32, "bfloat16": jnp.bfloat16}


@dataclasses.dataclass(frozen=True)
class Phase:
    """A run of updates with one clip length, its own optimizer state and its own schedule; weights are carried over.

    start, steps: the first update and how many. clips_per_device: samples a device works on at once.
    """

    index: int
    start: int
    num_frames: int
    steps: int
    clips_per_device: int

    @property
    def end(self) -> int:
        return self.start + self.steps


def make_phases(triples: tuple[tuple[int, int, int], ...]) -> tuple[Phase, ...]:
    """((num_frames, steps, clips_per_device), ...) -> phases one after the other."""
    phases: list[Phase] = []
    for triple in triples:
        numbers = triple if isinstance(triple, tuple) else ()
        if len(numbers) != 3 or not all(isinstance(value, int) and value > 0 for value in numbers):
            raise UserError(
                f"train.phases must be ((frames, steps, clips_per_device), ...), all positive integers, not {triples}"
            )
        phases.append(Phase(len(phases), phases[-1].end if phases else 0, *triple))
    if not phases:
        raise UserError("train.phases is empty: give ((frames, steps, clips_per_device), ...)")
    return tuple(phases)


def count_micro_batches(batch_size: int, clips_per_device: int, mesh: Mesh) -> int:
    """Into how many parts a batch is cut so that every device works on `clips_per_device` samples at once."""
    at_once = clips_per_device * data_parallel_size(mesh)
    if batch_size % at_once:
        below = batch_size // at_once * at_once
        nearest = f"{below}, {below + at_once}" if below else f"{at_once}"
        raise UserError(
            f"train.batch_size {batch_size} is not a multiple of {at_once} ({clips_per_device} clips on each of "
            f"{data_parallel_size(mesh)} data-parallel devices); nearest: {nearest}"
        )
    return batch_size // at_once


def place_batch(
    batch: Mapping[str, Any], axes: Mapping[str, tuple[str | None, ...]], micro_batches: int, mesh: Mesh
) -> dict[str, jax.Array]:
    """Puts this process's part of a batch on the devices as [micro-batch, sample, ...], split as `axes` says.

    Adds ``sample_index``: the index of each sample in the whole batch, whatever the number of processes.
    """
    missing = [name for name in axes if name not in batch]
    if missing:
        raise UserError(f"the data has no {', '.join(missing)}; it has {', '.join(batch)}")
    local = {name: np.asarray(batch[name]) for name in axes}
    size = len(next(iter(local.values())))
    local["sample_index"] = np.arange(size, dtype=np.int32) * jax.process_count() + jax.process_index()

    def place(name: str, value: np.ndarray) -> jax.Array:
        value = value.reshape(micro_batches, -1, *value.shape[1:])
        shape = (micro_batches, value.shape[1] * jax.process_count(), *value.shape[2:])
        sharding = batch_sharding(mesh, shape, (None, *axes.get(name, ("batch",))))
        return jax.make_array_from_process_local_data(sharding, value, shape)

    return {name: place(name, value) for name, value in local.items()}


def make_step(
    stage: Stage, options: OptimOptions, phase: Phase, abstract: TrainState, dtype: str, seed: int
) -> Callable[[TrainState, Any, Mapping[str, jax.Array]], tuple[TrainState, Metrics]]:
    """The jitted update (state, frozen, placed batch) -> (state, metrics); the old state's memory is reused.

    The frozen weights are an argument: closed over they would be written into the program as constants.
    """
    tx = make_optimizer(options, phase.steps)
    schedule = learning_rate(options, phase.steps)
    places = shardings(abstract)

    def step(state: TrainState, frozen: Any, batch: Mapping[str, jax.Array]) -> tuple[TrainState, Metrics]:
        step_key = jax.random.fold_in(jax.random.key(seed), state.step)

        def loss(params: Any, micro_batch: Mapping[str, jax.Array]) -> tuple[jax.Array, Metrics]:
            inputs = {name: value for name, value in micro_batch.items() if name != "sample_index"}
            keys = jax.vmap(lambda index: jax.random.fold_in(step_key, index))(micro_batch["sample_index"])
            value, metrics = stage.loss(module.cast(params, DTYPES[dtype]), frozen, inputs, keys)
            return value, {"loss": value, **metrics}

        def accumulate(total: Any, micro_batch: Mapping[str, jax.Array]) -> tuple[Any, Metrics]:
            grads, metrics = jax.grad(loss, has_aux=True)(state.params, micro_batch)
            total = jax.tree.map(jnp.add, total, grads)
            return jax.lax.with_sharding_constraint(total, places.params), metrics

        zeros = jax.tree.map(jnp.zeros_like, state.params)
        total, metrics = jax.lax.scan(accumulate, zeros, batch)
        count = len(batch["sample_index"])
        grads = jax.tree.map(lambda grad: grad / count, total)
        updates, opt_state = tx.update(grads, state.opt_state, state.params)
        params = optax.apply_updates(state.params, updates)
        ema = None if state.ema is None else update_ema(state.ema, params, options.ema_decay, state.step)
        metrics = jax.tree.map(lambda values: values.astype(jnp.float32).mean(), metrics)
        metrics["optim/grad_norm"] = optax.tree.norm(grads)
        metrics["optim/learning_rate"] = schedule(state.step - phase.start)
        return TrainState(state.step + 1, params, opt_state, ema), metrics

    return jax.jit(step, donate_argnums=0, out_shardings=(places, None))
