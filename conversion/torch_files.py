"""Official checkpoints, as files or folders, in the forms in which they are published.

Safetensors, whole or in shards, need nothing but numpy. ``.pth``, ``.pt``, ``.ckpt`` and ``.bin`` are pickles: torch
reads them, from the optional extra ``convert``, and refuses any that hold more than tensors.
"""

import pickle
import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jax
import ml_dtypes
import numpy as np

from conversion.rules import Tensor, some
from conversion.safetensors_files import in_shards, nbytes, open_safetensors, write_safetensors
from gen3r_jax.errors import UserError
from gen3r_jax.storage.files import read_json, write_json

PICKLES = (".pth", ".pt", ".ckpt", ".bin")

# What trainers and compilers put around a network: names of their attributes, wherever they stand in a name, ...
_LAYERS = re.compile(r"(^|\.)(?:_orig_mod|_fsdp_wrapped_module|_checkpoint_wrapped_module|_forward_module)\.")
# ... what every name may begin with, ...
_PREFIXES = re.compile(r"(?:module|model|network|net|transformer|diffusion_model|ema|ema_model|model_ema|shadow)\.")
# ... counters that stand beside the names, ...
_COUNTERS = frozenset({"n_averaged", "initted", "step", "num_updates", "decay"})
# ... the dictionaries around all names, the first that is there ...
_DICTIONARIES = (
    *("state_dict", "model_state_dict", "model", "module", "network", "params", "generator", "transformer"),
    *("ema", "ema_state_dict", "model_ema", "ema_model", "params_ema", "shadow"),
)
# ... and the files beside the weights.
_OTHER_FILES = re.compile(
    r"(training_args|optimizer|scheduler|scaler|sampler|rng_state|random_states|.*zero_pp_rank|.*optim_states).*"
)


@dataclass(frozen=True)
class Checkpoint:
    """Tensors that are read when asked for, and the fields of the ``config.json`` beside them ({} if there is none).

    notes: what of a trainer's wrapping was left out, in words.
    """

    path: Path
    tensors: dict[str, Tensor]
    fields: dict[str, Any]
    notes: tuple[str, ...] = ()


@dataclass(frozen=True)
class _Content:
    """The tensors of files, and what was passed over to find them."""

    tensors: dict[str, Tensor]
    notes: tuple[str, ...] = ()


def open_checkpoint(path: Path, folder: str = "", other_files: Iterable[str] = ()) -> Checkpoint:
    """Opens a file, a folder with one network, or a folder of several networks.

    Names come without what wrapping classes, compilers and trainers put before them and around them.

    Args:
      folder: sub-folder of the network in an official pipeline folder.
      other_files: names of the network's file in a folder that also holds others.
    """
    if path.is_dir():
        places = [path / name for name in (folder, *other_files) if name and (path / name).exists()]
        path = places[0] if places else path
    content = _open_folder(path) if path.is_dir() else _open_file(path)
    tensors = strip_wrapper(content.tensors)
    if not tensors:
        raise UserError(f"{path} holds no tensors")
    notes = list(content.notes)
    if first := next((name for name in content.tensors if name.removeprefix("model.") not in tensors), None):
        notes.append(f"names come without what was put around the network, as in {first}")
    fields = _read_fields((path if path.is_dir() else path.parent) / "config.json")
    return Checkpoint(path, tensors, fields, tuple(notes))


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


def _open_folder(path: Path) -> _Content:
    if indices := sorted(path.glob("*.safetensors.index.json")):
        return _Content(_open_indexed(indices))
    found = sorted(path.iterdir())
    files = [file for file in found if file.suffix in (".safetensors", *PICKLES)]
    others = [file.name for file in files if _OTHER_FILES.fullmatch(file.name)]
    files = [file for file in files if file.name not in others]
    files = [file for file in files if file.suffix == ".safetensors"] or files
    if not files:
        raise UserError(f"{path} holds no weights: {_instead(path, found)}")
    tensors: dict[str, Tensor] = {}
    notes = [f"not read: {some(others)}"] if others else []
    for file in files:
        more = _open_file(file)
        if twice := sorted(tensors.keys() & more.tensors.keys()):
            raise UserError(f"{path}: several files hold {some(twice)}; name one of the files")
        tensors |= more.tensors
        notes += more.notes
    return _Content(tensors, tuple(notes))


def _instead(path: Path, found: list[Path]) -> str:
    """Advice for a folder without weights."""
    if any(file.suffix == ".distcp" for file in found):
        command = f"python -m torch.distributed.checkpoint.format_utils dcp_to_torch {path} {path}.pth"
        return f"it is a distributed checkpoint; make one file of it with {command}"
    if any("optim_states" in file.name for file in found) or (path / "zero_to_fp32.py").exists():
        return f"it is a DeepSpeed checkpoint; make one file of it with its own zero_to_fp32.py: {path}"
    return f"needed is a file ending in .safetensors, {', '.join(PICKLES)}"


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
        raise UserError(f"{index} and its files disagree on {some(lost + stray)}")
    return {name: shards[file][name] for name, file in weight_map.items()}


def _open_file(path: Path) -> _Content:
    if not path.exists():
        raise UserError(f"{path} does not exist")
    if path.suffix not in (".safetensors", *PICKLES):
        raise UserError(f"cannot read {path}: allowed are .safetensors, {', '.join(PICKLES)}")
    _require_content(path)
    return _Content(dict(open_safetensors(path)[0])) if path.suffix == ".safetensors" else _open_pickle(path)


def _require_content(path: Path) -> None:
    """Raises UserError for a file that was not downloaded."""
    with path.open("rb") as file:
        begin = file.read(64)
    if not begin:
        raise UserError(f"{path} is empty; download or copy it again")
    if begin.startswith(b"version https://git-lfs"):
        raise UserError(f"{path} only names a file of Git LFS; get that with: git lfs pull")


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

        tensor = self.tensor.detach().contiguous()
        if tensor.dtype == torch.bfloat16:  # numpy knows it only through ml_dtypes
            array = tensor.view(torch.int16).numpy().view(ml_dtypes.bfloat16)
        else:
            array = tensor.numpy()
        return array.astype(dtype or array.dtype, copy=False)


def _open_pickle(path: Path) -> _Content:
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
    except Exception as error:  # a damaged file breaks the reader in its own ways
        reason = (str(error).partition("\n")[0] or "it is damaged")[:150]
        raise UserError(f"cannot read {path}: {reason}; download or copy it again") from None
    content, around, others = unwrap(content)
    strange = [str(name) for name, x in content.items() if not (isinstance(name, str) and isinstance(x, torch.Tensor))]
    if strange or not content:
        held = f"; {some(strange)} is none" if strange else ""
        raise UserError(f"{path} is not a state dict: a mapping from names to tensors is needed{held}")
    notes = [f"of {path.name}, what {'.'.join(around)} holds was read"] if around else []
    notes += [f"not read: {some(others)}"] if others else []
    return _Content({name: TorchTensor(tensor) for name, tensor in content.items()}, tuple(notes))


def unwrap(content: Any) -> tuple[Mapping[str, Any], list[str], list[str]]:
    """The mapping inside of a trainer's dictionaries, the keys that lead to it, and the keys that were left."""
    around: list[str] = []
    others: list[str] = []
    while isinstance(content, Mapping):
        key = next((key for key in _DICTIONARIES if isinstance(content.get(key), Mapping)), None)
        if key is None:
            return content, around, others
        around.append(key)
        others += [str(other) for other in content if other != key]
        content = content[key]
    return {}, around, others


def _load(torch: Any, path: Path) -> Any:
    try:
        return torch.load(path, map_location="cpu", weights_only=True, mmap=True)
    except RuntimeError:  # files older than torch 1.6 cannot be mapped
        return torch.load(path, map_location="cpu", weights_only=True)


def strip_wrapper(tensors: Mapping[str, Any]) -> dict[str, Any]:
    """Drops what is the mark of a wrapping class, and not of the network: layers of names, and beginnings of all."""
    names = {}
    for name, tensor in tensors.items():
        while (shorter := _LAYERS.sub(r"\1", name)) != name:
            name = shorter
        if name not in _COUNTERS:
            names[name] = tensor
    while names and (found := _PREFIXES.match(next(iter(names)))) and all(x.startswith(found[0]) for x in names):
        names = {name.removeprefix(found[0]): tensor for name, tensor in names.items()}
    return names
