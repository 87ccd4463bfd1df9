"""From nested mappings (configs, JSON) to typed options: every key is read by exactly one dataclass, or refused.

Dataclasses hold the defaults: a key that is absent equals its default. A field says in its type which numbers it takes:

    learning_rate: Positive = 1e-5
    share: Annotated[float, Range(above=0, at_most=1)] = 1.0
"""

import dataclasses
import difflib
import functools
import math
import re
import sys
import types
import typing
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Annotated, Any, TypeVar, cast

import numpy as np
from ml_collections import ConfigDict
from ml_collections.config_dict import placeholder

from gen3r_jax.errors import UserError, told

T = TypeVar("T")


@dataclass(frozen=True)
class Range:
    """Bounds of a number, or of each of a tuple; None: there is none."""

    at_least: float | None = None
    above: float | None = None
    at_most: float | None = None
    below: float | None = None

    def holds(self, value: float) -> bool:
        return (
            (self.at_least is None or value >= self.at_least)
            and (self.above is None or value > self.above)
            and (self.at_most is None or value <= self.at_most)
            and (self.below is None or value < self.below)
        )

    def __str__(self) -> str:
        bounds = ((name.replace("_", " "), value) for name, value in dataclasses.asdict(self).items())
        return " and ".join(f"{name} {value}" for name, value in bounds if value is not None)


Count = Annotated[int, Range(at_least=1)]
Natural = Annotated[int, Range(at_least=0)]
Positive = Annotated[float, Range(above=0)]
NonNegative = Annotated[float, Range(at_least=0)]
Fraction = Annotated[float, Range(at_least=0, at_most=1)]


@functools.cache
def _hints(options: type) -> dict[str, Any]:
    return typing.get_type_hints(options, include_extras=True)


def read_options(options: type[T], values: Mapping[str, Any], name: str = "config", base: T | None = None) -> T:
    """Builds the dataclass `options` from a mapping; fields that are dataclasses are read from nested mappings.

    Keys that are absent are those of `base`, or the dataclass's own defaults.
    Raises UserError with one line that lists every unknown and every missing key, or names the first value that is of
    another type, out of its range or not finite.
    """
    fields = {field.name: field for field in dataclasses.fields(cast(Any, options))}
    hints = _hints(options)
    required = [key for key, field in fields.items() if base is None and _default(field) is dataclasses.MISSING]
    problems = [f"unknown key {name}.{key}{nearest(key, fields)}" for key in values if key not in fields]
    problems += [f"missing key {name}.{key}" for key in required if key not in values]
    if problems:
        raise UserError(f"{'; '.join(problems)} (allowed in {name}: {', '.join(fields)})")
    filled = {}
    for key, value in values.items():
        path = f"{name}.{key}" if name else key
        if dataclasses.is_dataclass(hints[key]):
            if not isinstance(value, Mapping):
                raise UserError(f"{path} must be a group of keys, not {told(value)}")
            group = _default(fields[key]) if base is None else getattr(base, key)
            filled[key] = read_options(hints[key], value, path, None if group is dataclasses.MISSING else group)
        else:
            filled[key] = read_value(value, hints[key], path)
    return options(**filled) if base is None else dataclasses.replace(cast(Any, base), **filled)


def changes_of(options: type, *without: str) -> type:
    """A base for the dataclass of what may be changed of `options`: the same fields, None where nothing is changed.

    Its docstring is that of `options`, so that fields are described once. Fields named in `without` are left out.
    """

    def or_none(kind: Any) -> Any:
        if typing.get_origin(kind) is not Annotated:
            return kind | None
        plain, *rest = typing.get_args(kind)
        return Annotated[plain | None, *rest]

    kinds = {name: or_none(kind) for name, kind in _hints(options).items() if name not in without}
    changes = dataclasses.make_dataclass("Changes", [(name, kind, None) for name, kind in kinds.items()], frozen=True)
    changes.__doc__ = options.__doc__
    return changes


def to_config(options: Any) -> ConfigDict:
    """Every field of a dataclass, and of those in it, for a config to change; None can become what its type says."""
    config, hints = ConfigDict(), typing.get_type_hints(type(options))
    for field in dataclasses.fields(options):
        value = getattr(options, field.name)
        if dataclasses.is_dataclass(value):
            value = to_config(value)
        elif value is None:
            value = placeholder(next(kind for kind in typing.get_args(hints[field.name]) if kind is not types.NoneType))
        config[field.name] = value
    return config


def group_docs(options: type) -> dict[str, dict[str, str]]:
    """What the docstrings of the groups of an option dataclass say of their fields: {group: {field: text}}."""
    hints = typing.get_type_hints(options)
    groups = {field.name: hints[field.name] for field in dataclasses.fields(options)}
    return {
        name: field_docs(typing.cast(type, kind)) for name, kind in groups.items() if dataclasses.is_dataclass(kind)
    }


def field_docs(options: type) -> dict[str, str]:
    """What the docstrings of a dataclass and of its bases say of each field, after ``name: `` or ``name, other: ``."""
    names = [field.name for field in dataclasses.fields(options)]
    one = "|".join(map(re.escape, names))
    found = {}
    for kind in reversed(options.__mro__):
        text = " ".join((kind.__dict__.get("__doc__") or "").split())
        parts = re.split(rf"(?<![\w.])((?:{one})(?:, (?:{one}))*): ", text)
        for listed, said in zip(parts[1::2], parts[2::2], strict=True):
            found |= dict.fromkeys(listed.split(", "), said.strip())
    return found


def merged(base: Mapping[str, Any], changes: Mapping[str, Any]) -> dict[str, Any]:
    """`base` with the values of `changes`, group by group."""

    def merge(old: Any, new: Any) -> Any:
        return merged(old, new) if isinstance(old, Mapping) and isinstance(new, Mapping) else new

    return {**base, **{key: merge(base.get(key), value) for key, value in changes.items()}}


def nearest(name: str, known: Iterable[str]) -> str:
    """A hint at the known name that is most alike: ``" (did you mean ...?)"``; empty where none is."""
    found = difflib.get_close_matches(name, known, n=1)
    return f" (did you mean {found[0]}?)" if found else ""


def _default(field: dataclasses.Field) -> Any:
    return field.default if field.default_factory is dataclasses.MISSING else field.default_factory()


def check_fields(options: Any) -> None:
    """Brings the fields of a frozen dataclass to their types, for its ``__post_init__``; see :func:`read_value`."""
    for name, kind in _hints(type(options)).items():
        object.__setattr__(options, name, read_value(getattr(options, name), kind, name))


def read_value(value: Any, wanted: Any, path: str) -> Any:
    """A value as the type `wanted` has it, which may be ``Annotated`` with a :class:`Range`.

    Lists become tuples, so that options stay hashable, NumPy's scalars Python's; an int is welcome where a float is
    wanted. Raises UserError, which calls the value `path`, for one of another type, out of its range or not finite.
    """
    bounds = None
    if isinstance(value, np.generic):
        value = value.item()
    if typing.get_origin(wanted) is Annotated:
        wanted, bounds = typing.get_args(wanted)
    if isinstance(value, list | tuple):
        value = tuple(tuple(item) if isinstance(item, list | tuple) else item for item in value)
    choices = typing.get_args(wanted) or (wanted,)
    if type(value) is int and float in choices and int not in choices:
        value = float(value) if abs(value) <= sys.float_info.max else math.inf
    if not _fits(value, wanted):
        raise UserError(f"{path} must be {_describe(wanted)}, not {told(value)}")
    if not _finite(value):
        raise UserError(f"{path} must be a finite number, not {told(value)}")
    numbers = [number for number in (value if isinstance(value, tuple) else (value,)) if number is not None]
    if bounds is not None and not all(map(bounds.holds, numbers)):
        raise UserError(f"{path} must be {bounds}, not {told(value)}")
    return value


def _finite(value: Any) -> bool:
    """Whether no number of a value, or of the tuples in it, is infinite or none."""
    if isinstance(value, tuple):
        return all(map(_finite, value))
    return not isinstance(value, float) or math.isfinite(value)


def _fits(value: Any, wanted: Any) -> bool:
    kind = typing.get_origin(wanted) or wanted
    if kind in (typing.Union, types.UnionType):
        return any(_fits(value, choice) for choice in typing.get_args(wanted))
    if kind is typing.Literal:
        return value in typing.get_args(wanted)
    if kind is Any:
        return True
    if kind is tuple and (kinds := typing.get_args(wanted)):
        kinds = kinds[:1] * len(value) if isinstance(value, tuple) and kinds[1:] == (...,) else kinds
        return isinstance(value, tuple) and len(value) == len(kinds) and all(map(_fits, value, kinds))
    return isinstance(value, kind) and not (kind is int and isinstance(value, bool))


_WORDS = {
    int: ("a whole number", "whole numbers"),
    float: ("a number", "numbers"),
    bool: ("true or false", "true or false"),
    str: ("a text", "texts"),
    tuple: ("a list", "lists"),
    types.NoneType: ("null", "null"),
}
"""Types in words: one, and many."""


def _describe(wanted: Any) -> str:
    kind, parts = typing.get_origin(wanted) or wanted, typing.get_args(wanted)
    if kind is typing.Literal:
        return "one of " + ", ".join(map(repr, parts))
    if kind in (typing.Union, types.UnionType):
        return " or ".join(map(_describe, parts))
    if kind is tuple and parts:
        count = "" if parts[-1] is ... else f"{len(parts)} "
        return f"a list of {count}{_WORDS[typing.get_origin(parts[0]) or parts[0]][1]}"
    return _WORDS[kind][0] if kind in _WORDS else getattr(kind, "__name__", str(wanted))
