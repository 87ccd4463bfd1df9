"""Depth maps that users bring: NumPy arrays, TIFF files of floating-point numbers, 16-bit PNG files."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from jaxtyping import Float32
from PIL import Image

from gen3r_jax.data.clips import crop_depth
from gen3r_jax.data.depth import read_depth_bits
from gen3r_jax.errors import UserError, one_line
from gen3r_jax.geometry.cameras import Size
from gen3r_jax.storage.files import natural_key

SUFFIXES = (".npy", ".npz", ".tif", ".tiff", ".png")
STEPS = 1000.0
"""Of a 16-bit PNG, in a unit of length: depth cameras count millimetres."""


def read_depth_maps(
    inputs: Sequence[Path] | np.ndarray,
    numbers: Sequence[int],
    available: int,
    sizes: Sequence[Size],
    size: Size,
    steps: float,
) -> Float32[np.ndarray, "t h w"]:
    """The depth of some frames of a clip, in the pixels that their pictures were scaled and cropped to.

    Args:
      inputs: a folder, files in order, one ``.npz`` (or ``.npy``) file of all frames, or an array; one map for each
        frame there is, or for each that is used.
      numbers, available: which frames are used, of how many.
      sizes: height and width of the used pictures, whose aspect the maps need to have.
      size: what the pictures were cropped to.
      steps: of 16-bit PNG files in a unit of length.

    Raises:
      UserError: missing, damaged or unfitting files.
    """
    if isinstance(inputs, np.ndarray):
        name, files, stack = "depth", [], inputs
    else:
        files = list(inputs)
        name = str(files[0]) if len(files) == 1 else f"{len(files)} depth maps"
        if len(files) == 1 and files[0].is_dir():
            files = sorted((path for path in files[0].iterdir() if path.suffix in SUFFIXES), key=natural_key)
        stack = _read(files[0], steps) if len(files) == 1 else None
    if stack is not None and stack.ndim == 3:
        count = len(stack)
    else:
        count, stack = len(files), None
    if count not in (available, len(numbers)):
        raise UserError(f"{name}: {count} depth maps for {available} frames, of which {len(numbers)} are used")
    chosen = numbers if count == available else range(count)
    maps = [_read(files[index], steps) if stack is None else stack[index] for index in chosen]
    for index, one, (height, width) in zip(chosen, maps, sizes, strict=True):
        if one.ndim != 2 or abs(np.log(one.shape[0] / one.shape[1] * width / height)) > 0.02:
            raise UserError(
                f"{name}: depth map {index} has the shape {list(one.shape)}, its picture is {width} x {height}; "
                "give maps of the same view"
            )
    cropped = np.stack([crop_depth(one, size) for one in maps]).astype(np.float32)
    return np.where(np.isfinite(cropped) & (cropped > 0), cropped, np.float32(0))


def _read(path: Path, steps: float) -> np.ndarray:
    """The numbers of a file, not yet judged."""
    try:
        if path.suffix == ".npy":
            return np.load(path, allow_pickle=False)
        if path.suffix == ".npz":
            with np.load(path, allow_pickle=False) as archive:
                return archive["depth" if "depth" in archive.files else archive.files[0]]
        if path.suffix in (".tif", ".tiff"):
            with Image.open(path) as file:
                return np.array(file, np.float32)
        if path.suffix == ".png":
            return (read_depth_bits(path) / steps).astype(np.float32)
    except UserError:
        raise
    except FileNotFoundError:
        raise UserError(f"{path} does not exist") from None
    except Exception as error:  # of all that damaged files can cause
        raise UserError(f"cannot read {path}: {one_line(error)}") from None
    raise UserError(f"{path} is no depth map; known are {' '.join(SUFFIXES)}")
