"""gaussians.ply: one small Gaussian for each kept pixel, to begin a splatting optimisation with.

The columns are those of "3D Gaussian Splatting for Real-Time Radiance Field Rendering" at degree 0.
"""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
from jaxtyping import Float32, UInt8

from gen3r_jax.export.pointcloud import confident_pixels
from gen3r_jax.scene import Scene
from gen3r_jax.storage.files import replacing

MOST_GAUSSIANS = 200_000
SH_C0 = 0.28209479177387814  # the constant spherical harmonic
_COLUMNS = (
    *("x", "y", "z", "nx", "ny", "nz", "f_dc_0", "f_dc_1", "f_dc_2", "opacity"),
    *(f"scale_{i}" for i in range(3)), *(f"rot_{i}" for i in range(4)),
)  # fmt: skip


@dataclass(frozen=True)
class Gaussians:
    """Round Gaussians without rotation whose colour is the same from all sides.

    Attributes:
      centers: in world coordinates, OpenCV axes.
      widths: standard deviations, in the unit of the scene.
      opacities: between 0 and 1.
      colors: sRGB.
    """

    centers: Float32[np.ndarray, "n 3"]
    widths: Float32[np.ndarray, "n"]
    opacities: Float32[np.ndarray, "n"]
    colors: UInt8[np.ndarray, "n 3"]

    def harmonics(self) -> Float32[np.ndarray, "n 3"]:
        """The coefficients of degree 0 that stand for the colours."""
        return (self.colors / np.float32(255) - np.float32(0.5)) / np.float32(SH_C0)


def scene_gaussians(scene: Scene, confidence_percentile: float = 20.0, seed: int = 0) -> Gaussians:
    """Round Gaussians as wide as a pixel is at its depth; opacity follows confidence.

    The least confident pixels are left out, and of the others at most ``MOST_GAUSSIANS`` are taken at random.
    """
    chosen = np.flatnonzero(confident_pixels(scene, confidence_percentile))
    if len(chosen) > MOST_GAUSSIANS:
        chosen = np.sort(np.random.default_rng(seed).choice(chosen, MOST_GAUSSIANS, replace=False, shuffle=False))
    focal = np.sqrt(scene.intrinsics[:, 0, 0] * scene.intrinsics[:, 1, 1])
    widths = (scene.depth / np.maximum(focal, 1e-6)[:, None, None]).reshape(-1)[chosen]
    return Gaussians(
        centers=scene.points.reshape(-1, 3)[chosen],
        widths=np.maximum(widths, np.float32(1e-8)),
        # Confidence begins at 1 and has no upper end: 1 -> 0.1, large -> 0.95.
        opacities=np.float32(0.95) - np.float32(0.85) / scene.confidence.reshape(-1)[chosen],
        colors=scene.rgb.reshape(-1, 3)[chosen],
    )


def write_gaussians(path: Path | str, gaussians: Gaussians) -> None:
    """Writes the columns of degree 0, which have no ``f_rest``, as a binary little-endian PLY."""
    table = np.zeros((len(gaussians.centers), len(_COLUMNS)), "<f4")
    table[:, :3] = gaussians.centers
    table[:, 6:9] = gaussians.harmonics()
    table[:, 9] = np.log(gaussians.opacities / (1 - gaussians.opacities))
    table[:, 10:13] = np.log(gaussians.widths)[:, None]
    table[:, 13] = 1  # no rotation: w x y z
    header = ["ply", "format binary_little_endian 1.0", f"element vertex {len(table)}"]
    header += [f"property float {name}" for name in _COLUMNS]
    with replacing(path) as temporary:
        temporary.write_bytes("\n".join([*header, "end_header", ""]).encode() + table.tobytes())
