"""Similarities and chains of them against the motions that the points were made with."""

import numpy as np
import pytest

from gen3r_jax.geometry.alignment import (
    Similarity,
    chain,
    close_loop,
    robust_similarity,
    umeyama,
    window_starts,
)


@pytest.fixture
def rng():
    return np.random.default_rng(0)


def rotation(rng) -> np.ndarray:
    q, _ = np.linalg.qr(rng.standard_normal((3, 3)))
    return q * np.linalg.det(q)


@pytest.mark.parametrize("scale", ["variance", "least_squares"])
def test_umeyama_recovers_a_similarity(rng, scale):
    source, turn, shift = rng.standard_normal((50, 3)), rotation(rng), rng.standard_normal(3)
    fit = umeyama(source, 2.5 * source @ turn.T + shift, scale)
    assert fit.scale == pytest.approx(2.5)
    np.testing.assert_allclose(fit.rotation, turn, atol=1e-12)
    np.testing.assert_allclose(fit.translation, shift, atol=1e-12)


def test_umeyama_scales_on_noisy_points(rng):
    source = rng.standard_normal((200, 3))
    target = 2 * source + 0.5 * rng.standard_normal((200, 3))

    def residual(scale):
        return np.mean((umeyama(source, target, scale).apply(source) - target) ** 2)

    assert residual("least_squares") < residual("variance") < residual("none")
    assert umeyama(source, target, "variance").scale == pytest.approx(
        np.sqrt(target.var(0).sum() / source.var(0).sum())
    )
    assert umeyama(source, target, "none").scale == 1.0
    with pytest.raises(ValueError, match="classic"):
        umeyama(source, target, "classic")


def test_umeyama_never_mirrors(rng):
    source = rng.standard_normal((50, 3))
    fit = umeyama(source, source * [1, 1, -1])
    assert np.linalg.det(fit.rotation) == pytest.approx(1.0)


def test_umeyama_of_two_points_is_the_identity(rng):
    points = rng.standard_normal((2, 3))
    np.testing.assert_array_equal(umeyama(points, points + 1).apply(points), points)


def similarity(rng, scale: float = 2.5) -> Similarity:
    return Similarity(scale, rotation(rng), rng.standard_normal(3))


def assert_same(found: Similarity, expected: Similarity, atol: float) -> None:
    np.testing.assert_allclose(found.matrix(), expected.matrix(), atol=atol)


def test_weights_count_pairs_more_often(rng):
    source, target = rng.standard_normal((2, 20, 3))
    weights = rng.integers(0, 4, 20)
    repeated = umeyama(np.repeat(source, weights, axis=0), np.repeat(target, weights, axis=0), "least_squares")
    assert_same(umeyama(source, target, "least_squares", weights.astype(float)), repeated, atol=1e-12)


def test_similarities_compose_invert_and_move_cameras(rng):
    first, second = similarity(rng), similarity(rng, 0.4)
    points = rng.standard_normal((5, 3))
    np.testing.assert_allclose((second @ first).apply(points), second.apply(first.apply(points)), atol=1e-12)
    assert_same(first @ first.inverse(), Similarity.identity(), atol=1e-12)
    assert_same(Similarity.from_matrix(first.matrix()), first, atol=1e-12)
    w2c = np.stack([np.block([[rotation(rng), rng.standard_normal((3, 1))], [0, 0, 0, 1]]) for _ in range(2)])
    before = points @ w2c[:, :3, :3].swapaxes(1, 2) + w2c[:, None, :3, 3]
    moved = first.move_cameras(w2c)
    after = first.apply(points) @ moved[:, :3, :3].swapaxes(1, 2) + moved[:, None, :3, 3]
    np.testing.assert_allclose(after, 2.5 * before, atol=1e-12)


def test_outliers_do_not_bend_a_robust_similarity(rng):
    truth, source = similarity(rng), rng.standard_normal((400, 3))
    target = truth.apply(source)
    target[:160] += rng.uniform(2, 10, (160, 3))  # 40 % of the pairs, all to one side
    assert_same(robust_similarity(source, target, np.ones(400)), truth, atol=1e-9)
    assert np.abs(umeyama(source, target).matrix() - truth.matrix()).max() > 0.5


def test_noise_in_both_clouds_does_not_shrink_and_weights_are_heeded(rng):
    truth, source = similarity(rng), rng.standard_normal((4000, 3))
    target = truth.apply(source + 0.2 * rng.standard_normal(source.shape))
    noisy = source + 0.2 * rng.standard_normal(source.shape)
    assert robust_similarity(noisy, target, np.ones(4000)).scale == pytest.approx(2.5, rel=0.01)
    target[:3000] = rng.standard_normal((3000, 3))  # most pairs are wrong, and known to be
    weights = np.where(np.arange(4000) < 3000, 0.0, 1.0)
    alone = robust_similarity(source[3000:], target[3000:], np.ones(1000))
    assert_same(robust_similarity(source, target, weights), alone, atol=1e-12)


def test_too_few_pairs_give_the_identity(rng):
    source, target = rng.standard_normal((2, 9, 3))
    assert_same(robust_similarity(source, target, np.r_[1, 1, np.zeros(7)]), Similarity.identity(), atol=0)


@pytest.mark.parametrize(
    ("count", "window", "overlap", "starts"),
    [
        (9, 9, 4, [0]),
        (5, 9, 4, [0]),
        (10, 9, 4, [0, 1]),
        (14, 9, 4, [0, 5]),
        (15, 9, 4, [0, 5, 6]),
        (300, 49, 16, [0, 33, 66, 99, 132, 165, 198, 231, 251]),
    ],
)
def test_windows_cover_all_frames_in_one_shape(count, window, overlap, starts):
    assert window_starts(count, window, overlap) == starts


def ring(rng, count: int) -> list[Similarity]:
    """Joins of windows with worlds of other scales, the last of which leads back to the first."""
    worlds = [similarity(rng, scale) for scale in rng.uniform(0.5, 2, count)]
    return [a.inverse() @ b for a, b in zip(worlds, worlds[1:] + worlds[:1], strict=True)]


def test_a_chain_maps_every_window_to_the_first(rng):
    *joins, last = ring(rng, 6)
    assert_same(chain(joins)[0], Similarity.identity(), atol=0)
    assert_same(chain(joins)[-1] @ last, Similarity.identity(), atol=1e-12)
    for closed, join in zip(close_loop(joins, last.inverse()), joins, strict=True):
        assert_same(closed, join, atol=1e-9)  # a loop that is closed stays as it is


def test_a_loop_takes_all_of_an_error_back_where_it_may_lie(rng):
    *joins, last = ring(rng, 6)
    bent = list(joins)
    turn = np.array([[0.995, -0.0998749, 0], [0.0998749, 0.995, 0], [0, 0, 1]])
    bent[2] = bent[2] @ Similarity(1.2, turn, 0.1 * rng.standard_normal(3))
    closed = close_loop(bent, last.inverse(), doubts=np.eye(6)[2])
    for found, expected in zip(closed, joins, strict=True):
        assert_same(found, expected, atol=1e-9)


def test_a_loop_takes_drift_out(rng):
    """Windows along a circle, each of which is found 3 % too small; the loop is seen as it is."""
    angle = 2 * np.pi / 12
    turn = np.array([[np.cos(angle), 0, np.sin(angle)], [0, 1, 0], [-np.sin(angle), 0, np.cos(angle)]])
    step = Similarity(1.0, turn, np.array([1.0, 0, 0]))
    drifting = [step._replace(scale=0.97)] * 11
    doubts = np.r_[np.ones(11), 1e-9]
    closed = close_loop(drifting, step.inverse(), doubts)

    def places(joins):
        return np.stack([world.translation for world in chain(joins)])

    truth = places([step] * 11)
    before, after = (np.abs(places(joins) - truth).max() for joins in (drifting, closed))
    assert before > 0.5 and after < 0.002  # measured: 0.57 and 0.0014
    assert_same(chain(closed)[-1], step.inverse(), atol=1e-9)
    assert all(abs(world.scale - 1) < 3e-4 for world in chain(closed))  # the last alone was 0.72 before
