"""One optimizer step: encoders and gradients for each micro-batch, then clipping, AdamW and the moving average.

Each of these is a compiled program. The host hands them out ahead of the device, with as many micro-batches on their
way at once as `IN_FLIGHT` says.
"""

import dataclasses
import functools
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax.sharding import Mesh, NamedSharding, PartitionSpec
from jaxtyping import Array, Float, Int, Key

from gen3r_jax import module
from gen3r_jax.errors import UserError
from gen3r_jax.sharding import batch_sharding, batch_share, data_parallel_size, fetch, make_mesh, param_shardings
from gen3r_jax.training.optim import OptimOptions, learning_rate, make_optimizer, update_ema
from gen3r_jax.training.options import LoopOptions
from gen3r_jax.training.program import Program
from gen3r_jax.training.stage import Batch, Encoder, Entry, Metrics, Stage
from gen3r_jax.training.state import TrainState, abstract_state, shardings

# Micro-batches that may be on their way at once: a device that ends one finds the next, and no more memory is taken.
IN_FLIGHT = 2
# The metric by which all processes learn, in the same step, what one of them wants: the largest of these wishes.
WISH = "wish"
NOTHING, SAVE, STOP = range(3)
# What every batch has beside the stage's entries.
SAMPLE_INDEX = Entry("", np.int32)
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


def make_phases(triples: tuple[tuple[int, int, int], ...], share: float = 1.0) -> tuple[Phase, ...]:
    """((num_frames, steps, clips_per_device), ...) -> phases one after the other, with `share` of the steps of each."""
    phases: list[Phase] = []
    for triple in triples:
        numbers = triple if isinstance(triple, tuple) else ()
        if len(numbers) != 3 or not all(isinstance(value, int) and value > 0 for value in numbers):
            raise UserError(
                f"train.phases must be ((frames, steps, clips_per_device), ...), all positive integers, not {triples}"
            )
        num_frames, steps, clips_per_device = triple
        start, steps = phases[-1].end if phases else 0, max(1, round(share * steps))
        phases.append(Phase(len(phases), start, num_frames, steps, clips_per_device))
    if not phases:
        raise UserError("train.phases is empty: give ((frames, steps, clips_per_device), ...)")
    return tuple(phases)


def training_mesh(options: LoopOptions, phases: Sequence[Phase], devices: list[Any] | None = None) -> Mesh:
    """The mesh of a run, on which the batch divides in every phase, and among the processes. Raises UserError where it
    does not.

    A ``mesh.seq`` of 0 becomes the first of 1, 2, 4 that fits.
    """
    refused = None
    for size in (1, 2, 4) if options.mesh.seq == 0 else (options.mesh.seq,):
        try:
            mesh = make_mesh(dataclasses.replace(options.mesh, seq=size), devices)
            batch_share(mesh)
            for phase in phases:
                count_micro_batches(options.train.batch_size, phase.clips_per_device, mesh)
        except UserError as error:
            refused = refused or error
        else:
            return mesh
    assert refused is not None
    raise refused


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
    batch: Mapping[str, Any], entries: Mapping[str, Entry], micro_batches: int, mesh: Mesh
) -> list[dict[str, jax.Array]]:
    """Puts this process's part of a batch on the devices, cut into micro-batches and split as `entries` say.

    Adds ``sample_index``: the index of each sample in the whole batch, whatever the number of processes.
    """
    missing = [name for name in entries if name not in batch]
    if missing:
        raise UserError(f"the data has no {', '.join(missing)}; it has {', '.join(batch)}")
    local = {name: np.asarray(batch[name]) for name in entries}
    size = len(next(iter(local.values())))
    index, count = batch_share(mesh)
    entries = {**entries, "sample_index": SAMPLE_INDEX}
    local["sample_index"] = np.arange(size, dtype=np.int32) * count + index

    def place(name: str, value: np.ndarray) -> jax.Array:
        shape = (value.shape[0] * count, *value.shape[1:])
        sharding = batch_sharding(mesh, shape, entries[name].axes)
        return jax.make_array_from_process_local_data(sharding, value, shape)

    parts = {name: np.split(value, micro_batches) for name, value in local.items()}
    return [{name: place(name, part[i]) for name, part in parts.items()} for i in range(micro_batches)]


def abstract_micro_batch(stage: Stage, phase: Phase, side: int, mesh: Mesh) -> dict[str, jax.ShapeDtypeStruct]:
    """What :func:`place_batch` gives for one micro-batch, as ``ShapeDtypeStruct`` leaves with their shardings."""
    size = phase.clips_per_device * data_parallel_size(mesh)

    def batched(entry: Entry) -> jax.ShapeDtypeStruct:
        sample = entry.sample(phase.num_frames, side)
        shape = (size, *sample.shape)
        return jax.ShapeDtypeStruct(shape, sample.dtype, sharding=batch_sharding(mesh, shape, entry.axes))

    return {name: batched(entry) for name, entry in {**stage.entries, "sample_index": SAMPLE_INDEX}.items()}


class Step:
    """The update (state, frozen, micro-batches) -> (state, metrics); the old state's memory is reused.

    Its programs are the stage's encoders, ``gradient`` and ``update``. The frozen weights are arguments: closed over
    they would be written into the programs as constants.

    Args:
      abstract: the state, see :func:`gen3r_jax.training.state.abstract_state`.
      dtype: of the arithmetic.
      mesh: the one of ``jax.set_mesh``.

    A call also takes the `wish` of this process; the metric ``WISH`` is the largest of all processes.
    """

    def __init__(
        self, stage: Stage, options: OptimOptions, phase: Phase, abstract: TrainState, dtype: str, seed: int, mesh: Mesh
    ):
        self._stage, self._optim, self._phase, self._abstract = stage, options, phase, abstract
        self._dtype, self._seed, self._mesh = DTYPES[dtype], seed, mesh
        self._places = shardings(abstract)
        self._each = NamedSharding(mesh, PartitionSpec(mesh.axis_names))
        self._zeros = jax.jit(
            lambda: jax.tree.map(lambda x: jnp.zeros(x.shape, x.dtype), abstract.params),
            out_shardings=self._places.params,
        )
        self._compiled: dict[str, Callable] = {}

    def programs(self, frozen: Any, micro_batches: Sequence[Mapping[str, Any]]) -> list[Program]:
        """The programs for `frozen` weights and micro-batches, both of which may be abstract."""
        step, params, calls = self._abstract.step, self._abstract.params, len(micro_batches)
        frozen, entries = (jax.tree.map(_abstract, tree) for tree in (frozen, dict(micro_batches[0])))
        programs = []
        for encoder in self._stage.encoders:
            function = functools.partial(self._encode, encoder)
            arguments = (step, frozen, {name: entries[name] for name in (*encoder.reads, "sample_index")})
            written = {
                name: jax.ShapeDtypeStruct(
                    value.shape, value.dtype, sharding=batch_sharding(self._mesh, value.shape, encoder.writes[name])
                )
                for name, value in jax.eval_shape(function, *arguments).items()
            }
            jitted = jax.jit(function, out_shardings=shardings(written))
            programs.append(Program(encoder.name, jitted, arguments, calls))
            entries |= written
        everywhere = NamedSharding(self._mesh, PartitionSpec())
        gradient = jax.jit(self._gradient, donate_argnums=4, out_shardings=(self._places.params, everywhere))
        reads = {name: entries[name] for name in (*self._stage.loss_reads, "sample_index")}
        arguments = (step, params, frozen, reads, params)
        programs.append(Program("gradient", gradient, arguments, calls, self._loss))
        metrics = jax.tree.map(
            lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=everywhere),
            jax.eval_shape(gradient, *arguments)[1],
        )
        wishes = jax.ShapeDtypeStruct((self._mesh.size,), np.float32, sharding=self._each)
        update = jax.jit(self._update, donate_argnums=0, out_shardings=(self._places, everywhere))
        programs.append(Program("update", update, (self._abstract, params, (metrics,) * calls, wishes), 1))
        return programs

    def compile(self, frozen: Any, micro_batches: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
        """Compiles the programs, as the first call does otherwise."""
        self.work = self.programs(frozen, micro_batches)
        for program in self.work:
            self._compiled[program.name] = program.function.lower(*program.arguments).compile()
        return self._compiled

    def __call__(
        self, state: TrainState, frozen: Any, micro_batches: Sequence[Mapping[str, jax.Array]], wish: int = NOTHING
    ) -> tuple[TrainState, Metrics]:
        if not self._compiled:
            self.compile(frozen, micro_batches)
        total, metrics = self._zeros(), []
        for i, micro_batch in enumerate(micro_batches):
            if i >= IN_FLIGHT:
                jax.block_until_ready(metrics[i - IN_FLIGHT])
            total, values = self._add_gradient(state, frozen, micro_batch, total)
            metrics.append(values)
        mine = sum(device.process_index == jax.process_index() for device in self._mesh.devices.flat)
        wishes = np.full(mine, wish, np.float32)
        wishes = jax.make_array_from_process_local_data(self._each, wishes, (self._mesh.size,))
        return self._compiled["update"](state, total, tuple(metrics), wishes)

    def is_finite(self, state: TrainState, frozen: Any, micro_batch: Mapping[str, jax.Array]) -> bool:
        """Whether the loss of a micro-batch and its gradient are, by the programs of the update; nothing is changed."""
        grads, values = self._add_gradient(state, frozen, micro_batch, self._zeros())
        return all(np.isfinite(fetch(x)) for x in (values["loss"], jax.jit(optax.tree.norm)(grads)))

    def _add_gradient(
        self, state: TrainState, frozen: Any, micro_batch: Mapping[str, jax.Array], total: Any
    ) -> tuple[Any, Metrics]:
        entries = dict(micro_batch)
        for encoder in self._stage.encoders:
            reads = {name: entries[name] for name in (*encoder.reads, "sample_index")}
            entries |= self._compiled[encoder.name](state.step, frozen, reads)
        reads = {name: entries[name] for name in (*self._stage.loss_reads, "sample_index")}
        del entries
        return self._compiled["gradient"](state.step, state.params, frozen, reads, total)

    def _keys(self, step: Int[Array, ""], sample_index: Int[Array, " b"]) -> Key[Array, " b"]:
        step_key = jax.random.fold_in(jax.random.key(self._seed), step)
        return jax.vmap(lambda index: jax.random.fold_in(step_key, index))(sample_index)

    def _encode(self, encoder: Encoder, step: Int[Array, ""], frozen: Any, batch: Batch) -> Batch:
        keys = self._keys(step, batch["sample_index"])
        return encoder.function(frozen, {name: batch[name] for name in encoder.reads}, keys)

    def _loss(
        self, step: Int[Array, ""], params: Any, frozen: Any, batch: Batch, _: Any
    ) -> tuple[Float[Array, ""], Metrics]:
        keys = self._keys(step, batch["sample_index"])
        inputs = {name: batch[name] for name in self._stage.loss_reads}
        value, metrics = self._stage.loss(module.cast(params, self._dtype), frozen, inputs, keys)
        return value, {"loss": value, **metrics}

    def _gradient(
        self, step: Int[Array, ""], params: Any, frozen: Any, batch: Batch, total: Any
    ) -> tuple[Any, Metrics]:
        """Adds the gradient of a micro-batch to `total`."""
        grads, metrics = jax.grad(self._loss, argnums=1, has_aux=True)(step, params, frozen, batch, None)
        return jax.tree.map(jnp.add, total, grads), metrics

    def _update(
        self, state: TrainState, total: Any, metrics: tuple[Metrics, ...], wishes: Float[Array, " devices"]
    ) -> tuple[TrainState, Metrics]:
        """Changes the weights by the mean of the gradients, if that is finite; the metrics become means, too."""
        options, phase, count = self._optim, self._phase, len(metrics)
        grads = jax.tree.map(lambda grad: grad / count, total)
        tx = make_optimizer(options, phase.steps)
        updates, opt_state = tx.update(grads, state.opt_state, state.params)
        params: Any = optax.apply_updates(state.params, updates)
        ema = None if state.ema is None else update_ema(state.ema, params, options.ema_decay, state.step)
        means = jax.tree.map(lambda *values: sum(value.astype(jnp.float32) for value in values) / count, *metrics)
        means["optim/grad_norm"] = optax.tree.norm(grads)
        means[WISH] = wishes.max()
        means["optim/learning_rate"] = learning_rate(options, phase.steps)(state.step - phase.start)
        finite = jnp.isfinite(means["loss"]) & jnp.isfinite(means["optim/grad_norm"])
        new, old = TrainState(state.step + 1, params, opt_state, ema), dataclasses.replace(state, step=state.step + 1)
        return jax.tree.map(lambda made, kept: jnp.where(finite, made, kept), new, old), means


def step_programs(stage: Stage, options: LoopOptions, phase: Phase, mesh: Mesh) -> list[Program]:
    """The programs of a phase for a mesh whose devices need not be here; no weights are read."""
    tx = make_optimizer(options.optim, phase.steps)
    abstract = abstract_state(stage, tx, mesh, with_ema=options.optim.ema_decay > 0)
    shapes = stage.abstract_frozen()
    frozen = jax.tree.map(
        lambda leaf, place: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=place),
        shapes,
        param_shardings(shapes, mesh),
    )
    calls = count_micro_batches(options.train.batch_size, phase.clips_per_device, mesh)
    micro_batch = abstract_micro_batch(stage, phase, options.train.side, mesh)
    with jax.set_mesh(mesh):  # nothing may be computed under devices that are not here
        step = Step(stage, options.optim, phase, abstract, options.train.dtype, options.train.seed, mesh)
        return step.programs(frozen, [micro_batch] * calls)


def _abstract(x: Any) -> jax.ShapeDtypeStruct:
    return x if isinstance(x, jax.ShapeDtypeStruct) else jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=x.sharding)
