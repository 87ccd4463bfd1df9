"""From nested mappings (configs, JSON) to typed options: every key is read by exactly one dataclass, or refused."""

import dataclasses
import types
import typing
from collections.abc import Mapping
from typing import Any, TypeVar

from gen3r_jax.errors import UserError

T = TypeVar("T")


def read_options(options: type[T], values: Mapping[str, Any], name: str = "config") -> T:
    """Builds the dataclass `options` from a mapping; fields that are dataclasses are read from nested mappings.

    Raises UserError with one line that lists every unknown and every missing key.
    """
    fields = {field.name: field for field in dataclasses.fields(options)}
    hints = typing.get_type_hints(options)
    required = [key for key, field in fields.items() if field.default is field.default_factory is dataclasses.MISSING]
    problems = [f"unknown key {name}.{key}" for key in values if key not in fields]
    problems += [f"missing key {name}.{key}" for key in required if key not in values]
    if problems:
        raise UserError(f"{'; '.join(problems)} (allowed in {name}: {', '.join(fields)})")
    filled = {}
    for key, value in values.items():
        path = f"{name}.{key}"
        if dataclasses.is_dataclass(hints[key]):
            if not isinstance(value, Mapping):
                raise UserError(f"{path} must be a group of keys, not {value!r}")
            filled[key] = read_options(hints[key], value, path)
        else:
            filled[key] = _coerce(value, hints[key], path)
    return options(**filled)


def _coerce(value: Any, wanted: Any, path: str) -> Any:
    """Checks the type; lists become tuples so that options stay hashable, an int is welcome where a float is wanted."""
    if isinstance(value, list | tuple):
        value = tuple(tuple(item) if isinstance(item, list | tuple) else item for item in value)
    choices = typing.get_args(wanted) or (wanted,)
    if type(value) is int and float in choices and int not in choices:
        value = float(value)
    if not _fits(value, wanted):
        raise UserError(f"{path} must be {_describe(wanted)}, not {value!r}")
    return value


def _fits(value: Any, wanted: Any) -> bool:
    kind = typing.get_origin(wanted) or wanted
    if kind in (typing.Union, types.UnionType):
        return any(_fits(value, choice) for choice in typing.get_args(wanted))
    if kind is typing.Literal:
        return value in typing.get_args(wanted)
    if kind is Any:
        return True
    if kind is tuple and typing.get_args(wanted)[1:] == (...,):
        return isinstance(value, tuple) and all(_fits(item, typing.get_args(wanted)[0]) for item in value)
    return isinstance(value, kind) and not (kind is int and isinstance(value, bool))


def _describe(wanted: Any) -> str:
    if typing.get_origin(wanted) is typing.Literal:
        return "one of " + ", ".join(map(repr, typing.get_args(wanted)))
    return wanted.__name__ if isinstance(wanted, type) and not typing.get_args(wanted) else str(wanted)
