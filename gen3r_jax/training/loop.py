"""The training loop of every stage. It knows the :class:`Stage` protocol and no network.

Order, the same for a fresh and for a resumed run: validate and save after update i, then take the data of update i+1.
So a checkpoint at step i holds the state after i updates and a data position from which batch i+1 comes next.
"""

import contextlib
import dataclasses
import signal
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol

import grain
import jax
import numpy as np
from jax.sharding import Mesh

from gen3r_jax import module
from gen3r_jax.costs.topology import find_chip
from gen3r_jax.errors import UserError
from gen3r_jax.module import Params
from gen3r_jax.progress import COMPILER
from gen3r_jax.sharding import batch_share, fetch, param_shardings
from gen3r_jax.storage.remote import Workdir
from gen3r_jax.storage.train_checkpoints import TrainCheckpoints
from gen3r_jax.training.distributed import peer_errors, wait_for_all
from gen3r_jax.training.metrics import MetricsWriter
from gen3r_jax.training.optim import make_optimizer
from gen3r_jax.training.options import LoopOptions
from gen3r_jax.training.stage import Metrics, Stage
from gen3r_jax.training.state import TrainState, abstract_state, create_state, fresh_opt_state
from gen3r_jax.training.step import (
    DTYPES,
    NOTHING,
    SAVE,
    STOP,
    WISH,
    Phase,
    Step,
    count_micro_batches,
    make_phases,
    place_batch,
    training_mesh,
)


class MakeLoader(Protocol):
    """Makes the data of a phase: an endless, checkpointable Grain iterator of batches, the same for the same seed.

    split: "train" or "test". Process p of P gets the clips p, p + P, p + 2 P, ...
    """

    def __call__(
        self, *, batch_size: int, num_frames: int, seed: int, process_index: int, process_count: int, split: str
    ) -> grain.DatasetIterator: ...


def train(
    stage: Stage, make_loader: MakeLoader, options: LoopOptions, workdir: Path | str, config: Mapping[str, Any]
) -> None:
    """Trains `stage` to the end of the last phase, from the newest checkpoint in `workdir` if there is one.

    `workdir` may be in a bucket, ``gs://...``.

    Writes there: checkpoints/, metrics.jsonl, tensorboard/, loss.png, validation/step_N/, weights/ (the trained
    networks as of the last checkpoint); `config` is kept inside each checkpoint. On SIGTERM or SIGINT, to whichever
    process, all save after the same step and exit with 128 + signal.
    Raises UserError on a loss or gradient that is not finite, a full disk, and options that do not fit.
    """
    phases = make_phases(options.train.phases, options.train.share)
    mesh = training_mesh(options, phases)
    keep = options.checkpoint
    with (
        peer_errors(),
        jax.set_mesh(mesh),
        StopRequest() as stop,
        contextlib.closing(Workdir(str(workdir), writes=jax.process_index() == 0)) as files,
        TrainCheckpoints(files.place / "checkpoints", keep=keep.keep, keep_every=keep.keep_every) as checkpoints,
    ):
        start = checkpoints.latest() or 0
        if start >= phases[-1].end:
            done = f"nothing to do: {workdir} already holds step {start} of {phases[-1].end}"
            print(f"{done}; with more steps in the last of train.phases it goes on", file=sys.stderr)
            return
        loaders = [_load(make_loader, options, phase, mesh) for phase in phases]
        frozen = stage.load_frozen()
        frozen = jax.device_put(frozen, param_shardings(frozen, mesh))
        with MetricsWriter(files.local, start, phases[-1].end, enabled=jax.process_index() == 0) as writer:
            run = _Run(stage, options, files, config, mesh, frozen, checkpoints, writer, stop)
            state = None
            for phase, (data, validation_data) in zip(phases, loaders, strict=True):
                if start < phase.end:
                    judged = None if validation_data is None else stage.prepare(next(validation_data))
                    state = run.phase(phase, state, data, judged)
                data.close()
                if validation_data is not None:
                    validation_data.close()
            writer.say(f"trained to step {phases[-1].end}; the weights are in {files.place / 'weights'}")
        wait_for_all("done")
    if jax.process_index() == 0:
        print(COMPILER.programs(), file=sys.stderr)
        print(f"open {files.place / 'loss.png'}", file=sys.stderr)


def _load(
    make_loader: MakeLoader, options: LoopOptions, phase: Phase, mesh: Mesh
) -> tuple[grain.DatasetIterator, grain.DatasetIterator | None]:
    """Data for training (this process's part) and, where there is one, for validation; opening all first finds what is
    wrong with them.
    """
    index, count = batch_share(mesh)
    sizes = {"num_frames": phase.num_frames, "seed": options.train.seed + phase.index}
    batch_size, judged = options.train.batch_size // count, options.validation
    data = make_loader(batch_size=batch_size, process_index=index, process_count=count, split="train", **sizes)
    if not judged.every:
        return data, None
    return data, make_loader(batch_size=judged.clips, process_index=0, process_count=1, split=judged.split, **sizes)


class StopRequest:
    """Remembers the first SIGTERM or SIGINT; a second one acts at once, as it would without us."""

    received: signal.Signals | None = None

    def __enter__(self) -> "StopRequest":
        self._old = {number: signal.signal(number, self._remember) for number in (signal.SIGTERM, signal.SIGINT)}
        return self

    def _remember(self, number: int, _: Any) -> None:
        self.received = signal.Signals(number)
        self.__exit__()

    def __exit__(self, *_: Any) -> None:
        for number, handler in self._old.items():
            signal.signal(number, handler)


@dataclasses.dataclass
class _Run:
    stage: Stage
    options: LoopOptions
    files: Workdir
    config: Mapping[str, Any]
    mesh: Mesh
    frozen: Params
    checkpoints: TrainCheckpoints
    writer: MetricsWriter
    stop: StopRequest
    update: Step = dataclasses.field(init=False)  # of the phase that runs
    clock: float = 0.0  # when the numbers of the last step came, or the first one began
    profiling: bool = False
    saved: float = dataclasses.field(default_factory=time.monotonic)  # when the last checkpoint was begun, or the run
    saving: bool = False  # all processes know that it is time for a checkpoint
    stopping: bool = False  # all processes know that one was told to stop
    skipped: int = 0  # updates in a row that were not made, as their numbers were not finite
    ideal_seconds: float = 0.0  # of a step at the peak of all chips, where that is known

    def phase(
        self,
        phase: Phase,
        state: TrainState | None,
        data: grain.DatasetIterator,
        validation_batch: Mapping[str, Any] | None,
    ) -> TrainState:
        """Runs one phase from where `state` (or else the newest checkpoint, or else nothing) stands.

        validation_batch: None for a run without validation.
        """
        options = self.options.train
        tx = make_optimizer(self.options.optim, phase.steps)
        abstract = abstract_state(self.stage, tx, self.mesh, self.options.optim.ema_decay > 0)
        micro_batches = count_micro_batches(options.batch_size, phase.clips_per_device, self.mesh)
        update = Step(self.stage, self.options.optim, phase, abstract, options.dtype, options.seed, self.mesh)
        self.update = update

        if state is None:
            state = self._first_state(phase, tx, abstract, data)
        step = int(state.step)
        if step == phase.start > 0:  # the phase before left its optimizer state
            state = dataclasses.replace(state, opt_state=fresh_opt_state(tx, state.params, abstract))
        if step == 0:
            self._validate(state, validation_batch, step)

        compiled, pending = False, None
        while step < phase.end:
            if self.stopping or (self.stop.received and jax.process_count() == 1):
                self._stop(pending, state, step, data)
            waited = time.perf_counter()
            host_batch = self.stage.prepare(next(data))
            waited = time.perf_counter() - waited
            batch = place_batch(host_batch, self.stage.entries, micro_batches, self.mesh)
            if not compiled:
                self._compile(update, batch)
                compiled, self.clock = True, time.perf_counter()
            self._start_profile(step)
            with jax.profiler.StepTraceAnnotation("train", step_num=step):
                state, metrics = update(state, self.frozen, batch, self._wish())
            step += 1
            self._finish(pending, state)  # the numbers of the step before, while the device works on this one
            pending = _Pending(step, metrics, host_batch, micro_batches, waited)
            if step == phase.end or step in self.options.train.profile[1:]:
                self._stop_profile(metrics)

            validate = step == phase.end or _is_due(step, self.options.validation.every)
            save = self.saving or step == phase.end or _is_due(step, self.options.checkpoint.every)
            if validate or save:
                self._finish(pending, state)
                pending = None
            if validate:
                self._validate(state, validation_batch, step)
            if save:
                self._save(state, step, data)
            self.checkpoints.check()
            if validate or save:
                self.clock = time.perf_counter()
        return state

    def _first_state(self, phase: Phase, tx: Any, abstract: TrainState, data: grain.DatasetIterator) -> TrainState:
        step = self.checkpoints.latest()
        if step is None:
            return create_state(self.stage, tx, abstract, self.options.train.seed)
        self.writer.say(f"resuming after step {step}")
        # A checkpoint of the end of the phase before knows nothing of this phase's data.
        state = self.checkpoints.restore(step, abstract, data if step > phase.start else None)
        if int(state.step) != step:
            folder = self.checkpoints.directory / str(step)
            raise UserError(
                f"checkpoint {folder} holds the state after step {int(state.step)}; give it that name again"
            )
        return state

    def _compile(self, update: Step, micro_batches: Sequence[Mapping[str, jax.Array]]) -> None:
        began = time.perf_counter()
        plans = {
            name: compiled.memory_analysis() for name, compiled in update.compile(self.frozen, micro_batches).items()
        }
        if (chip := find_chip(jax.devices()[0].device_kind)) is not None:
            flops = sum(program.calls * program.useful_flops() for program in update.work)
            self.ideal_seconds = flops / (self.mesh.size * chip.flops)
        temporaries = ", ".join(f"{name} {plan.temp_size_in_bytes / 2**30:.2f}" for name, plan in plans.items() if plan)
        self.writer.say(
            f"compiled the step in {time.perf_counter() - began:.1f} s: batch {self.options.train.batch_size} in "
            f"{len(micro_batches)} micro-batches; GiB of temporaries a device: {temporaries}"
        )

    def _wish(self) -> int:
        """What this process would like all to do: it was told to stop, or its clock, if it is the first, says save."""
        if self.stop.received:
            return STOP
        minutes = self.options.checkpoint.minutes
        late = 0 < 60 * minutes <= time.monotonic() - self.saved
        return SAVE if late and jax.process_index() == 0 else NOTHING

    def _finish(self, pending: "_Pending | None", state: TrainState) -> None:
        """Fetches and records the numbers of a step. Raises NotFinite where they are not, unless that is skipped."""
        if pending is None:
            return
        values = {name: float(value) for name, value in fetch(pending.metrics).items()}
        wish = values.pop(WISH)
        self.saving, self.stopping = self.saving or wish >= SAVE, self.stopping or wish >= STOP
        bad = [name for name in ("loss", "optim/grad_norm") if not np.isfinite(values[name])]
        if bad:
            self._skip(pending, state, f"{' and '.join(bad)} not finite at step {pending.step}")
            return
        self.skipped = 0
        now = time.perf_counter()
        seconds, self.clock = now - self.clock, now
        values["data/replaced"] = pending.replaced()
        values["time/step_seconds"] = seconds
        values["time/data_wait_fraction"] = min(1.0, pending.waited / seconds)
        if self.ideal_seconds:
            values["time/mfu"] = self.ideal_seconds / seconds
        values["time/samples_per_second"] = self.options.train.batch_size / seconds
        self.writer.write(pending.step, values)

    def _skip(self, pending: "_Pending", state: TrainState, what: str) -> None:
        """Names the samples of an update that was not made, and ends the run unless it is to go on without."""
        train, names = self.options.train, self._culprits(pending, state)
        told = f"{what}, samples {', '.join(names[:3])}{f' and {len(names) - 3} more' if len(names) > 3 else ''}"
        self.skipped += 1
        if train.on_nan == "stop" or self.skipped >= train.most_nan:
            row = f" ({self.skipped} in a row)" if self.skipped > 1 else ""
            good = self.checkpoints.latest()
            last = f"the last good checkpoint is step {good}" if good is not None else "there is no checkpoint yet"
            raise module.NotFinite(f"{told}{row}; data.skip leaves samples out; {last}")
        self.writer.say(f"{told}: the update is skipped")
        self.writer.write(pending.step, {"optim/skipped": 1, "data/replaced": pending.replaced()}, advance=False)
        self.clock = time.perf_counter()

    def _culprits(self, pending: "_Pending", state: TrainState) -> list[str]:
        """This process's samples of a batch that are not finite by themselves, at present weights; all if none is."""
        entries, found = self.stage.entries, []
        names = [str(name) for name in np.ravel(pending.batch.get("sample_id", ()))]
        local = {name: np.asarray(pending.batch[name]) for name in entries}
        size = len(next(iter(local.values()))) // pending.micro_batches

        update = self.update
        assert update is not None, "no phase runs"

        def is_finite(samples: list[int]) -> bool:
            part = {name: value[samples] for name, value in local.items()}
            return update.is_finite(state, self.frozen, place_batch(part, entries, 1, self.mesh)[0])

        for first in range(0, size * pending.micro_batches, size):
            samples = range(first, first + size)
            if not is_finite([*samples]):
                found += [i for i in samples if not is_finite([i] * size)]
        return [names[i] for i in found if i < len(names)] or names

    def _validate(self, state: TrainState, batch: Mapping[str, Any] | None, step: int) -> None:
        """Judges the weights, or their moving average where there is one; without a `batch`, nothing is judged."""
        if batch is None:
            return
        directory = self.files.local / "validation" / f"step_{step:06d}"
        if jax.process_index() == 0:
            directory.mkdir(parents=True, exist_ok=True)
        trainable = module.cast(state.best, DTYPES[self.options.train.dtype])
        metrics = self.stage.validate(trainable, self.frozen, batch, directory, step)
        values = {f"validation/{name}": float(value) for name, value in fetch(metrics).items()}
        if bad := [name for name, value in values.items() if np.isnan(value)]:
            raise module.NotFinite(f"{', '.join(bad)} not a number at step {step}: weights or clips are damaged")
        self.writer.write(step, values, advance=False)
        self.files.publish()

    def _save(self, state: TrainState, step: int, data: grain.DatasetIterator) -> None:
        """Starts a checkpoint, and writes the weights that a validation judges into WORKDIR/weights."""
        self.saving, self.saved = False, time.monotonic()
        began = time.perf_counter()
        self.checkpoints.save(step, state, data, dict(self.config))
        saved = time.perf_counter()
        self.stage.export(state.best, self.files.local / "weights")
        seconds = {"checkpoint_stall": saved - began, "export": time.perf_counter() - saved}
        self.writer.write(step, {f"time/{name}_seconds": value for name, value in seconds.items()}, advance=False)
        self.writer.plot()
        self.files.publish()

    def _stop(self, pending: "_Pending | None", state: TrainState, step: int, data: grain.DatasetIterator) -> None:
        self._finish(pending, state)
        self._stop_profile(state.step)
        if step and self.checkpoints.latest() != step:
            self._save(state, step, data)
        self.checkpoints.wait()
        received = self.stop.received or signal.SIGTERM  # if another process was told
        self.writer.say(f"{received.name}: saved after step {step}; run the same command to go on")
        wait_for_all("stopped")
        sys.exit(128 + received)

    def _start_profile(self, step: int) -> None:
        profile = self.options.train.profile
        if profile and step == profile[0] and jax.process_index() == 0:
            jax.profiler.start_trace(self.files.local / "profile")
            self.profiling = True

    def _stop_profile(self, metrics: Any) -> None:
        if self.profiling:
            jax.block_until_ready(metrics)  # or what the device does last would be missing
            jax.profiler.stop_trace()
            self.profiling = False


def _is_due(step: int, every: int) -> bool:
    return every > 0 and step % every == 0


@dataclasses.dataclass(frozen=True)
class _Pending:
    """A step on its way: its metrics still on the device, this process's batch, and the seconds waited for it."""

    step: int
    metrics: Metrics
    batch: Mapping[str, Any]
    micro_batches: int
    waited: float

    def replaced(self) -> int:
        """How many damaged scenes and frames of the batch were replaced."""
        return int(np.sum(self.batch.get("num_replaced", 0)))
