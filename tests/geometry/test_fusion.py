"""Depth maps fused to a surface, beside the surface that they were rendered from."""

import numpy as np
import pytest
import trimesh

from benchmarks.mesh import distance_to_surfaces
from gen3r_jax.data.procedural import make_scene
from gen3r_jax.export.folder import write_scene
from gen3r_jax.geometry import fusion
from gen3r_jax.geometry.cameras import invert_se3
from gen3r_jax.geometry.fusion import fuse_depth
from gen3r_jax.geometry.points import unproject_depth
from gen3r_jax.scene import Scene
from tests.helpers.node_tools import needs_node_tools, read_gltf

pytest.importorskip("skimage", reason="scikit-image is not installed (extra: mesh)")
FRAMES, SIDE = 5, 64


@pytest.fixture(scope="module")
def world():
    return make_scene(1, "easy", ("rooms",))


@pytest.fixture(scope="module")
def scene(world):
    c2w, intrinsics = world.cameras(FRAMES, (SIDE, SIDE))
    views = [world.render(pose, k, (SIDE, SIDE)) for pose, k in zip(c2w, intrinsics, strict=True)]
    rgb, depth = (np.stack(arrays) for arrays in zip(*views, strict=True))
    w2c = invert_se3(c2w.astype(np.float64)).astype(np.float32)
    intrinsics = intrinsics.astype(np.float32)
    points = unproject_depth(depth, w2c, intrinsics, offset=0.5)
    return Scene(rgb, depth, np.ones_like(depth), w2c, intrinsics, points)


def _fuse(scene: Scene, depth: np.ndarray, voxel: float):
    return fuse_depth(depth, scene.rgb, depth > 0, scene.w2c, scene.intrinsics, voxel * float(np.median(depth)))


def test_exact_depth_gives_the_surface(world, scene):
    mesh = _fuse(scene, scene.depth, 0.02)
    distance = distance_to_surfaces(world.world, mesh.vertices)
    voxel = 0.02 * np.median(scene.depth)
    assert np.median(distance) < 0.05 * voxel and distance.mean() < 0.3 * voxel
    sample = scene.points.reshape(-1, 3)[::50]
    nearest = np.linalg.norm(sample[:, None] - mesh.vertices, axis=-1).min(axis=1)
    assert np.percentile(nearest, 95) < 2 * voxel  # what was seen is there
    # Its colours are those of the pixels near it, and it faces the cameras.
    corners = mesh.vertices[mesh.faces]
    normals = np.cross(corners[:, 1] - corners[:, 0], corners[:, 2] - corners[:, 0])
    middle = corners.mean(axis=1)
    toward = invert_se3(scene.w2c)[:, :3, 3].mean(axis=0) - middle
    assert ((normals * toward).sum(axis=1) > 0).mean() > 0.9
    index = np.linalg.norm(mesh.vertices[::97, None] - scene.points.reshape(-1, 3), axis=-1).argmin(axis=1)
    difference = np.abs(mesh.colors[::97].astype(int) - scene.rgb.reshape(-1, 3)[index])
    assert np.median(difference) < 10


def test_noise_is_averaged(world, scene):
    """The surface is nearer to the truth than the points that it is made of."""
    noise = np.random.default_rng(0).normal(0, 0.02, scene.depth.shape)
    depth = (scene.depth * np.exp(noise)).astype(np.float32)
    points = unproject_depth(depth, scene.w2c, scene.intrinsics, offset=0.5).reshape(-1, 3)
    surface = distance_to_surfaces(world.world, _fuse(scene, depth, 0.02).vertices)
    assert surface.mean() < 0.85 * distance_to_surfaces(world.world, points).mean()


def test_unknown_pixels_are_no_surface(scene):
    known = scene.depth > 0
    known[..., SIDE // 2 :] = False
    depth = np.where(known, scene.depth, np.nan)
    mesh = fuse_depth(depth, scene.rgb, known, scene.w2c, scene.intrinsics, 0.02 * float(np.median(scene.depth)))
    local = mesh.vertices @ scene.w2c[0, :3, :3].T + scene.w2c[0, :3, 3]
    column = scene.intrinsics[0, 0, 0] * local[:, 0] / local[:, 2] + scene.intrinsics[0, 0, 2]
    assert len(mesh.vertices) > 100 and np.isfinite(mesh.vertices).all()
    assert (column < SIDE).mean() > 0.9  # other frames look a little further
    nothing = fuse_depth(depth, scene.rgb, np.zeros_like(known), scene.w2c, scene.intrinsics, 0.1)
    assert (len(nothing.vertices), len(nothing.faces)) == (0, 0)


def test_a_large_scene_gets_larger_voxels(scene, monkeypatch):
    monkeypatch.setattr(fusion, "MOST_VOXELS", 20_000)
    mesh = _fuse(scene, scene.depth, 0.001)
    edges = mesh.vertices[mesh.faces[:, 0]] - mesh.vertices[mesh.faces[:, 1]]
    side = (np.prod(np.ptp(scene.points.reshape(-1, 3), axis=0)) / 20_000) ** (1 / 3)
    assert len(mesh.vertices) > 100 and np.linalg.norm(edges, axis=1).max() > side / 2


@needs_node_tools
def test_the_file_is_read(scene, tmp_path, monkeypatch):
    monkeypatch.setattr("gen3r_jax.export.mesh.VOXEL", 0.03)
    write_scene(scene, tmp_path, formats=["mesh"])
    loaded = trimesh.load(tmp_path / "mesh.glb", process=False).geometry["surface"]
    read = read_gltf(tmp_path / "mesh.glb")["surface"]
    np.testing.assert_allclose(np.reshape(read["positions"], (-1, 3)), loaded.vertices, atol=1e-6)
    assert len(read["indices"]) == 3 * len(loaded.faces) > 1000
    inside = scene.points.reshape(-1, 3)
    vertices = loaded.vertices * [1, -1, -1]
    assert (vertices > inside.min(axis=0) - 0.2).all() and (vertices < inside.max(axis=0) + 0.2).all()
    assert np.ptp(np.reshape(read["colors"], (-1, 4))[:, :3]) > 0.3
