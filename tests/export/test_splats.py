"""The files of Gaussians, read back by programs that are not ours."""

import json
import struct

import numpy as np
import pytest

from gen3r_jax.errors import UserError
from gen3r_jax.export.folder import FORMATS, require_formats
from gen3r_jax.export.gaussians import SH_C0, Gaussians, write_gaussians
from gen3r_jax.export.gltf import linear_colors
from gen3r_jax.export.splat_glb import write_splat_glb
from gen3r_jax.export.spz import write_spz
from gen3r_jax.export.usd import write_usd
from tests.helpers.node_tools import needs_node_tools, read_gltf, read_splats

FLIP = np.array([1, -1, -1])  # between OpenCV's axes and those with y up
COUNT = 2000


@pytest.fixture(scope="module")
def gaussians():
    draw = np.random.default_rng(0)
    return Gaussians(
        centers=draw.normal(0, 3, (COUNT, 3)).astype(np.float32),
        widths=np.exp(draw.uniform(-7, 0, COUNT)).astype(np.float32),
        opacities=draw.uniform(0.1, 0.95, COUNT).astype(np.float32),
        colors=draw.integers(0, 256, (COUNT, 3), np.uint8),
    )


def _columns(read: dict[str, np.ndarray]) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Centres, widths, opacities and 8-bit colours of the columns of a PLY."""
    centers = np.stack([read[axis] for axis in "xyz"], axis=-1)
    colors = 255 * (0.5 + SH_C0 * np.stack([read[f"f_dc_{i}"] for i in range(3)], axis=-1))
    return centers, np.exp(read["scale_0"]), 1 / (1 + np.exp(-read["opacity"])), colors


@needs_node_tools
def test_the_ply_of_degree_0_is_read(gaussians, tmp_path):
    write_gaussians(tmp_path / "gaussians.ply", gaussians)
    read = read_splats(tmp_path / "gaussians.ply")
    centers, widths, opacities, colors = _columns(read)
    np.testing.assert_allclose(centers, gaussians.centers, rtol=1e-6)
    np.testing.assert_allclose(widths, gaussians.widths, rtol=1e-5)
    np.testing.assert_allclose(opacities, gaussians.opacities, rtol=1e-5)
    np.testing.assert_allclose(colors, gaussians.colors, atol=1e-3)
    np.testing.assert_array_equal([read[f"rot_{i}"][0] for i in range(4)], [1, 0, 0, 0])


@needs_node_tools
@pytest.mark.parametrize("scale", [1e-3, 1, 1e3])
def test_spz_is_read_within_its_quantisation(gaussians, tmp_path, scale):
    """Whatever the unit of the scene is: the grid is as fine as 24 bits allow."""
    wide = Gaussians(scale * gaussians.centers, gaussians.widths, gaussians.opacities, gaussians.colors)
    write_spz(tmp_path / "gaussians.spz", wide)
    read = read_splats(tmp_path / "gaussians.spz")
    centers, widths, opacities, colors = _columns(read)
    # A step of the grid is less than 2 / 2^23 of the farthest coordinate, and not below 1 / 2^23.
    step = max(np.abs(wide.centers).max() * 2**-22, 2**-23)
    np.testing.assert_allclose(centers, wide.centers, atol=step / 2 + np.abs(wide.centers).max() * 1e-7)
    np.testing.assert_allclose(np.log(widths), np.log(wide.widths), atol=1 / 32 + 1e-5)
    np.testing.assert_allclose(opacities, wide.opacities, atol=0.5 / 255 + 1e-5)
    np.testing.assert_allclose(colors, wide.colors, atol=0.5 * SH_C0 / 0.15 + 1e-3)  # less than a level
    assert read["rot_0"].min() > 0.9999


def test_spz_takes_an_eighth_of_the_ply_with_all_columns(gaussians, tmp_path):
    write_spz(tmp_path / "gaussians.spz", gaussians)
    assert (tmp_path / "gaussians.spz").stat().st_size < COUNT * 62 * 4 / 8
    write_gaussians(tmp_path / "gaussians.ply", gaussians)
    assert (tmp_path / "gaussians.ply").stat().st_size < COUNT * 17 * 4 + 600


@needs_node_tools
def test_gltf_is_read(gaussians, tmp_path):
    write_splat_glb(tmp_path / "gaussians.glb", gaussians)
    read = read_gltf(tmp_path / "gaussians.glb")["gaussians"]
    np.testing.assert_allclose(np.array(read["positions"]) * FLIP, gaussians.centers, rtol=1e-6)
    np.testing.assert_allclose(read["scales"], np.repeat(gaussians.widths[:, None], 3, axis=1), rtol=1e-6)
    colors = np.array(read["colors"])
    np.testing.assert_allclose(colors[:, :3], gaussians.colors, atol=0.5)
    np.testing.assert_allclose(colors[:, 3], 255 * gaussians.opacities, atol=0.51)
    np.testing.assert_array_equal(np.unique(read["rotations"], axis=0), [[255, 128, 128, 128]])  # w x y z: none


def test_gltf_is_as_the_extension_says(gaussians, tmp_path):
    """Also for viewers that show points: colours in linear light, opacity as their alpha."""
    write_splat_glb(tmp_path / "gaussians.glb", gaussians)
    data = (tmp_path / "gaussians.glb").read_bytes()
    assert struct.unpack("<4sII", data[:12]) == (b"glTF", 2, len(data))
    (length,) = struct.unpack("<I", data[12:16])
    document, binary = json.loads(data[20 : 20 + length]), data[28 + length :]
    (primitive,) = document["meshes"][0]["primitives"]
    assert primitive["mode"] == 0 and "KHR_gaussian_splatting" in document["extensionsUsed"]
    assert primitive["extensions"]["KHR_gaussian_splatting"]["kernel"] == "ellipse"
    accessor = document["accessors"][primitive["attributes"]["COLOR_0"]]
    assert (accessor["componentType"], accessor["normalized"]) == (5123, True)
    start = document["bufferViews"][accessor["bufferView"]]["byteOffset"]
    colors = np.frombuffer(binary, "<u2", 4 * COUNT, start).reshape(-1, 4)
    np.testing.assert_array_equal(colors[:, :3], linear_colors(gaussians.colors)[:, :3])
    np.testing.assert_allclose(colors[:, 3], 65535 * gaussians.opacities, atol=0.51)
    assert all(view["byteOffset"] % 4 == 0 for view in document["bufferViews"])


def test_usd_is_read(gaussians, tmp_path):
    pytest.importorskip("pxr.UsdVol", reason="usd-core is not installed: make readers")
    from pxr import Usd, UsdGeom, UsdVol

    write_usd(tmp_path / "gaussians.usdc", gaussians)
    stage = Usd.Stage.Open(str(tmp_path / "gaussians.usdc"))
    splats = UsdVol.ParticleField3DGaussianSplat(stage.GetDefaultPrim())
    assert UsdGeom.GetStageUpAxis(stage) == "Y"
    centers = np.array(splats.GetPositionsAttr().Get())
    np.testing.assert_array_equal(centers * FLIP, gaussians.centers)
    np.testing.assert_array_equal(np.array(splats.GetScalesAttr().Get())[:, 1], gaussians.widths)
    np.testing.assert_array_equal(splats.GetOpacitiesAttr().Get(), gaussians.opacities)
    harmonics = np.array(splats.GetRadianceSphericalHarmonicsCoefficientsAttr().Get())
    np.testing.assert_allclose(255 * (0.5 + SH_C0 * harmonics), gaussians.colors, atol=1e-3)
    assert splats.GetRadianceSphericalHarmonicsDegreeAttr().Get() == 0
    rotations = splats.GetOrientationshAttr().Get()
    assert {(turn.GetReal(), *turn.GetImaginary()) for turn in rotations} == {(1, 0, 0, 0)}
    low, high = np.array(splats.GetExtentAttr().Get())
    assert (low < centers).all() and (centers < high).all()


@pytest.mark.parametrize("write", [write_gaussians, write_spz, write_splat_glb])
def test_a_scene_in_which_nothing_is_known_has_no_gaussians(tmp_path, write):
    nothing = Gaussians(*(np.zeros(shape, np.float32) for shape in ((0, 3), 0, 0)), np.zeros((0, 3), np.uint8))
    write(tmp_path / "file", nothing)
    assert 0 < (tmp_path / "file").stat().st_size < 1000


def test_a_format_whose_package_is_missing_is_refused(monkeypatch):
    monkeypatch.setattr("gen3r_jax.export.folder.find_spec", lambda name: None)
    require_formats([name for name, form in FORMATS.items() if form.default])
    with pytest.raises(UserError, match=r"format usd needs a package: pip install 'gen3r-jax\[usd\]'"):
        require_formats(["usd"])
    with pytest.raises(UserError, match="no format 'splats'"):
        require_formats(["splats"])
