"""The frames as single images, which several formats refer to."""

from pathlib import Path

import numpy as np
from jaxtyping import UInt8
from PIL import Image

from gen3r_jax.storage.files import replacing


def image_names(count: int) -> list[str]:
    return [f"frame_{index:05}.png" for index in range(count)]


def write_images(directory: Path | str, frames: UInt8[np.ndarray, "t h w 3"]) -> None:
    """Writes ``frame_00000.png`` and so on, without loss; removes those of a longer clip that was there before."""
    directory, names = Path(directory), image_names(len(frames))
    for name, frame in zip(names, frames, strict=True):
        with replacing(directory / name) as temporary:
            Image.fromarray(frame).save(temporary, compress_level=3)
    for old in set(directory.glob("frame_*.png")) - {directory / name for name in names}:
        old.unlink()
