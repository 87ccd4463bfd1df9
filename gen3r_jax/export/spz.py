"""gaussians.spz: Gaussians in about a sixth of the size of their PLY, in Niantic's format (version 2)."""

import gzip
import struct
from pathlib import Path

import numpy as np
from jaxtyping import UInt8

from gen3r_jax.export.gaussians import Gaussians
from gen3r_jax.geometry.cameras import OPENGL_AXES
from gen3r_jax.storage.files import replacing

_MAGIC, _VERSION = 0x5053474E, 2
_LARGEST = 2**23 - 1  # of a coordinate's 24 bits


def write_spz(path: Path | str, gaussians: Gaussians) -> None:
    """Writes 19 bytes a Gaussian, compressed by gzip; y points up and z backward, as the format has them.

    Centres are rounded to the finest grid of 24 bits that reaches the farthest one, opacities to 1/255, the logarithm
    of widths to 1/16, and colours to 8 bits.
    """
    centers = gaussians.centers.astype(np.float64) @ OPENGL_AXES[:3, :3]
    farthest = max(np.abs(centers).max(initial=0), 1e-6)
    bits = int(np.clip(np.floor(np.log2(_LARGEST / farthest)), 0, 23))
    fixed = np.clip(np.rint(centers * 2**bits), -_LARGEST, _LARGEST).astype("<i4")
    count = len(centers)
    planes = (
        fixed.reshape(-1, 1).view(np.uint8)[:, :3],
        _byte(255 * gaussians.opacities),
        _byte(255 * (0.5 + 0.15 * gaussians.harmonics())),
        np.repeat(_byte(16 * (np.log(gaussians.widths) + 10)), 3),
        np.full(3 * count, 128, np.uint8),  # x y z of a quaternion without rotation
    )
    header = struct.pack("<IIIBBBB", _MAGIC, _VERSION, count, 0, bits, 0, 0)  # degree 0, no flags
    with replacing(path) as temporary:
        temporary.write_bytes(gzip.compress(header + b"".join(plane.tobytes() for plane in planes), mtime=0))


def _byte(values: np.ndarray) -> UInt8[np.ndarray, "..."]:
    return np.clip(np.rint(values), 0, 255).astype(np.uint8)
