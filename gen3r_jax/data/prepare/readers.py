"""Find folders of data sets, as several preparers do."""

from collections.abc import Iterator
from pathlib import Path


def folders_with(raw: Path, part: str, depth: int) -> Iterator[Path]:
    """The folders, at most `depth` levels below `raw`, that hold `part`, by name. Nothing is looked for inside them."""
    if (raw / part).exists():
        yield raw
    elif depth:
        for folder in sorted(path for path in raw.iterdir() if path.is_dir()):
            yield from folders_with(folder, part, depth - 1)
