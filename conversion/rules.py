"""Converters as data: a table of rules carries official parameter names and layouts to ours, and back.

A table gives, for every parameter of a network, the official tensors that fill it. From it follow the official names
and shapes (:func:`manifest`), the way in (:func:`convert`) and the way back (:func:`invert`). The accounting is
two-way: every official tensor is used exactly once or listed as ignored, and every parameter, every row of a stacked
one, is filled exactly once.
"""

import functools
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, Protocol

import jax
import jax.numpy as jnp
import numpy as np

from gen3r_jax import module
from gen3r_jax.errors import UserError

Shape = tuple[int, ...]


class Tensor(Protocol):
    """An array, or a promise of one: `shape` and `dtype` are known, ``numpy.asarray`` reads the numbers."""

    @property
    def shape(self) -> Shape: ...

    @property
    def dtype(self) -> np.dtype: ...

    def __array__(self, dtype: Any = None, *, copy: Any = None) -> np.ndarray: ...


# ---------------------------------------------------------------------------------------------------------------------
# Layout operations. Each has an inverse; both work on views wherever numpy can.


@dataclass(frozen=True)
class Op:
    """A change of layout from the official tensor to ours, and its inverse."""

    name: str
    forward: Callable[[np.ndarray], np.ndarray]
    inverse: Callable[[np.ndarray], np.ndarray]

    def source_shape(self, shape: Shape) -> Shape:
        """Shape of the official tensor that becomes `shape`."""
        return self.inverse(np.broadcast_to(np.int8(0), shape)).shape  # strides 0: no memory


def permute(*axes: int) -> Op:
    """``numpy.transpose(x, axes)``."""
    back = tuple(int(axis) for axis in np.argsort(axes))
    return Op(f"permute{axes}", lambda x: x.transpose(axes), lambda x: x.transpose(back))


def squeeze(*axes: int) -> Op:
    """Drops axes of length 1, counted in the official tensor."""
    return Op(f"squeeze{axes}", lambda x: np.squeeze(x, axes), lambda x: np.expand_dims(x, axes))


def chain(first: Op, second: Op) -> Op:
    return Op(
        f"{first.name}, {second.name}",
        lambda x: second.forward(first.forward(x)),
        lambda x: first.inverse(second.inverse(x)),
    )


copy = Op("copy", lambda x: x, lambda x: x)
linear = permute(1, 0)  # [out, in] -> [in, out]
conv2d = permute(2, 3, 1, 0)  # [out, in, h, w] -> [h, w, in, out]
conv3d = permute(2, 3, 4, 1, 0)  # [out, in, t, h, w] -> [t, h, w, in, out]
conv_transpose2d = permute(2, 3, 0, 1)  # [in, out, h, w] -> [h, w, in, out], kernel not flipped
conv1x1_2d = chain(squeeze(2, 3), linear)  # [out, in, 1, 1] -> [in, out]
conv1x1_3d = chain(squeeze(2, 3, 4), linear)  # [out, in, 1, 1, 1] -> [in, out]
conv_time = chain(squeeze(3, 4), permute(2, 1, 0))  # [out, in, t, 1, 1] -> [t, in, out]
gamma_2d = squeeze(1, 2)  # [c, 1, 1] -> [c]
gamma_3d = squeeze(1, 2, 3)  # [c, 1, 1, 1] -> [c]


# ---------------------------------------------------------------------------------------------------------------------
# Rules and tables

_GROUP = re.compile(r"\((?:\?P<(?P<name>\w+)>)?(?P<pattern>[^()?][^()]*)\)")
_REFERENCE = re.compile(r"\\(?:g<(?P<name>\w+)>|(?P<number>\d))")


@dataclass(frozen=True)
class Rule:
    r"""One line of a table: which official tensor fills which parameter, and the change of layout between them.

    `source` is a pattern of whole official names: plain text (``.`` and ``\.`` both mean a dot) with simple groups.
    ``(?P<l>\d+)`` is the row of the target's leading stacked axis: 0, 1, ... or, where the official names are not that
    regular, what `rows` says. Every other group, named or not, must return in `target`, the pattern of the parameter's
    path, as ``\g<name>`` or ``\1``::

        Rule(r"frame_blocks\.(?P<l>\d+)\.(norm1|norm2)\.weight", r"frame_blocks.\2.scale")

    Numbered references count all groups from the left, named ones included.
    """

    source: str
    target: str
    op: Op = copy
    rows: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        used = {self._group_name(reference) for reference in _REFERENCE.finditer(self.target)}
        if used != set(self._groups) - {"l"}:
            raise ValueError(f"rule {self.source} -> {self.target}: each group but `l` must be used in the target")

    @property
    def stacked(self) -> bool:
        return "l" in self._groups

    def name_of(self, path: str, row: int = 0) -> str | None:
        """Official name of the tensor that fills `path` (its row `row`, if stacked); None: another rule does."""
        match = self._target_pattern.fullmatch(path)
        if match is None:
            return None
        values = {name.removeprefix("_"): value for name, value in match.groupdict().items()}
        values["l"] = self.rows[row] if self.rows else str(row)
        names = iter(self._groups)
        return _GROUP.sub(lambda group: values[next(names)], self.source).replace("\\.", ".")

    @cached_property
    def _groups(self) -> dict[str, str]:
        """Patterns of the groups of `source` under their names, or their numbers where they have none."""
        groups = enumerate(_GROUP.finditer(self.source), 1)
        return {group["name"] or str(number): group["pattern"] for number, group in groups}

    def _group_name(self, reference: re.Match) -> str:
        return reference["name"] or list(self._groups)[int(reference["number"]) - 1]

    @cached_property
    def _target_pattern(self) -> re.Pattern:
        parts, end, seen = [], 0, set()
        for reference in _REFERENCE.finditer(self.target):
            name = self._group_name(reference)
            group = f"(?P=_{name})" if name in seen else f"(?P<_{name}>{self._groups[name]})"
            parts += [re.escape(self.target[end : reference.start()]), group]
            seen.add(name)
            end = reference.end()
        return re.compile("".join([*parts, re.escape(self.target[end:])]))


def layer(source: str, target: str, op: Op = linear) -> tuple[Rule, Rule]:
    """Rules of a linear layer or a convolution."""
    return Rule(f"{source}.weight", f"{target}.kernel", op), Rule(f"{source}.bias", f"{target}.bias")


def norm(source: str, target: str) -> tuple[Rule, Rule]:
    """Rules of a normalisation with scale and bias."""
    return Rule(f"{source}.weight", f"{target}.scale"), Rule(f"{source}.bias", f"{target}.bias")


@dataclass(frozen=True)
class Table:
    """Everything that is known about a network's official form.

    Attributes:
      network: the module class; ``network(config, rngs=rngs)`` builds it.
      rules: exactly one must fill each parameter.
      read_config: fields of an official ``config.json`` or of a recording's config -> the network's config. Absent
        fields have their full-size value; fields that mean nothing to us are passed over.
      write_config: the fields of the official ``config.json`` for a config; inverse of `read_config`.
      ignore: patterns (whole name) of official tensors that the network has no use for.
      unused: names and shapes of tensors that an official loader insists on and the network has no use for; ignored on
        the way in, zeros on the way back.
      adapt: official tensors and their config -> those that fill the network, its config, and what was done in words;
        for another form of the network that is accepted, too. What is written back is the network's own form.
    """

    network: type[module.Network]
    rules: tuple[Rule, ...]
    read_config: Callable[[Mapping[str, Any]], Any]
    write_config: Callable[[Any], dict[str, Any]]
    ignore: tuple[str, ...] = ()
    unused: Callable[[Any], dict[str, Shape]] = field(default=lambda config: {})
    adapt: Callable[[Mapping[str, Tensor], Any], tuple[Mapping[str, Tensor], Any, list[str]]] = field(
        default=lambda tensors, config: (tensors, config, [])
    )

    def ignores(self, name: str) -> bool:
        return any(re.fullmatch(pattern, name) for pattern in self.ignore)


# ---------------------------------------------------------------------------------------------------------------------
# The engine


@dataclass(frozen=True)
class Slot:
    """What one official tensor fills: a parameter, or row `row` of a stacked one."""

    path: str
    row: int | None
    op: Op

    def source_shape(self, leaves: Mapping[str, Any]) -> Shape:
        """Shape of the official tensor, given the parameters."""
        return self.op.source_shape(tuple(leaves[self.path].shape)[self.row is not None :])


def convert(
    source: Mapping[str, Tensor],
    table: Table,
    config: Any,
    *,
    dtype: Any = None,
    source_prefix: str = "",
    target_prefix: str = "",
    progress: Callable[[str], object] = lambda name: None,
) -> module.Params:
    """Parameters of ``table.network(config)`` from official tensors, as a nested dict of numpy arrays.

    Tensors are read one at a time and written in place, so memory stays near one tensor above the result.

    Args:
      source: official names (any ``model.`` prefix already gone) and tensors.
      dtype: floating-point type of the result; None keeps the official one.
      source_prefix, target_prefix: convert one submodule only. `source` then holds its tensors without `source_prefix`,
        and the result is the subtree of parameters below `target_prefix`.
      progress: called with each name after it is written.

    Raises:
      UserError: tensors are missing, unexpected or misshapen. It names the first of each, and says how many there are.
    """
    leaves = module.flatten(_abstract(table, config))
    leaves = {path: leaf for path, leaf in leaves.items() if path.startswith(target_prefix)}
    slots = {name.removeprefix(source_prefix): slot for name, slot in official_slots(table, leaves).items()}
    expected = {name: slot.source_shape(leaves) for name, slot in slots.items()}
    unknown, unused = (name for name in source if name not in slots), table.unused(config)
    problems = {
        "missing": [name for name in slots if name not in source],
        "unexpected": [
            name for name in unknown if not table.ignores(source_prefix + name) and source_prefix + name not in unused
        ],
        "misshapen": [
            f"{name} {list(source[name].shape)}, not {list(shape)}"
            for name, shape in expected.items()
            if name in source and tuple(source[name].shape) != shape
        ],
    }
    if any(problems.values()):
        parts = [f"{len(names)} {kind}: {some(names)}" for kind, names in problems.items() if names]
        raise UserError(f"these are not the tensors of {table.network.__name__}: {'; '.join(parts)}")

    dtypes: dict[str, Any] = {}
    for name, slot in slots.items():
        stored = source[name].dtype if dtype is None else dtype
        dtypes[slot.path] = jnp.promote_types(dtypes.get(slot.path, stored), stored)
    arrays = {path: np.empty(leaf.shape, dtypes[path]) for path, leaf in leaves.items()}
    for name, slot in slots.items():
        arrays[slot.path][... if slot.row is None else slot.row] = slot.op.forward(np.asarray(source[name]))
        progress(name)
    return module.nest({path.removeprefix(target_prefix): array for path, array in arrays.items()})


def invert(params: module.Params, table: Table, config: Any) -> Iterator[tuple[str, np.ndarray]]:
    """Official names and tensors of `params`, one at a time, in the order of :func:`manifest`."""
    leaves = module.flatten(params)
    for name, slot in official_slots(table, leaves).items():
        leaf = leaves[slot.path] if slot.row is None else leaves[slot.path][slot.row]
        yield name, slot.op.inverse(np.asarray(leaf))
    for name, shape in table.unused(config).items():
        yield name, np.zeros(shape, _common_dtype(leaves))


def manifest(table: Table, config: Any, params: module.Params | None = None) -> dict[str, jax.ShapeDtypeStruct]:
    """Names, shapes and types of the official tensors of a network. Allocates nothing.

    The types are those of `params`, by default those in which the network is built.
    """
    leaves = module.flatten(_abstract(table, config) if params is None else params)
    entries = {
        name: jax.ShapeDtypeStruct(slot.source_shape(leaves), leaves[slot.path].dtype)
        for name, slot in official_slots(table, leaves).items()
    }
    for name, shape in table.unused(config).items():
        entries[name] = jax.ShapeDtypeStruct(shape, _common_dtype(leaves))
    return entries


def official_slots(table: Table, leaves: Mapping[str, Any]) -> dict[str, Slot]:
    """Official name of every tensor that fills one of the parameters `leaves` (path -> array) -> what it fills.

    Raises:
      ValueError: the table is wrong: a parameter without exactly one rule, or a name for two parameters.
    """
    slots: dict[str, Slot] = {}
    for path, leaf in leaves.items():
        rules = [rule for rule in table.rules if rule.name_of(path) is not None]
        if len(rules) != 1:
            raise ValueError(f"{len(rules)} rules fill {path}; exactly one must: {[rule.source for rule in rules]}")
        (rule,) = rules
        if rule.rows and len(rule.rows) != leaf.shape[0]:
            raise ValueError(f"{path} has {leaf.shape[0]} rows, its rule names {', '.join(rule.rows)}")
        for row in range(leaf.shape[0]) if rule.stacked else (None,):
            name = rule.name_of(path, row or 0)
            assert name is not None
            if name in slots:
                raise ValueError(f"{name} fills both {slots[name].path} and {path}")
            slots[name] = Slot(path, row, rule.op)
    return slots


def some(names: Sequence[str], width: int = 70) -> str:
    """The first of some names, as far as they fit, and how many more there are."""
    shown = [names[0]]
    for name in names[1:]:
        if len(", ".join([*shown, name])) > width:
            return f"{', '.join(shown)} and {len(names) - len(shown)} more"
        shown.append(name)
    return ", ".join(shown)


def _abstract(table: Table, config: Any) -> module.Params:
    return module.abstract(lambda rngs: table.network(config, rngs=rngs))[1]


def _common_dtype(leaves: Mapping[str, Any]) -> np.dtype:
    return np.dtype(functools.reduce(jnp.promote_types, (leaf.dtype for leaf in leaves.values())))
