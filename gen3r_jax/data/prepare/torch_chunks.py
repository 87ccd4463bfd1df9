"""What ``torch.save`` has written, read without PyTorch: lists, dicts, words, numbers and tensors, and nothing else.

A file is a zip: ``data.pkl`` is a pickle that names tensors, ``data/0``, ``data/1``, ... are their numbers. A pickle
can name any function to be called; this reader knows the one that makes a tensor and refuses every other.
"""

import math
import pickle
import zipfile
from collections import OrderedDict
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from gen3r_jax.errors import UserError

_STORAGES = {
    "ByteStorage": np.dtype(np.uint8),
    "CharStorage": np.dtype(np.int8),
    "ShortStorage": np.dtype("<i2"),
    "IntStorage": np.dtype("<i4"),
    "LongStorage": np.dtype("<i8"),
    "HalfStorage": np.dtype("<f2"),
    "FloatStorage": np.dtype("<f4"),
    "DoubleStorage": np.dtype("<f8"),
}


def read_torch(path: Path) -> Any:
    """Read a file; tensors become arrays. Raises UserError for a damaged file and for one that holds anything else."""
    try:
        with zipfile.ZipFile(path) as archive:
            pickled = next((name for name in archive.namelist() if name.endswith("/data.pkl")), None)
            if pickled is None:
                raise UserError(f"{path} was not written by torch.save: its zip has no data.pkl")
            with archive.open(pickled) as file:
                return _Unpickler(file, archive, pickled.removesuffix("data.pkl")).load()
    except UserError:
        raise
    except Exception as error:  # a damaged zip or pickle raises nearly anything
        raise UserError(f"cannot read {path}: {error}; download it again") from None


class _Unpickler(pickle.Unpickler):
    def __init__(self, file: Any, archive: zipfile.ZipFile, folder: str):
        super().__init__(file)
        self._archive, self._folder = archive, folder

    def find_class(self, module_name: str, global_name: str) -> Any:
        if (module_name, global_name) == ("torch._utils", "_rebuild_tensor_v2"):
            return _tensor
        if (module_name, global_name) == ("collections", "OrderedDict"):
            return OrderedDict
        if module_name == "torch" and global_name in _STORAGES:
            return _STORAGES[global_name]
        raise UserError(
            f"{self._archive.filename} names {module_name}.{global_name}, which is no tensor; it is not read"
        )

    def persistent_load(self, pid: Any) -> np.ndarray:
        _, dtype, key, _, count = pid
        return np.frombuffer(self._archive.read(f"{self._folder}data/{key}"), dtype, count)


def _tensor(storage: np.ndarray, offset: int, shape: Sequence[int], strides: Sequence[int], *others: Any) -> np.ndarray:
    """The tensor of a shape that lies in a storage without gaps; `others` say how it was trained."""
    array = storage[offset : offset + math.prod(shape)].reshape(shape)
    if array.size and tuple(stride * array.itemsize for stride in strides) != array.strides and array.size > 1:
        raise UserError("a tensor does not lie in one piece; write it with .contiguous()")
    return array
