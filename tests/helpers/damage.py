"""Damage to files, as disks and copies do it."""

from pathlib import Path

import numpy as np


def files_in(folder: Path) -> list[str]:
    """Names of all files in a folder and those in it, relative to it; empty ones are left out."""
    return sorted(
        path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file() and path.stat().st_size
    )


def flipped(content: bytes, rng: np.random.Generator) -> bytes:
    """One bit is another."""
    changed = bytearray(content)
    changed[rng.integers(len(changed))] ^= 1 << rng.integers(8)
    return bytes(changed)


def flip_bit(path: Path, rng: np.random.Generator) -> None:
    path.write_bytes(flipped(path.read_bytes(), rng))
