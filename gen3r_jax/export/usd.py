"""gaussians.usdc: Gaussians as OpenUSD's ParticleField3DGaussianSplat has them."""
# usd-core comes without types.
# pyright: reportMissingImports=false, reportAttributeAccessIssue=false

from pathlib import Path

import numpy as np

from gen3r_jax.export.gaussians import Gaussians
from gen3r_jax.geometry.cameras import OPENGL_AXES
from gen3r_jax.storage.files import replacing


def write_usd(path: Path | str, gaussians: Gaussians) -> None:
    """Writes one prim, ``/gaussians``, with y up; the unit of length is that of the scene."""
    # Of usd-core, which only this format needs.
    from pxr import Usd, UsdGeom, UsdVol, Vt

    stage = Usd.Stage.CreateInMemory()
    UsdGeom.SetStageUpAxis(stage, UsdGeom.Tokens.y)
    splats = UsdVol.ParticleField3DGaussianSplat.Define(stage, "/gaussians")
    stage.SetDefaultPrim(splats.GetPrim())
    centers = gaussians.centers @ OPENGL_AXES[:3, :3].astype(np.float32)
    reach = 3 * gaussians.widths[:, None]
    widths = np.repeat(gaussians.widths[:, None], 3, axis=1)
    rotations = np.tile(np.array([0, 0, 0, 1], np.float16), (len(centers), 1))  # none: x y z w
    splats.CreatePositionsAttr(Vt.Vec3fArray.FromNumpy(np.ascontiguousarray(centers)))
    splats.CreateOrientationshAttr(Vt.QuathArray.FromNumpy(rotations))
    splats.CreateScalesAttr(Vt.Vec3fArray.FromNumpy(widths))
    splats.CreateOpacitiesAttr(Vt.FloatArray.FromNumpy(gaussians.opacities))
    splats.CreateRadianceSphericalHarmonicsDegreeAttr(0)
    splats.CreateRadianceSphericalHarmonicsCoefficientsAttr(Vt.Vec3fArray.FromNumpy(gaussians.harmonics()))
    if len(centers):
        extent = np.stack([(centers - reach).min(axis=0), (centers + reach).max(axis=0)])
        splats.CreateExtentAttr(Vt.Vec3fArray.FromNumpy(extent))
    with replacing(path) as temporary:
        stage.GetRootLayer().Export(str(temporary))
