"""What ``python -m conversion`` does: official checkpoint -> weights folder, back, and random official checkpoints.

Every function returns its report as lines of text.
"""

import dataclasses
import shutil
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import jax
import numpy as np
from tqdm import tqdm

from conversion.networks import CONVERTIBLE, Network, most_alike
from conversion.rules import Tensor, convert, invert, manifest
from conversion.safetensors_files import nbytes
from conversion.torch_files import open_checkpoint, write_checkpoint
from gen3r_jax import module
from gen3r_jax.errors import UserError
from gen3r_jax.storage.checkpoint import load_network, read_config, save_weights
from gen3r_jax.storage.files import write_json

SHARD_BYTES = 5_000_000_000  # as `gen3r convert --shard_gb` says it


def convert_checkpoint(
    name: str, source: Path, output: Path, *, dtype: Any = None, point_head: bool = True, force: bool = False
) -> list[str]:
    """Writes the weights folder `output` from an official file or folder."""
    start = time.perf_counter()
    network = CONVERTIBLE[name]
    _refuse_overwriting(output, force)
    checkpoint = open_checkpoint(source, network.folder, network.other_files)
    is_ours = network.fields <= checkpoint.fields.keys()  # a folder may hold another network's config.json
    config = network.table.read_config(checkpoint.fields if is_ours else {})
    tensors, config, notes = network.table.adapt(checkpoint.tensors, config)
    notes = [*checkpoint.notes, *notes]
    if name == "vggt":
        if not point_head:
            tensors = {key: x for key, x in tensors.items() if not key.startswith("point_head.")}
            notes.append("the point head is left out")
        config = dataclasses.replace(config, point_head=any(key.startswith("point_head.") for key in tensors))
    if (statistics := _stored_statistics(tensors, config)) is not None:
        config = dataclasses.replace(config, **statistics)
        notes.append("the file brings its own latent mean and standard deviation: they replace the usual ones")
    ignored = [key for key in tensors if network.table.ignores(key)]
    with _progress("converting", len(tensors) - len(ignored)) as progress:
        try:
            params = convert(tensors, network.table, config, dtype=dtype, progress=progress)
        except UserError as error:
            other = most_alike(tensors)
            hint = f"this is the network {other}, not {name}; run gen3r convert {other}"
            raise UserError(f"{checkpoint.path}: {error if other in (None, name) else hint}") from None
    _to_cpu_device(params)
    leaves = jax.tree.leaves(params)
    size = sum(leaf.nbytes for leaf in leaves)
    _require_space(output, size)
    if output.is_dir() and not any(output.iterdir()):
        output.rmdir()  # a weights folder is moved into its place when it is whole
    save_weights(output, network.table.network, config, params)
    dtypes = sorted({str(leaf.dtype) for leaf in leaves})
    return [
        f"{checkpoint.path} -> {output}",
        f"{len(tensors) - len(ignored)} tensors -> {len(leaves)} arrays, "
        f"{module.count_parameters(params):,} parameters, {size / 1e9:.2f} GB ({', '.join(dtypes)})",
        f"ignored: {len(ignored)} tensors{': ' if ignored else ''}{', '.join(_patterns(network, ignored))}",
        *notes,
        f"{time.perf_counter() - start:.1f} s",
    ]


def require_official_form(name: str, source: Path) -> None:
    """Raises UserError for a weights folder with layers that the official network does not have; reads no weights."""
    table = CONVERTIBLE[name].table
    config = read_config(source, table.network)
    try:
        manifest(table, config)
    except ValueError as error:
        raise UserError(f"{source} is a network that has no official form: {error}") from None


def invert_weights(
    name: str, source: Path, output: Path, *, dtype: Any = None, shard_bytes: int = SHARD_BYTES, force: bool = False
) -> list[str]:
    """Writes a weights folder back as official safetensors with the ``config.json``.

    `output` is a folder, which then looks like the network's sub-folder in an official pipeline, or a file.
    """
    start = time.perf_counter()
    network = CONVERTIBLE[name]
    _refuse_overwriting(output, force)
    graphdef, params = load_network(source, network.table.network, dtype=dtype)
    config = module.merge(graphdef, params).config
    try:
        entries = manifest(network.table, config, params)
    except ValueError as error:
        raise UserError(f"{source} is a network that has no official form: {error}") from None
    tensors = invert(params, network.table, config)
    files = write_official(output, network, config, entries, tensors, shard_bytes)
    size = sum(map(nbytes, entries.values()))
    return [
        f"{source} -> {', '.join(map(str, files))}",
        f"{len(entries)} tensors, {size / 1e9:.2f} GB",
        f"{time.perf_counter() - start:.1f} s",
    ]


def random_checkpoint(
    name: str, output: Path, *, config: Any = None, dtype: Any = np.float32, seed: int = 0, force: bool = False
) -> list[str]:
    """Writes random numbers under the official names, by default at full size. Memory: one tensor.

    Matrices and kernels keep the variance of their input, scales are near one and the rest near zero, so that a
    network with these weights computes finite numbers.
    """
    start = time.perf_counter()
    network = CONVERTIBLE[name]
    _refuse_overwriting(output, force)
    config = network.table.read_config({}) if config is None else config
    entries = {key: jax.ShapeDtypeStruct(entry.shape, dtype) for key, entry in manifest(network.table, config).items()}
    unused = network.table.unused(config)

    def tensors() -> Iterator[tuple[str, np.ndarray]]:
        for number, (key, entry) in enumerate(entries.items()):
            noise = np.random.default_rng((seed, number)).standard_normal(entry.shape, np.float32)
            if key in unused:
                noise[...] = 0
            elif len(entry.shape) > 1 and key.endswith("weight"):
                noise *= np.prod(entry.shape[1:]) ** -0.5
            else:
                noise *= 0.02
                noise += 1 if key.endswith(("weight", "gamma")) else 0
            yield key, noise.astype(dtype)

    files = write_official(output, network, config, entries, tensors(), SHARD_BYTES)
    size = sum(map(nbytes, entries.values()))
    return [
        f"{', '.join(map(str, files))}: {len(entries)} tensors, {size / 1e9:.2f} GB",
        f"{time.perf_counter() - start:.1f} s",
    ]


def write_official(
    output: Path,
    network: Network,
    config: Any,
    entries: Mapping[str, jax.ShapeDtypeStruct],
    tensors: Iterator[tuple[str, np.ndarray]],
    shard_bytes: int,
) -> list[Path]:
    """Writes tensors under their official names and prefix, and the ``config.json`` beside them."""
    statistics = _unusual_statistics(network, config)
    entries = {**entries, **{key: jax.ShapeDtypeStruct(x.shape, x.dtype) for key, x in statistics.items()}}
    path = output if output.suffix == ".safetensors" else output / network.weights
    _require_space(path.parent, sum(map(nbytes, entries.values())))

    def prefixed() -> Iterator[tuple[str, np.ndarray]]:
        for pairs in (tensors, statistics.items()):
            yield from ((network.prefix + key, x) for key, x in pairs)

    with _progress("writing", len(entries)) as progress:
        prefixed_entries = {network.prefix + key: entry for key, entry in entries.items()}
        files = write_checkpoint(path, prefixed_entries, prefixed(), shard_bytes, progress)
    write_json(path.with_name("config.json"), network.table.write_config(config))
    return files


def _stored_statistics(tensors: Mapping[str, Tensor], config: Any) -> dict[str, tuple[float, ...]] | None:
    """Latent statistics that a trainer saved beside the weights, where they are not those of the config."""
    if not {"mean", "std"} <= tensors.keys() or not hasattr(config, "latent_mean"):
        return None
    stored = [np.asarray(tensors[key]) for key in ("mean", "std")]
    usual = [
        np.asarray(x).astype(y.dtype) for x, y in zip((config.latent_mean, config.latent_std), stored, strict=True)
    ]
    if all(np.array_equal(x, y) for x, y in zip(stored, usual, strict=True)):
        return None
    mean, std = (tuple(x.astype(float).tolist()) for x in stored)
    return {"latent_mean": mean, "latent_std": std}


def _unusual_statistics(network: Network, config: Any) -> dict[str, np.ndarray]:
    """The tensors ``mean`` and ``std`` for a network whose latent statistics are not the usual ones."""
    usual = network.table.read_config({})
    if not hasattr(config, "latent_mean") or (config.latent_mean, config.latent_std) == (
        usual.latent_mean,
        usual.latent_std,
    ):
        return {}
    return {"mean": np.asarray(config.latent_mean, np.float32), "std": np.asarray(config.latent_std, np.float32)}


def _to_cpu_device(params: module.Params) -> None:
    """Turns numpy arrays into JAX arrays in place, one at a time: Orbax copies numpy arrays before it saves them."""
    cpu = jax.local_devices(backend="cpu")[0]
    for key, x in params.items():
        if isinstance(x, dict):
            _to_cpu_device(x)
        else:
            params[key] = jax.device_put(x, cpu)


def _patterns(network: Network, ignored: list[str]) -> list[str]:
    alone = dataclasses.replace
    return [p for p in network.table.ignore if any(alone(network.table, ignore=(p,)).ignores(key) for key in ignored)]


def _refuse_overwriting(output: Path, force: bool) -> None:
    """A file brings its shards, their index and ``config.json`` with it, so these must not be there either."""
    if output.suffix == ".safetensors":
        names = (output.name, f"{output.name}.index.json", f"{output.stem}-*-of-*.safetensors", "config.json")
        taken = [file for name in names for file in output.parent.glob(name)]
    else:
        taken = [output] if output.exists() and (output.is_file() or any(output.iterdir())) else []
    if taken and not force:
        state = "is not empty" if taken[0].is_dir() else "exists"
        raise UserError(f"{taken[0]} {state}; name another output, or add --force to replace it")


def _require_space(output: Path, size: int) -> None:
    place = next(folder for folder in (output.absolute(), *output.absolute().parents) if folder.exists())
    free = shutil.disk_usage(place).free
    if free < size:
        raise UserError(f"{output} needs {size / 1e9:.2f} GB, but {place} has {free / 1e9:.2f} GB free")


@contextmanager
def _progress(label: str, total: int) -> Iterator[Callable[[str], object]]:
    with tqdm(total=total, desc=label, unit=" tensors", disable=None) as bar:  # None: only on a terminal
        yield lambda name: bar.update()
