"""The built-in camera paths do what they are said to do."""

import numpy as np
import pytest

from gen3r_jax.errors import UserError
from gen3r_jax.geometry.trajectories import PRESETS, camera_path


@pytest.mark.parametrize("name", PRESETS)
def test_paths_are_rigid_and_start_at_the_identity(name):
    c2w = camera_path(name, 9, 2.0)
    assert c2w.shape == (9, 4, 4)
    np.testing.assert_allclose(c2w[0], np.eye(4), atol=1e-15)
    rotation = c2w[:, :3, :3]
    np.testing.assert_allclose(rotation @ rotation.swapaxes(1, 2), np.tile(np.eye(3), (9, 1, 1)), atol=1e-12)
    np.testing.assert_allclose(np.linalg.det(rotation), 1)
    np.testing.assert_allclose(camera_path(name, 1), np.eye(4)[None], atol=1e-15)
    moves = np.abs(c2w - np.eye(4)).max() > 0.01
    assert moves == (name not in ("free", "static"))


@pytest.mark.parametrize(("name", "side"), [("orbit_left", -1), ("orbit_right", 1)])
def test_orbits_keep_their_distance_and_look_at_the_middle(name, side):
    c2w = camera_path(name, 7, 2.0, angle=90)
    middle = np.array([0, 0, 2.0])
    np.testing.assert_allclose(np.linalg.norm(middle - c2w[:, :3, 3], axis=1), 2.0)
    np.testing.assert_allclose(c2w[:, :3, 2], (middle - c2w[:, :3, 3]) / 2.0, atol=1e-12)
    np.testing.assert_allclose(c2w[-1, :3, 3], [2.0 * side, 0, 2.0], atol=1e-12)


def test_the_spiral_looks_at_the_middle():
    c2w = camera_path("spiral", 20, 2.0)
    towards = np.array([0, 0, 2.0]) - c2w[:, :3, 3]
    np.testing.assert_allclose(c2w[:, :3, 2], towards / np.linalg.norm(towards, axis=1, keepdims=True), atol=1e-12)
    assert np.linalg.norm(c2w[:, :2, 3], axis=1).max() == pytest.approx(0.2, rel=0.02)


@pytest.mark.parametrize(
    ("name", "direction"),
    [
        ("truck_left", [-1, 0, 0]),
        ("truck_right", [1, 0, 0]),
        ("pedestal_up", [0, -1, 0]),
        ("pedestal_down", [0, 1, 0]),
        ("dolly_in", [0, 0, 1]),
        ("dolly_out", [0, 0, -1]),
    ],
)
def test_moves_go_so_many_scene_scales(name, direction):
    c2w = camera_path(name, 4, 2.0, distance=0.5)
    np.testing.assert_allclose(c2w[-1, :3, 3], direction)
    np.testing.assert_array_equal(c2w[:, :3, :3], np.tile(np.eye(3), (4, 1, 1)))


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"angle": 10.0, "name": "zoom_in"}, "zoom_in has no angle"),
        ({"distance": 1.0, "name": "orbit_left"}, "orbit_left has no distance"),
        ({"angle": -10.0, "name": "arc_left"}, "camera_angle must be above 0 and at most 360, not -10.0"),
        ({"distance": float("nan"), "name": "dolly_in"}, "camera_distance must be a finite number, not nan"),
        ({"angle": 1e9, "name": "orbit_left"}, "camera_angle must be above 0 and at most 360, not 1000000000.0"),
        ({"name": "orbit_lft"}, "did you mean orbit_left"),
        ({"scene_scale": 0.0, "name": "spiral"}, "scene scale 0.0 is not"),
    ],
)
def test_settings_that_make_no_sense(settings, message):
    with pytest.raises(UserError, match=message):
        camera_path(num_frames=3, **settings)


@pytest.mark.parametrize(
    ("name", "axis", "position", "viewing"),
    [
        ("zoom_in", 2, 2.0, None),
        ("zoom_out", 2, -2.0, None),
        ("arc_right", 0, None, 1),  # the view turns towards +x, right
        ("arc_left", 0, None, -1),
        ("translate_up", 1, None, -1),  # and towards -y, up
        ("translate_down", 1, None, 1),
    ],
)
def test_paths_end_where_their_names_say(name, axis, position, viewing):
    end = camera_path(name, 5, 2.0)[-1]
    if position is not None:
        np.testing.assert_allclose(end[:3, 3], np.eye(3)[axis] * position)
    else:
        np.testing.assert_array_equal(end[:3, 3], 0)
        assert end[axis, 2] == pytest.approx(viewing * np.sin(np.deg2rad(15)), abs=1e-6)


def test_progress_is_linear():
    np.testing.assert_allclose(camera_path("zoom_in", 5, 2.0)[:, 2, 3], [0, 0.5, 1, 1.5, 2])


def test_unknown_paths_and_empty_clips_are_refused():
    with pytest.raises(UserError, match="zoom_in"):
        camera_path("orbit", 5)
    with pytest.raises(UserError, match="at least 1"):
        camera_path("free", 0)
