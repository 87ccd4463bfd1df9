"""Files of recorded tensors: what went into a module, its weights, and what came out.

``docs/parity.md`` describes the format for those who record their own. :class:`Recording` reads one file,
:class:`Replay` says how the numbers in a kind of file are computed again.
"""

import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import jax.numpy as jnp
import numpy as np
from flax import nnx

from conversion.rules import Table, convert
from conversion.safetensors_files import open_safetensors
from conversion.torch_files import strip_wrapper
from gen3r_jax import module
from gen3r_jax.errors import UserError
from gen3r_jax.storage.files import natural_key, parse_json, read_json

Arrays = dict[str, np.ndarray]


class Group(Mapping[str, Any]):
    """Tensors of one group (``inputs/...``) under their names without it; each is read when asked for.

    They are NumPy arrays, and `Any` because functions of NumPy and of JAX take them. Half-precision numbers are storage
    only and come as float32; a missing name is the user's error.
    """

    def __init__(self, path: Path, prefix: str, tensors: Mapping[str, Any]):
        self._path, self._prefix = path, prefix
        self._tensors = {name.removeprefix(prefix): x for name, x in tensors.items() if name.startswith(prefix)}

    def __getitem__(self, name: str) -> Any:
        if name not in self._tensors:
            raise UserError(f"{self._path} lacks the tensor {self._prefix}{name}")
        array = np.asarray(self._tensors[name])
        return array.astype(np.float32) if array.dtype in (np.float16, jnp.bfloat16) else array

    def __contains__(self, name: object) -> bool:
        return name in self._tensors

    def __iter__(self) -> Iterator[str]:
        return iter(sorted(self._tensors, key=natural_key))

    def __len__(self) -> int:
        return len(self._tensors)

    def cases(self) -> list[str]:
        """First parts of the names, each once: ``f1/video`` and ``f1/eps`` belong to the case ``f1``."""
        return list(dict.fromkeys(name.split("/")[0] for name in self))

    def list(self, name: str) -> list[Any]:
        """The tensors ``name/0``, ``name/1``, ... of a recorded list."""
        items = [self[f"{name}/{i}"] for i in range(sum(key.rpartition("/")[0] == name for key in self))]
        if not items:
            raise UserError(f"{self._path} lacks the tensors {self._prefix}{name}/0, ...")
        return items


class Recording:
    """One recorded file.

    Attributes:
      config: the module's config as recorded; for a JSON file the whole document.
      weights, inputs, outputs, intermediates: groups of tensors, read lazily. In a JSON file every value called
        ``outputs`` is an output, named by where it stands (``outputs/cases/0``).
      metadata: strings stored with the tensors (layout, notes, ...).
    """

    def __init__(self, path: Path):
        self.path = Path(path)
        self.metadata: dict[str, str] = {}
        if self.path.suffix == ".json":
            tensors, self.config = _read_document(self.path)
        else:
            tensors, self.metadata = open_safetensors(self.path)
            self.config = parse_json(self.metadata.get("config", "{}"), f"{self.path}: its metadata `config`", nan=True)
        self.names = frozenset(tensors)
        groups = (Group(self.path, f"{group}/", tensors) for group in ("weights", "inputs", "outputs", "intermediates"))
        self.weights, self.inputs, self.outputs, self.intermediates = groups

    def companion(self, name: str) -> "Recording":
        """Another recording of the same folder, for example the one that holds the weights."""
        path = self.path.parent / name
        path = path if path.suffix else path.with_suffix(".safetensors")
        if not path.exists():
            raise UserError(f"{self.path} needs {path.name} beside it")
        return Recording(path)

    def network(
        self,
        cls: type[module.Network],
        config: Any,
        table: Table,
        prefix: str = "",
        *,
        source_prefix: str = "",
        target_prefix: str = "",
    ) -> Any:
        """The network with the recorded weights, in float32, through the converter that users run.

        Args:
          prefix: the weights are those under ``weights/<prefix>``; a ``model.`` that all of them share is dropped.
          source_prefix, target_prefix: for a file that holds a submodule's weights only: what their official names
            lack, and where the submodule stands in ours. The submodule alone is returned, for example
            ``source_prefix="aggregator.", target_prefix="aggregator."`` gives ``VGGT(...).aggregator``.
        """
        weights = strip_wrapper({name.removeprefix(prefix): x for name, x in self._weights(prefix).items()})
        try:
            params = convert(
                weights,
                table,
                config,
                dtype=np.float32,
                source_prefix=source_prefix,
                target_prefix=target_prefix,
            )
        except UserError as error:
            raise UserError(f"{self.path}: {error}") from None
        network: Any = nnx.eval_shape(lambda: cls(config, rngs=nnx.Rngs(0)))
        for key in filter(None, target_prefix.split(".")):
            network = network[int(key)] if key.isdigit() else getattr(network, key)
        graphdef, _ = module.split(network)
        return module.merge(graphdef, _to_device(params))

    def _weights(self, prefix: str) -> Arrays:
        weights = {name: self.weights[name] for name in self.weights if name.startswith(prefix)}
        if not weights:
            raise UserError(f"{self.path} lacks the tensors weights/{prefix}...")
        return weights

    @cached_property
    def weights_only(self) -> bool:
        """A companion that other recordings draw their weights from, with nothing to recompute."""
        return bool(self.weights) and not self.outputs


@dataclass(frozen=True)
class Tolerance:
    """Largest allowed error: ``max(absolute, relative * largest recorded magnitude)`` of a tensor.

    Strings must be equal whatever it says, and so must integers and booleans, unless rounding may turn a decision:
    `flips` is the share of a mask's entries that may differ, and how far a count of them may be off, relatively.
    """

    absolute: float = 0.0
    relative: float = 0.0
    flips: float = 0.0


@dataclass(frozen=True)
class Replay:
    r"""How one kind of recording is computed again.

    Attributes:
      function: gives the tensors again under their recorded names (``outputs/x``, ``intermediates/y``), in the
        recorded layout. Every output must be there; intermediates where the network naturally exposes them.
      tolerances: patterns of whole names -> tolerance; the first that matches holds, and without one
        the numbers must be equal
        (``{r"outputs/f\d+/kl": Tolerance(relative=1e-5), r".*": Tolerance(5e-5)}``).
      marks: patterns by which a file of another name is recognised: each must match one of its tensor names whole.
    """

    function: Callable[[Recording], Arrays]
    tolerances: Mapping[str, Tolerance]
    marks: tuple[str, ...]

    def tolerance(self, name: str) -> Tolerance:
        fits = (tolerance for pattern, tolerance in self.tolerances.items() if re.fullmatch(pattern, name))
        return next(fits, Tolerance())

    def recognises(self, names: frozenset[str]) -> bool:
        return all(any(re.fullmatch(mark, name) for name in names) for mark in self.marks)


def _to_device(params: module.Params) -> module.Params:
    return {key: _to_device(x) if isinstance(x, dict) else jnp.asarray(x) for key, x in params.items()}


def _read_document(path: Path) -> tuple[Arrays, dict[str, Any]]:
    document = read_json(path, nan=True)

    def outputs(node: Any, place: str) -> Iterator[tuple[str, np.ndarray]]:
        items = node.items() if isinstance(node, dict) else enumerate(node) if isinstance(node, list) else ()
        for key, value in items:
            if key == "outputs":
                yield f"outputs{place}", np.array(value)
            else:
                yield from outputs(value, f"{place}/{key}")

    return dict(outputs(document, "")), document
