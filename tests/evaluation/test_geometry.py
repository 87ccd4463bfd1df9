"""Distances between clouds, in cases where they are known."""

import numpy as np
import pytest

from gen3r_jax.evaluation.geometry import aligned_chamfer, cloud_distance, thin


@pytest.fixture
def target():
    return np.random.default_rng(0).uniform(-1, 1, (3, 8, 10, 3))


def moved(points: np.ndarray) -> np.ndarray:
    """The same shape elsewhere: a quarter turn about z, three times as large, shifted."""
    return 3 * points @ np.array([[0.0, 1, 0], [-1, 0, 0], [0, 0, 1]]) + [1, 2, 3]


def test_distances_of_two_small_clouds():
    distance = cloud_distance(np.array([[0.0, 0, 1]]), np.array([[0.0, 0, 0], [0, 0, 4]]))
    assert distance.accuracy == 1  # to the origin
    assert distance.completeness == 2  # 1 and 3
    assert distance.chamfer == 1.5
    assert distance.relative_percent == pytest.approx(100 * 1.5 / 4)
    assert cloud_distance(np.array([[0.0, 0, 1]]), np.array([[0.0, 0, 0], [0, 0, 4]]), squared=True).completeness == 5


@pytest.mark.parametrize("voxel_size", [None, 0.005])
def test_a_moved_copy_is_at_distance_zero(target, voxel_size):
    assert aligned_chamfer(moved(target), target, voxel_size=voxel_size).chamfer == pytest.approx(0, abs=1e-12)


def test_without_scale_a_scaled_copy_is_not(target):
    assert aligned_chamfer(moved(target), target, scale="none").chamfer > 0.1


def test_masked_pixels_count_neither_for_the_fit_nor_for_the_distance(target):
    predicted, mask = moved(target), np.ones(target.shape[:3], bool)
    predicted[1], mask[1] = 100.0, False
    assert aligned_chamfer(predicted, target, mask).chamfer == pytest.approx(0, abs=1e-12)
    predicted[1] = np.nan
    assert aligned_chamfer(predicted, target).chamfer == pytest.approx(0, abs=1e-12)


def test_some_frames_are_compared_with_the_whole_truth(target):
    distance = aligned_chamfer(moved(target[[0, 2]]), target, frames=[0, 2], voxel_size=None)
    assert distance.accuracy == pytest.approx(0, abs=1e-12)
    assert distance.completeness > 0.01  # the points of frame 1 are far from all others


def test_voxels_and_sampling_thin_both_clouds(target):
    coarse = aligned_chamfer(moved(target), target, voxel_size=1.0)
    assert coarse.chamfer == pytest.approx(0, abs=1e-12)
    few = aligned_chamfer(moved(target), target + 0.01, num_points=5)
    assert few.chamfer == pytest.approx(0, abs=1e-12)


def test_a_true_cloud_thinned_before_gives_the_same(target):
    predicted = moved(target) + 0.01 * np.random.default_rng(1).standard_normal(target.shape)
    cloud = thin(target.reshape(-1, 3), voxel_size=0.1, num_points=50)
    assert len(cloud) == 50
    here = aligned_chamfer(predicted, target, voxel_size=0.1, num_points=50)
    assert aligned_chamfer(predicted, target, target_cloud=cloud, voxel_size=0.1, num_points=50) == here


def test_padding_with_the_origin_is_an_option_only(target):
    true = target + 5
    predicted = true + 0.1 * np.random.default_rng(1).standard_normal(true.shape)
    plain = aligned_chamfer(predicted, true, num_points=1000)
    padded = aligned_chamfer(predicted, true, num_points=1000, pad_with_origin=True)
    # 760 of 1000 points become zeros, which find each other, and the box reaches to the origin.
    assert padded.accuracy == pytest.approx(plain.accuracy * 240 / 1000, rel=1e-6)
    assert padded.relative_percent < plain.relative_percent * 240 / 1000


def test_clouds_that_cannot_be_compared_are_refused(target):
    with pytest.raises(ValueError, match="pair up"):
        aligned_chamfer(target[:2], target)
    with pytest.raises(ValueError, match="without points"):
        aligned_chamfer(target, target, np.zeros(target.shape[:3], bool))
