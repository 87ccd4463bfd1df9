"""Depth maps on disk: 16-bit PNG files whose bits are float16 numbers, 0 where the depth is not known.

The precision is one part in 2048 at every distance, in whatever unit of length a scene has; Co3D has the same encoding.
"""

import io
from pathlib import Path

import numpy as np
from jaxtyping import Float32
from PIL import Image

from gen3r_jax.data.images import open_whole
from gen3r_jax.errors import UserError

FARTHEST = float(np.finfo(np.float16).max)


def read_depth_bits(source: Path | bytes) -> np.ndarray:
    """The pixels of a 16-bit PNG (its file or bytes), uint16 [h w]. Raises UserError where it is not one."""
    name = "depth" if isinstance(source, bytes) else source
    try:
        with open_whole(source) as file:
            if not file.mode.startswith("I"):
                raise UserError(f"{name} is a picture of the kind {file.mode}, not 16-bit depth")
            return np.array(file).astype(np.uint16)
    except FileNotFoundError:
        raise UserError(f"{name} does not exist") from None
    except UserError:
        raise
    except Exception as error:  # damaged files make Pillow raise nearly anything
        raise UserError(f"cannot read {name}: {' '.join(str(error).split())}") from None


def read_depth(source: Path | bytes) -> Float32[np.ndarray, "h w"]:
    """A depth map as :func:`encode_depth` encodes it, from its file or bytes; 0 where the depth is not known."""
    depth = read_depth_bits(source).view(np.float16).astype(np.float32)
    return np.where(np.isfinite(depth) & (depth > 0), depth, 0)


def encode_depth(depth: Float32[np.ndarray, "h w"]) -> bytes:
    """A depth map as a file's bytes. What is not finite, not above 0 or too far for float16 counts as not known."""
    known = np.isfinite(depth) & (depth > 0) & (depth <= FARTHEST)
    buffer = io.BytesIO()
    Image.fromarray(np.where(known, depth, 0).astype(np.float16).view(np.uint16)).save(buffer, "PNG")
    return buffer.getvalue()
