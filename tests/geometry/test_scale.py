"""The unit of length of a scene that is right but for it, seen by cameras and depths that are known."""

import numpy as np
import pytest

from gen3r_jax.data.clips import default_intrinsics
from gen3r_jax.errors import UserError
from gen3r_jax.geometry.cameras import invert_se3
from gen3r_jax.geometry.scale import scale_from_cameras, scale_from_depth

SIZE = (40, 60)
K = np.repeat(default_intrinsics(SIZE, 60.0)[None], 5, axis=0)


@pytest.fixture
def rng():
    return np.random.default_rng(0)


def wall(step: float, tilt: float = 0.3):
    """World-to-camera matrices of a camera that goes sideways before a tilted wall, and the depth that it sees."""
    c2w = np.tile(np.eye(4), (5, 1, 1))
    c2w[:, 0, 3] = step * np.arange(5)
    x = (np.arange(SIZE[1]) + 0.5 - K[0, 0, 2]) / K[0, 0, 0]
    depth = (4 + tilt * c2w[:, 0, 3])[:, None, None] / (1 - tilt * x) * np.ones((5, *SIZE))
    return invert_se3(c2w), depth


def test_depth_tells_the_scale_whatever_a_third_of_it_says(rng):
    predicted = rng.uniform(1, 5, (2, 20, 30))
    known = 2.5 * predicted
    known[rng.uniform(size=known.shape) < 0.33] *= 4
    known[0, :3] = 0
    known[0, 3] = np.nan
    assert scale_from_depth(predicted, known, np.ones(known.shape)) == pytest.approx(2.5, rel=1e-6)
    with pytest.raises(UserError, match="no pixel above 0"):
        scale_from_depth(predicted, 0 * predicted, np.ones(known.shape))


def test_the_less_confident_half_does_not_count(rng):
    predicted = rng.uniform(1, 5, (2, 20, 30))
    known, confidence = 2.5 * predicted, np.full(predicted.shape, 5.0)
    known[:, ::2], confidence[:, ::2] = 9 * predicted[:, ::2], 1.0
    assert scale_from_depth(predicted, known, confidence) == pytest.approx(2.5, rel=1e-9)


def test_cameras_tell_the_scale(rng):
    w2c, depth = wall(0.3)
    small = w2c.copy()
    small[:, :3, 3] /= 2.5
    sure = np.ones(depth.shape)
    assert scale_from_cameras(depth / 2.5, sure, (small, K), (w2c, K)) == pytest.approx(2.5, rel=1e-6)
    noisy = depth / 2.5 * rng.normal(1, 0.05, depth.shape)
    assert scale_from_cameras(noisy, sure, (small, K), (w2c, K)) == pytest.approx(2.5, rel=0.02)


def test_cameras_tell_it_where_predicted_ones_are_turned_and_shifted_together(rng):
    """A camera that turns a little sees nearly the same as one that moves: the known cameras say which it was."""
    w2c, depth = wall(0.3)
    turned = w2c.copy()
    for index, angle in enumerate(np.linspace(0, 0.02, 5)):
        turn = np.array([[np.cos(angle), 0, np.sin(angle)], [0, 1, 0], [-np.sin(angle), 0, np.cos(angle)]])
        shifted = w2c[index].copy()
        shifted[0, 3] -= 4.3 * np.tan(angle)
        turned[index, :3] = turn @ shifted[:3]
    baseline = np.linalg.norm(invert_se3(turned)[-1, :3, 3] - invert_se3(turned)[0, :3, 3]) / 1.2
    assert abs(baseline - 1) > 0.05  # what the cameras' places alone would be wrong by
    found = scale_from_cameras(depth, np.ones(depth.shape), (turned, K), (w2c, K))
    assert found == pytest.approx(1, abs=0.02)


def test_cameras_that_stand_still_tell_nothing():
    _, depth = wall(0.3)
    still = np.tile(np.eye(4), (5, 1, 1))
    with pytest.raises(UserError, match="too little to tell lengths by"):
        scale_from_cameras(depth, np.ones(depth.shape), (still, K), (still, K))
