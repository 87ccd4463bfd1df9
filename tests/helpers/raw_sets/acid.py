"""ACID as its archive unpacks: RealEstate10K's files."""

from pathlib import Path

from tests.helpers.raw_sets import realestate10k


def write(raw: Path, *, frames: int = 3, **clip) -> Path:
    return realestate10k.write(raw, frames=frames, **{"folder": "validation", **clip})
