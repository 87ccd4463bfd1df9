"""The folder of a network's weights, which appears under its name only when it is complete.

``config.json`` holds ``{"format_version": 1, "network": class name, "config": {...}}`` and ``params`` the parameters as
Orbax writes a nested dict, or ``params.safetensors`` the same in one file, by dotted names, for small networks that are
handed around; ``hashes.json`` tells damage. Orbax is imported where it is used: a start that reads small networks does
without it.
"""

import dataclasses
import json
import logging
import os
import re
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from etils import epath
from flax import nnx
from safetensors import SafetensorError, safe_open
from safetensors.flax import save_file

from gen3r_jax import module
from gen3r_jax.errors import UserError
from gen3r_jax.module import AnyNetwork, Network, Params
from gen3r_jax.options import read_options
from gen3r_jax.sharding import fetch, param_shardings
from gen3r_jax.storage.files import read_json, refuse_newer, replacing, write_json
from gen3r_jax.storage.hashes import HASHES, PARTS, all_whole, require_whole, write_hashes

FORMAT_VERSION = 1
"""Of a network's folder."""

COMPACT = "params.safetensors"
LOST_SIGNS = ("UNAVAILABLE", "DEADLINE_EXCEEDED", "closed by peer", "reset by peer", "heartbeat", "arrier timed out")
"""What errors say where another process, or the way to it or to the files, was lost."""


def hush_background(before: Callable[[Any], object] = sys.unraisablehook) -> None:
    """Keeps Orbax and TensorStore from showing tracebacks of errors that they also raise: those are enough."""

    def hook(unraisable: Any) -> None:
        text = str(unraisable.exc_value)
        if text != "Event loop is closed" and "TensorStore details" not in text:
            before(unraisable)

    sys.unraisablehook = hook
    logging.getLogger("absl").addFilter(lambda record: "orbax" not in record.pathname or record.levelno < logging.ERROR)
    logging.getLogger("asyncio").addFilter(lambda record: "never retrieved" not in record.getMessage())


hush_background()


def save_network(path: epath.PathLike, network: Network) -> None:
    """Writes a network with its ``.config`` into the folder `path`; see :func:`save_weights`."""
    save_weights(path, type(network), network.config, module.split(network)[1])


def save_weights(path: epath.PathLike, network_class: type[Network], config: Any, params: Params) -> None:
    """Writes parameters of ``network_class(config)`` into the folder `path`, replacing the weights that are there.

    The folder is written beside its place and moved into it when complete, so an interrupted save leaves the old one.
    Other files that lie in the old one are kept.
    Of several processes all must call it, and the first writes.
    Raises UserError when the place cannot be written, the disk is full, `path` holds something else than weights, or
    numbers are not finite.
    """
    params = fetch(params) if jax.process_count() > 1 else params
    module.require_finite(f"weights for {path} are", params)
    if jax.process_index() > 0:
        return
    path = epath.Path(path).absolute()
    import orbax.checkpoint as ocp

    alone = ocp.options.MultiprocessingOptions(primary_host=0, active_processes={0}, barrier_sync_key_prefix="alone")
    partial, old = (path.parent / f".{path.name}.{suffix}" for suffix in ("partial", "old"))
    try:
        if old.exists():  # a save was interrupted at its end
            _give_back(old, path)
        if path.exists() and not holds_weights(path):
            raise UserError(f"{path} exists and is no weights folder; name another place or remove it")
        if partial.exists():
            partial.rmtree()
        partial.mkdir(parents=True)
        description = _description(network_class, config)
        (partial / "config.json").write_text(json.dumps(description, indent=2) + "\n")
        # Little more than the largest array on its way at a time: saving then takes little memory beside the weights.
        on_the_way = 1 + max((leaf.nbytes for leaf in jax.tree.leaves(params)), default=0) // 10**9
        handler = ocp.StandardCheckpointHandler(save_concurrent_gb=on_the_way, multiprocessing_options=alone)
        with ocp.Checkpointer(handler, multiprocessing_options=alone) as checkpointer:
            checkpointer.save(partial / "params", args=ocp.args.StandardSave(params))
        write_hashes(partial)
        if path.exists():
            path.rename(old)
        partial.rename(path)
        if old.exists():
            _give_back(old, path)
    except UserError:
        raise
    except (OSError, ValueError) as error:  # TensorStore reports a full disk as a ValueError
        raise UserError(f"cannot write weights to {path}: {reason(error)}") from error


def _give_back(old: epath.Path, path: epath.Path) -> None:
    """Makes an old weights folder the one at `path`, or, where there is a new one, gives that its other files."""
    if not path.exists():
        old.rename(path)
        return
    for other in old.iterdir():
        if other.name not in (*PARTS, HASHES):
            other.rename(path / other.name)
    old.rmtree()


def save_compact(path: epath.PathLike, network_class: type[Network], config: Any, params: Params) -> None:
    """Writes parameters of ``network_class(config)``, as they are, into one file in the folder `path`.

    Raises UserError when it cannot be written, or numbers are not finite.
    """
    path = epath.Path(path)
    module.require_finite(f"weights for {path} are", params)
    try:
        write_json(path / "config.json", _description(network_class, config))
        with replacing(path / COMPACT) as temporary:
            save_file(module.flatten(params), temporary)
        write_hashes(path)
    except SafetensorError as error:
        raise UserError(f"cannot write weights to {path}: {reason(error)}") from error


def _description(network_class: type[Network], config: Any) -> dict[str, Any]:
    return {
        "format_version": FORMAT_VERSION,
        "network": network_class.__name__,
        "config": dataclasses.asdict(config),
    }


def holds_weights(path: Path | epath.Path) -> bool:
    """Whether the folder looks like one of a network."""
    return (path / "config.json").exists() and any((path / name).exists() for name in ("params", COMPACT))


def holds_networks(folder: epath.Path) -> bool:
    """Whether some of what is in the folder are networks."""
    return any(holds_weights(path) for path in folder.iterdir())


def load_network(
    path: epath.PathLike,
    network_class: type[AnyNetwork],
    *,
    dtype: Any = None,
    exact: Sequence[str] = (),
    shardings: Any = None,
    missing: str = "",
) -> tuple[nnx.GraphDef[AnyNetwork], Params]:
    """Reads a folder written by :func:`save_network` -> (graphdef, params) for ``module.merge``.

    Args:
      dtype: of the floating-point parameters (default: as stored).
      exact: parts of the network to which `dtype` does not apply.
      shardings: a tree like the parameters (default: by the rules of :mod:`gen3r_jax.sharding` under ``jax.set_mesh``,
        else all on the first device).
      missing: a regular expression. Parameters that the folder lacks and whose whole dotted names match are drawn by
        the network's initialisers, from a fixed key, and one line on standard error says which.

    Raises:
      UserError: a missing folder or another network; a file that is not the one that was written; or tensors that are
        missing, extra or misshapen, all of which are named.
    """
    path, name = epath.Path(path).absolute(), network_class.__name__
    config = read_config(path, network_class)

    def build(rngs: nnx.Rngs) -> AnyNetwork:
        return network_class(config, rngs=rngs)

    graphdef, wanted = module.abstract(build)
    shardings = shardings or _default_shardings(wanted)
    with _telling_damage(path):
        new = _lacking(path, wanted, missing) if missing else set()
        here, places = (
            module.nest({key: leaf for key, leaf in module.flatten(tree).items() if key not in new})
            for tree in (wanted, shardings)
        )
        with all_whole(path):
            params = _restore_params(path, name, here, dtype, exact, places)
        if new:
            examples = ", ".join(sorted(new)[:3]) + ", ..." * (len(new) > 3)
            print(f"{path} lacks {len(new)} parameters of {name}, which are drawn: {examples}", file=sys.stderr)
            drawn = _draw(build, new, dtype, exact, module.flatten(shardings))
            params = module.nest(module.flatten(params) | drawn)
        return graphdef, params


@contextmanager
def _telling_damage(path: epath.Path) -> Iterator[None]:
    """Turns the errors of Orbax, TensorStore and safetensors, each of its own kinds, into a UserError."""
    try:
        yield
    except UserError:
        raise
    except Exception as error:
        if is_no_damage(error):
            raise
        raise UserError(f"weights in {path} are damaged ({reason(error)}); make them again") from error


def _lacking(path: epath.Path, wanted: Params, pattern: str) -> set[str]:
    """Names of the parameters that match and are not in the folder."""
    try:
        names = {name for name in module.flatten(wanted) if re.fullmatch(pattern, name)}
    except re.error as error:
        raise UserError(f"missing={pattern!r} is no regular expression: {error}") from None
    return names - set(stored_leaves(path))


def _draw(
    build: Callable[[nnx.Rngs], nnx.Module],
    names: Iterable[str],
    dtype: Any,
    exact: Sequence[str],
    shardings: Mapping[str, jax.sharding.Sharding],
) -> dict[str, jax.Array]:
    """The parameters of these dotted names as the network's initialisers draw them; the others are not computed."""

    def draw() -> dict[str, jax.Array]:
        params = module.flatten(module.split(build(nnx.Rngs(0)))[1])
        return {name: params[name].astype(_dtype_of(name, params[name].dtype, dtype, exact)) for name in names}

    return jax.jit(draw, out_shardings={name: shardings[name] for name in names})()


def _dtype_of(name: str, stored: Any, dtype: Any, exact: Sequence[str]) -> Any:
    keep = dtype is None or name.split(".")[0] in exact or not jnp.issubdtype(stored, jnp.floating)
    return stored if keep else dtype


def _restore_params(
    path: epath.Path, name: str, wanted: Params, dtype: Any, exact: Sequence[str], shardings: Any
) -> Params:
    def cast(key: str, stored: Any) -> Any:
        return _dtype_of(key, stored, dtype, exact)

    if not (path / "params").exists():
        with safe_open(path / COMPACT, "np") as file:
            tensors = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118
        refuse_mismatch(f"weights in {path} do not fit {name}", wanted, tensors)

        def place(key: str, sharding: jax.sharding.Sharding) -> jax.Array:
            array = np.asarray(tensors[key])  # cast on the host: the device would compile a program for every shape
            return jax.device_put(array.astype(cast(key, array.dtype)), sharding)

        placed = [place(*item) for item in module.flatten(shardings).items()]
        return jax.tree.unflatten(jax.tree.structure(wanted), placed)
    import orbax.checkpoint as ocp

    with ocp.Checkpointer(ocp.StandardCheckpointHandler()) as checkpointer:
        stored = checkpointer.metadata(path / "params").item_metadata.tree
        refuse_mismatch(f"weights in {path} do not fit {name}", wanted, stored)

        have, places = module.flatten(stored), module.flatten(shardings)
        targets = [
            jax.ShapeDtypeStruct(want.shape, cast(key, have[key].dtype), sharding=places[key])
            for key, want in module.flatten(wanted).items()
        ]
        targets = jax.tree.unflatten(jax.tree.structure(wanted), targets)
        return checkpointer.restore(path / "params", args=ocp.args.StandardRestore(targets))


def read_config(path: epath.PathLike, network_class: type[Network]) -> Any:
    """The config of the network in the folder `path`.

    Fields that it lacks have their defaults; those that the config class names in ``RETIRED`` are not read.
    Raises UserError if the folder holds none, another network, unknown fields, or a file that was changed since.
    """
    path = epath.Path(path).absolute()
    name = network_class.__name__
    if not path.exists():
        raise UserError(f"no weights of {name} at {path}: the folder does not exist")
    if not holds_weights(path):
        raise UserError(f"{path} holds no weights of {name}: a weights folder has config.json and params/")
    network, config = read_description(path)
    if network != name:
        raise UserError(f"{path} holds weights of {network}, not of {name}")
    retired = getattr(network_class.Config, "RETIRED", ())
    kept = {key: value for key, value in config.items() if key not in retired}
    return read_options(network_class.Config, kept, f"{path}/config.json config")


def read_description(path: Path | epath.Path) -> tuple[str, dict[str, Any]]:
    """What the config.json of a network's folder says: the name of its class, and its config.

    Raises UserError where the file is damaged, was changed since it was written, or is of a newer format.
    """
    require_whole(path, "config.json")
    description = read_json(path / "config.json", nan=True)
    refuse_newer(description, FORMAT_VERSION, os.fspath(path / "config.json"))
    try:
        return description["network"], description["config"]
    except KeyError as error:
        raise UserError(f'{path / "config.json"} must hold {{"network": ..., "config": ...}}') from error


def stored_leaves(path: epath.PathLike) -> dict[str, jax.ShapeDtypeStruct]:
    """Shapes and dtypes of the parameters in a network's folder, by dotted name. Raises UserError for a damaged one."""
    path = epath.Path(path).absolute()
    with _telling_damage(path):
        if (path / "params").exists():
            import orbax.checkpoint as ocp

            with ocp.Checkpointer(ocp.StandardCheckpointHandler()) as checkpointer:
                leaves = module.flatten(checkpointer.metadata(path / "params").item_metadata.tree)
        else:
            with safe_open(path / COMPACT, "np") as file:
                leaves = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118
        return {name: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype) for name, leaf in leaves.items()}


def refuse_mismatch(subject: str, wanted: Any, stored: Any) -> None:
    """Raises UserError with one line that lists every tensor of `stored` that is missing, extra or misshapen."""
    wanted, stored = module.flatten(wanted), module.flatten(stored)
    problems = [f"missing {name}" for name in wanted if name not in stored]
    problems += [f"extra {name}" for name in stored if name not in wanted]
    problems += [
        f"{name} has shape {tuple(stored[name].shape)}, needed {tuple(leaf.shape)}"
        for name, leaf in wanted.items()
        if name in stored and tuple(stored[name].shape) != tuple(leaf.shape)
    ]
    if problems:
        raise UserError(f"{subject}: {'; '.join(problems)}")


def is_no_damage(error: Exception) -> bool:
    """Whether memory ran out, or another process or the way to the files was lost: files are not to blame for that."""
    codes = ("RESOURCE_EXHAUSTED", *LOST_SIGNS)
    if "os_error_code" in str(error):  # of the file system, such as a full disk
        return False
    return isinstance(error, (jax.errors.JaxRuntimeError, MemoryError)) or any(code in str(error) for code in codes)


def reason(error: BaseException) -> str:
    """The cause in a few words: TensorStore wraps the system's message in paths and codes."""
    if isinstance(error, OSError) and error.strerror:
        return error.strerror
    text = " ".join(str(error).split()) or type(error).__name__
    found = re.search(r": ([^:]+) \[os_error_code", text)
    return found.group(1) if found else text[:200]


def _default_shardings(params: Params) -> Any:
    mesh = jax.sharding.get_mesh()
    if not mesh.empty:
        return param_shardings(params, mesh)
    return jax.tree.map(lambda _: jax.sharding.SingleDeviceSharding(jax.devices()[0]), params)
