"""Files by the names that users give them; among them those that come with the package, the configs and the nano model,
by the names that they have in the repository."""

import os
from pathlib import Path

from gen3r_jax.errors import UserError

_PACKAGE = Path(__file__).resolve().parent
ROOT = _PACKAGE if (_PACKAGE / "configs").is_dir() else _PACKAGE.parent
"""Folder of ``configs/`` and ``pretrained/``: the package as a wheel installs it, else the checkout."""


def user_path(given: object, name: str) -> Path:
    """The path that a caller of the library gives, ``~`` being the home folder.

    Raises UserError, which calls it `name`, for what is no path, and for an empty one, which would be the current
    folder.
    """
    if not isinstance(given, (str, os.PathLike)):
        raise UserError(f"{name} must be a path, not {type(given).__name__} {str(given)[:60]!r}")
    path = os.fsdecode(given)
    if not path.strip() or "\0" in path:
        raise UserError(f"{name} {path!r} is no path; the current folder is '.'")
    return Path(os.path.expanduser(path))


def find_file(given: object, name: str) -> Path:
    """The file or folder that a caller of the library gives to be read; see :func:`user_path`.

    Where it does not exist, and a file that is carried has that name, such as ``pretrained/nano/example.png``, it is
    that one.
    """
    path = user_path(given, name)
    carried = ROOT / path
    return carried if not os.path.lexists(path) and os.path.isfile(carried) else path


def find_folder(name: os.PathLike | str) -> Path | None:
    """The folder that `name` means: a path that exists, else one such as ``pretrained/nano`` that is carried."""
    path = user_path(name, "a folder of weights")
    return next((place for place in (path, ROOT / path) if place.is_dir()), None)


def find_config(name: str) -> str:
    """The config file, with a preset after a colon, that `name` means.

    A file that exists wins. Otherwise ``configs/adapter.py:tiny``, ``adapter:tiny`` and ``nano/dit`` are configs that
    are carried.

    Raises UserError where there is no such file.
    """
    path, colon, preset = name.partition(":")
    carried = ROOT / "configs"
    for place in (Path(path), ROOT / path, carried / f"{path}.py"):
        if place.is_file():
            return f"{place}{colon}{preset}"
    names = sorted(str(file.relative_to(carried).with_suffix("")) for file in carried.rglob("*.py"))
    raise UserError(f"no config file {path}; give a path, or one of {', '.join(names)}")
