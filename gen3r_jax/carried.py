"""Files that come with the package: the configs and the nano model, by the names that they have in the repository."""

import os
from pathlib import Path

from gen3r_jax.errors import UserError

_PACKAGE = Path(__file__).resolve().parent
ROOT = _PACKAGE if (_PACKAGE / "configs").is_dir() else _PACKAGE.parent
"""Folder of ``configs/`` and ``pretrained/``: the package as a wheel installs it, else the checkout."""


def find_folder(name: os.PathLike | str) -> Path | None:
    """The folder that `name` means: a path that exists, else one such as ``pretrained/nano`` that is carried."""
    return next((place for place in (Path(name), ROOT / name) if place.is_dir()), None)


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
