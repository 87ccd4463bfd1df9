"""Official checkpoints, as files or folders, in the forms in which they are published.

Safetensors, whole or in shards, need nothing but numpy. ``.pth``, ``.pt``, ``.ckpt`` and ``.bin`` are pickles: torch
reads them, from the optional extra ``convert``, and refuses any that hold more than tensors.
"""

import pickle
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jax
import ml_dtypes
import numpy as np

from conversion.rules import Tensor
from conversion.safetensors_files import in_shards, nbytes, open_safetensors, write_safetensors
from gen3r_jax.errors import UserError
from gen3r_jax.storage.files import read_json, write_json

PICKLES = (".pth", ".pt", ".ckpt", ".bin")


@dataclass(frozen=True)
class Checkpoint:
    """Tensors that are read when asked for, and the fields of the ``config.json`` beside them ({} if there is none)."""

    path: Path
    tensors: dict[str, Tensor]
    fields: dict[str, Any]


def open_checkpoint(path: Path, folder: str = "", other_files: Iterable[str] = ()) -> Checkpoint:
    """Opens a file, a folder with one network, or a folder of several networks.

    Names come without the ``model.`` of wrapping classes and without a trainer's ``state_dict``.

    Args:
      folder: sub-folder of the network in an official pipeline folder.
      other_files: names of the network's file in a folder that also holds others.
    """
    if path.is_dir():
        places = [path / name for name in (folder, *other_files) if name and (path / name).exists()]
        path = places[0] if places else path
    tensors = strip_wrapper(_open_folder(path) if path.is_dir() else _open_file(path))
    if not tensors:
        raise UserError(f"{path} holds no tensors")
    return Checkpoint(path, tensors, _read_fields((path if path.is_dir() else path.parent) / "config.json"))


def write_checkpoint(
    path: Path,
    entries: Mapping[str, jax.ShapeDtypeStruct],
    tensors: Iterable[tuple[str, np.ndarray]],
    shard_bytes: int,
    progress: Callable[[str], object] = lambda name: None,
) -> list[Path]:
    """Writes ``path`` (``*.safetensors``), or shards and their index beside it where it would exceed `shard_bytes`.

    `entries` gives names, shapes and types of `tensors`, which are drawn one at a time in that order. Shards and index
    that an earlier write left there would be read with the new ones, so they are removed.
    """
    tensors, shards = iter(tensors), list(in_shards(entries, shard_bytes))
    files, weight_map = [], {}
    for number, names in enumerate(shards, 1):
        name = path.name if len(shards) == 1 else f"{path.stem}-{number:05}-of-{len(shards):05}.safetensors"
        files.append(path.with_name(name))
        weight_map |= dict.fromkeys(names, name)
        shard = (next(tensors) for _ in names)
        write_safetensors(files[-1], {name: entries[name] for name in names}, shard, progress)
    index_file = path.with_name(f"{path.name}.index.json")
    for old in {path, index_file, *path.parent.glob(f"{path.stem}-*-of-*.safetensors")} - set(files):
        old.unlink(missing_ok=True)
    if len(shards) > 1:
        index = {"metadata": {"total_size": sum(map(nbytes, entries.values()))}, "weight_map": weight_map}
        write_json(index_file, index)
    return files


def _open_folder(path: Path) -> dict[str, Tensor]:
    if indices := sorted(path.glob("*.safetensors.index.json")):
        return _open_indexed(indices)
    files = sorted(path.glob("*.safetensors")) or sorted(f for f in path.iterdir() if f.suffix in PICKLES)
    if not files:
        raise UserError(f"{path} holds no weights: needed is a file ending in .safetensors, {', '.join(PICKLES)}")
    tensors: dict[str, Tensor] = {}
    for file in files:
        more = _open_file(file)
        if twice := sorted(tensors.keys() & more.keys()):
            raise UserError(f"{path}: several files hold {', '.join(twice)}; name one of the files")
        tensors |= more
    return tensors


def _open_indexed(indices: list[Path]) -> dict[str, Tensor]:
    if len(indices) > 1:
        raise UserError(f"{indices[0].parent} holds several checkpoints: {', '.join(file.name for file in indices)}")
    (index,) = indices
    try:
        weight_map = read_json(index)["weight_map"]
        shards = {file: open_safetensors(index.parent / file)[0] for file in sorted(set(weight_map.values()))}
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        if isinstance(error, UserError):
            raise
        raise UserError(f"{index} is not an index of safetensors files") from None
    lost = [f"{name} (in {file})" for name, file in weight_map.items() if name not in shards[file]]
    stray = [f"{name} (in {file})" for file, held in shards.items() for name in held if weight_map.get(name) != file]
    if lost or stray:
        raise UserError(f"{index} and its files disagree on {', '.join(lost + stray)}")
    return {name: shards[file][name] for name, file in weight_map.items()}


def _open_file(path: Path) -> dict[str, Tensor]:
    if not path.exists():
        raise UserError(f"{path} does not exist")
    if path.suffix == ".safetensors":
        return dict(open_safetensors(path)[0])
    if path.suffix in PICKLES:
        return _open_pickle(path)
    raise UserError(f"cannot read {path}: allowed are .safetensors, {', '.join(PICKLES)}")


def _read_fields(path: Path) -> dict[str, Any]:
    return read_json(path, nan=True) if path.exists() else {}


# ---------------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class TorchTensor:
    """A torch tensor, possibly still in its file, that becomes a numpy array when asked for."""

    tensor: Any

    @property
    def shape(self) -> tuple[int, ...]:
        return tuple(self.tensor.shape)

    @property
    def dtype(self) -> np.dtype:
        name = str(self.tensor.dtype).removeprefix("torch.")
        return np.dtype(ml_dtypes.bfloat16 if name == "bfloat16" else name)

    def __array__(self, dtype: Any = None, copy: Any = None) -> np.ndarray:
        import torch  # pyright: ignore[reportMissingImports]: only the extra `convert` has it

        tensor = self.tensor.contiguous()
        if tensor.dtype == torch.bfloat16:  # numpy knows it only through ml_dtypes
            array = tensor.view(torch.int16).numpy().view(ml_dtypes.bfloat16)
        else:
            array = tensor.numpy()
        return array.astype(dtype or array.dtype, copy=False)


def _open_pickle(path: Path) -> dict[str, Tensor]:
    try:
        import torch  # pyright: ignore[reportMissingImports]: only the extra `convert` has it
    except ImportError:
        raise UserError(
            f'reading {path.name} needs torch: pip install "gen3r-jax[convert]", or take the .safetensors file'
        ) from None
    try:
        content = _load(torch, path)
    except pickle.UnpicklingError:
        raise UserError(
            f"{path} holds more than tensors, or is damaged; it was not read, as it could run code"
        ) from None
    except (RuntimeError, EOFError, OSError, ValueError) as error:
        reason = str(error).partition("\n")[0] or "it is empty or damaged"
        raise UserError(f"cannot read {path}: {reason}") from None
    while isinstance(content, Mapping) and isinstance(content.get("state_dict"), Mapping):
        content = content["state_dict"]
    if not isinstance(content, Mapping) or not all(isinstance(x, torch.Tensor) for x in content.values()):
        raise UserError(f"{path} is not a state dict: a mapping from names to tensors is needed")
    return {name: TorchTensor(tensor) for name, tensor in content.items()}


def _load(torch: Any, path: Path) -> Any:
    try:
        return torch.load(path, map_location="cpu", weights_only=True, mmap=True)
    except RuntimeError:  # files older than torch 1.6 cannot be mapped
        return torch.load(path, map_location="cpu", weights_only=True)


def strip_wrapper(tensors: Mapping[str, Any]) -> dict[str, Any]:
    """Drops ``model.``, as often as every name begins with it: the mark of a wrapping class, not of the network."""
    names = dict(tensors)
    while names and all(name.startswith("model.") for name in names):
        names = {name.removeprefix("model."): tensor for name, tensor in names.items()}
    return names
