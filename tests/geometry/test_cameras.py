"""Camera geometry. Agreement with the official implementation is in ``test_verify.py``; these are its own laws."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from gen3r_jax.geometry.cameras import (
    decode_pose,
    encode_pose,
    intrinsics_fault,
    invert_se3,
    matrix_to_quaternion,
    nearest_rotation,
    plucker_map,
    pose_fault,
    quaternion_to_matrix,
    rays,
    rebase_to_first,
)

HALF_TURNS = np.stack([np.diag(d) for d in ([1.0, -1, -1], [-1, 1, -1], [-1, -1, 1])])


def _rotations(count):
    return quaternion_to_matrix(np.random.default_rng(0).standard_normal((count, 4)))


def _poses(count):
    translations = np.random.default_rng(1).standard_normal((count, 3, 1))
    bottom = np.broadcast_to([[[0.0, 0, 0, 1]]], (count, 1, 4))
    return np.concatenate([np.concatenate([_rotations(count), translations], 2), bottom], 1)


def _intrinsics(fx, fy, cx, cy):
    return np.array([[fx, 0, cx], [0, fy, cy], [0, 0, 1.0]])


@pytest.mark.parametrize("rotation", [*_rotations(20), *HALF_TURNS, np.eye(3)])
def test_quaternion_round_trip(rotation):
    xyzw = matrix_to_quaternion(rotation)
    assert xyzw[3] >= 0
    np.testing.assert_allclose(np.linalg.norm(xyzw), 1, atol=1e-12)
    np.testing.assert_allclose(quaternion_to_matrix(xyzw), rotation, atol=1e-12)


def test_length_and_sign_of_a_quaternion_do_not_matter():
    xyzw = np.random.default_rng(2).standard_normal((5, 4))
    np.testing.assert_allclose(quaternion_to_matrix(-3 * xyzw), quaternion_to_matrix(xyzw), atol=1e-12)


def test_quaternion_is_scalar_last():
    quarter_turn_about_z = np.array([[0.0, -1, 0], [1, 0, 0], [0, 0, 1]])
    np.testing.assert_allclose(matrix_to_quaternion(quarter_turn_about_z), [0, 0, 0.5**0.5, 0.5**0.5], atol=1e-12)


@pytest.mark.parametrize("rotation", [*HALF_TURNS, np.eye(3)])
def test_quaternion_gradients_are_finite(rotation):
    gradient = jax.jacobian(matrix_to_quaternion)(jnp.asarray(rotation))
    assert np.isfinite(gradient).all()


def test_pose_encoding_round_trip():
    w2c, size = _poses(6)[:, :3], (42, 56)
    intrinsics = np.stack([_intrinsics(30.0 + i, 40.0 - i, 28, 21) for i in range(6)])
    pose_enc = encode_pose(w2c, intrinsics, size)
    np.testing.assert_allclose(pose_enc[0, 7:], [2 * np.arctan(21 / 40), 2 * np.arctan(28 / 30)])  # vertical first
    decoded_w2c, decoded_intrinsics = decode_pose(pose_enc, size)
    np.testing.assert_allclose(decoded_w2c, w2c, atol=1e-12)
    np.testing.assert_allclose(decoded_intrinsics, intrinsics, atol=1e-12)


@pytest.mark.parametrize("rows", [3, 4])
def test_inverse_of_a_rigid_motion(rows):
    pose = _poses(4)
    np.testing.assert_allclose(invert_se3(pose[:, :rows]) @ pose, np.tile(np.eye(4), (4, 1, 1)), atol=1e-12)


def test_rebasing_keeps_relative_motion_and_makes_the_first_camera_exactly_the_identity():
    c2w = _poses(5)
    rebased = rebase_to_first(c2w)
    np.testing.assert_array_equal(rebased[0], np.eye(4))
    np.testing.assert_allclose(
        np.linalg.inv(rebased[1]) @ rebased[4], np.linalg.inv(c2w[1]) @ c2w[4], atol=1e-12
    )  # fmt: skip


def test_rays_pass_through_pixel_centres():
    c2w, intrinsics = _poses(2), np.stack([_intrinsics(20.0, 25.0, 7.5, 4.0)] * 2)
    origins, directions = rays(intrinsics, c2w, (6, 9))
    assert origins.shape == directions.shape == (2, 6, 9, 3)
    np.testing.assert_allclose(np.linalg.norm(directions, axis=-1), 1, atol=1e-12)
    points = origins + 3.7 * directions
    w2c = np.linalg.inv(c2w)[:, None, None]
    in_camera = (w2c[..., :3, :3] @ points[..., None] + w2c[..., :3, 3:])[..., 0]
    pixels = in_camera @ intrinsics[0].T
    rows, columns = np.mgrid[:6, :9]
    np.testing.assert_allclose(pixels[..., 0] / pixels[..., 2], np.stack([columns + 0.5] * 2), atol=1e-9)
    np.testing.assert_allclose(pixels[..., 1] / pixels[..., 2], np.stack([rows + 0.5] * 2), atol=1e-9)


def test_pluecker_moment_is_the_same_all_along_a_ray():
    c2w, intrinsics = _poses(1), _intrinsics(20.0, 25.0, 7.5, 4.0)[None]
    origins, directions = rays(intrinsics, c2w, (3, 4))
    moment, direction = np.split(plucker_map(intrinsics, c2w, (3, 4)), 2, axis=-1)
    np.testing.assert_array_equal(direction, directions)
    np.testing.assert_allclose(moment, np.cross(origins + 2.5 * directions, directions), atol=1e-12)


def test_numpy_in_numpy_out_and_jax_in_jax_out():
    c2w, intrinsics = _poses(3).astype(np.float32), np.stack([_intrinsics(20.0, 20, 8, 8)] * 3).astype(np.float32)
    for function in (
        lambda c, k: rebase_to_first(c),
        lambda c, k: plucker_map(k, c, (4, 4)),
        lambda c, k: encode_pose(invert_se3(c)[:, :3], k, (16, 16)),
    ):
        on_host, on_device = function(c2w, intrinsics), function(jnp.asarray(c2w), jnp.asarray(intrinsics))
        assert isinstance(on_host, np.ndarray)
        assert isinstance(on_device, jax.Array)
        assert on_host.dtype == on_device.dtype == np.float32
        np.testing.assert_allclose(on_host, on_device, atol=1e-5)


def test_a_head_that_sees_nothing_gives_finite_cameras():
    pose = np.array([0, 0, 0, 0, 0, 0, 1, 0, 0], np.float32)
    with np.errstate(all="raise"):
        _, intrinsics = decode_pose(pose, (100, 200))
    assert np.isfinite(intrinsics).all() and intrinsics[0, 0] > 1e5


def _posed(rotation=None, translation=(0, 0, 0), last=(0, 0, 0, 1)) -> np.ndarray:
    turned = quaternion_to_matrix(np.array([0.1, 0.2, 0.3, 0.9])) if rotation is None else rotation
    return np.vstack([np.column_stack([turned, translation]), last])


@pytest.mark.parametrize(
    ("matrix", "fault"),
    [
        (_posed(translation=(1e6, -5e6, 0)), ""),  # earth-centred metres
        (_posed(translation=(0, 1e38, 0)), "is 1e+38 away from the origin; at most 1e+07 can be meant"),
        (_posed(translation=(1, 2, 3)).T, "is transposed: its last row is not 0 0 0 1"),
        (_posed(translation=(1, 2, 3), last=(0, 0, 0, 2)), "is no pose: its last row is not 0 0 0 1"),
        (_posed(np.diag([1.0, -1, 1])), "is mirrored (its determinant is -1)"),
        (_posed(2.5 * np.eye(3)), "is scaled by 2.5"),
        (_posed(np.diag([1.0, 1, 1.01])), "is no rotation with a translation"),
        (np.zeros((4, 4)), "is no rotation with a translation"),
        (np.full((4, 4), 1e300), "is no rotation with a translation"),
        (_posed(translation=(0, np.inf, 0)), "has numbers that are not finite"),
    ],
)
def test_faults_of_poses_are_named(matrix, fault):
    found = pose_fault(matrix)
    assert found.startswith(fault) and bool(found) == bool(fault)


def test_nearly_rotations():
    nearly = _posed(quaternion_to_matrix(np.array([0.1, 0.2, 0.3, 0.9])) * [1, 1, 1.003])
    assert pose_fault(nearly) and not pose_fault(nearly, 1e-2)
    assert not pose_fault(_posed(nearest_rotation(nearly[:3, :3])))


@pytest.mark.parametrize(
    ("entries", "size", "fault"),
    [
        ({}, (30, 40), ""),
        ({(0, 0): 1e30}, (30, 40), "has focal lengths of 1e+30 and 50 for 40 x 30 pixels; 0.01 to 1000 times"),
        ({(1, 1): 1e-20}, (30, 40), "has focal lengths"),
        ({(0, 0): -50}, (30, 40), "needs finite intrinsics with positive focal lengths"),
        ({(0, 2): np.nan}, (30, 40), "needs finite intrinsics"),
        ({(0, 1): 0.5}, (30, 40), "needs intrinsics [[fx, 0, cx], [0, fy, cy], [0, 0, 1]], without skew"),
        ({}, (30, 1e9), "needs an image size of positive numbers up to 100000, not 1e+09 x 30"),
        ({}, (0, 40), "needs an image size"),
        ({}, (np.nan, 40), "needs an image size"),
    ],
)
def test_faults_of_intrinsics_are_named(entries, size, fault):
    intrinsics = np.array([[50.0, 0, 20], [0, 50, 15], [0, 0, 1]])
    for place, value in entries.items():
        intrinsics[place] = value
    found = intrinsics_fault(intrinsics, size)
    assert found.startswith(fault) and bool(found) == bool(fault)
