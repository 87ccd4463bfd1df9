"""Safetensors files read and written one tensor at a time.

Reading goes through plain file reads, not a memory map: a mapped checkpoint counts as resident memory in full, and a
file cut short would end the process instead of raising. The layout is eight bytes of header length, a JSON header and
the raw little-endian numbers.
"""

import json
import math
import os
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jax
import ml_dtypes
import numpy as np

from gen3r_jax.errors import UserError
from gen3r_jax.storage.files import parse_json, replacing

_DTYPES = {
    "F64": np.dtype(np.float64),
    "F32": np.dtype(np.float32),
    "F16": np.dtype(np.float16),
    "BF16": np.dtype(ml_dtypes.bfloat16),
    "I64": np.dtype(np.int64),
    "I32": np.dtype(np.int32),
    "I16": np.dtype(np.int16),
    "I8": np.dtype(np.int8),
    "U8": np.dtype(np.uint8),
    "BOOL": np.dtype(np.bool_),
}
_CODES = {dtype: code for code, dtype in _DTYPES.items()}
_LONGEST_HEADER = 100_000_000


@dataclass(frozen=True)
class StoredTensor:
    """A tensor that is still in its file; ``numpy.asarray`` reads it."""

    path: Path
    offset: int
    shape: tuple[int, ...]
    dtype: np.dtype

    def __array__(self, dtype: Any = None, copy: Any = None) -> np.ndarray:
        count = math.prod(self.shape)
        array = np.fromfile(self.path, self.dtype, count, offset=self.offset)
        if array.size != count:
            raise UserError(f"{self.path} became shorter while it was read")
        return array.reshape(self.shape).astype(dtype or self.dtype, copy=False)


def open_safetensors(path: Path) -> tuple[dict[str, StoredTensor], dict[str, str]]:
    """Tensors and metadata of a file; the whole header is checked, no number is read.

    Raises:
      UserError: the file is missing, not a safetensors file, or cut short.
    """
    try:
        size = path.stat().st_size
        with path.open("rb") as file:
            length = int.from_bytes(file.read(8), "little")
            header = parse_json(file.read(length) if 1 < length <= min(size - 8, _LONGEST_HEADER) else "", "its header")
    except FileNotFoundError:
        raise UserError(f"{path} does not exist") from None
    except UserError as error:
        raise UserError(f"{path} is not a whole safetensors file ({error}); download or copy it again") from None
    metadata = header.pop("__metadata__", {})
    if not isinstance(metadata, dict) or not all(isinstance(text, str) for text in metadata.values()):
        raise UserError(f"{path} is damaged: the __metadata__ of its header are no texts; download or copy it again")
    tensors, parts = {}, []
    for name, entry in header.items():
        if not isinstance(entry, dict) or str(entry.get("dtype")) not in _DTYPES:
            raise UserError(f"{path}: cannot read {name}: allowed types are {', '.join(_DTYPES)}")
        try:
            begin, end = map(int, entry["data_offsets"])
            shape = tuple(map(int, entry["shape"]))
        except (KeyError, TypeError, ValueError, OverflowError):
            raise UserError(f"{path}: the header says neither where {name} is nor its shape") from None
        tensor = StoredTensor(path, 8 + length + begin, shape, _DTYPES[entry["dtype"]])
        fits = min(begin, *shape, 0) == 0 and math.prod(shape) * tensor.dtype.itemsize == end - begin
        if not fits or 8 + length + end > size:
            raise UserError(f"{path} is cut short or damaged at {name}; download or copy it again")
        tensors[name] = tensor
        parts.append((begin, end))
    covered = 0
    for begin, end in sorted(parts):
        if begin != covered:
            raise UserError(f"{path} is damaged: its tensors do not follow one another; download or copy it again")
        covered = end
    if 8 + length + covered != size:
        raise UserError(f"{path} is damaged: it holds more than its header tells of; download or copy it again")
    return tensors, metadata


def write_safetensors(
    path: Path,
    entries: Mapping[str, jax.ShapeDtypeStruct],
    tensors: Iterable[tuple[str, np.ndarray]],
    progress: Callable[[str], object] = lambda name: None,
) -> None:
    """Writes a file under a temporary name and renames it when it is complete.

    Args:
      entries: names, shapes and types, known beforehand because the header comes first.
      tensors: the same names with their numbers, in the same order; drawn one at a time.
      progress: called with each name after it is written.
    """
    header: dict[str, Any] = {"__metadata__": {"format": "pt"}}  # torch's own readers insist on it
    end = 0
    for name, entry in entries.items():
        begin, end = end, end + nbytes(entry)
        offsets = [begin, end]
        header[name] = {"dtype": _CODES[entry.dtype], "shape": list(entry.shape), "data_offsets": offsets}
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)  # aligns the numbers
    with replacing(path) as temporary, temporary.open("wb") as file:
        file.write(len(text).to_bytes(8, "little") + text)
        for (name, tensor), (expected, entry) in zip(tensors, entries.items(), strict=True):
            if (name, tensor.shape, tensor.dtype) != (expected, entry.shape, entry.dtype):
                raise ValueError(f"{name} {tensor.shape} {tensor.dtype} where {expected} {entry} was due")
            file.write(np.ascontiguousarray(tensor).reshape(-1).view(np.uint8).data)
            progress(name)
        file.flush()
        os.fsync(file.fileno())


def in_shards(entries: Mapping[str, jax.ShapeDtypeStruct], limit: int) -> Iterator[list[str]]:
    """Splits names, in order, into groups of at most `limit` bytes each."""
    names, size = [], 0
    for name, entry in entries.items():
        if names and size + nbytes(entry) > limit:
            yield names
            names, size = [], 0
        names.append(name)
        size += nbytes(entry)
    yield names


def nbytes(entry: jax.ShapeDtypeStruct) -> int:
    return math.prod(entry.shape) * entry.dtype.itemsize
