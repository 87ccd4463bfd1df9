"""Pictures of clips side by side."""

from pathlib import Path

import numpy as np
from jaxtyping import UInt8
from PIL import Image, ImageDraw, ImageOps

from gen3r_jax.storage.files import replacing

TILE = 160  # side of one picture
MAX_COLUMNS = 8


def spread(count: int) -> np.ndarray:
    """At most MAX_COLUMNS of `count` times, evenly spread from the first to the last."""
    return np.round(np.linspace(0, count - 1, min(count, MAX_COLUMNS))).astype(int)


def write_grid(path: Path, rows: dict[str, UInt8[np.ndarray, "t h w 3"]]) -> None:
    """One row of tiles for each entry, under its name."""
    margin, header = 4, 16
    columns = max(map(len, rows.values()))
    size = (columns * (TILE + margin) + margin, len(rows) * (TILE + header) + margin)
    canvas = Image.new("RGB", size, "white")
    draw = ImageDraw.Draw(canvas)
    for row, (name, tiles) in enumerate(rows.items()):
        top = row * (TILE + header)
        draw.text((margin, top + 2), name, fill="black")
        for column, tile in enumerate(tiles):
            # Small pictures are latents: their cells should be seen.
            method = Image.Resampling.NEAREST if len(tile) < TILE // 2 else Image.Resampling.LANCZOS
            place = (margin + column * (TILE + margin), top + header)
            canvas.paste(ImageOps.pad(Image.fromarray(tile), (TILE, TILE), method, color="white"), place)
    with replacing(path) as temporary:
        canvas.save(temporary)


def stack_pictures(path: Path, pictures: dict[str, Path]) -> None:
    """Picture files below each other, each under its name."""
    header = 16
    images = {name: Image.open(file).convert("RGB") for name, file in pictures.items()}
    size = (max(image.width for image in images.values()), sum(image.height + header for image in images.values()))
    canvas, top = Image.new("RGB", size, "white"), 0
    for name, image in images.items():
        ImageDraw.Draw(canvas).text((4, top + 2), name, fill="black")
        canvas.paste(image, (0, top + header))
        top += image.height + header
    with replacing(path) as temporary:
        canvas.save(temporary)
