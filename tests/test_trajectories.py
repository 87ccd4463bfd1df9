"""The built-in camera paths do what they are said to do."""

import numpy as np
import pytest

from gen3r_jax.errors import UserError
from gen3r_jax.geometry.trajectories import PRESETS, preset_path


@pytest.mark.parametrize("name", PRESETS)
def test_paths_are_rigid_and_start_at_the_identity(name):
    c2w = preset_path(name, 9, 2.0)
    assert c2w.shape == (9, 4, 4)
    np.testing.assert_array_equal(c2w[0], np.eye(4))
    rotation = c2w[:, :3, :3]
    np.testing.assert_allclose(rotation @ rotation.swapaxes(1, 2), np.tile(np.eye(3), (9, 1, 1)), atol=1e-6)
    np.testing.assert_array_equal(preset_path(name, 1), np.eye(4)[None])


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
    end = preset_path(name, 5, 2.0)[-1]
    if position is not None:
        np.testing.assert_array_equal(end[:3, 3], np.eye(3)[axis] * position)
    else:
        np.testing.assert_array_equal(end[:3, 3], 0)
        assert end[axis, 2] == pytest.approx(viewing * np.sin(np.deg2rad(15)), abs=1e-6)


def test_progress_is_linear():
    np.testing.assert_allclose(preset_path("zoom_in", 5, 2.0)[:, 2, 3], [0, 0.5, 1, 1.5, 2])


def test_unknown_paths_and_empty_clips_are_refused():
    with pytest.raises(UserError, match="zoom_in"):
        preset_path("orbit", 5)
    with pytest.raises(UserError, match="at least 1"):
        preset_path("free", 0)
