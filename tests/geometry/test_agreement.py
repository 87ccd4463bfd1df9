"""Two readings of one clip's geometry: one scale, how far they agree, and their mean."""

import numpy as np
import pytest

from gen3r_jax.geometry.agreement import common_scale, compare, mix

DEPTH = np.array([[[1.0, 2.0], [4.0, 8.0]], [[1.0, 2.0], [3.0, 5.0]]], np.float32)


def cameras(step: float) -> np.ndarray:
    """Two cameras, the second `step` to the right of the first, or to the left."""
    w2c = np.tile(np.eye(4, dtype=np.float32), (2, 1, 1))
    w2c[1, 0, 3] = -step
    return w2c


def test_the_scale_is_the_median_ratio_and_does_not_see_what_is_no_depth():
    other = DEPTH.copy()
    other[0, 0] = [0.0, np.nan]
    other[1, 1, 1] = 500.0  # a stray pixel
    assert common_scale(other, 3 * DEPTH) == pytest.approx(3.0)
    assert common_scale(0 * DEPTH, DEPTH) == 1.0


def test_equal_readings_agree_and_others_as_far_as_their_depths_are_near():
    same = compare(DEPTH, cameras(1.0), DEPTH, cameras(1.0))
    assert (same.depth, same.poses) == (1.0, 1.0)
    other = DEPTH.copy()
    other[0] *= 3
    other[1, 0] = [np.nan, 0.0]
    found = compare(DEPTH, cameras(1.0), other, cameras(1.0))
    np.testing.assert_allclose(found.map, [[[1 / 3, 1 / 3], [1 / 3, 1 / 3]], [[0, 0], [1, 1]]], rtol=1e-6)
    assert found.depth == pytest.approx((4 / 3 + 2) / 8)


def test_cameras_agree_by_their_relative_poses():
    turned = cameras(1.0)
    turned[1, :3, :3] = [[0.0, 0, 1], [0, 1, 0], [-1, 0, 0]]  # by 90 degrees
    assert compare(DEPTH, cameras(1.0), DEPTH, turned).poses == 0.0
    assert compare(DEPTH, cameras(1.0), DEPTH, cameras(7.0)).poses == 1.0  # another scale
    assert compare(DEPTH[:1], cameras(1.0)[:1], DEPTH[:1], cameras(1.0)[:1]).poses == 1.0


def test_the_more_confident_depth_counts_more():
    depth, confidence = mix(DEPTH, np.full_like(DEPTH, 3.0), 2 * DEPTH, np.full_like(DEPTH, 1.0))
    np.testing.assert_allclose(depth, 1.25 * DEPTH, rtol=1e-6)
    np.testing.assert_allclose(confidence, 2.5, rtol=1e-6)
