"""What several sets share: finding folders, JSON, tables of numbers, poses from quaternions."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float

from gen3r_jax.errors import UserError


def folders_with(raw: Path, part: str, depth: int) -> Iterator[Path]:
    """The folders, at most `depth` levels below `raw`, that hold `part`, by name. Nothing is looked for inside them."""
    if (raw / part).exists():
        yield raw
    elif depth:
        for folder in sorted(path for path in raw.iterdir() if path.is_dir()):
            yield from folders_with(folder, part, depth - 1)


def read_json(path: Path) -> Any:
    """The content of a JSON file. Raises UserError where it is missing or damaged."""
    try:
        return json.loads(path.read_bytes())
    except OSError as error:
        raise UserError(f"cannot read {path}: {error.strerror}") from None
    except ValueError as error:
        raise UserError(f"cannot read {path}: {error}") from None


def read_lines(path: Path) -> list[str]:
    """The lines of a text file that are not empty. Raises UserError where it is missing or no text."""
    try:
        text = path.read_text(encoding="utf-8")
    except OSError as error:
        raise UserError(f"cannot read {path}: {error.strerror}") from None
    except UnicodeDecodeError:
        raise UserError(f"cannot read {path}: it is no text") from None
    return [line for line in text.splitlines() if line.strip()]


def read_table(path: Path, columns: int, *, header: int = 0) -> Float[np.ndarray, "rows columns"]:
    """Lines of `columns` numbers after `header` lines, float64; "nan" is a number. Raises UserError for other lines.

    A last line that was cut short (a download that broke off) is left out.
    """
    rows = [line.split() for line in read_lines(path)[header:]]
    if rows and len(rows[-1]) < columns:
        rows = rows[:-1]
    for number, row in enumerate(rows):
        if len(row) != columns:
            raise UserError(f"{path}: line {header + number + 1} has {len(row)} columns instead of {columns}")
    try:
        return np.array(rows, np.float64).reshape(-1, columns)
    except ValueError as error:
        raise UserError(f"{path}: {error}") from None
