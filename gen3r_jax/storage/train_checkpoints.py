"""The checkpoints of a training run.

A run has one folder a step with the items ``state``, ``data`` (the position in the data, the same for all processes),
``config`` and ``checksums`` (of the first two). A folder appears under its name only when it is complete.
"""

import itertools
from collections.abc import Mapping
from typing import Any

import grain
import jax
import orbax.checkpoint as ocp
from etils import epath
from orbax.checkpoint import checkpoint_managers as policies

from gen3r_jax import module
from gen3r_jax.errors import UserError, notice
from gen3r_jax.storage.checkpoint import is_no_damage, reason, refuse_mismatch
from gen3r_jax.storage.checksums import array_checksums, json_checksum
from gen3r_jax.storage.files import writing


class TrainCheckpoints:
    """The checkpoints of one run in `directory`, written in the background: the last `keep` and every `keep_every`-th.

    A context manager: leaving it waits for the last write. Every method raises UserError when the disk cannot be
    written; the checkpoints that were complete before stay as they are.
    """

    def __init__(self, directory: epath.PathLike, *, keep: int, keep_every: int = 0):
        self.directory = epath.Path(directory).absolute()
        kept = [policies.LatestN(keep)] + ([policies.EveryNSteps(keep_every)] if keep_every else [])
        try:
            self._manager = ocp.CheckpointManager(
                self.directory,
                item_handlers={
                    "state": ocp.StandardCheckpointHandler(),
                    # One file for all processes: the position is the same for each, and others may go on from it.
                    "data": ocp.JsonCheckpointHandler(),
                    "config": ocp.JsonCheckpointHandler(),
                    "checksums": ocp.JsonCheckpointHandler(),
                },
                options=ocp.CheckpointManagerOptions(
                    preservation_policy=policies.AnyPreservationPolicy(kept),
                    cleanup_tmp_directories=True,
                    # Made in the background, processes wait for them by a count of operations; process 0 has made more,
                    # for it alone exports weights, and what the others wrote too early would be removed.
                    async_options=ocp.options.AsyncOptions(create_directories_asynchronously=False),
                ),
            )
        except OSError as error:
            raise UserError(f"cannot write to {self.directory}: {reason(error)}") from error

    def __enter__(self) -> "TrainCheckpoints":
        return self

    def __exit__(self, kind: Any, *_: Any) -> None:
        try:
            self.wait()
        except UserError:
            if kind is None:  # else an error, perhaps the same, is already on its way
                raise

    def latest(self) -> int | None:
        """The step of the newest checkpoint, once everything is on disk."""
        self.wait()
        return self._manager.latest_step()

    def save(self, step: int, state: Any, data: grain.DatasetIterator, config: dict[str, Any]) -> None:
        """Starts writing; returns once `state` and the position of `data` are copied, so both may change."""
        leaves, position = module.flatten(state), data.get_state()
        checksums = {"arrays": array_checksums(leaves), "data": json_checksum([step, position])}
        items = ocp.args.Composite(
            state=ocp.args.StandardSave(leaves),
            data=ocp.args.JsonSave(position),
            config=ocp.args.JsonSave(config),
            checksums=ocp.args.JsonSave(checksums),
        )
        self._guard(lambda: self._manager.save(step, args=items))

    def check(self) -> None:
        """Raises UserError if a write in the background has failed."""
        self._guard(self._manager.check_for_errors)

    def wait(self) -> None:
        """Returns when everything is on disk."""
        self._guard(self._manager.wait_until_finished)

    def restore(self, step: int, abstract: Any, data: grain.DatasetIterator | None = None) -> Any:
        """Reads a state like `abstract` (ShapeDtypeStructs with shardings) and moves `data` to its position.

        The state may have been saved on another mesh and by another number of processes. Raises UserError with one line
        that lists everything missing, extra or misshapen, or says that the checkpoint is damaged: it names the first
        array that is not the one that was saved, and the checkpoint before. Those of earlier versions have no
        checksums; they are read with a notice.
        """
        path = self.directory / str(step)
        wanted = module.flatten(abstract)
        try:
            stored = self._manager.item_metadata(step).state
            if stored is None:
                raise FileNotFoundError("its state is missing")
            refuse_mismatch(f"checkpoint {path} does not fit this run", wanted, stored)
            items: dict[str, Any] = {"state": ocp.args.StandardRestore(wanted), "data": ocp.args.JsonRestore()}
            if (path / "checksums").exists():
                items["checksums"] = ocp.args.JsonRestore()
            else:
                notice(f"{path} was written without checksums: damage to it would not be seen")
            found: Any = self._manager.restore(step, args=ocp.args.Composite(**items))
            restored = found.state
            if "checksums" in items:
                _compare(found.checksums, step, restored, stored, found.data)
            if data is not None:
                data.set_state(found.data)
        except UserError:
            raise
        except Exception as error:  # as in load_network, and Grain's
            if is_no_damage(error):
                raise
            earlier = [other for other in self._manager.all_steps() if other < step]
            advice = f"--restore {max(earlier)} goes back to the one before" if earlier else "remove it to start again"
            raise UserError(f"checkpoint {path} is damaged ({reason(error)}); {advice}") from error
        return jax.tree.unflatten(jax.tree.structure(abstract), [restored[name] for name in wanted])

    def _guard(self, action: Any) -> None:
        try:
            action()
        except Exception as error:  # as above
            if is_no_damage(error):
                raise
            # A failed write is no checkpoint: what Orbax still lists are complete ones.
            good = max(ocp.utils.checkpoint_steps(self.directory), default=None)
            last = f"the last good checkpoint is step {good}" if good is not None else "there is no checkpoint yet"
            raise UserError(f"cannot write a checkpoint to {self.directory}: {reason(error)}; {last}") from error


def go_back(directory: epath.PathLike, step: int) -> None:
    """Moves the checkpoints after `step` to a folder ``checkpoints-left-N`` beside `directory`, and says so.

    Raises UserError where there is no checkpoint of that step, or they cannot be moved.
    """
    directory = epath.Path(directory).absolute()
    steps = sorted(ocp.utils.checkpoint_steps(directory)) if directory.exists() else []
    if step not in steps:
        raise UserError(f"{directory} has no checkpoint of step {step}; it has {', '.join(map(str, steps)) or 'none'}")
    later = [other for other in steps if other > step]
    places = (directory.with_name(f"{directory.name}-left-{number}") for number in itertools.count(1))
    aside = next(place for place in places if not place.exists())
    with writing(aside):
        for other in later:
            aside.mkdir(parents=True, exist_ok=True)
            (directory / str(other)).rename(aside / str(other))
    if later:
        notice(f"going back to step {step}: the checkpoints after it are now in {aside}")


def steps_in(directory: epath.Path) -> list[int]:
    """The steps of the checkpoints in a folder, which is called as they are in a work folder."""
    return sorted(ocp.utils.checkpoint_steps(directory)) if directory.name == "checkpoints" else []


def require_whole_state(path: epath.Path) -> str:
    """Reads the checkpoint in the folder `path`, whose name is its step, on one device; says that it is whole.

    Nothing of the run is touched. Raises UserError where it is damaged or has no checksums.
    """
    if not (path / "checksums").exists():
        raise UserError(f"{path}: it was written without checksums")
    device = jax.sharding.SingleDeviceSharding(jax.devices()[0])
    try:
        arrays, texts = ocp.StandardCheckpointHandler(), ocp.JsonCheckpointHandler()
        stored = dict(arrays.metadata(path / "state").tree)
        places = {name: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=device) for name, x in stored.items()}
        state = arrays.restore(path / "state", args=ocp.args.StandardRestore(places))
        checksums, position = (texts.restore(path / name) for name in ("checksums", "data"))
        _compare(checksums, int(path.name), state, stored, position)
    except Exception as error:  # as in load_network
        if is_no_damage(error):
            raise
        raise UserError(f"checkpoint {path} is damaged ({reason(error)})") from error
    return f"{path}: {len(state)} arrays are as they were saved"


def _compare(
    checksums: Mapping[str, Any], step: int, state: Mapping[str, Any], stored: Mapping[str, Any], position: Any
) -> None:
    """Raises ValueError that names the first part of a checkpoint that is not the one that was saved."""
    if checksums["data"] != json_checksum([step, position]):
        raise ValueError(f"the data position is not the one that was saved with step {step}")
    same_type = {name: x for name, x in state.items() if x.dtype == stored[name].dtype}
    for name, found in array_checksums(same_type).items():
        if checksums["arrays"].get(name) != found:
            raise ValueError(f"{name} is not what was saved")
