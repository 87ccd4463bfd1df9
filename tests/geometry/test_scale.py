"""The unit of length of a scene that is right but for it, seen by cameras and depths that are known."""

import numpy as np
import pytest

from gen3r_jax.data.clips import default_intrinsics
from gen3r_jax.data.procedural import render_clip
from gen3r_jax.errors import UserError
from gen3r_jax.geometry.cameras import invert_se3
from gen3r_jax.geometry.scale import scale_from_cameras, scale_from_depth

SIZE = (40, 60)
K = np.repeat(default_intrinsics(SIZE, 60.0)[None], 5, axis=0)


@pytest.fixture
def rng():
    return np.random.default_rng(0)


def wall(step: float, tilt: float = 0.3):
    """A camera that goes sideways before a tilted, painted wall: its w2c, what it sees, and how far that is."""
    c2w = np.tile(np.eye(4), (5, 1, 1))
    c2w[:, 0, 3] = step * np.arange(5)
    x, y = (((np.arange(side) + 0.5 - K[0, axis, 2]) / K[0, axis, axis]) for side, axis in ((SIZE[1], 0), (SIZE[0], 1)))
    depth = (4 + tilt * c2w[:, 0, 3])[:, None, None] / (1 - tilt * x) * np.ones((5, *SIZE))
    along = c2w[:, 0, 3, None, None] + depth * x
    paint = [np.sin(4 * along + phase) * np.cos(3 * depth * y[:, None]) for phase in range(3)]
    return invert_se3(c2w), (127 + 120 * np.stack(paint, axis=-1)).astype(np.uint8), depth


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


def test_cameras_tell_the_scale_of_noisy_depth_with_outliers(rng):
    w2c, rgb, depth = wall(0.3)
    assert scale_from_cameras(rgb, depth / 2.5, np.ones(depth.shape), w2c, K) == pytest.approx(2.5, rel=2e-3)
    noisy = depth / 2.5 * rng.normal(1, 0.05, depth.shape)
    noisy[rng.uniform(size=depth.shape) < 0.2] *= 3
    assert scale_from_cameras(rgb, noisy, np.ones(depth.shape), w2c, K) == pytest.approx(2.5, rel=0.01)
    confidence = np.where(rng.uniform(size=depth.shape) < 0.4, 1.0, 2.0)
    noisy[confidence == 1] = 9
    assert scale_from_cameras(rgb, noisy, confidence, w2c, K) == pytest.approx(2.5, rel=0.01)


def test_a_fast_camera_tells_the_scale_by_neighbours():
    """A drive of 1.4 m a frame along a road without texture: frames further apart speak against the right scale."""
    clip = render_clip(90_024, 9, (56, 56), "full")
    depth = np.where(clip.depth > 0, clip.depth, 100)
    scale = scale_from_cameras(clip.frames, depth / 2.5, 1 / depth, invert_se3(clip.c2w), clip.intrinsics)
    assert scale == pytest.approx(2.5, rel=0.01)


def test_cameras_that_tell_nothing():
    w2c, rgb, depth = wall(0.3)
    sure = np.ones(depth.shape)
    with pytest.raises(UserError, match="cameras stand still"):
        scale_from_cameras(rgb, depth, sure, np.tile(np.eye(4), (5, 1, 1)), K)
    assert scale_from_cameras(np.repeat(rgb[:1], 5, axis=0), depth, sure, w2c, K) is None
