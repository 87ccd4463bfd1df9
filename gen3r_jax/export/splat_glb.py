"""gaussians.glb: Gaussians as glTF's KHR_gaussian_splatting has them; other viewers show coloured points."""

from pathlib import Path

import numpy as np

from gen3r_jax.export.gaussians import Gaussians
from gen3r_jax.export.gltf import POINTS, Primitive, linear_colors, write_gltf

_EXTENSION = "KHR_gaussian_splatting"


def write_splat_glb(path: Path | str, gaussians: Gaussians) -> None:
    """Writes one primitive of points; widths are not logarithms, and opacities are between 0 and 1."""
    count = len(gaussians.centers)
    attributes = {
        "ROTATION": np.tile(np.array([0, 0, 0, 127], np.int8), (count, 1)),  # none: x y z w
        "SCALE": np.repeat(gaussians.widths[:, None], 3, axis=1),
        "OPACITY": gaussians.opacities,
        "SH_DEGREE_0_COEF_0": gaussians.harmonics(),
    }
    attributes = {f"{_EXTENSION}:{name}": array for name, array in attributes.items()}
    colors = linear_colors(gaussians.colors)
    colors[:, 3] = np.rint(65535 * gaussians.opacities)
    extension = {_EXTENSION: {"kernel": "ellipse", "colorSpace": "srgb_rec709_display"}}
    splats = Primitive("gaussians", POINTS, gaussians.centers, {"COLOR_0": colors, **attributes}, extensions=extension)
    write_gltf(path, [splats])
