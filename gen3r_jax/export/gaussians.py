"""gaussians.ply: one small Gaussian for each kept pixel, to begin a splatting optimisation with.

The columns are those of "3D Gaussian Splatting for Real-Time Radiance Field Rendering"; its readers take the file.
"""

from pathlib import Path

import numpy as np

from gen3r_jax.export.pointcloud import confident_pixels
from gen3r_jax.scene import Scene
from gen3r_jax.storage.files import replacing

MOST_GAUSSIANS = 200_000
SH_C0 = 0.28209479177387814  # the constant spherical harmonic
_COLUMNS = (
    "x", "y", "z", "nx", "ny", "nz",
    *(f"f_dc_{i}" for i in range(3)), *(f"f_rest_{i}" for i in range(45)),
    "opacity", *(f"scale_{i}" for i in range(3)), *(f"rot_{i}" for i in range(4)),
)  # fmt: skip


def write_gaussians(path: Path | str, scene: Scene, confidence_percentile: float = 20.0, seed: int = 0) -> None:
    """Writes round Gaussians as wide as a pixel is at its depth; opacity follows confidence.

    The least confident pixels are left out, and of the others at most ``MOST_GAUSSIANS`` are taken at random.
    """
    chosen = np.flatnonzero(confident_pixels(scene, confidence_percentile))
    if len(chosen) > MOST_GAUSSIANS:
        chosen = np.sort(np.random.default_rng(seed).choice(chosen, MOST_GAUSSIANS, replace=False, shuffle=False))
    focal = np.sqrt(scene.intrinsics[:, 0, 0] * scene.intrinsics[:, 1, 1])
    width = (scene.depth / np.maximum(focal, 1e-6)[:, None, None]).reshape(-1)[chosen]
    # Confidence begins at 1 and has no upper end: 1 -> 0.1, large -> 0.95.
    opacity = 0.95 - 0.85 / scene.confidence.reshape(-1)[chosen]
    table = np.zeros((len(chosen), len(_COLUMNS)), "<f4")
    table[:, :3] = scene.points.reshape(-1, 3)[chosen]
    table[:, 6:9] = (scene.rgb.reshape(-1, 3)[chosen] / 255 - 0.5) / SH_C0
    table[:, 54] = np.log(opacity / (1 - opacity))
    table[:, 55:58] = np.log(np.maximum(width, 1e-8))[:, None]
    table[:, 58] = 1  # no rotation: w x y z
    header = ["ply", "format binary_little_endian 1.0", f"element vertex {len(table)}"]
    header += [f"property float {name}" for name in _COLUMNS]
    with replacing(path) as temporary:
        temporary.write_bytes("\n".join([*header, "end_header", ""]).encode() + table.tobytes())
