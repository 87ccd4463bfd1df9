"""Flipped bits in what the project wrote: each is found, or every value that is read is the one that was written."""

from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np

from tests.faults import fuzz
from tests.faults.doors import DOORS, SEALED
from tests.helpers.damage import flip_bit


def run(scratch: Path, seed: int, count: int, names: Sequence[str] = SEALED) -> Iterator[tuple[str, list[str]]]:
    """Yields for each flip where it was and what was wrong; the doors take turns."""
    written = {name: fuzz.write(DOORS[name], scratch / "valid" / name) for name in names}
    for number in range(count):
        name = names[number % len(names)]
        rng = np.random.default_rng([seed, number])
        case = fuzz.try_case(name, scratch / "valid" / name, written[name], scratch / "case", rng, _flip)
        yield f"flip {number}: {name}, {case.file}", [case.problem] if case.problem else []


def _flip(path: Path, rng: np.random.Generator) -> str:
    flip_bit(path, rng)
    return "a flipped bit"
