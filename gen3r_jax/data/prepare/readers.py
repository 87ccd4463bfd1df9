"""Readers that several data sets share: of folders and of tables of numbers."""

from collections.abc import Iterator
from pathlib import Path

import numpy as np
from jaxtyping import Float

from gen3r_jax.errors import UserError
from gen3r_jax.storage.files import read_lines


def folders_with(raw: Path, part: str, depth: int) -> Iterator[Path]:
    """The folders, at most `depth` levels below `raw`, that hold `part`, by name. Nothing is looked for inside them."""
    if (raw / part).exists():
        yield raw
    elif depth:
        for folder in sorted(path for path in raw.iterdir() if path.is_dir()):
            yield from folders_with(folder, part, depth - 1)


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
