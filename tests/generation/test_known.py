"""What is known of a clip stays as it was given; the rest takes its unit of length."""

import dataclasses

import numpy as np
import pytest

from gen3r_jax.errors import UserError
from gen3r_jax.generation.known import KnownGeometry, with_known
from gen3r_jax.geometry.cameras import invert_se3
from gen3r_jax.geometry.points import unproject_depth
from gen3r_jax.scene import Scene
from tests.generation.test_windows import Walk

UNIT = 2.5
"""The true unit of length over the predicted one."""


@pytest.fixture(scope="module")
def walk():
    return Walk(9, 0.2)


@pytest.fixture(scope="module")
def scene(walk) -> Scene:
    """As a network gives it: in the first camera's world, and a unit of its own."""
    scene = walk.reconstruct(walk.frames)
    w2c, intrinsics = scene.w2c.copy(), scene.intrinsics
    factor = walk.depth[0, 0, 0] / UNIT / scene.depth[0, 0, 0]
    depth = (factor * scene.depth).astype(np.float32)
    w2c[:, :3, 3] *= factor
    return dataclasses.replace(scene, depth=depth, w2c=w2c, points=unproject_depth(depth, w2c, intrinsics, 0.5))


def test_cameras_stay_as_given_and_make_lengths_theirs(walk, scene):
    intrinsics = np.repeat(scene.intrinsics[:1], 9, axis=0).astype(np.float64)
    found, told = with_known(scene, KnownGeometry(walk.c2w, intrinsics))
    np.testing.assert_array_equal(found.w2c, invert_se3(walk.c2w).astype(np.float32))
    np.testing.assert_array_equal(found.intrinsics, intrinsics.astype(np.float32))
    np.testing.assert_allclose(found.depth, walk.depth, rtol=2e-3)  # measured: 1.4e-3, by colours of 32 x 32 pixels
    assert told == {"scale": pytest.approx(UNIT, rel=2e-3), "scale_from": "cameras"}
    np.testing.assert_allclose(np.linalg.norm(found.points, axis=-1), 3, rtol=2e-3)  # in the world of the cameras


def test_depth_stays_as_given_and_scales_cameras(walk, scene):
    depth = np.where(np.arange(32) < 20, walk.depth, 0)
    found, told = with_known(scene, KnownGeometry(depth=depth))
    np.testing.assert_array_equal(found.depth[..., :20], walk.depth[..., :20].astype(np.float32))
    np.testing.assert_allclose(found.depth[..., 20:], walk.depth[..., 20:], rtol=1e-5)
    step = np.linalg.norm(np.diff(invert_se3(found.w2c)[:, :3, 3], axis=0), axis=1)
    np.testing.assert_allclose(step, np.linalg.norm(np.diff(walk.c2w[:, :3, 3], axis=0), axis=1), rtol=1e-4)
    assert told["scale_from"] == "depth" and told["scale"] == pytest.approx(UNIT, rel=1e-5)


def test_a_distance_and_intrinsics_alone(walk, scene):
    distance = float(np.linalg.norm(walk.c2w[-1, :3, 3] - walk.c2w[0, :3, 3]))
    intrinsics = 1.1 * scene.intrinsics.astype(np.float64)
    found, told = with_known(scene, KnownGeometry(intrinsics=intrinsics), str(distance))
    assert told["scale"] == pytest.approx(UNIT, rel=1e-5)
    np.testing.assert_array_equal(found.intrinsics, intrinsics.astype(np.float32))
    np.testing.assert_allclose(found.depth, walk.depth, rtol=1e-5)
    same, told = with_known(scene, KnownGeometry())
    assert told == {"scale": 1.0, "scale_from": None}
    np.testing.assert_array_equal(same.depth, scene.depth)
    np.testing.assert_array_equal(same.w2c, scene.w2c)


@pytest.mark.parametrize(
    ("known", "scale_from", "message"),
    [
        ({}, "cameras", "needs known cameras: add --cameras"),
        ({}, "depth", "needs known depth: add --depth"),
        ({}, "-1", "neither cameras nor depth nor a distance above 0"),
        ({}, "metres", "neither cameras nor depth nor a distance above 0"),
        ({"c2w": np.eye(4)[None]}, None, "the known c2w has the shape [1, 4, 4]; this clip needs [9, 4, 4]"),
        ({"c2w": np.tile(np.eye(4), (9, 1, 1))}, "2", "their unit with them"),
    ],
)
def test_what_does_not_fit_is_refused(scene, known, scale_from, message):
    with pytest.raises(UserError) as error:
        with_known(scene, KnownGeometry(**known), scale_from)
    assert message in str(error.value)
